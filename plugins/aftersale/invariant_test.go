package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
)

// However many apply at once: never more pieces than were delivered, each
// serial once, and never more money than was captured.
func TestParallelApplicationsNeverExceedWhatWasDeliveredOrPaid(t *testing.T) {
	t.Parallel()
	h := open(t)
	// Everything is approved and paid at once, so that the money is at stake too.
	_, err := h.seller.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{Rules: []*aftersalev1.ApprovalRule{{KeepGoods: true}}}})
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 6).Draw(t, "delivered")
		var units []string
		for i := range n {
			units = append(units, fmt.Sprint(id.New("unt"), i))
		}
		serial := rapid.Bool().Draw(t, "serialised")
		line := bought{sku: "sku_tea", quantity: n, price: rapid.Int64Range(1, 5000).Draw(t, "price")}
		if serial {
			line.units = units
		}
		beside := rapid.Int64Range(-line.price*n/2, 500).Draw(t, "beside")
		order := h.delivered(t, 1, beside, line)
		var reqs []*aftersalev1.ApplyRequest
		for range rapid.IntRange(2, 6).Draw(t, "applications") {
			q := rapid.Int64Range(1, n).Draw(t, "pieces")
			var named []string
			if serial {
				named = rapid.Permutation(units).Draw(t, "units")[:q]
			}
			reqs = append(reqs, application(order, returning, aftersalev1.Reason_REASON_DAMAGED, "sku_tea", q, named...))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var taken int64
		seen := map[string]bool{}
		for _, r := range reqs {
			wg.Go(func() {
				res, err := h.ann.Apply(context.Background(), r)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					if fault.Reason(host.Relay(err)) != "CLAIMED_BEFORE" {
						t.Errorf("%v", err)
					}
					return
				}
				for _, l := range res.GetCase().GetLines() {
					taken += l.GetAccepted()
					for _, u := range l.GetUnitIds() {
						if seen[u] {
							t.Errorf("%s stands in two cases", u)
						}
						seen[u] = true
					}
				}
			})
		}
		wg.Wait()
		_, err := h.RunSagas(context.Background())
		require.NoError(t, err)
		require.LessOrEqual(t, taken, n)
		require.Positive(t, taken)
		captured := line.price*n + beside
		got := h.refunded(order)
		require.LessOrEqual(t, got, captured)
		whole := (&purchaseLine{Quantity: n, Price: line.price * n, Charge: beside}).worth(taken)
		require.Equal(t, whole, got, "the pieces' shares sum to the share of all of them")
		if taken == n {
			require.Equal(t, captured, got)
		}
	})
}

// trade is one order on its way through anything that may happen to it.
type trade struct {
	h     *house
	order string
	lines []bought
	open  map[string]*aftersalev1.Case
}

func (w *trade) aCase(t *rapid.T) *aftersalev1.Case {
	if len(w.open) == 0 {
		t.Skip("no case")
	}
	c := w.open[rapid.SampledFrom(slices.Sorted(maps.Keys(w.open))).Draw(t, "case")]
	return w.h.get(t, c.GetCaseId()).GetCase()
}

// Any history of an order: after every act the books hold.
func TestTheBooksHoldAfterAnyHistory(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.staff.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{DamagedDeduction: 3333, OpenedDeduction: 777}})
	require.NoError(t, err)
	h.stock["sku_tea"], h.stock["sku_pot"] = 3, 100
	rapid.Check(t, func(t *rapid.T) {
		w := &trade{h: h, open: map[string]*aftersalev1.Case{}, lines: []bought{
			{sku: "sku_tea", quantity: rapid.Int64Range(1, 5).Draw(t, "teas"), price: rapid.Int64Range(0, 3000).Draw(t, "tea")},
			{sku: "sku_pot", quantity: rapid.Int64Range(1, 3).Draw(t, "pots"), price: rapid.Int64Range(1, 9999).Draw(t, "pot")},
		}}
		w.order = h.delivered(t, 1, rapid.Int64Range(0, 999).Draw(t, "beside"), w.lines...)
		t.Repeat(map[string]func(*rapid.T){
			"":         w.check,
			"apply":    w.apply,
			"decide":   w.decide,
			"offer":    w.offer,
			"withdraw": w.withdraw,
			"come":     w.come,
			"look":     w.look,
			"conclude": w.conclude,
			"run":      w.run,
		})
	})
}

func (w *trade) run(t *rapid.T) {
	_, err := w.h.RunSagas(context.Background())
	require.NoError(t, err)
}

func (w *trade) apply(t *rapid.T) {
	l := rapid.SampledFrom(w.lines).Draw(t, "line")
	kind := rapid.SampledFrom([]aftersalev1.Kind{returning, aftersalev1.Kind_KIND_EXCHANGE, withdrawal, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT}).Draw(t, "kind")
	reason := rapid.SampledFrom([]aftersalev1.Reason{aftersalev1.Reason_REASON_CHANGED_MIND, aftersalev1.Reason_REASON_DEFECTIVE}).Draw(t, "reason")
	res, err := w.h.ann.Apply(context.Background(), application(w.order, kind, reason, l.sku, rapid.Int64Range(1, l.quantity).Draw(t, "pieces")))
	if err != nil {
		refusedAs(t, "CLAIMED_BEFORE", err)
		return
	}
	w.open[res.GetCase().GetCaseId()] = res.GetCase()
}

func (w *trade) decide(t *rapid.T) {
	c := w.aCase(t)
	req := &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: rapid.Bool().Draw(t, "approve"), KeepGoods: rapid.Bool().Draw(t, "keep"), ReasonCode: "SAID"}
	if rapid.Bool().Draw(t, "in part") {
		req.Lines = []*aftersalev1.AcceptedLine{{Sku: c.GetLines()[0].GetSku(), Quantity: rapid.Int64Range(1, c.GetLines()[0].GetAsked()).Draw(t, "accepted")}}
	}
	_, err := w.h.staff.Decide(context.Background(), req)
	allowed(t, err, "CASE_NOT_OPEN")
}

func (w *trade) offer(t *rapid.T) {
	c := w.aCase(t)
	amount := euros(rapid.Int64Range(1, 900).Draw(t, "amount"))
	_, err := w.h.seller.Offer(context.Background(), &aftersalev1.OfferRequest{CaseId: c.GetCaseId(), Amount: amount})
	allowed(t, err, "CASE_NOT_OPEN", "ESCALATED", "")
	_, err = w.h.ann.AnswerOffer(context.Background(), &aftersalev1.AnswerOfferRequest{CaseId: c.GetCaseId(), Accept: rapid.Bool().Draw(t, "accept"), Amount: amount})
	allowed(t, err, "CASE_NOT_OPEN", "OFFER_CHANGED")
}

func (w *trade) withdraw(t *rapid.T) {
	_, err := w.h.ann.WithdrawApplication(context.Background(), &aftersalev1.WithdrawApplicationRequest{CaseId: w.aCase(t).GetCaseId()})
	allowed(t, err, "CASE_NOT_OPEN")
}

func (w *trade) come(t *rapid.T) {
	c := w.aCase(t)
	l := c.GetLines()[0]
	if c.GetReturnId() == "" || l.GetReceived() == l.GetAccepted() {
		t.Skip("nothing to come")
	}
	w.h.label(t, c)
	w.h.comeBack(t, c, l.GetSku(), rapid.Int64Range(1, l.GetAccepted()-l.GetReceived()).Draw(t, "came"))
}

func (w *trade) look(t *rapid.T) {
	c := w.aCase(t)
	l := c.GetLines()[0]
	found, missing, err := readFindings(context.Background(), w.h.DB, c.GetCaseId())
	require.NoError(t, err)
	n := l.GetReceived() - missing
	for _, f := range found {
		n -= f.quantity
	}
	if n <= 0 {
		t.Skip("nothing to look at")
	}
	n = rapid.Int64Range(1, n).Draw(t, "looked at")
	if rapid.Bool().Draw(t, "inspected") {
		inspection := id.New("cas")
		w.h.grade(t, c, l.GetSku(), n, asNew, inspection)
		w.h.verdict(t, c, inspection, l.GetSku(), n, rapid.SampledFrom([]inspectionv1.Verdict{
			genuine, inspectionv1.Verdict_VERDICT_WRONG_ITEM, inspectionv1.Verdict_VERDICT_GENUINE_BUT_DAMAGED, inspectionv1.Verdict_VERDICT_INCONCLUSIVE,
		}).Draw(t, "verdict"))
		return
	}
	w.h.grade(t, c, l.GetSku(), n, rapid.SampledFrom([]warehousev1.Grade{warehousev1.Grade_GRADE_DAMAGED, warehousev1.Grade_GRADE_DEFECTIVE}).Draw(t, "grade"), "")
}

func (w *trade) conclude(t *rapid.T) {
	_, err := w.h.staff.ConcludeReception(context.Background(), &aftersalev1.ConcludeReceptionRequest{CaseId: w.aCase(t).GetCaseId()})
	allowed(t, err, "CASE_NOT_OPEN")
}

// allowed are refusals that a random act may meet.
func allowed(t *rapid.T, err error, reasons ...string) {
	if err != nil {
		require.Contains(t, reasons, fault.Reason(host.Relay(err)), "%v", err)
	}
}

func (w *trade) check(t *rapid.T) {
	ctx := context.Background()
	p, err := readPurchase(ctx, w.h.DB, w.order, false)
	require.NoError(t, err)
	claimed, refunded := map[int16]int64{}, int64(0)
	var cases []*caseFile
	require.NoError(t, w.h.DB.NewSelect().Model(&cases).Where("c.order_id = ?", w.order).Scan(ctx))
	require.NoError(t, readLines(ctx, w.h.DB, cases))
	for _, c := range cases {
		if c.RefundState == refundPaid {
			refunded += c.Refund
		}
		for _, l := range c.lines {
			claimed[l.N] += l.Claimed
			require.LessOrEqual(t, l.Received, l.Accepted)
			if c.State == stateRejected || c.State == stateWithdrawn || c.State == stateExpired {
				require.Zero(t, l.Claimed)
			}
		}
	}
	var sum int64
	for _, l := range p.lines {
		require.Equal(t, claimed[l.N], l.Claimed)
		require.LessOrEqual(t, l.Claimed, l.Delivered)
		require.LessOrEqual(t, l.Refunded, l.Price+l.Charge)
		sum += l.Refunded
	}
	require.Equal(t, sum, p.Refunded)
	require.LessOrEqual(t, p.Refunded, p.Total)
	require.Equal(t, refunded, w.h.refunded(w.order), "the case's word is the payment's")
	require.LessOrEqual(t, refunded, p.Refunded)
}

// The database refuses it, whoever runs SQL as the module.
func TestTheDatabaseHoldsTheBooksAgainstTheModuleItself(t *testing.T) {
	t.Parallel()
	h := open(t)
	watch := bought{sku: "sku_watch", quantity: 1, price: 900, units: []string{"unt_1"}}
	order := h.delivered(t, 1, 0, watch)
	c := h.apply(t, application(order, returning, 0, "sku_watch", 1, "unt_1"))
	for statement, want := range map[string]string{
		`UPDATE purchase_line SET claimed = 0`:                "permission denied",
		`UPDATE purchase_line SET refunded = 0`:               "permission denied",
		`UPDATE purchase SET refunded = 0`:                    "permission denied",
		`UPDATE purchase SET payment_id = ''`:                 "permission denied",
		`DELETE FROM case_line`:                               "permission denied",
		`DELETE FROM timeline`:                                "permission denied",
		`DELETE FROM refund_line`:                             "permission denied",
		`UPDATE case_line SET asked = 2, claimed = 2`:         "claimed_within_handed_over",
		`UPDATE case_line SET was_delivered = false`:          "a case keeps its lines",
		`INSERT INTO claimed_unit SELECT * FROM claimed_unit`: "claimed_unit_pkey",
		`INSERT INTO claimed_unit VALUES ('` + order + `', 'unt_2', '` + c.GetCaseId() + `', 1)`:        "claimed_unit_order_id_unit_fkey",
		`INSERT INTO refund_line VALUES ('rfd_1', '` + c.GetCaseId() + `', '` + order + `', 1, 1, 901)`: "refunds_within",
	} {
		_, err := h.DB.ExecContext(t.Context(), statement)
		require.ErrorContains(t, err, want, statement)
	}
}

// A lost answer of any neighbour at any step changes nothing: every step is
// repeated, and what it moves moves once.
func TestSagasSurviveLostAnswersAtEveryStep(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, kind := range []aftersalev1.Kind{returning, aftersalev1.Kind_KIND_EXCHANGE} {
		for _, step := range []string{"reserve", "authorise", "book", "refund", "fulfil"} {
			h.stock["sku_tea"] = 10
			order := h.delivered(t, 1, 0, tea(2))
			h.stumble[step] = 2
			c := h.approve(t, h.apply(t, application(order, kind, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 2)).GetCaseId())
			h.comeBack(t, c, "sku_tea", 2)
			h.grade(t, c, "sku_tea", 2, warehousev1.Grade_GRADE_DEFECTIVE, "")
			require.Equal(t, done, h.run(t, c), "%s %s", kind, step)
			h.state(t, c.GetCaseId(), settled)
			if kind == returning {
				require.EqualValues(t, 2500, h.refunded(order), step)
				require.EqualValues(t, 10, h.stock["sku_tea"])
			} else {
				require.Zero(t, h.refunded(order))
				require.EqualValues(t, 8, h.stock["sku_tea"])
				require.EqualValues(t, 2, h.requests[c.GetRequestId()].GetLines()[0].GetQuantity())
			}
			h.stumble[step] = 0
		}
	}
	sum, err := h.staff.SumCases(t.Context(), &aftersalev1.SumCasesRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 5, sum.GetCases()["return/settled"])
	require.EqualValues(t, 5, sum.GetCases()["exchange/settled"])
	require.EqualValues(t, 5*2500, sum.GetRefundedMinor()["EUR"])
	require.Empty(t, sum.GetPlannedMinor())
	require.EqualValues(t, 10, sum.GetReplaced()["sku_tea"])
}

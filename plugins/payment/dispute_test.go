package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

var two = call.Principal{Kind: call.Merchant, Account: "acc_2", Merchant: "mrc_two", Permissions: []string{"*"}}

func (p *till) desk(k call.Principal) paymentv1connect.DisputeServiceClient {
	return paymentv1connect.NewDisputeServiceClient(p.Client(plugintest.As(k, "GB")))
}

// hears delivers what a company told of disputes.
func (p *till) hears(t require.TestingT, words ...*providerv1.DisputeUpdated) {
	all := make([]proto.Message, len(words))
	for i, w := range words {
		all[i] = w
	}
	require.NoError(t, p.Deliver(context.Background(), "disputes", all...))
}

// disputed opens a dispute at the bank, which tells of it.
func (p *till) disputed(t testing.TB, pay *paymentv1.Payment, minor int64, fee *typev1.Money) *paymentv1.Dispute {
	t.Helper()
	p.hears(t, p.bank.opens(pay.GetProviderReference(), gbp(minor), fee))
	return p.disputes(t, staff, &paymentv1.ListDisputesRequest{})[0]
}

func (p *till) disputes(t require.TestingT, who call.Principal, req *paymentv1.ListDisputesRequest) (out []*paymentv1.Dispute) {
	for {
		res, err := p.desk(who).ListDisputes(context.Background(), req)
		require.NoError(t, err)
		out = append(out, res.GetDisputes()...)
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			return out
		}
	}
}

func (p *till) dispute(t testing.TB, d *paymentv1.Dispute) *paymentv1.Dispute {
	t.Helper()
	res, err := p.desk(staff).GetDispute(t.Context(), &paymentv1.GetDisputeRequest{DisputeId: d.GetDisputeId()})
	require.NoError(t, err)
	return res.GetDispute()
}

// shared is a payment of 1000 that is captured: 600 of mrc_one, 400 of mrc_two.
func (p *till) shared(t require.TestingT) *paymentv1.Payment {
	pay := p.hold(t, 1000)
	_, err := p.plain.CapturePayment(context.Background(), captureOf(pay, 1000, all(600), &paymentv1.MerchantShare{MerchantId: "mrc_two", MinorUnits: 400}))
	require.NoError(t, err)
	return pay
}

// due lets the time come at which disputes are looked at.
func (p *till) due(t require.TestingT) {
	_, err := p.Admin.Exec(context.Background(), `UPDATE p_payment.dispute SET next_try = now() WHERE next_try IS NOT NULL`)
	require.NoError(t, err)
	require.NoError(t, p.own.tidy(context.Background()))
}

func TestADisputeTakesBackFromMerchantsInProportionAndGivesBackWhenWon(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.shared(t)
	word := p.bank.opens(pay.GetProviderReference(), gbp(501), nil)
	p.hears(t, word, word)
	p.hears(t, word)
	require.EqualValues(t, 299, p.account(t, "merchant:mrc_one:pending"), "300.6 of 501")
	require.EqualValues(t, 200, p.account(t, "merchant:mrc_two:pending"), "200.4 of 501")
	require.EqualValues(t, 501, p.get(t, pay.GetPaymentId()).GetPayment().GetDisputed().GetMinorUnits())
	_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 500))
	refused(t, connect.CodeFailedPrecondition, "REFUND_EXCEEDS_CAPTURE", err)
	p.balanced(t)

	won := p.bank.decides(word.GetReference(), providerv1.Dispute_STATUS_WON)
	p.hears(t, won, word, won)
	require.EqualValues(t, 600, p.account(t, "merchant:mrc_one:pending"))
	require.EqualValues(t, 400, p.account(t, "merchant:mrc_two:pending"))
	require.Zero(t, p.get(t, pay.GetPaymentId()).GetPayment().GetDisputed().GetMinorUnits())
	require.Equal(t, p.bank.total(), p.balanced(t))
	require.Equal(t, []string{"PaymentAuthorized", "PaymentCaptured", "DisputeOpened", "DisputeClosed"}, p.kinds(t))
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	require.Zero(t, p.account(t, unallocated))
	p.balanced(t)
}

func TestAWonDisputeLeavesBalancesAndCommissionAsTheyWere(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 1000, 0, "", "")
	pay := p.earns(t, 1000)
	require.EqualValues(t, 900, p.has(t).GetAvailableMinor())
	p.disputed(t, pay, 400, nil)
	require.EqualValues(t, 540, p.has(t).GetAvailableMinor())
	require.EqualValues(t, 60, p.account(t, platformFees))
	p.hears(t, p.bank.decides("dp-1", providerv1.Dispute_STATUS_WON))
	require.EqualValues(t, 900, p.has(t).GetAvailableMinor())
	require.EqualValues(t, 100, p.account(t, platformFees))
	p.balanced(t)
}

// What the marketplace bore of refunds comes back to it when nothing of the
// payment is left, whichever was last.
func TestNobodyKeepsAnythingOfWhatIsGoneWhole(t *testing.T) {
	t.Parallel()
	p := open(t)
	for _, refundFirst := range []bool{true, false} {
		pay := p.shared(t)
		refund := func() {
			_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 500))
			require.NoError(t, err)
		}
		if refundFirst {
			refund()
		}
		p.disputed(t, pay, 500, nil)
		require.Equal(t, !refundFirst, len(p.accounts(t, pay)) > 0)
		if !refundFirst {
			refund()
		}
		require.Empty(t, p.accounts(t, pay))
		p.balanced(t)
	}
}

func TestADebtOfADisputeIsPaidByWhatIsReleasedNext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config    map[string]any
		debt, fee int64
	}{
		"merchants bear the fee":       {nil, -1500, 0},
		"the marketplace bears it all": {map[string]any{"dispute_fee": "marketplace"}, 0, -1500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t, plugintest.Config(c.config))
			p.keeps(t, 1000, 0, "", "")
			pay := p.earns(t, 1000)
			_, err := p.settlement(one).RequestPayout(t.Context(), payoutOf(900))
			require.NoError(t, err)
			d := p.disputed(t, pay, 1000, gbp(1500))
			require.EqualValues(t, -900, p.has(t).GetAvailableMinor(), "the commission came back")
			require.Zero(t, p.account(t, platformFees))
			require.EqualValues(t, -1500, p.account(t, disputeCosts))
			p.hears(t, p.bank.decides("dp-1", providerv1.Dispute_STATUS_LOST))
			require.Equal(t, -900+c.debt, p.has(t).GetAvailableMinor())
			require.Equal(t, c.fee, p.account(t, disputeCosts))
			d = p.dispute(t, d)
			require.Equal(t, lost, d.GetState())
			require.Equal(t, -c.debt, d.GetShares()[0].GetFee().GetMinorUnits())
			p.earns(t, 2000)
			require.Equal(t, 900+c.debt, p.has(t).GetAvailableMinor())
			statement, err := p.settlement(one).GetStatement(t.Context(), &paymentv1.GetStatementRequest{
				CurrencyCode: "GBP", From: timestamppb.New(time.Unix(0, 0)), Until: timestamppb.New(time.Now().Add(time.Hour)),
			})
			require.NoError(t, err)
			require.Equal(t, 900+c.debt, statement.GetClosingMinor())
			p.balanced(t)
		})
	}
}

// What was pending when it was taken, and would have been released meanwhile,
// is released when it comes back.
func TestWhatIsWonBackIsReleasedIfItIsDue(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 1000, 7, "", "")
	order, pay := p.sold(t, 1000)
	p.sends(t, order, "ful_1")
	d := p.disputed(t, pay, 400, gbp(1500))
	p.brings(t, order, "ful_1")
	p.passes(t, order)
	require.EqualValues(t, 600-67, p.has(t).GetAvailableMinor())
	word := p.bank.decides("dp-1", providerv1.Dispute_STATUS_WON)
	word.Dispute.Fee = nil
	p.hears(t, word)
	require.Equal(t, won, p.dispute(t, d).GetState())
	require.EqualValues(t, 1000-107, p.has(t).GetAvailableMinor(), "the fixed part is kept once")
	require.Zero(t, p.has(t).GetPendingMinor())
	require.Zero(t, p.account(t, disputeCosts), "the company gave its fee back")
	p.balanced(t)
}

// What comes first does not matter: a dispute before its payment is known
// here, its end before its beginning.
func TestDisputesAreToldInAnyOrder(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := authorization(1000)
	p.hears(t, p.bank.opens("ch-"+req.GetPaymentId(), gbp(100), nil)) // as the bank will call it
	require.Empty(t, p.disputes(t, staff, &paymentv1.ListDisputesRequest{}), "of no payment that is known")
	res, err := p.plain.AuthorizePayment(t.Context(), req)
	require.NoError(t, err)
	p.due(t)
	d := p.disputes(t, staff, &paymentv1.ListDisputesRequest{})[0]
	require.EqualValues(t, 100, d.GetExcess().GetMinorUnits(), "nothing was captured")
	_, err = p.plain.CapturePayment(t.Context(), captureOf(res.GetPayment(), 1000, all(1000)))
	require.NoError(t, err)
	p.due(t)
	require.Nil(t, p.dispute(t, d).GetExcess())
	require.EqualValues(t, 900, p.has(t).GetPendingMinor())

	opens := p.bank.opens(res.GetPayment().GetProviderReference(), gbp(200), nil)
	lostIt := p.bank.decides("dp-2", providerv1.Dispute_STATUS_LOST)
	p.hears(t, lostIt, opens)
	p.hears(t, opens)
	require.Equal(t, []string{"PaymentAuthorized", "DisputeOpened", "PaymentCaptured", "DisputeOpened", "DisputeClosed"}, p.kinds(t))
	p.hears(t, p.bank.decides("dp-2", providerv1.Dispute_STATUS_WON))
	require.Equal(t, lost, p.disputes(t, staff, &paymentv1.ListDisputesRequest{})[0].GetState(), "it closes once")
	require.EqualValues(t, 700, p.has(t).GetPendingMinor())
	p.balanced(t)
}

// A refund that is on its way may fail because of the dispute: then what the
// bank took is posted after all.
func TestADisputeWhileARefundIsOnItsWay(t *testing.T) {
	t.Parallel()
	p := open(t)
	_, pay := p.sold(t, 1000)
	p.bank.will(pends)
	req := refundOf(pay, 1000)
	_, err := p.plain.RefundPayment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	d := p.disputed(t, pay, 1000, nil)
	require.EqualValues(t, 1000, d.GetExcess().GetMinorUnits())
	require.EqualValues(t, 1000, p.has(t).GetPendingMinor())
	end := p.bank.end(req.GetOperationId(), gbp(1000))
	end.Outcome.Status, end.Outcome.Code = providerv1.Outcome_STATUS_DECLINED, "charge_disputed"
	require.NoError(t, p.Deliver(t.Context(), "providers", end))
	p.due(t)
	require.Nil(t, p.dispute(t, d).GetExcess())
	require.Zero(t, p.account(t, pendingOf("mrc_one")))
	p.balanced(t)
}

func TestEvidenceIsHandedOverAndNotKept(t *testing.T) {
	t.Parallel()
	p := open(t)
	d := p.disputed(t, p.shared(t), 500, nil)
	evidence := func(submit bool, text string) *paymentv1.SubmitEvidenceRequest {
		return &paymentv1.SubmitEvidenceRequest{
			DisputeId: d.GetDisputeId(), EvidenceId: id.New("evd"), Submit: submit,
			Evidence: []*paymentv1.Evidence{{Kind: paymentv1.EvidenceKind_EVIDENCE_KIND_STATEMENT, Text: text}},
		}
	}
	_, err := p.desk(one).SubmitEvidence(t.Context(), evidence(true, "Ann Miller signed for it"))
	refused(t, connect.CodeFailedPrecondition, "EVIDENCE_INCOMPLETE", err)
	first := evidence(false, "Ann Miller signed for it")
	p.bank.will(actsThenFails)
	_, err = p.desk(one).SubmitEvidence(t.Context(), first)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	for range 2 {
		res, err := p.desk(one).SubmitEvidence(t.Context(), first)
		require.NoError(t, err)
		require.Equal(t, needsResponse, res.GetDispute().GetState())
	}
	require.Equal(t, 1, p.bank.calls[first.GetEvidenceId()])
	require.Equal(t, "Ann Miller signed for it", p.bank.heard[first.GetEvidenceId()].GetEvidence()[0].GetText())
	other := proto.CloneOf(first)
	other.Evidence[0].Text = "else"
	_, err = p.desk(one).SubmitEvidence(t.Context(), other)
	refused(t, connect.CodeAlreadyExists, "EVIDENCE_DIFFERS", err)
	res, err := p.desk(two).SubmitEvidence(t.Context(), evidence(true, "it was genuine"))
	require.NoError(t, err)
	require.Equal(t, underReview, res.GetDispute().GetState())
	require.Len(t, res.GetDispute().GetEvidence(), 1, "its own")
	require.Len(t, p.dispute(t, d).GetEvidence(), 2)
	_, err = p.desk(staff).SubmitEvidence(t.Context(), evidence(true, "late"))
	refused(t, connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", err)
	var kept int
	require.NoError(t, p.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_payment.dispute_evidence e WHERE e::text LIKE '%Miller%'`).Scan(&kept))
	require.Zero(t, kept)
}

func TestADisputeIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	p := open(t)
	_, pay := p.sold(t, 1000)
	d := p.disputed(t, pay, 500, nil)
	accept := &paymentv1.AcceptDisputeRequest{DisputeId: d.GetDisputeId()}
	p.bank.will(failsBefore)
	_, err := p.desk(one).AcceptDispute(t.Context(), accept)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	require.Equal(t, needsResponse, p.dispute(t, d).GetState())
	p.due(t)
	require.Equal(t, accepted, p.dispute(t, d).GetState(), "nobody has to repeat it")
	for range 2 {
		res, err := p.desk(one).AcceptDispute(t.Context(), accept)
		require.NoError(t, err)
		require.Equal(t, accepted, res.GetDispute().GetState())
	}
	shared := p.disputed(t, p.shared(t), 500, nil)
	_, err = p.desk(one).AcceptDispute(t.Context(), &paymentv1.AcceptDisputeRequest{DisputeId: shared.GetDisputeId()})
	refused(t, connect.CodeFailedPrecondition, "DISPUTE_SHARED", err)
	p.bank.will(refuses)
	_, err = p.desk(staff).AcceptDispute(t.Context(), &paymentv1.AcceptDisputeRequest{DisputeId: shared.GetDisputeId()})
	refused(t, connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", err)
	require.Equal(t, needsResponse, p.dispute(t, shared).GetState())
	p.balanced(t)
}

func TestAMerchantSeesItsOwnShareAlone(t *testing.T) {
	t.Parallel()
	p := open(t)
	_, pay := p.sold(t, 1000)
	mine, ours := p.disputed(t, pay, 100, nil), p.disputed(t, p.shared(t), 500, gbp(1500))
	require.Len(t, p.disputes(t, staff, &paymentv1.ListDisputesRequest{PageSize: 1}), 2)
	require.Len(t, p.disputes(t, one, &paymentv1.ListDisputesRequest{PageSize: 1}), 2)
	got := p.disputes(t, two, &paymentv1.ListDisputesRequest{})
	require.Len(t, got, 1)
	require.Equal(t, ours.GetDisputeId(), got[0].GetDisputeId())
	require.Len(t, got[0].GetShares(), 1)
	require.EqualValues(t, 200, got[0].GetShares()[0].GetAmount().GetMinorUnits())
	require.Nil(t, got[0].GetAmount())
	require.Nil(t, got[0].GetFee())
	for name, do := range map[string]func() error{
		"get": func() error {
			_, err := p.desk(two).GetDispute(t.Context(), &paymentv1.GetDisputeRequest{DisputeId: mine.GetDisputeId()})
			return err
		},
		"accept": func() error {
			_, err := p.desk(two).AcceptDispute(t.Context(), &paymentv1.AcceptDisputeRequest{DisputeId: mine.GetDisputeId()})
			return err
		},
		"submit": func() error {
			_, err := p.desk(two).SubmitEvidence(t.Context(), &paymentv1.SubmitEvidenceRequest{DisputeId: mine.GetDisputeId(), EvidenceId: id.New("evd"), Submit: true})
			return err
		},
	} {
		err := do()
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), "%s: %v", name, err)
	}
}

func TestNonsenseAboutDisputesIsPassedOver(t *testing.T) {
	t.Parallel()
	p := open(t)
	_, pay := p.sold(t, 1000)
	d := p.disputed(t, pay, 100, nil)
	for name, spoil := range map[string]func(w *providerv1.DisputeUpdated){
		"no number":       func(w *providerv1.DisputeUpdated) { w.Dispute.Reference = "" },
		"no payment":      func(w *providerv1.DisputeUpdated) { w.Dispute.PaymentReference = "" },
		"another payment": func(w *providerv1.DisputeUpdated) { w.Dispute.PaymentReference = "ch-other" },
		"no status":       func(w *providerv1.DisputeUpdated) { w.Dispute.Status = 0 },
		"another amount":  func(w *providerv1.DisputeUpdated) { w.Dispute.Amount = gbp(99) },
		"less than none":  func(w *providerv1.DisputeUpdated) { w.Dispute.Amount = gbp(-1) },
		"no currency":     func(w *providerv1.DisputeUpdated) { w.Dispute.Amount.CurrencyCode = "x" },
		"a fee below":     func(w *providerv1.DisputeUpdated) { w.Dispute.Fee = gbp(-1) },
		"nothing at all":  func(w *providerv1.DisputeUpdated) { w.Dispute = nil },
	} {
		w := p.bank.tells(p.bank.disputes["dp-1"])
		w.Dispute.Status = providerv1.Dispute_STATUS_LOST
		spoil(w)
		p.hears(t, w)
		require.Equal(t, needsResponse, p.dispute(t, d).GetState(), name)
	}
	foreign := p.bank.tells(p.bank.disputes["dp-1"])
	foreign.Instance, foreign.Dispute.Status = "bank-de", providerv1.Dispute_STATUS_LOST
	p.hears(t, foreign)
	require.Equal(t, needsResponse, p.dispute(t, d).GetState(), "an instance speaks for its own payments")
	require.EqualValues(t, 900, p.has(t).GetPendingMinor())
	p.balanced(t)
}

// M3: whatever refunds and disputes come at once, told in whatever order,
// what is refunded and what is lost stay within what was captured; what
// merchants, marketplace and fees have is what is left; and when every dispute
// was won and everything is refunded, nobody has anything of it, no authority
// either.
func TestRefundsAndDisputesAtOnceStayWithinWhatWasCaptured(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 700, 3, "", "")
	p.taxed(t, 1900, "")
	p.taxed(t, 550, "mrc_two")
	p.taxed(t, 0, "mrc_three")
	rapid.Check(t, func(t *rapid.T) {
		order := id.New("ord")
		req := authorization(1000)
		req.Reference = order
		res, err := p.plain.AuthorizePayment(context.Background(), req)
		require.NoError(t, err)
		pay := res.GetPayment()
		_, err = p.plain.CapturePayment(context.Background(), captureOf(pay, 1000, all(650), &paymentv1.MerchantShare{MerchantId: "mrc_two", MinorUnits: 250},
			&paymentv1.MerchantShare{MerchantId: "mrc_three", MinorUnits: 100}))
		require.NoError(t, err)
		p.sends(t, order, "ful_"+order)
		if rapid.Bool().Draw(t, "released") {
			p.brings(t, order, "ful_"+order)
			p.passes(t, order)
		}
		allWon := rapid.Bool().Draw(t, "all won")
		var words []*providerv1.DisputeUpdated
		amounts := rapid.SliceOfN(rapid.Int64Range(1, 700), 1, 3).Draw(t, "disputes")
		for _, amount := range amounts {
			w := p.bank.opens(pay.GetProviderReference(), gbp(amount), nil)
			words = append(words, w)
			end := providerv1.Dispute_STATUS_WON
			if !allWon {
				end = rapid.SampledFrom([]providerv1.Dispute_Status{0, providerv1.Dispute_STATUS_UNDER_REVIEW, end, providerv1.Dispute_STATUS_LOST}).Draw(t, "end")
			}
			if end != 0 {
				words = append(words, p.bank.decides(w.GetReference(), end))
			}
		}
		words = append(words, rapid.SliceOfN(rapid.SampledFrom(words), 0, 3).Draw(t, "twice")...)
		words = rapid.Permutation(words).Draw(t, "order")
		refunds := rapid.SliceOfN(rapid.Int64Range(1, 500), 0, 4).Draw(t, "refunds")
		var wg sync.WaitGroup
		for _, amount := range refunds {
			wg.Go(func() { _, _ = p.plain.RefundPayment(context.Background(), refundOf(pay, amount)) })
		}
		for _, w := range words {
			p.hears(t, w)
		}
		wg.Wait()
		p.due(t)
		p.balanced(t)
		got, err := p.plain.GetPayment(context.Background(), &paymentv1.GetPaymentRequest{PaymentId: pay.GetPaymentId()})
		require.NoError(t, err)
		refunded, disputed := got.GetPayment().GetRefunded().GetMinorUnits(), got.GetPayment().GetDisputed().GetMinorUnits()
		require.LessOrEqual(t, refunded+disputed, int64(1000))
		var posted, excess int64
		list, err := p.desk(staff).ListDisputes(context.Background(), &paymentv1.ListDisputesRequest{PageSize: int32(len(amounts))})
		require.NoError(t, err)
		for _, d := range list.GetDisputes() {
			require.Equal(t, pay.GetPaymentId(), d.GetPaymentId())
			if d.GetState() != won {
				posted += d.GetAmount().GetMinorUnits() - d.GetExcess().GetMinorUnits()
				excess += d.GetExcess().GetMinorUnits()
			}
		}
		require.Equal(t, disputed, posted)
		if excess > 0 {
			require.EqualValues(t, 1000, refunded+disputed, "more was left to be taken")
		}
		require.Equal(t, 1000-refunded-disputed, p.left(t, pay))
		if allWon {
			require.Zero(t, disputed)
			_, err := p.plain.RefundPayment(context.Background(), refundOf(pay, 0))
			if refunded < 1000 {
				require.NoError(t, err)
			}
			require.Equal(t, map[string]int64{}, p.accounts(t, pay))
			p.balanced(t)
		}
	})
}

// accounts are what is left of a payment, by account, but for the company's.
func (p *till) accounts(t require.TestingT, pay *paymentv1.Payment) map[string]int64 {
	out := map[string]int64{}
	rows, err := p.Admin.Query(context.Background(), `SELECT account, sum(amount)::bigint FROM (SELECT credit AS account, amount FROM p_payment.transfer WHERE payment = $1
		UNION ALL SELECT debit, -amount FROM p_payment.transfer WHERE payment = $1) x WHERE account NOT LIKE 'provider:%' AND account NOT LIKE 'consumer:%'
		GROUP BY 1 HAVING sum(amount) <> 0`, pay.GetPaymentId())
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var account string
		var n int64
		require.NoError(t, rows.Scan(&account, &n))
		out[account] = n
	}
	require.NoError(t, rows.Err())
	return out
}

// left sums them.
func (p *till) left(t require.TestingT, pay *paymentv1.Payment) (sum int64) {
	for _, n := range p.accounts(t, pay) {
		sum += n
	}
	return sum
}

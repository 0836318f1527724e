package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

const (
	done    = kernelv1.SagaState_SAGA_STATE_DONE
	waiting = kernelv1.SagaState_SAGA_STATE_WAITING
	settled = aftersalev1.Case_STATE_SETTLED
)

func TestAnExchangeShipsWhatIsReservedOfSellableStock(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock["sku_tea"] = 5
	order := h.delivered(t, 1, 0, tea(2))
	c := h.approve(t, h.apply(t, application(order, aftersalev1.Kind_KIND_EXCHANGE, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 2)).GetCaseId())
	require.EqualValues(t, 3, h.stock["sku_tea"], "the replacement is held before the goods travel")
	require.Equal(t, waiting, h.run(t, c))
	h.comeBack(t, c, "sku_tea", 2)
	h.grade(t, c, "sku_tea", 1, warehousev1.Grade_GRADE_DEFECTIVE, "")
	h.grade(t, c, "sku_tea", 1, warehousev1.Grade_GRADE_WRONG_ITEM, "cas_1")
	h.verdict(t, c, "cas_1", "sku_tea", 1, inspectionv1.Verdict_VERDICT_WRONG_ITEM)
	require.Equal(t, done, h.run(t, c))
	require.Zero(t, h.refunded(order))
	sent := h.requests[c.GetRequestId()]
	require.Equal(t, order, sent.GetReference())
	require.EqualValues(t, 1, sent.GetLines()[0].GetQuantity(), "only for the piece that was what was sold")
	h.state(t, c.GetCaseId(), settled)

	f, s := h.send(t, order, c.GetRequestId(), tea(1))
	_, err := h.RunSagas(t.Context())
	require.NoError(t, err)
	require.True(t, h.released[sent.GetReservationId()], "what the replacement did not need goes back to the shelf")
	h.arrive(t, order, f, s, time.Now())
	ways := h.get(t, c.GetCaseId()).GetShipments()
	require.Len(t, ways, 2)
	require.Contains(t, []string{ways[0].GetWay(), ways[1].GetWay()}, "replacement")
	check, err := h.ann.CheckApplication(t.Context(), &aftersalev1.CheckApplicationRequest{OrderId: order})
	require.NoError(t, err)
	require.EqualValues(t, 1, check.GetLines()[0].GetFree(), "the replacement may be returned, what came back may not")
}

func TestWithoutStockAnExchangeIsRefunded(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(2))
	c := h.apply(t, application(order, aftersalev1.Kind_KIND_EXCHANGE, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 1))
	h.approve(t, c.GetCaseId())
	h.run(t, c)
	c = h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_APPROVED)
	require.Equal(t, aftersalev1.Remedy_REMEDY_REFUND, c.GetRemedy())
	require.Equal(t, "NO_REPLACEMENT", c.GetNote())
	h.comeBack(t, c, "sku_tea", 1)
	h.grade(t, c, "sku_tea", 1, warehousev1.Grade_GRADE_DEFECTIVE, "")
	require.Equal(t, done, h.run(t, c))
	require.EqualValues(t, 1250, h.refunded(order))
	require.Empty(t, h.requests)
}

func TestARepairTravelsToTheMerchantAndBack(t *testing.T) {
	t.Parallel()
	for _, repaired := range []bool{true, false} {
		h := open(t)
		order := h.delivered(t, 200, 0, tea(1))
		c := h.approve(t, h.apply(t, application(order, aftersalev1.Kind_KIND_REPAIR, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 1)).GetCaseId())
		require.Equal(t, "merchant/mrc_one", h.booked[c.GetReturnShipmentId()].GetTo().GetPlaceId())
		require.Empty(t, h.returns, "the warehouse has nothing to do with it")
		h.label(t, c)
		_, err := h.seller.FinishRepair(t.Context(), &aftersalev1.FinishRepairRequest{CaseId: c.GetCaseId(), Repaired: true, ReasonCode: "NEW_SPRING"})
		refusedAs(t, "CASE_NOT_OPEN", err)
		h.moved(t, order, c.GetReturnShipmentId(), logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, logisticsv1.Status_STATUS_DELIVERED, time.Now())
		require.Equal(t, waiting, h.run(t, c))
		h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_RECEIVED)
		for range 2 {
			_, err = h.seller.FinishRepair(t.Context(), &aftersalev1.FinishRepairRequest{CaseId: c.GetCaseId(), Repaired: repaired, ReasonCode: "NEW_SPRING"})
			require.NoError(t, err)
		}
		require.Equal(t, done, h.run(t, c))
		c = h.state(t, c.GetCaseId(), settled)
		if !repaired {
			require.EqualValues(t, 1250, h.refunded(order))
			require.Empty(t, c.GetBackShipmentId())
			continue
		}
		require.Zero(t, h.refunded(order))
		back := h.booked[c.GetBackShipmentId()]
		require.Equal(t, "merchant/mrc_one", back.GetFrom().GetPlaceId())
		require.NotEmpty(t, back.GetTo().GetAddressRef())
		h.apply(t, application(order, aftersalev1.Kind_KIND_REPAIR, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 1))
	}
}

func TestWhatACarrierLostIsRefundedOrSentAgain(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock["sku_tea"] = 1
	order := h.place(t, h.ann.principal.Account, "DE", time.Now(), 0, tea(2))
	_, s := h.send(t, order, id.New("frq"), tea(2))
	missing := func(remedy aftersalev1.Remedy) *aftersalev1.ApplyRequest {
		req := application(order, aftersalev1.Kind_KIND_MISSING, aftersalev1.Reason_REASON_NOT_ARRIVED, "sku_tea", 1)
		req.Remedy = remedy
		return req
	}
	_, err := h.ann.Apply(t.Context(), missing(0))
	refusedAs(t, "NOT_MISSING_YET", err)
	_, err = h.ann.Apply(t.Context(), application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_tea", 1))
	refusedAs(t, "NOT_DELIVERED", err)

	h.moved(t, order, s, logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, logisticsv1.Status_STATUS_LOST, time.Now())
	c := h.approve(t, h.apply(t, missing(aftersalev1.Remedy_REMEDY_REFUND)).GetCaseId())
	require.Equal(t, done, h.run(t, c))
	require.EqualValues(t, 1250, h.refunded(order))
	require.Empty(t, h.booked, "nothing comes back")
	c = h.approve(t, h.apply(t, missing(aftersalev1.Remedy_REMEDY_REPLACEMENT)).GetCaseId())
	require.Equal(t, done, h.run(t, c))
	require.EqualValues(t, 1, h.requests[c.GetRequestId()].GetLines()[0].GetQuantity())
	require.EqualValues(t, 1250, h.refunded(order))
	_, err = h.ann.Apply(t.Context(), missing(0))
	refusedAs(t, "NOT_DELIVERED", err)

	// The carrier finds it after all: what was refunded is not refunded again.
	h.arrive(t, order, fulfilmentOf(t, h, s), s, time.Now())
	_, err = h.ann.Apply(t.Context(), application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_tea", 1))
	refusedAs(t, "CLAIMED_BEFORE", err)
}

func fulfilmentOf(t *testing.T, h *house, shipment string) (f string) {
	t.Helper()
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT id FROM p_aftersale.fulfilment WHERE shipment_id = $1`, shipment).Scan(&f))
	return f
}

func TestGoodsThatNeverCameExpireAndMayBeAppliedForAgain(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	c := h.approve(t, h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_tea", 1)).GetCaseId())
	h.label(t, c)
	// The wait is over: the kernel undoes the saga's steps backwards.
	var saga string
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT saga::text FROM p_aftersale.case_file WHERE id = $1`, c.GetCaseId()).Scan(&saga))
	steps := aftersalev1connect.NewAftersaleStepServiceClient(h.Client(call.Info{
		Principal: call.Principal{Kind: call.Plugin, Plugin: "aftersale"}, Market: "DE", Step: &call.Step{Saga: saga, N: 1, Undo: true, Epoch: 1, Last: true},
	}))
	_, err := steps.ReopenCase(t.Context(), &aftersalev1.ReopenCaseRequest{CaseId: c.GetCaseId()})
	require.NoError(t, err)
	c = h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_EXPIRED)
	require.Equal(t, "NOTHING_SENT", c.GetNote())
	h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_tea", 1))

	outside := aftersalev1connect.NewAftersaleStepServiceClient(h.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "other"}, Market: "DE"}))
	_, err = outside.SettleCase(t.Context(), &aftersalev1.SettleCaseRequest{CaseId: c.GetCaseId()})
	refusedAs(t, "NOT_A_STEP", err)
}

func TestALabelThatCannotBeHadIsTheMarketplacesToLookAt(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	h.refuse["book"] = "NO_CARRIER"
	c := h.apply(t, application(order, aftersalev1.Kind_KIND_WITHDRAWAL, 0, "sku_tea", 1))
	require.Equal(t, aftersalev1.Case_STATE_APPROVED, c.GetState(), "a withdrawal is approved by being declared")
	require.True(t, h.gone[c.GetReturnId()], "the authorisation is taken back")
	c = h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_REQUESTED)
	require.Equal(t, "LABEL_REFUSED", c.GetNote())
	require.True(t, c.GetEscalated())

	delete(h.refuse, "book")
	res, err := h.staff.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, ReasonCode: "WITHIN_PERIOD", CarrierInstance: "lorry"})
	require.NoError(t, err)
	again := res.GetCase()
	require.NotEqual(t, c.GetReturnId(), again.GetReturnId(), "another attempt has other ids")
	require.Equal(t, "lorry", h.booked[again.GetReturnShipmentId()].GetRule().GetInstance())
	h.comeBack(t, again, "sku_tea", 1)
	h.grade(t, again, "sku_tea", 1, asNew, "cas_2")
	h.verdict(t, again, "cas_2", "sku_tea", 1, genuine)
	require.Equal(t, done, h.run(t, again))
	require.EqualValues(t, 1250, h.refunded(order))
}

func TestARefundThatThePaymentRefusesIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	h.refuse["refund"] = "REFUND_EXCEEDS_CAPTURE"
	c := h.apply(t, application(order, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, aftersalev1.Reason_REASON_DAMAGED, "sku_tea", 1))
	decide := &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, KeepGoods: true, ReasonCode: "GOODWILL"}
	_, err := h.seller.Decide(t.Context(), decide)
	require.NoError(t, err)
	require.Equal(t, done, h.run(t, c))
	c = h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_ASSESSED)
	require.Equal(t, "REFUND_REFUSED", c.GetNote())
	_, err = h.ann.Apply(t.Context(), application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_tea", 1))
	refusedAs(t, "CLAIMED_BEFORE", err)
	_, err = h.seller.Decide(t.Context(), decide)
	refusedAs(t, "ESCALATED", err)

	delete(h.refuse, "refund")
	_, err = h.staff.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, ReasonCode: "GOODWILL"})
	require.NoError(t, err)
	h.run(t, c)
	h.state(t, c.GetCaseId(), settled)
	require.EqualValues(t, 1250, h.refunded(order))
}

// An order that was added to was paid twice: each payment gives back what it
// took, and one that refuses is asked again alone.
func TestARefundIsOfThePaymentsThatPaid(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(2))
	first, further := paymentOf(order), id.New("pay")
	h.captured[first], h.captured[further] = 2000, 500
	for payment, n := range map[string]int64{first: 2000, further: 500} {
		require.NoError(t, h.Deliver(t.Context(), "payments", &paymentv1.PaymentCaptured{PaymentId: payment, Reference: order, Amount: euros(n), Captured: euros(n)}))
	}
	kept := func() *aftersalev1.Case {
		c := h.apply(t, application(order, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, aftersalev1.Reason_REASON_DAMAGED, "sku_tea", 1))
		_, err := h.seller.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, KeepGoods: true, ReasonCode: "GOODWILL"})
		require.NoError(t, err)
		h.run(t, c)
		return c
	}
	h.state(t, kept().GetCaseId(), settled)
	require.EqualValues(t, 1250, h.refunded(order))
	require.NoError(t, h.Deliver(t.Context(), "payments", &paymentv1.PaymentRefunded{PaymentId: first, Reference: order, Amount: euros(1250), Refunded: euros(1250)}))

	h.captured[further] = 499 // the company says so
	c := kept()
	require.Equal(t, "REFUND_REFUSED", h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_ASSESSED).GetNote())
	require.EqualValues(t, 2000, h.refunded(order), "the first gave the rest of what it took")
	h.captured[further] = 500
	_, err := h.staff.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, ReasonCode: "GOODWILL"})
	require.NoError(t, err)
	h.run(t, c)
	h.state(t, c.GetCaseId(), settled)
	require.EqualValues(t, 2000, h.refunded(order))
	h.mu.Lock()
	defer h.mu.Unlock()
	require.EqualValues(t, 500, h.sum(further))
}

// What was found decides what is paid; per pieces, and to the cent.
func TestTheRefundFollowsWhatWasFound(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.seller.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{OpenedDeduction: 1000, DamagedDeduction: 5000}})
	require.NoError(t, err)
	counterfeit := inspectionv1.Verdict_VERDICT_COUNTERFEIT
	for name, c := range map[string]struct {
		kind    aftersalev1.Kind
		reason  aftersalev1.Reason
		grade   warehousev1.Grade
		verdict inspectionv1.Verdict
		refund  int64
		kept    int64
	}{
		"as new":                      {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, asNew, genuine, 1250, 0},
		"opened":                      {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, warehousev1.Grade_GRADE_OPENED, genuine, 1125, 125},
		"opened, a withdrawal":        {aftersalev1.Kind_KIND_WITHDRAWAL, 0, warehousev1.Grade_GRADE_OPENED, genuine, 1250, 0},
		"damaged, a withdrawal":       {aftersalev1.Kind_KIND_WITHDRAWAL, 0, warehousev1.Grade_GRADE_DAMAGED, 0, 625, 625},
		"damaged as was said":         {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_DAMAGED, warehousev1.Grade_GRADE_DAMAGED, 0, 1250, 0},
		"damaged, inspection says":    {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, asNew, inspectionv1.Verdict_VERDICT_GENUINE_BUT_DAMAGED, 625, 625},
		"swapped for a fake":          {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, asNew, counterfeit, 0, 0},
		"sold a fake":                 {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_NOT_GENUINE, asNew, counterfeit, 1250, 0},
		"something else":              {aftersalev1.Kind_KIND_WITHDRAWAL, 0, warehousev1.Grade_GRADE_WRONG_ITEM, inspectionv1.Verdict_VERDICT_WRONG_ITEM, 0, 0},
		"sent something else":         {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_WRONG_ITEM, warehousev1.Grade_GRADE_WRONG_ITEM, inspectionv1.Verdict_VERDICT_WRONG_ITEM, 1250, 0},
		"nobody can tell":             {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, asNew, inspectionv1.Verdict_VERDICT_INCONCLUSIVE, 1250, 0},
		"broken, whatever was said":   {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, warehousev1.Grade_GRADE_DEFECTIVE, 0, 1250, 0},
		"suspect, and genuine in end": {aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, warehousev1.Grade_GRADE_SUSPECT, genuine, 1250, 0},
	} {
		order := h.delivered(t, 1, 0, tea(1))
		a := h.apply(t, application(order, c.kind, c.reason, "sku_tea", 1))
		if a.GetState() == aftersalev1.Case_STATE_REQUESTED {
			a = h.approve(t, a.GetCaseId())
		}
		h.comeBack(t, a, "sku_tea", 1)
		inspection := ""
		if c.verdict != 0 {
			inspection = id.New("cas")
		}
		// The verdict may be heard first.
		if inspection != "" && c.grade == asNew {
			h.verdict(t, a, inspection, "sku_tea", 1, c.verdict)
		}
		h.grade(t, a, "sku_tea", 1, c.grade, inspection)
		if inspection != "" && c.grade != asNew {
			h.verdict(t, a, inspection, "sku_tea", 1, c.verdict)
		}
		require.Equal(t, done, h.run(t, a), name)
		require.Equal(t, c.refund, h.refunded(order), name)
		got := h.state(t, a.GetCaseId(), settled)
		require.Equal(t, c.refund, got.GetRefund().GetMinorUnits(), name)
		if c.refund > 0 {
			require.Equal(t, c.kept, got.GetDeduction().GetMinorUnits(), name)
		}
	}
}

func TestOfAReturnThatComesInPartTheRestIsConcluded(t *testing.T) {
	t.Parallel()
	h := open(t)
	watch := bought{sku: "sku_watch", quantity: 2, price: 90000, units: []string{"unt_1", "unt_2"}}
	order := h.delivered(t, 1, 0, watch)
	c := h.approve(t, h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_watch", 2, "unt_1", "unt_2")).GetCaseId())
	require.ElementsMatch(t, watch.units, h.returns[c.GetReturnId()].GetLines()[0].GetUnitIds())
	_, err := h.seller.ConcludeReception(t.Context(), &aftersalev1.ConcludeReceptionRequest{CaseId: c.GetCaseId()})
	refusedAs(t, "CASE_NOT_OPEN", err)
	h.comeBack(t, c, "sku_watch", 1, "unt_1")
	h.grade(t, c, "sku_watch", 1, asNew, "cas_1", "unt_1")
	h.verdict(t, c, "cas_1", "sku_watch", 1, genuine)
	require.Equal(t, waiting, h.run(t, c), "the other is awaited")
	for range 2 {
		_, err = h.seller.ConcludeReception(t.Context(), &aftersalev1.ConcludeReceptionRequest{CaseId: c.GetCaseId()})
		require.NoError(t, err)
	}
	require.Equal(t, done, h.run(t, c))
	require.EqualValues(t, 90000, h.refunded(order))
	require.Equal(t, "https://id.example/unit/unt_1", h.get(t, c.GetCaseId()).GetGoods()[0].GetPassportLink())

	_, err = h.ann.Apply(t.Context(), application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_watch", 1, "unt_1"))
	refusedAs(t, "CLAIMED_BEFORE", err)
	h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, 0, "sku_watch", 1, "unt_2"))
}

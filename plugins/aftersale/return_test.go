package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

const (
	asNew   = warehousev1.Grade_GRADE_AS_NEW
	genuine = inspectionv1.Verdict_VERDICT_GENUINE
)

// The story of a return: applied for, approved, labelled, received, graded,
// inspected, refunded with its share of what the order cost beside its lines.
func TestAReturnIsRefundedWhenInspectionHasFoundItGenuine(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 100, tea(3))
	c := h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, "sku_tea", 2))
	require.Equal(t, aftersalev1.Case_STATE_REQUESTED, c.GetState())
	require.NotNil(t, c.GetDecideBy())

	c = h.approve(t, c.GetCaseId())
	require.Equal(t, aftersalev1.Case_STATE_APPROVED, c.GetState())
	rma := h.returns[c.GetReturnId()]
	require.Equal(t, order, rma.GetReference())
	require.EqualValues(t, 2, rma.GetLines()[0].GetQuantity())
	leg := h.booked[c.GetReturnShipmentId()]
	require.Equal(t, "warehouse/north", leg.GetTo().GetPlaceId(), "it goes back to where it came from")
	require.NotEmpty(t, leg.GetFrom().GetAddressRef())
	require.EqualValues(t, 600, leg.GetParcels()[0].GetWeightGrams(), "as heavy as it was packed")
	require.EqualValues(t, 2500, leg.GetParcels()[0].GetItems()[0].GetValue().GetMinorUnits())

	h.label(t, c)
	h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_AWAITING_GOODS)
	path, err := h.ann.GetReturnLabel(t.Context(), &aftersalev1.GetReturnLabelRequest{CaseId: c.GetCaseId()})
	require.NoError(t, err)
	require.Contains(t, path.GetPath(), c.GetReturnShipmentId())
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_WAITING, h.run(t, c))

	h.comeBack(t, c, "sku_tea", 2)
	h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_RECEIVED)
	h.grade(t, c, "sku_tea", 2, asNew, "cas_1")
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_WAITING, h.run(t, c), "it is inspected first")
	require.Zero(t, h.refunded(order))
	h.verdict(t, c, "cas_1", "sku_tea", 2, genuine)
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_DONE, h.run(t, c))
	// 2 of 3 pieces of 3750 and 100 beside: 3850 * 2 / 3.
	require.EqualValues(t, 2567, h.refunded(order))

	whole, err := h.ann.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: c.GetCaseId()})
	require.NoError(t, err)
	require.Equal(t, aftersalev1.Case_STATE_SETTLED, whole.GetCase().GetState())
	require.Equal(t, "it is not what I wanted", whole.GetCase().GetText())
	require.Equal(t, "paid", whole.GetRefund().GetState())
	require.EqualValues(t, 3850, whole.GetRefund().GetCaptured().GetMinorUnits())
	require.Equal(t, "genuine", whole.GetGoods()[0].GetVerdict())
	require.Len(t, whole.GetShipments(), 2)
	require.Empty(t, whole.GetWithout())
	var what []string
	for _, e := range whole.GetTimeline() {
		what = append(what, e.GetWhat())
	}
	require.Subset(t, what, []string{
		"case.opened", "case.approved", "label.ready", "goods.received", "goods.graded", "goods.inspected", "case.assessed", "refund.paid", "case.settled", "shipment.delivered",
	})
	require.Len(t, published[*aftersalev1.CaseSettled](t, h), 1)

	// The last piece brings the rest to the cent.
	last := h.approve(t, h.apply(t, application(order, aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, "sku_tea", 1)).GetCaseId())
	h.comeBack(t, last, "sku_tea", 1)
	for _, ref := range []string{last.GetReturnId(), last.GetReturnId(), "ret_of_nobody", "con_1"} {
		require.NoError(t, h.Deliver(t.Context(), "returns", &inspectionv1.CloneSuspected{UnitId: "unt_9", Reference: ref, Reason: "OTHER_ORDER"}))
	}
	for _, x := range []struct {
		who   caller
		notes []string
	}{{h.seller, []string{"OTHER_ORDER unt_9"}}, {h.staff, []string{"OTHER_ORDER unt_9"}}, {h.ann, nil}} {
		whole, err = x.who.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: last.GetCaseId()})
		require.NoError(t, err)
		var notes []string
		for _, e := range whole.GetTimeline() {
			if e.GetWhat() == sighted {
				notes = append(notes, e.GetNote())
			}
		}
		require.Equal(t, x.notes, notes, "a serial that cannot be theirs is shown with the case, once, and not to the consumer")
	}
	h.grade(t, last, "sku_tea", 1, warehousev1.Grade_GRADE_DAMAGED, "")
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_DONE, h.run(t, last))
	require.EqualValues(t, 3850, h.refunded(order))
	_, err = h.ann.Apply(t.Context(), application(order, aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND, "sku_tea", 1))
	refusedAs(t, "CLAIMED_BEFORE", err)
}

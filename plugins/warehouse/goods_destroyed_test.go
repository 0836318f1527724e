package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

const (
	sellable  = warehousev1.Disposition_DISPOSITION_SELLABLE
	suspect   = warehousev1.Disposition_DISPOSITION_SUSPECT
	damaged   = warehousev1.Disposition_DISPOSITION_DAMAGED
	destroyed = warehousev1.Disposition_DISPOSITION_DESTROYED
)

// doubted goods of sku_a are inspected: two without serials, or those named.
func (h *house) doubted(t testing.TB, units ...string) (caseID string) {
	t.Helper()
	quantity := int64(2)
	if len(units) > 0 {
		quantity = int64(len(units))
		h.shelve(t, "sku_a", units...)
	} else {
		h.stock(t, "", map[string]int64{"sku_a": quantity})
	}
	move := id.New("mov")
	h.move(t, move, sellable, suspect, quantity, units...)
	return id.Derive("cas", "move/"+move)
}

func (h *house) move(t testing.TB, moveID string, from, to warehousev1.Disposition, quantity int64, units ...string) {
	t.Helper()
	_, err := h.desk(worker("acc_1")).inventory.MoveStock(t.Context(), &warehousev1.MoveStockRequest{
		MoveId: moveID, Sku: "sku_a", Authenticated: len(units) > 0, Quantity: quantity, UnitIds: units, From: from, To: to, Cause: "looks odd",
	})
	require.NoError(t, err)
}

func (h *house) refuse(t testing.TB, caseID string, to warehousev1.Disposition, quantity int64, units ...string) {
	t.Helper()
	_, err := h.goods().RefuseGoods(t.Context(), &warehousev1.RefuseGoodsRequest{CaseId: caseID, To: to, Sku: "sku_a", Quantity: quantity, UnitIds: units})
	require.NoError(t, err)
}

// graded goods of an order came back damaged; answers their return.
func (h *house) graded(t testing.TB, grading string, grade warehousev1.Grade, units ...string) (returnID, caseID string) {
	t.Helper()
	order := "ord_" + grading
	h.shelve(t, "sku_a", units...)
	h.sell(t, order, "sku_a", units...)
	staff := h.desk(worker("acc_1")).returns
	req := authorisation(order, back("sku_a", int64(len(units)), units...))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	_, err = staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R" + grading, ReturnId: req.GetReturnId(), Lines: req.GetLines()})
	require.NoError(t, err)
	res, err := staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: grading, ReturnId: req.GetReturnId(), Sku: "sku_a",
		Quantity: int64(len(units)), UnitIds: units, Grade: grade, Answers: checklist(false)})
	require.NoError(t, err)
	return req.GetReturnId(), res.GetCaseId()
}

func (h *house) decide(t testing.TB, grading string, d warehousev1.DecideReturnRequest_Decision) *warehousev1.Return {
	t.Helper()
	res, err := h.desk(worker("acc_1")).returns.DecideReturn(t.Context(), &warehousev1.DecideReturnRequest{
		DecisionId: id.New("dec"), GradingId: grading, Decision: d, Reason: "as agreed",
	})
	require.NoError(t, err)
	return res.GetReturn()
}

// The saga of a destruction can undo nothing: whatever became of the goods
// meanwhile, the write-off is answered. What the books have of them is written
// off, the rest is told once.
func TestADestructionIsNeverRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quantity, moved int64
		units           []string
		// meanwhile brings goods into doubt and to another end, and answers their case.
		meanwhile func(t testing.TB, h *house) string
		// stands is where the first serial stands after it.
		stands warehousev1.Disposition
	}{
		"nothing happened": {2, 2, nil, func(t testing.TB, h *house) string { return h.doubted(t) }, 0},
		"a serial, nothing happened": {1, 1, []string{"unt_1"}, func(t testing.TB, h *house) string {
			return h.doubted(t, "unt_1")
		}, destroyed},
		"sent back to the merchant": {2, 0, nil, func(t testing.TB, h *house) string {
			c := h.doubted(t)
			h.refuse(t, c, outside, 2)
			return c
		}, 0},
		"a serial, sent back": {1, 0, []string{"unt_1"}, func(t testing.TB, h *house) string {
			c := h.doubted(t, "unt_1")
			h.refuse(t, c, outside, 1, "unt_1")
			return c
		}, outside},
		"a serial, admitted": {1, 0, []string{"unt_1"}, func(t testing.TB, h *house) string {
			c := h.doubted(t, "unt_1")
			h.pass(t, c, "sku_a", "", 0, "unt_1")
			_, err := h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: c, From: inspecting, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"}})
			require.NoError(t, err)
			return c
		}, warehousev1.Disposition_DISPOSITION_RECEIVING},
		"moved on the floor": {2, 0, nil, func(t testing.TB, h *house) string {
			c := h.doubted(t)
			h.refuse(t, c, damaged, 2)
			h.move(t, "M2", damaged, warehousev1.Disposition_DISPOSITION_EXPIRED, 1)
			return c
		}, 0},
		"serials, one of them moved on the floor": {2, 2, []string{"unt_1", "unt_2"}, func(t testing.TB, h *house) string {
			c := h.doubted(t, "unt_1", "unt_2")
			h.refuse(t, c, damaged, 2, "unt_1", "unt_2")
			h.move(t, "M2", damaged, warehousev1.Disposition_DISPOSITION_EXPIRED, 1, "unt_1")
			return c
		}, destroyed},
		"serials, one of them disposed of": {2, 1, []string{"unt_1", "unt_2"}, func(t testing.TB, h *house) string {
			c := h.doubted(t, "unt_1", "unt_2")
			h.refuse(t, c, damaged, 2, "unt_1", "unt_2")
			h.move(t, "M2", damaged, warehousev1.Disposition_DISPOSITION_EXPIRED, 1, "unt_1")
			h.move(t, "M3", warehousev1.Disposition_DISPOSITION_EXPIRED, warehousev1.Disposition_DISPOSITION_DISPOSED, 1, "unt_1")
			return c
		}, warehousev1.Disposition_DISPOSITION_DISPOSED},
		"decided: repair": {1, 1, []string{"unt_1"}, func(t testing.TB, h *house) string {
			_, c := h.graded(t, "G1", warehousev1.Grade_GRADE_SUSPECT, "unt_1")
			h.refuse(t, c, damaged, 1, "unt_1")
			h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_REPAIR)
			return c
		}, destroyed},
		"decided: repaired and inspected anew": {1, 1, []string{"unt_1"}, func(t testing.TB, h *house) string {
			_, c := h.graded(t, "G1", warehousev1.Grade_GRADE_SUSPECT, "unt_1")
			h.refuse(t, c, damaged, 1, "unt_1")
			h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_REPAIR)
			h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_INSPECT)
			return c
		}, destroyed},
		"decided: to the merchant": {1, 0, []string{"unt_1"}, func(t testing.TB, h *house) string {
			_, c := h.graded(t, "G1", warehousev1.Grade_GRADE_SUSPECT, "unt_1")
			h.refuse(t, c, damaged, 1, "unt_1")
			h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_RETURN_TO_MERCHANT)
			return c
		}, outside},
		"never heard of":         {3, 0, []string{"unt_7", "unt_8", "unt_9"}, func(testing.TB, *house) string { return "cas_none" }, 0},
		"another number of them": {5, 0, nil, func(t testing.TB, h *house) string { return h.doubted(t) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			req := &warehousev1.RefuseGoodsRequest{
				CaseId: c.meanwhile(t, h), To: destroyed, Sku: "sku_a", Quantity: c.quantity, UnitIds: c.units, Reference: "dst_1",
			}
			for range 2 {
				res, err := h.goods().RefuseGoods(t.Context(), req)
				require.NoError(t, err)
				require.Equal(t, c.moved, res.GetMoved())
			}
			require.Equal(t, c.moved, h.total(t, "sku_a", "destroyed"))
			again := proto.CloneOf(req)
			again.Reference = "dst_2"
			_, err := h.goods().RefuseGoods(t.Context(), again)
			require.NoError(t, err, "destroyed is destroyed")
			require.Equal(t, c.moved, h.total(t, "sku_a", "destroyed"))
			var told []*warehousev1.DestructionUnmatched
			for _, e := range h.Published(t) {
				if e, ok := e.(*warehousev1.DestructionUnmatched); ok {
					told = append(told, e)
				}
			}
			if c.moved == c.quantity {
				require.Empty(t, told)
			} else {
				require.Len(t, told, 1)
				require.Equal(t, c.quantity-c.moved, told[0].GetQuantity())
				require.Equal(t, "dst_1", told[0].GetReference())
				require.Len(t, told[0].GetUnitIds(), min(len(c.units), int(c.quantity-c.moved)))
			}
			if c.stands != 0 {
				require.Equal(t, c.stands, h.unit(t, c.units[0]).GetDisposition())
			}
			h.consistent(t)
		})
	}
}

// A return whose goods were destroyed after a decision closes with them, and an
// inspection that was asked for meanwhile admits nothing.
func TestAReturnClosesWithItsDestroyedGoods(t *testing.T) {
	t.Parallel()
	h := open(t)
	returnID, first := h.graded(t, "G1", warehousev1.Grade_GRADE_SUSPECT, "unt_1", "unt_2")
	h.refuse(t, first, damaged, 2, "unt_1", "unt_2")
	h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_REPAIR)
	second := h.decide(t, "G1", warehousev1.DecideReturnRequest_DECISION_INSPECT).GetGradings()[0].GetCaseId()
	require.NotEqual(t, first, second)
	h.refuse(t, first, destroyed, 2, "unt_1", "unt_2")
	res, err := h.desk(worker("acc_1")).returns.GetReturn(t.Context(), &warehousev1.GetReturnRequest{ReturnId: returnID})
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_CLOSED, res.GetReturn().GetState())
	require.EqualValues(t, 2, res.GetReturn().GetLines()[0].GetDestroyed())
	h.pass(t, second, "sku_a", "", 0, "unt_1", "unt_2")
	_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{
		CaseId: second, From: inspecting, Sku: "sku_a", Quantity: 2, UnitIds: []string{"unt_1", "unt_2"}, Reference: returnID,
	})
	require.Equal(t, "CASE_ENDED", fault.Reason(err), "a refusal that its saga undoes")
	require.NoError(t, h.Deliver(t.Context(), "inspection", &inspectionv1.VerdictConfirmed{CaseId: second, Verdict: inspectionv1.Verdict_VERDICT_COUNTERFEIT}))
	h.refuse(t, second, destroyed, 2, "unt_1", "unt_2")
	require.EqualValues(t, 2, h.total(t, "sku_a", "destroyed"))
	h.consistent(t)
}

// What wears the serial of another good is destroyed, and not the other.
func TestADestroyedCloneTakesNothingOfTheGenuineGood(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1")
	h.stock(t, "", map[string]int64{"sku_a": 1})
	h.ship(t, "ord_1", "sku_a", "", 1)
	staff := h.desk(worker("acc_1")).returns
	req := authorisation("ord_1", back("sku_a", 1))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	res, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R", ReturnId: req.GetReturnId(), Lines: []*warehousev1.ReturnLine{back("sku_a", 1, "unt_1")}})
	require.NoError(t, err)
	clone := res.GetReturn().GetGradings()[0].GetCaseId()
	h.refuse(t, clone, outside, 1, "unt_1")
	// The genuine one is in doubt too, and stands where it could be written off.
	h.move(t, "M1", sellable, damaged, 1, "unt_1")
	h.refuse(t, clone, destroyed, 1, "unt_1")
	require.Equal(t, damaged, h.unit(t, "unt_1").GetDisposition())
	require.Zero(t, h.total(t, "sku_a", "destroyed"))
	h.consistent(t)
}

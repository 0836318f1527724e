package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
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

// stand is goods of one sku, by themselves among all others of a house.
type stand struct {
	*house
	sku string
}

// standOf is a sku that nothing else is of.
func (h *house) standOf(t testing.TB, sku string) *stand {
	t.Helper()
	require.NoError(t, h.Deliver(t.Context(), "catalog", &catalogv1.ProductChanged{ProductId: "prd_" + sku, MerchantId: "mrc_one", Skus: []string{sku}}))
	return &stand{h, sku}
}

// units are so many serials of the sku.
func (s *stand) units(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("unt_%s_%d", s.sku, i))
	}
	return all
}

// doubted goods are inspected: two without serials, or those named.
func (s *stand) doubted(t testing.TB, units ...string) (caseID string) {
	t.Helper()
	quantity := int64(2)
	if len(units) > 0 {
		quantity = int64(len(units))
		s.shelve(t, s.sku, units...)
	} else {
		s.stock(t, "", map[string]int64{s.sku: quantity})
	}
	move := s.move(t, sellable, suspect, quantity, units...)
	return id.Derive("cas", "move/"+move)
}

func (s *stand) move(t testing.TB, from, to warehousev1.Disposition, quantity int64, units ...string) (moveID string) {
	t.Helper()
	moveID = id.New("mov")
	_, err := s.desk(worker("acc_1")).inventory.MoveStock(t.Context(), &warehousev1.MoveStockRequest{
		MoveId: moveID, Sku: s.sku, Authenticated: len(units) > 0, Quantity: quantity, UnitIds: units, From: from, To: to, Cause: "looks odd",
	})
	require.NoError(t, err)
	return moveID
}

func (s *stand) refuse(t testing.TB, caseID string, to warehousev1.Disposition, quantity int64, units ...string) {
	t.Helper()
	_, err := s.goods().RefuseGoods(t.Context(), &warehousev1.RefuseGoodsRequest{CaseId: caseID, To: to, Sku: s.sku, Quantity: quantity, UnitIds: units})
	require.NoError(t, err)
}

// suspected goods of an order came back, and were found damaged: their return,
// its grading and their case.
func (s *stand) suspected(t testing.TB, units ...string) (returnID, grading, caseID string) {
	t.Helper()
	order := "ord_" + s.sku
	s.shelve(t, s.sku, units...)
	s.sell(t, order, s.sku, units...)
	staff := s.desk(worker("acc_1")).returns
	req := authorisation(order, back(s.sku, int64(len(units)), units...))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	_, err = staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R" + s.sku, ReturnId: req.GetReturnId(), Lines: req.GetLines()})
	require.NoError(t, err)
	res, err := staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "G" + s.sku, ReturnId: req.GetReturnId(), Sku: s.sku,
		Quantity: int64(len(units)), UnitIds: units, Grade: warehousev1.Grade_GRADE_SUSPECT, Answers: checklist(false)})
	require.NoError(t, err)
	s.refuse(t, res.GetCaseId(), damaged, int64(len(units)), units...)
	return req.GetReturnId(), "G" + s.sku, res.GetCaseId()
}

func (s *stand) decide(t testing.TB, grading string, d warehousev1.DecideReturnRequest_Decision) *warehousev1.Return {
	t.Helper()
	res, err := s.desk(worker("acc_1")).returns.DecideReturn(t.Context(), &warehousev1.DecideReturnRequest{
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
	h := open(t)
	const expired, disposed = warehousev1.Disposition_DISPOSITION_EXPIRED, warehousev1.Disposition_DISPOSITION_DISPOSED
	n := 0
	for name, c := range map[string]struct {
		quantity, moved int64
		serials         int
		// meanwhile brings goods into doubt and to another end, and answers their
		// case.
		meanwhile func(s *stand, units []string) string
		// stands is where the first serial stands after it.
		stands warehousev1.Disposition
	}{
		"nothing happened": {2, 2, 0, func(s *stand, _ []string) string { return s.doubted(t) }, 0},
		"a serial, nothing happened": {1, 1, 1, func(s *stand, units []string) string {
			return s.doubted(t, units...)
		}, destroyed},
		"sent back to the merchant": {2, 0, 0, func(s *stand, _ []string) string {
			c := s.doubted(t)
			s.refuse(t, c, outside, 2)
			return c
		}, 0},
		"a serial, sent back": {1, 0, 1, func(s *stand, units []string) string {
			c := s.doubted(t, units...)
			s.refuse(t, c, outside, 1, units...)
			return c
		}, outside},
		"a serial, admitted": {1, 0, 1, func(s *stand, units []string) string {
			c := s.doubted(t, units...)
			s.pass(t, c, s.sku, "", 0, units...)
			_, err := s.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: c, From: inspecting, Sku: s.sku, Quantity: 1, UnitIds: units})
			require.NoError(t, err)
			return c
		}, warehousev1.Disposition_DISPOSITION_RECEIVING},
		"moved on the floor": {2, 0, 0, func(s *stand, _ []string) string {
			c := s.doubted(t)
			s.refuse(t, c, damaged, 2)
			s.move(t, damaged, expired, 1)
			return c
		}, 0},
		"serials, one of them moved on the floor": {2, 2, 2, func(s *stand, units []string) string {
			c := s.doubted(t, units...)
			s.refuse(t, c, damaged, 2, units...)
			s.move(t, damaged, expired, 1, units[0])
			return c
		}, destroyed},
		"serials, one of them disposed of": {2, 1, 2, func(s *stand, units []string) string {
			c := s.doubted(t, units...)
			s.refuse(t, c, damaged, 2, units...)
			s.move(t, damaged, expired, 1, units[0])
			s.move(t, expired, disposed, 1, units[0])
			return c
		}, disposed},
		"decided: repair": {1, 1, 1, func(s *stand, units []string) string {
			_, g, c := s.suspected(t, units...)
			s.decide(t, g, warehousev1.DecideReturnRequest_DECISION_REPAIR)
			return c
		}, destroyed},
		"decided: repaired and inspected anew": {1, 1, 1, func(s *stand, units []string) string {
			_, g, c := s.suspected(t, units...)
			s.decide(t, g, warehousev1.DecideReturnRequest_DECISION_REPAIR)
			s.decide(t, g, warehousev1.DecideReturnRequest_DECISION_INSPECT)
			return c
		}, destroyed},
		"decided: to the merchant": {1, 0, 1, func(s *stand, units []string) string {
			_, g, c := s.suspected(t, units...)
			s.decide(t, g, warehousev1.DecideReturnRequest_DECISION_RETURN_TO_MERCHANT)
			return c
		}, outside},
		"never heard of":         {3, 0, 3, func(s *stand, _ []string) string { return "cas_" + s.sku }, 0},
		"another number of them": {5, 0, 0, func(s *stand, _ []string) string { return s.doubted(t) }, 0},
	} {
		n++
		s := h.standOf(t, fmt.Sprint("sku_", n))
		units, reference := s.units(c.serials), "dst_"+s.sku
		req := &warehousev1.RefuseGoodsRequest{
			CaseId: c.meanwhile(s, units), To: destroyed, Sku: s.sku, Quantity: c.quantity, UnitIds: units, Reference: reference,
		}
		for range 2 {
			res, err := h.goods().RefuseGoods(t.Context(), req)
			require.NoError(t, err, name)
			require.Equal(t, c.moved, res.GetMoved(), name)
		}
		require.Equal(t, c.moved, h.total(t, s.sku, "destroyed"), name)
		again := proto.CloneOf(req)
		again.Reference = "dst_again_" + s.sku
		_, err := h.goods().RefuseGoods(t.Context(), again)
		require.NoError(t, err, "%s: destroyed is destroyed", name)
		require.Equal(t, c.moved, h.total(t, s.sku, "destroyed"), name)
		var told []*warehousev1.DestructionUnmatched
		for _, e := range h.Published(t) {
			if e, ok := e.(*warehousev1.DestructionUnmatched); ok && e.GetSku() == s.sku {
				told = append(told, e)
			}
		}
		if c.moved == c.quantity {
			require.Empty(t, told, name)
		} else {
			require.Len(t, told, 1, name)
			require.Equal(t, c.quantity-c.moved, told[0].GetQuantity(), name)
			require.Equal(t, reference, told[0].GetReference())
			require.Len(t, told[0].GetUnitIds(), min(c.serials, int(c.quantity-c.moved)), name)
		}
		if c.stands != 0 {
			require.Equal(t, c.stands, h.unit(t, units[0]).GetDisposition(), name)
		}
		h.consistent(t)
	}
}

// A return whose goods were destroyed after a decision closes with them, and an
// inspection that was asked for meanwhile admits nothing.
func TestAReturnClosesWithItsDestroyedGoods(t *testing.T) {
	t.Parallel()
	s := open(t).standOf(t, "sku_1")
	units := s.units(2)
	returnID, grading, first := s.suspected(t, units...)
	s.decide(t, grading, warehousev1.DecideReturnRequest_DECISION_REPAIR)
	second := s.decide(t, grading, warehousev1.DecideReturnRequest_DECISION_INSPECT).GetGradings()[0].GetCaseId()
	require.NotEqual(t, first, second)
	s.refuse(t, first, destroyed, 2, units...)
	res, err := s.desk(worker("acc_1")).returns.GetReturn(t.Context(), &warehousev1.GetReturnRequest{ReturnId: returnID})
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_CLOSED, res.GetReturn().GetState())
	require.EqualValues(t, 2, res.GetReturn().GetLines()[0].GetDestroyed())
	s.pass(t, second, s.sku, "", 0, units...)
	_, err = s.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{
		CaseId: second, From: inspecting, Sku: s.sku, Quantity: 2, UnitIds: units, Reference: returnID,
	})
	require.Equal(t, "CASE_ENDED", fault.Reason(err), "a refusal that its saga undoes")
	s.refuse(t, second, destroyed, 2, units...)
	require.EqualValues(t, 2, s.total(t, s.sku, "destroyed"))
	s.consistent(t)
}

// What wears the serial of another good is destroyed, and not the other.
func TestADestroyedCloneTakesNothingOfTheGenuineGood(t *testing.T) {
	t.Parallel()
	s := open(t).standOf(t, "sku_1")
	s.shelve(t, s.sku, "unt_1")
	s.stock(t, "", map[string]int64{s.sku: 1})
	s.ship(t, "ord_1", s.sku, "", 1)
	staff := s.desk(worker("acc_1")).returns
	req := authorisation("ord_1", back(s.sku, 1))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	res, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R", ReturnId: req.GetReturnId(), Lines: []*warehousev1.ReturnLine{back(s.sku, 1, "unt_1")}})
	require.NoError(t, err)
	clone := res.GetReturn().GetGradings()[0].GetCaseId()
	s.refuse(t, clone, outside, 1, "unt_1")
	// The genuine one is in doubt too, and stands where it could be written off.
	s.move(t, sellable, damaged, 1, "unt_1")
	s.refuse(t, clone, destroyed, 1, "unt_1")
	require.Equal(t, damaged, s.unit(t, "unt_1").GetDisposition())
	require.Zero(t, s.total(t, s.sku, "destroyed"))
	s.consistent(t)
}

package main

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// ship lets goods without serials leave the house for an order, by the ledger
// alone.
func (h *house) ship(t testing.TB, order, sku, lot string, quantity int64) {
	t.Helper()
	req := reservationOf(line(sku, quantity))
	_, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, h.DB.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, w := range [][3]string{{"pick", "reserved", "picked"}, {"pack", "picked", "packed"}, {"staging", "packed", "outbound"},
			{"hand-over", "outbound", "in_transit"}, {"delivery", "in_transit", "external"}} {
			if _, err := post(ctx, tx, way{reason: w[0], from: w[1], to: w[2]},
				goods{key: key{sku, "main", lot, false}, quantity: quantity, reference: req.GetReservationId()}); err != nil {
				return err
			}
		}
		_, err := tx.Do(ctx, `INSERT INTO shipped (reference, sku, lot, unit, quantity) VALUES ($1, $2, $3, '', $4)`, order, sku, lot, quantity)
		return err
	}))
}

func authorisation(order string, lines ...*warehousev1.ReturnLine) *warehousev1.AuthoriseReturnRequest {
	return &warehousev1.AuthoriseReturnRequest{ReturnId: id.New("ret"), Reference: order, MerchantId: "mrc_one", Lines: lines}
}

func back(sku string, quantity int64, units ...string) *warehousev1.ReturnLine {
	return &warehousev1.ReturnLine{Sku: sku, Quantity: quantity, UnitIds: units}
}

func checklist(asExpected bool) []*warehousev1.ChecklistAnswer {
	return []*warehousev1.ChecklistAnswer{{Question: "packaging", AsExpected: true}, {Question: "seal", AsExpected: asExpected}}
}

// S6: authorised <= shipped, over all returns of an order.
func TestNoMoreComesBackThanWasShipped(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 5})
	h.ship(t, "ord_1", "sku_a", "", 5)
	staff := h.desk(worker("acc_1")).returns
	req := authorisation("ord_1", back("sku_a", 3))
	first, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_AUTHORISED, first.GetReturn().GetState())
	again, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, again))
	other := proto.CloneOf(req)
	other.Lines[0].Quantity = 1
	_, err = staff.AuthoriseReturn(t.Context(), other)
	refused(t, connect.CodeAlreadyExists, "RETURN_DIFFERS", err)

	for name, r := range map[string]*warehousev1.AuthoriseReturnRequest{
		"more than is left":   authorisation("ord_1", back("sku_a", 3)),
		"another order":       authorisation("ord_2", back("sku_a", 1)),
		"another sku":         authorisation("ord_1", back("sku_b", 1)),
		"another lot":         authorisation("ord_1", &warehousev1.ReturnLine{Sku: "sku_a", Lot: "L9", Quantity: 1}),
		"a serial not sold":   authorisation("ord_1", back("sku_a", 1, "unt_1")),
		"another's goods":     {ReturnId: id.New("ret"), Reference: "ord_1", MerchantId: "mrc_two", Lines: req.GetLines()},
		"more, in two halves": authorisation("ord_1", back("sku_a", 2), &warehousev1.ReturnLine{Sku: "sku_a", Lot: "L1", Quantity: 1}),
	} {
		_, err := staff.AuthoriseReturn(t.Context(), r)
		require.Error(t, err, name)
		refused(t, connect.CodeFailedPrecondition, "NOT_SHIPPED", err)
	}
	_, err = staff.CancelReturn(t.Context(), &warehousev1.CancelReturnRequest{ReturnId: req.GetReturnId()})
	require.NoError(t, err)
	_, err = staff.AuthoriseReturn(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "RETURN_CANCELLED", err)
	_, err = staff.AuthoriseReturn(t.Context(), authorisation("ord_1", back("sku_a", 5)))
	require.NoError(t, err, "what was cancelled may come back again")

	late := authorisation("ord_1", back("sku_a", 1))
	for range 2 {
		_, err = staff.CancelReturn(t.Context(), &warehousev1.CancelReturnRequest{ReturnId: late.GetReturnId()})
		require.NoError(t, err)
	}
	_, err = staff.AuthoriseReturn(t.Context(), late)
	refused(t, connect.CodeFailedPrecondition, "RETURN_CANCELLED", err)
}

// What each grade does: where the goods go and which inspection is asked for.
// None goes to the shelf.
func TestGradesSendGoodsWhereTheRulesSay(t *testing.T) {
	t.Parallel()
	h := open(t)
	staff := h.desk(worker("acc_1")).returns
	for i, c := range []struct {
		grade  warehousev1.Grade
		fine   bool
		to     string
		reason string
	}{
		{warehousev1.Grade_GRADE_AS_NEW, true, "inspecting", "RETURN_AS_NEW"},
		{warehousev1.Grade_GRADE_OPENED, false, "inspecting", "RETURN_OPENED"},
		{warehousev1.Grade_GRADE_SUSPECT, false, "suspect", "RETURN_SUSPECT"},
		{warehousev1.Grade_GRADE_WRONG_ITEM, false, "suspect", "RETURN_WRONG_ITEM"},
		{warehousev1.Grade_GRADE_DAMAGED, false, "damaged", ""},
		{warehousev1.Grade_GRADE_DEFECTIVE, false, "defective", ""},
	} {
		order := fmt.Sprint("ord_", i)
		h.stock(t, "", map[string]int64{"sku_a": 2})
		h.ship(t, order, "sku_a", "", 2)
		req := authorisation(order, back("sku_a", 2))
		_, err := staff.AuthoriseReturn(t.Context(), req)
		require.NoError(t, err)
		grade := &warehousev1.GradeReturnRequest{
			GradingId: "G" + order, ReturnId: req.GetReturnId(), Sku: "sku_a", Quantity: 2, Grade: c.grade, Answers: checklist(c.fine),
		}
		_, err = staff.GradeReturn(t.Context(), grade)
		refused(t, connect.CodeFailedPrecondition, "NOT_IN_QUARANTINE", err)
		reg, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R" + order, ReturnId: req.GetReturnId(), Lines: req.GetLines()})
		require.NoError(t, err)
		require.Equal(t, warehousev1.Return_STATE_RECEIVED, reg.GetReturn().GetState())
		require.EqualValues(t, 2, h.total(t, "sku_a", "quarantine"))
		wrong := proto.CloneOf(grade)
		wrong.Answers = checklist(!c.fine)
		_, err = staff.GradeReturn(t.Context(), wrong)
		refused(t, connect.CodeInvalidArgument, "CHECKLIST_DISAGREES", err)

		before := h.total(t, "sku_a", c.to)
		res, err := staff.GradeReturn(t.Context(), grade)
		require.NoError(t, err, c.grade)
		again, err := staff.GradeReturn(t.Context(), grade)
		require.NoError(t, err)
		require.True(t, proto.Equal(res, again))
		require.Equal(t, warehousev1.Return_STATE_GRADED, res.GetReturn().GetState())
		require.Equal(t, c.reason != "", res.GetCaseId() != "")
		require.Equal(t, res.GetCaseId(), res.GetReturn().GetGradings()[0].GetCaseId())
		require.Equal(t, before+2, h.total(t, "sku_a", c.to))
		require.Zero(t, h.total(t, "sku_a", "sellable"))
		asked := ""
		for _, e := range h.Published(t) {
			if r, ok := e.(*warehousev1.InspectionRequested); ok && r.GetCaseId() == res.GetCaseId() {
				asked = r.GetReason()
				require.Equal(t, req.GetReturnId(), r.GetReference())
				require.EqualValues(t, 2, r.GetQuantity())
			}
		}
		require.Equal(t, c.reason, asked)
		_, err = staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "again" + order, ReturnId: req.GetReturnId(), Sku: "sku_a", Quantity: 1, Grade: c.grade, Answers: checklist(c.fine)})
		refused(t, connect.CodeFailedPrecondition, "NOT_IN_QUARANTINE", err)
	}
	h.consistent(t)
}

// A serialised good goes out, comes back, passes again and is on the shelf; the
// return closes when every piece is where it stays.
func TestAReturnedSerialReachesTheShelfByANewInspection(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1", "unt_2", "unt_3")
	h.sell(t, "ord_1", "sku_a", "unt_1", "unt_2")
	staff := h.desk(worker("acc_1")).returns
	req := authorisation("ord_1", back("sku_a", 2))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	register := func(registration string, units ...string) error {
		_, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{
			RegistrationId: registration, ReturnId: req.GetReturnId(), Lines: []*warehousev1.ReturnLine{back("sku_a", int64(len(units)), units...)},
		})
		return err
	}
	// What was sold comes back through quarantine only.
	again := id.New("cas")
	h.pass(t, again, "sku_a", "", 0, "unt_1")
	_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: again, From: outside, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"}})
	refused(t, connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", err)

	for range 2 {
		require.NoError(t, register("R1", "unt_1", "unt_2"))
	}
	refused(t, connect.CodeFailedPrecondition, "NOT_AUTHORISED", register("R2", "unt_3"))
	require.Equal(t, warehousev1.Disposition_DISPOSITION_QUARANTINE, h.unit(t, "unt_1").GetDisposition())
	require.Empty(t, h.unit(t, "unt_1").GetCaseId())
	_, err = staff.CancelReturn(t.Context(), &warehousev1.CancelReturnRequest{ReturnId: req.GetReturnId()})
	refused(t, connect.CodeFailedPrecondition, "RETURN_RECEIVED", err)

	new1, err := staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "G1", ReturnId: req.GetReturnId(), Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"},
		Grade: warehousev1.Grade_GRADE_AS_NEW, Answers: checklist(true)})
	require.NoError(t, err)
	_, err = staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: "G2", ReturnId: req.GetReturnId(), Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_2"},
		Grade: warehousev1.Grade_GRADE_DEFECTIVE, Answers: checklist(false)})
	require.NoError(t, err)
	admit := &warehousev1.AdmitGoodsRequest{CaseId: new1.GetCaseId(), From: inspecting, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"}, Reference: req.GetReturnId()}
	_, err = h.goods().AdmitGoods(t.Context(), admit)
	refused(t, connect.CodeUnavailable, "PASS_NOT_HEARD", err)
	h.pass(t, new1.GetCaseId(), "sku_a", "", 0, "unt_1")
	more := proto.CloneOf(admit)
	more.Quantity, more.UnitIds = 2, []string{"unt_1", "unt_2"}
	_, err = h.goods().AdmitGoods(t.Context(), more)
	refused(t, connect.CodeFailedPrecondition, "CASE_DIFFERS", err)
	for range 2 {
		_, err = h.goods().AdmitGoods(t.Context(), admit)
		require.NoError(t, err)
	}
	h.putAway(t, "main", "sku_a", "", "unt_1")
	require.Equal(t, new1.GetCaseId(), h.unit(t, "unt_1").GetCaseId())

	// The other is repaired, inspected again, and passes.
	decide := func(decision string, d warehousev1.DecideReturnRequest_Decision) (*warehousev1.Return, error) {
		res, err := staff.DecideReturn(t.Context(), &warehousev1.DecideReturnRequest{DecisionId: decision, GradingId: "G2", Decision: d, Reason: "as agreed"})
		return res.GetReturn(), err
	}
	_, err = decide("D0", warehousev1.DecideReturnRequest_DECISION_INSPECT)
	refused(t, connect.CodeFailedPrecondition, "NO_SUCH_WAY", err)
	_, err = decide("D1", warehousev1.DecideReturnRequest_DECISION_REPAIR)
	require.NoError(t, err)
	var repaired *warehousev1.Return
	for range 2 {
		repaired, err = decide("D2", warehousev1.DecideReturnRequest_DECISION_INSPECT)
		require.NoError(t, err)
	}
	second := repaired.GetGradings()[1].GetCaseId()
	require.NotEmpty(t, second)
	h.pass(t, second, "sku_a", "", 0, "unt_2")
	_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: second, From: inspecting, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_2"}, Reference: req.GetReturnId()})
	require.NoError(t, err)
	got, err := staff.GetReturn(t.Context(), &warehousev1.GetReturnRequest{ReturnId: req.GetReturnId()})
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_CLOSED, got.GetReturn().GetState())
	require.True(t, proto.Equal(&warehousev1.ReturnLine{Sku: "sku_a", Quantity: 2, UnitIds: []string{"unt_1", "unt_2"}, Received: 2, Graded: 2, Restocked: 2}, got.GetReturn().GetLines()[0]))
	closed := 0
	for _, e := range h.Published(t) {
		if _, ok := e.(*warehousev1.ReturnClosed); ok {
			closed++
		}
	}
	require.Equal(t, 1, closed)
	h.consistent(t)
}

// A serial that was not sold with the order is a wrong item at once; one that
// the warehouse has on its own shelf is a clone, and is booked without.
func TestAWrongSerialRaisesADoubt(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1", "unt_2", "unt_3")
	h.sell(t, "ord_1", "sku_a", "unt_1")
	h.sell(t, "ord_2", "sku_a", "unt_2")
	h.stock(t, "", map[string]int64{"sku_a": 2})
	h.ship(t, "ord_1", "sku_a", "", 2)
	staff := h.desk(worker("acc_1")).returns
	req := authorisation("ord_1", back("sku_a", 3))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	res, err := staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{
		RegistrationId: "R", ReturnId: req.GetReturnId(), Lines: []*warehousev1.ReturnLine{back("sku_a", 3, "unt_2", "unt_3", "unt_unseen")},
	})
	require.NoError(t, err)
	require.Len(t, res.GetReturn().GetGradings(), 3)
	require.Equal(t, warehousev1.Return_STATE_GRADED, res.GetReturn().GetState())
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SUSPECT, h.unit(t, "unt_2").GetDisposition(), "sold with another order")
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, h.unit(t, "unt_3").GetDisposition(), "the one on the shelf stays there")
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SUSPECT, h.unit(t, "unt_unseen").GetDisposition())
	require.EqualValues(t, 3, h.total(t, "sku_a", "suspect"))
	cases := map[string]string{}
	for _, e := range h.Published(t) {
		if r, ok := e.(*warehousev1.InspectionRequested); ok {
			require.Equal(t, "RETURN_WRONG_SERIAL", r.GetReason(), "the books say it, and nobody graded")
			cases[r.GetUnitIds()[0]] = r.GetCaseId()
		}
	}
	require.Len(t, cases, 3)
	// The clone is destroyed: the piece, and not the serial on the shelf.
	_, err = h.goods().RefuseGoods(t.Context(), &warehousev1.RefuseGoodsRequest{
		CaseId: cases["unt_3"], To: warehousev1.Disposition_DISPOSITION_DESTROYED, Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_3"}, Reference: "dst_1",
	})
	require.NoError(t, err)
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, h.unit(t, "unt_3").GetDisposition())
	require.EqualValues(t, 1, h.total(t, "sku_a", "destroyed"))
	got, err := h.desk(member("mrc_one")).returns.GetReturn(t.Context(), &warehousev1.GetReturnRequest{ReturnId: req.GetReturnId()})
	require.NoError(t, err)
	require.EqualValues(t, 1, got.GetReturn().GetLines()[0].GetDestroyed())
	_, err = h.desk(member("mrc_two")).returns.GetReturn(t.Context(), &warehousev1.GetReturnRequest{ReturnId: req.GetReturnId()})
	refused(t, connect.CodeNotFound, "RETURN_UNKNOWN", err)
	h.consistent(t)
}

// What a decision does with damaged and defective goods.
func TestDecisionsEndWhatDoesNotGoToTheShelf(t *testing.T) {
	t.Parallel()
	h := open(t)
	staff := h.desk(worker("acc_1")).returns
	h.stock(t, "", map[string]int64{"sku_a": 2})
	h.ship(t, "ord_1", "sku_a", "", 2)
	req := authorisation("ord_1", back("sku_a", 2))
	_, err := staff.AuthoriseReturn(t.Context(), req)
	require.NoError(t, err)
	_, err = staff.RegisterReturn(t.Context(), &warehousev1.RegisterReturnRequest{RegistrationId: "R", ReturnId: req.GetReturnId(), Lines: req.GetLines()})
	require.NoError(t, err)
	for _, g := range []string{"G1", "G2"} {
		_, err = staff.GradeReturn(t.Context(), &warehousev1.GradeReturnRequest{GradingId: g, ReturnId: req.GetReturnId(), Sku: "sku_a", Quantity: 1, Grade: warehousev1.Grade_GRADE_DAMAGED, Answers: checklist(false)})
		require.NoError(t, err)
	}
	decide := func(id, grading string, d warehousev1.DecideReturnRequest_Decision) (*warehousev1.Return, error) {
		res, err := staff.DecideReturn(t.Context(), &warehousev1.DecideReturnRequest{DecisionId: id, GradingId: grading, Decision: d, Reason: "as agreed"})
		return res.GetReturn(), err
	}
	_, err = decide("D0", "G0", warehousev1.DecideReturnRequest_DECISION_DISPOSE)
	refused(t, connect.CodeNotFound, "GRADING_UNKNOWN", err)
	r, err := decide("D1", "G1", warehousev1.DecideReturnRequest_DECISION_DISPOSE)
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_GRADED, r.GetState())
	_, err = decide("D2", "G1", warehousev1.DecideReturnRequest_DECISION_REPAIR)
	refused(t, connect.CodeFailedPrecondition, "NO_SUCH_WAY", err)
	_, err = decide("D1", "G2", warehousev1.DecideReturnRequest_DECISION_DISPOSE)
	refused(t, connect.CodeAlreadyExists, "DECISION_DIFFERS", err)
	r, err = decide("D3", "G2", warehousev1.DecideReturnRequest_DECISION_RETURN_TO_MERCHANT)
	require.NoError(t, err)
	require.Equal(t, warehousev1.Return_STATE_CLOSED, r.GetState())
	require.True(t, proto.Equal(&warehousev1.ReturnLine{Sku: "sku_a", Quantity: 2, Received: 2, Graded: 2, Destroyed: 1, SentBack: 1}, r.GetLines()[0]))
	list, err := staff.ListReturns(t.Context(), &warehousev1.ListReturnsRequest{State: warehousev1.Return_STATE_CLOSED, Reference: "ord_1"})
	require.NoError(t, err)
	require.Len(t, list.GetReturns(), 1)
	var moved []string
	for _, e := range h.Published(t) {
		if m, ok := e.(*warehousev1.StockMoved); ok {
			require.Equal(t, req.GetReturnId(), m.GetReference())
			require.Len(t, m.GetLevels(), 1)
			moved = append(moved, fmt.Sprint(m.GetMoveId(), " ", m.GetFrom(), " ", m.GetTo(), " ", m.GetQuantity()))
		}
	}
	require.Equal(t, []string{"D1 DISPOSITION_DAMAGED DISPOSITION_DISPOSED 1", "D3 DISPOSITION_DAMAGED DISPOSITION_EXTERNAL 1"}, moved, "each decision is told once")
	h.consistent(t)
}

// S6 is the database's last word too.
func TestTheDatabaseKeepsReturnsInBounds(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 2})
	h.ship(t, "ord_1", "sku_a", "", 2)
	_, err := h.desk(worker("acc_1")).returns.AuthoriseReturn(t.Context(), authorisation("ord_1", back("sku_a", 2)))
	require.NoError(t, err)
	for _, c := range []struct{ state, sql string }{
		{"23514", `UPDATE shipped SET allowed = 3`},
		{"23514", `UPDATE return_line SET received = 3`},
		{"23514", `UPDATE return_line SET received = 1, graded = 2`},
		{"23514", `UPDATE return_line SET received = 1, graded = 1, restocked = 2`},
		{"42501", `DELETE FROM return_line`},
		{"42501", `DELETE FROM shipped`},
		{"42501", `UPDATE return_allowed SET quantity = 9`},
		{"42501", `DELETE FROM booked`},
	} {
		_, err := h.DB.Do(t.Context(), c.sql)
		require.Equal(t, c.state, store.SQLState(err), "%s: %v", c.sql, err)
	}
}

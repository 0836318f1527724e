package main

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	outside    = warehousev1.Disposition_DISPOSITION_EXTERNAL
	inspecting = warehousev1.Disposition_DISPOSITION_INSPECTING
)

func (h *house) goods() warehousev1connect.GoodsStepServiceClient {
	return warehousev1connect.NewGoodsStepServiceClient(h.Client(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "inspection"}, "GB")))
}

// pass lets the inspection say that goods passed: serials, or a quantity.
func (h *house) pass(t testing.TB, caseID, sku, lot string, quantity int64, units ...string) {
	t.Helper()
	var events []proto.Message
	word := func(unit string, n int64) {
		events = append(events, &inspectionv1.GoodsPassed{Passage: fmt.Sprintf("%s/%s/%s/%s/%d", caseID, sku, lot, unit, n)})
	}
	for _, u := range units {
		word(u, 1)
	}
	if len(units) == 0 {
		word("", quantity)
	}
	require.NoError(t, h.Deliver(t.Context(), "inspection", events...))
}

// admit takes goods of a consignment in that passed.
func (h *house) admit(t testing.TB, sku string, units ...string) (caseID string) {
	t.Helper()
	caseID = id.New("cas")
	h.pass(t, caseID, sku, "", 0, units...)
	_, err := h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: sku, Quantity: int64(len(units)), UnitIds: units})
	require.NoError(t, err)
	return caseID
}

// shelve admits serialised goods and puts them on the shelf.
func (h *house) shelve(t testing.TB, sku string, units ...string) {
	t.Helper()
	h.admit(t, sku, units...)
	h.putAway(t, "main", sku, "", units...)
}

func (h *house) putAway(t testing.TB, site, sku, lot string, units ...string) {
	t.Helper()
	_, err := h.desk(worker("acc_shelf")).purchasing.PutAway(t.Context(), &warehousev1.PutAwayRequest{PutAwayId: id.New("pa"), Site: site, Lines: []*warehousev1.PutAwayLine{
		{Sku: sku, Lot: lot, Authenticated: true, Quantity: int64(len(units)), UnitIds: units, Location: "A-1"},
	}})
	require.NoError(t, err)
}

// sell takes serialised goods through everything to the consumer, by the
// ledger alone.
func (h *house) sell(t testing.TB, order, sku string, units ...string) {
	t.Helper()
	req := reservationOf(&warehousev1.ReservationLine{Sku: sku, Quantity: int64(len(units)), Authenticated: true})
	_, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, h.DB.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, w := range [][3]string{{"pick", "reserved", "picked"}, {"pack", "picked", "packed"}, {"staging", "packed", "outbound"},
			{"hand-over", "outbound", "in_transit"}, {"delivery", "in_transit", "external"}} {
			if _, err := post(ctx, tx, way{reason: w[0], from: w[1], to: w[2]},
				goods{key: key{sku, "main", "", true}, units: units, reference: req.GetReservationId()}); err != nil {
				return err
			}
		}
		for _, u := range units {
			if _, err := tx.Do(ctx, `INSERT INTO shipped (reference, sku, lot, unit, quantity) VALUES ($1, $2, '', $3, 1)`, order, sku, u); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (h *house) unit(t testing.TB, unit string) *warehousev1.UnitStock {
	t.Helper()
	res, err := h.desk(worker("acc_1")).inventory.GetUnitStock(t.Context(), &warehousev1.GetUnitStockRequest{UnitIds: []string{unit}})
	require.NoError(t, err)
	if len(res.GetUnits()) == 0 {
		return nil
	}
	return res.GetUnits()[0]
}

func TestGoodsAreAdmittedByTheInspectionsWordOnly(t *testing.T) {
	t.Parallel()
	h := open(t)
	caseID := id.New("cas")
	req := &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, MerchantId: "mrc_one", Sku: "sku_a", Quantity: 2, UnitIds: []string{"unt_1", "unt_2"}}
	_, err := h.goods().AdmitGoods(t.Context(), req)
	refused(t, connect.CodeUnavailable, "PASS_NOT_HEARD", err)
	h.pass(t, caseID, "sku_a", "", 0, "unt_1")
	_, err = h.goods().AdmitGoods(t.Context(), req)
	refused(t, connect.CodeUnavailable, "PASS_NOT_HEARD", err)
	h.pass(t, caseID, "sku_a", "", 0, "unt_2")
	for range 2 {
		_, err = h.goods().AdmitGoods(t.Context(), req)
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, h.total(t, "sku_a", "receiving"))
	require.True(t, proto.Equal(&warehousev1.UnitStock{UnitId: "unt_1", Sku: "sku_a", Site: "main", Disposition: warehousev1.Disposition_DISPOSITION_RECEIVING, CaseId: caseID}, h.unit(t, "unt_1")))
	other := proto.CloneOf(req)
	other.Quantity, other.UnitIds = 1, []string{"unt_1"}
	_, err = h.goods().AdmitGoods(t.Context(), other)
	refused(t, connect.CodeAlreadyExists, "ADMISSION_DIFFERS", err)

	// A serial that stands in the house comes in no second time, whatever
	// passed.
	again := id.New("cas")
	h.pass(t, again, "sku_a", "", 0, "unt_1")
	_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: again, From: outside, Site: "east", Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_1"}})
	refused(t, connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", err)
	// Nor by another's pass.
	theirs := id.New("cas")
	h.pass(t, theirs, "sku_z", "", 5)
	_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: theirs, From: outside, MerchantId: "mrc_one", Sku: "sku_z", Quantity: 1})
	refused(t, connect.CodeFailedPrecondition, "SKU_UNKNOWN", err)

	admitted := 0
	for _, e := range h.Published(t) {
		if a, ok := e.(*warehousev1.GoodsAdmitted); ok {
			admitted++
			require.Equal(t, []string{"unt_1", "unt_2"}, a.GetUnitIds())
			require.Equal(t, "mrc_one", a.GetMerchantId())
		}
	}
	require.Equal(t, 1, admitted)
	h.consistent(t)
}

func TestALotWithASlashPasses(t *testing.T) {
	t.Parallel()
	h := open(t)
	caseID := id.New("cas")
	require.NoError(t, h.Deliver(t.Context(), "inspection", &inspectionv1.GoodsPassed{Passage: caseID + "/sku_a/7%2F25%25//3"}))
	_, err := h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: "sku_a", Lot: "7/25%", ExpiresOn: "2031-01-01", Quantity: 3})
	require.NoError(t, err)
	require.EqualValues(t, 3, h.total(t, "sku_a", "receiving"))
}

// An inspection that came to another verdict lets nothing through any more, in
// whichever order its words are heard.
func TestALaterVerdictTakesAPassBack(t *testing.T) {
	t.Parallel()
	h := open(t)
	early, late, used := id.New("cas"), id.New("cas"), id.New("cas")
	admit := func(caseID string, quantity int64) error {
		_, err := h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: "sku_a", Quantity: quantity})
		return err
	}
	h.pass(t, early, "sku_a", "", 3)
	h.pass(t, used, "sku_a", "", 1)
	require.NoError(t, admit(used, 1))
	verdict := func(caseID string, v inspectionv1.Verdict) {
		require.NoError(t, h.Deliver(t.Context(), "inspection", &inspectionv1.VerdictConfirmed{CaseId: caseID, Verdict: v}))
	}
	verdict(early, inspectionv1.Verdict_VERDICT_COUNTERFEIT)
	verdict(used, inspectionv1.Verdict_VERDICT_COUNTERFEIT)
	refused(t, connect.CodeUnavailable, "PASS_NOT_HEARD", admit(early, 3))
	// The word of an earlier position heard after it.
	_, err := h.Admin.Exec(t.Context(), `INSERT INTO bus.log (pos, event_id, source, topic, key, lane, at, payload)
		VALUES (9100, gen_random_uuid(), 'inspection', 'entrepot.inspection.v1.GoodsPassed', $1, 0, now(), '')`, late+"/sku_a///3")
	require.NoError(t, err)
	_, err = h.DB.Do(t.Context(), `SELECT revoke_passes(ARRAY[$1::text], '{9101}')`, late)
	require.NoError(t, err)
	_, err = h.DB.Do(t.Context(), `SELECT record_pass(9100)`)
	require.NoError(t, err)
	refused(t, connect.CodeUnavailable, "PASS_NOT_HEARD", admit(late, 3))
	// And found genuine after all.
	h.pass(t, early, "sku_a", "", 3)
	verdict(early, inspectionv1.Verdict_VERDICT_GENUINE)
	require.NoError(t, admit(early, 3))
	require.EqualValues(t, 4, h.total(t, "sku_a", "receiving"))
}

// A line that asks for authenticated goods gets only those; any other takes
// them last of its lot.
func TestAuthenticatedLinesTakeOnlyWhatPassed(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 2})
	h.shelve(t, "sku_a", "unt_1", "unt_2")
	strict := func(n int64) *warehousev1.ReservationLine {
		return &warehousev1.ReservationLine{Sku: "sku_a", Quantity: n, Authenticated: true}
	}
	_, err := h.orders.ReserveStock(t.Context(), reservationOf(strict(3)))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	req := reservationOf(strict(1))
	res, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	require.True(t, proto.Equal(&warehousev1.ReservationLine{Sku: "sku_a", Quantity: 1, Site: "main", Authenticated: true}, res.GetReservation().GetLines()[0]))
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, h.unit(t, "unt_1").GetDisposition(), "a promise is of a number, not of a piece")
	plain, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 3)))
	require.NoError(t, err)
	require.Len(t, plain.GetReservation().GetLines(), 2)
	require.False(t, plain.GetReservation().GetLines()[0].GetAuthenticated())
	require.EqualValues(t, 1, plain.GetReservation().GetLines()[1].GetQuantity())
	weaker := proto.CloneOf(req)
	weaker.Lines[0].Authenticated = false
	_, err = h.orders.ReserveStock(t.Context(), weaker)
	require.NoError(t, err, "what was asked for and more")
	_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
	require.NoError(t, err)
	_, err = h.orders.ReserveStock(t.Context(), reservationOf(strict(1)))
	require.NoError(t, err)
	h.consistent(t)
}

// S5 by raw SQL: the module's own role, whatever it sends, brings nothing back
// to the shelf that no inspection let through.
func TestTheModulesOwnRoleCannotForgeAPass(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1", "unt_2")
	h.sell(t, "ord_1", "sku_a", "unt_1")
	mine, other, spent := id.New("cas"), id.New("cas"), h.admit(t, "sku_b", "unt_9")
	h.pass(t, mine, "sku_a", "", 2)
	h.pass(t, other, "sku_a", "", 0, "unt_3")
	post := func(reason, from, to, unit string, n int, caseID string) string {
		units := "{" + unit + "}"
		return fmt.Sprintf(`SELECT FROM post('%s', '%s', '%s', '{sku_a}', '{main}', '{""}', '{%t}', '%s', '{%d}', '{x}', '%s', '', '')`, reason, from, to, unit != "", units, n, caseID)
	}
	must := func(sql string) {
		_, err := h.DB.Do(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	must(post("return", "external", "quarantine", "unt_1", 1, ""))
	must(post("grading", "quarantine", "inspecting", "unt_1", 1, ""))
	must(post("return", "external", "quarantine", "", 5, ""))
	must(post("grading", "quarantine", "inspecting", "", 5, ""))
	_, err := h.Admin.Exec(t.Context(), `INSERT INTO bus.log (pos, event_id, source, topic, key, lane, at, payload) VALUES
		(9001, gen_random_uuid(), 'warehouse', 'entrepot.inspection.v1.GoodsPassed', 'cas_x/sku_a//unt_1/1', 0, now(), ''),
		(9002, gen_random_uuid(), 'inspection', 'entrepot.inspection.v1.UnitCommissioned', 'cas_x/sku_a//unt_1/1', 0, now(), ''),
		(9003, gen_random_uuid(), 'inspection', 'entrepot.inspection.v1.GoodsPassed', 'cas_x/sku_a//unt_1', 0, now(), ''),
		(9004, gen_random_uuid(), 'inspection', 'entrepot.inspection.v1.GoodsPassed', 'cas_x/sku_a//unt_1/-1', 0, now(), ''),
		(9005, gen_random_uuid(), 'inspection', 'entrepot.inspection.v1.GoodsPassed', 'cas_x/sku_a//unt_1/9/9', 0, now(), '')`)
	require.NoError(t, err)

	for _, c := range []struct{ name, state, sql string }{
		{"without a pass", "WH005", post("admission", "inspecting", "receiving", "unt_1", 1, "")},
		{"by a case that never was", "WH005", post("admission", "inspecting", "receiving", "unt_1", 1, "cas_none")},
		{"by a pass of a quantity, for a serial", "WH005", post("admission", "inspecting", "receiving", "unt_1", 1, mine)},
		{"by another's pass", "WH005", post("admission", "inspecting", "receiving", "unt_1", 1, other)},
		{"by the pass of a serial, for a quantity", "WH005", post("admission", "inspecting", "receiving", "", 1, other)},
		{"by a spent pass", "WH005", post("admission", "inspecting", "receiving", "unt_1", 1, spent)},
		{"more than passed", "WH005", post("admission", "inspecting", "receiving", "", 3, mine)},
		{"by another reason", "WH002", post("put-away", "inspecting", "receiving", "unt_1", 1, mine)},
		{"straight to the shelf", "WH002", post("admission", "inspecting", "sellable", "unt_1", 1, mine)},
		{"around it", "WH002", post("receipt", "inspecting", "incoming", "unt_1", 1, mine)},
		{"a serial received without inspection", "WH002", post("receipt", "external", "sellable", "unt_7", 1, "")},
		{"a serial received in two moves", "WH002", post("receipt", "external", "receiving", "unt_7", 1, "")},
		{"a serial counted up", "WH002", post("adjustment", "external", "sellable", "unt_7", 1, "")},
		{"a serial from where it is not", "WH001", post("grading", "quarantine", "damaged", "unt_1", 1, "")},
		{"a serial from where others are", "WH004", post("refusal", "inspecting", "damaged", "unt_2", 1, "")},
		{"a serial that is in the house", "WH004", post("return", "external", "quarantine", "unt_2", 1, "")},
		{"two pieces of one serial", "23514", post("return", "external", "quarantine", "unt_8", 2, "")},
		{"a serial twice", "WH004", `SELECT FROM post('return', 'external', 'quarantine', '{sku_a,sku_a}', '{main,main}', '{"",""}', '{t,t}', '{unt_8,unt_8}', '{1,1}', '{x,x}', '', '', '')`},
		{"serialised goods without their serials", "WH004", `SELECT FROM post('return', 'external', 'quarantine', '{sku_a}', '{main}', '{""}', '{t}', '{}', '{1}', '{x}', '', '', '')`},
		{"a serial among goods without", "WH004", `SELECT FROM post('return', 'external', 'quarantine', '{sku_a}', '{main}', '{""}', '{f}', '{unt_8}', '{1}', '{x}', '', '', '')`},
		{"a serial of another sku", "WH004", `SELECT FROM post('return', 'external', 'quarantine', '{sku_b}', '{main}', '{""}', '{t}', '{unt_1}', '{1}', '{x}', '', '', '')`},
		{"writing a pass", "42501", `INSERT INTO pass (case_id, sku, lot, unit, quantity, position) VALUES ('c', 'sku_a', '', 'unt_1', 1, 1)`},
		{"changing a pass", "42501", `UPDATE pass SET used = 0, revoked = false`},
		{"undoing what was taken back", "42501", `DELETE FROM pass_revoked`},
		{"writing a serial", "42501", `INSERT INTO stock_unit VALUES ('unt_7', 'sku_a', 'main', '', 'sellable', 'cas_x')`},
		{"changing a serial", "42501", `UPDATE stock_unit SET disposition = 'sellable', case_id = 'cas_x'`},
		{"losing a serial", "42501", `DELETE FROM stock_unit`},
		{"a lot that lives longer", "42501", `UPDATE stock_lot SET expires_on = '2099-01-01'`},
		{"a position that nobody heard", "WH006", `SELECT record_pass(123456)`},
		{"its own word", "WH006", `SELECT record_pass(9001)`},
		{"another event", "WH006", `SELECT record_pass(9002)`},
		{"a word cut short", "WH006", `SELECT record_pass(9003)`},
		{"a word of less than nothing", "WH006", `SELECT record_pass(9004)`},
		{"a word too long", "WH006", `SELECT record_pass(9005)`},
		{"as the owner", "42501", `SET ROLE m_warehouse`},
		{"as the owner of the session", "42501", `SET SESSION AUTHORIZATION m_warehouse`},
		{"another post", "42501", `ALTER FUNCTION record_pass(bigint) SECURITY INVOKER`},
		{"the refusal alone", "42501", `SELECT refuse('external', 'sku_a', 'main', '', 1, 1, '')`},
		{"another bus", "42501", `CREATE SCHEMA bus2`},
		{"switching checks off", "42501", `SET session_replication_role = replica`},
	} {
		_, err := h.DB.Do(t.Context(), c.sql)
		require.Equal(t, c.state, store.SQLState(err), "%s: %v", c.name, err)
	}
	require.EqualValues(t, 1, h.total(t, "sku_a", "sellable"), "the other one")
	must(post("admission", "inspecting", "receiving", "", 2, mine))
	_, err = h.DB.Do(t.Context(), post("admission", "inspecting", "receiving", "", 1, mine))
	require.Equal(t, "WH005", store.SQLState(err), "spent")
	h.consistent(t)
}

func TestRefusedGoodsGoWhereTheInspectionSays(t *testing.T) {
	t.Parallel()
	h := open(t)
	for to, name := range refusedTo {
		unit := "unt_" + name
		h.shelve(t, "sku_a", unit)
		move := &warehousev1.MoveStockRequest{
			MoveId: "M-" + name, Sku: "sku_a", Authenticated: true, Quantity: 1, UnitIds: []string{unit}, Cause: "looks odd",
			From: warehousev1.Disposition_DISPOSITION_SELLABLE, To: warehousev1.Disposition_DISPOSITION_SUSPECT,
		}
		inventory := h.desk(worker("acc_1")).inventory
		for range 2 {
			res, err := inventory.MoveStock(t.Context(), move)
			require.NoError(t, err)
			require.Len(t, res.GetLevels(), 1)
		}
		require.Empty(t, h.unit(t, unit).GetCaseId(), "doubted: the pass stands no more")
		var asked *warehousev1.InspectionRequested
		for _, e := range h.Published(t) {
			if r, ok := e.(*warehousev1.InspectionRequested); ok && r.GetReference() == move.GetMoveId() {
				asked = r
			}
		}
		require.Equal(t, "DOUBTED", asked.GetReason())
		req := &warehousev1.RefuseGoodsRequest{CaseId: asked.GetCaseId(), To: to, Sku: "sku_a", Quantity: 1, UnitIds: []string{unit}}
		for range 2 {
			_, err := h.goods().RefuseGoods(t.Context(), req)
			require.NoError(t, err, name)
		}
		require.Equal(t, to, h.unit(t, unit).GetDisposition())
		// It may be destroyed later, from where it stood since.
		req.To = warehousev1.Disposition_DISPOSITION_DESTROYED
		res, err := h.goods().RefuseGoods(t.Context(), req)
		require.NoError(t, err, name)
		if name == "external" {
			require.Zero(t, res.GetMoved())
			h.shelve(t, "sku_a", unit) // sent back to its merchant, it may come with another pass
			continue
		}
		require.EqualValues(t, 1, res.GetMoved())
		back := id.New("cas")
		h.pass(t, back, "sku_a", "", 0, unit)
		for _, from := range []warehousev1.Disposition{outside, inspecting} {
			_, err = h.goods().AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: back, From: from, Sku: "sku_a", Quantity: 1, UnitIds: []string{unit}})
			require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "destroyed is for ever: %v", err)
		}
	}
	h.consistent(t)
}

// MoveStock opens no way to the shelf.
func TestTheFloorDoesNotSell(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10})
	inventory := h.desk(worker("acc_1")).inventory
	move := func(id string, from, to warehousev1.Disposition) error {
		_, err := inventory.MoveStock(t.Context(), &warehousev1.MoveStockRequest{MoveId: id, Sku: "sku_a", Quantity: 2, From: from, To: to, Cause: "found so"})
		return err
	}
	const sellable, damaged, expired = warehousev1.Disposition_DISPOSITION_SELLABLE, warehousev1.Disposition_DISPOSITION_DAMAGED, warehousev1.Disposition_DISPOSITION_EXPIRED
	require.NoError(t, move("1", sellable, damaged))
	require.NoError(t, move("2", sellable, expired))
	require.NoError(t, move("3", expired, warehousev1.Disposition_DISPOSITION_DISPOSED))
	for i, to := range []warehousev1.Disposition{warehousev1.Disposition_DISPOSITION_RECEIVING, warehousev1.Disposition_DISPOSITION_RESERVED, warehousev1.Disposition_DISPOSITION_DESTROYED, warehousev1.Disposition_DISPOSITION_REPAIR} {
		refused(t, connect.CodeFailedPrecondition, "NO_SUCH_WAY", move(fmt.Sprint("no", i), damaged, to))
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(move("4", damaged, sellable)))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", move("5", expired, warehousev1.Disposition_DISPOSITION_DISPOSED))
	refused(t, connect.CodeAlreadyExists, "MOVE_DIFFERS", move("1", sellable, expired))
	require.EqualValues(t, 6, h.total(t, "sku_a", "sellable"))
	h.consistent(t)
}

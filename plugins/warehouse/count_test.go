package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// counter is somebody who counts, and another who approves.
type counter struct {
	*house
	anna, ben desk
}

func openCounter(t testing.TB) *counter {
	h := open(t)
	return &counter{h, h.desk(worker("acc_anna")), h.desk(worker("acc_ben"))}
}

func (c *counter) count(t testing.TB, id string, lines ...*warehousev1.CountLine) (*warehousev1.Count, error) {
	t.Helper()
	_, err := c.anna.inventory.OpenCount(t.Context(), &warehousev1.OpenCountRequest{CountId: id, Skus: []string{"sku_a"}})
	require.NoError(t, err)
	res, err := c.anna.inventory.SubmitCount(t.Context(), &warehousev1.SubmitCountRequest{CountId: id, Lines: lines})
	return res.GetCount(), err
}

func (c *counter) approve(t testing.TB, id string) error {
	t.Helper()
	_, err := c.ben.inventory.ApproveCount(t.Context(), &warehousev1.ApproveCountRequest{CountId: id, Cause: "gone from its shelf"})
	return err
}

func scannedLine(units ...string) *warehousev1.CountLine {
	return &warehousev1.CountLine{Sku: "sku_a", Authenticated: true, Counted: int64(len(units)), UnitIds: units}
}

// A serial that nobody finds goes out of the books with a cause, on the word of
// two persons, and comes back by an inspection only.
func TestALostSerialGoesOutByTwoPersons(t *testing.T) {
	t.Parallel()
	c := openCounter(t)
	c.shelve(t, "sku_a", "unt_1", "unt_2", "unt_3")
	c.stock(t, "", map[string]int64{"sku_a": 4})
	plain := &warehousev1.CountLine{Sku: "sku_a", Counted: 4}

	same, err := c.count(t, "C1", plain, scannedLine("unt_3", "unt_1", "unt_2"))
	require.NoError(t, err)
	require.Equal(t, warehousev1.Count_STATE_APPROVED, same.GetState(), "nothing differs")

	submitted, err := c.count(t, "C2", plain, scannedLine("unt_1", "unt_3"))
	require.NoError(t, err)
	require.True(t, proto.Equal(&warehousev1.CountLine{
		Sku: "sku_a", Authenticated: true, Counted: 2, Expected: 3, UnitIds: []string{"unt_1", "unt_3"}, MissingUnitIds: []string{"unt_2"},
	}, submitted.GetLines()[1]))
	again, err := c.count(t, "C2", scannedLine("unt_3", "unt_1"), plain)
	require.NoError(t, err)
	require.True(t, proto.Equal(submitted, again))
	_, err = c.count(t, "C2", scannedLine("unt_2", "unt_1"), plain)
	refused(t, connect.CodeFailedPrecondition, "COUNT_SUBMITTED", err)
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, c.unit(t, "unt_2").GetDisposition(), "nothing moves on one person's word")
	_, err = c.anna.inventory.ApproveCount(t.Context(), &warehousev1.ApproveCountRequest{CountId: "C2", Cause: "gone from its shelf"})
	refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
	for range 2 {
		require.NoError(t, c.approve(t, "C2"))
	}
	lost := c.unit(t, "unt_2")
	require.Equal(t, outside, lost.GetDisposition())
	require.Empty(t, lost.GetCaseId(), "its inspection stands no more")
	var cause, actor string
	require.NoError(t, c.Admin.QueryRow(t.Context(), `SELECT cause, actor FROM p_warehouse.stock_move WHERE unit = 'unt_2' ORDER BY id DESC LIMIT 1`).Scan(&cause, &actor))
	require.Equal(t, "gone from its shelf", cause)
	require.Contains(t, actor, "acc_ben")
	var told []*warehousev1.StockMoved
	for _, e := range c.Published(t) {
		if m, ok := e.(*warehousev1.StockMoved); ok {
			told = append(told, m)
		}
	}
	require.Len(t, told, 1)
	require.Equal(t, []string{"unt_2"}, told[0].GetUnitIds())
	require.Equal(t, outside, told[0].GetTo())

	// It turned up. No count and no raw SQL puts it on the shelf.
	_, err = c.count(t, "C3", plain, scannedLine("unt_1", "unt_2", "unt_3"))
	refused(t, connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", err)
	_, err = c.DB.Do(t.Context(), `SELECT FROM post('adjustment', 'external', 'sellable', '{sku_a}', '{main}', '{""}', '{true}', '{unt_2}', '{1}', '{x}', '', '', '')`)
	require.Equal(t, stateNoWay, store.SQLState(err))
	c.shelve(t, "sku_a", "unt_2")
	require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, c.unit(t, "unt_2").GetDisposition())
	c.consistent(t)
}

// What a count says of serials that is not so, or not well said.
func TestACountNamesTheSerialsOfItsShelf(t *testing.T) {
	t.Parallel()
	c := openCounter(t)
	c.shelve(t, "sku_a", "unt_1", "unt_2")
	c.shelve(t, "sku_b", "unt_b")
	c.sell(t, "ord_1", "sku_a", "unt_2")
	for name, x := range map[string]struct {
		code   connect.Code
		reason string
		lines  []*warehousev1.CountLine
	}{
		"sold":                {connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", []*warehousev1.CountLine{scannedLine("unt_1", "unt_2")}},
		"another sku's":       {connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", []*warehousev1.CountLine{scannedLine("unt_1", "unt_b")}},
		"nobody's":            {connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", []*warehousev1.CountLine{scannedLine("unt_x")}},
		"of another lot":      {connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", []*warehousev1.CountLine{{Sku: "sku_a", Lot: "L1", Authenticated: true, Counted: 1, UnitIds: []string{"unt_1"}}}},
		"not all scanned":     {connect.CodeInvalidArgument, "INVALID_ARGUMENT", []*warehousev1.CountLine{{Sku: "sku_a", Authenticated: true, Counted: 2, UnitIds: []string{"unt_1"}}}},
		"serials of the rest": {connect.CodeInvalidArgument, "INVALID_ARGUMENT", []*warehousev1.CountLine{{Sku: "sku_a", Counted: 1, UnitIds: []string{"unt_1"}}}},
		"twice":               {connect.CodeInvalidArgument, "INVALID_ARGUMENT", []*warehousev1.CountLine{scannedLine("unt_1"), {Sku: "sku_a", Lot: "L1", Authenticated: true, Counted: 1, UnitIds: []string{"unt_1"}}}},
	} {
		_, err := c.count(t, "C", x.lines...)
		require.Equal(t, x.code, connect.CodeOf(err), "%s: %v", name, err)
		if x.code != connect.CodeInvalidArgument {
			refused(t, x.code, x.reason, err)
		}
	}
	// Serials that no line names were not found.
	got, err := c.count(t, "C", &warehousev1.CountLine{Sku: "sku_a"})
	require.NoError(t, err)
	require.Equal(t, []string{"unt_1"}, got.GetLines()[1].GetMissingUnitIds())
	c.consistent(t)
}

// What is promised lies on the shelf as well: it is counted, and taken out of
// the books once nobody is promised it any more.
func TestPromisedGoodsAreCountedToo(t *testing.T) {
	t.Parallel()
	c := openCounter(t)
	c.shelve(t, "sku_a", "unt_1", "unt_2")
	strict := &warehousev1.ReservationLine{Sku: "sku_a", Quantity: 2, Authenticated: true}
	req := reservationOf(strict)
	_, err := c.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	same, err := c.count(t, "C1", scannedLine("unt_1", "unt_2"))
	require.NoError(t, err)
	require.Equal(t, warehousev1.Count_STATE_APPROVED, same.GetState())
	_, err = c.count(t, "C2", scannedLine("unt_2"))
	require.NoError(t, err)
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", c.approve(t, "C2"))
	_, err = c.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
	require.NoError(t, err)
	require.NoError(t, c.approve(t, "C2"))
	require.Equal(t, outside, c.unit(t, "unt_1").GetDisposition())
	c.consistent(t)
}

// Between the count and its approval a missing serial was found and sold.
func TestASerialThatTurnsUpIsNotWrittenOff(t *testing.T) {
	t.Parallel()
	c := openCounter(t)
	c.shelve(t, "sku_a", "unt_1", "unt_2")
	_, err := c.count(t, "C1", &warehousev1.CountLine{Sku: "sku_a"})
	require.NoError(t, err)
	c.sell(t, "ord_1", "sku_a", "unt_2")
	require.NoError(t, c.approve(t, "C1"))
	require.Equal(t, outside, c.unit(t, "unt_1").GetDisposition())
	var sold bool
	require.NoError(t, c.Admin.QueryRow(t.Context(), `SELECT sold FROM p_warehouse.stock_unit WHERE unit = 'unt_2'`).Scan(&sold))
	require.True(t, sold)
	c.consistent(t)
}

// Who counts is told where to look, along the shelves, and not how much is
// there.
func TestACountTellsWhereToLook(t *testing.T) {
	t.Parallel()
	c := openCounter(t)
	c.receiving(t, &warehousev1.NoticeLine{Sku: "sku_a", Lot: "L1", Quantity: 1}, &warehousev1.NoticeLine{Sku: "sku_a", Lot: "L2", Quantity: 2})
	c.putAt(t, id.New("pa"), away("sku_a", "L1", 1, "A-10"), away("sku_a", "L2", 2, "A-9"))
	res, err := c.anna.inventory.OpenCount(t.Context(), &warehousev1.OpenCountRequest{CountId: "C1", Skus: []string{"sku_a"}})
	require.NoError(t, err)
	require.True(t, proto.Equal(&warehousev1.Count{CountId: "C1", Site: "main", State: warehousev1.Count_STATE_OPEN, Places: []*warehousev1.CountPlace{
		{Sku: "sku_a", Lot: "L2", Location: "A-9"}, {Sku: "sku_a", Lot: "L1", Location: "A-10"},
	}}, res.GetCount()), "%v", res)
}

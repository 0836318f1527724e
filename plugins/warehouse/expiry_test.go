package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// First expired, first out; at main first, then at the others by name; what
// is expired is promised to nobody; not authenticated goods before others.
func TestFirstExpiredFirstOut(t *testing.T) {
	t.Parallel()
	h := open(t)
	for i, r := range []struct{ site, lot, day string }{
		{"main", "B", "2031-01-01"}, {"main", "A", "2032-01-01"}, {"main", "OLD", "2020-01-01"}, {"main", "", ""}, {"east", "C", "2030-06-01"},
	} {
		_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{
			ReceiptId: string(rune('a' + i)), Site: r.site, Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 2, Lot: r.lot, ExpiresOn: r.day}},
		})
		require.NoError(t, err)
	}
	var order []string
	for range 8 {
		res, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1)))
		require.NoError(t, err)
		l := res.GetReservation().GetLines()[0]
		order = append(order, l.GetSite()+l.GetLot())
	}
	require.Equal(t, []string{"mainB", "mainB", "mainA", "mainA", "main", "main", "eastC", "eastC"}, order)
	_, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1)))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	h.consistent(t)
}

// The pick list names the lots that were promised: what expires first leaves
// the house first, and another lot is not taken for it.
func TestFirstExpiredIsPickedFirst(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.receiving(t, &warehousev1.NoticeLine{Sku: "sku_a", Lot: "LATE", ExpiresOn: "2091-01-01", Quantity: 3},
		&warehousev1.NoticeLine{Sku: "sku_a", Lot: "SOON", ExpiresOn: "2090-01-01", Quantity: 2})
	d.putAt(t, "1", away("sku_a", "LATE", 3, "A-1"), away("sku_a", "SOON", 2, "A-2"))
	f, _ := d.ordered(t, "ord_1", line("sku_a", 1))
	d.ordered(t, "ord_2", line("sku_a", 2))
	var lots []string
	picks := d.plan(t, "w1").GetPicks()
	for _, p := range picks {
		lots = append(lots, p.GetLot())
	}
	require.Equal(t, []string{"LATE", "SOON", "SOON"}, lots, "one that is late, for want of a third")
	require.Equal(t, "SOON", d.get(t, f).GetLines()[0].GetLot())
	_, err := d.floor.ConfirmPicks(t.Context(), &warehousev1.ConfirmPicksRequest{PickId: "p1", WaveId: "w1", Picks: []*warehousev1.Pick{
		{FulfilmentId: f, Sku: "sku_a", Lot: "LATE", Quantity: 1},
	}})
	refused(t, connect.CodeInvalidArgument, "LINE_UNKNOWN", err)
	d.pick(t, "w1", picks...)
	require.Equal(t, map[string]int64{"picked": 3, "sellable": 2}, d.units(t))
}

package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// What a count of announced goods says and does: over, short and damaged
// against the notice, in the answer, the books and the purchase order.
func TestAReceiptIsOverShortOrDamaged(t *testing.T) {
	t.Parallel()
	h, n := open(t), 0
	in := h.desk(member("mrc_one")).purchasing
	for name, c := range map[string]struct {
		announced, good, damaged int64
		as                       *warehousev1.Discrepancy
		moved                    map[string]int64 // of the ledger, by reason and where from
	}{
		"as announced":      {5, 5, 0, nil, map[string]int64{"receipt incoming receiving": 5}},
		"short":             {5, 3, 0, &warehousev1.Discrepancy{Announced: 5, Received: 3}, map[string]int64{"receipt incoming receiving": 3, "short incoming external": 2}},
		"nothing came":      {5, 0, 0, &warehousev1.Discrepancy{Announced: 5}, map[string]int64{"short incoming external": 5}},
		"over":              {5, 7, 0, &warehousev1.Discrepancy{Announced: 5, Received: 7}, map[string]int64{"receipt incoming receiving": 5, "receipt external receiving": 2}},
		"damaged":           {5, 4, 1, &warehousev1.Discrepancy{Announced: 5, Received: 4, Damaged: 1}, map[string]int64{"receipt incoming receiving": 4, "receipt incoming damaged": 1}},
		"short and damaged": {5, 2, 1, &warehousev1.Discrepancy{Announced: 5, Received: 2, Damaged: 1}, map[string]int64{"receipt incoming receiving": 2, "receipt incoming damaged": 1, "short incoming external": 2}},
		"over and damaged":  {5, 4, 3, &warehousev1.Discrepancy{Announced: 5, Received: 4, Damaged: 3}, map[string]int64{"receipt incoming receiving": 4, "receipt incoming damaged": 1, "receipt external damaged": 2}},
		"not announced":     {0, 1, 1, &warehousev1.Discrepancy{Received: 1, Damaged: 1}, map[string]int64{"receipt external receiving": 1, "receipt external damaged": 1}},
	} {
		n++
		order, notice := fmt.Sprint("PO-", n), fmt.Sprint("N-", n)
		_, err := in.PutPurchaseOrder(t.Context(), &warehousev1.PutPurchaseOrderRequest{PurchaseOrderId: order, Supplier: "Acme", Lines: []*warehousev1.PurchaseOrderLine{
			{Sku: "sku_a", Quantity: 9}, {Sku: "sku_b", Quantity: 1},
		}})
		require.NoError(t, err)
		lines := []*warehousev1.NoticeLine{{Sku: "sku_b", Quantity: 1}}
		if c.announced > 0 {
			lines = append(lines, &warehousev1.NoticeLine{Sku: "sku_a", Quantity: c.announced})
		}
		_, err = in.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: notice, PurchaseOrderId: order, Lines: lines})
		require.NoError(t, err)
		count := []*warehousev1.NoticeLine{{Sku: "sku_b", Quantity: 1}}
		if c.good+c.damaged > 0 {
			count = append(count, &warehousev1.NoticeLine{Sku: "sku_a", Quantity: c.good, Damaged: c.damaged})
		}
		res, err := in.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: notice, Lines: count})
		require.NoError(t, err)
		if c.as == nil {
			require.Empty(t, res.GetDiscrepancies(), name)
		} else {
			c.as.Sku = "sku_a"
			require.Len(t, res.GetDiscrepancies(), 1, name)
			require.True(t, proto.Equal(c.as, res.GetDiscrepancies()[0]), "%s: %v", name, res)
		}
		require.Equal(t, c.moved, h.arrivals(t, notice), name)
		po, err := in.GetPurchaseOrder(t.Context(), &warehousev1.GetPurchaseOrderRequest{PurchaseOrderId: order})
		require.NoError(t, err)
		require.True(t, proto.Equal(&warehousev1.PurchaseOrderLine{Sku: "sku_a", Quantity: 9, Announced: c.announced, Received: c.good, Damaged: c.damaged},
			po.GetPurchaseOrder().GetLines()[0]), name)
		h.consistent(t)
	}
}

// arrivals of sku_a with a notice, by reason and way.
func (h *house) arrivals(t testing.TB, notice string) map[string]int64 {
	t.Helper()
	moves, err := h.one.ListMoves(t.Context(), &warehousev1.ListMovesRequest{Sku: "sku_a", Reference: notice})
	require.NoError(t, err)
	sum := make(map[string]int64)
	for _, m := range moves.GetMoves() {
		if m.GetReason() != "notice" {
			sum[m.GetReason()+" "+nameOf(m.GetFrom())+" "+nameOf(m.GetTo())] += m.GetQuantity()
		}
	}
	return sum
}

// However a count differs from its notice: what is on its way is none after it,
// and what came is where it is said to be.
func TestNothingIsOnItsWayAfterItsCount(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.desk(member("mrc_one")).purchasing
	var receiving, damaged int64
	rapid.Check(t, func(rt *rapid.T) {
		amount := rapid.Int64Range(0, 6)
		some := func(name string, counted bool) (lines []*warehousev1.NoticeLine) {
			for _, lot := range []string{"", "L1", "L2"} {
				l := &warehousev1.NoticeLine{Sku: "sku_a", Lot: lot, Quantity: amount.Draw(rt, name)}
				if counted {
					l.Damaged = amount.Draw(rt, name+" damaged")
				}
				if counted || l.GetQuantity() > 0 {
					lines = append(lines, l)
				}
			}
			return lines
		}
		announced, counted, notice := some("announced", false), some("counted", true), id.New("asn")
		if len(announced) == 0 {
			return
		}
		_, err := in.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: notice, Lines: announced})
		require.NoError(rt, err)
		_, err = in.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: notice, Lines: counted})
		require.NoError(rt, err)
		for _, l := range counted {
			receiving, damaged = receiving+l.GetQuantity(), damaged+l.GetDamaged()
		}
		units := h.consistent(rt).GetUnits()
		require.Zero(rt, units["incoming"])
		require.Equal(rt, receiving, units["receiving"])
		require.Equal(rt, damaged, units["damaged"])
	})
}

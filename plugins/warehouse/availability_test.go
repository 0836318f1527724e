package main

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func (h *house) available(t require.TestingT, sku, market string) *warehousev1.Availability {
	res, err := h.orders.GetAvailability(context.Background(), &warehousev1.GetAvailabilityRequest{Market: market, Skus: []string{sku}})
	require.NoError(t, err)
	require.Len(t, res.GetAvailabilities(), 1)
	return res.GetAvailabilities()[0]
}

// What a market is told to be available can be reserved there, and one more
// cannot: whatever lies where, of which lot and kind, under whatever policy of
// this market or another.
func TestAvailabilityIsWhatCanBeReserved(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.shelve(t, "sku_a", "unt_1", "unt_2", "unt_3")
	in := h.desk(member("mrc_one"))
	rapid.Check(t, func(rt *rapid.T) {
		if rapid.Bool().Draw(rt, "arrives") {
			lot := rapid.SampledFrom([]string{"", "OLD", "NEW"}).Draw(rt, "lot")
			_, err := in.stock.ReceiveStock(context.Background(), &warehousev1.ReceiveStockRequest{
				ReceiptId: id.New("grn"), Site: rapid.SampledFrom([]string{"main", "east"}).Draw(rt, "site"), Lines: []*warehousev1.ReceiptLine{{
					Sku: "sku_a", Quantity: rapid.Int64Range(1, 5).Draw(rt, "quantity"), Lot: lot,
					ExpiresOn: map[string]string{"OLD": "2020-01-01", "NEW": "2090-01-01"}[lot],
				}},
			})
			require.NoError(rt, err)
		}
		market := rapid.SampledFrom([]string{"GB", "DE"})
		policy := &warehousev1.StockPolicy{Sku: "sku_a", Market: market.Draw(rt, "policy's"), SafetyStock: rapid.Int64Range(0, 6).Draw(rt, "safety")}
		if rapid.Bool().Draw(rt, "bounded") {
			policy.OnShelf = proto.Int64(rapid.Int64Range(0, 12).Draw(rt, "shelf"))
		}
		_, err := in.inventory.SetStockPolicies(context.Background(), &warehousev1.SetStockPoliciesRequest{Policies: []*warehousev1.StockPolicy{policy}})
		require.NoError(rt, err)

		at, strict := market.Draw(rt, "asked in"), rapid.Bool().Draw(rt, "authenticated")
		reserve := func(quantity int64) (string, error) {
			req := reservationOf(&warehousev1.ReservationLine{Sku: "sku_a", Quantity: quantity, Authenticated: strict})
			req.Market = at
			_, err := h.orders.ReserveStock(context.Background(), req)
			return req.GetReservationId(), err
		}
		told := h.available(rt, "sku_a", at)
		most := told.GetAvailable()
		if strict {
			most = told.GetAvailableAuthenticated()
		}
		_, err = reserve(most + 1)
		refused(rt, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
		if most == 0 {
			return
		}
		rsv, err := reserve(most)
		require.NoError(rt, err)
		left := h.available(rt, "sku_a", at)
		if strict {
			require.Zero(rt, left.GetAvailableAuthenticated())
		} else {
			require.Zero(rt, left.GetAvailable())
		}
		if rapid.IntRange(0, 3).Draw(rt, "keeps") > 0 {
			_, err = h.orders.ReleaseReservation(context.Background(), &warehousev1.ReleaseReservationRequest{ReservationId: rsv})
			require.NoError(rt, err)
			require.True(rt, proto.Equal(told, h.available(rt, "sku_a", at)), "what is released is available again")
		}
	})
	h.consistent(t)
}

// A merchant is told of its own goods; what nobody has ever stocked is not
// available, and what is no sku is not told.
func TestAvailabilityIsToldOfOnesOwnGoods(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 3})
	res, err := h.one.GetAvailability(t.Context(), &warehousev1.GetAvailabilityRequest{Skus: []string{"sku_z", "sku_b", "sku_none", "sku_a"}})
	require.NoError(t, err)
	require.Len(t, res.GetAvailabilities(), 2)
	require.True(t, proto.Equal(&warehousev1.Availability{Sku: "sku_a", Available: 3}, res.GetAvailabilities()[0]))
	require.True(t, proto.Equal(&warehousev1.Availability{Sku: "sku_b"}, res.GetAvailabilities()[1]))
}

// What is past its day is no stock to sell from: it is time to buy again.
func TestExpiredStockIsLowStock(t *testing.T) {
	t.Parallel()
	h := open(t)
	for lot, day := range map[string]string{"OLD": "2020-01-01", "NEW": "2090-01-01"} {
		_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: lot, Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 5, Lot: lot, ExpiresOn: day}}})
		require.NoError(t, err)
	}
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", ReorderPoint: 6}, &warehousev1.StockPolicy{Sku: "sku_a", Market: "DE", ReorderPoint: 4})
	require.NoError(t, h.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "warehouse/reorder"}))
	var low []*warehousev1.StockLow
	for _, e := range h.Published(t) {
		if e, ok := e.(*warehousev1.StockLow); ok {
			low = append(low, e)
		}
	}
	require.Len(t, low, 1)
	require.True(t, proto.Equal(&warehousev1.StockLow{Sku: "sku_a", MerchantId: "mrc_one", Market: "GB", Sellable: 5, ReorderPoint: 6}, low[0]))
}

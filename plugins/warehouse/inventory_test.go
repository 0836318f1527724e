package main

import (
	"fmt"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func (h *house) policies(t testing.TB, policies ...*warehousev1.StockPolicy) {
	t.Helper()
	_, err := h.desk(member("mrc_one")).inventory.SetStockPolicies(t.Context(), &warehousev1.SetStockPoliciesRequest{Policies: policies})
	require.NoError(t, err)
}

func (h *house) policy(t testing.TB, sku, market string) *warehousev1.StockPolicy {
	t.Helper()
	res, err := h.desk(member("mrc_one")).inventory.GetStockPolicies(t.Context(), &warehousev1.GetStockPoliciesRequest{Skus: []string{sku}})
	require.NoError(t, err)
	for _, p := range res.GetPolicies() {
		if p.GetMarket() == market {
			return p
		}
	}
	return nil
}

// What of ten units may be sold in a market, under each policy.
func TestAPolicyBoundsWhatAMarketIsPromised(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 6})
	h.stock(t, "east", map[string]int64{"sku_a": 4})
	for i, c := range []struct {
		policy *warehousev1.StockPolicy
		most   int64
	}{
		{nil, 10},
		{&warehousev1.StockPolicy{}, 10},
		{&warehousev1.StockPolicy{SafetyStock: 3}, 7},
		{&warehousev1.StockPolicy{SafetyStock: 30}, 0},
		{&warehousev1.StockPolicy{OnShelf: proto.Int64(4)}, 4},
		{&warehousev1.StockPolicy{OnShelf: proto.Int64(0)}, 0},
		{&warehousev1.StockPolicy{OnShelf: proto.Int64(9), SafetyStock: 3}, 7},
		{&warehousev1.StockPolicy{OnShelf: proto.Int64(20)}, 10},
	} {
		if c.policy != nil {
			c.policy.Sku, c.policy.Market = "sku_a", "DE"
			h.policies(t, c.policy)
		}
		reserve := func(quantity int64) (*warehousev1.ReserveStockRequest, error) {
			req := reservationOf(line("sku_a", quantity))
			req.Market = "DE"
			_, err := h.orders.ReserveStock(t.Context(), req)
			return req, err
		}
		require.Equal(t, c.most, h.available(t, "sku_a", "DE").GetAvailable(), "case %d", i)
		_, err := reserve(c.most + 1)
		refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
		info, _ := fault.Info(err)
		require.Equal(t, fmt.Sprint(c.most), info.GetMetadata()["sku_a"], "case %d", i)
		if c.most == 0 {
			continue
		}
		req, err := reserve(c.most)
		require.NoError(t, err, "case %d", i)
		if c.policy != nil && c.policy.OnShelf != nil {
			require.Equal(t, c.policy.GetOnShelf()-c.most, h.policy(t, "sku_a", "DE").GetOnShelf(), "each sale lowers it")
		}
		_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
		require.NoError(t, err)
		if c.policy != nil && c.policy.OnShelf != nil {
			require.Equal(t, c.policy.GetOnShelf(), h.policy(t, "sku_a", "DE").GetOnShelf(), "and what is released stands there again")
		}
	}
	// Another market is another shelf.
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "DE", OnShelf: proto.Int64(1)})
	_, err := h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 2)))
	require.NoError(t, err, "the market of the call is GB")

	_, err = h.desk(member("mrc_two")).inventory.SetStockPolicies(t.Context(), &warehousev1.SetStockPoliciesRequest{Policies: []*warehousev1.StockPolicy{{Sku: "sku_a", Market: "DE"}}})
	refused(t, connect.CodeFailedPrecondition, "SKU_UNKNOWN", err)
	require.EqualValues(t, 1, h.policy(t, "sku_a", "DE").GetOnShelf())
}

// What the merchant says later counts: a release of an earlier sale puts
// nothing on the shelf that it has set since.
func TestAReleaseDoesNotUndoALaterPolicy(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 6})
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", OnShelf: proto.Int64(5)})
	req := reservationOf(line("sku_a", 3))
	_, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", OnShelf: proto.Int64(1)})
	_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
	require.NoError(t, err)
	require.EqualValues(t, 1, h.policy(t, "sku_a", "GB").GetOnShelf())
}

// A shelf is not oversold under any interleaving.
func TestOfTwentyOnTheShelfAHundredBuyersGetTwenty(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 500, "sku_b": 500})
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", OnShelf: proto.Int64(20)}, &warehousev1.StockPolicy{Sku: "sku_b", Market: "GB", SafetyStock: 470})
	var a, b atomic.Int64
	parallel(100, func(n int) {
		for sku, got := range map[string]*atomic.Int64{"sku_a": &a, "sku_b": &b} {
			_, err := h.orders.ReserveStock(t.Context(), reservationOf(line(sku, 1)))
			if err == nil {
				got.Add(1)
			} else if fault.Reason(err) != "OUT_OF_STOCK" {
				t.Errorf("%d: %v", n, err)
			}
		}
	})
	require.EqualValues(t, 20, a.Load())
	require.EqualValues(t, 30, b.Load())
	require.Zero(t, h.policy(t, "sku_a", "GB").GetOnShelf())
	h.consistent(t)
}

func TestStockLowIsToldOnceEachTimeItIsReached(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10})
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", ReorderPoint: 4}, &warehousev1.StockPolicy{Sku: "sku_b", Market: "GB"})
	told := func() (n int, last *warehousev1.StockLow) {
		for range 2 {
			require.NoError(t, h.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "warehouse/reorder"}))
		}
		for _, e := range h.Published(t) {
			if low, ok := e.(*warehousev1.StockLow); ok {
				n, last = n+1, low
			}
		}
		return n, last
	}
	n, _ := told()
	require.Zero(t, n)
	req := reservationOf(line("sku_a", 6))
	_, err := h.orders.ReserveStock(t.Context(), req)
	require.NoError(t, err)
	n, low := told()
	require.Equal(t, 1, n, "at the point")
	require.True(t, proto.Equal(&warehousev1.StockLow{Sku: "sku_a", MerchantId: "mrc_one", Market: "GB", Sellable: 4, ReorderPoint: 4}, low))
	_, err = h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 1)))
	require.NoError(t, err)
	n, _ = told()
	require.Equal(t, 1, n, "deeper is no crossing")
	_, err = h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: req.GetReservationId()})
	require.NoError(t, err)
	n, _ = told()
	require.Equal(t, 1, n)
	h.policies(t, &warehousev1.StockPolicy{Sku: "sku_a", Market: "GB", ReorderPoint: 9})
	n, low = told()
	require.Equal(t, 2, n, "the point came to the stock")
	require.EqualValues(t, 9, low.GetSellable())
}

// Two persons correct the books; one who counts alone can only agree with
// them.
func TestACountIsApprovedByAnother(t *testing.T) {
	t.Parallel()
	h := open(t)
	for i, lot := range []string{"L1", "L2"} {
		_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: fmt.Sprint(i), Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 10, Lot: lot}}})
		require.NoError(t, err)
	}
	h.stock(t, "", map[string]int64{"sku_b": 5})
	anna, ben := h.desk(worker("acc_anna")).inventory, h.desk(worker("acc_ben")).inventory
	count := func(id string, lines ...*warehousev1.CountLine) (*warehousev1.Count, error) {
		opened, err := anna.OpenCount(t.Context(), &warehousev1.OpenCountRequest{CountId: id, Skus: []string{"sku_a", "sku_b"}})
		require.NoError(t, err)
		require.Empty(t, opened.GetCount().GetLines(), "who counts is not told what the books say")
		res, err := anna.SubmitCount(t.Context(), &warehousev1.SubmitCountRequest{CountId: id, Lines: lines})
		return res.GetCount(), err
	}
	l := func(sku, lot string, n int64) *warehousev1.CountLine {
		return &warehousev1.CountLine{Sku: sku, Lot: lot, Counted: n}
	}
	_, err := anna.SubmitCount(t.Context(), &warehousev1.SubmitCountRequest{CountId: "none", Lines: []*warehousev1.CountLine{l("sku_a", "", 1)}})
	refused(t, connect.CodeNotFound, "COUNT_UNKNOWN", err)
	_, err = count("C0", l("sku_a", "L1", 10))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "every sku of the count")
	_, err = count("C1", l("sku_a", "L1", 10), l("sku_b", "", 5), l("sku_c", "", 1))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "no other")

	same, err := count("C2", l("sku_a", "L1", 10), l("sku_a", "L2", 10), l("sku_b", "", 5))
	require.NoError(t, err)
	require.Equal(t, warehousev1.Count_STATE_APPROVED, same.GetState())
	require.Empty(t, same.GetApprovedBy())

	c, err := count("C3", l("sku_a", "L1", 7), l("sku_b", "", 6))
	require.NoError(t, err)
	require.Equal(t, warehousev1.Count_STATE_SUBMITTED, c.GetState())
	require.Len(t, c.GetLines(), 3, "a lot that was not found counts as none")
	require.EqualValues(t, 10, c.GetLines()[1].GetExpected())
	require.EqualValues(t, 20, h.total(t, "sku_a", "sellable"), "nothing moves before it is approved")
	_, err = anna.ApproveCount(t.Context(), &warehousev1.ApproveCountRequest{CountId: "C3", Cause: "stocktake"})
	refused(t, connect.CodePermissionDenied, "SAME_PERSON", err)
	// Something was sold in between.
	_, err = h.orders.ReserveStock(t.Context(), reservationOf(line("sku_a", 2)))
	require.NoError(t, err)
	for range 2 {
		res, err := ben.ApproveCount(t.Context(), &warehousev1.ApproveCountRequest{CountId: "C3", Cause: "stocktake"})
		require.NoError(t, err)
		require.Equal(t, "acc_ben", res.GetCount().GetApprovedBy())
	}
	require.EqualValues(t, 5, h.total(t, "sku_a", "sellable"), "7 counted, 2 of them promised since")
	require.EqualValues(t, 6, h.total(t, "sku_b", "sellable"))
	_, err = h.DB.Do(t.Context(), `UPDATE stock_count SET approved_by = counted_by`)
	require.Error(t, err, "the database wants two persons too")
	var causes int
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_warehouse.stock_move WHERE reference = 'C3' AND cause = 'stocktake'`).Scan(&causes))
	require.Equal(t, 3, causes)
	h.consistent(t)
}

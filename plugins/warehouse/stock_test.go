package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestAReceiptIsBookedOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	req := &warehousev1.ReceiveStockRequest{ReceiptId: "GRN-1", Lines: []*warehousev1.ReceiptLine{
		{Sku: "sku_b", Quantity: 3}, {Sku: "sku_a", Quantity: 10}, {Sku: "sku_b", Quantity: 2},
	}}
	first, err := h.one.ReceiveStock(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, first.GetLevels(), 2)
	require.EqualValues(t, 10, first.GetLevels()[0].GetSellable())
	require.EqualValues(t, 5, first.GetLevels()[1].GetSellable(), "lines of one sku are summed")

	h.stock(t, "", map[string]int64{"sku_a": 7})
	again, err := h.one.ReceiveStock(t.Context(), req)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, again), "a repetition gets the first answer, not today's levels")
	require.EqualValues(t, 17, h.level(t, "sku_a", "main").GetSellable())

	for name, other := range map[string]*warehousev1.ReceiveStockRequest{
		"another quantity": {ReceiptId: "GRN-1", Lines: []*warehousev1.ReceiptLine{{Sku: "sku_b", Quantity: 5}, {Sku: "sku_a", Quantity: 11}}},
		"a line less":      {ReceiptId: "GRN-1", Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 10}}},
		"another site":     {ReceiptId: "GRN-1", Site: "east", Lines: req.GetLines()},
	} {
		_, err := h.one.ReceiveStock(t.Context(), other)
		refused(t, connect.CodeAlreadyExists, "RECEIPT_DIFFERS", err)
		require.EqualValues(t, 17, h.level(t, "sku_a", "main").GetSellable(), name)
	}
	events := h.Published(t)
	require.Len(t, events, 2, "a repetition is no second fact")
	require.True(t, proto.Equal(&warehousev1.StockReceived{
		ReceiptId: "mrc_one/GRN-1", MerchantId: "mrc_one", Levels: first.GetLevels(),
	}, events[0]))
	h.consistent(t)
}

func TestAMerchantReceivesOnlyItsOwnGoods(t *testing.T) {
	t.Parallel()
	h := open(t)
	lines := func(skus ...string) (out []*warehousev1.ReceiptLine) {
		for _, s := range skus {
			out = append(out, &warehousev1.ReceiptLine{Sku: s, Quantity: 1})
		}
		return out
	}
	_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: "1", Lines: lines("sku_a", "sku_z", "sku_new")})
	refused(t, connect.CodeFailedPrecondition, "SKU_UNKNOWN", err)
	info, _ := fault.Info(err)
	require.Equal(t, map[string]string{"sku_z": "unknown", "sku_new": "unknown"}, info.GetMetadata(), "another's sku looks like one that is not")
	require.EqualValues(t, 0, h.level(t, "sku_a", "main").GetSellable(), "all lines or none")

	_, err = h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: "1", MerchantId: "mrc_two", Lines: lines("sku_z")})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = h.staff.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: "1", Lines: lines("sku_z")})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "staff say whose goods arrived")
	_, err = h.staff.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: "1", MerchantId: "mrc_two", Lines: lines("sku_z")})
	require.NoError(t, err)

	res, err := h.one.GetStock(t.Context(), &warehousev1.GetStockRequest{Skus: []string{"sku_z"}})
	require.NoError(t, err)
	require.Empty(t, res.GetLevels(), "another's stock is not seen")
	moves, err := h.one.ListMoves(t.Context(), &warehousev1.ListMovesRequest{})
	require.NoError(t, err)
	require.Empty(t, moves.GetMoves())
	moves, err = h.two.ListMoves(t.Context(), &warehousev1.ListMovesRequest{})
	require.NoError(t, err)
	require.Len(t, moves.GetMoves(), 1)

	guest := warehousev1connect.NewStockServiceClient(h.Client(plugintest.As(call.Principal{}, "GB")))
	_, err = guest.GetStock(t.Context(), &warehousev1.GetStockRequest{Skus: []string{"sku_z"}})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
}

func TestACountIsCorrectedByAnEntryOfItsOwn(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 10})
	cases := []struct {
		name  string
		sku   string
		delta int64
		code  connect.Code
		left  int64
	}{
		{"found", "sku_a", 5, 0, 15},
		{"lost", "sku_a", -15, 0, 0},
		{"more lost than there was", "sku_a", -1, connect.CodeFailedPrecondition, 0},
		{"found where there was none", "sku_b", 2, 0, 2},
		{"lost where there was none", "sku_c", -2, connect.CodeFailedPrecondition, 0},
		{"another's", "sku_z", 1, connect.CodeNotFound, 0},
		{"nobody's", "sku_none", 1, connect.CodeNotFound, 0},
	}
	for i, c := range cases {
		res, err := h.keyed(c.name).AdjustStock(t.Context(), &warehousev1.AdjustStockRequest{Sku: c.sku, Delta: c.delta, Cause: "stocktake"})
		if c.code != 0 {
			require.Equal(t, c.code, connect.CodeOf(err), "%s: %v", c.name, err)
		} else {
			require.NoError(t, err, c.name)
			require.Equal(t, c.left, res.GetLevel().GetSellable())
			again, err := h.keyed(c.name).AdjustStock(t.Context(), &warehousev1.AdjustStockRequest{Sku: c.sku, Delta: c.delta, Cause: "stocktake"})
			require.NoError(t, err)
			require.True(t, proto.Equal(res, again), "the same key moves nothing twice")
		}
		require.Equal(t, c.left, h.level(t, c.sku, "main").GetSellable(), "case %d: %s", i, c.name)
	}
	_, err := h.keyed("short").AdjustStock(t.Context(), &warehousev1.AdjustStockRequest{Sku: "sku_b", Delta: -9, Cause: "stocktake"})
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	info, _ := fault.Info(err)
	require.Equal(t, map[string]string{"sku_b": "2"}, info.GetMetadata())
	h.consistent(t)
}

func TestMovesPageNewestFirstAndNewOnesMoveNothing(t *testing.T) {
	t.Parallel()
	h := open(t)
	for range 7 {
		h.stock(t, "", map[string]int64{"sku_a": 1, "sku_b": 1})
	}
	var seen []int64
	token := ""
	for {
		res, err := h.one.ListMoves(t.Context(), &warehousev1.ListMovesRequest{Sku: "sku_a", PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, m := range res.GetMoves() {
			require.Equal(t, "sku_a", m.GetSku())
			require.Equal(t, warehousev1.Disposition_DISPOSITION_EXTERNAL, m.GetFrom())
			require.Equal(t, warehousev1.Disposition_DISPOSITION_SELLABLE, m.GetTo())
			seen = append(seen, m.GetMoveId())
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
		h.stock(t, "", map[string]int64{"sku_a": 1})
	}
	require.Len(t, seen, 7)
	require.IsDecreasing(t, seen)
	_, err := h.one.ListMoves(t.Context(), &warehousev1.ListMovesRequest{PageToken: "!"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

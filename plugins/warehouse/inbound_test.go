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

// desk is the warehouse with its other services, for a caller.
type desk struct {
	purchasing warehousev1connect.PurchasingServiceClient
	inventory  warehousev1connect.InventoryServiceClient
	returns    warehousev1connect.ReturnServiceClient
	stock      warehousev1connect.StockServiceClient
}

func (h *house) desk(p call.Principal) desk {
	c := h.Client(plugintest.As(p, "GB"))
	return desk{
		warehousev1connect.NewPurchasingServiceClient(c), warehousev1connect.NewInventoryServiceClient(c),
		warehousev1connect.NewReturnServiceClient(c), warehousev1connect.NewStockServiceClient(c),
	}
}

func member(merchant string) call.Principal {
	return call.Principal{Kind: call.Merchant, Merchant: merchant, Account: "acc_" + merchant, Permissions: []string{"*"}}
}

func worker(account string) call.Principal {
	return call.Principal{Kind: call.Staff, Account: account, Permissions: []string{"*"}}
}

func (h *house) total(t testing.TB, sku, disposition string) (n int64) {
	t.Helper()
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT coalesce(sum((to_jsonb(b) ->> $2)::bigint), 0) FROM p_warehouse.stock_balance b WHERE sku = $1`, sku, disposition).Scan(&n))
	return n
}

func TestGoodsAreOrderedAnnouncedCountedAndPutAway(t *testing.T) {
	t.Parallel()
	h := open(t)
	one := h.desk(member("mrc_one"))
	put := &warehousev1.PutPurchaseOrderRequest{PurchaseOrderId: "PO-1", Supplier: "Acme", Lines: []*warehousev1.PurchaseOrderLine{
		{Sku: "sku_a", Quantity: 10}, {Sku: "sku_b", Quantity: 5},
	}, ExpectedOn: "2030-01-31"}
	po, err := one.purchasing.PutPurchaseOrder(t.Context(), put)
	require.NoError(t, err)
	require.Equal(t, warehousev1.PurchaseOrder_STATE_OPEN, po.GetPurchaseOrder().GetState())
	again, err := one.purchasing.PutPurchaseOrder(t.Context(), put)
	require.NoError(t, err)
	require.True(t, proto.Equal(po, again))
	put.Lines[1].Quantity = 6
	po, err = one.purchasing.PutPurchaseOrder(t.Context(), put)
	require.NoError(t, err)
	require.EqualValues(t, 6, po.GetPurchaseOrder().GetLines()[1].GetQuantity(), "it changes until something is announced")

	announce := &warehousev1.AnnounceShipmentRequest{NoticeId: "ASN-1", PurchaseOrderId: "PO-1", Lines: []*warehousev1.NoticeLine{
		{Sku: "sku_a", Lot: "L1", ExpiresOn: "2030-06-01", Quantity: 6}, {Sku: "sku_a", Lot: "L2", ExpiresOn: "2030-03-01", Quantity: 4}, {Sku: "sku_b", Quantity: 6},
	}}
	for range 2 {
		_, err = one.purchasing.AnnounceShipment(t.Context(), announce)
		require.NoError(t, err)
	}
	require.EqualValues(t, 10, h.total(t, "sku_a", "incoming"))
	require.Zero(t, h.total(t, "sku_a", "sellable"))
	put.Lines[1].Quantity = 7
	_, err = one.purchasing.PutPurchaseOrder(t.Context(), put)
	refused(t, connect.CodeFailedPrecondition, "PURCHASE_ORDER_ANNOUNCED", err)
	_, err = one.purchasing.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: "ASN-9", PurchaseOrderId: "PO-1", Lines: []*warehousev1.NoticeLine{{Sku: "sku_c", Quantity: 1}}})
	refused(t, connect.CodeFailedPrecondition, "NOT_ORDERED", err)
	_, err = h.desk(member("mrc_two")).purchasing.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: "ASN-1", Lines: announce.GetLines()})
	refused(t, connect.CodeNotFound, "NOTICE_UNKNOWN", err)

	// L1: two short, of what came one damaged. L2: one over. sku_b: as announced.
	// sku_c: nobody announced it.
	receive := &warehousev1.ReceiveShipmentRequest{NoticeId: "ASN-1", Lines: []*warehousev1.NoticeLine{
		{Sku: "sku_a", Lot: "L1", Quantity: 3, Damaged: 1}, {Sku: "sku_a", Lot: "L2", Quantity: 5}, {Sku: "sku_b", Quantity: 6}, {Sku: "sku_c", Damaged: 2},
	}}
	for range 2 {
		res, err := one.purchasing.ReceiveShipment(t.Context(), receive)
		require.NoError(t, err)
		require.Len(t, res.GetDiscrepancies(), 3)
		require.True(t, proto.Equal(&warehousev1.Discrepancy{Sku: "sku_a", Lot: "L1", Announced: 6, Received: 3, Damaged: 1}, res.GetDiscrepancies()[0]))
		require.True(t, proto.Equal(&warehousev1.Discrepancy{Sku: "sku_a", Lot: "L2", Announced: 4, Received: 5}, res.GetDiscrepancies()[1]))
		require.True(t, proto.Equal(&warehousev1.Discrepancy{Sku: "sku_c", Damaged: 2}, res.GetDiscrepancies()[2]))
	}
	require.EqualValues(t, 8, h.total(t, "sku_a", "receiving"))
	require.EqualValues(t, 1, h.total(t, "sku_a", "damaged"))
	require.Zero(t, h.total(t, "sku_a", "incoming"))
	receive.Lines[0].Quantity = 4
	_, err = one.purchasing.ReceiveShipment(t.Context(), receive)
	refused(t, connect.CodeAlreadyExists, "COUNT_OF_NOTICE_DIFFERS", err)
	got, err := one.purchasing.GetPurchaseOrder(t.Context(), &warehousev1.GetPurchaseOrderRequest{PurchaseOrderId: "PO-1"})
	require.NoError(t, err)
	require.True(t, proto.Equal(&warehousev1.PurchaseOrderLine{Sku: "sku_a", Quantity: 10, Announced: 10, Received: 8, Damaged: 1}, got.GetPurchaseOrder().GetLines()[0]))

	list, err := one.purchasing.ListPutAways(t.Context(), &warehousev1.ListPutAwaysRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetLines(), 3)
	page, err := one.purchasing.ListPutAways(t.Context(), &warehousev1.ListPutAwaysRequest{PageSize: 2})
	require.NoError(t, err)
	require.Len(t, page.GetLines(), 2)
	page, err = one.purchasing.ListPutAways(t.Context(), &warehousev1.ListPutAwaysRequest{PageSize: 2, PageToken: page.GetNextPageToken()})
	require.NoError(t, err)
	require.Len(t, page.GetLines(), 1)
	require.Empty(t, page.GetNextPageToken())

	away := &warehousev1.PutAwayRequest{PutAwayId: "1", Lines: []*warehousev1.PutAwayLine{
		{Sku: "sku_a", Lot: "L1", Quantity: 3, Location: "A-1"}, {Sku: "sku_a", Lot: "L2", Quantity: 2, Location: "A-2"}, {Sku: "sku_a", Lot: "L2", Quantity: 3, Location: "A-3"},
	}}
	first, err := one.purchasing.PutAway(t.Context(), away)
	require.NoError(t, err)
	require.Len(t, first.GetLevels(), 2)
	require.EqualValues(t, 5, first.GetLevels()[1].GetSellable())
	require.Equal(t, "2030-03-01", first.GetLevels()[1].GetExpiresOn())
	repeated, err := one.purchasing.PutAway(t.Context(), away)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, repeated))
	away.Lines[0].Quantity = 1
	_, err = one.purchasing.PutAway(t.Context(), away)
	refused(t, connect.CodeAlreadyExists, "PUT_AWAY_DIFFERS", err)
	away.PutAwayId = "2"
	_, err = one.purchasing.PutAway(t.Context(), away)
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	_, err = h.desk(member("mrc_two")).purchasing.PutAway(t.Context(), away)
	refused(t, connect.CodeFailedPrecondition, "SKU_UNKNOWN", err)
	require.EqualValues(t, 8, h.total(t, "sku_a", "sellable"))
	h.consistent(t)
}

func TestAClosedPurchaseOrderWritesOffWhatDidNotCome(t *testing.T) {
	t.Parallel()
	h := open(t)
	one := h.desk(member("mrc_one"))
	_, err := one.purchasing.ClosePurchaseOrder(t.Context(), &warehousev1.ClosePurchaseOrderRequest{PurchaseOrderId: "PO-1"})
	refused(t, connect.CodeNotFound, "PURCHASE_ORDER_UNKNOWN", err)
	for _, id := range []string{"PO-1", "PO-2", "PO-3"} {
		_, err := one.purchasing.PutPurchaseOrder(t.Context(), &warehousev1.PutPurchaseOrderRequest{PurchaseOrderId: id, Supplier: "Acme", Lines: []*warehousev1.PurchaseOrderLine{{Sku: "sku_a", Quantity: 10}}})
		require.NoError(t, err)
	}
	lines := []*warehousev1.NoticeLine{{Sku: "sku_a", Quantity: 7}}
	_, err = one.purchasing.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: "N", PurchaseOrderId: "PO-1", Lines: lines})
	require.NoError(t, err)
	for range 2 {
		res, err := one.purchasing.ClosePurchaseOrder(t.Context(), &warehousev1.ClosePurchaseOrderRequest{PurchaseOrderId: "PO-1"})
		require.NoError(t, err)
		require.Equal(t, warehousev1.PurchaseOrder_STATE_CLOSED, res.GetPurchaseOrder().GetState())
	}
	require.Zero(t, h.total(t, "sku_a", "incoming"))
	for name, try := range map[string]func() error{
		"received": func() error {
			_, err := one.purchasing.ReceiveShipment(t.Context(), &warehousev1.ReceiveShipmentRequest{NoticeId: "N", Lines: lines})
			return err
		},
		"announced": func() error {
			_, err := one.purchasing.AnnounceShipment(t.Context(), &warehousev1.AnnounceShipmentRequest{NoticeId: "M", PurchaseOrderId: "PO-1", Lines: lines})
			return err
		},
	} {
		require.Equal(t, "PURCHASE_ORDER_CLOSED", fault.Reason(try()), name)
	}
	var seen []string
	token := ""
	for {
		res, err := one.purchasing.ListPurchaseOrders(t.Context(), &warehousev1.ListPurchaseOrdersRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, o := range res.GetPurchaseOrders() {
			seen = append(seen, o.GetPurchaseOrderId())
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Equal(t, []string{"PO-3", "PO-2", "PO-1"}, seen, "newest first")
	h.consistent(t)
}

func TestALotExpiresOnOneDay(t *testing.T) {
	t.Parallel()
	h := open(t)
	receive := func(id, lot, day string) error {
		_, err := h.one.ReceiveStock(t.Context(), &warehousev1.ReceiveStockRequest{ReceiptId: id, Lines: []*warehousev1.ReceiptLine{{Sku: "sku_a", Quantity: 1, Lot: lot, ExpiresOn: day}}})
		return err
	}
	require.NoError(t, receive("1", "L1", "2030-01-01"))
	require.NoError(t, receive("2", "L1", ""), "known already")
	refused(t, connect.CodeFailedPrecondition, "LOT_EXPIRES_OTHERWISE", receive("3", "L1", "2030-01-02"))
	for name, err := range map[string]error{"no such day": receive("4", "L2", "2030-02-30"), "no lot": receive("5", "", "2030-01-01")} {
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	require.EqualValues(t, 2, h.total(t, "sku_a", "sellable"))
}

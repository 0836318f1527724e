package main

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// house is a warehouse under test with its callers: two merchants, staff and
// the order module.
type house struct {
	*plugintest.Module
	one, two, staff, orders warehousev1connect.StockServiceClient
}

func open(t testing.TB) *house {
	t.Helper()
	m := plugintest.Start(t, module())
	as := func(p call.Principal) warehousev1connect.StockServiceClient {
		return warehousev1connect.NewStockServiceClient(m.Client(plugintest.As(p, "GB")))
	}
	h := &house{
		Module: m,
		one:    as(call.Principal{Kind: call.Merchant, Merchant: "mrc_one", Permissions: []string{"*"}}),
		two:    as(call.Principal{Kind: call.Merchant, Merchant: "mrc_two", Permissions: []string{"*"}}),
		staff:  as(call.Principal{Kind: call.Staff, Account: "acc_staff"}),
		orders: as(call.Principal{Kind: call.Plugin, Plugin: "order"}),
	}
	require.NoError(t, m.Deliver(t.Context(), "catalog",
		&catalogv1.ProductChanged{ProductId: "prd_1", MerchantId: "mrc_one", Skus: []string{"sku_a", "sku_b", "sku_c", "sku_d"}},
		&catalogv1.ProductChanged{ProductId: "prd_2", MerchantId: "mrc_two", Skus: []string{"sku_z"}}))
	return h
}

// stock receives goods of mrc_one.
func (h *house) stock(t testing.TB, site string, quantities map[string]int64) {
	t.Helper()
	req := &warehousev1.ReceiveStockRequest{ReceiptId: id.New("grn"), Site: site}
	for sku, q := range quantities {
		req.Lines = append(req.Lines, &warehousev1.ReceiptLine{Sku: sku, Quantity: q})
	}
	_, err := h.one.ReceiveStock(t.Context(), req)
	require.NoError(t, err)
}

func (h *house) level(t testing.TB, sku, site string) *warehousev1.StockLevel {
	t.Helper()
	res, err := h.staff.GetStock(t.Context(), &warehousev1.GetStockRequest{Skus: []string{sku}})
	require.NoError(t, err)
	for _, l := range res.GetLevels() {
		if l.GetSite() == site {
			return l
		}
	}
	return &warehousev1.StockLevel{}
}

// tick lets the schedule expiry fire once.
func (h *house) tick(t testing.TB) {
	t.Helper()
	require.NoError(t, h.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "warehouse/expiry"}))
}

// consistent requires that the ledger replays to the balances (S2, S7) and
// that what is reserved is what reservations hold (S3).
func (h *house) consistent(t require.TestingT) *warehousev1.SumStockResponse {
	sum, err := h.staff.SumStock(context.Background(), &warehousev1.SumStockRequest{})
	require.NoError(t, err)
	require.True(t, sum.GetConsistent(), "the ledger does not replay to the balances")
	require.Equal(t, sum.GetUnits()["reserved"], sum.GetHeld())
	return sum
}

func line(sku string, quantity int64) *warehousev1.ReservationLine {
	return &warehousev1.ReservationLine{Sku: sku, Quantity: quantity}
}

func reservationOf(lines ...*warehousev1.ReservationLine) *warehousev1.ReserveStockRequest {
	return &warehousev1.ReserveStockRequest{ReservationId: id.New("rsv"), Reference: "ord_1", Lines: lines}
}

func refused(t require.TestingT, code connect.Code, reason string, err error) {
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(err), "%v", err)
}

// keyed is mrc_one with an idempotency key.
func (h *house) keyed(key string) warehousev1connect.StockServiceClient {
	info := plugintest.As(call.Principal{Kind: call.Merchant, Merchant: "mrc_one", Permissions: []string{"*"}}, "GB")
	info.IdempotencyKey = key
	return warehousev1connect.NewStockServiceClient(h.Client(info))
}

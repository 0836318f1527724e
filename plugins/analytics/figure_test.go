package main

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

func date(day int) time.Time { return time.Date(2024, 11, day, 12, 0, 0, 0, time.UTC) }

func november() *analyticsv1.Scope {
	return &analyticsv1.Scope{FromDay: "2024-11-01", ToDay: "2024-11-30"}
}

func pounds(minor int64) *typev1.Money {
	return &typev1.Money{CurrencyCode: "GBP", MinorUnits: minor}
}

// two is an order with a part of each of two merchants.
func two(order string) *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{OrderId: order, Market: "GB", Total: pounds(1700), Lines: []*orderv1.Line{
		{Sku: "A", MerchantId: "mrc_one", Quantity: 2, Total: pounds(1000)},
		{Sku: "B", MerchantId: "mrc_two", Quantity: 1, Total: pounds(700)},
	}}
}

func (h *house) rows(t testing.TB, p call.Principal, scope *analyticsv1.Scope, by ...analyticsv1.Dimension) []*analyticsv1.Figure {
	t.Helper()
	res, err := h.figures(p).GetFigures(t.Context(), &analyticsv1.GetFiguresRequest{Scope: scope, By: by})
	require.NoError(t, err)
	require.Empty(t, res.GetNextPageToken())
	return res.GetFigures()
}

func same(t testing.TB, want, got []*analyticsv1.Figure) {
	t.Helper()
	require.Len(t, got, len(want), "%v", got)
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "row %d\nwant %v\ngot  %v", i, want[i], got[i])
	}
}

// An order of two merchants is one order of the shop, one of each merchant and
// one of each good; its cancellation counts on its own day.
func TestSalesByDayMarketMerchantAndProduct(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	h.deliver(t, "sales", two("ord_1"), placed("ord_2", "", "DE", "A", "A"))
	h.at = date(5)
	h.deliver(t, "sales", &orderv1.OrderCancelled{OrderId: "ord_1"})

	gbp := func(sold, cancelled int64) []*analyticsv1.Amounts {
		return []*analyticsv1.Amounts{{CurrencyCode: "GBP", SoldMinor: sold, CancelledMinor: cancelled}}
	}
	eur := []*analyticsv1.Amounts{{CurrencyCode: "EUR", SoldMinor: 1000}}
	same(t, []*analyticsv1.Figure{{Orders: 2, SoldUnits: 5, CancelledUnits: 3, Amounts: []*analyticsv1.Amounts{
		{CurrencyCode: "EUR", SoldMinor: 1000}, {CurrencyCode: "GBP", SoldMinor: 1700, CancelledMinor: 1700},
	}}}, h.rows(t, operator, november()))
	same(t, []*analyticsv1.Figure{
		{Day: "2024-11-03", Market: "DE", Orders: 1, SoldUnits: 2, Amounts: eur},
		{Day: "2024-11-03", Market: "GB", Orders: 1, SoldUnits: 3, Amounts: gbp(1700, 0)},
		{Day: "2024-11-05", Market: "GB", CancelledUnits: 3, Amounts: gbp(0, 1700)},
	}, h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_MARKET, analyticsv1.Dimension_DIMENSION_DAY))
	same(t, []*analyticsv1.Figure{
		{MerchantId: "mrc_one", Orders: 2, SoldUnits: 4, CancelledUnits: 2, Amounts: []*analyticsv1.Amounts{eur[0], gbp(1000, 1000)[0]}},
		{MerchantId: "mrc_two", Orders: 1, SoldUnits: 1, CancelledUnits: 1, Amounts: gbp(700, 700)},
	}, h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_MERCHANT))
	same(t, []*analyticsv1.Figure{{Sku: "B", Orders: 1, SoldUnits: 1, CancelledUnits: 1, Amounts: gbp(700, 700)}},
		h.rows(t, member("mrc_two"), november(), analyticsv1.Dimension_DIMENSION_PRODUCT))
	same(t, nil, h.rows(t, operator, &analyticsv1.Scope{FromDay: "2024-11-06", ToDay: "2024-11-06"}))
}

func TestAMemberSeesItsMerchantAlone(t *testing.T) {
	t.Parallel()
	h := open(t)
	ctx := t.Context()
	_, err := h.figures(member("mrc_two")).GetFigures(ctx, &analyticsv1.GetFiguresRequest{Scope: &analyticsv1.Scope{FromDay: "2024-11-01", ToDay: "2024-11-02", MerchantId: "mrc_one"}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	for _, s := range []*analyticsv1.Scope{
		{FromDay: "2024-11-31", ToDay: "2024-12-01"}, {FromDay: "2024-11-02", ToDay: "2024-11-01"}, {FromDay: "2023-01-01", ToDay: "2024-11-01"}, {FromDay: "today", ToDay: "2024-11-01"},
	} {
		_, err := h.figures(operator).GetFigures(ctx, &analyticsv1.GetFiguresRequest{Scope: s})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", s)
	}
	_, err = h.figures(operator).GetFigures(ctx, &analyticsv1.GetFiguresRequest{Scope: november(), PageToken: "x"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func authorized(payment, order string) *paymentv1.PaymentAuthorized {
	return &paymentv1.PaymentAuthorized{PaymentId: payment, Reference: order, Amount: pounds(1700), Market: "GB"}
}

func captured(payment string, minor, total int64, shares ...*paymentv1.MerchantShare) *paymentv1.PaymentCaptured {
	return &paymentv1.PaymentCaptured{PaymentId: payment, Amount: pounds(minor), Captured: pounds(total), Shares: shares}
}

func refunded(payment string, minor, total int64) *paymentv1.PaymentRefunded {
	return &paymentv1.PaymentRefunded{PaymentId: payment, Amount: pounds(minor), Refunded: pounds(total)}
}

func share(merchant string, minor int64) *paymentv1.MerchantShare {
	return &paymentv1.MerchantShare{MerchantId: merchant, MinorUnits: minor}
}

// A refund of one merchant's payment is that merchant's. Of a payment of two
// it is nobody's, until all is given back.
func TestMoneyIsItsMerchants(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	h.deliver(t, "sales", authorized("pay_1", "ord_1"), authorized("pay_2", "ord_2"),
		captured("pay_1", 1000, 1000, share("mrc_one", 1000)), refunded("pay_1", 300, 300),
		captured("pay_2", 1000, 1000, share("mrc_one", 1000)), captured("pay_2", 700, 1700, share("mrc_two", 600)), refunded("pay_2", 200, 200))
	money := func(merchant string, captured, refunded int64) *analyticsv1.Figure {
		return &analyticsv1.Figure{Market: "GB", MerchantId: merchant, Amounts: []*analyticsv1.Amounts{{CurrencyCode: "GBP", CapturedMinor: captured, RefundedMinor: refunded}}}
	}
	by := []analyticsv1.Dimension{analyticsv1.Dimension_DIMENSION_MARKET, analyticsv1.Dimension_DIMENSION_MERCHANT}
	same(t, []*analyticsv1.Figure{money("", 100, 200), money("mrc_one", 2000, 300), money("mrc_two", 600, 0)}, h.rows(t, operator, november(), by...))

	h.deliver(t, "sales", refunded("pay_2", 1500, 1700))
	same(t, []*analyticsv1.Figure{money("", 100, 100), money("mrc_one", 2000, 1300), money("mrc_two", 600, 600)}, h.rows(t, operator, november(), by...))
}

func verdict(caseID, sku string, units int64, v inspectionv1.Verdict) *inspectionv1.VerdictConfirmed {
	return &inspectionv1.VerdictConfirmed{CaseId: caseID, MerchantId: "mrc_one", Sku: sku, Quantity: units, Verdict: v}
}

func TestAuthenticityRate(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(4)
	h.deliver(t, "hands", verdict("c1", "A", 7, inspectionv1.Verdict_VERDICT_GENUINE), verdict("c2", "A", 2, inspectionv1.Verdict_VERDICT_COUNTERFEIT),
		verdict("c3", "A", 1, inspectionv1.Verdict_VERDICT_GENUINE_BUT_DAMAGED), verdict("c4", "B", 5, inspectionv1.Verdict_VERDICT_INCONCLUSIVE),
		verdict("c5", "B", 3, inspectionv1.Verdict_VERDICT_WRONG_ITEM))
	same(t, []*analyticsv1.Figure{
		{Sku: "A", InspectedUnits: 10, GenuineUnits: 7, CounterfeitUnits: 2, DamagedUnits: 1, AuthenticityRate: "0.8000"},
		{Sku: "B", InspectedUnits: 8, InconclusiveUnits: 5, WrongItemUnits: 3},
	}, h.rows(t, member("mrc_one"), november(), analyticsv1.Dimension_DIMENSION_PRODUCT))
}

func TestCarrierPerformance(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	h.deliver(t, "sales", placed("ord_1", "", "DE", "A"))
	for _, shipment := range []string{"shp_1", "shp_2", "shp_3", "shp_4"} {
		h.deliver(t, "hands", &logisticsv1.ShipmentBooked{ShipmentId: shipment, OrderId: "ord_1", MerchantId: "mrc_one", Instance: "post", Service: "parcel"})
	}
	moved := func(shipment string, s logisticsv1.Status, hours int) proto.Message {
		return &logisticsv1.ShipmentMoved{ShipmentId: shipment, Status: s, At: timestamppb.New(date(3).Add(time.Duration(hours) * time.Hour))}
	}
	h.at = date(9)
	h.deliver(t, "hands", moved("shp_1", logisticsv1.Status_STATUS_DELIVERED, 20), moved("shp_2", logisticsv1.Status_STATUS_DELIVERED, 50),
		moved("shp_2", logisticsv1.Status_STATUS_ON_HOLD, 30), moved("shp_3", logisticsv1.Status_STATUS_LOST, 90), &logisticsv1.ShipmentCancelled{ShipmentId: "shp_4"})
	for range 2 {
		res, err := h.figures(operator).ListCarrierFigures(t.Context(), &analyticsv1.ListCarrierFiguresRequest{Scope: november(), ByMarket: true, ByDay: true})
		require.NoError(t, err)
		require.Len(t, res.GetFigures(), 1)
		require.True(t, proto.Equal(&analyticsv1.CarrierFigure{
			Instance: "post", Service: "parcel", Market: "DE", Day: "2024-11-03", Shipments: 3, Delivered: 2, Failed: 1, Troubled: 1,
			MedianHours: 20, NinthDecileHours: 50, DeliveryRate: "0.6666",
		}, res.GetFigures()[0]), "%v", res)
		h.deliver(t, "hands", moved("shp_1", logisticsv1.Status_STATUS_DELIVERED, 20))
	}
	_, err := h.figures(operator).ListCarrierFigures(t.Context(), &analyticsv1.ListCarrierFiguresRequest{Scope: &analyticsv1.Scope{FromDay: "2024-11-01", ToDay: "2024-11-02", Sku: "A"}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

// Ten stand there for two days and four for two: seven on average.
func TestStockTurn(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(1)
	h.deliver(t, "goods", h.stock("A", 99), h.stock("A", 10))
	h.at = date(3)
	h.deliver(t, "goods", h.stock("A", 4))
	h.deliver(t, "sales", placed("ord_1", "", "GB", "A"), placed("ord_2", "", "GB", "A", "B"), placed("ord_3", "", "GB", "A"), &orderv1.OrderCancelled{OrderId: "ord_3"})
	res, err := h.figures(member("mrc_one")).ListStockTurn(t.Context(), &analyticsv1.ListStockTurnRequest{Scope: &analyticsv1.Scope{FromDay: "2024-11-01", ToDay: "2024-11-04"}})
	require.NoError(t, err)
	require.Len(t, res.GetTurns(), 2)
	require.True(t, proto.Equal(&analyticsv1.StockTurn{Sku: "A", MerchantId: "mrc_one", Units: 2, AverageStock: "7.00", Turn: "0.28", ClosingStock: 4}, res.GetTurns()[0]), "%v", res)
	tomorrow := &analyticsv1.Scope{FromDay: day(time.Now().Add(24 * time.Hour)), ToDay: day(time.Now().Add(48 * time.Hour))}
	later, err := h.figures(operator).ListStockTurn(t.Context(), &analyticsv1.ListStockTurnRequest{Scope: tomorrow})
	require.NoError(t, err)
	require.Empty(t, later.GetTurns())
	require.True(t, proto.Equal(&analyticsv1.StockTurn{Sku: "B", MerchantId: "mrc_one", Units: 1, AverageStock: "0.00"}, res.GetTurns()[1]), "%v", res)
}

func back(returnID, reference, sku string, units int64) *warehousev1.ReturnReceived {
	return &warehousev1.ReturnReceived{ReturnId: returnID, Reference: reference, MerchantId: "mrc_one", Lines: []*warehousev1.ReturnLine{{Sku: sku, Quantity: units}}}
}

// A return arrives in parts, each counts; without a case its reason is not
// told, and its market is its order's.
func TestReturnsWithoutACase(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	h.deliver(t, "sales", placed("ord_1", "", "DE", "A"))
	h.deliver(t, "hands", back("ret_1", "ord_1", "A", 2), back("ret_1", "ord_1", "A", 1), back("ret_2", "", "B", 4))
	res, err := h.figures(operator).ListReturnReasons(t.Context(), &analyticsv1.ListReturnReasonsRequest{Scope: november()})
	require.NoError(t, err)
	require.Len(t, res.GetReasons(), 1)
	require.True(t, proto.Equal(&analyticsv1.ReturnReason{Reason: "NOT_TOLD", Units: 7, Returns: 2}, res.GetReasons()[0]), "%v", res)
	same(t, []*analyticsv1.Figure{{Market: "", ReturnedUnits: 4}, {Market: "DE", Orders: 1, SoldUnits: 1, ReturnedUnits: 3, Amounts: []*analyticsv1.Amounts{{CurrencyCode: "EUR", SoldMinor: 500}}}},
		h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_MARKET))
}

// Why goods come back is what their case says, whether it is heard of before
// or after they came.
func TestReturnsByReason(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	applied := func(id, order, market string, kind aftersalev1.Kind, reason aftersalev1.Reason) *aftersalev1.ApplicationOpened {
		return &aftersalev1.ApplicationOpened{CaseId: id, OrderId: order, MerchantId: "mrc_one", Market: market, Kind: kind, Reason: reason, Lines: []*aftersalev1.CaseLine{{Sku: "A"}}}
	}
	h.deliver(t, "hands", applied("afs_1", "ord_1", "DE", aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_DEFECTIVE), back("ret_1", "ord_1", "A", 2))
	h.deliver(t, "hands", back("ret_2", "ord_2", "A", 3), back("ret_3", "afs_3", "A", 3), back("ret_4", "", "A", 1), back("ret_5", "ord_2", "B", 1))
	h.deliver(t, "hands", applied("afs_2", "ord_2", "GB", aftersalev1.Kind_KIND_WITHDRAWAL, 0), applied("afs_3", "ord_3", "GB", aftersalev1.Kind_KIND_EXCHANGE, aftersalev1.Reason_REASON_DEFECTIVE))
	// A second case of the same goods is about what comes later.
	h.at = date(8)
	h.deliver(t, "hands", applied("afs_4", "ord_1", "DE", aftersalev1.Kind_KIND_RETURN, aftersalev1.Reason_REASON_CHANGED_MIND))
	h.at = date(9)
	h.deliver(t, "hands", back("ret_6", "ord_1", "A", 1))
	for market, want := range map[string]map[string]int64{
		"": {"DEFECTIVE": 5, "WITHDRAWAL": 3, "CHANGED_MIND": 1, "NOT_TOLD": 2}, "GB": {"DEFECTIVE": 3, "WITHDRAWAL": 3}, "DE": {"DEFECTIVE": 2, "CHANGED_MIND": 1}, "JP": {},
	} {
		scope := november()
		scope.Market = market
		res, err := h.figures(member("mrc_one")).ListReturnReasons(t.Context(), &analyticsv1.ListReturnReasonsRequest{Scope: scope})
		require.NoError(t, err)
		got := make(map[string]int64)
		for _, r := range res.GetReasons() {
			got[r.GetReason()] = r.GetUnits()
		}
		require.Equal(t, want, got, market)
	}
}

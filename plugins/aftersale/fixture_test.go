package main

import (
	"context"
	"flag"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) {
	// A history costs a second: these many in every run, more by -rapid.checks.
	if err := flag.Set("rapid.checks", "12"); err != nil {
		panic(err)
	}
	plugintest.Main(m)
}

// world is what stands around the module, small and obedient. Every fake that
// moves something holds what the real one holds: a repeated call does it once.
type world struct {
	orderv1connect.UnimplementedOrderServiceHandler
	warehousev1connect.UnimplementedReturnServiceHandler
	warehousev1connect.UnimplementedStockServiceHandler
	warehousev1connect.UnimplementedFulfilmentStepServiceHandler
	logisticsv1connect.UnimplementedShipmentServiceHandler
	logisticsv1connect.UnimplementedTrackingServiceHandler
	paymentv1connect.UnimplementedPaymentServiceHandler
	inspectionv1connect.UnimplementedUnitServiceHandler

	mu       sync.Mutex
	secrets  map[string]string // of guests' orders
	captured map[string]int64
	refunds  map[string]map[string]int64 // by payment and operation
	stock    map[string]int64
	reserved map[string][]*warehousev1.ReservationLine
	released map[string]bool
	returns  map[string]*warehousev1.AuthoriseReturnRequest
	gone     map[string]bool // returns and shipments that were cancelled
	booked   map[string]*logisticsv1.BookShipmentRequest
	requests map[string]*warehousev1.RequestFulfilmentRequest
	calls    map[string]int
	// refuse makes a method refuse, stumble makes it fail that often after it
	// has done its work.
	refuse  map[string]string
	stumble map[string]int
}

func newWorld() *world {
	return &world{
		secrets: map[string]string{}, captured: map[string]int64{}, refunds: map[string]map[string]int64{}, stock: map[string]int64{}, reserved: map[string][]*warehousev1.ReservationLine{},
		released: map[string]bool{}, returns: map[string]*warehousev1.AuthoriseReturnRequest{}, gone: map[string]bool{}, booked: map[string]*logisticsv1.BookShipmentRequest{},
		requests: map[string]*warehousev1.RequestFulfilmentRequest{}, calls: map[string]int{}, refuse: map[string]string{}, stumble: map[string]int{},
	}
}

func (w *world) register(s *connect.Server) {
	orderv1connect.RegisterOrderServiceHandler(s, w)
	warehousev1connect.RegisterReturnServiceHandler(s, w)
	warehousev1connect.RegisterStockServiceHandler(s, w)
	warehousev1connect.RegisterFulfilmentStepServiceHandler(s, w)
	logisticsv1connect.RegisterShipmentServiceHandler(s, w)
	logisticsv1connect.RegisterTrackingServiceHandler(s, w)
	paymentv1connect.RegisterPaymentServiceHandler(s, w)
	inspectionv1connect.RegisterUnitServiceHandler(s, w)
}

// at is the begin of every fake: it counts, locks, and refuses where it is to.
// The answer ends the fake: an error after the work is done, where it stumbles.
func (w *world) at(method string, do func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[method]++
	if reason := w.refuse[method]; reason != "" {
		return fault.New(connect.CodeFailedPrecondition, reason, "no")
	}
	do()
	if w.stumble[method] > 0 {
		w.stumble[method]--
		return connect.NewError(connect.CodeUnavailable, "the answer was lost")
	}
	return nil
}

func (w *world) GetOrder(_ context.Context, req *orderv1.GetOrderRequest) (*orderv1.GetOrderResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.secrets[req.GetOrderId()]; s == "" || s != req.GetCartSecret() {
		return nil, fault.New(connect.CodeNotFound, "ORDER_UNKNOWN", "no such order")
	}
	return &orderv1.GetOrderResponse{}, nil
}

func (w *world) AuthoriseReturn(_ context.Context, req *warehousev1.AuthoriseReturnRequest) (*warehousev1.AuthoriseReturnResponse, error) {
	return &warehousev1.AuthoriseReturnResponse{}, w.at("authorise", func() { w.returns[req.GetReturnId()] = req })
}

func (w *world) CancelReturn(_ context.Context, req *warehousev1.CancelReturnRequest) (*warehousev1.CancelReturnResponse, error) {
	return &warehousev1.CancelReturnResponse{}, w.at("cancel-return", func() { w.gone[req.GetReturnId()] = true })
}

func (w *world) ReserveStock(_ context.Context, req *warehousev1.ReserveStockRequest) (*warehousev1.ReserveStockResponse, error) {
	var short error
	err := w.at("reserve", func() {
		if w.reserved[req.GetReservationId()] != nil {
			return
		}
		for _, l := range req.GetLines() {
			if w.stock[l.GetSku()] < l.GetQuantity() {
				short = fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "not enough")
				return
			}
		}
		for _, l := range req.GetLines() {
			w.stock[l.GetSku()] -= l.GetQuantity()
		}
		w.reserved[req.GetReservationId()] = req.GetLines()
	})
	if short != nil {
		err = short
	}
	return &warehousev1.ReserveStockResponse{}, err
}

func (w *world) ReleaseReservation(_ context.Context, req *warehousev1.ReleaseReservationRequest) (*warehousev1.ReleaseReservationResponse, error) {
	return &warehousev1.ReleaseReservationResponse{}, w.at("release", func() {
		if !w.released[req.GetReservationId()] {
			for _, l := range w.reserved[req.GetReservationId()] {
				w.stock[l.GetSku()] += l.GetQuantity()
			}
		}
		w.released[req.GetReservationId()] = true
	})
}

func (w *world) RequestFulfilment(_ context.Context, req *warehousev1.RequestFulfilmentRequest) (*warehousev1.RequestFulfilmentResponse, error) {
	return &warehousev1.RequestFulfilmentResponse{}, w.at("fulfil", func() { w.requests[req.GetRequestId()] = req })
}

func (w *world) BookShipment(_ context.Context, req *logisticsv1.BookShipmentRequest) (*logisticsv1.BookShipmentResponse, error) {
	return &logisticsv1.BookShipmentResponse{}, w.at("book", func() { w.booked[req.GetShipmentId()] = req })
}

func (w *world) CancelShipment(_ context.Context, req *logisticsv1.CancelShipmentRequest) (*logisticsv1.CancelShipmentResponse, error) {
	return &logisticsv1.CancelShipmentResponse{}, w.at("cancel-shipment", func() { w.gone[req.GetShipmentId()] = true })
}

func (w *world) GetDocument(_ context.Context, req *logisticsv1.GetDocumentRequest) (*logisticsv1.GetDocumentResponse, error) {
	return &logisticsv1.GetDocumentResponse{Path: "/blobs/" + req.GetShipmentId() + "." + req.GetDocument()}, nil
}

func (w *world) GetTracking(_ context.Context, req *logisticsv1.GetTrackingRequest) (*logisticsv1.GetTrackingResponse, error) {
	return &logisticsv1.GetTrackingResponse{Tracking: &logisticsv1.Tracking{
		TrackingNumber: req.GetTrackingNumber(), Status: logisticsv1.Status_STATUS_OUT_FOR_DELIVERY,
		Facts: []*logisticsv1.TrackingFact{
			{Status: logisticsv1.Status_STATUS_IN_TRANSIT, Place: "Leipzig"}, {Status: logisticsv1.Status_STATUS_OUT_FOR_DELIVERY, Place: "Köln"},
		},
	}}, w.at("track", func() {})
}

func (w *world) RefundPayment(_ context.Context, req *paymentv1.RefundPaymentRequest) (*paymentv1.RefundPaymentResponse, error) {
	var beyond error
	err := w.at("refund", func() {
		all := w.refunds[req.GetPaymentId()]
		if all == nil {
			all = map[string]int64{}
			w.refunds[req.GetPaymentId()] = all
		}
		if _, done := all[req.GetOperationId()]; done {
			return
		}
		if w.sum(req.GetPaymentId())+req.GetAmount().GetMinorUnits() > w.captured[req.GetPaymentId()] {
			beyond = fault.New(connect.CodeFailedPrecondition, "REFUND_EXCEEDS_CAPTURE", "more than was captured")
			return
		}
		if len(req.GetShares()) != 1 || req.GetShares()[0].GetMinorUnits() != req.GetAmount().GetMinorUnits() {
			beyond = fault.New(connect.CodeInvalidArgument, "SHARES", "whose is it?")
			return
		}
		all[req.GetOperationId()] = req.GetAmount().GetMinorUnits()
	})
	if beyond != nil {
		err = beyond
	}
	return &paymentv1.RefundPaymentResponse{}, err
}

func (w *world) sum(payment string) (n int64) {
	for _, a := range w.refunds[payment] {
		n += a
	}
	return n
}

// refunded is what a payment gave back.
func (w *world) refunded(order string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sum(paymentOf(order))
}

func (w *world) GetPayment(_ context.Context, req *paymentv1.GetPaymentRequest) (*paymentv1.GetPaymentResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &paymentv1.GetPaymentResponse{Payment: &paymentv1.Payment{
		Captured: euros(w.captured[req.GetPaymentId()]), Refunded: euros(w.sum(req.GetPaymentId())),
	}}, nil
}

func (w *world) GetUnit(_ context.Context, req *inspectionv1.GetUnitRequest) (*inspectionv1.GetUnitResponse, error) {
	return &inspectionv1.GetUnitResponse{Unit: &inspectionv1.Unit{DigitalLink: "https://id.example/unit/" + req.GetUnitId()}}, w.at("unit", func() {})
}

func paymentOf(order string) string { return id.Derive("pay", order) }

func euros(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "EUR", MinorUnits: minor} }

// house is the module in a world, with its callers.
type house struct {
	*plugintest.Module
	*world
	ann, eve, guest, seller, other, staff caller
}

type caller struct {
	aftersalev1connect.ApplicationServiceClient
	aftersalev1connect.ProcessingServiceClient
	aftersalev1connect.PolicyServiceClient
	aftersalev1connect.ConversationServiceClient
	principal call.Principal
}

func (h *house) as(p call.Principal) caller {
	c := h.Client(call.Info{Principal: p, Market: "DE"})
	return caller{
		aftersalev1connect.NewApplicationServiceClient(c), aftersalev1connect.NewProcessingServiceClient(c), aftersalev1connect.NewPolicyServiceClient(c),
		aftersalev1connect.NewConversationServiceClient(c), p,
	}
}

func open(t testing.TB) *house {
	t.Helper()
	w := newWorld()
	h := &house{Module: plugintest.Start(t, module(), plugintest.Neighbours(w.register)), world: w}
	consumer := func() caller {
		return h.as(call.Principal{Kind: call.Consumer, Account: id.New("acc"), Subject: id.New("sub")})
	}
	member := func(m string) caller {
		return h.as(call.Principal{Kind: call.Merchant, Account: id.New("acc"), Merchant: m, Permissions: []string{"*"}})
	}
	h.ann, h.eve, h.guest, h.seller, h.other = consumer(), consumer(), h.as(call.Principal{}), member("mrc_one"), member("mrc_two")
	h.staff = h.as(call.Principal{Kind: call.Staff, Account: id.New("acc"), Permissions: []string{"*"}})
	return h
}

// tester is a test, or one draw of a property.
type tester interface {
	require.TestingT
	Helper()
}

// bought is a line of an order: its sku, pieces and what a piece costs.
type bought struct {
	sku      string
	quantity int64
	price    int64
	units    []string
}

// merchantOf: cups are the second merchant's.
func merchantOf(sku string) string {
	if sku == "sku_cup" {
		return "mrc_two"
	}
	return "mrc_one"
}

// place has an order placed, of a market and a day, that costs some more than
// its lines.
func (h *house) place(t tester, account, market string, when time.Time, beside int64, lines ...bought) string {
	t.Helper()
	order := id.New("ord")
	currency := map[string]string{"DE": "EUR", "GB": "GBP", "JP": "JPY"}[market]
	money := func(n int64) *typev1.Money { return &typev1.Money{CurrencyCode: currency, MinorUnits: n} }
	e := &orderv1.OrderPlaced{OrderId: order, Market: market, PaymentId: paymentOf(order), AccountId: account, ShipToRef: id.New("vlt"), EmailRef: id.New("vlt")}
	total := beside
	for _, l := range lines {
		e.Lines = append(e.Lines, &orderv1.Line{Sku: l.sku, MerchantId: merchantOf(l.sku), Title: l.sku, Quantity: l.quantity, UnitPrice: money(l.price), Total: money(l.price * l.quantity)})
		total += l.price * l.quantity
	}
	e.Total = money(total)
	require.NoError(t, h.Deliver(context.Background(), "orders", e))
	_, err := h.Admin.Exec(context.Background(), `UPDATE p_aftersale.purchase SET placed_at = $2 WHERE order_id = $1`, order, when)
	require.NoError(t, err)
	h.mu.Lock()
	h.captured[e.GetPaymentId()] = total
	h.mu.Unlock()
	return order
}

// send packs lines of one merchant and hands them over; it answers the
// fulfilment and its shipment.
func (h *house) send(t tester, order, request string, lines ...bought) (fulfilment, shipment string) {
	t.Helper()
	fulfilment, shipment = id.New("ful"), id.New("shp")
	parcel := &warehousev1.Parcel{ParcelId: id.New("pcl"), WeightGrams: 900}
	for _, l := range lines {
		parcel.Lines = append(parcel.Lines, &warehousev1.ParcelLine{Sku: l.sku, Quantity: l.quantity, UnitIds: l.units})
	}
	merchant := merchantOf(lines[0].sku)
	require.NoError(t, h.Deliver(context.Background(), "orders",
		&warehousev1.FulfilmentPacked{FulfilmentId: fulfilment, RequestId: request, Reference: order, MerchantId: merchant, Market: "DE", Site: "north", Parcels: []*warehousev1.Parcel{parcel}},
		&warehousev1.FulfilmentHandedOver{FulfilmentId: fulfilment, RequestId: request, Reference: order, MerchantId: merchant, ShipmentId: shipment}))
	_, err := h.Admin.Exec(context.Background(), `UPDATE p_aftersale.fulfilment SET handed_over_at = now() WHERE id = $1`, fulfilment)
	require.NoError(t, err)
	require.NoError(t, h.Deliver(context.Background(), "shipments", &logisticsv1.ShipmentBooked{
		ShipmentId: shipment, Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, OrderId: order, Reference: fulfilment, MerchantId: merchant, Instance: "post-de",
		TrackingNumbers: map[string]string{parcel.GetParcelId(): "RR" + shipment},
	}))
	return fulfilment, shipment
}

// arrive tells of a shipment's delivery at a time.
func (h *house) arrive(t tester, order, fulfilment, shipment string, when time.Time) {
	t.Helper()
	h.moved(t, order, shipment, logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, logisticsv1.Status_STATUS_DELIVERED, when)
	require.NoError(t, h.Deliver(context.Background(), "orders", &warehousev1.FulfilmentDelivered{FulfilmentId: fulfilment, Reference: order, ShipmentId: shipment}))
}

func (h *house) moved(t tester, order, shipment string, leg logisticsv1.Leg, status logisticsv1.Status, when time.Time) {
	t.Helper()
	require.NoError(t, h.Deliver(context.Background(), "shipments", &logisticsv1.ShipmentMoved{
		ShipmentId: shipment, Leg: leg, OrderId: order, Status: status, At: timestamppb.New(when),
	}))
}

// delivered is an order of ann's in Germany that was delivered some days ago.
func (h *house) delivered(t tester, daysAgo int, beside int64, lines ...bought) string {
	t.Helper()
	when := time.Now().AddDate(0, 0, -daysAgo)
	order := h.place(t, h.ann.principal.Account, "DE", when.AddDate(0, 0, -3), beside, lines...)
	f, s := h.send(t, order, id.New("frq"), lines...)
	h.arrive(t, order, f, s, when)
	return order
}

func tea(n int64) bought { return bought{sku: "sku_tea", quantity: n, price: 1250} }

func application(order string, kind aftersalev1.Kind, reason aftersalev1.Reason, sku string, quantity int64, units ...string) *aftersalev1.ApplyRequest {
	return &aftersalev1.ApplyRequest{
		ApplicationId: id.New("app"), OrderId: order, Kind: kind, Reason: reason, Text: "it is not what I wanted", Language: "en",
		Lines: []*aftersalev1.ApplyLine{{Sku: sku, Quantity: quantity, UnitIds: units}},
	}
}

func (h *house) apply(t tester, req *aftersalev1.ApplyRequest) *aftersalev1.Case {
	t.Helper()
	res, err := h.ann.Apply(context.Background(), req)
	require.NoError(t, err)
	return res.GetCase()
}

func (h *house) get(t tester, caseID string) *aftersalev1.GetCaseResponse {
	t.Helper()
	res, err := h.staff.GetCase(context.Background(), &aftersalev1.GetCaseRequest{CaseId: caseID})
	require.NoError(t, err)
	return res
}

func (h *house) state(t tester, caseID string, want aftersalev1.Case_State) *aftersalev1.Case {
	t.Helper()
	c := h.get(t, caseID).GetCase()
	require.Equal(t, want, c.GetState(), "%v", c)
	return c
}

func (h *house) approve(t tester, caseID string, lines ...*aftersalev1.AcceptedLine) *aftersalev1.Case {
	t.Helper()
	res, err := h.seller.Decide(context.Background(), &aftersalev1.DecideRequest{CaseId: caseID, Approve: true, ReasonCode: "GOODWILL", Lines: lines})
	require.NoError(t, err)
	return res.GetCase()
}

// label tells of the booking of a case's return leg.
func (h *house) label(t tester, c *aftersalev1.Case) {
	t.Helper()
	require.NoError(t, h.Deliver(context.Background(), "shipments", &logisticsv1.ShipmentBooked{
		ShipmentId: c.GetReturnShipmentId(), Leg: logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, OrderId: c.GetOrderId(), Reference: c.GetCaseId(), MerchantId: c.GetMerchantId(),
		Instance: "post-de", TrackingNumbers: map[string]string{"p": "RB1"},
	}))
}

// comeBack has pieces of a return arrive.
func (h *house) comeBack(t tester, c *aftersalev1.Case, sku string, quantity int64, units ...string) {
	t.Helper()
	require.NoError(t, h.Deliver(context.Background(), "returns", &warehousev1.ReturnReceived{
		ReturnId: c.GetReturnId(), Reference: c.GetOrderId(), MerchantId: c.GetMerchantId(), Site: "north",
		Lines: []*warehousev1.ReturnLine{{Sku: sku, Quantity: quantity, UnitIds: units}},
	}))
}

// grade has pieces graded; with an inspection that is asked for, or none.
func (h *house) grade(t tester, c *aftersalev1.Case, sku string, quantity int64, grade warehousev1.Grade, inspection string, units ...string) {
	t.Helper()
	require.NoError(t, h.Deliver(context.Background(), "returns", &warehousev1.ReturnGraded{
		ReturnId: c.GetReturnId(), Reference: c.GetOrderId(), MerchantId: c.GetMerchantId(),
		Grading: &warehousev1.Grading{GradingId: id.New("grd"), Sku: sku, Quantity: quantity, Grade: grade, CaseId: inspection, UnitIds: units},
	}))
}

func (h *house) verdict(t tester, c *aftersalev1.Case, inspection, sku string, quantity int64, v inspectionv1.Verdict) {
	t.Helper()
	require.NoError(t, h.Deliver(context.Background(), "returns", &inspectionv1.VerdictConfirmed{
		CaseId: inspection, MerchantId: c.GetMerchantId(), Sku: sku, Quantity: quantity, Verdict: v, Reference: c.GetReturnId(),
	}))
}

// run drives every saga, and answers how that of a case stands.
func (h *house) run(t tester, c *aftersalev1.Case) kernelv1.SagaState {
	t.Helper()
	all, err := h.RunSagas(context.Background())
	require.NoError(t, err)
	keys := slices.Sorted(maps.Keys(all))
	slices.Reverse(keys)
	for _, k := range keys {
		if len(k) > 30 && k[:30] == c.GetCaseId() {
			return all[k].GetState()
		}
	}
	return kernelv1.SagaState_SAGA_STATE_DONE // none is open
}

func refusedAs(t tester, reason string, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, reason, fault.Reason(host.Relay(err)), "%v", err)
}

// published are the events of one kind about a case or conversation.
func published[M proto.Message](t testing.TB, h *house) (all []M) {
	t.Helper()
	for _, e := range h.Published(t) {
		if m, ok := e.(M); ok {
			all = append(all, m)
		}
	}
	return all
}

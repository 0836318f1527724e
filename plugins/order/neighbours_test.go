package main

import (
	"context"
	"flag"
	"strconv"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
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

// world is a catalog, a warehouse and a payment module, small and obedient.
type world struct {
	catalogv1connect.UnimplementedQuoteServiceHandler
	warehousev1connect.UnimplementedStockServiceHandler
	warehousev1connect.UnimplementedReservationStepServiceHandler
	paymentv1connect.UnimplementedPaymentServiceHandler

	mu       sync.Mutex
	prices   map[string]int64
	stock    map[string]int64
	held     map[string][]*warehousev1.ReservationLine
	payments map[string]int64 // authorised minor units
	captured map[string]int64
	refunded map[string]int64
	done     map[string]bool // operations of payment and reductions
	declines map[string]bool // by method token
	terms    map[string]*catalogv1.BackorderTerms
	// loses: the first call of each operation has its effect, and its answer is
	// lost. lost are those that were.
	loses bool
	lost  map[string]bool

	hands // see hands_test.go
}

func newWorld() *world {
	return &world{
		prices: map[string]int64{"sku_tea": 1250, "sku_pot": 3000, "sku_cup": 499},
		stock:  map[string]int64{"sku_tea": 1000, "sku_pot": 1000, "sku_cup": 1000},
		held:   map[string][]*warehousev1.ReservationLine{}, payments: map[string]int64{}, captured: map[string]int64{}, refunded: map[string]int64{}, done: map[string]bool{},
		declines: map[string]bool{"tok_declined": true},
	}
}

func (w *world) register(s *connect.Server) {
	catalogv1connect.RegisterQuoteServiceHandler(s, w)
	warehousev1connect.RegisterStockServiceHandler(s, w)
	warehousev1connect.RegisterReservationStepServiceHandler(s, w)
	paymentv1connect.RegisterPaymentServiceHandler(s, w)
	warehousev1connect.RegisterFulfilmentStepServiceHandler(s, &w.hands)
	logisticsv1connect.RegisterShipmentServiceHandler(s, &w.hands)
}

func (w *world) QuotePrices(_ context.Context, req *catalogv1.QuotePricesRequest) (*catalogv1.QuotePricesResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	currency := map[string]string{"GB": "GBP", "DE": "EUR", "JP": "JPY"}[req.GetMarket()]
	res := &catalogv1.QuotePricesResponse{}
	for _, sku := range req.GetSkus() {
		p, ok := w.prices[sku]
		if !ok {
			return nil, fault.New(connect.CodeFailedPrecondition, "NOT_LISTED", "not listed here", "skus", sku)
		}
		merchant := "mrc_one"
		if sku == "sku_cup" {
			merchant = "mrc_two"
		}
		res.Quotes = append(res.Quotes, &catalogv1.Quote{
			Sku: sku, MerchantId: merchant, Title: sku, Price: &typev1.Money{CurrencyCode: currency, MinorUnits: p},
			Backorder: w.terms[sku],
		})
	}
	return res, nil
}

func (w *world) ReserveStock(_ context.Context, req *warehousev1.ReserveStockRequest) (*warehousev1.ReserveStockResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[req.GetReservationId()] != nil {
		return &warehousev1.ReserveStockResponse{}, nil
	}
	for _, l := range req.GetLines() {
		if w.stock[l.GetSku()] < l.GetQuantity() {
			return nil, fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "not enough", l.GetSku(), strconv.FormatInt(w.stock[l.GetSku()], 10))
		}
	}
	for _, l := range req.GetLines() {
		w.stock[l.GetSku()] -= l.GetQuantity()
	}
	w.held[req.GetReservationId()] = req.GetLines()
	return &warehousev1.ReserveStockResponse{}, w.answer(req.GetReservationId())
}

func (w *world) ReleaseReservation(_ context.Context, req *warehousev1.ReleaseReservationRequest) (*warehousev1.ReleaseReservationResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.held[req.GetReservationId()] {
		w.stock[l.GetSku()] += l.GetQuantity()
	}
	delete(w.held, req.GetReservationId())
	return &warehousev1.ReleaseReservationResponse{}, nil
}

func (w *world) AuthorizePayment(_ context.Context, req *paymentv1.AuthorizePaymentRequest) (*paymentv1.AuthorizePaymentResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.declines[req.GetMethodToken()] {
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYMENT_DECLINED", "declined")
	}
	w.payments[req.GetPaymentId()] = req.GetAmount().GetMinorUnits()
	return &paymentv1.AuthorizePaymentResponse{}, w.answer(req.GetPaymentId())
}

func (w *world) CapturePayment(_ context.Context, req *paymentv1.CapturePaymentRequest) (*paymentv1.CapturePaymentResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done[req.GetOperationId()] {
		return &paymentv1.CapturePaymentResponse{}, nil
	}
	if w.captured[req.GetPaymentId()]+req.GetAmount().GetMinorUnits() > w.payments[req.GetPaymentId()] {
		return nil, fault.New(connect.CodeFailedPrecondition, "CAPTURE_EXCEEDS_AUTHORIZATION", "more than is held")
	}
	w.done[req.GetOperationId()] = true
	w.captured[req.GetPaymentId()] += req.GetAmount().GetMinorUnits()
	return &paymentv1.CapturePaymentResponse{}, w.answer(req.GetOperationId())
}

func (w *world) ReversePayment(_ context.Context, req *paymentv1.ReversePaymentRequest) (*paymentv1.ReversePaymentResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.payments, req.GetPaymentId())
	delete(w.captured, req.GetPaymentId())
	return &paymentv1.ReversePaymentResponse{}, nil
}

func (w *world) RefundPayment(_ context.Context, req *paymentv1.RefundPaymentRequest) (*paymentv1.RefundPaymentResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done[req.GetOperationId()] {
		return &paymentv1.RefundPaymentResponse{}, nil
	}
	if w.refunded[req.GetPaymentId()]+req.GetAmount().GetMinorUnits() > w.captured[req.GetPaymentId()] {
		return nil, fault.New(connect.CodeFailedPrecondition, "REFUND_EXCEEDS_CAPTURE", "more than was taken")
	}
	w.done[req.GetOperationId()] = true
	w.refunded[req.GetPaymentId()] += req.GetAmount().GetMinorUnits()
	return &paymentv1.RefundPaymentResponse{}, w.answer(req.GetOperationId())
}

func (w *world) ReduceReservation(_ context.Context, req *warehousev1.ReduceReservationRequest) (*warehousev1.ReduceReservationResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done[req.GetReductionId()] {
		return &warehousev1.ReduceReservationResponse{}, nil
	}
	w.done[req.GetReductionId()] = true
	for _, l := range req.GetLines() {
		for _, h := range w.held[req.GetReservationId()] {
			if h.GetSku() != l.GetSku() {
				continue
			}
			if h.GetQuantity() < l.GetQuantity() {
				return nil, fault.New(connect.CodeFailedPrecondition, "NOT_RESERVED", "not as much")
			}
			h.Quantity -= l.GetQuantity()
			w.stock[l.GetSku()] += l.GetQuantity()
		}
	}
	return &warehousev1.ReduceReservationResponse{}, nil
}

func (w *world) GetAvailability(_ context.Context, req *warehousev1.GetAvailabilityRequest) (*warehousev1.GetAvailabilityResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	res := &warehousev1.GetAvailabilityResponse{}
	for _, sku := range req.GetSkus() {
		res.Availabilities = append(res.Availabilities, &warehousev1.Availability{Sku: sku, Available: w.stock[sku]})
	}
	return res, nil
}

func (w *world) GetStock(_ context.Context, req *warehousev1.GetStockRequest) (*warehousev1.GetStockResponse, error) {
	res := &warehousev1.GetStockResponse{}
	for _, sku := range req.GetSkus() {
		res.Levels = append(res.Levels, &warehousev1.StockLevel{Sku: sku, Further: map[string]int64{"incoming": 4, "receiving": 1}})
	}
	return res, nil
}

func (w *world) AdjustStock(ctx context.Context, req *warehousev1.AdjustStockRequest) (*warehousev1.AdjustStockResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if key := call.From(ctx).IdempotencyKey; !w.done[key] {
		w.done[key] = true
		w.stock[req.GetSku()] += req.GetDelta()
	}
	return &warehousev1.AdjustStockResponse{Level: &warehousev1.StockLevel{Sku: req.GetSku(), Sellable: w.stock[req.GetSku()]}}, nil
}

// answer is nil, or that nobody knows: the first time in a world that loses
// answers. The lock is held.
func (w *world) answer(operation string) error {
	if !w.loses || w.lost[operation] {
		return nil
	}
	put(&w.lost, operation, true)
	return fault.New(connect.CodeUnavailable, "OUTCOME_UNKNOWN", "nobody knows")
}

// shop is the order module in a world, with its callers.
type shop struct {
	*plugintest.Module
	world *world
}

func open(t *testing.T) *shop {
	t.Helper()
	w := newWorld()
	return &shop{plugintest.Start(t, module(), plugintest.Neighbours(w.register)), w}
}

var (
	guest    = call.Principal{}
	consumer = call.Principal{Kind: call.Consumer, Account: id.New("acc"), Subject: id.New("sub")}
	stranger = call.Principal{Kind: call.Consumer, Account: id.New("acc"), Subject: id.New("sub")}
	staff    = call.Principal{Kind: call.Staff, Account: id.New("acc")}
)

func member(merchant string) call.Principal {
	return call.Principal{Kind: call.Merchant, Account: id.New("acc"), Merchant: merchant, Permissions: []string{"*"}}
}

func (s *shop) carts(p call.Principal, key string) orderv1connect.CartServiceClient {
	return orderv1connect.NewCartServiceClient(s.Client(call.Info{Principal: p, Market: "DE", IdempotencyKey: key}))
}

func (s *shop) orders(p call.Principal) orderv1connect.OrderServiceClient {
	return orderv1connect.NewOrderServiceClient(s.Client(call.Info{Principal: p, Market: "DE"}))
}

func (s *shop) processing(merchant string) orderv1connect.ProcessingServiceClient {
	return orderv1connect.NewProcessingServiceClient(s.Client(call.Info{Principal: member(merchant), Market: "DE"}))
}

func lines(pairs ...any) []*orderv1.LineInput {
	var out []*orderv1.LineInput
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &orderv1.LineInput{Sku: pairs[i].(string), Quantity: int64(pairs[i+1].(int))})
	}
	return out
}

func (s *shop) cart(t *testing.T, p call.Principal, in ...any) *orderv1.CreateCartResponse {
	t.Helper()
	res, err := s.carts(p, id.New("key")).CreateCart(t.Context(), &orderv1.CreateCartRequest{Lines: lines(in...)})
	require.NoError(t, err)
	return res
}

var home = &typev1.Address{Recipient: "Erika Mustermann", Lines: []string{"Heidestr. 17"}, Locality: "Köln", PostalCode: "51147", CountryCode: "DE"}

func checkoutOf(c *orderv1.CreateCartResponse) *orderv1.CheckoutRequest {
	return &orderv1.CheckoutRequest{
		CartId: c.GetCart().GetCartId(), CartSecret: c.GetCartSecret(), ShipTo: home, Email: "erika@example.com", PaymentMethodToken: "tok_ok",
	}
}

func (s *shop) place(t *testing.T, p call.Principal, in ...any) (*orderv1.Order, string) {
	t.Helper()
	c := s.cart(t, p, in...)
	res, err := s.orders(p).Checkout(t.Context(), checkoutOf(c))
	require.NoError(t, err)
	return res.GetOrder(), c.GetCartSecret()
}

func requireReason(t *testing.T, code connect.Code, reason string, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(host.Relay(err)), "%v", err)
}

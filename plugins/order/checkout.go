package main

import (
	"context"
	"database/sql"
	"errors"
	"net/mail"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// checkoutSaga reserves, holds the money and places the order. The order's
// row is written by the transaction that starts it; rejecting that row is what
// undoes it. The reservation has no expiry: the saga holds it, and either the
// order keeps it or the saga releases it.
var checkoutSaga = saga.Define("checkout", 1,
	saga.Step{Name: "open", Undo: orderv1connect.OrderStepServiceRejectOrderProcedure},
	saga.Step{Name: "reserve", Do: warehousev1connect.StockServiceReserveStockProcedure, Undo: warehousev1connect.StockServiceReleaseReservationProcedure},
	saga.Step{Name: "authorize", Do: paymentv1connect.PaymentServiceAuthorizePaymentProcedure, Undo: paymentv1connect.PaymentServiceReversePaymentProcedure},
	saga.Step{Name: "place", Do: orderv1connect.OrderStepServicePlaceOrderProcedure, Kind: saga.Pivot},
)

// Checkout turns a cart into an order.
func (s *service) Checkout(ctx context.Context, req *orderv1.CheckoutRequest) (*orderv1.CheckoutResponse, error) {
	if err := s.mayCheckOut(ctx, req); err != nil {
		return nil, err
	}
	w, err := s.mayWait(ctx, req)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		o, started, err := s.open(ctx, req, sealed, w)
		var stale *staleQuote
		switch {
		case errors.As(err, &stale):
			if err := s.refreshQuote(ctx, stale.cart); err != nil {
				return nil, err
			}
			continue
		case err != nil && o != nil:
			return nil, s.recordShort(ctx, err, o.missed(req))
		case err != nil:
			return nil, err
		case started == nil:
			return s.joinCheckout(ctx, o)
		}
		if err := s.host.RunSaga(ctx, started); err != nil {
			return nil, s.recordShort(ctx, err, o.missed(req))
		}
		o.state = orderv1.Order_STATE_PLACED
		res := &orderv1.CheckoutResponse{Order: o.proto()}
		if len(req.GetBackorders()) > 0 {
			res.Backorders, err = s.backorders(ctx, o.cartID)
		}
		return res, err
	}
}

// missed is an order that was not placed as an attempt to buy.
func (o *order) missed(req *orderv1.CheckoutRequest) missed {
	m := missed{market: o.market, lines: o.lines}
	if req.GetNotifyMe() {
		m.account = o.account
	}
	return m
}

func (s *service) mayCheckOut(ctx context.Context, req *orderv1.CheckoutRequest) error {
	p := call.From(ctx).Principal
	if p.Kind != call.Nobody && p.Kind != call.Consumer {
		return fault.New(connect.CodePermissionDenied, "NOT_A_BUYER", "checkout is for consumers and guests")
	}
	if req.GetEmail() == "" && p.Kind == call.Nobody {
		return fault.Field("email", "a guest needs one, for the confirmation")
	}
	if req.GetEmail() != "" {
		if a, err := mail.ParseAddress(req.GetEmail()); err != nil || a.Address != req.GetEmail() {
			return fault.Field("email", "is no mail address")
		}
	}
	return nil
}

// seal has the vault encrypt who and where; the order's row will hold the
// references, in one commit with the records.
func (s *service) seal(ctx context.Context, req *orderv1.CheckoutRequest) (*kernelv1.SealResponse, error) {
	address, err := proto.Marshal(req.GetShipTo())
	if err != nil {
		return nil, err
	}
	items := []*kernelv1.SealItem{{Kind: "address", Plaintext: address}}
	if req.GetEmail() != "" {
		items = append(items, &kernelv1.SealItem{Kind: "email", Plaintext: []byte(req.GetEmail())})
	}
	sealed, err := s.host.Vault.Seal(ctx, &kernelv1.SealRequest{SubjectId: call.From(ctx).Principal.Subject, Items: items})
	if err == nil && len(sealed.GetItems()) != len(items) {
		return nil, errors.New("the vault sealed another number of items")
	}
	return sealed, err
}

// staleQuote says that a cart's prices are older than they may be.
type staleQuote struct{ cart *cart }

func (*staleQuote) Error() string { return "the quote is stale" }

// refreshQuote quotes a cart anew; other prices are for the consumer to see
// first.
func (s *service) refreshQuote(ctx context.Context, c *cart) error {
	wants := make([]want, len(c.lines))
	for i, l := range c.lines {
		wants[i] = want{l.SKU, l.Quantity}
	}
	before := c.total()
	if err := s.requote(ctx, c, wants); err != nil {
		return err
	}
	if c.total() != before {
		return fault.New(connect.CodeFailedPrecondition, "PRICE_CHANGED", "prices changed since the cart was filled; look at it and check out again")
	}
	return nil
}

// claimCart takes an open cart for an order; one that was taken answers no
// row. With it come its skus for which others wait.
const claimCart = `UPDATE cart SET state = 2, order_id = $2 WHERE id = $1 AND state = 1 RETURNING ` + cartColumns + `,
  (SELECT coalesce(json_object_agg(b.sku, b.waiting), '{}') FROM backlog b
    WHERE b.market = cart.market AND b.waiting > 0 AND b.sku IN (SELECT x->>'sku' FROM jsonb_array_elements(cart.lines) x))`

const insertOrder = `WITH o AS (
  INSERT INTO orders (id, market, state, currency, total, cart_id, account, subject, ship_to_ref, email_ref, payment_id, reservation_id, saga)
  VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::uuid) RETURNING id, placed_at),
l AS (
  INSERT INTO order_line (order_id, n, sku, merchant, title, quantity, unit, total, authenticated, weight, hs_code, origin)
  SELECT o.id, u.n, u.sku, u.merchant, u.title, u.quantity, u.unit, u.quantity * u.unit, u.authenticated, u.weight, u.hs_code, u.origin
    FROM o, ROWS FROM (unnest($13::text[]), unnest($14::text[]), unnest($15::text[]), unnest($16::bigint[]), unnest($17::bigint[]),
                  unnest($18::boolean[]), unnest($19::int[]), unnest($20::text[]), unnest($21::text[]))
         WITH ORDINALITY u(sku, merchant, title, quantity, unit, authenticated, weight, hs_code, origin, n)
  RETURNING merchant, total),
c AS (
  INSERT INTO consignment (order_id, merchant, total, due_at)
  SELECT $1, l.merchant, sum(l.total), now() + coalesce((SELECT h.hours FROM handling h WHERE h.merchant = l.merchant), 48) * interval '1 hour'
    FROM l GROUP BY l.merchant RETURNING merchant, total, due_at),
t AS (
  INSERT INTO timeline (order_id, what, who) VALUES ($1, 'checkout.started', $22))
SELECT o.placed_at, (SELECT json_agg(json_build_object('merchant', c.merchant, 'state', 1, 'total', c.total, 'due', c.due_at) ORDER BY c.merchant) FROM c) FROM o`

// open writes the order and starts its saga. No saga with an order means that
// the cart was taken before: the answer is that order.
func (s *service) open(ctx context.Context, req *orderv1.CheckoutRequest, sealed *kernelv1.SealResponse, w *wishes) (*order, *saga.Started, error) {
	p := call.From(ctx).Principal
	var o *order
	var started *saga.Started
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		o = &order{id: id.New("ord"), paymentID: id.New("pay"), reservationID: id.New("rsv"), account: p.Account, subject: sealed.GetSubjectId(),
			shipToRef: sealed.GetItems()[0].GetRef(), state: orderv1.Order_STATE_PLACING}
		started = nil
		c := &cart{}
		var ahead []byte
		err := scanCart(tx.Row(ctx, claimCart, req.GetCartId(), o.id), c, &ahead)
		if errors.Is(err, sql.ErrNoRows) {
			o, err = s.taken(ctx, tx, req)
			return err
		}
		if err != nil {
			return err
		}
		switch {
		case !s.mayOpen(ctx, c.id, c.account, req.GetCartSecret()):
			return errNoCart()
		case len(c.lines) == 0:
			return fault.New(connect.CodeFailedPrecondition, "CART_EMPTY", "the cart holds nothing")
		case time.Since(c.quotedAt) > quoteLife:
			return &staleQuote{c}
		}
		o.take(c)
		if len(sealed.GetItems()) > 1 {
			o.emailRef = sealed.GetItems()[1].GetRef()
		}
		later, err := w.divide(o, ahead)
		if err != nil {
			return err
		}
		tx.Keep(sealed)
		if len(later) > 0 {
			if err := o.queue(ctx, tx, later, req.GetPaymentMethodToken(), p.String()); err != nil || len(o.lines) == 0 {
				return err
			}
		}
		ctx = call.With(ctx, inMarket(call.From(ctx), c.market))
		if started, err = tx.StartSaga(ctx, checkoutSaga, o.id, o.checkoutRequests(req)); err != nil {
			return err
		}
		o.saga = started.ID
		return o.insert(ctx, tx, p.String())
	})
	return o, started, err
}

func inMarket(i call.Info, market string) call.Info {
	i.Market = market
	return i
}

// taken finds the order that a cart became, for its owner.
func (s *service) taken(ctx context.Context, tx *store.Tx, req *orderv1.CheckoutRequest) (*order, error) {
	c := &cart{}
	err := scanCart(tx.Row(ctx, `SELECT `+cartColumns+` FROM cart WHERE id = $1`, req.GetCartId()), c)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !s.mayOpen(ctx, c.id, c.account, req.GetCartSecret()) {
		return nil, errNoCart()
	}
	if err != nil {
		return nil, err
	}
	if c.orderID == "" {
		// Rejected and open again between the two statements.
		return nil, fault.Retry(fault.New(connect.CodeAborted, "CART_BUSY", "the cart's checkout just ended; try again"), 50*time.Millisecond)
	}
	return readOrder(ctx, tx, c.orderID)
}

// joinCheckout waits for the checkout that has the cart and answers its order.
func (s *service) joinCheckout(ctx context.Context, o *order) (*orderv1.CheckoutResponse, error) {
	if o.state == orderv1.Order_STATE_PLACING {
		if err := s.host.AwaitSaga(ctx, o.saga); err != nil {
			return nil, err
		}
		var err error
		if o, err = readOrder(ctx, s.db, o.id); err != nil {
			return nil, store.Wrap(err)
		}
	}
	res := &orderv1.CheckoutResponse{Order: toConsumer(o.proto())}
	if o.state == orderv1.Order_STATE_REJECTED {
		return res, nil
	}
	var err error
	if res.Backorders, err = s.backorders(ctx, o.cartID); err != nil {
		return nil, err
	}
	for _, b := range res.GetBackorders() {
		if b.GetOrderId() == o.id {
			res.Order = b
		}
	}
	return res, nil
}

// take copies what a cart holds into an order.
func (o *order) take(c *cart) {
	o.cartID, o.market, o.currency, o.lines, o.total = c.id, c.market, c.currency, c.lines, c.total()
}

func (o *order) insert(ctx context.Context, tx *store.Tx, who string) error {
	n := len(o.lines)
	skus, merchants, titles := make([]string, n), make([]string, n), make([]string, n)
	quantities, units, weights := make([]int64, n), make([]int64, n), make([]int32, n)
	authenticated, codes, origins := make([]bool, n), make([]string, n), make([]string, n)
	for i, l := range o.lines {
		skus[i], merchants[i], titles[i], quantities[i], units[i] = l.SKU, l.Merchant, l.Title, l.Quantity, l.Unit
		authenticated[i], weights[i], codes[i], origins[i] = l.Authenticated, l.Weight, l.HSCode, l.Origin
	}
	var doc []byte
	err := tx.Row(ctx, insertOrder, o.id, o.market, o.currency, o.total, o.cartID, o.account, o.subject, o.shipToRef, o.emailRef,
		o.paymentID, o.reservationID, o.saga, skus, merchants, titles, quantities, units,
		authenticated, weights, codes, origins, who).Scan(&o.placedAt, &doc)
	if err != nil {
		return err
	}
	return o.readConsignments(doc)
}

// checkoutRequests are what the saga's steps are asked. Ids are chosen here,
// so that no step needs another's answer.
func (o *order) checkoutRequests(req *orderv1.CheckoutRequest) saga.Requests {
	reserve := &warehousev1.ReserveStockRequest{ReservationId: o.reservationID, Reference: o.id, Market: o.market}
	for _, l := range o.lines {
		reserve.Lines = append(reserve.Lines, &warehousev1.ReservationLine{Sku: l.SKU, Quantity: l.Quantity, Authenticated: l.Authenticated})
	}
	return saga.Requests{
		"open.undo":    &orderv1.RejectOrderRequest{OrderId: o.id},
		"reserve":      reserve,
		"reserve.undo": &warehousev1.ReleaseReservationRequest{ReservationId: o.reservationID, Reason: "checkout refused"},
		"authorize": &paymentv1.AuthorizePaymentRequest{
			PaymentId: o.paymentID, Reference: o.id, Amount: money(o.currency, o.total), MethodToken: req.GetPaymentMethodToken(), Market: o.market,
		},
		"authorize.undo": &paymentv1.ReversePaymentRequest{PaymentId: o.paymentID, Reason: "checkout refused"},
		"place":          &orderv1.PlaceOrderRequest{OrderId: o.id},
	}
}

const placeOrder = `WITH o AS (UPDATE orders SET state = 2 WHERE id = $1 AND state = 1 RETURNING *),
c AS (UPDATE cart SET state = 3 FROM o WHERE cart.id = o.cart_id),
b AS (UPDATE backorder SET state = 2 FROM o WHERE backorder.of_order = o.id AND backorder.state = 1 RETURNING backorder.*),
w AS (UPDATE orders SET state = 9 FROM b WHERE orders.id = b.order_id),
t AS (INSERT INTO timeline (order_id, what, who, note) SELECT id, 'order.placed', 'system', '' FROM o
  UNION ALL SELECT order_id, 'backorder.placed', 'system', quantity || ' of ' || sku || ', expected on ' || expected_on FROM b)
SELECT ` + orderColumns + `, (SELECT json_agg(` + waitingColumns + ` ORDER BY b.n) FROM b) FROM o`

// PlaceOrder is the end of a checkout.
func (s *service) PlaceOrder(ctx context.Context, req *orderv1.PlaceOrderRequest) (*orderv1.PlaceOrderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.PlaceOrderResponse, error) {
		var later []byte
		o, err := scanOrder(tx.Row(ctx, placeOrder, req.GetOrderId()), &later)
		if err != nil {
			return nil, noOrder(err)
		}
		if err := o.tellWaiting(tx, later); err != nil {
			return nil, err
		}
		return &orderv1.PlaceOrderResponse{}, tx.Publish(o.placed())
	})
}

// placed tells of an order whose stock is reserved and whose money is held.
func (o *order) placed() *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{
		OrderId: o.id, Market: o.market, Total: money(o.currency, o.total), Lines: linesProto(o.currency, o.lines),
		PaymentId: o.paymentID, ReservationId: o.reservationID, AccountId: o.account, ShipToRef: o.shipToRef, EmailRef: o.emailRef,
	}
}

const rejectOrder = `WITH o AS (UPDATE orders SET state = 6 WHERE id = $1 AND state = 1 RETURNING *),
c AS (UPDATE cart SET state = 1, order_id = NULL FROM o WHERE cart.id = o.cart_id),
b AS (UPDATE backorder SET state = 6, method_token = '' FROM o WHERE backorder.of_order = o.id AND backorder.state = 1 RETURNING backorder.*),
w AS (UPDATE orders SET state = 6 FROM b WHERE orders.id = b.order_id),
q AS (UPDATE backlog SET waiting = backlog.waiting - b.quantity FROM b WHERE backlog.sku = b.sku AND backlog.market = b.market),
t AS (INSERT INTO timeline (order_id, what, who) SELECT id, 'order.rejected', 'system' FROM o)
SELECT market FROM o`

// RejectOrder is what a refused checkout ends with.
func (s *service) RejectOrder(ctx context.Context, req *orderv1.RejectOrderRequest) (*orderv1.RejectOrderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.RejectOrderResponse, error) {
		var market string
		if err := tx.Row(ctx, rejectOrder, req.GetOrderId()).Scan(&market); err != nil {
			return nil, noOrder(err)
		}
		return &orderv1.RejectOrderResponse{}, tx.Publish(&orderv1.OrderRejected{OrderId: req.GetOrderId(), Market: market})
	})
}

// onlyInSaga refuses a step that no saga asked for.
func onlyInSaga(ctx context.Context) error {
	if _, ok := store.StepOf(ctx); !ok {
		return fault.New(connect.CodePermissionDenied, "SAGA_STEP_ONLY", "this is a step of the order module's own sagas")
	}
	return nil
}

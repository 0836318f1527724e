package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

type order struct {
	id, market, currency, cartID, account, subject string
	shipToRef, emailRef, paymentID, reservationID  string
	saga                                           string
	state                                          orderv1.Order_State
	total                                          int64
	placedAt                                       time.Time
	// edits counts the changes since; editID is the one being made.
	edits           int
	editID, carrier string
	lines           []line
	waits           *wait
	consignments    []consignment
}

// consignment is one merchant's part of an order.
type consignment struct {
	Merchant string                    `json:"merchant"`
	State    orderv1.Consignment_State `json:"state"`
	Total    int64                     `json:"total"`
	// Shipments carry it, one for each fulfilment.
	Shipments []string `json:"shipments"`
	// Tracking numbers of their parcels.
	Tracking []string  `json:"tracking"`
	Due      time.Time `json:"due"`
	// Held is why its merchant holds it; 0: it does not.
	Held     orderv1.Hold_Reason `json:"held"`
	HeldAt   *time.Time          `json:"held_at"`
	HeldBy   string              `json:"held_by"`
	HeldNote string              `json:"held_note"`
}

func (c *consignment) proto(currency string) *orderv1.Consignment {
	out := &orderv1.Consignment{
		MerchantId: c.Merchant, State: c.State, Total: money(currency, c.Total), ShipmentIds: c.Shipments, TrackingNumbers: c.Tracking,
		DueBy: timestamppb.New(c.Due),
	}
	if c.HeldAt != nil {
		out.Hold = &orderv1.Hold{Reason: c.Held, Since: timestamppb.New(*c.HeldAt), Note: c.HeldNote, By: c.HeldBy}
	}
	return out
}

// toConsumer leaves out what merchants say among themselves.
func toConsumer(o *orderv1.Order) *orderv1.Order {
	for _, c := range o.GetConsignments() {
		if c.GetHold() != nil {
			c.Hold = &orderv1.Hold{Since: c.GetHold().GetSince()}
		}
	}
	return o
}

// orderColumns read an order from a relation o with the columns of orders, its
// lines and consignments as documents: one statement, one row.
const orderColumns = `o.id, o.market, o.state, o.currency, o.total, o.cart_id, o.account, o.subject, o.ship_to_ref, o.email_ref,
  o.payment_id, o.reservation_id, o.saga::text, o.placed_at, o.edits, o.edit_id, o.carrier,
  (SELECT json_agg(json_build_object('sku', l.sku, 'merchant', l.merchant, 'title', l.title, 'quantity', l.quantity, 'unit', l.unit,
     'authenticated', l.authenticated, 'weight', l.weight, 'hs', l.hs_code, 'origin', l.origin) ORDER BY l.n)
     FROM order_line l WHERE l.order_id = o.id),
  (SELECT json_agg(json_build_object('merchant', c.merchant, 'state', c.state, 'total', c.total, 'due', c.due_at,
     'held', c.held, 'held_at', c.held_at, 'held_by', c.held_by, 'held_note', c.held_note,
     'shipments', (SELECT json_agg(f.shipment_id ORDER BY f.id) FROM fulfilment f
                    WHERE f.order_id = c.order_id AND f.merchant = c.merchant AND f.shipment_id <> ''),
     'tracking', (SELECT json_agg(n ORDER BY f.id, n) FROM fulfilment f, unnest(f.tracking) n
                   WHERE f.order_id = c.order_id AND f.merchant = c.merchant AND f.shipment_id <> '')) ORDER BY c.merchant)
     FROM consignment c WHERE c.order_id = o.id),
  (SELECT json_build_object('state', b.state, 'of', b.of_order, 'expected_on', b.expected_on) FROM backorder b WHERE b.order_id = o.id)`

func scanOrder(row interface{ Scan(...any) error }, more ...any) (*order, error) {
	o := &order{}
	var lines, parts, waits []byte
	var state int16
	err := row.Scan(append([]any{&o.id, &o.market, &state, &o.currency, &o.total, &o.cartID, &o.account, &o.subject, &o.shipToRef, &o.emailRef,
		&o.paymentID, &o.reservationID, &o.saga, &o.placedAt, &o.edits, &o.editID, &o.carrier, &lines, &parts, &waits}, more...)...)
	if err != nil {
		return nil, err
	}
	o.state = orderv1.Order_State(state)
	if err := json.Unmarshal(lines, &o.lines); err != nil {
		return nil, err
	}
	if waits != nil {
		if err := json.Unmarshal(waits, &o.waits); err != nil {
			return nil, err
		}
	}
	return o, o.readConsignments(parts)
}

func (o *order) readConsignments(doc []byte) error { return json.Unmarshal(doc, &o.consignments) }

// rower is a transaction or the database.
type rower interface {
	Row(ctx context.Context, statement string, args ...any) *sql.Row
}

func readOrder(ctx context.Context, db rower, orderID string) (*order, error) {
	return scanOrder(db.Row(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.id = $1`, orderID))
}

func (o *order) proto() *orderv1.Order {
	out := &orderv1.Order{
		OrderId: o.id, State: o.state, Market: o.market, Lines: linesProto(o.currency, o.lines), Total: money(o.currency, o.total),
		CartId: o.cartID, AccountId: o.account, ShipToRef: o.shipToRef, PaymentId: o.paymentID, ReservationId: o.reservationID,
		PlacedAt: timestamppb.New(o.placedAt),
	}
	if o.waits != nil {
		out.Backorder = &orderv1.Backorder{State: o.waits.State, OfOrderId: o.waits.Of, ExpectedOn: o.waits.ExpectedOn}
	}
	for i := range o.consignments {
		out.Consignments = append(out.Consignments, o.consignments[i].proto(o.currency))
	}
	return out
}

// merchants tells whether a merchant has a part of the order.
func (o *order) has(merchant string) bool {
	for _, c := range o.consignments {
		if c.Merchant == merchant {
			return true
		}
	}
	return false
}

// errNoOrder is answered for an order that is not there and for one that is
// somebody else's alike.
func errNoOrder() error {
	return fault.New(connect.CodeNotFound, "ORDER_UNKNOWN", "there is no such order, or it is not yours: check order_id and, for a guest's, cart_secret")
}

// noOrder makes a missing row an unknown order.
func noOrder(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return errNoOrder()
	}
	return err
}

// mayRead tells whether the caller may see an order: its owner, staff and
// operators.
func (s *service) mayRead(ctx context.Context, o *order, secret string) bool {
	switch call.From(ctx).Principal.Kind {
	case call.Staff, call.Operator:
		return true
	}
	return s.mayOpen(ctx, o.cartID, o.account, secret)
}

// GetOrder answers an order; the address itself to its owner only.
func (s *service) GetOrder(ctx context.Context, req *orderv1.GetOrderRequest) (*orderv1.GetOrderResponse, error) {
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, store.Wrap(noOrder(err))
	}
	if !s.mayRead(ctx, o, req.GetCartSecret()) {
		return nil, errNoOrder()
	}
	out := o.proto()
	if k := call.From(ctx).Principal.Kind; k != call.Staff && k != call.Operator {
		out = toConsumer(out)
	}
	// Another plugin that serves the owner right now has the reference; for the
	// address it needs a purpose of its own at the vault.
	if call.From(ctx).Caller == "" && s.mayOpen(ctx, o.cartID, o.account, req.GetCartSecret()) {
		if out.ShipTo, err = s.reveal(ctx, o.shipToRef); err != nil {
			return nil, err
		}
	}
	return &orderv1.GetOrderResponse{Order: out}, nil
}

// reveal reads an address for its owner. Erased ones are nil.
func (s *service) reveal(ctx context.Context, ref string) (*typev1.Address, error) {
	res, err := s.host.Vault.Reveal(ctx, &kernelv1.RevealRequest{Purpose: "show-to-owner", Refs: []string{ref}})
	if err != nil {
		return nil, err
	}
	if len(res.GetItems()) != 1 || len(res.GetItems()[0].GetPlaintext()) == 0 {
		return nil, nil
	}
	a := &typev1.Address{}
	return a, proto.Unmarshal(res.GetItems()[0].GetPlaintext(), a)
}

// ListOrders pages through the caller's orders, newest first: ids rise with
// time.
func (s *service) ListOrders(ctx context.Context, req *orderv1.ListOrdersRequest) (*orderv1.ListOrdersResponse, error) {
	after, err := pageToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize(), 20)
	found, err := s.readOrders(ctx, `SELECT `+orderColumns+` FROM orders o
		WHERE o.account = $1 AND ($2 = '' OR o.id < $2) AND o.state <> 6 ORDER BY o.id DESC LIMIT $3`,
		call.From(ctx).Principal.Account, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &orderv1.ListOrdersResponse{}
	if len(found) > size {
		found, res.NextPageToken = found[:size], nextToken(found[size-1].id)
	}
	for _, o := range found {
		res.Orders = append(res.Orders, toConsumer(o.proto()))
	}
	return res, nil
}

func (s *service) readOrders(ctx context.Context, statement string, args ...any) ([]*order, error) {
	rows, err := s.db.Rows(ctx, statement, args...)
	if err != nil {
		return nil, store.Wrap(err)
	}
	defer func() { _ = rows.Close() }()
	var out []*order
	for rows.Next() {
		o, err := scanOrder(rows)
		if err != nil {
			return nil, store.Wrap(err)
		}
		out = append(out, o)
	}
	return out, store.Wrap(rows.Err())
}

func pageSize(asked int32, otherwise int) int {
	if asked == 0 {
		return otherwise
	}
	return int(asked)
}

// A page token is the id of the last row shown, opaque to clients.
func nextToken(orderID string) string { return base64.RawURLEncoding.EncodeToString([]byte(orderID)) }

func pageToken(token string) (orderID string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !strings.HasPrefix(string(b), "ord_") {
		return "", fault.Field("page_token", "is not one that this method gave")
	}
	return string(b), nil
}

// GetTimeline tells what happened to an order; merchants with a part of it see
// it too.
func (s *service) GetTimeline(ctx context.Context, req *orderv1.GetTimelineRequest) (*orderv1.GetTimelineResponse, error) {
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, store.Wrap(noOrder(err))
	}
	p := call.From(ctx).Principal
	if !s.mayRead(ctx, o, req.GetCartSecret()) && !(p.Kind == call.Merchant && o.has(p.Merchant)) {
		return nil, errNoOrder()
	}
	rows, err := s.db.Rows(ctx, `SELECT at, what, who, note FROM timeline WHERE order_id = $1 ORDER BY at, id LIMIT 1000`, o.id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	defer func() { _ = rows.Close() }()
	res := &orderv1.GetTimelineResponse{}
	for rows.Next() {
		e := &orderv1.TimelineEntry{}
		var at time.Time
		if err := rows.Scan(&at, &e.What, &e.Who, &e.Note); err != nil {
			return nil, store.Wrap(err)
		}
		e.At = timestamppb.New(at)
		res.Entries = append(res.Entries, e)
	}
	return res, store.Wrap(rows.Err())
}

var stateNames = map[orderv1.Order_State]string{
	orderv1.Order_STATE_PLACING: "placing", orderv1.Order_STATE_PLACED: "placed", orderv1.Order_STATE_ACCEPTED: "accepted",
	orderv1.Order_STATE_CANCELLING: "cancelling", orderv1.Order_STATE_CANCELLED: "cancelled", orderv1.Order_STATE_REJECTED: "rejected",
	orderv1.Order_STATE_HANDED_OVER: "handed_over", orderv1.Order_STATE_DELIVERED: "delivered",
	orderv1.Order_STATE_BACKORDERED: "backordered",
}

// SumOrders counts for reconciliation.
func (s *service) SumOrders(ctx context.Context, _ *orderv1.SumOrdersRequest) (*orderv1.SumOrdersResponse, error) {
	res := &orderv1.SumOrdersResponse{
		Orders: map[string]int64{}, Units: map[string]int64{}, TotalMinor: map[string]int64{}, AcceptedMinor: map[string]int64{},
	}
	sum := func(into map[string]int64, name func(string) string, statement string) error {
		rows, err := s.db.Rows(ctx, statement)
		if err != nil {
			return store.Wrap(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var k string
			var n int64
			if err := rows.Scan(&k, &n); err != nil {
				return store.Wrap(err)
			}
			into[name(k)] += n
		}
		return store.Wrap(rows.Err())
	}
	same := func(k string) string { return k }
	state := func(k string) string { return stateNames[orderv1.Order_State(k[0]-'0')] }
	return res, errors.Join(
		sum(res.GetOrders(), state, `SELECT state::text, count(*) FROM orders GROUP BY 1`),
		sum(res.GetUnits(), same, `SELECT l.sku, sum(l.quantity)::bigint FROM orders o JOIN order_line l ON l.order_id = o.id WHERE o.state IN (2, 3, 7, 8) GROUP BY 1`),
		sum(res.GetTotalMinor(), same, `SELECT currency, sum(total)::bigint FROM orders WHERE state IN (2, 3, 7, 8) GROUP BY 1`),
		sum(res.GetAcceptedMinor(), same, `SELECT o.currency, sum(c.total)::bigint FROM orders o JOIN consignment c ON c.order_id = o.id
			WHERE o.state IN (2, 3, 7, 8) AND c.state >= 3 GROUP BY 1`),
	)
}

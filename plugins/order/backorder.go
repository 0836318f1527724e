package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// wait is how an order waits, or waited, for stock.
type wait struct {
	State      orderv1.Backorder_State `json:"state"`
	Of         string                  `json:"of"`
	ExpectedOn string                  `json:"expected_on"`
}

// waiting is a row of backorder as events tell of it.
type waiting struct {
	ID         string `json:"id"`
	Of         string `json:"of"`
	Merchant   string `json:"merchant"`
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"`
	ExpectedOn string `json:"expected_on"`
}

const waitingColumns = `json_build_object('id', b.order_id, 'of', b.of_order, 'merchant', b.merchant, 'sku', b.sku, 'quantity', b.quantity,
  'expected_on', b.expected_on)`

// today is the day by which expected days are judged.
func today() string { return now().UTC().Format(time.DateOnly) }

// allowed is how many of a sku may wait now.
func (l line) allowed() int64 {
	if l.ExpectedOn < today() {
		return 0
	}
	return l.MayWait
}

// wishes are what a consumer accepts to wait for, and what there was of it when
// the checkout began.
type wishes struct {
	accepted map[string]*orderv1.AcceptedBackorder
	there    map[string]int64
}

// mayWait reads what a checkout accepts to wait for. Other checkouts cost
// nothing here.
func (s *service) mayWait(ctx context.Context, req *orderv1.CheckoutRequest) (*wishes, error) {
	w := &wishes{accepted: make(map[string]*orderv1.AcceptedBackorder)}
	if len(req.GetBackorders()) == 0 {
		return w, nil
	}
	for _, a := range req.GetBackorders() {
		if w.accepted[a.GetSku()] != nil {
			return nil, fault.Field("backorders", "each sku once")
		}
		w.accepted[a.GetSku()] = a
	}
	c, err := s.cart(ctx, req.GetCartId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	w.there, err = s.there(ctx, c.market, slices.DeleteFunc(slices.Clone(c.lines), func(l line) bool { return w.accepted[l.SKU] == nil }))
	return w, err
}

// there asks the warehouse how much of some lines could be reserved now.
func (s *service) there(ctx context.Context, market string, lines []line) (map[string]int64, error) {
	out, strict := make(map[string]int64, len(lines)), make(map[string]bool)
	req := &warehousev1.GetAvailabilityRequest{Market: market}
	for _, l := range lines {
		req.Skus, strict[l.SKU] = append(req.Skus, l.SKU), l.Authenticated
	}
	if len(req.GetSkus()) == 0 {
		return out, nil
	}
	// The module asks for itself: its caller may not see stock.
	ctx = call.With(ctx, call.Info{Market: market, Traceparent: call.From(ctx).Traceparent})
	res, err := s.stock.GetAvailability(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, a := range res.GetAvailabilities() {
		out[a.GetSku()] = a.GetAvailable()
		if strict[a.GetSku()] {
			out[a.GetSku()] = a.GetAvailableAuthenticated()
		}
	}
	return out, nil
}

// divide takes out of an order what is to wait. Where somebody waits already,
// all of a line does: nobody is overtaken.
func (w *wishes) divide(o *order, ahead []byte) (later []line, err error) {
	first := make(map[string]int64)
	if err := json.Unmarshal(ahead, &first); err != nil {
		return nil, err
	}
	if len(first) == 0 && len(w.accepted) == 0 {
		return nil, nil
	}
	var at []line
	var short []string
	changed := ""
	for _, l := range o.lines {
		a, there := w.accepted[l.SKU], w.there[l.SKU]
		if first[l.SKU] > 0 {
			there = 0
		} else if a == nil {
			there = l.Quantity // the reservation decides
		}
		n := max(0, l.Quantity-there)
		switch {
		case n == 0:
		case a == nil || l.allowed() < n:
			short = append(short, l.SKU, strconv.FormatInt(there, 10))
		case n > a.GetQuantity() || l.ExpectedOn > a.GetExpectedOn():
			changed = l.SKU
		default:
			wait := l
			wait.Quantity = n
			later = append(later, wait)
		}
		if l.Quantity -= n; l.Quantity > 0 {
			at = append(at, l)
		}
	}
	switch {
	case len(short) > 0:
		return nil, fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "there is not enough of some skus", short...)
	case changed != "":
		return nil, fault.New(connect.CodeFailedPrecondition, "BACKORDER_CHANGED",
			"more would wait than was accepted, or for longer: see GetCartAvailability and check out again", "sku", changed)
	}
	o.lines, o.total = at, 0
	for _, l := range at {
		o.total += l.total()
	}
	return later, nil
}

// queueUp counts what waits, where the listing allows it. The rows stay locked:
// places in a queue are given in the order of the commits. It tells of each
// whether the listing has another day by now than the one that was accepted: a
// cart knows it for half an hour.
const queueUp = `WITH u AS (SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $6::date[]) u(sku, merchant, quantity, allowed, expected) ORDER BY sku)
INSERT INTO backlog AS q (sku, market, merchant, waiting, allowed) SELECT sku, $5, merchant, quantity, allowed FROM u
  ON CONFLICT (sku, market) DO UPDATE SET waiting = q.waiting + excluded.waiting, allowed = excluded.allowed, merchant = excluded.merchant,
    since = CASE WHEN q.waiting = 0 THEN now() ELSE q.since END
   WHERE q.waiting + excluded.waiting <= excluded.allowed RETURNING sku, coalesce(q.expected_on <> (SELECT u.expected FROM u WHERE u.sku = q.sku), false)`

const insertBackorders = `WITH u AS MATERIALIZED (SELECT * FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),
    unnest($5::text[]), unnest($6::text[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::boolean[]), unnest($10::int[]), unnest($11::text[]),
    unnest($12::text[]), unnest($13::date[]))
  WITH ORDINALITY u(id, payment, reservation, sku, merchant, title, quantity, unit, authenticated, weight, hs_code, origin, expected, n)),
o AS (INSERT INTO orders (id, market, state, currency, total, cart_id, part, account, subject, ship_to_ref, email_ref, payment_id, reservation_id, saga)
  SELECT u.id, $14, $15, $16, u.quantity * u.unit, $17, u.n, $18, $19, $20, $21, u.payment, u.reservation, '00000000-0000-0000-0000-000000000000' FROM u),
l AS (INSERT INTO order_line (order_id, n, sku, merchant, title, quantity, unit, total, authenticated, weight, hs_code, origin)
  SELECT u.id, 1, u.sku, u.merchant, u.title, u.quantity, u.unit, u.quantity * u.unit, u.authenticated, u.weight, u.hs_code, u.origin FROM u),
c AS (INSERT INTO consignment (order_id, merchant, total, due_at)
  SELECT u.id, u.merchant, u.quantity * u.unit, u.expected + coalesce((SELECT h.hours FROM handling h WHERE h.merchant = u.merchant), 48) * interval '1 hour' FROM u),
t AS (INSERT INTO timeline (order_id, what, who, note)
  SELECT u.id, CASE WHEN $22 = '' THEN 'backorder.placed' ELSE 'checkout.started' END, $23, u.quantity || ' of ' || u.sku || ', expected on ' || u.expected FROM u),
b AS (INSERT INTO backorder (order_id, of_order, market, merchant, sku, quantity, expected_on, state, method_token)
  SELECT u.id, $22, $14, u.merchant, u.sku, u.quantity, u.expected, CASE WHEN $22 = '' THEN 2 ELSE 1 END, $24 FROM u ORDER BY u.n RETURNING *),
k AS (UPDATE cart SET state = 3 WHERE id = $17 AND $22 = ''),
g AS (INSERT INTO gap (merchant, market, sku, remind_at) SELECT u.merchant, $14, u.sku, now() + interval '1 day' FROM u ORDER BY u.sku
  ON CONFLICT DO NOTHING RETURNING merchant, sku, since)
SELECT (SELECT json_agg(` + waitingColumns + ` ORDER BY b.n) FROM b),
  (SELECT coalesce(json_agg(json_build_object('merchant', g.merchant, 'sku', g.sku, 'since', g.since)), '[]') FROM g)`

// queue writes what waits as orders of their own. Without anything else in the
// order the first of them takes its id, and they are placed at once: nothing
// else can be refused.
func (o *order) queue(ctx context.Context, tx *store.Tx, later []line, token, who string) error {
	n := len(later)
	ids, payments, reservations, skus, merchants := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	titles, codes, origins, expected := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	quantities, units, allowed := make([]int64, n), make([]int64, n), make([]int64, n)
	weights, authenticated := make([]int32, n), make([]bool, n)
	for i, l := range later {
		ids[i], payments[i], reservations[i] = id.New("ord"), id.New("pay"), id.New("rsv")
		skus[i], merchants[i], titles[i], quantities[i], units[i] = l.SKU, l.Merchant, l.Title, l.Quantity, l.Unit
		authenticated[i], weights[i], codes[i], origins[i], expected[i], allowed[i] = l.Authenticated, l.Weight, l.HSCode, l.Origin, l.ExpectedOn, l.allowed()
	}
	counted := 0
	rows, err := tx.Rows(ctx, queueUp, skus, merchants, quantities, allowed, o.market, expected)
	if err := each(rows, err, func(rows *sql.Rows) error {
		counted++
		var sku string
		var stale bool
		if err := rows.Scan(&sku, &stale); err != nil || !stale {
			return err
		}
		return tellDayLater(tx, sku, now().Add(dayGrace))
	}); err != nil {
		return err
	}
	if counted < n {
		return fault.New(connect.CodeFailedPrecondition, "BACKORDER_CHANGED",
			"as many wait as the merchant allows: see GetCartAvailability and check out again")
	}
	of, state := o.id, orderv1.Order_STATE_PLACING
	if len(o.lines) == 0 {
		of, state = "", orderv1.Order_STATE_BACKORDERED
		ids[0], o.state = o.id, state
	}
	var placed, short []byte
	if err := tx.Row(ctx, insertBackorders, ids, payments, reservations, skus, merchants, titles, quantities, units, authenticated, weights, codes, origins,
		expected, o.market, int16(state), o.currency, o.cartID, o.account, o.subject, o.shipToRef, o.emailRef, of, who, token).Scan(&placed, &short); err != nil {
		return err
	}
	if of == "" {
		if err := o.tellWaiting(tx, placed); err != nil {
			return err
		}
	}
	return o.tellShort(tx, short)
}

// tellWaiting tells of the orders that begin to wait with this one.
func (o *order) tellWaiting(tx *store.Tx, doc []byte) error {
	var all []waiting
	if len(doc) == 0 {
		return nil
	}
	if err := json.Unmarshal(doc, &all); err != nil {
		return err
	}
	for _, b := range all {
		if err := tx.Publish(&orderv1.BackorderPlaced{
			OrderId: b.ID, OfOrderId: b.Of, Market: o.market, MerchantId: b.Merchant, Sku: b.SKU, Quantity: b.Quantity, ExpectedOn: b.ExpectedOn,
			AccountId: o.account, EmailRef: o.emailRef,
		}); err != nil {
			return err
		}
	}
	return nil
}

// tellShort reminds merchants for the first time of what they came to be short
// of.
func (o *order) tellShort(tx *store.Tx, doc []byte) error {
	var all []struct {
		Merchant, SKU string
		Since         time.Time
	}
	if err := json.Unmarshal(doc, &all); err != nil {
		return err
	}
	for _, g := range all {
		if err := tx.Publish(&orderv1.ShortageReminder{
			MerchantId: g.Merchant, Sku: g.SKU, Market: o.market, ShortSince: timestamppb.New(g.Since), Number: 1,
		}); err != nil {
			return err
		}
	}
	return nil
}

// backorders are the orders that a cart has left to wait, as their consumer
// may see them.
func (s *service) backorders(ctx context.Context, cartID string) ([]*orderv1.Order, error) {
	found, err := s.readOrders(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.cart_id = $1 AND o.part > 0 AND o.state <> 6 ORDER BY o.part`, cartID)
	if err != nil {
		return nil, err
	}
	var out []*orderv1.Order
	for _, o := range found {
		out = append(out, toConsumer(o.proto()))
	}
	return out, nil
}

// GetCartAvailability tells how a cart's lines would be served.
func (s *service) GetCartAvailability(ctx context.Context, req *orderv1.GetCartAvailabilityRequest) (*orderv1.GetCartAvailabilityResponse, error) {
	c, err := s.cart(ctx, req.GetCartId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	there, err := s.there(ctx, c.market, c.lines)
	if err != nil {
		return nil, err
	}
	skus := make([]string, len(c.lines))
	for i, l := range c.lines {
		skus[i] = l.SKU
	}
	wait := make(map[string]int64)
	rows, err := s.db.Rows(ctx, `SELECT sku, waiting FROM backlog WHERE sku = ANY ($1) AND market = $2 AND waiting > 0`, skus, c.market)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var sku string
		var n int64
		err := rows.Scan(&sku, &n)
		wait[sku] = n
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res := &orderv1.GetCartAvailabilityResponse{}
	for _, l := range c.lines {
		a := &orderv1.LineAvailability{Sku: l.SKU, Available: min(there[l.SKU], l.Quantity)}
		if wait[l.SKU] > 0 {
			a.Available = 0 // others come first
		}
		a.Missing = l.Quantity - a.GetAvailable()
		if a.GetMissing() > 0 && a.GetMissing() <= l.allowed()-wait[l.SKU] {
			a.Backordered, a.Missing, a.ExpectedOn = a.GetMissing(), 0, l.ExpectedOn
		}
		res.Lines = append(res.Lines, a)
	}
	return res, nil
}

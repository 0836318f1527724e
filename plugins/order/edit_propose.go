package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// ProposeEdit computes a change and stores it; nothing else happens yet.
func (s *service) ProposeEdit(ctx context.Context, req *orderv1.ProposeEditRequest) (*orderv1.ProposeEditResponse, error) {
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, store.Wrap(noOrder(err))
	}
	side := s.side(ctx, o, req.GetCartSecret())
	if side == "" {
		return nil, errNoOrder()
	}
	if side != consumerSide && req.GetShipTo() != nil {
		return nil, fault.New(connect.CodePermissionDenied, "NOT_THE_CONSUMER", "where it goes is the consumer's to say")
	}
	e, err := s.draft(ctx, o, req)
	if err != nil {
		return nil, err
	}
	if side != consumerSide && slices.ContainsFunc(e.lines, func(l editLine) bool { return l.Merchant != side }) {
		return nil, fault.New(connect.CodePermissionDenied, "NOT_YOUR_GOODS", "these are another merchant's goods")
	}
	e.proposedBy, e.awaits = side, e.parties(o, side)
	var sealed *kernelv1.SealResponse
	if req.GetShipTo() != nil {
		address, err := proto.Marshal(req.GetShipTo())
		if err != nil {
			return nil, err
		}
		sealed, err = s.host.Vault.Seal(ctx, &kernelv1.SealRequest{SubjectId: o.subject, Items: []*kernelv1.SealItem{{Kind: "address", Plaintext: address}}})
		if err != nil {
			return nil, err
		}
		if len(sealed.GetItems()) != 1 {
			return nil, errors.New("the vault sealed another number of items")
		}
		e.shipToRef = sealed.GetItems()[0].GetRef()
	}
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.propose(ctx, tx, o, e, sealed) })
	if err != nil {
		return nil, err
	}
	if e, err = readEdit(ctx, s.db, req.GetEditId()); err != nil {
		return nil, store.Wrap(err)
	}
	return &orderv1.ProposeEditResponse{Edit: s.shown(ctx, o, e, req.GetCartSecret())}, nil
}

// draft works out which lines change, at which prices, and whether there is
// enough of them.
func (s *service) draft(ctx context.Context, o *order, req *orderv1.ProposeEditRequest) (*edit, error) {
	e := &edit{
		id: req.GetEditId(), orderID: o.id, carrier: req.GetCarrierInstance(), reason: req.GetReason(), version: o.edits,
		expiresAt: now().Add(editLife), currency: o.currency,
	}
	// A new vault reference stands for the same address each time: what was
	// asked, not what it was made into, tells whether it is the same proposal.
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&orderv1.ProposeEditRequest{
		OrderId: req.GetOrderId(), Lines: req.GetLines(), CarrierInstance: req.GetCarrierInstance(), Reason: req.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	e.fingerprint = hex.EncodeToString(sum[:])
	wants, err := merge(o.lines, true, req.GetLines())
	if err != nil {
		return nil, err
	}
	if len(wants) == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "EDIT_EMPTY", "nothing would be left of the order; cancel it instead")
	}
	if err := s.changes(ctx, o, e, wants); err != nil {
		return nil, err
	}
	if len(e.lines) == 0 && req.GetShipTo() == nil && e.carrier == "" {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_CHANGE", "the order is so already")
	}
	return e, s.availability(ctx, o.market, e)
}

// changes are the lines that become others. What is added is quoted.
func (s *service) changes(ctx context.Context, o *order, e *edit, wants []want) error {
	have, asked := make(map[string]line, len(o.lines)), make(map[string]int64, len(wants))
	var more []want
	for _, l := range o.lines {
		have[l.SKU] = l
	}
	for _, w := range wants {
		asked[w.sku] = w.quantity
		if w.quantity > have[w.sku].Quantity {
			more = append(more, w)
		}
	}
	for _, l := range o.lines {
		if q := asked[l.SKU]; q < l.Quantity {
			c := editLine{line: l, Before: l.Quantity}
			c.Quantity = q
			e.lines = append(e.lines, c)
		}
	}
	currency, quoted, err := s.quote(ctx, o.market, more)
	if err != nil {
		return err
	}
	if currency != "" && currency != o.currency {
		return fault.New(connect.CodeFailedPrecondition, "PRICE_CHANGED", "the market sells in another currency now; order it anew")
	}
	for _, q := range quoted {
		old, known := have[q.SKU]
		if known && (old.Unit != q.Unit || old.Merchant != q.Merchant) {
			return fault.New(connect.CodeFailedPrecondition, "PRICE_CHANGED", "it costs another price now; order it anew", "sku", q.SKU)
		}
		e.lines = append(e.lines, editLine{line: q, Before: old.Quantity})
	}
	if d := e.difference(); d > 0 && o.total > maxTotal-d || d > math.MaxInt64/2 {
		return fault.New(connect.CodeOutOfRange, "TOTAL_TOO_LARGE", "the order's total would be too large")
	}
	return nil
}

// availability tells of added pieces how many could be reserved now.
func (s *service) availability(ctx context.Context, market string, e *edit) error {
	req := &warehousev1.GetAvailabilityRequest{Market: market}
	for _, l := range e.lines {
		if l.Quantity > l.Before {
			req.Skus = append(req.Skus, l.SKU)
		}
	}
	if len(req.GetSkus()) == 0 {
		return nil
	}
	// The module asks for itself: its caller may not see stock.
	ctx = call.With(ctx, call.Info{Market: market, Traceparent: call.From(ctx).Traceparent})
	res, err := s.stock.GetAvailability(ctx, req)
	if err != nil {
		return err
	}
	for _, a := range res.GetAvailabilities() {
		for i := range e.lines {
			if l := &e.lines[i]; l.SKU == a.GetSku() {
				if l.Available = a.GetAvailable(); l.Authenticated {
					l.Available = a.GetAvailableAuthenticated()
				}
			}
		}
	}
	return nil
}

// parties are those who must agree: who proposes confirms it; a consumer's
// change needs the merchants who began to work on it; a merchant's needs the
// consumer where it costs more or brings goods that were not ordered.
func (e *edit) parties(o *order, side string) []string {
	all := []string{side}
	if side != consumerSide {
		if e.difference() > 0 || slices.ContainsFunc(e.lines, func(l editLine) bool { return l.Quantity > l.Before }) {
			all = append(all, consumerSide)
		}
		return all
	}
	concerned := e.merchants(o)
	for _, c := range o.consignments {
		if c.State >= orderv1.Consignment_STATE_ACCEPTING && slices.Contains(concerned, c.Merchant) {
			all = append(all, c.Merchant)
		}
	}
	return all
}

// editable refuses the edit of an order whose goods are too far, but for those
// of merchants whom the warehouse was asked itself about.
func (o *order) editable(ctx context.Context, tx *store.Tx, e *edit, but []string) error {
	switch o.state {
	case orderv1.Order_STATE_PLACED, orderv1.Order_STATE_ACCEPTED:
	case orderv1.Order_STATE_HANDED_OVER, orderv1.Order_STATE_DELIVERED:
		return fault.New(connect.CodeFailedPrecondition, "PACKED", "the goods are with a carrier; return them instead")
	default:
		return fault.New(connect.CodeFailedPrecondition, "ORDER_NOT_PLACED", "only a placed order can be edited")
	}
	var packed, rest bool
	if err := tx.Row(ctx, `SELECT coalesce(bool_or(f.state BETWEEN 2 AND 5 AND f.merchant = ANY ($2)), false), coalesce(bool_or(f.rest AND f.state = 1 AND f.merchant = ANY ($3)), false)
		FROM fulfilment f WHERE f.order_id = $1 AND f.merchant <> ALL ($4)`, o.id, e.merchants(o), append([]string{}, e.less()...), append([]string{}, but...)).Scan(&packed, &rest); err != nil {
		return err
	}
	switch {
	case packed:
		return fault.New(connect.CodeFailedPrecondition, "PACKED", "some of these goods are packed already; return them when they have come")
	case rest:
		return fault.New(connect.CodeFailedPrecondition, "FULFILMENT_SPLIT", "a part of these goods was not on the shelf and waits for stock; wait for it, or cancel the order")
	}
	return nil
}

// behind refuses an edit that adds pieces for which orders wait: what is added
// would be reserved past them. Who wants them orders them by themselves, and
// waits in the same queue.
func (e *edit) behind(ctx context.Context, tx *store.Tx, market string) error {
	var skus, waiting []string
	for _, l := range e.lines {
		if l.Quantity > l.Before {
			skus = append(skus, l.SKU)
		}
	}
	if len(skus) == 0 {
		return nil
	}
	rows, err := tx.Rows(ctx, `SELECT sku, waiting::text FROM backlog WHERE sku = ANY ($1) AND market = $2 AND waiting > 0 ORDER BY sku`, skus, market)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var sku, n string
		err := rows.Scan(&sku, &n)
		waiting = append(waiting, sku, n)
		return err
	}); err != nil || len(waiting) == 0 {
		return err
	}
	return fault.New(connect.CodeFailedPrecondition, "EDIT_BEHIND_WAITING",
		"others wait for some of what is added, and come first; order it by itself, and it waits behind them", waiting...)
}

const insertEdit = `WITH e AS (INSERT INTO order_edit (id, order_id, proposed_by, awaits, asked, version, lines, ship_to_ref, carrier, reason, fingerprint, expires_at)
  VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING order_id),
t AS (INSERT INTO timeline (order_id, what, who, note) SELECT order_id, 'edit.proposed', $12, $9 FROM e)
SELECT order_id FROM e`

func (s *service) propose(ctx context.Context, tx *store.Tx, seen *order, e *edit, sealed *kernelv1.SealResponse) error {
	var state int16
	if err := tx.Row(ctx, lockOrder, e.orderID).Scan(&state); err != nil {
		return err
	}
	before, err := readEdit(ctx, tx, e.id)
	switch {
	case err == nil && (before.orderID != e.orderID || before.fingerprint != e.fingerprint || before.proposedBy != e.proposedBy):
		return fault.New(connect.CodeAlreadyExists, "EDIT_DIFFERS", "this edit proposes something else; take another id")
	case err == nil || !errors.Is(err, sql.ErrNoRows):
		return err
	}
	o, err := readOrder(ctx, tx, e.orderID)
	if err != nil {
		return err
	}
	if o.edits != seen.edits {
		return fault.Retry(fault.New(connect.CodeAborted, "ORDER_BUSY", "the order was changed at this moment; try again"), 100*time.Millisecond)
	}
	if err := o.editable(ctx, tx, e, nil); err != nil {
		return err
	}
	if err := e.behind(ctx, tx, o.market); err != nil {
		return err
	}
	lines, err := json.Marshal(append([]editLine{}, e.lines...))
	if err != nil {
		return err
	}
	if sealed != nil {
		tx.Keep(sealed)
	}
	if err := tx.Row(ctx, insertEdit, e.id, e.orderID, e.proposedBy, e.awaits, e.version, string(lines), e.shipToRef, e.carrier, e.reason, e.fingerprint,
		e.expiresAt, call.From(ctx).Principal.String()).Scan(&e.orderID); err != nil {
		return err
	}
	if err := tx.SetTimer(e.id, e.expiresAt, &orderv1.OrderEditTimedOut{EditId: e.id}); err != nil {
		return err
	}
	return tx.Publish(&orderv1.OrderEditProposed{OrderId: e.orderID, EditId: e.id, ProposedBy: e.proposedBy, Awaits: e.awaits})
}

const endEdit = `WITH e AS (UPDATE order_edit SET state = $2, awaits = '{}', method_token = '' WHERE id = $1 AND state = 1 RETURNING order_id)
  INSERT INTO timeline (order_id, what, who, note) SELECT order_id, $3, $4, $5 FROM e`

// DeclineEdit ends a proposal.
func (s *service) DeclineEdit(ctx context.Context, req *orderv1.DeclineEditRequest) (*orderv1.DeclineEditResponse, error) {
	var out *orderv1.OrderEdit
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		o, e, err := s.lockEdit(ctx, tx, req.GetEditId(), req.GetCartSecret())
		if err != nil {
			return err
		}
		switch e.state {
		case orderv1.OrderEdit_STATE_PROPOSED:
		case orderv1.OrderEdit_STATE_DECLINED:
			out = s.shown(ctx, o, e, req.GetCartSecret())
			return nil
		default:
			return errEnded()
		}
		if _, err := tx.Do(ctx, endEdit, e.id, int16(orderv1.OrderEdit_STATE_DECLINED), "edit.declined", call.From(ctx).Principal.String(), req.GetReason()); err != nil {
			return err
		}
		tx.CancelTimer(e.id)
		e.state, e.awaits = orderv1.OrderEdit_STATE_DECLINED, nil
		out = s.shown(ctx, o, e, req.GetCartSecret())
		return nil
	})
	return &orderv1.DeclineEditResponse{Edit: out}, err
}

// timedOut ends a proposal nobody has agreed on in its time.
func timedOut(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.OrderEditTimedOut]) error {
	_, err := tx.Do(ctx, endEdit, e.Body.GetEditId(), int16(orderv1.OrderEdit_STATE_EXPIRED), "edit.expired", "system", "")
	return err
}

func errEnded() error {
	return fault.New(connect.CodeFailedPrecondition, "EDIT_ENDED", "this edit has ended, or is being made; propose another")
}

// lockEdit reads an edit and its order, which it locks: nothing changes an
// edit that has not the order. A caller who has no part in it finds none.
func (s *service) lockEdit(ctx context.Context, tx *store.Tx, editID, secret string) (*order, *edit, error) {
	o, e, err := lockEdit(ctx, tx, editID)
	if errors.Is(err, sql.ErrNoRows) || err == nil && s.side(ctx, o, secret) == "" {
		return nil, nil, errNoEdit()
	}
	return o, e, err
}

func lockEdit(ctx context.Context, tx *store.Tx, editID string) (*order, *edit, error) {
	if _, err := tx.Do(ctx, `SELECT FROM orders o JOIN order_edit e ON e.order_id = o.id WHERE e.id = $1 FOR UPDATE OF o`, editID); err != nil {
		return nil, nil, err
	}
	e, err := readEdit(ctx, tx, editID)
	if err != nil {
		return nil, nil, err
	}
	o, err := readOrder(ctx, tx, e.orderID)
	return o, e, err
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// editLife is how long a proposal may be agreed on: as long as prices hold
// for whoever has to be asked.
const editLife = 24 * time.Hour

// consumerSide is the consumer, or guest, among those who must agree;
// merchants stand by their ids.
const consumerSide = "consumer"

// edit is a proposed change of an order.
type edit struct {
	id, orderID, proposedBy, carrier, reason  string
	shipToRef, methodToken, saga, fingerprint string
	state                                     orderv1.OrderEdit_State
	// awaits are those who have not agreed of those who were asked.
	awaits, asked []string
	// version is how often the order had been edited when it was proposed.
	version              int
	lines                []editLine
	plan                 *plan
	createdAt, expiresAt time.Time
	currency             string
}

// editLine is a line that changes; Quantity is the one after it.
type editLine struct {
	line
	Before    int64 `json:"before"`
	Available int64 `json:"available"`
}

// payment is the id of the further payment, where one is needed.
func (e *edit) payment() string { return id.Derive("pay", e.id) }

func (e *edit) difference() (n int64) {
	for _, l := range e.lines {
		n += (l.Quantity - l.Before) * l.Unit
	}
	return n
}

// after are the order's lines with the edit.
func (e *edit) after(o *order) []line {
	changed := make(map[string]editLine, len(e.lines))
	for _, l := range e.lines {
		changed[l.SKU] = l
	}
	var out []line
	for _, l := range o.lines {
		if c, ok := changed[l.SKU]; ok {
			delete(changed, l.SKU)
			l.Quantity = c.Quantity
		}
		if l.Quantity > 0 {
			out = append(out, l)
		}
	}
	for _, l := range e.lines {
		if _, fresh := changed[l.SKU]; fresh {
			out = append(out, l.line)
		}
	}
	return out
}

// wanted is what an edit needed further.
func (e *edit) wanted(o *order) missed {
	m := missed{market: o.market}
	for _, l := range e.lines {
		if more := l.line; l.Quantity > l.Before {
			more.Quantity = l.Quantity - l.Before
			m.lines = append(m.lines, more)
		}
	}
	return m
}

// merchants are those whose goods or parcels change.
func (e *edit) merchants(o *order) (all []string) {
	for _, l := range e.lines {
		all = append(all, l.Merchant)
	}
	if e.shipToRef != "" || e.carrier != "" {
		for _, c := range o.consignments {
			all = append(all, c.Merchant)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// less are the merchants of whose goods something is taken out.
func (e *edit) less() (all []string) {
	for _, l := range e.lines {
		if l.Quantity < l.Before {
			all = append(all, l.Merchant)
		}
	}
	return all
}

func (e *edit) proto() *orderv1.OrderEdit {
	out := &orderv1.OrderEdit{
		EditId: e.id, OrderId: e.orderID, State: e.state, ProposedBy: e.proposedBy, Awaits: e.awaits, PriceDifference: money(e.currency, e.difference()),
		DutyDifference: money(e.currency, 0), AddressChanges: e.shipToRef != "", CarrierInstance: e.carrier, Reason: e.reason,
		CreatedAt: timestamppb.New(e.createdAt), ExpiresAt: timestamppb.New(e.expiresAt),
	}
	for _, l := range e.lines {
		out.WeightDifferenceGrams += (l.Quantity - l.Before) * int64(l.Weight)
		out.Lines = append(out.Lines, &orderv1.EditLine{
			Sku: l.SKU, MerchantId: l.Merchant, Title: l.Title, QuantityBefore: l.Before, QuantityAfter: l.Quantity,
			UnitPrice: money(e.currency, l.Unit), Difference: money(e.currency, (l.Quantity-l.Before)*l.Unit), Available: l.Available,
		})
	}
	return out
}

// part is an edit as one of the merchants may see it.
func (e *edit) part(merchant string) *edit {
	p := *e
	p.lines = slices.DeleteFunc(slices.Clone(e.lines), func(l editLine) bool { return l.Merchant != merchant })
	return &p
}

const editColumns = `e.id, e.order_id, e.state, e.proposed_by, to_json(e.awaits), to_json(e.asked), e.version, e.lines, coalesce(e.plan, 'null'), e.ship_to_ref, e.carrier, e.reason,
  e.method_token, coalesce(e.saga::text, ''), e.fingerprint, e.created_at, e.expires_at, o.currency`

func scanEdit(row interface{ Scan(...any) error }) (*edit, error) {
	e := &edit{}
	var state int16
	var awaits, asked, lines, plan []byte
	if err := row.Scan(&e.id, &e.orderID, &state, &e.proposedBy, &awaits, &asked, &e.version, &lines, &plan, &e.shipToRef, &e.carrier, &e.reason,
		&e.methodToken, &e.saga, &e.fingerprint, &e.createdAt, &e.expiresAt, &e.currency); err != nil {
		return nil, err
	}
	e.state = orderv1.OrderEdit_State(state)
	return e, errors.Join(json.Unmarshal(awaits, &e.awaits), json.Unmarshal(asked, &e.asked), json.Unmarshal(lines, &e.lines), json.Unmarshal(plan, &e.plan))
}

func readEdit(ctx context.Context, db rower, editID string) (*edit, error) {
	return scanEdit(db.Row(ctx, `SELECT `+editColumns+` FROM order_edit e JOIN orders o ON o.id = e.order_id WHERE e.id = $1`, editID))
}

func errNoEdit() error {
	return fault.New(connect.CodeNotFound, "EDIT_UNKNOWN", "there is no such edit, or it is not of an order of yours")
}

// side is for whom the caller may speak about an order; empty: for nobody.
func (s *service) side(ctx context.Context, o *order, secret string) string {
	p := call.From(ctx).Principal
	switch {
	case p.Kind == call.Merchant && o.has(p.Merchant):
		return p.Merchant
	case p.Kind != call.Merchant && s.mayOpen(ctx, o.cartID, o.account, secret):
		return consumerSide
	}
	return ""
}

// shown is an edit as the caller may see it; nil: not at all.
func (s *service) shown(ctx context.Context, o *order, e *edit, secret string) *orderv1.OrderEdit {
	switch side := s.side(ctx, o, secret); {
	case side == consumerSide || s.mayRead(ctx, o, secret):
		return e.proto()
	case side != "":
		return e.part(side).proto()
	}
	return nil
}

// GetEdit answers an edit to those of its order.
func (s *service) GetEdit(ctx context.Context, req *orderv1.GetEditRequest) (*orderv1.GetEditResponse, error) {
	e, err := readEdit(ctx, s.db, req.GetEditId())
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errNoEdit()
	}
	if err != nil {
		return nil, err
	}
	o, err := readOrder(ctx, s.db, e.orderID)
	if err != nil {
		return nil, err
	}
	out := s.shown(ctx, o, e, req.GetCartSecret())
	if out == nil {
		return nil, errNoEdit()
	}
	return &orderv1.GetEditResponse{Edit: out}, nil
}

// ListEdits tells an order's edits, newest first.
func (s *service) ListEdits(ctx context.Context, req *orderv1.ListEditsRequest) (*orderv1.ListEditsResponse, error) {
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, noOrder(err)
	}
	if s.side(ctx, o, req.GetCartSecret()) == "" && !s.mayRead(ctx, o, req.GetCartSecret()) {
		return nil, errNoOrder()
	}
	res := &orderv1.ListEditsResponse{}
	rows, err := s.db.Rows(ctx, `SELECT `+editColumns+` FROM order_edit e JOIN orders o ON o.id = e.order_id WHERE e.order_id = $1
		ORDER BY e.created_at DESC, e.id DESC LIMIT 100`, o.id)
	return res, each(rows, err, func(rows *sql.Rows) error {
		e, err := scanEdit(rows)
		if err == nil {
			res.Edits = append(res.Edits, s.shown(ctx, o, e, req.GetCartSecret()))
		}
		return err
	})
}

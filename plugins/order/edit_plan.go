package main

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// plan is what an edit does, worked out while the order is locked and kept
// until the saga has done it.
type plan struct {
	// Lines, and where money and goods are held, when it is done.
	Lines []line      `json:"lines"`
	After *settlement `json:"after"`
	// Halts are requests that the warehouse is to stop, Back what they are asked
	// again as if it must go on after all.
	Halts []string          `json:"halts"`
	Back  map[string]string `json:"back"`
	// Goods and money that are needed further.
	reserve              *warehousev1.ReserveStockRequest
	paymentID            string
	further              int64
	refunds, calls, asks []proto.Message
}

// planEdit works out how an order comes to have the lines after.
func planEdit(o *order, before *settlement, e *edit) (*plan, error) {
	after := before.clone()
	p := &plan{Lines: e.after(o), After: after, Back: map[string]string{}}
	accepted := make(map[string]bool)
	for _, c := range o.consignments {
		accepted[c.Merchant] = c.State >= orderv1.Consignment_STATE_ACCEPTING
	}
	p.goods(o, e, accepted)
	return p, p.money(o, e, accepted)
}

// goods reserves what is added and gives back what is removed, last what was
// reserved last.
func (p *plan) goods(o *order, e *edit, accepted map[string]bool) {
	p.reserve = &warehousev1.ReserveStockRequest{ReservationId: id.Derive("rsv", e.id), Reference: o.id, Market: o.market}
	reductions := make(map[string]*warehousev1.ReduceReservationRequest)
	var asked []string
	for _, l := range e.lines {
		delta := l.Quantity - l.Before
		if delta > 0 {
			p.reserve.Lines = append(p.reserve.Lines, &warehousev1.ReservationLine{Sku: l.SKU, Quantity: delta, Authenticated: l.Authenticated})
			h := &holding{Reservation: p.reserve.GetReservationId(), Merchant: l.Merchant, SKU: l.SKU, Quantity: delta, Authenticated: l.Authenticated}
			if accepted[l.Merchant] {
				h.Request = id.Derive("frq", e.id+"/"+l.Merchant)
				asked = append(asked, h.Request)
			}
			p.After.Holdings = append(p.After.Holdings, h)
			continue
		}
		for _, h := range slices.Backward(p.After.Holdings) {
			n := min(-delta, h.Quantity)
			if h.SKU != l.SKU || n == 0 {
				continue
			}
			h.Quantity, delta = h.Quantity-n, delta+n
			if h.Request != "" && !slices.Contains(p.Halts, h.Request) {
				p.Halts = append(p.Halts, h.Request)
			}
			r := reductions[h.Reservation]
			if r == nil {
				r = &warehousev1.ReduceReservationRequest{ReductionId: id.Derive("rdc", e.id+"/"+h.Reservation), ReservationId: h.Reservation}
				reductions[h.Reservation] = r
			}
			r.Lines = addReduction(r.Lines, l.SKU, n)
		}
	}
	for _, reservation := range slices.Sorted(maps.Keys(reductions)) {
		p.calls = append(p.calls, reductions[reservation])
	}
	for _, halt := range p.Halts {
		again := id.Derive("frq", e.id+"/"+halt)
		p.Back[halt], asked = id.Derive("frq", e.id+"/back/"+halt), append(asked, again)
		p.After.rename(halt, again)
	}
	p.After.Holdings = slices.DeleteFunc(p.After.Holdings, func(h *holding) bool { return h.Quantity == 0 })
	slices.Sort(asked)
	p.asks = p.After.requests(o, slices.Compact(asked))
}

func addReduction(lines []*warehousev1.ReductionLine, sku string, n int64) []*warehousev1.ReductionLine {
	for _, l := range lines {
		if l.GetSku() == sku {
			l.Quantity += n
			return lines
		}
	}
	return append(lines, &warehousev1.ReductionLine{Sku: sku, Quantity: n})
}

// money holds what is needed further, captures and refunds the shares of
// merchants who have accepted, and gives up what is held for nothing.
func (p *plan) money(o *order, e *edit, accepted map[string]bool) error {
	delta, need := make(map[string]int64), int64(0)
	for _, l := range e.lines {
		delta[l.Merchant] += (l.Quantity - l.Before) * l.Unit
	}
	for _, l := range p.Lines {
		if !accepted[l.Merchant] {
			need += l.total()
		}
	}
	for m, d := range delta {
		if accepted[m] && d > 0 {
			need += d
		}
	}
	p.paymentID = e.payment()
	headroom := p.After.headroom()
	if p.further = max(0, need-headroom); p.further > 0 {
		p.After.Payments = append(p.After.Payments, &purse{ID: p.paymentID, Authorized: p.further, Captured: map[string]int64{}, Refunded: map[string]int64{}})
	}
	p.refunds = p.After.void(headroom + p.further - need)
	for _, m := range slices.Sorted(maps.Keys(delta)) {
		var calls []proto.Message
		var err error
		switch d := delta[m]; {
		case !accepted[m]:
		case d > 0:
			calls, err = p.After.capture(e.id, o.currency, m, d)
		case d < 0:
			calls, err = p.After.refund(e.id, o.currency, m, "order edited", -d)
		}
		if err != nil {
			return err
		}
		p.refunds = append(p.refunds, calls...)
	}
	return nil
}

// settle is everything that is to be done once the order is changed: money,
// stock, and what the warehouse is to send instead.
func (p *plan) settle(orderID string) (*orderv1.SettleOrderRequest, error) {
	return settleOf(orderID, slices.Concat(p.refunds, p.calls, p.asks))
}

func settleOf(orderID string, calls []proto.Message) (*orderv1.SettleOrderRequest, error) {
	req := &orderv1.SettleOrderRequest{OrderId: orderID}
	for _, c := range calls {
		a, err := anypb.New(c)
		if err != nil {
			return nil, fmt.Errorf("order: settle: %w", err)
		}
		req.Calls = append(req.Calls, a)
	}
	return req, nil
}

func (st *settlement) clone() *settlement {
	out := &settlement{}
	for _, p := range st.Payments {
		c := *p
		c.Captured, c.Refunded = maps.Clone(p.Captured), maps.Clone(p.Refunded)
		out.Payments = append(out.Payments, &c)
	}
	for _, h := range st.Holdings {
		c := *h
		out.Holdings = append(out.Holdings, &c)
	}
	return out
}

// rename makes what one request asked for be asked for by another.
func (st *settlement) rename(request, as string) {
	for _, h := range st.Holdings {
		if h.Request == request {
			h.Request = as
		}
	}
}

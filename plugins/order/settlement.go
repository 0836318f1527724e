package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// settlement is where an order's money and goods are held. An order that was
// never edited nor split has none stored: it has the one payment and the one
// reservation of its checkout.
type settlement struct {
	Payments []*purse   `json:"payments"`
	Holdings []*holding `json:"holdings"`
}

// purse is one payment of an order, in minor units.
type purse struct {
	ID         string `json:"id"`
	Authorized int64  `json:"authorized"`
	// By merchant.
	Captured map[string]int64 `json:"captured"`
	Refunded map[string]int64 `json:"refunded"`
}

// free is what may still be captured.
func (p *purse) free() int64 {
	n := p.Authorized
	for _, c := range p.Captured {
		n -= c
	}
	return n
}

// holding is what a reservation holds of a sku, and which request asked the
// warehouse to send it; empty: none yet.
type holding struct {
	Reservation   string `json:"reservation"`
	Request       string `json:"request"`
	Merchant      string `json:"merchant"`
	SKU           string `json:"sku"`
	Quantity      int64  `json:"quantity"`
	Authenticated bool   `json:"authenticated"`
	// Part ships by itself; 0 is what is left when parts are split off.
	Part int `json:"part"`
}

// requestOf is the warehouse request of a merchant's part as it was ordered.
func requestOf(orderID, merchant string) string { return id.Derive("frq", orderID+"/"+merchant) }

// implied is the settlement of an order as its checkout left it.
func (o *order) implied() *settlement {
	p := &purse{ID: o.paymentID, Authorized: o.total, Captured: map[string]int64{}, Refunded: map[string]int64{}}
	st := &settlement{Payments: []*purse{p}}
	asked := make(map[string]string)
	for _, c := range o.consignments {
		if c.State >= orderv1.Consignment_STATE_ACCEPTING {
			p.Captured[c.Merchant], asked[c.Merchant] = c.Total, requestOf(o.id, c.Merchant)
		}
	}
	for _, l := range o.lines {
		st.Holdings = append(st.Holdings, &holding{
			Reservation: o.reservationID, Request: asked[l.Merchant], Merchant: l.Merchant, SKU: l.SKU, Quantity: l.Quantity, Authenticated: l.Authenticated,
		})
	}
	return st
}

// settled reads an order's settlement, and whether it is stored.
func (o *order) settled(ctx context.Context, db rower) (st *settlement, stored bool, err error) {
	var doc []byte
	err = db.Row(ctx, `SELECT doc FROM settlement WHERE order_id = $1`, o.id).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return o.implied(), false, nil
	}
	if err != nil {
		return nil, false, err
	}
	st = &settlement{}
	return st, true, json.Unmarshal(doc, st)
}

func (st *settlement) write(ctx context.Context, tx *store.Tx, orderID string) error {
	doc, err := json.Marshal(st)
	if err != nil {
		return err
	}
	_, err = tx.Do(ctx, `INSERT INTO settlement (order_id, doc) VALUES ($1, $2) ON CONFLICT (order_id) DO UPDATE SET doc = excluded.doc`, orderID, string(doc))
	return err
}

// headroom is what may still be captured over all payments.
func (st *settlement) headroom() (n int64) {
	for _, p := range st.Payments {
		n += p.free()
	}
	return n
}

// capture takes a merchant's amount from the payments in their order. seed
// makes the operations' ids: the same calls have the same.
func (st *settlement) capture(seed, currency, merchant string, amount int64) (calls []proto.Message, err error) {
	for _, p := range st.Payments {
		n := min(amount, p.free())
		if n <= 0 {
			continue
		}
		amount -= n
		p.Captured[merchant] += n
		calls = append(calls, &paymentv1.CapturePaymentRequest{
			PaymentId: p.ID, OperationId: id.Derive("cap", seed+"/"+merchant+"/"+p.ID), Amount: money(currency, n),
			Shares: []*paymentv1.MerchantShare{{MerchantId: merchant, MinorUnits: n}},
		})
	}
	if amount > 0 {
		return nil, fmt.Errorf("order: %d of merchant %s are not authorised", amount, merchant)
	}
	return calls, nil
}

// refund gives a merchant's amount back, from the last payment on.
func (st *settlement) refund(seed, currency, merchant, reason string, amount int64) (calls []proto.Message, err error) {
	for _, p := range slices.Backward(st.Payments) {
		n := min(amount, p.Captured[merchant]-p.Refunded[merchant])
		if n <= 0 {
			continue
		}
		amount -= n
		p.Refunded[merchant] += n
		calls = append(calls, &paymentv1.RefundPaymentRequest{
			PaymentId: p.ID, OperationId: id.Derive("rfd", seed+"/"+merchant+"/"+p.ID), Amount: money(currency, n), Reason: reason,
		})
	}
	if amount > 0 {
		return nil, fmt.Errorf("order: %d of merchant %s are not captured", amount, merchant)
	}
	return calls, nil
}

// void gives up further payments of which nothing is captured, as far as
// surplus says that they are not needed. The checkout's own stays.
func (st *settlement) void(surplus int64) (calls []proto.Message) {
	kept := st.Payments[:1:1]
	for _, p := range st.Payments[1:] {
		if p.free() == p.Authorized && p.Authorized <= surplus {
			surplus -= p.Authorized
			calls = append(calls, &paymentv1.ReversePaymentRequest{PaymentId: p.ID, Reason: "order edited"})
			continue
		}
		kept = append(kept, p)
	}
	st.Payments = kept
	return calls
}

// requests asks the warehouse for those of the holdings that carry one of the
// requests named, each request with all of its lines.
func (st *settlement) requests(o *order, named []string) (calls []proto.Message) {
	for _, name := range named {
		var req *warehousev1.RequestFulfilmentRequest
		for _, h := range st.Holdings {
			if h.Request != name || h.Quantity == 0 {
				continue
			}
			if req == nil {
				req = &warehousev1.RequestFulfilmentRequest{
					RequestId: name, ReservationId: h.Reservation, Reference: o.id, MerchantId: h.Merchant, Market: o.market,
				}
				calls = append(calls, req)
			}
			req.Lines = append(req.Lines, &warehousev1.FulfilmentLine{Sku: h.SKU, Quantity: h.Quantity, Authenticated: h.Authenticated})
		}
	}
	return calls
}

// ask gives a merchant's holdings that nobody asked for their requests: one for
// each reservation and part.
func (st *settlement) ask(orderID, merchant string) (named []string) {
	for _, h := range st.Holdings {
		if h.Merchant != merchant || h.Request != "" || h.Quantity == 0 {
			continue
		}
		h.Request = id.Derive("frq", fmt.Sprintf("%s/%s/%s/%d", orderID, merchant, h.Reservation, h.Part))
		if !slices.Contains(named, h.Request) {
			named = append(named, h.Request)
		}
	}
	return named
}

// undo gives all money and stock back.
func (st *settlement) undo() (calls []proto.Message) {
	for _, p := range st.Payments {
		calls = append(calls, &paymentv1.ReversePaymentRequest{PaymentId: p.ID, Reason: "order cancelled"})
	}
	seen := make(map[string]bool)
	for _, h := range st.Holdings {
		if !seen[h.Reservation] {
			seen[h.Reservation] = true
			calls = append(calls, &warehousev1.ReleaseReservationRequest{ReservationId: h.Reservation, Reason: "order cancelled"})
		}
	}
	return calls
}

package main

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// SplitConsignment has a merchant's part of an order shipped in parts.
func (s *service) SplitConsignment(ctx context.Context, req *orderv1.SplitConsignmentRequest) (*orderv1.SplitConsignmentResponse, error) {
	p := call.From(ctx).Principal
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.SplitConsignmentResponse, error) {
		var state int16
		if err := tx.Row(ctx, lockOrder, req.GetOrderId()).Scan(&state); err != nil {
			return nil, noOrder(err)
		}
		o, err := readOrder(ctx, tx, req.GetOrderId())
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(o.consignments, func(c consignment) bool { return c.Merchant == p.Merchant })
		switch {
		case i < 0:
			return nil, errNoOrder()
		case o.state != orderv1.Order_STATE_PLACED || o.consignments[i].State != orderv1.Consignment_STATE_OPEN:
			return nil, fault.New(connect.CodeFailedPrecondition, "ACCEPTED", "only what is not accepted yet is split")
		case o.editID != "":
			return nil, fault.New(connect.CodeFailedPrecondition, "ORDER_BUSY", "the order is being edited")
		}
		st, _, err := o.settled(ctx, tx)
		if err != nil {
			return nil, err
		}
		if err := st.split(p.Merchant, req.GetParts()); err != nil {
			return nil, err
		}
		if err := st.write(ctx, tx, o.id); err != nil {
			return nil, err
		}
		var log entries
		log.add(o.id, now(), "consignment.split", p.String(), fmt.Sprintf("%d parts split off", len(req.GetParts())))
		return &orderv1.SplitConsignmentResponse{}, log.write(ctx, tx)
	})
}

// split moves quantities of a merchant's holdings into parts.
func (st *settlement) split(merchant string, parts []*orderv1.ConsignmentPart) error {
	if slices.ContainsFunc(st.Holdings, func(h *holding) bool { return h.Merchant == merchant && h.Part > 0 }) {
		return fault.New(connect.CodeFailedPrecondition, "SPLIT", "this part of the order is split already")
	}
	for n, part := range parts {
		for _, l := range part.GetLines() {
			left := l.GetQuantity()
			for _, h := range st.Holdings {
				take := min(left, h.Quantity)
				if h.Merchant != merchant || h.SKU != l.GetSku() || h.Part != 0 || take <= 0 {
					continue
				}
				moved := *h
				moved.Quantity, moved.Part = take, n+1
				h.Quantity, left = h.Quantity-take, left-take
				st.Holdings = append(st.Holdings, &moved)
			}
			if left > 0 || l.GetQuantity() == 0 {
				return fault.Field("parts", "quantities of 1 and up, together at most what is ordered of "+l.GetSku())
			}
		}
	}
	st.Holdings = slices.DeleteFunc(st.Holdings, func(h *holding) bool { return h.Quantity == 0 })
	return nil
}

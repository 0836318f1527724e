package main

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// errNotLast is a merchant's part of an order that has others.
var errNotLast = errors.New("others have a part of the order")

// CancelConsignment takes a merchant's part out of an order; the last one ends
// it.
func (s *service) CancelConsignment(ctx context.Context, req *orderv1.CancelConsignmentRequest) (*orderv1.CancelConsignmentResponse, error) {
	merchant := call.From(ctx).Principal.Merchant
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, store.Wrap(noOrder(err))
	}
	if !o.has(merchant) {
		return s.cancelledBefore(ctx, o, merchant)
	}
	if o.state == orderv1.Order_STATE_BACKORDERED {
		return nil, fault.New(connect.CodeFailedPrecondition, "BACKORDERED", "it waits for stock: end the wait with CancelBackorders")
	}
	_, err = s.cancel(ctx, o.id, req.GetReason(), func(o *order) error {
		switch {
		case !o.has(merchant):
			return errNoOrder()
		case len(o.consignments) > 1:
			return errNotLast
		}
		return nil
	})
	if !errors.Is(err, errNotLast) {
		return &orderv1.CancelConsignmentResponse{OrderCancelled: err == nil}, err
	}
	edit := &orderv1.ProposeEditRequest{
		EditId: id.Derive("edt", fmt.Sprintf("%s/%s/cancel/%d", o.id, merchant, o.edits)), OrderId: o.id, Reason: req.GetReason(),
	}
	for _, l := range o.part(merchant).lines {
		edit.Lines = append(edit.Lines, &orderv1.LineInput{Sku: l.SKU})
	}
	if _, err := s.ProposeEdit(ctx, edit); err != nil {
		return nil, err
	}
	if _, err := s.AcceptEdit(ctx, &orderv1.AcceptEditRequest{EditId: edit.GetEditId()}); err != nil {
		return nil, err
	}
	return &orderv1.CancelConsignmentResponse{}, nil
}

// cancelledBefore answers a repetition: the part went with an edit of the
// merchant's.
func (s *service) cancelledBefore(ctx context.Context, o *order, merchant string) (*orderv1.CancelConsignmentResponse, error) {
	var was bool
	if err := s.db.Row(ctx, `SELECT EXISTS (SELECT FROM order_edit WHERE order_id = $1 AND proposed_by = $2 AND state = 3)`, o.id, merchant).Scan(&was); err != nil {
		return nil, store.Wrap(err)
	}
	if !was {
		return nil, errNoOrder()
	}
	return &orderv1.CancelConsignmentResponse{}, nil
}

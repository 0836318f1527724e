package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"

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

// cancelSaga stops what the warehouse does and gives money and stock back. It
// is refused while something is handed over, and only goes forward once the
// warehouse has stopped.
var cancelSaga = saga.Define("cancel", 1,
	saga.Step{Name: "open", Undo: orderv1connect.OrderStepServiceKeepOrderProcedure},
	saga.Step{Name: "halt", Do: warehousev1connect.FulfilmentStepServiceCancelFulfilmentProcedure},
	saga.Step{Name: "reverse", Do: paymentv1connect.PaymentServiceReversePaymentProcedure, Kind: saga.Retriable},
	saga.Step{Name: "release", Do: warehousev1connect.StockServiceReleaseReservationProcedure, Kind: saga.Retriable},
	saga.Step{Name: "finish", Do: orderv1connect.OrderStepServiceFinishCancellationProcedure, Kind: saga.Retriable},
)

// cancelSettledSaga does so for an order with several payments or
// reservations.
var cancelSettledSaga = saga.Define("cancel-settled", 1,
	saga.Step{Name: "open", Undo: orderv1connect.OrderStepServiceKeepOrderProcedure},
	saga.Step{Name: "halt", Do: warehousev1connect.FulfilmentStepServiceCancelFulfilmentProcedure},
	saga.Step{Name: "settle", Do: orderv1connect.OrderEditStepServiceSettleOrderProcedure, Kind: saga.Retriable, TimeoutSeconds: 60},
	saga.Step{Name: "finish", Do: orderv1connect.OrderStepServiceFinishCancellationProcedure, Kind: saga.Retriable},
)

func now() time.Time { return time.Now() }

// CancelOrder gives back stock and money of an order that is not handed over.
func (s *service) CancelOrder(ctx context.Context, req *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	o, err := s.cancel(ctx, req.GetOrderId(), req.GetReason(), func(o *order) error {
		if !s.mayRead(ctx, o, req.GetCartSecret()) {
			return errNoOrder()
		}
		return nil
	})
	if errors.Is(err, errWaits) {
		return s.cancelWait(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	return &orderv1.CancelOrderResponse{Order: toConsumer(o.proto())}, nil
}

// errWaits is an order for which nothing is held yet.
var errWaits = errors.New("the order waits for stock")

// cancel cancels an order for whom may says yes, and waits for the end.
func (s *service) cancel(ctx context.Context, orderID, reason string, may func(*order) error) (*order, error) {
	var o *order
	var started *saga.Started
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		started = nil
		var state int16
		if err := tx.Row(ctx, lockOrder, orderID).Scan(&state); err != nil {
			return noOrder(err)
		}
		if o, err = readOrder(ctx, tx, orderID); err != nil {
			return err
		}
		if err := may(o); err != nil {
			return err
		}
		switch o.state {
		case orderv1.Order_STATE_CANCELLING, orderv1.Order_STATE_CANCELLED:
			return nil
		case orderv1.Order_STATE_HANDED_OVER, orderv1.Order_STATE_DELIVERED:
			return fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "the goods are with a carrier; return them instead")
		case orderv1.Order_STATE_PLACED, orderv1.Order_STATE_ACCEPTED:
		case orderv1.Order_STATE_BACKORDERED:
			return errWaits
		default:
			return fault.New(connect.CodeFailedPrecondition, "ORDER_NOT_PLACED", "only a placed order can be cancelled")
		}
		if o.editID != "" {
			return fault.Retry(fault.New(connect.CodeAborted, "ORDER_BUSY", "the order is being edited; try again"), 200*time.Millisecond)
		}
		for _, c := range o.consignments {
			if c.State == orderv1.Consignment_STATE_ACCEPTING {
				return fault.Retry(fault.New(connect.CodeAborted, "ORDER_BUSY", "a merchant's share is being captured; try again"), 200*time.Millisecond)
			}
		}
		started, err = s.startCancel(ctx, tx, o, reason)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.finishCancel(ctx, o, started); err != nil {
		return nil, err
	}
	o.state = orderv1.Order_STATE_CANCELLED
	return o, nil
}

func (s *service) startCancel(ctx context.Context, tx *store.Tx, o *order, reason string) (*saga.Started, error) {
	ctx = call.With(ctx, inMarket(call.From(ctx), o.market))
	requests := saga.Requests{
		"open.undo": &orderv1.KeepOrderRequest{OrderId: o.id},
		"halt":      &warehousev1.CancelFulfilmentRequest{Reference: o.id, Reason: "order cancelled"},
		"finish":    &orderv1.FinishCancellationRequest{OrderId: o.id},
	}
	def := cancelSaga
	st, stored, err := o.settled(ctx, tx)
	if err != nil {
		return nil, err
	}
	if stored {
		def = cancelSettledSaga
		if requests["settle"], err = settleOf(o.id, st.undo()); err != nil {
			return nil, err
		}
	} else {
		requests["reverse"] = &paymentv1.ReversePaymentRequest{PaymentId: o.paymentID, Reason: "order cancelled"}
		requests["release"] = &warehousev1.ReleaseReservationRequest{ReservationId: o.reservationID, Reason: "order cancelled"}
	}
	// A cancellation that was refused may be tried again: as another saga.
	started, err := tx.StartSaga(ctx, def, o.id+"/"+id.New("cnl"), requests)
	if err != nil {
		return nil, err
	}
	_, err = tx.Do(ctx, `WITH o AS (UPDATE orders SET state = 4, cancel_reason = $2, saga = $3::uuid WHERE id = $1 RETURNING id)
		INSERT INTO timeline (order_id, what, who, note) SELECT id, 'cancellation.started', $4, $2 FROM o`,
		o.id, reason, started.ID, call.From(ctx).Principal.String())
	return started, err
}

// finishCancel runs the saga that was started, or joins the one under way.
func (s *service) finishCancel(ctx context.Context, o *order, started *saga.Started) error {
	switch {
	case started != nil:
		return s.host.RunSaga(ctx, started)
	case o.state == orderv1.Order_STATE_CANCELLING:
		return s.host.AwaitSaga(ctx, o.saga)
	}
	return nil
}

// KeepOrder is what a refused cancellation ends with.
func (s *service) KeepOrder(ctx context.Context, req *orderv1.KeepOrderRequest) (*orderv1.KeepOrderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.KeepOrderResponse, error) {
		err := tx.Row(ctx, `WITH o AS (UPDATE orders SET state = 2, cancel_reason = '' WHERE id = $1 AND state = 4 RETURNING id)
			INSERT INTO timeline (order_id, what, who) SELECT id, 'cancellation.refused', 'system' FROM o RETURNING order_id`, req.GetOrderId()).Scan(new(string))
		if errors.Is(err, sql.ErrNoRows) {
			return &orderv1.KeepOrderResponse{}, nil // it was kept
		}
		if err != nil {
			return nil, err
		}
		return &orderv1.KeepOrderResponse{}, follow(ctx, tx, req.GetOrderId())
	})
}

const finishCancellation = `WITH o AS (UPDATE orders SET state = 5 WHERE id = $1 AND state = 4 RETURNING id, cancel_reason),
t AS (INSERT INTO timeline (order_id, what, who) SELECT id, 'order.cancelled', 'system' FROM o)
SELECT cancel_reason FROM o`

// FinishCancellation is the end of a cancellation.
func (s *service) FinishCancellation(ctx context.Context, req *orderv1.FinishCancellationRequest) (*orderv1.FinishCancellationResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.FinishCancellationResponse, error) {
		var reason string
		if err := tx.Row(ctx, finishCancellation, req.GetOrderId()).Scan(&reason); err != nil {
			return nil, noOrder(err)
		}
		return &orderv1.FinishCancellationResponse{}, tx.Publish(&orderv1.OrderCancelled{OrderId: req.GetOrderId(), Reason: reason})
	})
}

package main

import (
	"context"

	"connectrpc.com/connect/v2"

	giftwrapv1 "example.com/giftwrap/proto/example/giftwrap/v1"
	"example.com/giftwrap/proto/example/giftwrap/v1/giftwrapv1connect"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// wrapSaga reserves the paper and records the wrap. What its first step does,
// the transaction that starts it has done; it only has something to undo.
var wrapSaga = saga.Define("wrap", 1,
	saga.Step{Name: "open", Undo: giftwrapv1connect.WrapStepServiceRejectWrapProcedure},
	saga.Step{Name: "paper", Do: warehousev1connect.StockServiceReserveStockProcedure, Undo: warehousev1connect.StockServiceReleaseReservationProcedure},
	saga.Step{Name: "finish", Do: giftwrapv1connect.WrapStepServiceFinishWrapProcedure, Kind: saga.Pivot},
)

// unwrapSaga gives the paper of a cancelled order back, however long it takes.
var unwrapSaga = saga.Define("unwrap", 1,
	saga.Step{Name: "paper", Do: warehousev1connect.StockServiceReleaseReservationProcedure, Kind: saga.Retriable},
)

// open records that the wrap is asked for and starts its saga, in one commit.
// No saga with an order means that it was asked for before.
func (s *service) open(ctx context.Context, found *order) (o *order, started *saga.Started, err error) {
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		started = nil // this may run more than once
		if o, err = read(ctx, tx.NewSelect().For("UPDATE"), found.ID); err != nil {
			return err
		}
		switch o.State {
		case giftwrapv1.Wrap_STATE_REQUESTED, giftwrapv1.Wrap_STATE_WRAPPED:
			return nil
		case giftwrapv1.Wrap_STATE_CANCELLED:
			return cancelled(o.ID)
		}
		// Ids are chosen here, so that no step needs another's answer.
		o.State, o.ReservationID = giftwrapv1.Wrap_STATE_REQUESTED, id.New("rsv")
		started, err = tx.StartSaga(inMarket(ctx, o.Market), wrapSaga, o.ReservationID, saga.Requests{
			"open.undo": &giftwrapv1.RejectWrapRequest{OrderId: o.ID},
			"paper": &warehousev1.ReserveStockRequest{
				ReservationId: o.ReservationID, Reference: o.ID, Lines: []*warehousev1.ReservationLine{{Sku: s.paper, Quantity: 1}},
			},
			"paper.undo": &warehousev1.ReleaseReservationRequest{ReservationId: o.ReservationID, Reason: "wrap refused"},
			"finish":     &giftwrapv1.FinishWrapRequest{OrderId: o.ID},
		})
		if err != nil {
			return err
		}
		o.Saga = started.ID
		_, err = tx.NewUpdate().Model(o).WherePK().Exec(ctx)
		return err
	})
	return o, started, err
}

// FinishWrap is the end of a request.
func (s *service) FinishWrap(ctx context.Context, req *giftwrapv1.FinishWrapRequest) (*giftwrapv1.FinishWrapResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*giftwrapv1.FinishWrapResponse, error) {
		o, err := read(ctx, tx.NewSelect().For("UPDATE"), req.GetOrderId())
		if err != nil {
			return nil, err
		}
		if o.State != giftwrapv1.Wrap_STATE_REQUESTED {
			return nil, cancelled(o.ID) // while the paper was being reserved
		}
		o.State = giftwrapv1.Wrap_STATE_WRAPPED
		if _, err := tx.NewUpdate().Model(o).Column("state").WherePK().Exec(ctx); err != nil {
			return nil, err
		}
		return &giftwrapv1.FinishWrapResponse{}, tx.Publish(&giftwrapv1.OrderWrapped{
			OrderId: o.ID, Market: o.Market, ReservationId: o.ReservationID,
		})
	})
}

// RejectWrap is what a refused request ends with: it can be asked again.
func (s *service) RejectWrap(ctx context.Context, req *giftwrapv1.RejectWrapRequest) (*giftwrapv1.RejectWrapResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*giftwrapv1.RejectWrapResponse, error) {
		_, err := tx.NewUpdate().Model((*order)(nil)).Set("state = ?, reservation_id = '', saga = NULL", giftwrapv1.Wrap_STATE_NONE).
			Where("order_id = ?", req.GetOrderId()).Where("state = ?", giftwrapv1.Wrap_STATE_REQUESTED).Exec(ctx)
		return &giftwrapv1.RejectWrapResponse{}, err
	})
}

func cancelled(id string) error {
	return fault.New(connect.CodeFailedPrecondition, "ORDER_CANCELLED", "the order was cancelled", "order", id)
}

// inMarket lets a saga use the bindings of an order's market, whatever the
// market of the call at hand.
func inMarket(ctx context.Context, market string) context.Context {
	i := call.From(ctx)
	i.Market = market
	return call.With(ctx, i)
}

package main

import (
	"context"
	"database/sql"
	"errors"

	giftwrapv1 "example.com/giftwrap/proto/example/giftwrap/v1"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// onPlaced keeps what wrapping needs to know of orders, a batch in one
// statement. A replay finds them there.
func (s *service) onPlaced(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderPlaced]) error {
	orders := make([]order, len(events))
	for i, e := range events {
		orders[i] = order{ID: e.Body.GetOrderId(), Account: e.Body.GetAccountId(), Market: e.Body.GetMarket(), State: giftwrapv1.Wrap_STATE_NONE}
	}
	_, err := tx.NewInsert().Model(&orders).On("CONFLICT DO NOTHING").Exec(ctx)
	return err
}

// onCancelled gives the paper back, by a saga that starts with this commit. A
// wrap that is only asked for is refused by its own saga's last step.
func (s *service) onCancelled(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.OrderCancelled]) error {
	o := new(order)
	err := tx.NewSelect().Model(o).Where("order_id = ?", e.Body.GetOrderId()).For("UPDATE").Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // placed before this module was there
	}
	if err != nil {
		return err
	}
	if o.State == giftwrapv1.Wrap_STATE_WRAPPED {
		_, err := tx.StartSaga(inMarket(ctx, o.Market), unwrapSaga, o.ReservationID, saga.Requests{
			"paper": &warehousev1.ReleaseReservationRequest{ReservationId: o.ReservationID, Reason: "order cancelled"},
		})
		if err != nil {
			return err
		}
	}
	o.State, o.ReservationID, o.Saga = giftwrapv1.Wrap_STATE_CANCELLED, "", ""
	_, err = tx.NewUpdate().Model(o).WherePK().Exec(ctx)
	return err
}

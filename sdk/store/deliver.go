package store

import (
	"context"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Deliver runs fn over a batch of events in the transaction that moves the
// subscription's position (or removes the one parked event): the effect
// happens exactly once. A batch that another delivery won is aborted, reason
// STALE_DELIVERY.
func (db *DB) Deliver(ctx context.Context, req *pluginv1.DeliverRequest, fn func(ctx context.Context, tx *Tx) error) error {
	return db.Run(ctx, func(ctx context.Context, tx *Tx) error {
		// First statement: a competing delivery blocks here and dies.
		var err error
		if req.GetParked() {
			_, err = tx.Do(ctx, "SELECT bus.ack_parked($1, $2)", int16(req.GetSubscription()), req.GetEvents()[0].GetPosition())
		} else {
			_, err = tx.Do(ctx, "SELECT bus.ack($1, $2, $3, $4)",
				int16(req.GetSubscription()), int16(req.GetLane()), req.GetExpected(), req.GetNext())
		}
		if err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

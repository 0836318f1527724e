package store

import (
	"context"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Deliver runs fn over a batch of events in the transaction that moves the
// subscription's positions (or removes the one parked event): the effect
// happens exactly once. A batch that another delivery won is aborted, reason
// STALE_DELIVERY.
func (db *DB) Deliver(ctx context.Context, req *pluginv1.DeliverRequest, fn func(ctx context.Context, tx *Tx) error) error {
	return db.Run(ctx, func(ctx context.Context, tx *Tx) error {
		// First statement: a competing delivery blocks here and dies.
		tx.unattended = true
		var err error
		if req.GetParked() {
			_, err = tx.Do(ctx, "SELECT bus.ack_parked($1, $2)", int16(req.GetSubscription()), req.GetEvents()[0].GetPosition())
		} else {
			lanes, expected, next := make([]int16, len(req.GetLanes())), make([]int64, len(req.GetLanes())), make([]int64, len(req.GetLanes()))
			for i, l := range req.GetLanes() {
				lanes[i], expected[i], next[i] = int16(l.GetLane()), l.GetExpected(), l.GetNext()
			}
			_, err = tx.Do(ctx, "SELECT bus.ack($1, $2, $3, $4)", int16(req.GetSubscription()), lanes, expected, next)
		}
		if err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

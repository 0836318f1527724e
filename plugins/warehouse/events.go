package main

import (
	"context"
	"database/sql"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onProducts learns whose goods skus are. The first to say it is right: a sku
// does not change hands.
func onProducts(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ProductChanged]) error {
	var skus, merchants []string
	for _, e := range events {
		for _, sku := range e.Body.GetSkus() {
			skus, merchants = append(skus, sku), append(merchants, e.Body.GetMerchantId())
		}
	}
	if _, err := tx.Do(ctx, `INSERT INTO stock_item (sku, merchant) SELECT u.sku, u.merchant
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u(sku, merchant, n) ORDER BY u.sku, u.n ON CONFLICT DO NOTHING`, skus, merchants); err != nil {
		return err
	}
	return weigh(ctx, tx, events)
}

// expiryBatch is how many reservations one tick ends: a transaction publishes
// no more events. What is left is due at the next tick.
const expiryBatch = 400

// onTicks does what each schedule is for, once however many ticks came.
func onTicks(ctx context.Context, tx *store.Tx, events []event.Of[*pluginv1.Tick]) error {
	fired := make(map[string]bool)
	for _, e := range events {
		fired[e.Body.GetSchedule()] = true
	}
	if fired["warehouse/expiry"] {
		if err := expireReservations(ctx, tx); err != nil {
			return err
		}
	}
	if fired["warehouse/revival"] {
		if err := revive(ctx, tx); err != nil {
			return err
		}
	}
	if fired["warehouse/reorder"] {
		return tellLow(ctx, tx)
	}
	return nil
}

// expireReservations ends reservations that are due.
func expireReservations(ctx context.Context, tx *store.Tx) error {
	var due []string
	rows, err := tx.Rows(ctx, lapsed, expiryBatch)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var r string
		err := rows.Scan(&r)
		due = append(due, r)
		return err
	}); err != nil || len(due) == 0 {
		return err
	}
	gone, err := end(ctx, tx, expire, warehousev1.Reservation_STATE_EXPIRED, due, actor(ctx))
	if err != nil {
		return err
	}
	for _, e := range gone {
		if err := tx.Publish(e.event()); err != nil {
			return err
		}
	}
	return nil
}

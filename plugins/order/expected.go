package main

import (
	"context"
	"database/sql"
	"time"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// dayBatch is how many who wait are told of another day in one transaction,
// which publishes 500 events at most. A timer tells the rest.
const dayBatch = 400

// dayGrace is how much later than a cart the listing's event may be heard.
const dayGrace = time.Minute

// keepDays notes for which day listings expect their goods. What a later event
// has said is not said again by a replay.
const keepDays = `INSERT INTO backlog AS q (sku, market, merchant, waiting, allowed, listing, expected_on)
  SELECT u.sku, u.market, '', 0, 0, u.position, u.day FROM unnest($1::text[], $2::text[], $3::bigint[], $4::date[]) u(sku, market, position, day) ORDER BY u.sku, u.market
  ON CONFLICT (sku, market) DO UPDATE SET listing = excluded.listing, expected_on = excluded.expected_on WHERE q.listing < excluded.listing`

// onListings hears for which day goods are expected, and tells those who wait
// for them. Terms that are taken away leave who waits the day that was told.
func onListings(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ListingChanged]) error {
	at := make(map[[2]string]int)
	var skus, markets, days []string
	var positions []int64
	for _, e := range events {
		day := e.Body.GetBackorder().GetExpectedOn()
		if day == "" {
			continue
		}
		k := [2]string{e.Body.GetSku(), e.Body.GetMarket()}
		i, known := at[k]
		if !known {
			at[k] = len(skus)
			skus, markets, days, positions = append(skus, k[0]), append(markets, k[1]), append(days, day), append(positions, e.Position)
			continue
		}
		days[i], positions[i] = day, e.Position
	}
	if len(skus) == 0 {
		return nil
	}
	queued, err := lockQueues(ctx, tx, skus)
	if err != nil {
		return err
	}
	if _, err := tx.Do(ctx, keepDays, skus, markets, positions, days); err != nil || len(queued) == 0 {
		return err
	}
	return tellDays(ctx, tx, queued)
}

// moveDays gives those who wait the day of their listing. Whose turn it is has
// the goods before him, and is looked at again if he has to give it up.
const moveDays = `WITH due AS (SELECT b.order_id, b.expected_on AS told, q.expected_on AS day FROM backlog q JOIN backorder b ON b.sku = q.sku AND b.market = q.market
   WHERE q.sku = ANY ($1) AND b.state < 5 AND b.state <> 3 AND b.expected_on <> q.expected_on ORDER BY b.sku, b.market, b.n LIMIT $2),
b AS (UPDATE backorder SET expected_on = due.day FROM due WHERE backorder.order_id = due.order_id RETURNING backorder.*, due.told),
c AS (UPDATE consignment c SET due_at = b.expected_on + coalesce((SELECT h.hours FROM handling h WHERE h.merchant = c.merchant), 48) * interval '1 hour'
  FROM b WHERE c.order_id = b.order_id),
t AS (INSERT INTO timeline (order_id, what, who, note) SELECT order_id, 'backorder.rescheduled', 'system', 'expected on ' || expected_on || ', not on ' || told FROM b)
SELECT b.order_id, b.market, b.merchant, b.sku, b.quantity, b.told::text, b.expected_on::text, o.account, o.email_ref
  FROM b JOIN orders o ON o.id = b.order_id ORDER BY b.n`

// tellDays tells those who wait for some skus, whose queues are locked, of
// another day than they were told before.
func tellDays(ctx context.Context, tx *store.Tx, skus []string) error {
	told := 0
	rows, err := tx.Rows(ctx, moveDays, skus, dayBatch)
	if err := each(rows, err, func(rows *sql.Rows) error {
		e := &orderv1.BackorderRescheduled{}
		if err := rows.Scan(&e.OrderId, &e.Market, &e.MerchantId, &e.Sku, &e.Quantity, &e.ToldOn, &e.ExpectedOn, &e.AccountId, &e.EmailRef); err != nil {
			return err
		}
		told++
		return tx.Publish(e)
	}); err != nil || told < dayBatch {
		return err
	}
	for _, sku := range skus {
		if err := tellDayLater(tx, sku, now()); err != nil {
			return err
		}
	}
	return nil
}

// tellDayLater has those who wait for a sku told at a time.
func tellDayLater(tx *store.Tx, sku string, at time.Time) error {
	return tx.SetTimer("day/"+sku, at, &orderv1.BackorderDayDue{Sku: sku})
}

func dayDue(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.BackorderDayDue]) error {
	queued, err := lockQueues(ctx, tx, []string{e.Body.GetSku()})
	if err != nil || len(queued) == 0 {
		return err
	}
	return tellDays(ctx, tx, queued)
}

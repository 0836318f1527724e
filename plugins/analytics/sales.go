package main

import (
	"context"
	"time"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// addSales ends a statement that has sums.
const addSales = `INSERT INTO figure_day AS f (day, market, merchant, sku, currency, orders, sold, sold_minor)
SELECT day, market, merchant, sku, currency, sum(orders)::bigint, sum(units)::bigint, sum(minor)::bigint FROM sums GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET orders = f.orders + EXCLUDED.orders, sold = f.sold + EXCLUDED.sold,
  sold_minor = f.sold_minor + EXCLUDED.sold_minor`

// An order that is there already adds nothing.
const keepPlaced = `WITH u AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::timestamptz[], $9::text[])
    u(order_id, sku, merchant, market, currency, units, minor, at, person)),
bought AS (INSERT INTO purchase (order_id, sku, person, market, at, changed)
  SELECT order_id, sku, person, market, at, $10::bigint FROM u ON CONFLICT DO NOTHING),
new AS (INSERT INTO sale_line (order_id, sku, merchant, market, currency, units, minor, placed_on)
  SELECT order_id, sku, merchant, market, currency, units, minor, (at AT TIME ZONE 'UTC')::date FROM u ON CONFLICT DO NOTHING RETURNING *),
sums AS (
  SELECT placed_on AS day, market, merchant, sku, currency, count(*) AS orders, sum(units) AS units, sum(minor) AS minor FROM new GROUP BY 1, 2, 3, 4, 5
  UNION ALL SELECT placed_on, market, merchant, '', currency, count(DISTINCT order_id), 0, 0 FROM new GROUP BY 1, 2, 3, 5
  UNION ALL SELECT placed_on, market, '', '', currency, count(DISTINCT order_id), 0, 0 FROM new GROUP BY 1, 2, 5)
` + addSales

// onPlaced records purchases and sums sales.
func onPlaced(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderPlaced]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var accounts []string
	for _, e := range events {
		if a := e.Body.GetAccountId(); a != "" {
			accounts = append(accounts, a)
		}
	}
	known, err := recognise(ctx, tx, accounts)
	if err != nil {
		return err
	}
	var c saleColumns
	var orders []string
	for _, e := range events {
		orders = append(orders, e.Body.GetOrderId())
		c.add(e.Body, e.At, known.of(e.Body.GetAccountId(), e.At))
	}
	if _, err := tx.Do(ctx, keepPlaced, c.orders, c.skus, c.merchants, c.markets, c.currencies, c.units, c.minors, c.ats, c.people, n); err != nil {
		return err
	}
	return ordered(ctx, tx, orders)
}

// saleColumns are lines of orders, one for each good of an order.
type saleColumns struct {
	orders, skus, merchants, markets, currencies, people []string
	units, minors                                        []int64
	ats                                                  []time.Time
}

func (c *saleColumns) add(o *orderv1.OrderPlaced, at time.Time, person string) {
	first := len(c.skus)
next:
	for _, l := range o.GetLines() {
		for i := first; i < len(c.skus); i++ {
			if c.skus[i] == l.GetSku() {
				c.units[i] += l.GetQuantity()
				c.minors[i] += l.GetTotal().GetMinorUnits()
				continue next
			}
		}
		c.orders, c.skus, c.merchants = append(c.orders, o.GetOrderId()), append(c.skus, l.GetSku()), append(c.merchants, l.GetMerchantId())
		c.markets, c.currencies = append(c.markets, o.GetMarket()), append(c.currencies, o.GetTotal().GetCurrencyCode())
		c.units, c.minors = append(c.units, l.GetQuantity()), append(c.minors, l.GetTotal().GetMinorUnits())
		c.ats, c.people = append(c.ats, at), append(c.people, person)
	}
}

// A cancellation counts on its own day, once.
const keepCancelled = `WITH u AS (SELECT * FROM unnest($1::text[], $2::date[]) u(order_id, day)),
unbought AS (UPDATE purchase p SET cancelled = true, changed = $3 FROM u WHERE p.order_id = u.order_id AND NOT p.cancelled),
gone AS (UPDATE sale_line l SET cancelled_on = u.day FROM u WHERE l.order_id = u.order_id AND l.cancelled_on IS NULL RETURNING l.*)
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, cancelled, cancelled_minor)
SELECT cancelled_on, market, merchant, sku, currency, sum(units)::bigint, sum(minor)::bigint FROM gone GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET cancelled = f.cancelled + EXCLUDED.cancelled,
  cancelled_minor = f.cancelled_minor + EXCLUDED.cancelled_minor`

func onCancelled(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderCancelled]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var orders, days []string
	for _, e := range events {
		orders, days = append(orders, e.Body.GetOrderId()), append(days, day(e.At))
	}
	_, err = tx.Do(ctx, keepCancelled, orders, days, n)
	return err
}

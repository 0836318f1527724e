package main

import (
	"context"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// A change counts once, on its own day: what came to be more as sold, what
// came to be less as cancelled. What is not in the order any more stays as a
// line of nothing.
const keepEdited = `WITH first AS (INSERT INTO order_edit (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id),
u AS (SELECT * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) u(sku, merchant, units, minor)),
l AS (SELECT * FROM sale_line WHERE order_id = $2),
d AS (SELECT coalesce(u.sku, l.sku) AS sku, coalesce(u.merchant, l.merchant) AS merchant, coalesce(u.units, 0) AS units, coalesce(u.minor, 0) AS minor,
    coalesce(u.units, 0) - coalesce(l.units, 0) AS more, coalesce(u.minor, 0) - coalesce(l.minor, 0) AS dearer, l.sku IS NULL AS new
  FROM l FULL JOIN u ON u.sku = l.sku WHERE EXISTS (SELECT FROM first) AND NOT EXISTS (SELECT FROM l WHERE cancelled_on IS NOT NULL)),
o AS (SELECT $2::text AS order_id, $7::text AS market, $8::text AS currency, $9::timestamptz AS at,
    coalesce((SELECT max(person) FROM purchase WHERE order_id = $2), '') AS person, coalesce((SELECT min(at) FROM purchase WHERE order_id = $2), $9::timestamptz) AS placed),
kept AS (INSERT INTO sale_line AS s (order_id, sku, merchant, market, currency, units, minor, placed_on)
  SELECT o.order_id, d.sku, d.merchant, o.market, o.currency, d.units, d.minor, (o.placed AT TIME ZONE 'UTC')::date FROM d, o
  ON CONFLICT (order_id, sku) DO UPDATE SET units = EXCLUDED.units, minor = EXCLUDED.minor),
bought AS (INSERT INTO purchase AS p (order_id, sku, person, market, at, cancelled, changed)
  SELECT o.order_id, d.sku, o.person, o.market, o.placed, d.units = 0, $10::bigint FROM d, o
  ON CONFLICT (order_id, sku) DO UPDATE SET cancelled = EXCLUDED.cancelled, changed = EXCLUDED.changed WHERE p.cancelled <> EXCLUDED.cancelled),
sums AS (SELECT merchant, sku, new::int AS orders, greatest(more, 0) AS sold, greatest(-more, 0) AS cancelled, greatest(dearer, 0) AS sold_minor, greatest(-dearer, 0) AS cancelled_minor
    FROM d WHERE more <> 0 OR dearer <> 0
  UNION ALL SELECT merchant, '', 1, 0, 0, 0, 0 FROM d GROUP BY merchant HAVING bool_and(new))
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, orders, sold, cancelled, sold_minor, cancelled_minor)
SELECT (o.at AT TIME ZONE 'UTC')::date, o.market, merchant, sku, o.currency, orders, sold, cancelled, sold_minor, cancelled_minor FROM sums, o ORDER BY merchant, sku
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET orders = f.orders + EXCLUDED.orders, sold = f.sold + EXCLUDED.sold,
  cancelled = f.cancelled + EXCLUDED.cancelled, sold_minor = f.sold_minor + EXCLUDED.sold_minor, cancelled_minor = f.cancelled_minor + EXCLUDED.cancelled_minor`

// onEdited takes up what an order was changed to, one change after the other.
func onEdited(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.OrderEdited]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var c saleColumns
	c.add(&orderv1.OrderPlaced{OrderId: e.Body.GetOrderId(), Market: e.Body.GetMarket(), Total: e.Body.GetTotal(), Lines: e.Body.GetLines()}, e.At, "")
	_, err = tx.Do(ctx, keepEdited, e.Body.GetEditId(), e.Body.GetOrderId(), c.skus, c.merchants, c.units, c.minors,
		e.Body.GetMarket(), e.Body.GetTotal().GetCurrencyCode(), e.At, n)
	return err
}

package main

import (
	"context"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onEdited copies an order that was changed before it was handed over. A line
// that was taken out stays, and is worth nothing: nothing of it was handed
// over. No line is worth less than what was refunded of it.
func onEdited(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.OrderEdited]) error {
	b := e.Body
	if known, err := lockPurchase(ctx, tx, b.GetOrderId()); err != nil || !known {
		return err
	}
	l, err := columnsOf(b.GetLines(), b.GetTotal())
	if err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `WITH u AS (SELECT * FROM ROWS FROM (unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::bigint[]),
		  unnest($6::bigint[]), unnest($7::bigint[])) WITH ORDINALITY u(sku, merchant, title, quantity, price, charge, n)),
		gone AS (UPDATE purchase_line l SET price = l.refunded, charge = 0 WHERE l.order_id = $1 AND NOT EXISTS (SELECT FROM u WHERE u.sku = l.sku)),
		kept AS (UPDATE purchase_line l SET quantity = u.quantity, price = greatest(u.price, l.refunded - u.charge), charge = u.charge
		  FROM u WHERE l.order_id = $1 AND l.sku = u.sku)
		INSERT INTO purchase_line (order_id, n, sku, merchant, title, quantity, price, charge)
		SELECT $1, u.n + (SELECT max(l.n) FROM purchase_line l WHERE l.order_id = $1), u.sku, u.merchant, u.title, u.quantity, u.price, u.charge
		  FROM u WHERE NOT EXISTS (SELECT FROM purchase_line l WHERE l.order_id = $1 AND l.sku = u.sku)`,
		b.GetOrderId(), l.skus, l.merchants, l.titles, l.quantities, l.prices, l.charges); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE purchase SET total = greatest($2, refunded), ship_to_ref = CASE WHEN $3 = '' THEN ship_to_ref ELSE $3 END WHERE order_id = $1`,
		b.GetOrderId(), b.GetTotal().GetMinorUnits(), b.GetShipToRef()); err != nil || b.GetPaymentId() == "" {
		return err
	}
	_, err = tx.Do(ctx, `INSERT INTO purchase_payment (payment_id, order_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, b.GetPaymentId(), b.GetOrderId())
	return err
}

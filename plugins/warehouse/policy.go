package main

import (
	"context"
	"database/sql"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// lowBatch is how many crossings one tick tells: a transaction publishes no
// more events. What is left is found at the next tick.
const lowBatch = 400

// cross finds the policies whose sku is on the other side of its reorder point
// than when it was last looked at, and remembers on which side it is. Looking
// at the whole now and then costs no sale anything.
const cross = `WITH stands AS (SELECT p.sku, p.market, coalesce(sum(b.sellable), 0)::bigint AS sellable
  FROM stock_policy p LEFT JOIN stock_balance b ON b.sku = p.sku WHERE p.reorder_point > 0 GROUP BY p.sku, p.market),
crossed AS (SELECT p.sku, p.market, s.sellable FROM stock_policy p JOIN stands s ON s.sku = p.sku AND s.market = p.market
  WHERE p.low <> (s.sellable <= p.reorder_point) ORDER BY p.sku, p.market LIMIT $1 FOR UPDATE OF p)
UPDATE stock_policy p SET low = NOT p.low FROM crossed c, stock_item i WHERE p.sku = c.sku AND p.market = c.market AND i.sku = c.sku
 RETURNING p.low, p.sku, i.merchant, p.market, c.sellable, p.reorder_point`

// tellLow says what has come to its reorder point, once each time it does.
func tellLow(ctx context.Context, tx *store.Tx) error {
	var told []*warehousev1.StockLow
	rows, err := tx.Rows(ctx, cross, lowBatch)
	err = scan(rows, err, func(rows *sql.Rows) error {
		e, low := &warehousev1.StockLow{}, false
		if err := rows.Scan(&low, &e.Sku, &e.MerchantId, &e.Market, &e.Sellable, &e.ReorderPoint); err != nil {
			return err
		}
		if low {
			told = append(told, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range told {
		if err := tx.Publish(e); err != nil {
			return err
		}
	}
	return nil
}

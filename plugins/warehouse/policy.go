package main

import (
	"context"
	"database/sql"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// lowBatch is how many crossings one tick tells: a transaction publishes no
// more events. What is left is found at the next tick.
const lowBatch = 400

// cross finds the policies whose sku is on the other side of its reorder point
// than when it was last looked at, and remembers on which side it is. Looking
// at the whole now and then costs no sale anything. What is expired is no stock.
const cross = `WITH stands AS (SELECT p.sku, p.market, coalesce(sum(b.sellable), 0)::bigint AS sellable
  FROM stock_policy p LEFT JOIN stock_balance b ON b.sku = p.sku AND (b.expires_on IS NULL OR b.expires_on >= (now() AT TIME ZONE 'UTC')::date)
 WHERE p.reorder_point > 0 GROUP BY p.sku, p.market),
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

// setPolicies leaves alone what is not the merchant's, and tells it. A changed
// reorder point is looked at anew.
const setPolicies = `WITH u AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    u(sku, market, on_shelf, safety_stock, reorder_point)),
strange AS MATERIALIZED (SELECT DISTINCT u.sku FROM u LEFT JOIN stock_item i ON i.sku = u.sku AND i.merchant = $1 WHERE i.sku IS NULL),
made AS (INSERT INTO stock_policy AS p (sku, market, on_shelf, safety_stock, reorder_point)
  SELECT u.sku, u.market, nullif(u.on_shelf, -1), u.safety_stock, u.reorder_point FROM u WHERE NOT EXISTS (SELECT FROM strange) ORDER BY u.sku, u.market
  ON CONFLICT (sku, market) DO UPDATE SET on_shelf = EXCLUDED.on_shelf, safety_stock = EXCLUDED.safety_stock, reorder_point = EXCLUDED.reorder_point,
    low = p.low AND p.reorder_point = EXCLUDED.reorder_point, set_at = now())
SELECT sku FROM strange ORDER BY 1`

// SetStockPolicies sets what is offered and when to buy again.
func (s *service) SetStockPolicies(ctx context.Context, req *warehousev1.SetStockPoliciesRequest) (*warehousev1.SetStockPoliciesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var skus, markets []string
	var shelves, safety, reorder []int64
	seen := make(map[[2]string]bool)
	for _, p := range req.GetPolicies() {
		if seen[[2]string{p.GetSku(), p.GetMarket()}] {
			return nil, fault.Field("policies", "each sku once in a market")
		}
		seen[[2]string{p.GetSku(), p.GetMarket()}] = true
		shelf := int64(-1)
		if p.OnShelf != nil {
			shelf = p.GetOnShelf()
		}
		skus, markets, shelves = append(skus, p.GetSku()), append(markets, p.GetMarket()), append(shelves, shelf)
		safety, reorder = append(safety, p.GetSafetyStock()), append(reorder, p.GetReorderPoint())
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.SetStockPoliciesResponse, error) {
		var strange []string
		rows, err := tx.Rows(ctx, setPolicies, merchant, skus, markets, shelves, safety, reorder)
		err = scan(rows, err, func(rows *sql.Rows) error {
			var sku string
			err := rows.Scan(&sku)
			strange = append(strange, sku)
			return err
		})
		if err == nil && len(strange) > 0 {
			err = skuUnknown(connect.CodeFailedPrecondition, strange...)
		}
		return &warehousev1.SetStockPoliciesResponse{}, err
	})
}

// GetStockPolicies tells the policies of the caller's own goods.
func (s *service) GetStockPolicies(ctx context.Context, req *warehousev1.GetStockPoliciesRequest) (*warehousev1.GetStockPoliciesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	res := &warehousev1.GetStockPoliciesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT p.sku, p.market, p.on_shelf, p.safety_stock, p.reorder_point FROM stock_policy p JOIN stock_item i ON i.sku = p.sku
		WHERE p.sku = ANY ($1) AND ($2 = '' OR i.merchant = $2) ORDER BY p.sku, p.market`, req.GetSkus(), merchant)
	err = scan(rows, err, func(rows *sql.Rows) error {
		p := &warehousev1.StockPolicy{}
		res.Policies = append(res.Policies, p)
		return rows.Scan(&p.Sku, &p.Market, &p.OnShelf, &p.SafetyStock, &p.ReorderPoint)
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

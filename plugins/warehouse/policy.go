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
// What a sale has at hand is left to the next tick: a sale takes policies in
// the order that suits it, under the locks of their skus.
const cross = `WITH stands AS (SELECT p.sku, p.market, coalesce(sum(b.sellable), 0)::bigint AS sellable
  FROM stock_policy p LEFT JOIN stock_balance b ON b.sku = p.sku AND (b.expires_on IS NULL OR b.expires_on >= (now() AT TIME ZONE 'UTC')::date)
 WHERE p.reorder_point > 0 GROUP BY p.sku, p.market),
crossed AS (SELECT p.sku, p.market, s.sellable FROM stock_policy p JOIN stands s ON s.sku = p.sku AND s.market = p.market
  WHERE p.low <> (s.sellable <= p.reorder_point) ORDER BY p.sku, p.market LIMIT $1 FOR UPDATE OF p SKIP LOCKED)
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

// setPolicies leaves alone what is not the merchant's, and tells it: as rows of
// a sku alone. A changed reorder point is looked at anew.
const setPolicies = `WITH u AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    u(sku, market, on_shelf, safety_stock, reorder_point)),
strange AS MATERIALIZED (SELECT DISTINCT u.sku FROM u LEFT JOIN stock_item i ON i.sku = u.sku AND i.merchant = $1 WHERE i.sku IS NULL),
made AS (INSERT INTO stock_policy AS p (sku, market, on_shelf, safety_stock, reorder_point)
  SELECT u.sku, u.market, nullif(u.on_shelf, -1), u.safety_stock, u.reorder_point FROM u WHERE NOT EXISTS (SELECT FROM strange) ORDER BY u.sku, u.market
  ON CONFLICT (sku, market) DO UPDATE SET on_shelf = EXCLUDED.on_shelf, safety_stock = EXCLUDED.safety_stock, reorder_point = EXCLUDED.reorder_point,
    low = p.low AND p.reorder_point = EXCLUDED.reorder_point, set_at = clock_timestamp(), version = p.version + 1
  RETURNING ` + policyColumns + `)
SELECT m.* FROM made m UNION ALL SELECT s.sku, NULL, NULL, NULL, NULL, NULL FROM strange s ORDER BY 1, 2`

// policyColumns are columns of stock_policy p, as policyAfter reads them.
const policyColumns = `p.sku AS p_sku, p.market AS p_market, p.on_shelf AS p_on_shelf, p.safety_stock AS p_safety_stock,
  p.reorder_point AS p_reorder_point, p.version AS p_version`

// policyAfter is a policy after what a statement did, or none.
type policyAfter struct {
	sku, market                       *string
	onShelf, safety, reorder, version *int64
}

func (p *policyAfter) columns() []any {
	return []any{&p.sku, &p.market, &p.onShelf, &p.safety, &p.reorder, &p.version}
}

// shelves are policies as events tell them.
type shelves []*warehousev1.StockPolicy

// add adds a policy, unless it is none or the last again: a sku may have lain
// at several places.
func (s *shelves) add(p policyAfter) {
	if p.version == nil {
		return
	}
	if n := len(*s); n > 0 && (*s)[n-1].GetSku() == *p.sku && (*s)[n-1].GetMarket() == *p.market {
		return
	}
	*s = append(*s, &warehousev1.StockPolicy{
		Sku: *p.sku, Market: *p.market, OnShelf: p.onShelf, SafetyStock: *p.safety, ReorderPoint: *p.reorder, Version: *p.version,
	})
}

// scan adds a row of policyColumns.
func (s *shelves) scan(rows *sql.Rows) error {
	var p policyAfter
	err := rows.Scan(p.columns()...)
	s.add(p)
	return err
}

// SetStockPolicies sets what is offered and when to buy again.
func (s *service) SetStockPolicies(ctx context.Context, req *warehousev1.SetStockPoliciesRequest) (*warehousev1.SetStockPoliciesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var skus, markets []string
	var bounds, safety, reorder []int64
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
		skus, markets, bounds = append(skus, p.GetSku()), append(markets, p.GetMarket()), append(bounds, shelf)
		safety, reorder = append(safety, p.GetSafetyStock()), append(reorder, p.GetReorderPoint())
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.SetStockPoliciesResponse, error) {
		// A sale that is being made has read the policy it is held against.
		if err := lock(ctx, tx, skus); err != nil {
			return nil, err
		}
		var strange []string
		told := shelves{}
		rows, err := tx.Rows(ctx, setPolicies, merchant, skus, markets, bounds, safety, reorder)
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var p policyAfter
			if err := rows.Scan(p.columns()...); err != nil {
				return err
			}
			if told.add(p); p.version == nil {
				strange = append(strange, *p.sku)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if len(strange) > 0 {
			return nil, skuUnknown(connect.CodeFailedPrecondition, strange...)
		}
		return &warehousev1.SetStockPoliciesResponse{}, tx.Publish(&warehousev1.StockPoliciesSet{MerchantId: merchant, Policies: told})
	})
}

// GetStockPolicies tells the policies of the caller's own goods.
func (s *service) GetStockPolicies(ctx context.Context, req *warehousev1.GetStockPoliciesRequest) (*warehousev1.GetStockPoliciesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	res := &warehousev1.GetStockPoliciesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT p.sku, p.market, p.on_shelf, p.safety_stock, p.reorder_point, p.version FROM stock_policy p JOIN stock_item i ON i.sku = p.sku
		WHERE p.sku = ANY ($1) AND ($2 = '' OR i.merchant = $2) ORDER BY p.sku, p.market`, req.GetSkus(), merchant)
	err = scan(rows, err, func(rows *sql.Rows) error {
		p := &warehousev1.StockPolicy{}
		res.Policies = append(res.Policies, p)
		return rows.Scan(&p.Sku, &p.Market, &p.OnShelf, &p.SafetyStock, &p.ReorderPoint, &p.Version)
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

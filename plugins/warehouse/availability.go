package main

import (
	"context"
	"database/sql"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

// offered is what reserve would give now, by the same rule (StockPolicy in the
// contract tells it), without its locks.
const offered = `WITH may AS (SELECT i.sku, least(coalesce(sum(b.sellable), 0) - coalesce(p.safety_stock, 0), p.on_shelf) AS n,
    least(coalesce(sum(b.sellable) FILTER (WHERE b.authenticated), 0) - coalesce(p.safety_stock, 0), p.on_shelf) AS passed
  FROM stock_item i LEFT JOIN stock_policy p ON p.sku = i.sku AND p.market = $2
  LEFT JOIN stock_balance b ON b.sku = i.sku AND (b.expires_on IS NULL OR b.expires_on >= (now() AT TIME ZONE 'UTC')::date)
 WHERE i.sku = ANY ($1) AND ($3 = '' OR i.merchant = $3) GROUP BY i.sku, p.safety_stock, p.on_shelf)
SELECT sku, greatest(n, 0)::bigint, greatest(passed, 0)::bigint FROM may ORDER BY sku`

// GetAvailability tells what a market could be promised.
func (s *service) GetAvailability(ctx context.Context, req *warehousev1.GetAvailabilityRequest) (*warehousev1.GetAvailabilityResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	market := req.GetMarket()
	if market == "" {
		market = call.From(ctx).Market
	}
	res := &warehousev1.GetAvailabilityResponse{}
	rows, err := s.db.Rows(ctx, offered, req.GetSkus(), market, merchant)
	err = scan(rows, err, func(rows *sql.Rows) error {
		a := &warehousev1.Availability{}
		res.Availabilities = append(res.Availabilities, a)
		return rows.Scan(&a.Sku, &a.Available, &a.AvailableAuthenticated)
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

package main

import (
	"context"
	"database/sql"
	"fmt"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// setPrices stores the prices that differ and answers them, or the skus that
// are not the merchant's.
const setPrices = `WITH given AS MATERIALIZED (
  SELECT u.sku, u.market, u.amount, u.currency FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) u(sku, market, amount, currency)),
strange AS MATERIALIZED (SELECT DISTINCT g.sku FROM given g LEFT JOIN variant v ON v.sku = g.sku AND v.merchant = $1 AND NOT v.retired WHERE v.sku IS NULL),
done AS (INSERT INTO price AS p (sku, market, amount, currency) SELECT sku, market, amount, currency FROM given WHERE NOT EXISTS (SELECT FROM strange)
  ON CONFLICT (sku, market) DO UPDATE SET amount = EXCLUDED.amount, currency = EXCLUDED.currency
  WHERE (p.amount, p.currency) IS DISTINCT FROM (EXCLUDED.amount, EXCLUDED.currency) RETURNING sku, market)
SELECT true, d.sku, d.market FROM done d UNION ALL SELECT false, s.sku, '' FROM strange s`

// shown is a variant in a market.
type shown struct{ sku, market string }

// SetPrices sets prices in the markets' own currencies.
func (s *service) SetPrices(ctx context.Context, req *catalogv1.SetPricesRequest) (*catalogv1.SetPricesResponse, error) {
	merchant, err := seller(ctx)
	if err != nil {
		return nil, err
	}
	var skus, markets, currencies []string
	var amounts []int64
	seen := make(map[shown]bool, len(req.GetPrices()))
	for i, p := range req.GetPrices() {
		at := fmt.Sprintf("prices[%d]", i)
		currency := s.markets[p.GetMarket()].GetCurrencyCode()
		switch key := (shown{p.GetSku(), p.GetMarket()}); {
		case currency == "":
			return nil, fault.Field(at+".market", "nothing is sold in "+p.GetMarket())
		case p.GetAmount().GetCurrencyCode() != currency:
			return nil, fault.Field(at+".amount", fmt.Sprintf("prices in %s are in %s", p.GetMarket(), currency))
		case p.GetAmount().GetMinorUnits() < 0:
			return nil, fault.Field(at+".amount", "a price is not negative")
		case seen[key]:
			return nil, fault.Field(at, "the sku stands twice for this market")
		default:
			seen[key] = true
		}
		skus, markets, currencies = append(skus, p.GetSku()), append(markets, p.GetMarket()), append(currencies, currency)
		amounts = append(amounts, p.GetAmount().GetMinorUnits())
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*catalogv1.SetPricesResponse, error) {
		if err := alone(ctx, tx, merchant); err != nil {
			return nil, err
		}
		changed, strange := make(map[shown]bool), set{}
		rows, err := tx.Rows(ctx, setPrices, merchant, skus, markets, amounts, currencies)
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var ok bool
			var k shown
			err := rows.Scan(&ok, &k.sku, &k.market)
			if ok {
				changed[k] = true
			} else {
				strange[k.sku] = true
			}
			return err
		}); err != nil {
			return nil, err
		}
		if len(strange) > 0 {
			return nil, unknown(strange.sorted())
		}
		return &catalogv1.SetPricesResponse{Changed: int32(len(changed))}, s.reprice(ctx, tx, merchant, changed)
	})
}

// reprice makes the listings of changed prices anew and says so.
func (s *service) reprice(ctx context.Context, tx *store.Tx, merchant string, changed map[shown]bool) error {
	skus := set{}
	for k := range changed {
		skus[k.sku] = true
	}
	now, err := listed(ctx, tx, merchant, skus.sorted())
	if err != nil {
		return err
	}
	var again []wish
	for k, t := range now.shown {
		if changed[k] {
			again = append(again, wish{k, t})
		}
	}
	made, err := s.show(ctx, tx, merchant, again)
	if err != nil {
		return err
	}
	return announce(ctx, tx, made)
}

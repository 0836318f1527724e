package main

import (
	"context"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

const keepGoods = `INSERT INTO goods AS g (sku, product_id, merchant, position, changed)
SELECT DISTINCT ON (u.sku) u.sku, u.product, u.merchant, u.position, $5::bigint
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) u(sku, product, merchant, position) ORDER BY u.sku, u.position DESC
ON CONFLICT (sku) DO UPDATE SET product_id = EXCLUDED.product_id, merchant = EXCLUDED.merchant, position = EXCLUDED.position, changed = EXCLUDED.changed
 WHERE g.position < EXCLUDED.position`

// onProducts notes whose goods are whose.
func onProducts(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ProductChanged]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var skus, products, merchants []string
	var positions []int64
	for _, e := range events {
		for _, sku := range e.Body.GetSkus() {
			skus, products = append(skus, sku), append(products, e.Body.GetProductId())
			merchants, positions = append(merchants, e.Body.GetMerchantId()), append(positions, e.Position)
		}
	}
	_, err = tx.Do(ctx, keepGoods, skus, products, merchants, positions, n)
	return err
}

const keepListings = `INSERT INTO listing AS l (market, sku, listed, requires_authentication, price, currency, position, changed)
SELECT DISTINCT ON (u.market, u.sku) u.market, u.sku, u.listed, u.authentic, u.price, u.currency, u.position, $8::bigint
  FROM unnest($1::text[], $2::text[], $3::boolean[], $4::boolean[], $5::bigint[], $6::text[], $7::bigint[])
    u(market, sku, listed, authentic, price, currency, position) ORDER BY u.market, u.sku, u.position DESC
ON CONFLICT (market, sku) DO UPDATE SET listed = EXCLUDED.listed, requires_authentication = EXCLUDED.requires_authentication,
  price = EXCLUDED.price, currency = EXCLUDED.currency, position = EXCLUDED.position, changed = EXCLUDED.changed
 WHERE l.position < EXCLUDED.position`

// onListings notes what is shown where at which price.
func onListings(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ListingChanged]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var markets, skus, currencies []string
	var listed, authentic []bool
	var prices, positions []int64
	for _, e := range events {
		b := e.Body
		markets, skus, listed = append(markets, b.GetMarket()), append(skus, b.GetSku()), append(listed, b.GetListed())
		authentic = append(authentic, b.GetRequiresAuthentication())
		prices, currencies = append(prices, b.GetPrice().GetMinorUnits()), append(currencies, b.GetPrice().GetCurrencyCode())
		positions = append(positions, e.Position)
	}
	_, err = tx.Do(ctx, keepListings, markets, skus, listed, authentic, prices, currencies, positions, n)
	return err
}

// Levels are written in one order. An older version changes nothing: events of
// different documents overtake each other. Of a day stays what stood there
// last.
const keepLevels = `WITH u AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::date[])
    u(sku, site, lot, authenticated, expires_on, merchant, sellable, units, version, day)),
levels AS (INSERT INTO stock_level AS s (sku, site, lot, authenticated, merchant, expires_on, sellable, version, changed)
  SELECT DISTINCT ON (sku, site, lot, authenticated) sku, site, lot, authenticated, merchant, nullif(expires_on, '')::date, sellable, version, $11::bigint
    FROM u ORDER BY sku, site, lot, authenticated, version DESC
  ON CONFLICT (sku, site, lot, authenticated) DO UPDATE SET sellable = EXCLUDED.sellable, version = EXCLUDED.version, changed = EXCLUDED.changed
   WHERE s.version < EXCLUDED.version)
INSERT INTO stock_day AS d (sku, site, lot, authenticated, day, merchant, units, version)
  SELECT DISTINCT ON (sku, site, lot, authenticated, day) sku, site, lot, authenticated, day, merchant, units, version
    FROM u ORDER BY sku, site, lot, authenticated, day, version DESC
  ON CONFLICT (sku, site, lot, authenticated, day) DO UPDATE SET units = EXCLUDED.units, version = EXCLUDED.version WHERE d.version < EXCLUDED.version`

// leveled are events that say what stands there after them.
type leveled interface {
	proto.Message
	GetLevels() []*warehousev1.StockLevel
}

func onLevels[M leveled](ctx context.Context, tx *store.Tx, events []event.Of[M]) error {
	var l levels
	var policies []*warehousev1.StockPolicy
	for _, e := range events {
		l.add(day(e.At), e.Body.GetLevels()...)
		if sale, ok := any(e.Body).(shelved); ok {
			policies = append(policies, sale.GetPolicies()...)
		}
	}
	n, err := l.keep(ctx, tx)
	if err != nil {
		return err
	}
	return keepPolicies(ctx, tx, policies, n)
}

// shelved are events that say what a market's shelf holds after them.
type shelved interface {
	GetPolicies() []*warehousev1.StockPolicy
}

func onPolicies(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.StockPoliciesSet]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	var policies []*warehousev1.StockPolicy
	for _, e := range events {
		policies = append(policies, e.Body.GetPolicies()...)
	}
	return keepPolicies(ctx, tx, policies, n)
}

const keepShelves = `INSERT INTO stock_policy AS p (sku, market, on_shelf, safety_stock, version, changed)
SELECT DISTINCT ON (u.sku, u.market) u.sku, u.market, nullif(u.on_shelf, -1), u.safety_stock, u.version, $6::bigint
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) u(sku, market, on_shelf, safety_stock, version)
 ORDER BY u.sku, u.market, u.version DESC
ON CONFLICT (sku, market) DO UPDATE SET on_shelf = EXCLUDED.on_shelf, safety_stock = EXCLUDED.safety_stock, version = EXCLUDED.version, changed = EXCLUDED.changed
 WHERE p.version < EXCLUDED.version`

// keepPolicies notes what markets are offered, as change n. Sales of goods
// without a bound tell of none and cost nothing here.
func keepPolicies(ctx context.Context, tx *store.Tx, policies []*warehousev1.StockPolicy, n int64) error {
	if len(policies) == 0 {
		return nil
	}
	var skus, markets []string
	var shelves, safety, versions []int64
	for _, p := range policies {
		shelf := int64(-1)
		if p.OnShelf != nil {
			shelf = p.GetOnShelf()
		}
		skus, markets, shelves = append(skus, p.GetSku()), append(markets, p.GetMarket()), append(shelves, shelf)
		safety, versions = append(safety, p.GetSafetyStock()), append(versions, p.GetVersion())
	}
	_, err := tx.Do(ctx, keepShelves, skus, markets, shelves, safety, versions, n)
	return err
}

func onAdjusted(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.StockAdjusted]) error {
	var l levels
	for _, e := range events {
		l.add(day(e.At), e.Body.GetLevel())
	}
	_, err := l.keep(ctx, tx)
	return err
}

// levels are columns of stock levels.
type levels struct {
	skus, sites, lots, expiries, merchants, days []string
	authenticated                                []bool
	sellable, units, versions                    []int64
}

func (l *levels) add(on string, all ...*warehousev1.StockLevel) {
	for _, s := range all {
		l.skus, l.sites, l.lots = append(l.skus, s.GetSku()), append(l.sites, s.GetSite()), append(l.lots, s.GetLot())
		l.expiries, l.merchants, l.days = append(l.expiries, s.GetExpiresOn()), append(l.merchants, s.GetMerchantId()), append(l.days, on)
		l.authenticated, l.sellable = append(l.authenticated, s.GetAuthenticated()), append(l.sellable, s.GetSellable())
		l.units, l.versions = append(l.units, s.GetSellable()+s.GetReserved()), append(l.versions, s.GetVersion())
	}
}

// keep writes them, and answers as which change.
func (l *levels) keep(ctx context.Context, tx *store.Tx) (int64, error) {
	n, err := change(ctx, tx)
	if err != nil {
		return 0, err
	}
	_, err = tx.Do(ctx, keepLevels, l.skus, l.sites, l.lots, l.authenticated, l.expiries, l.merchants, l.sellable, l.units, l.versions, l.days, n)
	return n, err
}

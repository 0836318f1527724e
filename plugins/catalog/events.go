package main

import (
	"context"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// announce says how variants are shown now. One request changes more of them
// than a transaction may publish, so each goes as a timer that is due at
// once: still committed with the change, and of several changes of one
// listing the last is told last.
func announce(ctx context.Context, tx *store.Tx, changes []*catalogv1.ListingChanged) error {
	if len(changes) == 0 {
		return nil
	}
	var topic string
	var ids, keys []string
	var payloads [][]byte
	for _, c := range changes {
		e, err := store.Encode(c)
		if err != nil {
			return err
		}
		topic, ids = e.Topic, append(ids, "listing/"+c.GetMarket()+"/"+c.GetSku())
		keys, payloads = append(keys, e.Key), append(payloads, e.Payload)
	}
	_, err := tx.Do(ctx, `SELECT bus.timer_set(u.id, $1::text, u.key, u.payload, now())
		FROM unnest($2::text[], $3::text[], $4::bytea[]) u(id, key, payload)`, topic, ids, keys, payloads)
	return err
}

// keep stores what may be promised. An older version changes nothing: events
// of different documents overtake each other. Rows are written in one order,
// so that deliveries side by side do not deadlock.
const keep = `INSERT INTO stock_level AS s (sku, site, lot, authenticated, expires_on, sellable, version)
SELECT DISTINCT ON (u.sku, u.site, u.lot, u.authenticated) u.sku, u.site, u.lot, u.authenticated, nullif(u.expires_on, '')::date, u.sellable, u.version
  FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::bigint[], $7::bigint[])
    u(sku, site, lot, authenticated, expires_on, sellable, version) ORDER BY u.sku, u.site, u.lot, u.authenticated, u.version DESC
ON CONFLICT (sku, site, lot, authenticated) DO UPDATE SET sellable = EXCLUDED.sellable, version = EXCLUDED.version WHERE s.version < EXCLUDED.version`

func keepLevels(ctx context.Context, tx *store.Tx, levels []*warehousev1.StockLevel) error {
	n := len(levels)
	skus, sites, lots, expiries := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	authenticated, sellable, versions := make([]bool, n), make([]int64, n), make([]int64, n)
	for i, l := range levels {
		skus[i], sites[i], lots[i], expiries[i] = l.GetSku(), l.GetSite(), l.GetLot(), l.GetExpiresOn()
		authenticated[i], sellable[i], versions[i] = l.GetAuthenticated(), l.GetSellable(), l.GetVersion()
	}
	_, err := tx.Do(ctx, keep, skus, sites, lots, authenticated, expiries, sellable, versions)
	return err
}

// leveled are events that say what stands there after them.
type leveled interface {
	proto.Message
	GetLevels() []*warehousev1.StockLevel
}

func onLevels[M leveled](ctx context.Context, tx *store.Tx, events []event.Of[M]) error {
	var levels []*warehousev1.StockLevel
	var policies []*warehousev1.StockPolicy
	for _, e := range events {
		levels = append(levels, e.Body.GetLevels()...)
		if sale, ok := any(e.Body).(shelved); ok {
			policies = append(policies, sale.GetPolicies()...)
		}
	}
	if err := keepLevels(ctx, tx, levels); err != nil {
		return err
	}
	return keepPolicies(ctx, tx, policies)
}

// shelved are events that say what a market's shelf holds after them.
type shelved interface {
	GetPolicies() []*warehousev1.StockPolicy
}

func onPolicies(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.StockPoliciesSet]) error {
	var policies []*warehousev1.StockPolicy
	for _, e := range events {
		policies = append(policies, e.Body.GetPolicies()...)
	}
	return keepPolicies(ctx, tx, policies)
}

const keepShelves = `INSERT INTO stock_policy AS p (sku, market, on_shelf, safety_stock, version)
SELECT DISTINCT ON (u.sku, u.market) u.sku, u.market, nullif(u.on_shelf, -1), u.safety_stock, u.version
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) u(sku, market, on_shelf, safety_stock, version)
 ORDER BY u.sku, u.market, u.version DESC
ON CONFLICT (sku, market) DO UPDATE SET on_shelf = EXCLUDED.on_shelf, safety_stock = EXCLUDED.safety_stock, version = EXCLUDED.version
 WHERE p.version < EXCLUDED.version`

// keepPolicies stores what markets are offered. Sales of goods without a bound
// tell of none and cost nothing here.
func keepPolicies(ctx context.Context, tx *store.Tx, policies []*warehousev1.StockPolicy) error {
	n := len(policies)
	if n == 0 {
		return nil
	}
	skus, markets := make([]string, n), make([]string, n)
	shelves, safety, versions := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, p := range policies {
		skus[i], markets[i], safety[i], versions[i] = p.GetSku(), p.GetMarket(), p.GetSafetyStock(), p.GetVersion()
		if shelves[i] = -1; p.OnShelf != nil {
			shelves[i] = p.GetOnShelf()
		}
	}
	_, err := tx.Do(ctx, keepShelves, skus, markets, shelves, safety, versions)
	return err
}

func onAdjusted(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.StockAdjusted]) error {
	levels := make([]*warehousev1.StockLevel, len(events))
	for i, e := range events {
		levels[i] = e.Body.GetLevel()
	}
	return keepLevels(ctx, tx, levels)
}

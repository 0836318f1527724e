package main

import (
	"context"
	"database/sql"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// What a carrier brings back undelivered is a return by itself, received when
// it comes: nobody needs to authorise it. Goods of it that a return speaks of
// already are that return's: they are with the consumer as far as the books
// know, until somebody opens the parcel and registers them with it. So no piece
// is received twice.

var (
	backAgain = way{reason: "return", from: "in_transit", to: "quarantine"}
	theirs    = way{reason: "delivery", from: "in_transit", to: "external"}
)

// keepUndelivered makes the return with all that is on it.
const keepUndelivered = `WITH came AS MATERIALIZED (SELECT * FROM unnest($8::text[], $9::text[], $10::text[], $11::boolean[], $12::bigint[])
    u(sku, lot, unit, authenticated, n)),
head AS (INSERT INTO rma (id, reference, merchant, site, market, fulfilment_id, reason, state, digest, received_at)
  VALUES ($1, $2, $3, $4, $5, $6, 'undelivered', $7, '', now())),
line AS (INSERT INTO return_line (return_id, sku, lot, quantity, received)
  SELECT $1, sku, CASE WHEN count(DISTINCT lot) = 1 THEN min(lot) ELSE '' END, sum(n), sum(n) FROM came GROUP BY sku),
kept AS (INSERT INTO return_allowed (return_id, sku, lot, unit, quantity) SELECT $1, sku, lot, unit, n FROM came),
piece AS (INSERT INTO return_piece (return_id, sku, lot, unit, authenticated, wrong, received) SELECT $1, sku, lot, unit, authenticated, false, n FROM came)
UPDATE shipped s SET allowed = s.allowed + c.n FROM came c WHERE s.reference = $2 AND s.sku = c.sku AND s.lot = c.lot AND s.unit = c.unit`

// unreturned tells how many pieces of an order no return speaks of, by what they are.
func unreturned(ctx context.Context, tx *store.Tx, order string) (map[[3]string]int64, error) {
	left := make(map[[3]string]int64)
	rows, err := tx.Rows(ctx, `SELECT sku, lot, unit, quantity - allowed FROM shipped WHERE reference = $1 ORDER BY sku, lot, unit FOR UPDATE`, order)
	return left, scan(rows, err, func(rows *sql.Rows) error {
		var k [3]string
		var n int64
		err := rows.Scan(&k[0], &k[1], &k[2], &n)
		left[k] = n
		return err
	})
}

// cameBack receives a fulfilment that was not delivered.
func (f *fulfilment) cameBack(ctx context.Context, tx *store.Tx, all []goods) error {
	left, err := unreturned(ctx, tx, f.reference)
	if err != nil {
		return err
	}
	returnID := id.Derive("ret", f.id)
	var pieces []arrival
	var ours, others []goods
	for _, g := range summed(all) {
		mine, other := g, g
		mine.units, other.units, mine.quantity, other.quantity, mine.reference = nil, nil, 0, 0, returnID
		take := func(unit string, n int64) {
			k := [3]string{g.sku, g.lot, unit}
			got := min(left[k], n)
			left[k] -= got
			mine.quantity, other.quantity = mine.quantity+got, other.quantity+n-got
			if got > 0 {
				pieces = append(pieces, arrival{sku: g.sku, lot: g.lot, unit: unit, quantity: got, booked: true})
			}
			switch {
			case unit == "":
			case got > 0:
				mine.units = append(mine.units, unit)
			default:
				other.units = append(other.units, unit)
			}
		}
		for _, u := range g.units {
			take(u, 1)
		}
		if len(g.units) == 0 {
			take("", g.quantity)
		}
		if mine.quantity > 0 {
			ours = append(ours, mine)
		}
		if other.quantity > 0 {
			others = append(others, other)
		}
	}
	if len(pieces) > 0 {
		if err := f.keepUndelivered(ctx, tx, returnID, pieces); err != nil {
			return err
		}
	}
	var skus []string
	for _, g := range all {
		skus = append(skus, g.sku)
	}
	if err := lock(ctx, tx, skus); err != nil {
		return err
	}
	if _, err := post(ctx, tx, backAgain, ours...); err != nil {
		return err
	}
	_, err = post(ctx, tx, theirs, others...)
	return err
}

func (f *fulfilment) keepUndelivered(ctx context.Context, tx *store.Tx, returnID string, pieces []arrival) error {
	var skus, names, units []string
	var kinds []bool
	var amounts []int64
	for _, p := range pieces {
		skus, names, units = append(skus, p.sku), append(names, p.lot), append(units, p.unit)
		kinds, amounts = append(kinds, p.unit != ""), append(amounts, p.quantity)
	}
	if _, err := tx.Do(ctx, keepUndelivered, returnID, f.reference, f.merchant, f.site, f.market, f.id, rmaReceived, skus, names, units, kinds, amounts); err != nil {
		return err
	}
	return tx.Publish(&warehousev1.ReturnReceived{
		ReturnId: returnID, Reference: f.reference, MerchantId: f.merchant, Lines: arrived(pieces), Site: f.site, FulfilmentId: f.id,
	})
}

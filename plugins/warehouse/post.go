package main

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// way is why goods go from where to where; the ledger knows which there are.
// caseID is the inspection whose pass an admission spends.
type way struct {
	reason, from, to string
	caseID, cause    string
}

// goods are pieces at a place: a quantity, or exactly the serialised goods
// named. Authenticated goods are posted by their serials.
type goods struct {
	key
	quantity int64
	units    []string
	// reference is the document. Of entries into and out of reserved it is the
	// reservation.
	reference string
}

// entries are what is posted together, each column an array.
type entries struct {
	skus, sites, lots []string
	authenticated     []bool
	units             []string
	quantities        []int64
	references        []string
}

// add appends an entry of some goods, or one of each of their serials.
func (e *entries) add(g goods) {
	each := func(unit string, quantity int64) {
		e.skus, e.sites, e.lots = append(e.skus, g.sku), append(e.sites, g.site), append(e.lots, g.lot)
		e.authenticated, e.units = append(e.authenticated, g.authenticated), append(e.units, unit)
		e.quantities, e.references = append(e.quantities, quantity), append(e.references, g.reference)
	}
	for _, u := range g.units {
		each(u, 1)
	}
	if len(g.units) == 0 {
		each("", g.quantity)
	}
}

const postEntries = `SELECT p.* FROM post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) p`

// post moves goods one way, all or none, in one statement, and tells what
// stands there after it, each place once, in the order of the goods. Refusals
// are authored: OUT_OF_STOCK, NO_SUCH_WAY, UNIT_ELSEWHERE, NOT_PASSED.
func post(ctx context.Context, tx *store.Tx, w way, all ...goods) ([]*warehousev1.StockLevel, error) {
	if len(all) == 0 {
		return nil, nil
	}
	var e entries
	for _, g := range all {
		e.add(g)
	}
	var levels []*warehousev1.StockLevel
	rows, err := tx.Rows(ctx, postEntries, w.reason, w.from, w.to, e.skus, e.sites, e.lots, e.authenticated, e.units, e.quantities, e.references,
		w.caseID, w.cause, actor(ctx))
	err = scan(rows, err, func(rows *sql.Rows) error {
		l := &warehousev1.StockLevel{}
		if err := rows.Scan(posted(new(string), new(int64), l)...); err != nil {
			return err
		}
		levels = append(levels, l)
		return nil
	})
	return newest(levels), shortage(err)
}

// newest keeps of each place what was told of it last, in the order of the
// first time.
func newest(levels []*warehousev1.StockLevel) []*warehousev1.StockLevel {
	at := make(map[key]int, len(levels))
	out := levels[:0]
	for _, l := range levels {
		if i, ok := at[keyOf(l)]; ok {
			out[i] = l
			continue
		}
		at[keyOf(l)] = len(out)
		out = append(out, l)
	}
	return out
}

// inOrder compares places in the order in which everybody locks them.
func inOrder(a, b goods) int {
	return cmp.Or(cmp.Compare(a.sku, b.sku), cmp.Compare(a.site, b.site), cmp.Compare(a.lot, b.lot))
}

// summed adds up goods of one place and document, in one order.
func summed(all []goods) []goods {
	at := make(map[key]int, len(all))
	var out []goods
	for _, g := range all {
		i, ok := at[g.key]
		if !ok {
			at[g.key] = len(out)
			out = append(out, g)
			continue
		}
		out[i].quantity += g.quantity
		out[i].units = append(out[i].units, g.units...)
	}
	slices.SortFunc(out, inOrder)
	return out
}

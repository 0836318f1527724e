package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"connectrpc.com/connect/v2"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// weigh notes what the catalog says goods weigh; the last word counts.
func weigh(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ProductChanged]) error {
	var skus []string
	var grams []int32
	for _, e := range events {
		for _, g := range e.Body.GetGoods() {
			skus, grams = append(skus, g.GetSku()), append(grams, g.GetWeightGrams())
		}
	}
	if len(skus) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO goods_fact AS g (sku, grams) SELECT DISTINCT ON (u.sku) u.sku, u.grams
		FROM unnest($1::text[], $2::int[]) WITH ORDINALITY u(sku, grams, n) ORDER BY u.sku, u.n DESC
		ON CONFLICT (sku) DO UPDATE SET grams = EXCLUDED.grams WHERE g.grams <> EXCLUDED.grams`, skus, grams)
	return err
}

// carton is a box that goods may go into.
type carton struct {
	name                  string
	length, width, height int32
	tare, maxGrams        int64
}

// plain is what is packed into where the site has no boxes.
var plain = carton{name: "", maxGrams: 30_000}

// girth is length and girth: the longest side and the way around it.
func (c carton) girth() int32 {
	sides := []int32{c.length, c.width, c.height}
	slices.Sort(sides)
	return sides[2] + 2*(sides[0]+sides[1])
}

// bears is how much of goods it takes.
func (c carton) bears() int64 { return c.maxGrams - c.tare }

// volume in cubic millimetres.
func (c carton) volume() int64 { return int64(c.length) * int64(c.width) * int64(c.height) }

// allowed are boxes that a carrier takes, the smallest first.
func allowed(all []carton, limits *warehousev1.ParcelLimits) (out []carton) {
	for _, c := range all {
		longest := max(c.length, c.width, c.height)
		if m := limits.GetMaxLengthMm(); m > 0 && longest > m {
			continue
		}
		if m := limits.GetMaxGirthMm(); m > 0 && c.girth() > m {
			continue
		}
		if m := int64(limits.GetMaxWeightGrams()); m > 0 {
			c.maxGrams = min(c.maxGrams, m)
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b carton) int {
		return cmp.Or(cmp.Compare(a.volume(), b.volume()), cmp.Compare(a.bears(), b.bears()))
	})
	return out
}

// piece is so many of one good, of so many grams each.
type piece struct {
	line  *warehousev1.ParcelLine
	grams int64
}

// plan fits goods into boxes by weight, heaviest first, each into the first
// parcel that has room: the catalog knows no sizes. A parcel gets the smallest
// box that bears it. Goods of unknown weight weigh nothing here: whoever packs
// has scales.
func plan(pieces []piece, boxes []carton) ([]*warehousev1.Parcel, error) {
	if len(boxes) == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_BOX", "the site has no box within these limits")
	}
	largest := slices.MaxFunc(boxes, func(a, b carton) int { return cmp.Compare(a.bears(), b.bears()) })
	slices.SortStableFunc(pieces, func(a, b piece) int { return int(b.grams - a.grams) })
	var out []*warehousev1.Parcel
	var load []int64
	for _, p := range pieces {
		if p.grams+largest.tare > largest.maxGrams {
			return nil, fault.New(connect.CodeFailedPrecondition, "TOO_HEAVY", "one piece of this is heavier than any parcel may be",
				"sku", p.line.GetSku(), "grams", fmt.Sprint(p.grams))
		}
		units, left := p.line.GetUnitIds(), p.line.GetQuantity()
		for i := 0; left > 0; i++ {
			if i == len(out) {
				out, load = append(out, &warehousev1.Parcel{}), append(load, largest.tare)
			}
			n := left
			if p.grams > 0 {
				n = min(left, (largest.maxGrams-load[i])/p.grams)
			}
			if n == 0 {
				continue
			}
			l := &warehousev1.ParcelLine{Sku: p.line.GetSku(), Lot: p.line.GetLot(), Quantity: n}
			if len(units) > 0 {
				l.UnitIds, units = units[:n], units[n:]
			}
			out[i].Lines = append(out[i].Lines, l)
			load[i], left = load[i]+n*p.grams, left-n
		}
	}
	for i, p := range out {
		goods := load[i] - largest.tare
		for _, c := range boxes {
			if goods+c.tare <= c.maxGrams {
				p.Box, p.LengthMm, p.WidthMm, p.HeightMm, p.WeightGrams = c.name, c.length, c.width, c.height, int32(goods+c.tare)
				break
			}
		}
	}
	return out, nil
}

// ProposeParcels plans what is picked and not packed, or, before the pick, what
// is to be.
func (f *floor) ProposeParcels(ctx context.Context, req *warehousev1.ProposeParcelsRequest) (*warehousev1.ProposeParcelsResponse, error) {
	all, err := readFulfilments(ctx, f.db, `WHERE f.id = $1`, req.GetFulfilmentId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if len(all) == 0 {
		return nil, noFulfilment()
	}
	one := all[0]
	var skus []string
	for _, l := range one.lines {
		skus = append(skus, l.SKU)
	}
	grams := map[string]int64{}
	rows, err := f.db.Rows(ctx, `SELECT sku, grams FROM goods_fact WHERE sku = ANY ($1)`, skus)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var sku string
		var n int64
		if err := rows.Scan(&sku, &n); err != nil {
			return err
		}
		grams[sku] = n
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	boxes := []carton{}
	rows, err = f.db.Rows(ctx, `SELECT name, length_mm, width_mm, height_mm, tare, max_grams FROM box WHERE site = $1 ORDER BY name`, one.site)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var c carton
		if err := rows.Scan(&c.name, &c.length, &c.width, &c.height, &c.tare, &c.maxGrams); err != nil {
			return err
		}
		boxes = append(boxes, c)
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(boxes) == 0 {
		boxes = append(boxes, plain)
	}
	parcels, err := plan(one.pieces(grams), allowed(boxes, req.GetLimits()))
	return &warehousev1.ProposeParcelsResponse{Parcels: parcels}, err
}

func (f *fulfilment) pieces(grams map[string]int64) (out []piece) {
	for _, l := range f.lines {
		n := l.Picked - l.Packed
		if f.state <= statePicking {
			n = l.Quantity
		}
		if n == 0 {
			continue
		}
		p := piece{&warehousev1.ParcelLine{Sku: l.SKU, Lot: l.Lot, Quantity: n}, grams[l.SKU]}
		for _, u := range f.units {
			if l.Authenticated && u.SKU == l.SKU && u.Lot == l.Lot && u.Parcel == "" {
				p.line.UnitIds = append(p.line.UnitIds, u.Unit)
			}
		}
		out = append(out, p)
	}
	return out
}

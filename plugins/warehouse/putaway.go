package main

import (
	"context"
	"database/sql"
	"strings"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// serials checks that serialised goods are named, each piece once, and others
// are not.
func serials(field string, authenticated bool, quantity int64, units []string) error {
	switch {
	case !authenticated && len(units) > 0:
		return fault.Field(strings.TrimPrefix(field+".unit_ids", "."), "these goods have no serials in the warehouse")
	case authenticated && int64(len(units)) != quantity:
		return fault.Field(strings.TrimPrefix(field+".unit_ids", "."), "serialised goods: exactly these, as many as the quantity")
	}
	return nil
}

// shelve remembers where goods were put.
const shelve = `INSERT INTO shelf AS s (site, sku, lot, authenticated, location)
SELECT DISTINCT ON (u.sku, u.lot, u.authenticated) $1, u.sku, u.lot, u.authenticated, u.location
  FROM unnest($2::text[], $3::text[], $4::boolean[], $5::text[]) WITH ORDINALITY u(sku, lot, authenticated, location, n)
 ORDER BY u.sku, u.lot, u.authenticated, u.n DESC
ON CONFLICT (site, sku, lot, authenticated) DO UPDATE SET location = EXCLUDED.location WHERE s.location <> EXCLUDED.location`

// PutAway brings goods from receiving to the shelf: six statements, however
// many lines.
func (s *service) PutAway(ctx context.Context, req *warehousev1.PutAwayRequest) (*warehousev1.PutAwayResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	reference := scoped(merchant, req.GetPutAwayId())
	var all []goods
	var skus, lotNames, locations []string
	var kinds []bool
	for i, l := range req.GetLines() {
		if err := serials(lineField(i), l.GetAuthenticated(), l.GetQuantity(), l.GetUnitIds()); err != nil {
			return nil, err
		}
		all = append(all, goods{
			key:      key{sku: l.GetSku(), site: site(req.GetSite()), lot: l.GetLot(), authenticated: l.GetAuthenticated()},
			quantity: l.GetQuantity(), units: l.GetUnitIds(), reference: reference,
		})
		skus, lotNames = append(skus, l.GetSku()), append(lotNames, l.GetLot())
		kinds, locations = append(kinds, l.GetAuthenticated()), append(locations, l.GetLocation())
	}
	all = summed(all)
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.PutAwayResponse, error) {
		first, err := firstTime(ctx, tx, "put-away", req.GetPutAwayId(), merchant, req, skus)
		if err != nil {
			return nil, err
		}
		if !first {
			levels, err := levelsOf(ctx, tx, "put-away", reference)
			return &warehousev1.PutAwayResponse{Levels: levels}, err
		}
		levels, err := post(ctx, tx, way{reason: "put-away", from: "receiving", to: "sellable"}, all...)
		if err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, shelve, site(req.GetSite()), skus, lotNames, kinds, locations); err != nil {
			return nil, err
		}
		return &warehousev1.PutAwayResponse{Levels: levels}, tx.Publish(&warehousev1.StockPutAway{PutAwayId: reference, Levels: levels})
	})
}

// toPutAway is what stands in receiving; the entry that last brought some of it
// says since when. Its place is where goods of it stand already: best of its
// lot and kind.
const toPutAway = `SELECT m.id, b.sku, b.lot, b.authenticated, b.receiving, coalesce((SELECT h.location FROM shelf h WHERE h.site = b.site AND h.sku = b.sku
   ORDER BY h.lot <> b.lot, h.authenticated <> b.authenticated, h.lot DESC LIMIT 1), ''),
  (SELECT coalesce(jsonb_agg(u.unit ORDER BY u.unit), '[]') FROM (SELECT u.unit FROM stock_unit u WHERE b.authenticated AND u.sku = b.sku AND u.site = b.site
    AND u.lot = b.lot AND u.disposition = 'receiving' LIMIT 500) u)
 FROM stock_balance b
 CROSS JOIN LATERAL (SELECT max(m.id) AS id FROM stock_move m WHERE m.sku = b.sku AND m.site = b.site AND m.lot = b.lot
   AND m.authenticated = b.authenticated AND m.to_disposition = 'receiving') m
 WHERE b.receiving > 0 AND b.site = $1 AND ($2 = '' OR b.merchant = $2) AND m.id > $3 ORDER BY m.id LIMIT $4`

// ListPutAways tells what stands in receiving, what came first first.
func (s *service) ListPutAways(ctx context.Context, req *warehousev1.ListPutAwaysRequest) (*warehousev1.ListPutAwaysResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var after int64
	if req.GetPageToken() != "" {
		if after, err = position(req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	size := pageSize(req.GetPageSize())
	res := &warehousev1.ListPutAwaysResponse{}
	var last int64
	rows, err := s.db.Rows(ctx, toPutAway, site(req.GetSite()), merchant, after, size+1)
	err = scan(rows, err, func(rows *sql.Rows) error {
		if len(res.GetLines()) == size {
			res.NextPageToken = token(last)
			return nil
		}
		l := &warehousev1.PutAwayLine{}
		res.Lines = append(res.Lines, l)
		return rows.Scan(&last, &l.Sku, &l.Lot, &l.Authenticated, &l.Quantity, &l.Location, fromJSON{&l.UnitIds})
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

func countUnknown() error {
	return fault.New(connect.CodeNotFound, "COUNT_UNKNOWN", "no such count")
}

// OpenCount begins a count.
func (s *service) OpenCount(ctx context.Context, req *warehousev1.OpenCountRequest) (*warehousev1.OpenCountResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.OpenCountResponse, error) {
		first, err := firstTime(ctx, tx, "count", req.GetCountId(), "", req, req.GetSkus())
		if err != nil {
			return nil, err
		}
		if first {
			if _, err := tx.Do(ctx, `INSERT INTO stock_count (id, site, skus) VALUES ($1, $2, $3)`, req.GetCountId(), site(req.GetSite()), req.GetSkus()); err != nil {
				return nil, err
			}
		}
		c, _, err := readCount(ctx, tx, req.GetCountId())
		return &warehousev1.OpenCountResponse{Count: c}, err
	})
}

// found is what a count says is on the shelf, as columns.
type found struct {
	skus, lots []string
	kinds      []bool
	counted    []int64
	// Serials that were scanned.
	units, unitSKUs, unitLots []string
}

func foundOf(lines []*warehousev1.CountLine) (*found, error) {
	f := &found{}
	seen := make(map[string]bool)
	for i, l := range lines {
		if err := serials(lineField(i), l.GetAuthenticated(), l.GetCounted(), l.GetUnitIds()); err != nil {
			return nil, err
		}
		f.skus, f.lots, f.kinds, f.counted = append(f.skus, l.GetSku()), append(f.lots, l.GetLot()), append(f.kinds, l.GetAuthenticated()), append(f.counted, l.GetCounted())
		for _, u := range l.GetUnitIds() {
			if seen[u] {
				return nil, fault.Field(lineField(i)+".unit_ids", "a serial stands twice")
			}
			seen[u] = true
			f.units, f.unitSKUs, f.unitLots = append(f.units, u), append(f.unitSKUs, l.GetSku()), append(f.unitLots, l.GetLot())
		}
	}
	return f, nil
}

// of refuses a count that is not of exactly the skus that were asked for.
func (f *found) of(asked []string) error {
	for i, sku := range f.skus {
		if !slices.Contains(asked, sku) {
			return fault.Field(lineField(i)+".sku", "this count is not of it")
		}
	}
	for _, sku := range asked {
		if !slices.Contains(f.skus, sku) {
			return fault.Field("lines", "every sku of the count; missing is "+sku)
		}
	}
	return nil
}

// submit writes what was found beside what the books say at this moment, and
// answers the serials that they do not have there: then it writes nothing. Lots
// and serials that were not found count as none. What is promised is on the
// shelf as well.
const submit = `WITH found AS (SELECT u.sku, u.lot, u.authenticated, sum(u.counted)::bigint AS counted
  FROM unnest($2::text[], $3::text[], $4::boolean[], $5::bigint[]) u(sku, lot, authenticated, counted) GROUP BY 1, 2, 3),
scanned AS (SELECT * FROM unnest($6::text[], $7::text[], $8::text[]) u(unit, sku, lot)),
booked AS (SELECT b.sku, b.lot, b.authenticated, b.sellable + b.reserved AS n FROM stock_balance b WHERE b.sku = ANY ($9) AND b.site = $10),
here AS (SELECT x.unit, x.sku, x.lot FROM stock_unit x WHERE x.sku = ANY ($9) AND x.site = $10 AND x.disposition = 'sellable'),
strange AS MATERIALIZED (SELECT s.unit FROM scanned s LEFT JOIN here h USING (unit, sku, lot) WHERE h.unit IS NULL),
kept AS (INSERT INTO stock_count_line (count_id, sku, lot, authenticated, counted, expected, units, missing)
  SELECT $1, sku, lot, authenticated, coalesce(f.counted, 0), coalesce(b.n, 0),
    ARRAY(SELECT s.unit FROM scanned s WHERE s.sku = k.sku AND s.lot = k.lot AND k.authenticated ORDER BY 1),
    ARRAY(SELECT h.unit FROM here h WHERE h.sku = k.sku AND h.lot = k.lot AND k.authenticated AND h.unit NOT IN (SELECT s.unit FROM scanned s) ORDER BY 1)
    FROM (SELECT sku, lot, authenticated FROM found UNION SELECT sku, lot, authenticated FROM booked WHERE n > 0) k
    LEFT JOIN found f USING (sku, lot, authenticated) LEFT JOIN booked b USING (sku, lot, authenticated) WHERE NOT EXISTS (SELECT FROM strange))
SELECT unit FROM strange ORDER BY 1`

// SubmitCount tells what was found. A count that agrees with the books is
// approved with that.
func (s *service) SubmitCount(ctx context.Context, req *warehousev1.SubmitCountRequest) (*warehousev1.SubmitCountResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	f, err := foundOf(req.GetLines())
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.SubmitCountResponse, error) {
		c, asked, err := readCount(ctx, tx, req.GetCountId())
		switch {
		case err != nil:
			return nil, err
		case c == nil:
			return nil, countUnknown()
		case c.GetState() != warehousev1.Count_STATE_OPEN:
			if c.GetCountedBy() == who && sameCount(c, req) {
				return &warehousev1.SubmitCountResponse{Count: c}, nil
			}
			return nil, fault.New(connect.CodeFailedPrecondition, "COUNT_SUBMITTED", "this count was submitted")
		}
		if err := f.of(asked); err != nil {
			return nil, err
		}
		if err := lock(ctx, tx, asked); err != nil {
			return nil, err
		}
		var strange []string
		rows, err := tx.Rows(ctx, submit, req.GetCountId(), f.skus, f.lots, f.kinds, f.counted, f.units, f.unitSKUs, f.unitLots, asked, c.GetSite())
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var unit string
			err := rows.Scan(&unit)
			strange = append(strange, unit, "not of this shelf")
			return err
		}); err != nil {
			return nil, err
		}
		if len(strange) > 0 {
			return nil, fault.New(connect.CodeFailedPrecondition, "UNIT_ELSEWHERE",
				"the books do not have these serials on this shelf: take them off it, they come back by an inspection", strange...)
		}
		_, err = tx.Do(ctx, `UPDATE stock_count SET counted_by = $2, state = CASE WHEN EXISTS (SELECT FROM stock_count_line l
			WHERE l.count_id = $1 AND l.counted <> l.expected) THEN 2 ELSE 3 END WHERE id = $1`, req.GetCountId(), who)
		if err != nil {
			return nil, err
		}
		c, _, err = readCount(ctx, tx, req.GetCountId())
		return &warehousev1.SubmitCountResponse{Count: c}, err
	})
}

// sameCount tells whether a count was submitted as a request submits it.
func sameCount(c *warehousev1.Count, req *warehousev1.SubmitCountRequest) bool {
	type line struct {
		key
		unit string
	}
	left := make(map[line]int64)
	note := func(l *warehousev1.CountLine, sign int64) {
		at := key{sku: l.GetSku(), lot: l.GetLot(), authenticated: l.GetAuthenticated()}
		left[line{key: at}] += sign * l.GetCounted()
		for _, u := range l.GetUnitIds() {
			left[line{at, u}] += sign
		}
	}
	for _, l := range req.GetLines() {
		note(l, 1)
	}
	for _, l := range c.GetLines() {
		note(l, -1)
	}
	for _, n := range left {
		if n != 0 {
			return false
		}
	}
	return true
}

// ApproveCount posts the differences: by another person than the one who
// counted. What was sold since does not matter, as long as it leaves what is
// taken away: what is missing and promised is released, or picked short, first.
func (s *service) ApproveCount(ctx context.Context, req *warehousev1.ApproveCountRequest) (*warehousev1.ApproveCountResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ApproveCountResponse, error) {
		c, asked, err := readCount(ctx, tx, req.GetCountId())
		switch {
		case err != nil:
			return nil, err
		case c == nil:
			return nil, countUnknown()
		case c.GetState() == warehousev1.Count_STATE_APPROVED:
			return &warehousev1.ApproveCountResponse{Count: c}, nil
		case c.GetState() == warehousev1.Count_STATE_OPEN:
			return nil, fault.New(connect.CodeFailedPrecondition, "COUNT_OPEN", "nobody has submitted this count")
		case c.GetCountedBy() == who:
			return nil, fault.New(connect.CodePermissionDenied, "SAME_PERSON", "another person approves than the one who counted")
		}
		if err := lock(ctx, tx, asked); err != nil {
			return nil, err
		}
		if err := correct(ctx, tx, c, req.GetCause()); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `UPDATE stock_count SET state = 3, approved_by = $2 WHERE id = $1`, req.GetCountId(), who); err != nil {
			return nil, err
		}
		c.State, c.ApprovedBy = warehousev1.Count_STATE_APPROVED, who
		return &warehousev1.ApproveCountResponse{Count: c}, nil
	})
}

// correct posts what a count found more and less, and tells it. Of serialised
// goods there is only less: what is more has no inspection.
func correct(ctx context.Context, tx *store.Tx, c *warehousev1.Count, cause string) error {
	lost, err := stillMissing(ctx, tx, c)
	if err != nil {
		return err
	}
	more, less := []goods{}, []goods{}
	for _, l := range c.GetLines() {
		g := goods{key: key{sku: l.GetSku(), site: c.GetSite(), lot: l.GetLot(), authenticated: l.GetAuthenticated()}, reference: c.GetCountId()}
		n := l.GetCounted() - l.GetExpected()
		for _, u := range l.GetMissingUnitIds() {
			if lost[u] {
				g.units = append(g.units, u)
			}
		}
		switch {
		case l.GetAuthenticated():
			if g.quantity = int64(len(g.units)); g.quantity > 0 {
				less = append(less, g)
			}
		case n > 0:
			g.quantity = n
			more = append(more, g)
		case n < 0:
			g.quantity = -n
			less = append(less, g)
		}
	}
	if err := adjusted(ctx, tx, c, way{reason: "adjustment", from: "external", to: "sellable", cause: cause}, more); err != nil {
		return err
	}
	return adjusted(ctx, tx, c, way{reason: "adjustment", from: "sellable", to: "external", cause: cause}, less)
}

// stillMissing are the missing serials that have not turned up since: what was
// picked meanwhile was there.
func stillMissing(ctx context.Context, tx *store.Tx, c *warehousev1.Count) (map[string]bool, error) {
	var missing []string
	for _, l := range c.GetLines() {
		missing = append(missing, l.GetMissingUnitIds()...)
	}
	lost := make(map[string]bool, len(missing))
	if len(missing) == 0 {
		return lost, nil
	}
	rows, err := tx.Rows(ctx, `SELECT unit FROM stock_unit WHERE unit = ANY ($1) AND site = $2 AND disposition = 'sellable'`, missing, c.GetSite())
	return lost, scan(rows, err, func(rows *sql.Rows) error {
		var u string
		err := rows.Scan(&u)
		lost[u] = true
		return err
	})
}

// adjusted posts differences of one sign and tells them.
func adjusted(ctx context.Context, tx *store.Tx, c *warehousev1.Count, w way, all []goods) error {
	levels, err := post(ctx, tx, w, all...)
	if err != nil || len(levels) == 0 {
		return err
	}
	e := &warehousev1.StockMoved{MoveId: c.GetCountId(), From: dispositions[w.from], To: dispositions[w.to], Levels: levels}
	for _, g := range all {
		e.Quantity, e.UnitIds = e.GetQuantity()+g.quantity, append(e.UnitIds, g.units...)
	}
	return tx.Publish(e)
}

// readCount reads a count and locks it; nil when there is none. What the books
// say is told once it is submitted.
func readCount(ctx context.Context, tx *store.Tx, id string) (c *warehousev1.Count, skus []string, err error) {
	c = &warehousev1.Count{CountId: id}
	var state int32
	err = tx.Row(ctx, `SELECT c.site, c.state, c.counted_by, c.approved_by, to_jsonb(c.skus), (SELECT coalesce(jsonb_agg(jsonb_build_object('sku', h.sku,
		'lot', h.lot, 'authenticated', h.authenticated, 'location', h.location) ORDER BY h.location, h.sku, h.lot, h.authenticated), '[]')
		FROM shelf h WHERE h.site = c.site AND h.sku = ANY (c.skus)) FROM stock_count c WHERE c.id = $1 FOR UPDATE OF c`, id).
		Scan(&c.Site, &state, &c.CountedBy, &c.ApprovedBy, fromJSON{&skus}, fromJSON{&c.Places})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(c.GetPlaces(), func(a, b *warehousev1.CountPlace) int { return along(a.GetLocation(), b.GetLocation()) })
	c.State = warehousev1.Count_State(state)
	rows, err := tx.Rows(ctx, `SELECT sku, lot, authenticated, counted, expected, to_jsonb(units), to_jsonb(missing) FROM stock_count_line
		WHERE count_id = $1 ORDER BY sku, lot, authenticated`, id)
	return c, skus, scan(rows, err, func(rows *sql.Rows) error {
		l := &warehousev1.CountLine{}
		c.Lines = append(c.Lines, l)
		return rows.Scan(&l.Sku, &l.Lot, &l.Authenticated, &l.Counted, &l.Expected, fromJSON{&l.UnitIds}, fromJSON{&l.MissingUnitIds})
	})
}

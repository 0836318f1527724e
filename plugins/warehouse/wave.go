package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// defaultWave is a wave when nobody says how many.
const defaultWave = 50

// PlanWave takes open fulfilments, oldest first; two who plan at once get
// different ones. The same wave again is the same list.
func (f *floor) PlanWave(ctx context.Context, req *warehousev1.PlanWaveRequest) (*warehousev1.PlanWaveResponse, error) {
	most := int(req.GetMaxFulfilments())
	if most == 0 {
		most = defaultWave
	}
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.PlanWaveResponse, error) {
		made, err := tx.Do(ctx, `INSERT INTO wave (id, site) VALUES ($1, $2) ON CONFLICT DO NOTHING`, req.GetWaveId(), site(req.GetSite()))
		if err != nil {
			return nil, err
		}
		if n, err := made.RowsAffected(); err != nil {
			return nil, err
		} else if n == 1 {
			if _, err := tx.Do(ctx, `UPDATE fulfilment SET state = 2, wave_id = $1 WHERE id IN
				(SELECT id FROM fulfilment WHERE site = $2 AND state = 1 ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED)`,
				req.GetWaveId(), site(req.GetSite()), most); err != nil {
				return nil, err
			}
		}
		all, err := readFulfilments(ctx, tx, `WHERE f.wave_id = $1 ORDER BY f.id`, req.GetWaveId())
		if err != nil {
			return nil, err
		}
		res := &warehousev1.PlanWaveResponse{Picks: picks(all)}
		for _, one := range all {
			res.Fulfilments = append(res.Fulfilments, one.proto())
		}
		return res, nil
	})
}

// ListPicks tells what of a wave is still to be taken.
func (f *floor) ListPicks(ctx context.Context, req *warehousev1.ListPicksRequest) (*warehousev1.ListPicksResponse, error) {
	all, err := readFulfilments(ctx, f.db, `WHERE f.wave_id = $1 ORDER BY f.id`, req.GetWaveId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	return &warehousev1.ListPicksResponse{Picks: picks(all)}, nil
}

// picking is what a pick list changes.
type picking struct {
	by    map[string]*fulfilment
	taken []goods
	// units that were scanned, beside their fulfilments.
	units, of, skus, lots []string
	short                 map[string][]fline
}

// ConfirmPicks records what was taken off the shelf. A line that no pick names
// stands on another list of the wave.
func (f *floor) ConfirmPicks(ctx context.Context, req *warehousev1.ConfirmPicksRequest) (*warehousev1.ConfirmPicksResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ConfirmPicksResponse, error) {
		made, err := tx.Do(ctx, `INSERT INTO pick (id, wave_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, req.GetPickId(), req.GetWaveId())
		if err != nil {
			return nil, err
		}
		n, err := made.RowsAffected()
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, p := range req.GetPicks() {
			ids = append(ids, p.GetFulfilmentId())
		}
		all, err := lockFulfilments(ctx, tx, `WHERE f.id = ANY ($1) AND f.wave_id = $2`, ids, req.GetWaveId())
		if err != nil {
			return nil, err
		}
		if n == 1 {
			if err := confirm(ctx, tx, all, req.GetPicks()); err != nil {
				return nil, err
			}
			if all, err = readFulfilments(ctx, tx, `WHERE f.id = ANY ($1) ORDER BY f.id`, ids); err != nil {
				return nil, err
			}
		}
		res := &warehousev1.ConfirmPicksResponse{}
		for _, one := range all {
			res.Fulfilments = append(res.Fulfilments, one.proto())
		}
		return res, nil
	})
}

func confirm(ctx context.Context, tx *store.Tx, all []*fulfilment, picks []*warehousev1.Pick) error {
	w := &picking{by: make(map[string]*fulfilment, len(all)), short: map[string][]fline{}}
	for _, one := range all {
		w.by[one.id] = one
	}
	for _, p := range picks {
		if err := w.take(p); err != nil {
			return err
		}
	}
	// Some lines of a fulfilment may stand on another list of the wave: it is
	// picked when all of them are.
	if _, err := post(ctx, tx, way{reason: "pick", from: "reserved", to: "picked"}, w.taken...); err != nil {
		return err
	}
	done, err := tx.Do(ctx, `INSERT INTO fulfilment_unit (unit, fulfilment_id, sku, lot)
		SELECT u.unit, u.id, u.sku, u.lot FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) u(unit, id, sku, lot) ON CONFLICT DO NOTHING`,
		w.units, w.of, w.skus, w.lots)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n != int64(len(w.units)) {
		return errors.Join(err, fault.New(connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", "one of these serials is picked for another"))
	}
	for _, one := range all {
		if err := one.picked(ctx, tx, w.short[one.id]); err != nil {
			return err
		}
	}
	return nil
}

// take notes one pick.
func (w *picking) take(p *warehousev1.Pick) error {
	one := w.by[p.GetFulfilmentId()]
	if one == nil {
		return noFulfilment()
	}
	if one.state != statePicking {
		return wrongState(one, "being picked")
	}
	i := slices.IndexFunc(one.lines, func(l fline) bool {
		return l.SKU == p.GetSku() && l.Lot == p.GetLot() && l.Authenticated == p.GetAuthenticated()
	})
	if i < 0 {
		return fault.New(connect.CodeInvalidArgument, "LINE_UNKNOWN", "the fulfilment has no such line", "sku", p.GetSku(), "lot", p.GetLot())
	}
	l := &one.lines[i]
	n := p.GetQuantity()
	switch {
	case n > l.Quantity-l.Picked:
		return fault.New(connect.CodeInvalidArgument, "PICKED_TOO_MUCH", "more was taken than the line wants", "sku", l.SKU)
	case l.Authenticated && int64(len(p.GetUnitIds())) != n:
		return fault.New(connect.CodeInvalidArgument, "UNITS_NOT_SCANNED", "each of these goods is scanned: as many serials as pieces", "sku", l.SKU)
	case !l.Authenticated && len(p.GetUnitIds()) > 0:
		return fault.New(connect.CodeInvalidArgument, "UNITS_NOT_WANTED", "these goods have no serials", "sku", l.SKU)
	}
	if missing := l.Quantity - l.Picked - n; missing > 0 {
		w.short[one.id] = append(w.short[one.id], fline{SKU: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated, Quantity: missing})
	}
	l.Picked, l.Quantity = l.Picked+n, l.Picked+n
	if n > 0 {
		w.taken = append(w.taken, goods{
			key: key{sku: l.SKU, site: one.site, lot: l.Lot, authenticated: l.Authenticated}, quantity: n, units: p.GetUnitIds(), reference: one.reservation,
		})
	}
	for _, u := range p.GetUnitIds() {
		w.units, w.of, w.skus, w.lots = append(w.units, u), append(w.of, one.id), append(w.skus, l.SKU), append(w.lots, l.Lot)
	}
	return nil
}

// picked writes a fulfilment's lines back, and splits off what is missing.
func (f *fulfilment) picked(ctx context.Context, tx *store.Tx, short []fline) error {
	if len(short) > 0 {
		if err := f.wait(ctx, tx, short); err != nil {
			return err
		}
	}
	state := statePicked
	var skus, lots []string
	var kinds []bool
	var picked []int64
	f.lines = slices.DeleteFunc(f.lines, func(l fline) bool { return l.Quantity == 0 })
	for _, l := range f.lines {
		skus, lots, kinds, picked = append(skus, l.SKU), append(lots, l.Lot), append(kinds, l.Authenticated), append(picked, l.Picked)
		if l.Picked < l.Quantity {
			state = statePicking
		}
	}
	switch {
	case len(f.lines) == 0:
		state = stateCancelled // all of it waits as another
	case state == statePicked:
	}
	_, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = $2 WHERE id = $1),
		d AS (DELETE FROM fulfilment_line l WHERE l.fulfilment_id = $1
			AND (l.sku, l.lot, l.authenticated) NOT IN (SELECT * FROM unnest($3::text[], $4::text[], $5::boolean[])))
		UPDATE fulfilment_line l SET picked = u.picked, quantity = CASE WHEN $7 THEN u.picked ELSE l.quantity END
		  FROM unnest($3::text[], $4::text[], $5::boolean[], $6::bigint[]) u(sku, lot, authenticated, picked)
		 WHERE l.fulfilment_id = $1 AND l.sku = u.sku AND l.lot = u.lot AND l.authenticated = u.authenticated AND u.picked > 0`,
		f.id, state, skus, lots, kinds, picked, state != statePicking)
	return err
}

// wait splits missing goods off. What is promised and not there is not there
// for anybody: it is taken out of the books, and the count that follows says
// why. Serialised goods are only given back: which of them is missing is for
// that count to find.
func (f *fulfilment) wait(ctx context.Context, tx *store.Tx, short []fline) error {
	var all, lost []goods
	for _, l := range short {
		g := goods{key: key{sku: l.SKU, site: f.site, lot: l.Lot, authenticated: l.Authenticated}, quantity: l.Quantity, reference: f.reservation}
		all = append(all, g)
		if g.reference = f.id; !l.Authenticated {
			lost = append(lost, g)
		}
	}
	levels, err := post(ctx, tx, way{reason: "release", from: "reserved", to: "sellable"}, all...)
	if err != nil {
		return err
	}
	if err := tx.Publish(&warehousev1.ReservationReleased{ReservationId: f.reservation, Reference: f.reference, Levels: levels}); err != nil {
		return err
	}
	const cause = "not on the shelf when picked"
	if levels, err = post(ctx, tx, way{reason: "adjustment", from: "sellable", to: "external", cause: cause}, lost...); err != nil {
		return err
	}
	for i, l := range levels {
		if err := tx.Publish(&warehousev1.StockAdjusted{Sku: l.GetSku(), Delta: -lost[i].quantity, Cause: cause, Level: l}); err != nil {
			return err
		}
	}
	rest := *f
	rest.id, rest.state, rest.splitFrom, rest.lines, rest.units, rest.parcels = id.New("ful"), stateWaiting, f.id, short, nil, nil
	if err := rest.insert(ctx, tx); err != nil {
		return err
	}
	return tx.Publish(&warehousev1.FulfilmentSplit{
		FulfilmentId: f.id, RestId: rest.id, RequestId: f.request, Reference: f.reference, Lines: rest.linesProto(), Short: true,
	})
}

// revive lets a waiting fulfilment go on for which goods are there again: with
// a reservation of its own. Oldest first; one that still lacks something holds
// up none behind it.
func revive(ctx context.Context, tx *store.Tx) error {
	rows, err := tx.Rows(ctx, `SELECT id FROM fulfilment WHERE state = 9 ORDER BY id LIMIT 50 FOR NO KEY UPDATE SKIP LOCKED`)
	var ids []string
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var one string
		if err := rows.Scan(&one); err != nil {
			return err
		}
		ids = append(ids, one)
		return nil
	}); err != nil || len(ids) == 0 {
		return err
	}
	all, err := readFulfilments(ctx, tx, `WHERE f.id = ANY ($1) ORDER BY f.id`, ids)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := one.reserveAgain(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

func (f *fulfilment) reserveAgain(ctx context.Context, tx *store.Tx) error {
	want, strict := map[string]int64{}, map[string]bool{}
	for _, l := range f.lines {
		want[l.SKU], strict[l.SKU] = want[l.SKU]+l.Quantity, l.Authenticated
	}
	q := ordered(want)
	kinds := make([]bool, len(q.skus))
	for i, sku := range q.skus {
		kinds[i] = strict[sku]
	}
	reservation := id.New("rsv")
	var levels []*warehousev1.StockLevel
	var held []heldLine
	short := false
	rows, err := tx.Rows(ctx, reserve, reservation, q.skus, q.amounts, f.reference, nil, actor(ctx), kinds, "")
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var taken bool
		var quantity int64
		var p policyAfter // of no market: there is none
		l := &warehousev1.StockLevel{}
		if err := rows.Scan(slices.Concat([]any{&taken, new(any)}, posted(new(string), &quantity, l), p.columns())...); err != nil {
			return err
		}
		if short = short || !taken; taken {
			levels = append(levels, l)
			held = append(held, heldLine{l.GetSku(), l.GetSite(), l.GetLot(), l.GetAuthenticated(), quantity})
		}
		return nil
	}); err != nil || short {
		return err
	}
	at := held[0].site
	for _, h := range held {
		if h.site != at {
			// At several sites: it waits until one has all of it.
			_, err := releaseNow(ctx, tx, reservation, "at several sites")
			return err
		}
	}
	var skus, lots []string
	var authenticated []bool
	var quantities []int64
	for _, h := range held {
		skus, lots, authenticated, quantities = append(skus, h.sku), append(lots, h.lot), append(authenticated, h.authenticated), append(quantities, h.quantity)
	}
	if _, err := tx.Do(ctx, `WITH d AS (DELETE FROM fulfilment_line WHERE fulfilment_id = $1 RETURNING 1),
		f AS (UPDATE fulfilment SET state = 1, wave_id = '', reservation_id = $2, site = $3 WHERE id = $1),
		r AS (UPDATE reservation SET state = 4, ended_at = now(), reason = 'taken over' WHERE id = $2)
		SELECT count(*) FROM d`, f.id, reservation, at); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `INSERT INTO fulfilment_line (fulfilment_id, sku, lot, authenticated, quantity)
		SELECT $1, u.* FROM unnest($2::text[], $3::text[], $4::boolean[], $5::bigint[]) u`, f.id, skus, lots, authenticated, quantities); err != nil {
		return err
	}
	return tx.Publish(&warehousev1.StockReserved{ReservationId: reservation, Reference: f.reference, Levels: levels})
}

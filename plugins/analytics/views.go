package main

import (
	"context"
	"database/sql"
	"slices"
	"time"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// silence ends a session.
const silence = 30 * time.Minute

// session is one visit.
type session struct {
	id, market  string
	n           int16
	start, last time.Time
}

// onViews records browsing, counts sessions and how far they came.
func (s *service) onViews(ctx context.Context, tx *store.Tx, events []event.Of[*analyticsv1.ViewsRecorded]) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	k, err := s.known(ctx, tx, events)
	if err != nil {
		return err
	}
	var c viewColumns
	for _, e := range events {
		if views := s.kept(e.Body); len(views) > 0 && !k.batches[e.Body.GetBatchId()] {
			k.batches[e.Body.GetBatchId()] = true
			person := e.Body.GetPersonId()
			if k.forgotten[person] {
				person = ""
			}
			c.add(e.Body, views, k.visit(e.Body, views), person)
		}
	}
	if len(c.batches) == 0 {
		return nil
	}
	if err := k.keep(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, keepViews, c.batches, c.ns, c.people, c.markets, c.skus, c.kinds, c.ats, n, c.sessions, c.visits, c.days, c.steps, c.homes); err != nil {
		return err
	}
	if len(c.orders) == 0 {
		return nil
	}
	if _, err := tx.Do(ctx, `INSERT INTO session_order (order_id, session, n) SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[]) ON CONFLICT DO NOTHING`,
		c.orders, c.orderSessions, c.orderVisits); err != nil {
		return err
	}
	return ordered(ctx, tx, c.orders)
}

// kept are the acts that are not older than browsing is kept: a replay brings
// back none that were deleted.
func (s *service) kept(e *analyticsv1.ViewsRecorded) []*analyticsv1.View {
	oldest := time.Now().Add(-s.keepViews)
	return slices.DeleteFunc(slices.Clone(e.GetViews()), func(v *analyticsv1.View) bool { return v.GetAt().AsTime().Before(oldest) })
}

// known is what the tables know of a delivery's batches, sessions and people.
type known struct {
	batches, forgotten map[string]bool
	sessions           map[string]*session // the last of each id
	touched            []*session
}

func (s *service) known(ctx context.Context, tx *store.Tx, events []event.Of[*analyticsv1.ViewsRecorded]) (*known, error) {
	k := &known{batches: make(map[string]bool), forgotten: make(map[string]bool), sessions: make(map[string]*session)}
	var batches, ids, people []string
	for _, e := range events {
		batches, ids, people = append(batches, e.Body.GetBatchId()), append(ids, e.Body.GetSessionId()), append(people, e.Body.GetPersonId())
	}
	rows, err := tx.Rows(ctx, `SELECT 'b', batch, '', 0::smallint, now(), now() FROM view WHERE batch = ANY ($1::text[]) GROUP BY batch
		UNION ALL SELECT 'f', name, '', 0, now(), now() FROM forgotten WHERE name = ANY ($3::text[]) AND until = 'infinity'
		UNION ALL SELECT * FROM (SELECT DISTINCT ON (id) 's', id, market, n, started_at, last_at FROM session WHERE id = ANY ($2::text[]) ORDER BY id, n DESC) s`,
		batches, ids, people)
	return k, scan(rows, err, func(rows *sql.Rows) error {
		var what string
		var one session
		if err := rows.Scan(&what, &one.id, &one.market, &one.n, &one.start, &one.last); err != nil {
			return err
		}
		switch what {
		case "b":
			k.batches[one.id] = true
		case "f":
			k.forgotten[one.id] = true
		default:
			k.sessions[one.id] = &one
		}
		return nil
	})
}

// visit is the session that acts belong to: the last under its id, or a new
// one after a silence.
func (k *known) visit(e *analyticsv1.ViewsRecorded, views []*analyticsv1.View) *session {
	first, last := views[0].GetAt().AsTime(), views[0].GetAt().AsTime()
	for _, v := range views {
		if at := v.GetAt().AsTime(); at.Before(first) {
			first = at
		} else if at.After(last) {
			last = at
		}
	}
	one := k.sessions[e.GetSessionId()]
	if one == nil || first.Sub(one.last) > silence {
		next := &session{id: e.GetSessionId(), market: e.GetMarket(), start: first, last: last}
		if one != nil {
			next.n = one.n + 1
		}
		one = next
		k.sessions[one.id] = one
	}
	if last.After(one.last) {
		one.last = last
	}
	if !slices.Contains(k.touched, one) {
		k.touched = append(k.touched, one)
	}
	return one
}

func (k *known) keep(ctx context.Context, tx *store.Tx) error {
	var ids, markets []string
	var ns []int16
	var starts, lasts []time.Time
	for _, s := range k.touched {
		ids, markets, ns = append(ids, s.id), append(markets, s.market), append(ns, s.n)
		starts, lasts = append(starts, s.start), append(lasts, s.last)
	}
	_, err := tx.Do(ctx, `INSERT INTO session (id, n, market, started_at, last_at)
		SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[], $4::timestamptz[], $5::timestamptz[])
		ON CONFLICT (id, n) DO UPDATE SET last_at = EXCLUDED.last_at`, ids, ns, markets, starts, lasts)
	return err
}

// viewColumns are acts, each with the session it belongs to.
type viewColumns struct {
	batches, people, markets, skus, sessions, days, steps []string
	homes                                                 []string // markets of the sessions
	ns, kinds, visits                                     []int16
	ats                                                   []time.Time
	orders, orderSessions                                 []string
	orderVisits                                           []int16
}

// steps of the funnel that an act takes a session to.
var steps = map[analyticsv1.View_Kind]string{
	analyticsv1.View_KIND_LISTING: "viewed", analyticsv1.View_KIND_RECOMMENDATION: "viewed",
	analyticsv1.View_KIND_ADDED_TO_CART: "added", analyticsv1.View_KIND_CHECKOUT: "checkout",
}

func (c *viewColumns) add(e *analyticsv1.ViewsRecorded, views []*analyticsv1.View, s *session, person string) {
	for i, v := range views {
		c.batches, c.ns, c.people = append(c.batches, e.GetBatchId()), append(c.ns, int16(i)), append(c.people, person)
		c.markets, c.skus, c.kinds = append(c.markets, e.GetMarket()), append(c.skus, v.GetSku()), append(c.kinds, int16(v.GetKind()))
		c.ats, c.sessions, c.visits = append(c.ats, v.GetAt().AsTime()), append(c.sessions, s.id), append(c.visits, s.n)
		c.days, c.steps = append(c.days, day(s.start)), append(c.steps, steps[v.GetKind()])
		c.homes = append(c.homes, s.market)
		if v.GetKind() == analyticsv1.View_KIND_ORDERED {
			c.orders, c.orderSessions, c.orderVisits = append(c.orders, v.GetOrderId()), append(c.orderSessions, s.id), append(c.orderVisits, s.n)
		}
	}
}

// A session counts on the day it began, once for each step: for the shop, for
// the merchant and for the good.
const addReached = `new AS (INSERT INTO reached (session, n, step, merchant, sku) SELECT DISTINCT session, n, step, merchant, sku FROM levels ON CONFLICT DO NOTHING RETURNING *),
counted AS (SELECT DISTINCT l.day, l.market, l.session, l.n, l.merchant, l.sku, l.step FROM levels l JOIN new USING (session, n, step, merchant, sku)),
funnel AS (INSERT INTO funnel_day AS f (day, market, merchant, sku, step, sessions)
  SELECT day, market, merchant, sku, step, count(*) FROM counted GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
  ON CONFLICT (day, market, merchant, sku, step) DO UPDATE SET sessions = f.sessions + EXCLUDED.sessions)
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, views)
SELECT day, market, merchant, sku, '', count(*) FROM counted WHERE step = 'viewed' AND sku <> '' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET views = f.views + EXCLUDED.views`

const keepViews = `WITH u AS (SELECT u.*, coalesce(g.merchant, '') AS merchant
    FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::timestamptz[], $9::text[], $10::smallint[], $11::date[], $12::text[], $13::text[])
      u(batch, i, person, market, sku, kind, at, session, n, day, step, home) LEFT JOIN goods g ON g.sku = u.sku),
seen AS (INSERT INTO view (batch, n, person, market, sku, kind, at, changed)
  SELECT batch, i, person, market, sku, kind, at, $8::bigint FROM u ON CONFLICT DO NOTHING),
levels AS (SELECT day, home AS market, session, n, 'visited' AS step, '' AS merchant, '' AS sku FROM u
  UNION SELECT day, home, session, n, step, '', '' FROM u WHERE step <> ''
  UNION SELECT day, home, session, n, step, merchant, '' FROM u WHERE step <> '' AND sku <> '' AND merchant <> ''
  UNION SELECT day, home, session, n, step, merchant, sku FROM u WHERE step <> '' AND sku <> ''),
` + addReached

// ordered counts sessions that placed an order, once the order is known and a
// terminal has told of it, whichever came first.
func ordered(ctx context.Context, tx *store.Tx, orders []string) error {
	_, err := tx.Do(ctx, `WITH u AS (SELECT o.session, o.n, (s.started_at AT TIME ZONE 'UTC')::date AS day, s.market, l.merchant, l.sku
    FROM session_order o JOIN session s ON s.id = o.session AND s.n = o.n JOIN sale_line l ON l.order_id = o.order_id WHERE o.order_id = ANY ($1::text[])),
levels AS (SELECT day, market, session, n, 'ordered' AS step, '' AS merchant, '' AS sku FROM u
  UNION SELECT day, market, session, n, 'ordered', merchant, '' FROM u
  UNION SELECT day, market, session, n, 'ordered', merchant, sku FROM u),
`+addReached, orders)
	return err
}

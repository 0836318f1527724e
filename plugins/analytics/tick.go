package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/entrepot/entrepot/plugins/analytics/recommend"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// told is how many accounts are told at one tick, of how many goods.
	told      = 200
	toldGoods = 6
	// Rows that one tick deletes of each table; what is over goes with the next.
	deletes = 50000
)

func (s *service) onTick(ctx context.Context, tx *store.Tx, e event.Of[*pluginv1.Tick]) error {
	switch e.Body.GetSchedule() {
	case "analytics/retention":
		return s.retain(ctx, tx)
	case "analytics/push":
		return s.push(ctx, tx)
	}
	return nil
}

// retain deletes what is kept no longer. Sums stay: they are of nobody.
func (s *service) retain(ctx context.Context, tx *store.Tx) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	views, purchases := time.Now().Add(-s.keepViews), time.Now().Add(-s.keepPurchases)
	for _, d := range []struct {
		statement string
		args      []any
	}{
		{`DELETE FROM view WHERE (batch, n) IN (SELECT batch, n FROM view WHERE at < $1 ORDER BY at LIMIT $2)`, []any{views, deletes}},
		{`WITH gone AS (DELETE FROM session WHERE (id, n) IN (SELECT id, n FROM session WHERE last_at < $1 ORDER BY last_at LIMIT $2) RETURNING id, n),
			o AS (DELETE FROM session_order o USING gone g WHERE o.session = g.id AND o.n = g.n)
			DELETE FROM reached r USING gone g WHERE r.session = g.id AND r.n = g.n`, []any{views, deletes}},
		// A batch that is told again later than this is refused by its age.
		{`DELETE FROM batch WHERE id IN (SELECT id FROM batch WHERE at < $1 ORDER BY at LIMIT $2)`, []any{time.Now().Add(-2 * tellsFor), deletes}},
		{`DELETE FROM pseudonym WHERE name IN (SELECT name FROM pseudonym WHERE seen_at < $1 AND name LIKE 'vis\_%' ORDER BY seen_at LIMIT $2)`, []any{views, deletes}},
		{`UPDATE purchase SET person = '', changed = $3 WHERE (order_id, sku) IN (SELECT order_id, sku FROM purchase WHERE at < $1 AND person <> '' ORDER BY at LIMIT $2)`,
			[]any{purchases, deletes, n}},
		{`DELETE FROM departed WHERE at < $1`, []any{time.Now().Add(-30 * 24 * time.Hour)}},
	} {
		if _, err := tx.Do(ctx, d.statement, d.args...); err != nil {
			return err
		}
	}
	return nil
}

// Accounts that want to be told, were not lately, and have bought or looked at
// something since, each with the market where that was.
const toTell = `SELECT p.account, n.person, a.market FROM preference p JOIN pseudonym n ON n.name = p.account
 CROSS JOIN LATERAL (SELECT market FROM (
    (SELECT market, at FROM purchase WHERE person = n.person AND at > coalesce(p.told_at, '-infinity') ORDER BY at DESC LIMIT 1)
    UNION ALL (SELECT market, at FROM view WHERE person = n.person AND at > coalesce(p.told_at, '-infinity') ORDER BY at DESC LIMIT 1)) x ORDER BY at DESC LIMIT 1) a
 WHERE p.notify AND NOT p.not_personal AND (p.told_at IS NULL OR p.told_at <= $1) ORDER BY p.told_at NULLS FIRST, p.account LIMIT $2 FOR UPDATE OF p SKIP LOCKED`

// push tells of new recommendations: only where the person's own purchases
// speak for one, and only of what can be sold now.
func (s *service) push(ctx context.Context, tx *store.Tx) error {
	type wish struct {
		account, person, market string
		picks                   []recommend.Pick
	}
	var wishes []wish
	rows, err := tx.Rows(ctx, toTell, time.Now().Add(-s.pushEvery), told)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var w wish
		err := rows.Scan(&w.account, &w.person, &w.market)
		wishes = append(wishes, w)
		return err
	}); err != nil || len(wishes) == 0 {
		return err
	}
	var markets, skus []string
	for i, w := range wishes {
		wishes[i].picks = s.model.Answer(recommend.Query{Kind: recommend.Personal, Person: w.person, Market: w.market, Limit: toldGoods, Now: time.Now()})
		for _, p := range wishes[i].picks {
			markets, skus = append(markets, w.market), append(skus, p.SKU)
		}
	}
	offers, err := offersOf(ctx, tx, markets, skus)
	if err != nil {
		return err
	}
	var accounts []string
	for _, w := range wishes {
		out := offers.confirmed(w.market, w.picks)
		if len(out) == 0 || out[0].GetReason().GetCode() != analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS {
			continue
		}
		accounts = append(accounts, w.account)
		if err := tx.Publish(&analyticsv1.RecommendationsReady{AccountId: w.account, Market: w.market, Recommendations: out}); err != nil {
			return err
		}
	}
	_, err = tx.Do(ctx, `UPDATE preference SET told_at = now() WHERE account = ANY ($1::text[])`, accounts)
	return err
}

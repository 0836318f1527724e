package main

import (
	"context"
	"database/sql"
	"slices"
	"time"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// Names that are forgotten for good are nobody's.
const recogniseNames = `WITH seen AS (INSERT INTO pseudonym AS p (name, person)
  SELECT DISTINCT ON (u.name) u.name, u.person FROM unnest($1::text[], $2::text[]) u(name, person)
   WHERE NOT EXISTS (SELECT FROM forgotten f WHERE f.name = u.name AND f.until = 'infinity') ORDER BY u.name
  ON CONFLICT (name) DO UPDATE SET seen_at = now() RETURNING name, person)
SELECT s.name, s.person, coalesce(f.until, '0001-01-01') FROM seen s LEFT JOIN forgotten f ON f.name = s.name`

// people are the persons of names.
type people map[string]struct {
	person string
	// forgotten is until when what they did is nobody's.
	forgotten time.Time
}

// of is the person of a name at a time; empty for nobody.
func (p people) of(name string, at time.Time) string {
	if k := p[name]; at.After(k.forgotten) {
		return k.person
	}
	return ""
}

// recognise answers the person of each account or visitor, drawn at random
// when it is seen first.
func recognise(ctx context.Context, tx *store.Tx, names []string) (people, error) {
	out := make(people, len(names))
	if len(names) == 0 {
		return out, nil
	}
	slices.Sort(names)
	names = slices.Compact(names)
	drawn := make([]string, len(names))
	for i := range drawn {
		drawn[i] = id.New("psn")
	}
	rows, err := tx.Rows(ctx, recogniseNames, names, drawn)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var name string
		var k struct {
			person    string
			forgotten time.Time
		}
		err := rows.Scan(&name, &k.person, &k.forgotten)
		out[name] = k
		return err
	})
}

// forget unties everything from some accounts and visitors. Their rows stay
// as nobody's: the sums of figures do not change. That they are forgotten is
// kept, so that no replay ties them again; processes that hold them in memory
// learn of it from the people who departed.
const forget = `WITH n AS (DELETE FROM pseudonym WHERE name = ANY ($1::text[]) RETURNING person),
kept AS (INSERT INTO forgotten AS f (name, until) SELECT unnest($1::text[]), CASE WHEN $3::boolean THEN 'infinity' ELSE now() END
    UNION SELECT person, 'infinity' FROM n ON CONFLICT (name) DO UPDATE SET until = greatest(f.until, EXCLUDED.until)),
p AS (UPDATE purchase SET person = '', changed = $2::bigint WHERE person IN (SELECT person FROM n) AND person <> ''),
v AS (UPDATE view SET person = '' WHERE person IN (SELECT person FROM n) AND person <> ''),
w AS (DELETE FROM preference WHERE account = ANY ($1::text[]) AND $3::boolean)
INSERT INTO departed (person, changed) SELECT DISTINCT person, $2::bigint FROM n ON CONFLICT DO NOTHING`

// forgetNames forgets what they did up to now, or for good.
func forgetNames(ctx context.Context, tx *store.Tx, forGood bool, names ...string) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.Do(ctx, forget, names, n, forGood)
	return err
}

// ForgetVisitor forgets the visitor, and the consumer who is logged in.
func (s *service) ForgetVisitor(ctx context.Context, req *analyticsv1.ForgetVisitorRequest) (*analyticsv1.ForgetVisitorResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*analyticsv1.ForgetVisitorResponse, error) {
		var names []string
		if v := req.GetVisitorId(); v != "" {
			names = append(names, v)
		}
		if p := call.From(ctx).Principal; p.Kind == call.Consumer {
			names = append(names, p.Account)
		}
		return &analyticsv1.ForgetVisitorResponse{}, forgetNames(ctx, tx, false, names...)
	})
}

// ForgetAccount forgets for good.
func (s *service) ForgetAccount(ctx context.Context, req *analyticsv1.ForgetAccountRequest) (*analyticsv1.ForgetAccountResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*analyticsv1.ForgetAccountResponse, error) {
		return &analyticsv1.ForgetAccountResponse{}, forgetNames(ctx, tx, true, req.GetAccountId())
	})
}

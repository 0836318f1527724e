package main

import (
	"context"
	"database/sql"
	"slices"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// Names that are forgotten are nobody's.
const recogniseNames = `INSERT INTO pseudonym AS p (name, person)
SELECT DISTINCT ON (u.name) u.name, u.person FROM unnest($1::text[], $2::text[]) u(name, person)
 WHERE NOT EXISTS (SELECT FROM forgotten f WHERE f.name = u.name) ORDER BY u.name
ON CONFLICT (name) DO UPDATE SET seen_at = now() RETURNING name, person`

// recognise answers the person of each account or visitor, drawn at random
// when it is seen first; the forgotten have none.
func recognise(ctx context.Context, tx *store.Tx, names []string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	if len(names) == 0 {
		return out, nil
	}
	slices.Sort(names)
	names = slices.Compact(names)
	people := make([]string, len(names))
	for i := range people {
		people[i] = id.New("psn")
	}
	rows, err := tx.Rows(ctx, recogniseNames, names, people)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var name, person string
		err := rows.Scan(&name, &person)
		out[name] = person
		return err
	})
}

// forget unties everything from some accounts and visitors. Their rows stay
// as nobody's: the sums of figures do not change. Accounts and people are kept
// as forgotten, so that no replay ties them again. Processes that hold them in
// memory learn of it from the people who departed.
const forget = `WITH n AS (DELETE FROM pseudonym WHERE name = ANY ($1::text[]) RETURNING person),
kept AS (INSERT INTO forgotten (name) SELECT unnest($2::text[]) UNION SELECT person FROM n ON CONFLICT DO NOTHING),
p AS (UPDATE purchase SET person = '', changed = $3::bigint WHERE person IN (SELECT person FROM n) AND person <> ''),
v AS (UPDATE view SET person = '', changed = $3::bigint WHERE person IN (SELECT person FROM n) AND person <> ''),
w AS (DELETE FROM preference WHERE account = ANY ($2::text[]))
INSERT INTO departed (person, changed) SELECT DISTINCT person, $3::bigint FROM n ON CONFLICT DO NOTHING`

// forgetNames forgets: for good is about those that must not be known again,
// erased accounts; visitors that ask may come back as somebody new.
func (s *service) forgetNames(ctx context.Context, tx *store.Tx, names, forGood []string) error {
	n, err := change(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.Do(ctx, forget, names, forGood, n)
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
		return &analyticsv1.ForgetVisitorResponse{}, s.forgetNames(ctx, tx, names, nil)
	})
}

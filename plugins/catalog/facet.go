package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
)

// maxFacetValues is how many values a facet tells, the most frequent first.
const maxFacetValues = 100

// facetNames in the order they are told, with what they count.
var facetNames = []struct{ name, value string }{
	{"category", "l.category"},
	{"brand", "l.brand"},
	{"merchant", "l.merchant"},
	{"in_stock", "(" + inStock + ")::text"},
}

// facets counts everything that the search finds, not only the page, with one
// statement: each facet under every condition but its own.
func (s *service) facets(ctx context.Context, q *search) ([]*catalogv1.Facet, error) {
	var parts []string
	for i, f := range facetNames {
		parts = append(parts, fmt.Sprintf(`(SELECT %d AS n, %s AS value, count(*) AS count FROM listing l WHERE %s AND %s <> '' GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT %d)`,
			i, f.value, q.conditions(f.name), f.value, maxFacetValues))
	}
	out := make([]*catalogv1.Facet, len(facetNames))
	for i, f := range facetNames {
		out[i] = &catalogv1.Facet{Name: f.name}
	}
	// The first three parameters are the page's; PostgreSQL wants to see all.
	statement := `SELECT u.n, u.value, u.count FROM (` + strings.Join(parts, " UNION ALL ") + `) u WHERE $2::text IS NOT NULL AND $3::text IS NOT NULL
 ORDER BY u.n, u.count DESC, u.value`
	rows, err := s.db.Rows(ctx, statement, q.args...)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var n int
		v := &catalogv1.FacetValue{}
		if err := rows.Scan(&n, &v.Value, &v.Count); err != nil {
			return err
		}
		out[n].Values = append(out[n].Values, v)
		return nil
	})
}

package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
)

// maxFacetValues is how many values a facet tells, the most frequent first.
const maxFacetValues = 100

// found are the rows that facets count, read once and put together by what
// the facets tell apart; what is in stock in the market, $1, is hashed once.
const found = `WITH found AS MATERIALIZED (SELECT l.category, l.brand, l.merchant,
  (CASE WHEN l.requires_authentication THEN l.sku IN (` + sellableSKUs + `AND s.authenticated` + offeredSKUs + `)
        ELSE l.sku IN (` + sellableSKUs + offeredSKUs + `) END)::text AS in_stock, count(*) AS n FROM listing l WHERE %s GROUP BY 1, 2, 3, 4)
SELECT u.n, u.value, u.count FROM (%s) u WHERE $2::text IS NOT NULL AND $3::text IS NOT NULL ORDER BY u.n, u.count DESC, u.value`

// sellableSKUs and offeredSKUs are skus of which promised is more than nothing.
const (
	sellableSKUs = `SELECT s.sku FROM stock_level s LEFT JOIN stock_policy p ON p.sku = s.sku AND p.market = $1
          WHERE s.sellable > 0 AND (p.on_shelf IS NULL OR p.on_shelf > 0) AND ` + unexpired + ` `
	offeredSKUs = ` GROUP BY s.sku HAVING sum(s.sellable) > coalesce(max(p.safety_stock), 0)`
)

// facets counts everything that the search finds, not only the page, with one
// statement: each facet under every condition but its own. The page's
// languages, $2 and $3, are named because PostgreSQL wants a type of each.
func (s *service) facets(ctx context.Context, q *search) ([]*catalogv1.Facet, error) {
	common := q.all(plainConditions...)
	if q.where["in_stock"] != "" {
		q.where["in_stock"] = "l.in_stock = 'true'"
	}
	out := make([]*catalogv1.Facet, len(facetConditions))
	parts := make([]string, len(facetConditions))
	for i, name := range facetConditions {
		out[i] = &catalogv1.Facet{Name: name}
		others := slices.DeleteFunc(slices.Clone(facetConditions), func(n string) bool { return n == name })
		parts[i] = fmt.Sprintf("(SELECT %d AS n, l.%s AS value, sum(l.n)::bigint AS count FROM found l WHERE l.%s <> '' AND %s GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT %d)",
			i, name, name, q.all(others...), maxFacetValues)
	}
	rows, err := s.db.Rows(ctx, fmt.Sprintf(found, common, strings.Join(parts, " UNION ALL ")), q.args...)
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

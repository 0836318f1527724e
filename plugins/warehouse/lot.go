package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// lots are makers' batches as a request names them.
type lots struct {
	skus, names, dates []string
}

// add takes a line's lot. A date without a lot, or one that the calendar does
// not have, is refused.
func (l *lots) add(field, sku, lot, expiresOn string) error {
	if expiresOn != "" {
		if _, err := time.Parse(time.DateOnly, expiresOn); err != nil {
			return fault.Field(field+".expires_on", "no day of the calendar")
		}
		if lot == "" {
			return fault.Field(field+".lot", "what expires needs its lot")
		}
	}
	if lot != "" {
		l.skus, l.names, l.dates = append(l.skus, sku), append(l.names, lot), append(l.dates, expiresOn)
	}
	return nil
}

// lineField names a line of a request.
func lineField(i int) string { return fmt.Sprintf("lines[%d]", i) }

// The lock that an insert takes on a lot that is there is what keeps two
// callers from saying different days at once.
const (
	noteLots = `INSERT INTO stock_lot (sku, lot, expires_on) SELECT DISTINCT ON (u.sku, u.lot) u.sku, u.lot, nullif(u.day, '')::date
  FROM unnest($1::text[], $2::text[], $3::text[]) u(sku, lot, day) ORDER BY u.sku, u.lot, u.day DESC ON CONFLICT DO NOTHING`
	otherwise = `SELECT u.sku || ' ' || u.lot FROM unnest($1::text[], $2::text[], $3::text[]) u(sku, lot, day)
  JOIN stock_lot l ON l.sku = u.sku AND l.lot = u.lot WHERE u.day <> '' AND l.expires_on IS DISTINCT FROM u.day::date ORDER BY 1 LIMIT 1`
)

// note records when lots expire, before the first of their goods move. A lot
// expires on one day: who says another is refused.
func (l *lots) note(ctx context.Context, tx *store.Tx) error {
	if len(l.names) == 0 {
		return nil
	}
	if _, err := tx.Do(ctx, noteLots, l.skus, l.names, l.dates); err != nil {
		return err
	}
	rows, err := tx.Rows(ctx, otherwise, l.skus, l.names, l.dates)
	var other string
	if err := scan(rows, err, func(rows *sql.Rows) error { return rows.Scan(&other) }); err != nil {
		return err
	}
	if other != "" {
		return fault.New(connect.CodeFailedPrecondition, "LOT_EXPIRES_OTHERWISE", "this lot is known with another day of expiry", "lot", other)
	}
	return nil
}

package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/entrepot/entrepot/sdk/store"
)

// change takes the row that every writer takes, and answers the number of this
// change: it grows in the order of the commits.
func change(ctx context.Context, tx *store.Tx) (n int64, err error) {
	err = tx.Row(ctx, "UPDATE change SET n = n + 1 RETURNING n").Scan(&n)
	return n, err
}

// scan reads every row of an answer and closes it.
func scan(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// day is the UTC day of a time, as PostgreSQL reads it.
func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }

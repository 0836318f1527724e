package store

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
)

// Fixed statements: text that never changes, with real parameters ($1, $2;
// slices become arrays). Each connection keeps their plans, which bun's
// formatted text cannot have. For hot paths; everywhere else bun reads better.

// Row runs a fixed statement that answers one row.
func (tx *Tx) Row(ctx context.Context, statement string, args ...any) *sql.Row {
	return tx.Tx.Tx.QueryRowContext(ctx, statement, planned(args)...)
}

// Rows runs a fixed statement that answers rows; the caller closes them.
func (tx *Tx) Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return tx.Tx.Tx.QueryContext(ctx, statement, planned(args)...)
}

// Do runs a fixed statement that answers nothing.
func (tx *Tx) Do(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return tx.Tx.Tx.ExecContext(ctx, statement, planned(args)...)
}

// Row runs a fixed statement outside of a transaction.
func (db *DB) Row(ctx context.Context, statement string, args ...any) *sql.Row {
	return db.DB.DB.QueryRowContext(ctx, statement, planned(args)...)
}

// Rows runs a fixed statement outside of a transaction; the caller closes
// them.
func (db *DB) Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return db.DB.DB.QueryContext(ctx, statement, planned(args)...)
}

// Do runs a fixed statement that is a transaction of its own.
func (db *DB) Do(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return db.DB.DB.ExecContext(ctx, statement, planned(args)...)
}

func planned(args []any) []any {
	return append([]any{pgx.QueryExecModeCacheStatement}, args...)
}

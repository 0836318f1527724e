// Package store is a module's own data: its schema through bun, and
// transactions in which business rows, events, saga starts, saga step records
// and vault records commit together or not at all.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/entrepot/entrepot/sdk/pgerr"
)

// DB is a module's schema. It is safe for concurrent use.
type DB struct {
	*bun.DB
	plugin string
	node   string
}

// Config is what Open needs.
type Config struct {
	// URL of the database with the module's role.
	URL string
	// Plugin is the module's name, the owner of the sagas it starts.
	Plugin string
	// Node is the kernel node that drives sagas started here.
	Node string
	// MaxConnections bounds the pool; 0 means 8. A query beyond it waits.
	MaxConnections int
}

// Open opens the pool. It does not connect yet.
func Open(c Config) (*DB, error) {
	conf, err := pgx.ParseConfig(c.URL)
	if err != nil {
		// The cause would repeat the password.
		return nil, errors.New("store: the database URL cannot be parsed")
	}
	// bun writes arguments into the text, so a statement cache would only
	// fill up; this mode also refuses stacked statements.
	conf.DefaultQueryExecMode = pgx.QueryExecModeExec
	conf.RuntimeParams["application_name"] = "entrepot/" + c.Plugin
	if c.MaxConnections == 0 {
		c.MaxConnections = 8
	}
	pool := stdlib.OpenDB(*conf)
	pool.SetMaxOpenConns(c.MaxConnections)
	pool.SetMaxIdleConns(c.MaxConnections)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	return &DB{DB: bun.NewDB(pool, pgdialect.New(), bun.WithDiscardUnknownColumns()), plugin: c.Plugin, node: c.Node}, nil
}

// attempts bounds how often a transaction is tried that PostgreSQL aborted to
// resolve a deadlock or a serialisation conflict.
const attempts = 4

// Run runs fn in a transaction and commits what it wrote together with what
// it published, started and stored. fn may run more than once: PostgreSQL
// aborts transactions to resolve deadlocks. While it runs no other process
// may be called: clients refuse with an error.
func (db *DB) Run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	for n := 1; ; n++ {
		err := db.once(ctx, fn)
		if err == nil || n == attempts || !pgerr.Conflict(err) {
			return Wrap(err)
		}
	}
}

func (db *DB) once(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (err error) {
	btx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{Tx: btx, db: db}
	done := false
	defer func() {
		if !done {
			_ = btx.Rollback()
		}
	}()
	if err := fn(context.WithValue(ctx, openTx{}, tx), tx); err != nil {
		return err
	}
	if err := tx.flush(ctx); err != nil {
		return err
	}
	done = true
	if err := btx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	published(ctx, len(tx.events))
	return nil
}

type openTx struct{}

// InTransaction tells whether the context is inside DB.Run. Clients use it to
// refuse calls to other processes while locks are held.
func InTransaction(ctx context.Context) bool {
	return ctx.Value(openTx{}) != nil
}

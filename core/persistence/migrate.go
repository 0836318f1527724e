package persistence

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrSchemaAhead is wrapped when a schema holds steps that the program does
// not know: it was run by a newer release, and this one could corrupt it.
var ErrSchemaAhead = errors.New("the schema is of a newer release")

// Schema is one of the kernel's own schemas and the steps that make it:
// files "<14 digits>_<words>.sql" at the root.
type Schema struct {
	Name  string
	Files fs.FS
}

// step is one migration. Steps run in the order of their names, each in one
// transaction together with the row that says it ran, so that a crash leaves
// neither half. (bun/migrate commits the two one after the other and locks
// with a row that outlives a killed process.)
type step struct {
	name string
	sql  string
}

func (s step) sum() []byte {
	h := sha256.Sum256([]byte(s.sql))
	return h[:]
}

const (
	// lockWait bounds how long a step waits for a table in use, and with it
	// how long everybody else queues behind it.
	lockWait     = "2s"
	lockAttempts = 15
)

// ledger is the table in each schema that says which steps ran.
func ledger(schema string) string { return quote(schema) + ".schema_migration" }

// readSteps reads the steps of one schema.
func readSteps(files fs.FS) ([]step, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	steps := make([]step, len(names))
	for i, n := range names {
		b, err := fs.ReadFile(files, n)
		if err != nil {
			return nil, err
		}
		steps[i] = step{name: strings.TrimSuffix(n, ".sql"), sql: string(b)}
	}
	return steps, nil
}

// pending returns the steps that have not run, in order. It fails when the
// schema has seen others, or the same ones with other content.
func pending(ctx context.Context, conn *pgx.Conn, schema string, steps []step) ([]step, error) {
	steps = slices.SortedFunc(slices.Values(steps), func(a, b step) int { return cmp.Compare(a.name, b.name) })
	known := map[string]step{}
	for _, s := range steps {
		if _, twice := known[s.name]; twice {
			return nil, fmt.Errorf("schema %s: two migrations are named %s", schema, s.name)
		}
		known[s.name] = s
	}
	applied, err := readLedger(ctx, conn, schema)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", schema, err)
	}
	var ahead, changed []string
	for name, sum := range applied {
		s, ok := known[name]
		switch {
		case !ok:
			ahead = append(ahead, name)
		case !bytes.Equal(sum, s.sum()):
			changed = append(changed, name)
		}
	}
	slices.Sort(ahead)
	slices.Sort(changed)
	if len(ahead) > 0 {
		return nil, fmt.Errorf("schema %s: %w: it has %s, which this one lacks; run the newer release, or restore the backup made before it", schema, ErrSchemaAhead, strings.Join(ahead, ", "))
	}
	if len(changed) > 0 {
		return nil, fmt.Errorf("schema %s: %s changed after it ran here: put the old text back and add a new migration", schema, strings.Join(changed, ", "))
	}
	return slices.DeleteFunc(steps, func(s step) bool { return applied[s.name] != nil }), nil
}

func readLedger(ctx context.Context, conn *pgx.Conn, schema string) (map[string][]byte, error) {
	applied := map[string][]byte{}
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", ledger(schema)).Scan(&exists); err != nil || !exists {
		return applied, err
	}
	rows, err := conn.Query(ctx, "SELECT name, sha256 FROM "+ledger(schema))
	if err != nil {
		return nil, err
	}
	var name string
	var sum []byte
	_, err = pgx.ForEachRow(rows, []any{&name, &sum}, func() error {
		applied[name] = slices.Clone(sum)
		return nil
	})
	return applied, err
}

// apply runs steps on a connection of the schema's owner.
func apply(ctx context.Context, conn *pgx.Conn, schema string, steps []step, prepare string) error {
	first := step{name: "the ledger", sql: "CREATE TABLE IF NOT EXISTS " + ledger(schema) +
		" (name text PRIMARY KEY, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());" + prepare}
	if err := applyOne(ctx, conn, schema, first, ""); err != nil {
		return err
	}
	for _, s := range steps {
		done := fmt.Sprintf("INSERT INTO %s (name, sha256) VALUES (%s, '\\x%x')", ledger(schema), literal(s.name), s.sum())
		if err := applyOne(ctx, conn, schema, s, done); err != nil {
			return err
		}
	}
	return nil
}

func applyOne(ctx context.Context, conn *pgx.Conn, schema string, s step, done string) error {
	for n := 1; ; n++ {
		err := transaction(ctx, conn, schema, s.sql, done)
		if err == nil {
			return nil
		}
		var pg *pgconn.PgError
		busy := errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
		if !busy || n == lockAttempts {
			return fmt.Errorf("schema %s: migration %s: %w", schema, s.name, describe(err))
		}
		// Let those through who queued behind the attempt.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(100+rand.IntN(200*n)) * time.Millisecond):
		}
	}
}

func transaction(ctx context.Context, conn *pgx.Conn, schema, sql, done string) (err error) {
	simple := func(sql string) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	if err := simple("BEGIN; SET LOCAL lock_timeout = '" + lockWait + "'; SET LOCAL search_path = " + quote(schema)); err != nil {
		return err
	}
	defer func() {
		if err != nil && !conn.IsClosed() {
			_ = simple("ROLLBACK")
		}
	}()
	if err := simple(sql); err != nil {
		return err
	}
	if conn.PgConn().TxStatus() != 'T' {
		return errors.New("it ends its transaction: a migration holds no COMMIT or ROLLBACK")
	}
	if err := simple(done); err != nil {
		return err
	}
	return simple("COMMIT")
}

// describe adds what PostgreSQL says beside the message.
func describe(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	for _, s := range []string{pg.Detail, pg.Hint, pg.Where} {
		if s != "" {
			err = fmt.Errorf("%w; %s", err, s)
		}
	}
	return err
}

// locked runs fn on a connection of its own that holds an advisory lock, which
// ends with the connection: a killed kernel leaves none behind, and those who
// wait take nothing from the pools.
func (db *DB) locked(ctx context.Context, name string, fn func(conn *pgx.Conn) error) error {
	conn, err := pgx.ConnectConfig(ctx, db.admin.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
		return err
	}
	return fn(conn)
}

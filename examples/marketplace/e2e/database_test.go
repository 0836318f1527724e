package e2e_test

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/pglocal"
)

// superuser opens a connection to the shop's running database that may do
// everything, to look at it from the inside.
func (w *world) superuser(t *testing.T) *pgx.Conn {
	t.Helper()
	dir := filepath.Join(w.Dir, "data", "postgres")
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	require.NoError(t, err)
	// The fifth line is the folder of the socket (PostgreSQL, miscadmin.h).
	postmaster, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	require.NoError(t, err)
	lines := strings.Split(string(postmaster), "\n")
	require.Greater(t, len(lines), 5)
	u := url.URL{Scheme: "postgres", User: url.UserPassword(pglocal.Superuser, strings.TrimSpace(string(password))), Path: "/entrepot",
		RawQuery: url.Values{"host": {lines[4]}, "sslmode": {"disable"}}.Encode()}
	conn, err := pgx.Connect(t.Context(), u.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// as opens a connection whose session is a role's: as if its password were
// known, without disturbing the process that uses it.
func (w *world) as(t *testing.T, role string) *pgx.Conn {
	t.Helper()
	conn := w.superuser(t)
	_, err := conn.Exec(t.Context(), "SET SESSION AUTHORIZATION "+pgx.Identifier{role}.Sanitize())
	require.NoError(t, err)
	return conn
}

// denied requires that PostgreSQL refuses a statement for want of a right,
// before it does anything; or that nothing of the name can be seen.
func denied(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), sql, args...)
	require.Error(t, err, sql)
	require.Equal(t, "42501", sqlState(err), "%s: %v", sql, err)
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// column is what a statement answers in its only column.
func column[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return out
}

// facts are the tables of the modules, the vault and the accounts, but for
// those that a clock writes when nobody trades: the count of changes, which
// every retention raises, the daily reconciliations, and mails that are tried
// again, with what the vault reveals for them.
const facts = `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND (n.nspname LIKE 'p\_%' OR n.nspname = 'vault' OR n.nspname = 'kernel' AND c.relname IN ('account', 'merchant'))
   AND c.relname NOT LIKE 'bun_%' AND (n.nspname, c.relname) NOT IN (('p_analytics', 'change'), ('p_payment', 'reconciliation'), ('p_notification', 'delivery')) ORDER BY 1`

// fingerprint is of every row that says something about the trade: two that
// are equal mean that nothing was written in between.
func fingerprint(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	var parts []string
	for _, table := range column[string](t, conn, facts) {
		part := "SELECT '" + table + "' AS name, count(*)||' rows, '||coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) AS sum FROM " + table + " t"
		if table == "vault.reveal" {
			part += " WHERE plugin <> 'notification'"
		}
		parts = append(parts, part)
	}
	parts = append(parts, "SELECT 'bus.saga', count(*)||' rows' FROM bus.saga")
	rows, err := conn.Query(t.Context(), strings.Join(parts, " UNION ALL "))
	require.NoError(t, err)
	out := map[string]string{}
	var name, sum string
	_, err = pgx.ForEachRow(rows, []any{&name, &sum}, func() error {
		out[name] = sum
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(out), 15)
	return out
}

// calm waits until nothing is under way any more, not even what modules do
// outside of the bus, such as sending mails, and answers the fingerprint then.
func (w *world) calm(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last map[string]string
	for {
		_, err := w.Quiet(ctx)
		require.NoError(t, err)
		now := fingerprint(t, conn)
		if maps.Equal(last, now) {
			return now
		}
		last = now
		select {
		case <-ctx.Done():
			require.NoError(t, ctx.Err(), "something is written all the time")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

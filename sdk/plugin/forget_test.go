package plugin

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
	"github.com/entrepot/entrepot/sdk/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestAnAnswerIsKnownForAWeek(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn, err := pgx.Connect(t.Context(), d.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), store.Idempotency)
	require.NoError(t, err)
	// More than a batch is old, and some are not.
	_, err = conn.Exec(t.Context(), `INSERT INTO idempotency (scope, key, fingerprint, answer, at)
		SELECT 's', n::text, '', '', now() - CASE WHEN n <= 2500 THEN interval '7 days 1 minute' ELSE interval '6 days 23 hours' END FROM generate_series(1, 2600) n`)
	require.NoError(t, err)
	db, err := store.Open(store.Config{URL: d.URL, Plugin: "shop"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	require.NoError(t, forgetAnswers(t.Context(), db))
	var left, old int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE key::int <= 2500) FROM idempotency`).Scan(&left, &old))
	require.Zero(t, old)
	require.Equal(t, 100, left)
}

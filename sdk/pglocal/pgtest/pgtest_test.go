package pgtest_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var built atomic.Int32

var template = pgtest.NewTemplate(func(ctx context.Context, url string) error {
	built.Add(1)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "CREATE TABLE thing (id int PRIMARY KEY)")
	return err
})

func connect(t *testing.T, url string) *pgx.Conn {
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	for range 6 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.New(t, template).URL)
			_, err := conn.Exec(t.Context(), "INSERT INTO thing VALUES (1)")
			require.NoError(t, err, "another test's row is not here")
			require.EqualValues(t, 1, built.Load(), "the template is built once")
		})
	}
}

func TestARoleStartsWithoutRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, template)
	role, url := db.Role(t, "p_order")
	conn := connect(t, url)
	var who string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT session_user::text").Scan(&who))
	require.Equal(t, role, who)
	_, err := conn.Exec(t.Context(), "SELECT * FROM thing")
	require.ErrorContains(t, err, "permission denied")
}

package persistence

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

// room is a room of the kernel with a table and a function for modules.
var room = fstest.MapFS{"20260101000000_room.sql": {Data: []byte(`
	CREATE TABLE kernel.secret (a text);
	ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
	CREATE FUNCTION kernel.tell(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT session_user || ' ' || $1 $$;
	CREATE FUNCTION kernel.untold() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 $$`)}}

var config = Config{
	Schemas:         []Schema{{Name: "bus", Files: busdb.Migrations()}, {Name: "kernel", Files: room}},
	ModuleFunctions: append([]string{"kernel.tell(text)"}, busdb.ModuleFunctions...),
	Logger:          quiet,
}

// open opens a fresh database.
func open(t *testing.T) *DB {
	c := config
	c.URL = pgtest.New(t, nil).URL
	db, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close(context.Background()) })
	return db
}

// name is one that no other test's module has: roles belong to the server.
func name() string { return "shop-" + strings.ToLower(rand.Text()[:10]) }

// ensure gives a module its place, and takes it away after the test.
func ensure(t *testing.T, db *DB, name string, steps ...*pluginv1.Migration) Credentials {
	c, err := db.EnsureModule(t.Context(), Module{Name: name, Migrations: steps})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.DropModule(context.Background(), name) })
	return c
}

func migration(name, sql string) *pluginv1.Migration {
	return &pluginv1.Migration{Name: name, Sql: sql}
}

func login(t *testing.T, url string) *pgx.Conn {
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func text(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	var s string
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&s), sql)
	return s
}

func TestAPrivateClusterIsMadeAndFoundAgain(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "persistence-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	c := config
	c.DataDir = dir

	db, err := Open(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, "embedded", db.Kind())
	creds, err := db.EnsureModule(t.Context(), Module{Name: "order", Migrations: []*pluginv1.Migration{migration("20260101000000_a", "CREATE TABLE a AS SELECT 'kept' AS b")}})
	require.NoError(t, err)
	require.Equal(t, "kept", text(t, login(t, creds.URL), "SELECT b FROM a"))
	db.Close(t.Context())
	<-db.Exited()

	db, err = Open(t.Context(), c)
	require.NoError(t, err)
	defer db.Close(t.Context())
	again, err := db.EnsureModule(t.Context(), Module{Name: "order", Migrations: []*pluginv1.Migration{migration("20260101000000_a", "CREATE TABLE a AS SELECT 'kept' AS b")}})
	require.NoError(t, err)
	require.NotEqual(t, creds.URL, again.URL, "each start has a password of its own")
	require.Equal(t, "kept", text(t, login(t, again.URL), "SELECT b FROM a"))
}

func TestWhatTheKernelMayNotDoIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	_, url := db.Role(t, "weak")
	c := config
	c.URL = url
	_, err := Open(t.Context(), c)
	require.ErrorContains(t, err, "CREATEROLE")

	c.URL = "host=/tmp password=hunter2"
	_, err = Open(t.Context(), c)
	require.ErrorContains(t, err, "database_url is no URL")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestAKernelThatIsNoSuperuserCanServeModules(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role, url := db.Role(t, "kernel")
	admin := login(t, db.URL)
	for _, sql := range []string{"ALTER ROLE " + role + " CREATEROLE", "ALTER DATABASE " + db.Name + " OWNER TO " + role} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	c := config
	c.URL = url
	kernel, err := Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		kernel.Close(context.Background())
		_, err := admin.Exec(context.Background(), "ALTER DATABASE "+db.Name+" OWNER TO CURRENT_USER")
		require.NoError(t, err)
	})
	creds := ensure(t, kernel, name(), migration("20260101000000_a", "CREATE TABLE a (b int)"))
	_, err = login(t, creds.URL).Exec(t.Context(), "INSERT INTO a VALUES (1)")
	require.NoError(t, err)
}

func TestKernelsThatStartTogetherMigrateOnce(t *testing.T) {
	t.Parallel()
	c := config
	c.URL = pgtest.New(t, nil).URL
	errs := make(chan error)
	for range 4 {
		go func() {
			db, err := Open(context.Background(), c)
			if err == nil {
				db.Close(context.Background())
			}
			errs <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
}

func TestOneRoomsStepsMayComeAfterAnothers(t *testing.T) {
	t.Parallel()
	c := config
	c.URL = pgtest.New(t, nil).URL
	db, err := Open(t.Context(), c)
	require.NoError(t, err)
	db.Close(t.Context())

	c.Schemas = append(c.Schemas[:1:1], Schema{Name: "kernel", Files: fstest.MapFS{
		"20260101000000_room.sql":  room["20260101000000_room.sql"],
		"20260102000000_later.sql": {Data: []byte("CREATE TABLE later (a int)")}}})
	db, err = Open(t.Context(), c)
	require.NoError(t, err)
	db.Close(t.Context())

	_, err = Open(t.Context(), Config{URL: c.URL, Schemas: config.Schemas, Logger: quiet})
	require.ErrorIs(t, err, ErrSchemaAhead)
	require.ErrorContains(t, err, "20260102000000_later")
}

package persistence

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

const things = "CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text); CREATE SEQUENCE numbers"

func TestAModuleReadsAndWritesItsRowsAndNothingElse(t *testing.T) {
	t.Parallel()
	db := open(t)
	other := ensure(t, db, name(), migration("20260101000000_a", "CREATE TABLE things (a int)"))
	creds := ensure(t, db, name(), migration("20260101000000_a", things))
	conn := login(t, creds.URL)

	require.Equal(t, creds.Role, text(t, conn, "SELECT session_user::text"))
	require.Equal(t, creds.Role+" hi", text(t, conn, "SELECT kernel.tell('hi')"))
	for setting, want := range map[string]string{"statement_timeout": "30s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "10s", "search_path": creds.Schema} {
		require.Equal(t, want, text(t, conn, "SELECT current_setting($1)", setting))
	}
	for _, sql := range []string{
		"INSERT INTO things (name) VALUES ('x')", "UPDATE things SET name = 'y'", "SELECT nextval('numbers')", "DELETE FROM things",
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	for _, sql := range []string{
		"SELECT * FROM " + other.Schema + ".things",
		"SELECT * FROM kernel.secret", "SELECT kernel.untold()",
		"SELECT * FROM bus.outbox", "INSERT INTO bus.pubgrant VALUES ('" + creds.Role + "', 'x', 'y')", "SELECT bus.timers_fire(1)",
		"CREATE TABLE more (a int)", "ALTER TABLE things ADD x int", "TRUNCATE things", "DROP TABLE things",
		"CREATE TABLE public.a (a int)", "CREATE TEMP TABLE a (a int)", "CREATE SCHEMA a",
		"SET ROLE m_" + strings.TrimPrefix(creds.Role, "p_"), "SET ROLE " + other.Role, "SET SESSION AUTHORIZATION entrepot",
		"SELECT * FROM schema_migration", "DELETE FROM schema_migration",
		"SELECT pg_advisory_lock(1)", "SELECT pg_read_file('PG_VERSION')", "SELECT rolpassword FROM pg_authid",
		"ALTER ROLE " + creds.Role + " CREATEROLE", "GRANT ALL ON things TO " + other.Role + " WITH GRANT OPTION",
	} {
		_, err := conn.Exec(t.Context(), sql)
		if strings.HasPrefix(sql, "GRANT") { // PostgreSQL warns and grants nothing
			require.Equal(t, "f", text(t, conn, "SELECT left(has_table_privilege($1, 'things', 'SELECT')::text, 1)", other.Role))
			continue
		}
		require.Error(t, err, sql)
		require.Regexp(t, "42501|must be|permission denied", err.Error(), sql)
	}
}

func TestWhatAMigrationRevokesStaysRevoked(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := name()
	role := "p_" + strings.ReplaceAll(n, "-", "_")
	step := migration("20260101000000_ledger", "CREATE TABLE ledger (a int); REVOKE UPDATE, DELETE, TRUNCATE ON ledger FROM "+role)
	for range 2 {
		conn := login(t, ensure(t, db, n, step).URL)
		_, err := conn.Exec(t.Context(), "INSERT INTO ledger VALUES (1)")
		require.NoError(t, err)
		for _, sql := range []string{"UPDATE ledger SET a = 2", "DELETE FROM ledger"} {
			_, err = conn.Exec(t.Context(), sql)
			require.ErrorContains(t, err, "permission denied", "also after the module starts again")
		}
	}
}

func TestAProcessThatReplacesAnotherGetsTheSamePassword(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := name()
	require.Equal(t, ensure(t, db, n).URL, ensure(t, db, n).URL)
}

func TestAStepAndItsRecordAreOneCommit(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := name()
	good, bad := migration("20260101000000_good", things), migration("20260102000000_bad", "CREATE TABLE half (a int); SELECT 1/0")
	_, err := db.EnsureModule(t.Context(), Module{Name: n, Migrations: []*pluginv1.Migration{bad, good}})
	require.ErrorContains(t, err, "20260102000000_bad")
	require.ErrorContains(t, err, "division by zero")

	bad.Sql = "CREATE TABLE half (a int)"
	conn := login(t, ensure(t, db, n, good, bad).URL)
	require.Equal(t, "0", text(t, conn, "SELECT count(*)::text FROM half"), "what failed left nothing behind and runs again")
}

func TestASchemaThatDiffersFromTheProgramIsRefused(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := name()
	one, two := migration("20260101000000_one", things), migration("20260102000000_two", "CREATE TABLE two (a int)")
	ensure(t, db, n, one, two)

	_, err := db.EnsureModule(t.Context(), Module{Name: n, Migrations: []*pluginv1.Migration{one}})
	require.ErrorIs(t, err, ErrSchemaAhead)
	require.ErrorContains(t, err, "20260102000000_two")

	changed := migration(two.GetName(), "CREATE TABLE two (a text)")
	_, err = db.EnsureModule(t.Context(), Module{Name: n, Migrations: []*pluginv1.Migration{one, changed}})
	require.ErrorContains(t, err, "20260102000000_two changed after it ran here")

	_, err = db.EnsureModule(t.Context(), Module{Name: n, Migrations: []*pluginv1.Migration{one, one}})
	require.ErrorContains(t, err, "two migrations are named")
}

func TestAHostileMigrationGetsNoFurtherThanItsSchema(t *testing.T) {
	t.Parallel()
	db := open(t)
	for sql, want := range map[string]string{
		"RESET ROLE; CREATE TABLE kernel.mine (a int)":                   "permission denied",
		"RESET SESSION AUTHORIZATION; ALTER ROLE CURRENT_USER SUPERUSER": "must be superuser",
		"SET ROLE " + db.role:               "permission denied",
		"COMMIT":                            "ends its transaction",
		"COPY (SELECT 1) TO PROGRAM 'true'": "must be superuser",
	} {
		n := name()
		_, err := db.EnsureModule(t.Context(), Module{Name: n, Migrations: []*pluginv1.Migration{migration("20260101000000_a", sql)}})
		require.ErrorContains(t, err, want, sql)
		require.NoError(t, db.DropModule(t.Context(), n))
	}
}

func TestTheOwnerCannotLogInOutsideOfAMigration(t *testing.T) {
	t.Parallel()
	db := open(t)
	creds := ensure(t, db, name(), migration("20260101000000_a", things))
	var may, has bool
	require.NoError(t, db.admin.QueryRow(t.Context(), "SELECT rolcanlogin, rolpassword IS NOT NULL FROM pg_authid WHERE rolname = $1",
		"m_"+strings.TrimPrefix(creds.Role, "p_")).Scan(&may, &has))
	require.False(t, may)
	require.False(t, has)
}

func TestAStepWaitsForATableInUseWithoutHoldingOthersUp(t *testing.T) {
	t.Parallel()
	db := open(t)
	n := name()
	one := migration("20260101000000_one", things)
	holder, err := login(t, ensure(t, db, n, one).URL).Begin(t.Context())
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), "SELECT * FROM things")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := db.EnsureModule(context.Background(), Module{Name: n, Migrations: []*pluginv1.Migration{one, migration("20260102000000_two", "ALTER TABLE things ADD extra int")}})
		done <- err
	}()
	require.Eventually(t, func() bool {
		var waits int
		require.NoError(t, db.admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND NOT granted").Scan(&waits))
		return waits > 0
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, holder.Rollback(t.Context()))
	require.NoError(t, <-done)
}

func TestModulesThatStartTogetherDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	db := open(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			creds, err := db.EnsureModule(context.Background(), Module{Name: name(), Migrations: []*pluginv1.Migration{migration("20260101000000_a", things)}})
			if err == nil {
				defer func() {
					_ = db.DropModule(context.Background(), strings.ReplaceAll(strings.TrimPrefix(creds.Role, "p_"), "_", "-"))
				}()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestAnotherDeploymentsRolesOnTheServerAreNotTaken(t *testing.T) {
	t.Parallel()
	n := name()
	ensure(t, open(t), n)
	_, err := open(t).EnsureModule(t.Context(), Module{Name: n})
	require.ErrorContains(t, err, "not this deployment's")
}

func TestASessionThatHoldsATransactionOpenIsEnded(t *testing.T) {
	t.Parallel()
	db := open(t)
	creds := ensure(t, db, name(), migration("20260101000000_a", things))
	hung, working := login(t, creds.URL), login(t, creds.URL)
	_, err := hung.Exec(t.Context(), "SET idle_in_transaction_session_timeout = 0")
	require.NoError(t, err, "a role may change its own settings")
	_, err = hung.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)

	require.NoError(t, db.endOffenders(t.Context(), time.Hour, time.Hour))
	require.NoError(t, hung.Ping(t.Context()), "within its limit it lives")
	require.NoError(t, db.endOffenders(t.Context(), 0, time.Hour))
	_, err = hung.Exec(t.Context(), "SELECT 1")
	require.Error(t, err, "told 57P01, or already cut off")
	require.NoError(t, working.Ping(t.Context()), "an idle session is no offence")
}

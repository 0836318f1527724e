package e2e_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/busdb"
)

// modules are those of the deployment, each with a topic of its own and one
// of somebody else's.
var modules = []struct{ name, own, other string }{
	{"catalog", "entrepot.catalog.v1.ProductChanged", "entrepot.order.v1.OrderPlaced"},
	{"warehouse", "entrepot.warehouse.v1.StockReserved", "entrepot.catalog.v1.ListingChanged"},
	{"payment", "entrepot.payment.v1.PaymentCaptured", "entrepot.order.v1.OrderPlaced"},
	{"order", "entrepot.order.v1.OrderPlaced", "entrepot.payment.v1.PaymentCaptured"},
}

// foreign lists relations of a kind outside of a module's own schema and of
// PostgreSQL's.
const foreign = `SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN (%s) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', $1) AND n.nspname NOT LIKE 'pg\_t%%' ORDER BY 1`

// A module's role reaches its own rows and nobody else's: not another
// module's, not the kernel's, not the vault's, not the bus's.
func TestAModuleReachesNoRowsButItsOwn(t *testing.T) {
	super := open.superuser(t)
	for _, m := range modules {
		t.Run(m.name, func(t *testing.T) {
			schema := "p_" + m.name
			conn := open.as(t, schema)
			relations := column[string](t, super, fmt.Sprintf(foreign, "'r', 'p', 'v', 'm'"), schema)
			for _, of := range []string{"bus.outbox", "bus.log", "kernel.account", "vault.record"} {
				require.Contains(t, relations, of, "the test sees what there is")
			}
			for _, r := range relations {
				denied(t, conn, "SELECT FROM "+r+" LIMIT 1")
				require.Equal(t, []bool{false}, column[bool](t, super, `SELECT
					has_table_privilege($1, $2::regclass, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') OR
					has_any_column_privilege($1, $2::regclass, 'SELECT, INSERT, UPDATE, REFERENCES')`, schema, r), r)
			}
			for _, r := range column[string](t, super, fmt.Sprintf(foreign, "'r'"), schema) {
				denied(t, conn, "DELETE FROM "+r)
				denied(t, conn, "TRUNCATE "+r)
			}
			for _, s := range column[string](t, super, fmt.Sprintf(foreign, "'S'"), schema) {
				denied(t, conn, "SELECT last_value FROM "+s)
				denied(t, conn, "SELECT nextval($1)", s)
			}
		})
	}
}

// What a module may execute outside of its schema is the short list that the
// kernel grants, and in it neither the sequencer nor the clock.
func TestAModuleMayCallOnlyWhatTheBusAndTheVaultOfferIt(t *testing.T) {
	super := open.superuser(t)
	offered := []string{"vault.store(text,bytea,text[],text[],bytea[])"}
	for _, f := range busdb.ModuleFunctions {
		offered = append(offered, column[string](t, super, `SELECT $1::regprocedure::text`, f)...)
	}
	for _, m := range modules {
		t.Run(m.name, func(t *testing.T) {
			role := "p_" + m.name
			require.ElementsMatch(t, offered, column[string](t, super, `SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
				WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', $1) AND has_function_privilege($1, p.oid, 'EXECUTE')
				  AND has_schema_privilege($1, n.oid, 'USAGE')`, role))
			conn := open.as(t, role)
			denied(t, conn, "SELECT bus.sequence_batch(100, 0, NULL, NULL)")
			denied(t, conn, "SELECT bus.publish_for('order', 'entrepot.order.v1.OrderPlaced', 'k', '')")
			denied(t, conn, "SELECT bus.timers_fire(1)")
		})
	}
}

// The bus stamps the speaker from the session, so a module speaks for itself
// alone.
func TestAModulePublishesItsOwnTopicsAndNoOthers(t *testing.T) {
	const publish = "SELECT bus.publish(ARRAY[$1], ARRAY['k'], ARRAY[''::bytea])"
	for _, m := range modules {
		t.Run(m.name, func(t *testing.T) {
			conn := open.as(t, "p_"+m.name)
			denied(t, conn, publish, m.other)
			denied(t, conn, "SELECT bus.publish(ARRAY[$1, $2], ARRAY['k', 'k'], ARRAY[''::bytea, ''::bytea])", m.own, m.other)
			denied(t, conn, "SELECT bus.timer_set('x', $1, 'k', '', now())", m.other)
			if m.name != "order" {
				denied(t, conn, "SELECT bus.saga_start(gen_random_uuid(), 'order/checkout', 1, 'k', '', '')")
			}
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(t.Context()) }()
			_, err = tx.Exec(t.Context(), publish, m.own)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), "RESET SESSION AUTHORIZATION")
			require.NoError(t, err)
			var source string
			require.NoError(t, tx.QueryRow(t.Context(), "SELECT source FROM bus.outbox ORDER BY seq DESC LIMIT 1").Scan(&source))
			require.Equal(t, m.name, source)
		})
	}
}

// What happened stays: no role that trades may change or take away an entry.
func TestLedgersAreOnlyAppendedTo(t *testing.T) {
	super := open.superuser(t)
	for _, l := range []struct{ role, table string }{
		{"p_payment", "p_payment.transfer"},
		{"p_warehouse", "p_warehouse.stock_move"},
		{"p_order", "p_order.timeline"},
	} {
		t.Run(l.table, func(t *testing.T) {
			conn := open.as(t, l.role)
			for _, c := range column[string](t, super, `SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`, l.table) {
				denied(t, conn, "UPDATE "+l.table+" SET "+c+" = DEFAULT")
			}
			denied(t, conn, "DELETE FROM "+l.table)
			denied(t, conn, "TRUNCATE "+l.table)
			denied(t, conn, "ALTER TABLE "+l.table+" DISABLE TRIGGER ALL")
			denied(t, conn, "DROP TABLE "+l.table)
		})
	}
	warehouse := open.as(t, "p_warehouse")
	denied(t, warehouse, "UPDATE p_warehouse.stock_balance SET sellable = sellable + 1, external = external - 1")
	denied(t, warehouse, "INSERT INTO p_warehouse.stock_transition VALUES ('adjustment', 'quarantine', 'sellable')")
	denied(t, open.as(t, "p_payment"), "DELETE FROM p_payment.payment")
}

// A role that trades rows owns nothing, makes nothing and becomes nobody else.
func TestAModuleMakesNothingAndBecomesNobody(t *testing.T) {
	for _, m := range modules {
		t.Run(m.name, func(t *testing.T) {
			role := "p_" + m.name
			conn := open.as(t, role)
			for _, sql := range []string{
				"CREATE TABLE public.mine (x int)",
				"CREATE TEMP TABLE mine (x int)",
				"CREATE TABLE " + role + ".mine (x int)",
				"CREATE FUNCTION " + role + ".mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
				"CREATE TABLE bus.mine (x int)",
				"CREATE SCHEMA mine",
				"CREATE ROLE mine",
				"CREATE EXTENSION dblink",
				"ALTER ROLE " + role + " SUPERUSER",
				"ALTER ROLE entrepot PASSWORD 'x'",
				"ALTER ROLE m_" + m.name + " LOGIN PASSWORD 'x'",
				"SET ROLE m_" + m.name,
				"SET ROLE entrepot",
				"GRANT m_" + m.name + " TO " + role,
				"SELECT * FROM pg_authid",
				"SELECT pg_read_file('/etc/passwd')",
				"COPY (SELECT 1) TO PROGRAM 'true'",
				"COPY (SELECT 1) TO '/tmp/mine'",
				"SELECT pg_terminate_backend(pg_backend_pid()) FROM pg_stat_activity WHERE usename = 'entrepot'",
				"ALTER SYSTEM SET work_mem = '1GB'",
			} {
				refused(t, conn, sql)
			}
		})
	}
}

// refused is denied for statements that cannot run in a transaction, or whose
// target a role cannot even see.
func refused(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.Error(t, err, sql)
	require.Contains(t, []string{"42501", "0LP01"}, sqlState(err), "%s: %v", sql, err)
}

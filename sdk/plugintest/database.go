package plugintest

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
	"github.com/entrepot/entrepot/sdk/store"
)

// Main runs a package's tests and stops the cluster that they share. A package
// that uses Start with a module has TestMain call it.
func Main(m *testing.M) { pgtest.Main(m) }

// template holds what the kernel lays down: the bus, and a vault that keeps
// what it is given.
var template = pgtest.NewTemplate(func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	files := busdb.Migrations()
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return err
	}
	statements := []string{"CREATE SCHEMA bus", vault}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		statements = append(statements, string(b))
	}
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("template: %w", err)
		}
	}
	return nil
})

const vault = `CREATE SCHEMA vault;
CREATE TABLE vault.record (ref text PRIMARY KEY, subject_id text NOT NULL, kind text NOT NULL, ciphertext bytea NOT NULL);
CREATE FUNCTION vault.store(p_subject text, p_wrapped bytea, p_refs text[], p_kinds text[], p_ciphertexts bytea[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ INSERT INTO vault.record SELECT u.r, p_subject, u.k, u.c FROM unnest(p_refs, p_kinds, p_ciphertexts) u(r, k, c) ON CONFLICT DO NOTHING $$`

// rolePassword is good for the private cluster of one test binary.
const rolePassword = "test"

// roles are cluster-wide: made one at a time.
var roles sync.Mutex

// database gives the module a schema, a role, its migrations and its grants,
// as the kernel does.
func (m *Module) database(t testing.TB, d *pluginv1.DescribeResponse) *pluginv1.Database {
	t.Helper()
	ctx := t.Context()
	db := pgtest.New(t, template)
	pool, err := pgxpool.New(ctx, db.URL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	m.Admin = pool

	name := strings.ReplaceAll(m.manifest.GetName(), "-", "_")
	role, owner := "p_"+name, "m_"+name
	m.grant(t, db, role, owner, d)
	m.migrate(t, owner, role, d.GetMigrations())

	url := db.URLFor(role, rolePassword)
	m.DB, err = store.Open(store.Config{URL: url, Plugin: m.manifest.GetName(), Node: "test", MaxConnections: 4})
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.DB.Close() })
	return &pluginv1.Database{Url: url, Schema: role, MaxConnections: 8, Subscriptions: m.subs}
}

func (m *Module) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := m.Admin.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func (m *Module) grant(t testing.TB, db *pgtest.DB, role, owner string, d *pluginv1.DescribeResponse) {
	t.Helper()
	roles.Lock()
	defer roles.Unlock()
	for name, attributes := range map[string]string{owner: "NOLOGIN", role: "LOGIN NOINHERIT PASSWORD '" + rolePassword + "'"} {
		m.exec(t, fmt.Sprintf(`DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '%s') THEN CREATE ROLE %s %s; END IF; END $$`,
			name, name, attributes))
	}
	m.exec(t, fmt.Sprintf("REVOKE ALL ON DATABASE %s FROM PUBLIC; GRANT CONNECT ON DATABASE %s TO %s", db.Name, db.Name, role))
	m.exec(t, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET search_path = %s", role, db.Name, role))
	m.exec(t, fmt.Sprintf(`CREATE SCHEMA %[1]s AUTHORIZATION %[2]s; GRANT USAGE ON SCHEMA %[1]s, bus, vault TO %[1]s;
		GRANT EXECUTE ON FUNCTION vault.store(text, bytea, text[], text[], bytea[]) TO %[1]s`, role, owner))
	for _, f := range busdb.ModuleFunctions {
		m.exec(t, fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, role))
	}
	m.exec(t, "GRANT USAGE ON SCHEMA bus TO "+owner)
	for _, f := range busdb.OwnerFunctions {
		m.exec(t, fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, owner))
	}
	for _, topic := range m.manifest.GetPublishes() {
		m.exec(t, "INSERT INTO bus.pubgrant VALUES ($1, $2, $3)", role, topic, m.manifest.GetName())
	}
	for _, s := range m.manifest.GetServes() {
		m.exec(t, "INSERT INTO bus.serves VALUES ($1, $2)", role, s.GetContract())
	}
	for _, def := range d.GetSagas() {
		body, err := proto.Marshal(def)
		require.NoError(t, err)
		contracts, undos := make([]string, len(def.GetSteps())), make([]string, len(def.GetSteps()))
		for i, s := range def.GetSteps() {
			contracts[i], undos[i] = contractOf(s.GetMethod()), contractOf(s.GetCompensation())
		}
		m.exec(t, "INSERT INTO bus.saga_def VALUES ($1, $2, $3, $4, $5, $6)",
			m.manifest.GetName()+"/"+def.GetName(), def.GetVersion(), role, body, contracts, undos)
	}
	subs := m.manifest.GetSubscriptions()
	if len(m.manifest.GetSchedules()) > 0 {
		subs = append(subs, &pluginv1.Subscription{Name: "schedules", Topics: []string{"entrepot.plugin.v1.Tick"}})
	}
	for _, s := range subs {
		var number int16
		require.NoError(t, m.Admin.QueryRow(t.Context(),
			"INSERT INTO bus.subscription (name, plugin, role, topics) VALUES ($1, $2, $3, $4) RETURNING id",
			m.manifest.GetName()+"/"+s.GetName(), m.manifest.GetName(), role, s.GetTopics()).Scan(&number))
		m.exec(t, "INSERT INTO bus.cursor (sub, lane) SELECT $1, g FROM generate_series(0, 63) g", number)
		m.subs[s.GetName()] = int32(number)
	}
}

func (m *Module) migrate(t testing.TB, owner, role string, steps []*pluginv1.Migration) {
	t.Helper()
	conn, err := m.Admin.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	run := func(sql string) {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	run("SET ROLE " + owner)
	run("SET search_path = " + role)
	run(fmt.Sprintf(`ALTER DEFAULT PRIVILEGES IN SCHEMA %[1]s GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %[1]s;
		ALTER DEFAULT PRIVILEGES IN SCHEMA %[1]s GRANT USAGE, SELECT ON SEQUENCES TO %[1]s`, role))
	for _, s := range steps {
		_, err := conn.Exec(t.Context(), s.GetSql())
		require.NoError(t, err, "migration %s", s.GetName())
	}
	run("RESET ROLE; RESET search_path")
}

// contractOf is the proto package of a procedure "/package.Service/Method".
func contractOf(procedure string) string {
	service, _ := split(procedure)
	if i := strings.LastIndexByte(service, '.'); i > 0 {
		return service[:i]
	}
	return ""
}

// saga reads a started saga back.
func (m *Module) saga(ctx context.Context, id string) (*pluginv1.SagaDefinition, *kernelv1.SagaInput, error) {
	var body, input []byte
	err := m.Admin.QueryRow(ctx, `SELECT d.body, s.input FROM bus.saga s JOIN bus.saga_def d USING (def, ver) WHERE s.id = $1`, id).Scan(&body, &input)
	if err != nil {
		return nil, nil, fault.New(connect.CodeNotFound, "SAGA_UNKNOWN", "no such saga").WithCause(err)
	}
	def, in := &pluginv1.SagaDefinition{}, &kernelv1.SagaInput{}
	if err := proto.Unmarshal(body, def); err != nil {
		return nil, nil, err
	}
	return def, in, proto.Unmarshal(input, in)
}

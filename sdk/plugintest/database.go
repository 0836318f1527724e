package plugintest

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
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

// laid are the templates of modules by what they describe of themselves: a
// package's tests lay a module's schema down once and copy it.
var laid sync.Map // string of a DescribeResponse -> *pgtest.Template

// database gives the module a schema, a role, its migrations and its grants,
// as the kernel does.
func (m *Module) database(t testing.TB, d *pluginv1.DescribeResponse) *pluginv1.Database {
	t.Helper()
	ctx := t.Context()
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	require.NoError(t, err)
	l := &layer{manifest: d.GetManifest(), sagas: d.GetSagas(), migrations: d.GetMigrations()}
	l.role = roleOf(l.manifest)
	l.owner = "m_" + strings.TrimPrefix(l.role, "p_")
	own, _ := laid.LoadOrStore(string(key), pgtest.NewTemplateFrom(template, l.lay))
	db := pgtest.New(t, own.(*pgtest.Template))
	pool, err := pgxpool.New(ctx, db.URL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	m.Admin = pool

	// What belongs to a database rather than lies in it is not copied.
	_, err = pool.Exec(ctx, fmt.Sprintf(`REVOKE ALL ON DATABASE %[1]s FROM PUBLIC; GRANT CONNECT ON DATABASE %[1]s TO %[2]s;
		ALTER ROLE %[2]s IN DATABASE %[1]s SET search_path = %[2]s`, db.Name, l.role))
	require.NoError(t, err)
	rows, err := pool.Query(ctx, "SELECT split_part(name, '/', 2), id FROM bus.subscription")
	require.NoError(t, err)
	var sub string
	var number int32
	_, err = pgx.ForEachRow(rows, []any{&sub, &number}, func() error {
		m.subs[sub] = number
		return nil
	})
	require.NoError(t, err)

	url := db.URLFor(l.role, rolePassword)
	m.DB, err = store.Open(store.Config{URL: url, Plugin: m.manifest.GetName(), Node: "test", MaxConnections: 4})
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.DB.Close() })
	return &pluginv1.Database{Url: url, Schema: l.role, MaxConnections: 8, Subscriptions: m.subs}
}

// roleOf is the role that a module has, and its schema's name.
func roleOf(m *pluginv1.Manifest) string { return "p_" + strings.ReplaceAll(m.GetName(), "-", "_") }

// layer is what a module adds to the kernel's database.
type layer struct {
	manifest    *pluginv1.Manifest
	sagas       []*pluginv1.SagaDefinition
	migrations  []*pluginv1.Migration
	role, owner string
}

// lay fills the module's template.
func (l *layer) lay(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, step := range []func(context.Context, *pgx.Conn) error{l.makeRoles, l.grant, l.enter, l.subscribe, l.migrate} {
		if err := step(ctx, conn); err != nil {
			return fmt.Errorf("%s: %w", l.manifest.GetName(), err)
		}
	}
	return nil
}

func (l *layer) makeRoles(ctx context.Context, conn *pgx.Conn) error {
	roles.Lock()
	defer roles.Unlock()
	for name, attributes := range map[string]string{l.owner: "NOLOGIN", l.role: "LOGIN NOINHERIT PASSWORD '" + rolePassword + "'"} {
		if _, err := conn.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '%s') THEN CREATE ROLE %s %s; END IF; END $$`,
			name, name, attributes)); err != nil {
			return err
		}
	}
	return nil
}

func (l *layer) grant(ctx context.Context, conn *pgx.Conn) error {
	statements := []string{fmt.Sprintf(`CREATE SCHEMA %[1]s AUTHORIZATION %[2]s; GRANT USAGE ON SCHEMA %[1]s, bus, vault TO %[1]s;
		GRANT EXECUTE ON FUNCTION vault.store(text, bytea, text[], text[], bytea[]) TO %[1]s; GRANT USAGE ON SCHEMA bus TO %[2]s`, l.role, l.owner)}
	for _, f := range busdb.ModuleFunctions {
		statements = append(statements, fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, l.role))
	}
	for _, f := range busdb.OwnerFunctions {
		statements = append(statements, fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, l.owner))
	}
	_, err := conn.Exec(ctx, strings.Join(statements, ";"))
	return err
}

// enter writes down what the module may publish, serves and orchestrates.
func (l *layer) enter(ctx context.Context, conn *pgx.Conn) error {
	batch := &pgx.Batch{}
	for _, topic := range l.manifest.GetPublishes() {
		batch.Queue("INSERT INTO bus.pubgrant VALUES ($1, $2, $3)", l.role, topic, l.manifest.GetName())
	}
	for _, s := range l.manifest.GetServes() {
		batch.Queue("INSERT INTO bus.serves VALUES ($1, $2)", l.role, s.GetContract())
	}
	for _, def := range l.sagas {
		body, err := proto.Marshal(def)
		if err != nil {
			return err
		}
		contracts, undos := make([]string, len(def.GetSteps())), make([]string, len(def.GetSteps()))
		for i, s := range def.GetSteps() {
			contracts[i], undos[i] = contractOf(s.GetMethod()), contractOf(s.GetCompensation())
		}
		batch.Queue("INSERT INTO bus.saga_def VALUES ($1, $2, $3, $4, $5, $6)",
			l.manifest.GetName()+"/"+def.GetName(), def.GetVersion(), l.role, body, contracts, undos)
	}
	return conn.SendBatch(ctx, batch).Close()
}

func (l *layer) subscribe(ctx context.Context, conn *pgx.Conn) error {
	subs := l.manifest.GetSubscriptions()
	if len(l.manifest.GetSchedules()) > 0 {
		subs = append(slices.Clip(subs), &pluginv1.Subscription{Name: "schedules", Topics: []string{"entrepot.plugin.v1.Tick"}})
	}
	batch := &pgx.Batch{}
	for _, s := range subs {
		batch.Queue(`WITH s AS (INSERT INTO bus.subscription (name, plugin, role, topics) VALUES ($1, $2, $3, $4) RETURNING id)
			INSERT INTO bus.cursor (sub, lane) SELECT id, g FROM s, generate_series(0, 63) g`,
			l.manifest.GetName()+"/"+s.GetName(), l.manifest.GetName(), l.role, s.GetTopics())
	}
	return conn.SendBatch(ctx, batch).Close()
}

func (l *layer) migrate(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf(`SET ROLE %[2]s; SET search_path = %[1]s;
		ALTER DEFAULT PRIVILEGES IN SCHEMA %[1]s GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %[1]s;
		ALTER DEFAULT PRIVILEGES IN SCHEMA %[1]s GRANT USAGE, SELECT ON SEQUENCES TO %[1]s`, l.role, l.owner)); err != nil {
		return err
	}
	for _, s := range l.migrations {
		if _, err := conn.Exec(ctx, s.GetSql()); err != nil {
			return fmt.Errorf("migration %s: %w", s.GetName(), err)
		}
	}
	return nil
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

package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// template is a database with the bus, as the kernel lays it down.
var template = pgtest.NewTemplate(func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	files := busdb.Migrations()
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return err
	}
	statements := []string{"CREATE SCHEMA bus"}
	for _, n := range names {
		b, err := fs.ReadFile(files, n)
		if err != nil {
			return err
		}
		statements = append(statements, string(b))
	}
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
})

const topic = "entrepot.test.v1.Happened"

// house is one test's database with a node.
type house struct {
	t    testing.TB
	db   *pgtest.DB
	pool *pgxpool.Pool
}

func newHouse(t testing.TB) *house {
	db := pgtest.New(t, template)
	return &house{t: t, db: db, pool: newPool(t, db.URL, 12, "entrepot/bus")}
}

func newPool(t testing.TB, url string, conns int32, name string) *pgxpool.Pool {
	c, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	c.MaxConns = conns
	c.ConnConfig.RuntimeParams["application_name"] = name
	p, err := pgxpool.NewWithConfig(context.Background(), c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	_, err := h.pool.Exec(context.Background(), sql, args...)
	require.NoError(h.t, err, sql)
}

func (h *house) number(sql string, args ...any) (n int64) {
	h.t.Helper()
	require.NoError(h.t, h.pool.QueryRow(context.Background(), sql, args...).Scan(&n), sql)
	return n
}

// node joins a node that leaves when the test ends.
func (h *house) node(name string) *Node {
	n, err := Join(context.Background(), NodeConfig{Name: name, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, h.db.URL)
	}})
	require.NoError(h.t, err)
	h.background(n.Run)
	return n
}

// background runs a loop until the test ends, or the answered function is
// called.
func (h *house) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			h.t.Errorf("background: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	h.t.Cleanup(stop)
	return stop
}

// start runs a bus on a node of its own.
func (h *house) start(d Deliverer, tune ...func(*Config)) *Bus {
	b := h.prepare(d, tune...)
	h.background(b.Run)
	return b
}

func (h *house) prepare(d Deliverer, tune ...func(*Config)) *Bus {
	c := Config{Pool: h.pool, Node: h.node("n"), Deliverer: d, RetryBase: 2 * time.Millisecond, Backoff: time.Millisecond}
	for _, f := range tune {
		f(&c)
	}
	b, err := New(c)
	require.NoError(h.t, err)
	return b
}

// module is a plugin with a database: it does with its own role what the SDK
// does, and keeps what it handled in a table, in the order of its commits.
type module struct {
	t    testing.TB
	name string
	role string
	pool *pgxpool.Pool
	// handle, when set, is the handler's opinion of an event.
	handle func(*pluginv1.Event) error
	// before, when set, may answer instead of the module.
	before func(*pluginv1.DeliverRequest) error
	// done gets the batch of each committed delivery.
	done chan *pluginv1.DeliverRequest
}

func (h *house) module(name string) *module {
	role, url := h.db.Role(h.t, "p_"+name)
	for _, f := range busdb.ModuleFunctions {
		h.exec(fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, role))
	}
	h.exec(fmt.Sprintf(`GRANT USAGE ON SCHEMA bus TO %[1]s; CREATE SCHEMA %[1]s AUTHORIZATION %[1]s;
		CREATE TABLE %[1]s.effect (id bigserial PRIMARY KEY, pos bigint, topic text, key text, n text);
		ALTER TABLE %[1]s.effect OWNER TO %[1]s`, role))
	return &module{t: h.t, name: name, role: role, pool: newPool(h.t, url, 16, "entrepot/"+name), done: make(chan *pluginv1.DeliverRequest, 4096)}
}

// registration is what the module declares: one topic, published and
// subscribed.
func (m *module) registration(subs ...*pluginv1.Subscription) Registration {
	return Registration{Plugin: m.name, Role: m.role, Manifest: &pluginv1.Manifest{
		Name: m.name, Kind: pluginv1.Manifest_KIND_MODULE, Publishes: []string{topic}, Subscriptions: subs,
	}}
}

func everything() *pluginv1.Subscription {
	return &pluginv1.Subscription{Name: "all", Topics: []string{topic}}
}

func (b *Bus) register(t testing.TB, r Registration) map[string]int32 {
	t.Helper()
	ids, err := b.Register(context.Background(), r)
	require.NoError(t, err)
	return ids
}

// publish commits events of one key as the module.
func (m *module) publish(key string, payloads ...string) {
	m.t.Helper()
	topics, keys, bytes := []string{}, []string{}, [][]byte{}
	for _, p := range payloads {
		topics, keys, bytes = append(topics, topic), append(keys, key), append(bytes, []byte(p))
	}
	_, err := m.pool.Exec(context.Background(), `SELECT bus.publish($1, $2, $3)`, topics, keys, bytes)
	require.NoError(m.t, err)
}

// Deliver is the plugin's side of a delivery, as the SDK does it.
func (m *module) Deliver(ctx context.Context, plugin string, req *pluginv1.DeliverRequest) error {
	if m.before != nil {
		if err := m.before(req); err != nil {
			return err
		}
	}
	failed, broken := 0, error(nil)
	err := pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error {
		var err error
		if req.GetParked() {
			_, err = tx.Exec(ctx, `SELECT bus.ack_parked($1, $2)`, int16(req.GetSubscription()), req.GetEvents()[0].GetPosition())
		} else {
			_, err = tx.Exec(ctx, `SELECT bus.ack($1, $2, $3, $4)`, ack(req)...)
		}
		if err != nil {
			return err
		}
		for i, e := range req.GetEvents() {
			if m.handle != nil {
				if broken = m.handle(e); broken != nil {
					failed = i
					return broken
				}
			}
			if _, err := tx.Exec(ctx, `INSERT INTO `+m.role+`.effect (pos, topic, key, n) VALUES ($1, $2, $3, encode($4, 'escape'))`,
				e.GetPosition(), e.GetTopic(), e.GetKey(), e.GetPayload()); err != nil {
				return err
			}
		}
		return nil
	})
	var pe *pgconn.PgError
	switch {
	case err == nil:
		select {
		case m.done <- req:
		default:
		}
		return nil
	case errors.As(err, &pe) && pe.Code == busdb.StaleDelivery:
		return connect.NewError(connect.CodeAborted, "stale").WithRemote()
	case broken != nil:
		out := connect.NewError(connect.CodeInternal, "the handler failed")
		d, derr := connectproto.NewErrorDetail(&pluginv1.DeliveryFailure{Index: int32(failed), Message: broken.Error()})
		if derr != nil {
			return derr
		}
		return out.WithDetail(d).WithRemote()
	default:
		return connect.NewError(connect.CodeUnavailable, "the database cannot be reached").WithRemote()
	}
}

// ack are the arguments of bus.ack.
func ack(req *pluginv1.DeliverRequest) []any {
	var lanes []int16
	var expected, next []int64
	for _, l := range req.GetLanes() {
		lanes, expected, next = append(lanes, int16(l.GetLane())), append(expected, l.GetExpected()), append(next, l.GetNext())
	}
	return []any{int16(req.GetSubscription()), lanes, expected, next}
}

// effects are the payloads that the module handled, in the order of its
// commits.
func (h *house) effects(m *module) (all []string) {
	h.t.Helper()
	rows, err := h.pool.Query(context.Background(), `SELECT n FROM `+m.role+`.effect ORDER BY id`)
	require.NoError(h.t, err)
	all, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return all
}

// eventually waits for something that gives no signal.
func (h *house) eventually(what string, ok func() bool) {
	h.t.Helper()
	require.Eventually(h.t, ok, 20*time.Second, 5*time.Millisecond, what)
}

// handled waits until the module has committed n deliveries' events in all.
func (h *house) handled(m *module, n int) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d events handled", n), func() bool {
		return h.number(`SELECT count(*) FROM `+m.role+`.effect`) >= int64(n)
	})
}

// deliverFunc is a plugin without a database.
type deliverFunc func(*pluginv1.DeliverRequest) error

func (f deliverFunc) Deliver(_ context.Context, _ string, req *pluginv1.DeliverRequest) error {
	return f(req)
}

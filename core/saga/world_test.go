package saga

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/core/bus"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

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
	if _, err := conn.Exec(ctx, "CREATE SCHEMA bus"); err != nil {
		return err
	}
	for _, n := range names {
		b, err := fs.ReadFile(files, n)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, string(b)); err != nil {
			return err
		}
	}
	return nil
})

// world is a database with a module and a provider, and runners over it.
type world struct {
	t    testing.TB
	db   *pgtest.DB
	pool *pgxpool.Pool
	// role of the module that starts the sagas and does their steps.
	role   string
	module *pgxpool.Pool

	mu sync.Mutex
	// script is what happens at the next attempts of a step, by "n/do".
	script map[string][]happening
	// sent counts attempts by "n/do".
	sent map[string]int
	// asked keeps the last request by "n/do".
	asked map[string][]byte
	late  sync.WaitGroup
	nodes int
}

// happening is what becomes of one attempt. It gets the work of the step.
type happening func(ctx context.Context, w *world, info call.Info, work func(context.Context) (http.Header, error)) (http.Header, error)

func newWorld(t testing.TB) *world {
	db := pgtest.New(t, template)
	w := &world{t: t, db: db, script: map[string][]happening{}, sent: map[string]int{}, asked: map[string][]byte{}}
	w.pool = newPool(t, db.URL)
	role, url := db.Role(t, "p_shop")
	w.role, w.module = role, newPool(t, url)
	for _, f := range busdb.ModuleFunctions {
		w.exec(fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s", f, role))
	}
	w.exec(fmt.Sprintf(`GRANT USAGE ON SCHEMA bus TO %[1]s; CREATE SCHEMA shop AUTHORIZATION %[1]s;
		CREATE TABLE shop.effect (id bigserial, saga uuid, n int, dir text); ALTER TABLE shop.effect OWNER TO %[1]s;
		CREATE TABLE shop.company (key text PRIMARY KEY, saga uuid, n int, dir text, id bigserial)`, role))
	w.exec(`INSERT INTO bus.serves VALUES ($1, 'test.shop.v1')`, role)
	return w
}

func newPool(t testing.TB, url string) *pgxpool.Pool {
	c, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	c.MaxConns = 16
	p, err := pgxpool.NewWithConfig(context.Background(), c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.pool.Exec(context.Background(), sql, args...)
	require.NoError(w.t, err, sql)
}

func (w *world) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), sql, args...).Scan(&n), sql)
	return n
}

// host is a runner on a node of its own.
type host struct {
	*Runner
	// leave takes the node from the living, the runner goes on: a zombie.
	leave func()
	// kill ends it all at once, as kill -9 does.
	kill func()
}

func (w *world) host(tune ...func(*Config)) *host {
	w.mu.Lock()
	w.nodes++
	name := fmt.Sprintf("n%d", w.nodes)
	w.mu.Unlock()
	node, err := bus.Join(context.Background(), bus.NodeConfig{Name: name, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, w.db.URL)
	}})
	require.NoError(w.t, err)
	c := Config{Pool: w.pool, Node: node.ID(), Caller: w, Poll: 5 * time.Millisecond, RetryBase: time.Millisecond, DrainTimeout: time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range tune {
		f(&c)
	}
	r, err := New(c)
	require.NoError(w.t, err)
	leave := background(node.Run)
	stop := background(r.Run)
	w.eventually("it runs", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.running
	})
	h := &host{Runner: r, leave: leave, kill: sync.OnceFunc(func() { r.crash(); leave(); stop() })}
	w.t.Cleanup(h.kill)
	return h
}

func background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = run(ctx) }()
	return sync.OnceFunc(func() { cancel(); <-done })
}

// define registers a saga of the module "shop".
func (w *world) define(name string, steps ...*pluginv1.SagaStep) {
	w.t.Helper()
	def := &pluginv1.SagaDefinition{Name: name, Version: 1, Steps: steps}
	body, err := proto.Marshal(def)
	require.NoError(w.t, err)
	contracts, undos := make([]string, len(steps)), make([]string, len(steps))
	for i, s := range steps {
		contracts[i], undos[i] = contractOf(s.GetMethod()), contractOf(s.GetCompensation())
	}
	w.exec(`INSERT INTO bus.saga_def (def, ver, owner, body, contracts, undos) VALUES ($1, 1, $2, $3, $4, $5)`, "shop/"+name, w.role, body, contracts, undos)
}

// started is a saga as its starter knows it.
type started struct {
	id  uuid.UUID
	def string
	in  *kernelv1.SagaInput
}

// start starts a saga in a transaction of the module, for a node. Every step
// has a request but those left out.
func (w *world) start(node, name string, without ...string) started {
	w.t.Helper()
	s := started{id: uuid.New(), def: "shop/" + name, in: &kernelv1.SagaInput{Market: "GB", Requests: map[string][]byte{}}}
	var body []byte
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `SELECT body FROM bus.saga_def WHERE def = $1`, s.def).Scan(&body))
	def := &pluginv1.SagaDefinition{}
	require.NoError(w.t, proto.Unmarshal(body, def))
	for _, st := range def.GetSteps() {
		s.in.Requests[st.GetName()] = []byte(st.GetName())
	}
	for _, n := range without {
		delete(s.in.Requests, n)
	}
	input, err := proto.Marshal(s.in)
	require.NoError(w.t, err)
	_, err = w.module.Exec(context.Background(), `SELECT bus.saga_start($1, $2, 1, $3, $4, $5)`, s.id, s.def, s.id.String(), input, node)
	require.NoError(w.t, err)
	return s
}

// run drives a saga as its starter asks, and waits for its end.
func (w *world) run(h *host, s started) *kernelv1.RunResponse {
	w.t.Helper()
	res, err := w.service(h).Run(context.Background(), &kernelv1.RunRequest{SagaId: s.id.String(), Definition: s.def, Version: 1, Input: s.in, Wait: true})
	require.NoError(w.t, err)
	return res
}

func (w *world) service(h *host) *Service {
	return NewService(h.Runner, func(context.Context) (string, bool) { return "shop", true })
}

func place(info call.Info) string { return fmt.Sprintf("%d/%s", info.Step.N, info.Step.Direction()) }

// Unary is everything that steps are called on: the module "test.shop.v1",
// which records them as the SDK does, and the provider "test.bank.v1", which
// has no database of ours but honours keys.
func (w *world) Unary(ctx context.Context, procedure string, info call.Info, req []byte) ([]byte, http.Header, error) {
	work := func(ctx context.Context) (http.Header, error) { return w.step(ctx, info, nil) }
	if contractOf(procedure) == "test.bank.v1" {
		ctx = context.WithValue(ctx, atBank{}, true)
		work = func(ctx context.Context) (http.Header, error) { return nil, w.bank(ctx, info) }
	}
	w.mu.Lock()
	at := place(info)
	w.sent[at]++
	w.asked[at] = req
	var h happening
	if s := w.script[at]; len(s) > 0 {
		h, w.script[at] = s[0], s[1:]
	}
	w.mu.Unlock()
	if h == nil {
		h = succeeds
	}
	header, err := h(ctx, w, info, work)
	return nil, header, err
}

func succeeds(ctx context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
	return work(ctx)
}

// step is the module's transaction. A refusal, when given, is recorded
// instead of the effect.
func (w *world) step(ctx context.Context, info call.Info, refusal *connect.Error) (http.Header, error) {
	st := info.Step
	dir, recorded := int16(0), call.RecordedDone
	if st.Undo {
		dir = 1
	}
	err := pgx.BeginFunc(ctx, w.module, func(tx pgx.Tx) error {
		var isDone bool
		var status int16
		var res []byte
		var did *int16
		if err := tx.QueryRow(ctx, `SELECT done, status, res, did FROM bus.step_begin($1, $2, $3, $4)`, st.Saga, int16(st.N), dir, st.Epoch).
			Scan(&isDone, &status, &res, &did); err != nil {
			return err
		}
		switch {
		case isDone && status == busdb.StepRefused:
			recorded = call.RecordedRefused
			return nil
		case isDone:
			return nil
		case refusal != nil:
			recorded = call.RecordedRefused
			b, err := proto.Marshal(fault.Status(refusal))
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `SELECT bus.step_end($1, $2, $3, 2::int2, $4, $5)`, st.Saga, int16(st.N), dir, b, st.Last)
			return err
		case did == nil || *did != busdb.StepRefused:
			if _, err := tx.Exec(ctx, `INSERT INTO shop.effect (saga, n, dir) VALUES ($1, $2, $3)`, st.Saga, st.N, st.Direction()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `SELECT bus.step_end($1, $2, $3, 1::int2, '', $4)`, st.Saga, int16(st.N), dir, st.Last)
		return err
	})
	var pe *pgconn.PgError
	switch {
	case errors.As(err, &pe) && strings.HasPrefix(pe.Code, "BU00"):
		return nil, fault.New(connect.CodeAborted, fault.ReasonStaleSaga, "another driver has this saga").WithRemote()
	case err != nil:
		return nil, connect.NewError(connect.CodeUnavailable, "the database cannot be reached").WithRemote()
	case recorded == call.RecordedRefused:
		if refusal == nil {
			refusal = fault.New(connect.CodeFailedPrecondition, fault.ReasonUndone, "undone before it was done")
		}
		return http.Header{call.HeaderRecorded: {recorded}}, refusal.WithRemote()
	}
	return http.Header{call.HeaderRecorded: {recorded}}, nil
}

// bank does a step once by its key; what was undone cannot be done any more.
func (w *world) bank(ctx context.Context, info call.Info) error {
	st := info.Step
	_, err := w.pool.Exec(ctx, `INSERT INTO shop.company (key, saga, n, dir) SELECT $1, $2, $3::int, $4::text
		 WHERE $4 = 'undo' OR NOT EXISTS (SELECT 1 FROM shop.company c WHERE c.saga = $2 AND c.n = $3 AND c.dir = 'undo') ON CONFLICT DO NOTHING`,
		st.Key(), st.Saga, st.N, st.Direction())
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, "the bank does not answer").WithRemote()
	}
	return nil
}

// The happenings.

func refuses(ctx context.Context, w *world, info call.Info, _ func(context.Context) (http.Header, error)) (http.Header, error) {
	no := fault.New(connect.CodeFailedPrecondition, "NO", "not possible", "why", "because")
	if ctx.Value(atBank{}) != nil {
		return nil, no.WithRemote()
	}
	return w.step(ctx, info, no)
}

// atBank marks the context of a call to the provider.
type atBank struct{}

func fails(context.Context, *world, call.Info, func(context.Context) (http.Header, error)) (http.Header, error) {
	return nil, connect.NewError(connect.CodeUnavailable, "nothing happened").WithRemote()
}

func failsAfterwards(ctx context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
	_, _ = work(ctx)
	return nil, errors.New("the connection broke")
}

// arrivesLate answers that time is over, and does the work meanwhile.
func arrivesLate(_ context.Context, w *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
	w.late.Go(func() { _, _ = work(context.Background()) })
	return nil, connect.NewError(connect.CodeDeadlineExceeded, "too late").WithRemote()
}

const (
	shop = "/test.shop.v1.Service/"
	bank = "/test.bank.v1.Service/"
)

// step is one of a saga: its place is its number.
func step(n int, who string, kind pluginv1.SagaStep_Kind) *pluginv1.SagaStep {
	s := &pluginv1.SagaStep{Name: fmt.Sprintf("s%d", n), Method: who + "Do", Kind: kind, MaxAttempts: 6}
	if kind == compensatable {
		s.Compensation = who + "Undo"
	}
	return s
}

const (
	compensatable = pluginv1.SagaStep_KIND_COMPENSATABLE
	pivot         = pluginv1.SagaStep_KIND_PIVOT
	retriable     = pluginv1.SagaStep_KIND_RETRIABLE
)

// effects are how often a step was done and undone, by "n/do".
func (w *world) effects(id uuid.UUID) map[string]int {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), `SELECT n || '/' || dir FROM (SELECT saga, n, dir FROM shop.effect UNION ALL SELECT saga, n, dir FROM shop.company) x WHERE saga = $1`, id)
	require.NoError(w.t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	count := map[string]int{}
	for _, e := range all {
		count[e]++
	}
	return count
}

// eventually waits for something that gives no signal.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	require.Eventually(w.t, ok, 20*time.Second, 5*time.Millisecond, what)
}

func (w *world) status(id uuid.UUID) int64 {
	w.t.Helper()
	return w.number(`SELECT status FROM bus.saga WHERE id = $1`, id)
}

package saga

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

const (
	stateDone        = kernelv1.SagaState_SAGA_STATE_DONE
	stateCompensated = kernelv1.SagaState_SAGA_STATE_COMPENSATED
	stateStuck       = kernelv1.SagaState_SAGA_STATE_STUCK
)

func TestASagaWhoseStepsSucceedIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, compensatable), step(4, shop, pivot), step(5, shop, retriable))
	s := w.start(h.c.Node, "checkout")
	res := w.run(h, s)
	require.Equal(t, stateDone, res.GetState())
	require.Empty(t, res.GetError())
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1, "4/do": 1, "5/do": 1}, w.effects(s.id))
	require.EqualValues(t, busdb.SagaDone, w.status(s.id))
	require.Equal(t, stateDone, w.run(h, s).GetState(), "asked again, the end is the same")
	require.Equal(t, []byte("s2"), w.asked["2/do"])
}

// tracer keeps the statements of a pool.
type tracer struct {
	mu   sync.Mutex
	seen []string
}

func (c *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, d.SQL)
	return ctx
}
func (*tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was seen since the last time, but for the looks five times
// a second for ends that are waited for.
func (c *tracer) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := slices.DeleteFunc(c.seen, func(sql string) bool { return strings.Contains(sql, "s.id = ANY ($1) AND s.status >= 3") })
	c.seen = nil
	return seen
}

// traced is a pool whose statements are seen.
func traced(t *testing.T, url string) (*tracer, *pgxpool.Pool) {
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	c := &tracer{}
	conf.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return c, pool
}

// While all goes well the modules' commits are the saga's state, and the
// kernel writes nothing.
func TestTheKernelSpendsNoStatementOnASagaThatSucceeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	statements, pool := traced(t, w.db.URL)
	// It does not look for others' sagas meanwhile, but once at the start, and
	// for what is old.
	h := w.host(func(c *Config) { c.Pool, c.Poll = pool, time.Hour })
	seen := 0
	w.eventually("it has looked", func() bool { seen += len(statements.take()); return seen == 2 })
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, shop, pivot), step(4, shop, retriable))
	first := w.start(h.c.Node, "checkout")
	require.Equal(t, stateDone, w.run(h, first).GetState())
	require.Len(t, statements.take(), 1, "the definition is read once")
	second := w.start(h.c.Node, "checkout")
	require.Equal(t, stateDone, w.run(h, second).GetState())
	require.Empty(t, statements.take())
}

func TestANodeThatFindsNothingToDoWritesAndLocksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// One that another node drives, and one that waits for long.
	w.define("checkout", step(1, shop, compensatable))
	other := w.host(func(c *Config) { c.Poll = time.Hour })
	w.start(other.c.Node, "checkout")
	waiting := w.start(other.c.Node, "checkout")
	w.exec(`UPDATE bus.saga SET status = 1, lease_until = NULL, due = 'infinity' WHERE id = $1`, waiting.id)
	statements, pool := traced(t, w.db.URL)
	w.host(func(c *Config) { c.Pool = pool })
	var seen []string
	w.eventually("it has looked some times", func() bool {
		seen = append(seen, statements.take()...)
		return len(seen) > 20
	})
	for _, sql := range seen {
		// Once a minute it drops what is old.
		require.True(t, strings.HasPrefix(sql, "SELECT") || strings.HasPrefix(sql, "DELETE FROM bus.saga WHERE"), sql)
	}
}

func TestASagaThatWaitsForATimeIsTakenUpAtThatTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.define("checkout", step(1, shop, compensatable))
	s := w.start("nobody", "checkout")
	w.exec(`UPDATE bus.saga SET lease_until = NULL, due = now() + interval '300 milliseconds' WHERE id = $1`, s.id)
	// It looks at the start, and then not before an hour has passed.
	w.host(func(c *Config) { c.Poll = time.Hour })
	w.eventually("it is done", func() bool { return w.status(s.id) == busdb.SagaDone })
}

func TestARefusedStepUndoesWhatWasDoneBackwards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, compensatable), step(4, shop, pivot))
	w.script["4/do"] = []happening{refuses}
	s := w.start(h.c.Node, "checkout")
	res := w.run(h, s)
	require.Equal(t, stateCompensated, res.GetState())
	require.Equal(t, "s4", res.GetStep())
	st := &spb.Status{}
	require.NoError(t, proto.Unmarshal(res.GetError(), st))
	got := fault.FromStatus(st)
	require.Equal(t, connect.CodeFailedPrecondition, got.Code())
	require.Equal(t, "not possible", got.Message())
	info, _ := fault.Info(got)
	require.Equal(t, "NO", info.GetReason())
	require.Equal(t, "because", info.GetMetadata()["why"])
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1, "3/undo": 1, "2/undo": 1, "1/undo": 1}, w.effects(s.id))
	require.EqualValues(t, busdb.SagaCompensated, w.status(s.id))
	again, err := w.service(h).Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Wait: true})
	require.NoError(t, err)
	require.True(t, proto.Equal(res, again), "an ended saga is read from the database")
}

func TestAStepIsRepeatedUntilItsOutcomeIsKnown(t *testing.T) {
	t.Parallel()
	for name, script := range map[string][]happening{
		"nothing happened":    {fails, fails},
		"the answer was lost": {failsAfterwards},
		"it arrived late":     {arrivesLate},
		"all of them":         {fails, arrivesLate, failsAfterwards},
	} {
		for _, at := range []string{"2/do", "3/do"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				h := w.host()
				w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, compensatable), step(4, shop, pivot))
				w.script[at] = script
				s := w.start(h.c.Node, "checkout")
				require.Equal(t, stateDone, w.run(h, s).GetState())
				w.late.Wait()
				require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1, "4/do": 1}, w.effects(s.id))
			})
		}
	}
}

func TestAStepThatCannotBeDoneIsUndoneAsUnknown(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3} {
		w := newWorld(t)
		h := w.host()
		w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, compensatable), step(4, shop, pivot))
		at := map[int]string{2: "2/do", 3: "3/do"}[n]
		w.script[at] = []happening{failsAfterwards, fails, fails, fails, fails, fails}
		s := w.start(h.c.Node, "checkout")
		require.Equal(t, stateCompensated, w.run(h, s).GetState())
		require.Equal(t, 6, w.sent[at], "max_attempts")
		got := w.effects(s.id)
		require.Equal(t, 1, got[at])
		require.Equal(t, 1, got[at[:2]+"undo"], "it had happened, and is undone")
	}
}

// Undo before do leaves a tombstone: the step that arrives later finds itself
// refused.
func TestAStepThatArrivesAfterItsUndoDoesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, shop, pivot))
	var late func() (http.Header, error)
	never := func(_ context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
		late = func() (http.Header, error) { return work(context.Background()) }
		return nil, connect.NewError(connect.CodeDeadlineExceeded, "too late").WithRemote()
	}
	w.script["2/do"] = []happening{never, fails, fails, fails, fails, fails}
	// The saga is held open at the undo of the first step.
	gate := make(chan struct{})
	w.script["1/undo"] = []happening{func(ctx context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
		header, err := late()
		require.Error(t, err)
		require.Equal(t, call.RecordedRefused, header.Get(call.HeaderRecorded))
		close(gate)
		return work(ctx)
	}}
	s := w.start(h.c.Node, "checkout")
	require.Equal(t, stateCompensated, w.run(h, s).GetState())
	<-gate
	require.Equal(t, map[string]int{"1/do": 1, "1/undo": 1}, w.effects(s.id))
}

func TestAfterThePivotASagaOnlyGoesForwardOrIsStuckUntilTheOperatorResumesIt(t *testing.T) {
	t.Parallel()
	for name, script := range map[string][]happening{
		"refused":         {refuses},
		"out of attempts": {fails, fails, fails, fails, fails, fails},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := w.host()
			w.define("accept", step(1, shop, compensatable), step(2, shop, pivot), step(3, shop, retriable))
			w.script["3/do"] = script
			s := w.start(h.c.Node, "accept")
			res := w.run(h, s)
			require.Equal(t, stateStuck, res.GetState())
			require.Equal(t, "s3", res.GetStep())
			require.NotEmpty(t, res.GetError())
			require.Equal(t, map[string]int{"1/do": 1, "2/do": 1}, w.effects(s.id), "nothing is undone")

			list, err := NewOperator(h.Runner).ListSagas(t.Context(), &operatorv1.ListSagasRequest{State: stateStuck})
			require.NoError(t, err)
			require.Len(t, list.GetSagas(), 1)
			steps := list.GetSagas()[0].GetSteps()
			require.Equal(t, "s3", steps[len(steps)-1].GetName())
			require.NotEmpty(t, steps[len(steps)-1].GetError())

			_, err = NewOperator(h.Runner).ResumeSaga(t.Context(), &operatorv1.ResumeSagaRequest{SagaId: s.id.String()})
			require.NoError(t, err)
			w.eventually("it goes on", func() bool { return w.status(s.id) == busdb.SagaDone })
			require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1}, w.effects(s.id))
			_, err = NewOperator(h.Runner).ResumeSaga(t.Context(), &operatorv1.ResumeSagaRequest{SagaId: s.id.String()})
			require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err))
		})
	}
}

// A plugin that is not there is waited for; no saga is stuck for its absence.
func TestASagaThatCanOnlyGoOnWaitsForAPluginThatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(func(c *Config) { c.RetryBase = time.Microsecond })
	w.define("accept", step(1, shop, compensatable), step(2, shop, pivot), step(3, bank, retriable))
	absent := func(context.Context, *world, call.Info, func(context.Context) (http.Header, error)) (http.Header, error) {
		return nil, connect.NewError(connect.CodeUnavailable, "the service is not available now")
	}
	for range 20 {
		w.script["3/do"] = append(w.script["3/do"], absent)
	}
	s := w.start(h.c.Node, "accept")
	require.Equal(t, stateDone, w.run(h, s).GetState())
	require.Equal(t, 21, w.sent["3/do"])

	// So is one that a step calls in its turn.
	w.define("settle", step(1, shop, retriable))
	for range 20 {
		w.script["1/do"] = append(w.script["1/do"], func(context.Context, *world, call.Info, func(context.Context) (http.Header, error)) (http.Header, error) {
			return nil, fault.New(connect.CodeUnavailable, fault.ReasonPluginUnavailable, "the service is not available now").WithRemote()
		})
	}
	s = w.start(h.c.Node, "settle")
	require.Equal(t, stateDone, w.run(h, s).GetState())

	// When it is back it has all of its attempts.
	w.define("ship", step(1, shop, retriable))
	for _, h := range []happening{absent, fails} {
		for range attempts(step(1, shop, retriable)) - 1 {
			w.script["1/do"] = append(w.script["1/do"], h)
		}
	}
	s = w.start(h.c.Node, "ship")
	require.Equal(t, stateDone, w.run(h, s).GetState())

	// One that can go back does, after its attempts.
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, shop, pivot))
	for range 20 {
		w.script["2/do"] = append(w.script["2/do"], absent)
	}
	s = w.start(h.c.Node, "checkout")
	require.Equal(t, stateCompensated, w.run(h, s).GetState())
	require.Equal(t, map[string]int{"1/do": 1, "1/undo": 1}, w.effects(s.id))
}

func TestACompensationThatFailsForGoodIsStuckAndGoesOnWhenResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, shop, pivot))
	w.script["3/do"] = []happening{refuses}
	w.script["1/undo"] = []happening{fails, fails, fails, fails, fails, fails}
	s := w.start(h.c.Node, "checkout")
	require.Equal(t, stateStuck, w.run(h, s).GetState())
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "2/undo": 1}, w.effects(s.id))
	_, err := NewOperator(h.Runner).ResumeSaga(t.Context(), &operatorv1.ResumeSagaRequest{SagaId: s.id.String()})
	require.NoError(t, err)
	w.eventually("it is compensated", func() bool { return w.status(s.id) == busdb.SagaCompensated })
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "2/undo": 1, "1/undo": 1}, w.effects(s.id))
	res, err := w.service(h).Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Wait: true})
	require.NoError(t, err)
	require.Equal(t, "s3", res.GetStep(), "the refusal that turned it back is the answer")
}

func TestAStepWithoutAMethodWasDoneByTheStarterAndIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", &pluginv1.SagaStep{Name: "own", Compensation: shop + "Undo", Kind: compensatable}, step(2, shop, compensatable))
	w.script["2/do"] = []happening{refuses}
	s := w.start(h.c.Node, "checkout")
	require.Equal(t, stateCompensated, w.run(h, s).GetState())
	require.Equal(t, map[string]int{"1/undo": 1}, w.effects(s.id))
}

func TestAPluginRunsNoSagaOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable))
	s := w.start("nobody", "checkout")
	thief := NewService(h.Runner, func(context.Context) (string, bool) { return "thief", true })
	_, err := thief.Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Definition: s.def, Version: 1, Input: s.in})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	_, err = thief.Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Wait: true})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestBeyondTheBoundASagaIsRefusedWithAHintAndGoesOnLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(func(c *Config) { c.Drives = 1 })
	w.define("checkout", step(1, shop, compensatable))
	inside, gate := make(chan struct{}), make(chan struct{})
	w.script["1/do"] = []happening{func(ctx context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
		close(inside)
		<-gate
		return work(ctx)
	}}
	first, second := w.start(h.c.Node, "checkout"), w.start("dead", "checkout")
	_, err := w.service(h).Run(t.Context(), &kernelv1.RunRequest{SagaId: first.id.String(), Definition: first.def, Version: 1, Input: first.in})
	require.NoError(t, err)
	<-inside
	_, err = w.service(h).Run(t.Context(), &kernelv1.RunRequest{SagaId: second.id.String(), Definition: second.def, Version: 1, Input: second.in, Wait: true})
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	close(gate)
	w.eventually("both are done", func() bool {
		return w.number(`SELECT count(*) FROM bus.saga WHERE status = 3`) == 2
	})
}

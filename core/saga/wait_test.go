package saga

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/call"
)

// runLater waits for a saga's end in the background.
func (w *world) runLater(h *host, s started) <-chan *kernelv1.RunResponse {
	got := make(chan *kernelv1.RunResponse, 1)
	go func() {
		res, err := w.service(h).Run(context.Background(), &kernelv1.RunRequest{SagaId: s.id.String(), Definition: s.def, Version: 1, Input: s.in, Wait: true})
		if err != nil {
			w.t.Errorf("run: %v", err)
		}
		got <- res
	}()
	return got
}

func (w *world) signal(s started, name, payload string) {
	w.t.Helper()
	_, err := w.module.Exec(context.Background(), `SELECT bus.saga_signal($1, $2, $3)`, s.id, name, []byte(payload))
	require.NoError(w.t, err)
}

func TestASagaWaitsForItsSignalAndTakesThePayloadAsRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	second := step(2, shop, compensatable)
	second.WaitSignal = "received"
	w.define("return", step(1, shop, compensatable), second)
	s := w.start(h.c.Node, "return")
	end := w.runLater(h, s)
	w.eventually("it waits", func() bool { return w.status(s.id) == busdb.SagaWaiting })
	require.Zero(t, w.sent["2/do"])
	w.signal(s, "received", "two boxes")
	require.Equal(t, stateDone, (<-end).GetState())
	require.Equal(t, []byte("two boxes"), w.asked["2/do"])
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1}, w.effects(s.id))
}

func TestASignalThatCameBeforeIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	second := step(2, shop, compensatable)
	second.WaitSignal = "received"
	w.define("return", step(1, shop, compensatable), second)
	s := w.start(h.c.Node, "return")
	w.signal(s, "received", "")
	require.Equal(t, stateDone, w.run(h, s).GetState())
	require.Equal(t, []byte("s2"), w.asked["2/do"], "an empty payload leaves the step its own request")
}

func TestAStepWithoutARequestWaitsUntilTheOwnerGivesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("return", step(1, shop, compensatable), step(2, shop, compensatable), step(3, shop, pivot))
	w.script["3/do"] = []happening{refuses}
	s := w.start(h.c.Node, "return", "s2")
	end := w.runLater(h, s)
	w.eventually("it waits", func() bool { return w.status(s.id) == busdb.SagaWaiting })
	w.signal(s, "s2", "given later")
	require.Equal(t, stateCompensated, (<-end).GetState())
	require.Equal(t, []byte("given later"), w.asked["2/do"])
	require.Equal(t, []byte("given later"), w.asked["2/undo"], "its undo gets the same")
}

func TestASignalThatDoesNotComeInTimeRefusesTheStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	second := step(2, shop, compensatable)
	second.WaitSignal, second.WaitSeconds = "received", 1
	w.define("return", step(1, shop, compensatable), second)
	s := w.start(h.c.Node, "return")
	res := w.run(h, s)
	require.Equal(t, stateCompensated, res.GetState())
	require.Equal(t, "s2", res.GetStep())
	require.Equal(t, map[string]int{"1/do": 1, "1/undo": 1}, w.effects(s.id))
}

func TestAPauseIsMadeOnceThoughTheStepIsRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	second := step(2, shop, compensatable)
	second.WaitSeconds = 1
	w.define("return", step(1, shop, compensatable), second)
	w.script["2/do"] = []happening{fails, fails}
	s := w.start(h.c.Node, "return")
	began := time.Now()
	require.Equal(t, stateDone, w.run(h, s).GetState())
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	require.Equal(t, 3, w.sent["2/do"])
	require.EqualValues(t, 2, w.number(`SELECT epoch FROM bus.saga WHERE id = $1`, s.id), "put down once, for the pause")
}

func TestBeforeALongPauseASagaIsPutDownForAnyNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(func(c *Config) { c.Memory = time.Nanosecond })
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable))
	w.script["2/do"] = []happening{fails, fails}
	s := w.start(h.c.Node, "checkout")
	require.Equal(t, stateDone, w.run(h, s).GetState())
	require.EqualValues(t, 3, w.number(`SELECT epoch FROM bus.saga WHERE id = $1`, s.id))
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1}, w.effects(s.id))
}

func TestAnotherNodeTakesOverWhatADeadOneLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dying := w.host()
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, pivot))
	inside := make(chan struct{})
	w.script["2/do"] = []happening{func(ctx context.Context, _ *world, _ call.Info, _ func(context.Context) (http.Header, error)) (http.Header, error) {
		close(inside)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	s := w.start(dying.c.Node, "checkout")
	_, err := w.service(dying).Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Definition: s.def, Version: 1, Input: s.in})
	require.NoError(t, err)
	<-inside
	dying.kill()
	next := w.host()
	res, err := w.service(next).Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Wait: true})
	require.NoError(t, err)
	require.Equal(t, stateDone, res.GetState())
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1}, w.effects(s.id))
}

func TestADriverThatWasTakenOverDoesNothingMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	zombie := w.host()
	var next *host
	w.define("checkout", step(1, shop, compensatable), step(2, shop, compensatable), step(3, bank, pivot))
	taken := make(chan struct{})
	w.script["2/do"] = []happening{func(ctx context.Context, _ *world, _ call.Info, work func(context.Context) (http.Header, error)) (http.Header, error) {
		<-taken
		return work(ctx)
	}}
	s := w.start(zombie.c.Node, "checkout")
	end := w.runLater(zombie, s)
	w.eventually("the first step is done", func() bool { return w.effects(s.id)["1/do"] == 1 })
	zombie.leave()
	next = w.host()
	w.eventually("the next has it", func() bool { return w.status(s.id) == busdb.SagaDone })
	close(taken)
	require.Equal(t, stateDone, (<-end).GetState(), "its caller learns the end all the same")
	require.Equal(t, map[string]int{"1/do": 1, "2/do": 1, "3/do": 1}, w.effects(s.id))
	require.Empty(t, next.drives)
}

func TestAnUnknownSagaIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host()
	w.define("checkout", step(1, shop, compensatable))
	s := w.start(h.c.Node, "checkout")
	w.exec(`DELETE FROM bus.saga WHERE id = $1`, s.id)
	_, err := w.service(h).Run(t.Context(), &kernelv1.RunRequest{SagaId: s.id.String(), Definition: s.def, Version: 1, Input: s.in, Wait: true})
	require.ErrorContains(t, err, "there is no such saga")
	require.Empty(t, w.effects(s.id))
}

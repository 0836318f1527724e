package saga

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/call"
)

// fate is what a step, or its undo, comes to in the end.
type fate int

const (
	succeedsAtLast fate = iota
	refusedAtLast
	hopeless
)

// plan is a saga with what is to happen in it.
type plan struct {
	steps    []*pluginv1.SagaStep
	do, undo []fate
	script   map[string][]happening
}

// expected is the model: how such a saga ends, and which steps were done and
// undone then.
func (p plan) expected() (status int, effects map[string]int) {
	effects = map[string]int{}
	pivoted := false
	for i, s := range p.steps {
		n := i + 1
		if p.do[i] == succeedsAtLast {
			effects[fmt.Sprintf("%d/do", n)] = 1
			pivoted = pivoted || s.GetKind() == pivot
			continue
		}
		if pivoted || s.GetKind() == retriable || s.GetKind() == pivot && p.do[i] == hopeless {
			return busdb.SagaStuck, effects
		}
		for k := n; k >= 1; k-- {
			// What was refused is not undone; what is unknown is.
			if p.steps[k-1].GetCompensation() == "" || k == n && p.do[i] == refusedAtLast {
				continue
			}
			if p.undo[k-1] == hopeless {
				return busdb.SagaStuck, effects
			}
			// A module knows that nothing had happened; the provider is asked.
			if k < n || p.steps[k-1].GetMethod() == bank+"Do" {
				effects[fmt.Sprintf("%d/undo", k)] = 1
			}
		}
		return busdb.SagaCompensated, effects
	}
	return busdb.SagaDone, effects
}

// stage gives a saga's runners in turn: the one at work may die, or be taken
// for dead, in the middle of a step.
type stage struct {
	w *world

	mu      sync.Mutex // of a zombie that acts when the saga has ended
	current *host
	old     []*host
}

func (s *stage) replace(kill bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dead := s.current
	s.current = s.w.host()
	s.old = append(s.old, dead)
	if kill {
		// From within a call of its own: it cannot be waited for here.
		dead.crash()
		go dead.kill()
		return
	}
	go dead.leave()
}

// accidents are what may happen on the way.
func (s *stage) accidents() map[string]happening {
	replaced := func(kill, work bool) happening {
		return func(ctx context.Context, w *world, info call.Info, do func(context.Context) (http.Header, error)) (http.Header, error) {
			var header http.Header
			err := context.Canceled
			if kill && work {
				_, _ = do(context.WithoutCancel(ctx))
			}
			w.mu.Lock()
			nodes := w.nodes
			w.mu.Unlock()
			if nodes < 6 { // a bound on the runners of one saga
				s.replace(kill)
			}
			if !kill {
				header, err = do(ctx)
			}
			return header, err
		}
	}
	return map[string]happening{
		"nothing happens": fails, "the answer is lost": failsAfterwards, "it comes late": arrivesLate,
		"the driver dies before": replaced(true, false), "the driver dies after": replaced(true, true),
		"the driver is taken over": replaced(false, false),
	}
}

func drawPlan(t *rapid.T, accidents map[string]happening) plan {
	p := plan{script: map[string][]happening{}}
	names := []string{"nothing happens", "the answer is lost", "it comes late", "the driver dies before", "the driver dies after", "the driver is taken over"}
	count := rapid.IntRange(1, 5).Draw(t, "steps")
	pivotAt := rapid.IntRange(1, count+1).Draw(t, "pivot")
	script := func(at string, f fate) {
		var all []happening
		for _, a := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 2).Draw(t, at) {
			all = append(all, accidents[a])
		}
		switch f {
		case refusedAtLast:
			// An accident that does the work would make the step done.
			// Whoever asks is refused: a driver that was taken over asks too.
			all = []happening{fails, accidents["the driver dies before"]}
			for range 50 {
				all = append(all, refuses)
			}
		case hopeless:
			all = nil
			for range 100 {
				all = append(all, fails)
			}
		}
		p.script[at] = all
	}
	for n := 1; n <= count; n++ {
		kind := compensatable
		switch {
		case n == pivotAt:
			kind = pivot
		case n > pivotAt:
			kind = retriable
		}
		who := rapid.SampledFrom([]string{shop, shop, bank}).Draw(t, "who")
		s := step(n, who, kind)
		s.MaxAttempts = 8
		p.steps = append(p.steps, s)
		f := rapid.SampledFrom([]fate{succeedsAtLast, succeedsAtLast, succeedsAtLast, succeedsAtLast, refusedAtLast, hopeless}).Draw(t, "fate")
		u := rapid.SampledFrom([]fate{succeedsAtLast, succeedsAtLast, succeedsAtLast, succeedsAtLast, hopeless}).Draw(t, "undo fate")
		p.do, p.undo = append(p.do, f), append(p.undo, u)
		script(fmt.Sprintf("%d/do", n), f)
		script(fmt.Sprintf("%d/undo", n), u)
	}
	return p
}

// Whatever happens on the way, a saga ends as a small model says: done with
// every step done once, compensated with every done step undone once, or stuck
// and shown.
func TestASagaEndsAsTheModelSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		w.mu.Lock()
		w.nodes = 0
		w.mu.Unlock()
		s := &stage{w: w}
		p := drawPlan(rt, s.accidents())
		s.current = w.host()
		number++
		name := fmt.Sprintf("model-%d", number)
		w.define(name, p.steps...)
		w.mu.Lock()
		w.script = p.script
		w.mu.Unlock()
		st := w.start(s.current.c.Node, name)
		_, err := w.service(s.current).Run(t.Context(), &kernelv1.RunRequest{SagaId: st.id.String(), Definition: st.def, Version: 1, Input: st.in})
		require.NoError(rt, err)
		require.Eventually(rt, func() bool { return w.status(st.id) >= busdb.SagaDone }, 20*time.Second, 2*time.Millisecond, "the saga ends")
		w.late.Wait()
		s.mu.Lock()
		all := slices.Concat(s.old, []*host{s.current})
		s.mu.Unlock()
		for _, h := range all {
			h.kill()
		}
		status, effects := p.expected()
		require.EqualValues(rt, status, w.status(st.id), "how it ends")
		require.Equal(rt, effects, w.effects(st.id), "what was done and undone")
		require.Empty(rt, w.undoneTwiceOrBefore(st.id))
	})
}

// undoneTwiceOrBefore finds steps whose undo stands before their doing.
func (w *world) undoneTwiceOrBefore(id uuid.UUID) (n string) {
	w.t.Helper()
	err := w.pool.QueryRow(context.Background(), `SELECT coalesce(string_agg(d.n::text, ','), '') FROM shop.effect d
		JOIN shop.effect u ON u.saga = d.saga AND u.n = d.n AND u.dir = 'undo' WHERE d.saga = $1 AND d.dir = 'do' AND u.id < d.id`, id).Scan(&n)
	require.NoError(w.t, err)
	return n
}

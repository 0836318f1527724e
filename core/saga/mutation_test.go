package saga

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/call"
)

// The rules of step_begin are taken out in turn: the scenario that shows each
// must then go wrong.
func TestTheRulesOfAStepAreNeeded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rule, instead string
		scenario      func(w *world, s started) map[string]int
		want          map[string]int
	}{
		"the epoch keeps out a driver that was taken over": {
			"AND s.epoch OPERATOR(pg_catalog.=) p_epoch", "",
			func(w *world, s started) map[string]int {
				w.exec(`UPDATE bus.saga SET epoch = 2`)
				w.try(s, call.Step{N: 1, Epoch: 1})
				return w.effects(s.id)
			}, map[string]int{},
		},
		"the end of a saga ends its steps": {
			"AND s.status OPERATOR(pg_catalog.<) 3::pg_catalog.int2", "",
			func(w *world, s started) map[string]int {
				w.exec(`UPDATE bus.saga SET status = 4`)
				w.try(s, call.Step{N: 1, Epoch: 1})
				return w.effects(s.id)
			}, map[string]int{},
		},
		"an undo before the step leaves a tombstone": {
			"INSERT INTO bus.saga_step (saga, n, dir, status, role) VALUES (p_saga, p_n, 0, 2, session_user) ON CONFLICT DO NOTHING;", "did := 2;",
			func(w *world, s started) map[string]int {
				w.try(s, call.Step{N: 1, Epoch: 1, Undo: true})
				w.try(s, call.Step{N: 1, Epoch: 1})
				return w.effects(s.id)
			}, map[string]int{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.define("checkout", step(1, shop, compensatable), step(2, shop, pivot))
			require.Equal(t, c.want, c.scenario(w, w.start("n", "checkout")))
			w = newWorld(t)
			w.without("bus.step_begin", c.rule, c.instead)
			w.define("checkout", step(1, shop, compensatable), step(2, shop, pivot))
			require.NotEqual(t, c.want, c.scenario(w, w.start("n", "checkout")), "the scenario would not notice")
		})
	}
}

// try calls a step as some driver would; its answer does not matter.
func (w *world) try(s started, st call.Step) {
	st.Saga = s.id.String()
	_, _ = w.step(context.Background(), call.Info{Step: &st}, nil)
}

// without changes a function of the bus.
func (w *world) without(function, rule, instead string) {
	w.t.Helper()
	var def string
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `SELECT pg_get_functiondef($1::regproc)`, function).Scan(&def))
	require.Equal(w.t, 1, strings.Count(def, rule), "the rule stands in %s", function)
	w.exec(strings.Replace(def, rule, instead, 1))
}

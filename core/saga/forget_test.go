package saga

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/busdb"
)

// still is a runner that does nothing by itself.
func (w *world) still(keepDays int) *Runner {
	r, err := New(Config{Pool: w.pool, Node: "still", Caller: w, KeepDays: keepDays})
	require.NoError(w.t, err)
	return r
}

func TestWhatEndedWellIsKeptForAWhileAndWhatIsStuckForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.still(10)
	w.define("checkout", step(1, shop, compensatable))
	aged := func(status int, days int) started {
		s := w.start("nobody", "checkout")
		w.exec(`UPDATE bus.saga SET status = $2::int2, created_at = now() - make_interval(days => $3::int), due = 'infinity',
			ended_at = CASE WHEN $2::int2 BETWEEN 3 AND 4 THEN now() - make_interval(days => $3::int) END WHERE id = $1`, s.id, status, days)
		w.exec(`INSERT INTO bus.saga_step (saga, n, dir, role) VALUES ($1, 1, 0, 'x')`, s.id)
		return s
	}
	for status, name := range map[int]string{
		busdb.SagaRunning: "running", busdb.SagaWaiting: "waiting", busdb.SagaCompensating: "compensating",
		busdb.SagaDone: "done", busdb.SagaCompensated: "compensated", busdb.SagaStuck: "stuck",
	} {
		young, old := aged(status, 9), aged(status, 11)
		require.NoError(t, r.forgetOld(t.Context()))
		require.EqualValues(t, 1, w.number(`SELECT count(*) FROM bus.saga WHERE id = $1`, young.id), name)
		kept := int64(1)
		if status == busdb.SagaDone || status == busdb.SagaCompensated {
			kept = 0
		}
		require.Equal(t, kept, w.number(`SELECT count(*) FROM bus.saga WHERE id = $1`, old.id), name)
		require.Equal(t, kept, w.number(`SELECT count(*) FROM bus.saga_step WHERE saga = $1`, old.id), name)
	}
	// One that took long and ended yesterday is young.
	late := aged(busdb.SagaDone, 11)
	w.exec(`UPDATE bus.saga SET ended_at = now() - interval '1 day' WHERE id = $1`, late.id)
	require.NoError(t, r.forgetOld(t.Context()))
	require.EqualValues(t, busdb.SagaDone, w.status(late.id))
}

func TestHoweverManyAreOldOneLookIsBoundedAndTheNextGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.still(0)
	w.exec(`INSERT INTO bus.saga (id, def, ver, key, status, input, created_at, ended_at)
		SELECT gen_random_uuid(), 'shop/checkout', 1, n::text, 3, '', now() - interval '31 days', now() - interval '31 days' FROM generate_series(1, 2500) n`)
	n, err := r.forgetSome(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, forgetBatch, n)
	require.NoError(t, r.forgetOld(t.Context()))
	require.Zero(t, w.number(`SELECT count(*) FROM bus.saga`), "thirty days, where nothing else is said")
}

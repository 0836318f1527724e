package bus

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Each rule that the guarantees rest on is taken out in turn: the scenario
// that shows it must then go wrong, or it shows nothing. The rules whose
// removal only a storm shows are under TestNothingIsLost...: the sort of keys
// in publish (deadlocks), and "x is drawn after s is read" in sequence_batch.

// without changes a function of the bus.
func (h *house) without(function, rule, instead string) {
	h.t.Helper()
	var def string
	require.NoError(h.t, h.pool.QueryRow(context.Background(), `SELECT pg_get_functiondef($1::regproc)`, function).Scan(&def))
	require.Equal(h.t, 1, strings.Count(def, rule), "the rule stands in %s", function)
	h.exec(strings.Replace(def, rule, instead, 1))
}

func both(t *testing.T, change func(*house), scenario func(*testing.T, *house) bool) {
	t.Run("as it is", func(t *testing.T) {
		t.Parallel()
		require.True(t, scenario(t, newHouse(t)))
	})
	t.Run("without the rule", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		change(h)
		require.False(t, scenario(t, h), "the scenario would not notice")
	})
}

func (h *house) begin(m *module) pgx.Tx {
	tx, err := m.pool.Begin(context.Background())
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func publishIn(tx pgx.Tx, payload string) error {
	_, err := tx.Exec(context.Background(), `SELECT bus.publish(ARRAY[$1], ARRAY['k'], ARRAY[$2::bytea])`, topic, []byte(payload))
	return err
}

func (h *house) log() (all []string) {
	rows, err := h.pool.Query(context.Background(), `SELECT convert_from(payload, 'utf8') FROM bus.log ORDER BY pos`)
	require.NoError(h.t, err)
	all, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return all
}

func TestTheKeyLockMakesTheLogsOrderTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	both(t, func(h *house) {
		h.without("bus.publish", "PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(k, 0));", "NULL;")
	}, func(t *testing.T, h *house) bool {
		m := h.module("order")
		b := h.prepare(m)
		b.register(t, m.registration())
		first, second := h.begin(m), h.begin(m)
		require.NoError(t, publishIn(first, "published first"))
		done := make(chan error, 1)
		go func() {
			err := publishIn(second, "published second")
			if err == nil {
				err = second.Commit(context.Background())
			}
			done <- err
		}()
		// Either it commits before the first, or it waits for the first's lock.
		var commits []string
		h.eventually("the second commits, or waits", func() bool {
			select {
			case err := <-done:
				require.NoError(t, err)
				commits = []string{"published second", "published first"}
				return true
			default:
				return h.number(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
			}
		})
		require.NoError(t, first.Commit(context.Background()))
		if commits == nil {
			require.NoError(t, <-done)
			commits = []string{"published first", "published second"}
		}
		var mark lowWater
		_, _, err := b.move(t.Context(), &mark)
		require.NoError(t, err)
		return h.log()[0] == commits[0]
	})
}

func TestTheLowWaterMarkPassesNoTransactionThatIsStillOpen(t *testing.T) {
	t.Parallel()
	both(t, func(h *house) {
		h.without("bus.sequence_batch", "IF xmin >= x THEN", "IF true THEN")
	}, func(t *testing.T, h *house) bool {
		m := h.module("order")
		b := h.prepare(m)
		b.register(t, m.registration())
		open := h.begin(m)
		require.NoError(t, publishIn(open, "drawn first"))
		_, err := m.pool.Exec(t.Context(), `SELECT bus.publish(ARRAY[$1], ARRAY['another key'], ARRAY['x'::bytea])`, topic)
		require.NoError(t, err)
		var mark lowWater
		move := func() {
			_, _, err := b.move(t.Context(), &mark)
			require.NoError(t, err)
		}
		move()
		move()
		require.NoError(t, open.Commit(context.Background()))
		move()
		move()
		return h.number(`SELECT count(*) FROM bus.log`) == 2
	})
}

func TestThePositionIsMovedByOneDeliveryOnly(t *testing.T) {
	t.Parallel()
	both(t, func(h *house) {
		h.without("bus.ack", "AND c.pos OPERATOR(pg_catalog.=) m.expected", "")
	}, func(t *testing.T, h *house) bool {
		m := h.module("order")
		b := h.prepare(m)
		id := b.register(t, m.registration(everything()))["all"]
		req := &pluginv1.DeliverRequest{Subscription: id, Lanes: []*pluginv1.LaneMove{{Next: 1}}, Events: []*pluginv1.Event{{Position: 1, Topic: topic, Key: "k", Payload: []byte("a")}}}
		require.NoError(t, m.Deliver(t.Context(), "order", req))
		err := m.Deliver(t.Context(), "order", req)
		if err != nil {
			require.Equal(t, connect.CodeAborted, connect.CodeOf(err))
		}
		return len(h.effects(m)) == 1
	})
}

func TestASetAsideEventIsTakenByOneDeliveryOnly(t *testing.T) {
	t.Parallel()
	both(t, func(h *house) {
		h.without("bus.ack_parked", "IF NOT FOUND THEN", "IF false THEN")
	}, func(t *testing.T, h *house) bool {
		m := h.module("order")
		b := h.prepare(m)
		id := b.register(t, m.registration(everything()))["all"]
		h.exec(`INSERT INTO bus.parked (sub, pos, lane, key) VALUES ($1, 1, 0, 'k')`, id)
		req := &pluginv1.DeliverRequest{Subscription: id, Parked: true, Events: []*pluginv1.Event{{Position: 1, Topic: topic, Key: "k", Payload: []byte("a")}}}
		require.NoError(t, m.Deliver(t.Context(), "order", req))
		_ = m.Deliver(t.Context(), "order", req)
		return len(h.effects(m)) == 1
	})
}

// A held snapshot must not make the sequencer wait for it.
func TestALongReaderDoesNotHoldUpTheLog(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	b.register(t, m.registration())
	tx, err := h.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT count(*) FROM bus.log`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var mark lowWater
	for i := range 5 {
		m.publish("k", "x")
		moved, _, err := b.move(ctx, &mark)
		require.NoError(t, err)
		require.EqualValues(t, 1, moved)
		require.EqualValues(t, i+1, h.number(`SELECT count(*) FROM bus.log`))
	}
}

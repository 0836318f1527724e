package bus

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

func TestATimerFiresOnceAndAMovedOrCancelledOneDoesNot(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	b.register(t, m.registration())
	set := func(id, payload string, in time.Duration) {
		_, err := m.pool.Exec(t.Context(), `SELECT bus.timer_set($1, $2, 'k', $3, now() + $4::bigint * interval '1 microsecond')`, id, topic, []byte(payload), in.Microseconds())
		require.NoError(t, err)
	}
	set("due", "due", -time.Second)
	set("moved", "moved", -time.Second)
	set("moved", "moved", time.Hour)
	set("cancelled", "cancelled", -time.Second)
	_, err := m.pool.Exec(t.Context(), `SELECT bus.timer_cancel('cancelled')`)
	require.NoError(t, err)
	// The operator sees what is still to come at each moment.
	under := func(timers, due, outbox, head int64) {
		t.Helper()
		now, err := NewOperator(b, noSagas, linked).GetBus(t.Context(), &operatorv1.GetBusRequest{})
		require.NoError(t, err)
		require.Equal(t, []int64{timers, due, outbox, head}, []int64{now.GetTimers(), now.GetDueTimers(), now.GetOutbox(), now.GetHead()})
	}
	under(2, 1, 0, 0)
	n, err := b.fire(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	under(1, 0, 1, 0)
	n, err = b.fire(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	var mark lowWater
	_, _, err = b.move(t.Context(), &mark)
	require.NoError(t, err)
	under(1, 0, 0, 1)
	require.Equal(t, []string{"due"}, h.log())
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.timer`))
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.log WHERE source = 'order'`), "in its module's name")
}

func TestAScheduleTicksOncePerPeriodAndMissedPeriodsAreOne(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m, other := h.module("order"), h.module("other")
	b := h.start(m)
	r := m.registration()
	r.Manifest.Schedules = []*pluginv1.Schedule{{Name: "hourly", EverySeconds: 3600}}
	b.register(t, r)
	// Another plugin may subscribe to ticks, and gets none but its own.
	b.register(t, other.registration(sub("ticks", topicTick)))
	got := <-m.done
	require.Equal(t, "schedules", got.GetName())
	e := got.GetEvents()[0]
	tick := &pluginv1.Tick{}
	require.NoError(t, proto.Unmarshal(e.GetPayload(), tick))
	require.Equal(t, "order/hourly", tick.GetSchedule())
	require.Equal(t, "order/hourly", e.GetKey())
	require.Equal(t, "kernel", e.GetSource())

	// The kernel was away for three periods and a half.
	h.exec(`UPDATE bus.schedule SET next_due = now() - interval '3 hours 30 minutes'`)
	missed := <-m.done
	require.NoError(t, proto.Unmarshal(missed.GetEvents()[0].GetPayload(), tick))
	require.WithinDuration(t, time.Now().Add(-3*time.Hour-30*time.Minute), tick.GetDue().AsTime(), time.Minute)
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.schedule WHERE next_due BETWEEN now() + interval '29 minutes' AND now() + interval '31 minutes'`))
	require.EqualValues(t, 2, h.number(`SELECT count(*) FROM bus.log`))

	b.register(t, m.registration())
	h.exec(`UPDATE bus.schedule SET next_due = now() - interval '1 minute'`)
	n, err := b.tick(t.Context())
	require.NoError(t, err)
	require.Zero(t, n, "what is not declared any more does not tick")
}

func TestTheLogGetsItsPartitionsAheadAndLosesOldOnesThatEveryoneHasPassed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m, func(c *Config) { c.KeepDays = 30 })
	id := b.register(t, m.registration(everything()))["all"]
	partitions := func() int64 {
		return h.number(`SELECT count(*) FROM pg_inherits WHERE inhparent = 'bus.log'::regclass`)
	}
	require.NoError(t, b.partitions(t.Context()))
	require.EqualValues(t, 1, partitions())
	h.exec(`SELECT setval('bus.log_pos', 4000000)`)
	require.NoError(t, b.partitions(t.Context()))
	require.EqualValues(t, 2, partitions(), "the next one stands before it is needed")
	h.exec(`SELECT setval('bus.log_pos', 5000000)`)
	h.exec(`INSERT INTO bus.log VALUES (7, gen_random_uuid(), 'order', $1, 'k', 0, now() - interval '31 days', NULL, '')`, topic)
	h.exec(`INSERT INTO bus.parked (sub, pos, lane, key) VALUES ($1, 7, 0, 'k')`, id)
	h.exec(`UPDATE bus.cursor SET pos = 5000000`)

	require.NoError(t, b.forget(t.Context()))
	require.EqualValues(t, 2, partitions(), "a set-aside event holds its partition")
	h.exec(`DELETE FROM bus.parked`)
	h.exec(`UPDATE bus.cursor SET pos = 3 WHERE lane = 5`)
	require.NoError(t, b.forget(t.Context()))
	require.EqualValues(t, 2, partitions(), "a position that lags holds it")
	h.exec(`UPDATE bus.cursor SET pos = 5000000; UPDATE bus.log SET at = now()`)
	require.NoError(t, b.forget(t.Context()))
	require.EqualValues(t, 2, partitions(), "it is too young")
	h.exec(`UPDATE bus.log SET at = now() - interval '31 days'`)
	require.NoError(t, b.forget(t.Context()))
	require.EqualValues(t, 1, partitions())
}

package bus

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// fill puts events into the outbox as modules' commits would, without their
// cost.
func (h *house) fill(events int) {
	h.exec(`INSERT INTO bus.outbox (source, topic, key, lane, payload)
		SELECT 'order', $1, k, (hashtextextended(k, 0) & 63)::int2, convert_to(repeat('x', 200), 'utf8')
		  FROM (SELECT (g % 5000)::text AS k FROM generate_series(1, $2) g) x`, topic, events)
}

// BenchmarkSequence is the wall time of giving one event its position, in
// batches of 1,000.
func BenchmarkSequence(b *testing.B) {
	h := newHouse(b)
	bus := h.prepare(deliverFunc(func(*pluginv1.DeliverRequest) error { return nil }))
	const events = 20_000
	var mark lowWater
	moved := int64(0)
	for b.Loop() {
		b.StopTimer()
		h.fill(events)
		b.StartTimer()
		for n := int64(0); n < events; {
			m, _, err := bus.move(b.Context(), &mark)
			require.NoError(b, err)
			n += m
			moved += m
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(moved), "us/event")
}

// BenchmarkDeliver is what the dispatcher itself can hand over: the fake
// module moves its position, and does nothing else.
func BenchmarkDeliver(b *testing.B) {
	for _, effect := range []bool{false, true} {
		b.Run(fmt.Sprintf("effect=%v", effect), func(b *testing.B) {
			h := newHouse(b)
			m := h.module("order")
			var handled atomic.Int64
			d := deliverFunc(func(req *pluginv1.DeliverRequest) error {
				ctx := context.Background()
				err := pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, `SELECT bus.ack($1, $2, $3, $4)`, ack(req)...); err != nil || !effect {
						return err
					}
					at, keys := make([]int64, len(req.GetEvents())), make([]string, len(req.GetEvents()))
					for i, e := range req.GetEvents() {
						at[i], keys[i] = e.GetPosition(), e.GetKey()
					}
					_, err := tx.Exec(ctx, `INSERT INTO `+m.role+`.effect (pos, key) SELECT * FROM unnest($1::bigint[], $2::text[])`, at, keys)
					return err
				})
				if err == nil {
					handled.Add(int64(len(req.GetEvents())))
				}
				return err
			})
			bus := h.start(d)
			bus.register(b, m.registration(everything()))
			const events = 50_000
			want := int64(0)
			for b.Loop() {
				b.StopTimer()
				h.fill(events)
				want += events
				b.StartTimer()
				bus.Poke()
				h.eventually("all delivered", func() bool { return handled.Load() >= want })
			}
			b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

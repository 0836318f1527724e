package bus

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// A subscription that gathers gets the first event at once, and what comes
// shortly after a delivery with the next.
func TestWhatComesShortlyAfterADeliverySharesTheNext(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m, func(c *Config) { c.Batch = 20 })
	id := int16(b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, GatherMilliseconds: 200}))["all"])
	require.EqualValues(t, 200, h.number(`SELECT gather_ms FROM bus.subscription`))
	// Longer than any machine is slow.
	h.exec(`ALTER TABLE bus.subscription DROP CONSTRAINT subscription_gather_ms_check`)
	h.exec(`UPDATE bus.subscription SET gather_ms = 3600000, rev = rev + 1`)
	require.NoError(t, b.review(t.Context()))
	b.mu.Lock()
	s := b.subs[id]
	b.mu.Unlock()
	waits := func(n int) {
		t.Helper()
		h.eventually(fmt.Sprint(n, " lanes wait"), func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			lanes := 0
			for l := s.waiting; l != 0; l &= l - 1 {
				lanes++
			}
			return lanes == n
		})
	}
	m.publish("first", "x")
	require.Len(t, (<-m.done).GetEvents(), 1, "nobody came before: it goes at once")
	used := map[int64]bool{h.number(`SELECT lane FROM bus.log WHERE key = 'first'`): true}
	for i := 0; len(used) < 6; i++ {
		key := fmt.Sprint("k", i)
		if lane := h.number(`SELECT hashtextextended($1, 0) & 63`, key); !used[lane] {
			used[lane] = true
			m.publish(key, "x")
		}
	}
	waits(5)
	// Nobody takes what waits for what is not wanted.
	require.NoError(t, b.settle(t.Context()))
	require.EqualValues(t, 5, h.number(`SELECT count(*) FROM bus.cursor c JOIN bus.log l ON l.lane = c.lane AND l.pos > c.pos`))
	require.Empty(t, m.done)
	s.gathered() // as when the time has come
	require.Len(t, (<-m.done).GetEvents(), 5)

	// What fills half a batch has company enough: what is behind it goes on.
	for i := range 10 {
		m.publish("many", fmt.Sprint(i))
	}
	waits(1)
	h.eventually("all are in the log", func() bool { return h.number(`SELECT count(*) FROM bus.log`) == 16 })
	s.gathered()
	require.Len(t, (<-m.done).GetEvents(), 10)
	h.handled(m, 16)
	s.mu.Lock()
	require.True(t, s.due.IsZero())
	s.mu.Unlock()
	m.publish("last", "x")
	require.Len(t, (<-m.done).GetEvents(), 1)
}

func TestWhatWaitsForCompanyIsLetGoInTime(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, GatherMilliseconds: 50}))
	for i := range 5 {
		m.publish("k", fmt.Sprint(i))
		<-m.done
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4"}, h.effects(m))
}

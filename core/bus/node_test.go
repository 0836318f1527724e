package bus

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

func TestLanesAreSharedAmongTheLiveNodesThatRunThePlugin(t *testing.T) {
	mine, other, third := &Node{id: "a"}, &Node{id: "b"}, &Node{id: "c"}
	all := []peer{{"a", []string{"order"}}, {"b", []string{"order"}}, {"c", []string{"stock"}}}
	mine.peers, other.peers, third.peers = all, all, all
	share := 0
	for lane := range 64 {
		require.NotEqual(t, mine.owns("order", 1, lane), other.owns("order", 1, lane), "each lane is one node's")
		if mine.owns("order", 1, lane) {
			share++
		}
	}
	require.Greater(t, share, 16)
	require.Less(t, share, 48)
	mine.peers = all[:1]
	for lane := range 64 {
		require.True(t, mine.owns("order", 1, lane), "alone it has all")
	}
}

func TestTwoNodesShareTheWorkAndOneTakesOverWhenTheOtherGoes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	first := h.start(m)
	second := h.prepare(m)
	stop := h.background(second.Run)
	first.register(t, m.registration(everything()))
	second.register(t, m.registration(everything()))
	owned := func(b *Bus) int {
		n := 0
		b.each(func(s *subscription) {
			s.mu.Lock()
			n = bits.OnesCount64(uint64(s.owned))
			s.mu.Unlock()
		})
		return n
	}
	h.eventually("they share", func() bool { return owned(first) < 64 && owned(second) < 64 && owned(first)+owned(second) == 64 })
	for i := range 200 {
		m.publish(fmt.Sprintf("k%d", i%40), fmt.Sprint(i))
	}
	h.handled(m, 200)
	stop()
	second.Unregister("order")
	h.eventually("one has all", func() bool { return owned(first) == 64 })
	for i := range 200 {
		m.publish(fmt.Sprintf("k%d", i%40), fmt.Sprint(i))
	}
	h.handled(m, 400)
	require.EqualValues(t, 400, h.number(`SELECT count(DISTINCT pos) FROM `+m.role+`.effect`))
}

func TestANodeIsAliveAsLongAsItsConnection(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	n := h.node("kernel")
	alive := func() bool {
		return h.number(`SELECT count(*) FROM bus.live_node WHERE id = $1`, n.ID()) == 1
	}
	require.True(t, alive())
	h.exec(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7202
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	h.eventually("it makes its connection anew", alive)
}

// The bus must not need a stop of its own to be quick: what is under way is
// finished, and nothing is begun any more.
func TestAStopLetsDeliveriesUnderWayFinish(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	inside, gate := make(chan struct{}), make(chan struct{})
	m.handle = func(e *pluginv1.Event) error {
		if string(e.GetPayload()) == "a" {
			close(inside)
			<-gate
		}
		return nil
	}
	b := h.prepare(m)
	stop := h.background(b.Run)
	b.register(t, m.registration(everything()))
	m.publish("k", "a")
	<-inside
	m.publish("k", "b")
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	h.eventually("it is stopping", func() bool { return !b.begin() || func() bool { b.work.Done(); return false }() })
	close(gate)
	<-stopped
	require.Equal(t, []string{"a"}, h.effects(m))
}

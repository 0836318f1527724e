package bus

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

func TestEventsOfAKeyArriveInTheOrderOfTheirCommits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	b.register(t, m.registration(everything()))
	m.publish("k1", "a", "b", "c")
	m.publish("k1", "d")
	b.Poke()
	h.handled(m, 4)
	require.Equal(t, []string{"a", "b", "c", "d"}, h.effects(m))
	h.eventually("the outbox is empty", func() bool { return h.number(`SELECT count(*) FROM bus.outbox`) == 0 })
}

func TestANewSubscriptionBeginsWithTheOldestEvent(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m)
	_, err := b.Register(t.Context(), m.registration())
	require.NoError(t, err)
	for i := range 300 {
		m.publish(fmt.Sprintf("k%d", i%7), fmt.Sprint(i))
	}
	// The log is there before the bus has a tail.
	var mark lowWater
	moved, _, err := b.move(t.Context(), &mark)
	require.NoError(t, err)
	require.EqualValues(t, 300, moved)
	h.background(b.Run)
	b.register(t, m.registration(everything()))
	h.handled(m, 300)
	require.EqualValues(t, 300, h.number(`SELECT count(DISTINCT pos) FROM `+m.role+`.effect`))
}

func TestWhatWaitsForALaneGoesInOneBatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	var down atomic.Bool
	down.Store(true)
	m.before = func(*pluginv1.DeliverRequest) error {
		if down.Load() {
			return errors.New("not sent")
		}
		return nil
	}
	b := h.start(m)
	b.register(t, m.registration(everything()))
	for i := range 250 {
		m.publish("k", fmt.Sprint(i))
	}
	h.eventually("the log has them", func() bool { return h.number(`SELECT count(*) FROM bus.log`) == 250 })
	down.Store(false)
	b.Wake("order")
	h.handled(m, 250)
	var sizes []int
	for n := 0; n < 250; {
		req := <-m.done
		sizes = append(sizes, len(req.GetEvents()))
		n += len(req.GetEvents())
	}
	require.LessOrEqual(t, len(sizes), 20, "batches grow to what waits: %v", sizes)
}

// Only what the plugin itself answers can say something about an event.
func TestErrorsOfDeliveryAreOfFourClasses(t *testing.T) {
	remote := func(c connect.Code) error { return connect.NewError(c, "x").WithRemote() }
	for name, c := range map[string]struct {
		err  error
		want outcome
	}{
		"done":                            {nil, handled},
		"aborted":                         {remote(connect.CodeAborted), stale},
		"unavailable":                     {remote(connect.CodeUnavailable), later},
		"too much":                        {remote(connect.CodeResourceExhausted), later},
		"too slow":                        {remote(connect.CodeDeadlineExceeded), later},
		"canceled":                        {remote(connect.CodeCanceled), later},
		"no such service":                 {remote(connect.CodeUnimplemented), later},
		"handler failed":                  {remote(connect.CodeInternal), failed},
		"handler refused":                 {remote(connect.CodeFailedPrecondition), failed},
		"unknown":                         {remote(connect.CodeUnknown), failed},
		"not sent":                        {errors.New("dial"), later},
		"the kernel's own internal error": {connect.NewError(connect.CodeInternal, "x"), later},
	} {
		require.Equal(t, c.want, judge(c.err), name)
	}
}

func TestAPluginThatCannotBeReachedLosesNothingAndParksNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	var tries atomic.Int64
	m.before = func(*pluginv1.DeliverRequest) error {
		if tries.Add(1) <= 5 {
			return connect.NewError(connect.CodeUnavailable, "starting").WithRemote()
		}
		return nil
	}
	b := h.start(m)
	b.register(t, m.registration(everything()))
	m.publish("k", "a", "b")
	h.handled(m, 2)
	require.Equal(t, []string{"a", "b"}, h.effects(m))
	require.Zero(t, h.number(`SELECT count(*) FROM bus.parked`))
}

func TestAFailingEventIsSetAsideWithItsKeyAndOtherKeysFlowOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	var cured atomic.Bool
	m.handle = func(e *pluginv1.Event) error {
		if string(e.GetPayload()) == "bad" && !cured.Load() {
			return errors.New("cannot take it\x00")
		}
		return nil
	}
	b := h.start(m)
	b.register(t, m.registration(everything()))
	m.publish("k1", "a", "bad", "after-1", "after-2")
	m.publish("k2", "x", "y")
	h.handled(m, 3)
	h.eventually("the rest of the key waits behind it", func() bool { return h.number(`SELECT count(*) FROM bus.parked WHERE key = 'k1'`) == 3 })
	require.NotContains(t, strings.Join(h.effects(m), " "), "after")
	require.EqualValues(t, 1, h.number(`SELECT count(*) FROM bus.parked WHERE error = 'cannot take it?'`))
	cured.Store(true)
	h.handled(m, 6)
	var k1 []string
	for _, n := range h.effects(m) {
		if n != "x" && n != "y" {
			k1 = append(k1, n)
		}
	}
	require.Equal(t, []string{"a", "bad", "after-1", "after-2"}, k1)
	require.Zero(t, h.number(`SELECT count(*) FROM bus.parked`))
	m.publish("k1", "z")
	h.handled(m, 7)
	require.Zero(t, h.number(`SELECT count(*) FROM bus.parked`), "the key flows as before")
}

func TestAfterItsLastAttemptAnEventIsDead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		onDead pluginv1.Subscription_OnDead
		flows  bool
	}{
		{"and its key waits for the operator", pluginv1.Subscription_ON_DEAD_BLOCK_KEY, false},
		{"and its key flows on where the subscription skips", pluginv1.Subscription_ON_DEAD_SKIP, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			m := h.module("order")
			var bads atomic.Int64
			m.handle = func(e *pluginv1.Event) error {
				if string(e.GetPayload()) == "bad" {
					bads.Add(1)
					return errors.New("never")
				}
				return nil
			}
			b := h.start(m)
			b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, MaxAttempts: 3, OnDead: c.onDead}))
			m.publish("k", "bad", "after")
			h.eventually("the event is dead", func() bool { return h.number(`SELECT count(*) FROM bus.parked WHERE dead AND attempt = 3`) == 1 })
			if c.flows {
				h.handled(m, 1)
				m.publish("k", "later")
				h.handled(m, 2)
				require.Equal(t, []string{"after", "later"}, h.effects(m))
				return
			}
			m.publish("k", "later")
			h.eventually("what follows waits", func() bool { return h.number(`SELECT count(*) FROM bus.parked`) == 3 })
			require.Empty(t, h.effects(m))
			// Once in its batch, once alone, and two more times.
			require.LessOrEqual(t, bads.Load(), int64(4))
		})
	}
}

// A plugin that says it handled what it did not take is not believed twice.
func TestAPluginThatLiesAboutASetAsideEventIsCountedAsFailing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	liar := deliverFunc(func(req *pluginv1.DeliverRequest) error {
		if req.GetParked() {
			return nil
		}
		return connect.NewError(connect.CodeInternal, "no").WithRemote()
	})
	b := h.start(liar)
	b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, MaxAttempts: 4}))
	m.publish("k", "a")
	h.eventually("it is given up", func() bool { return h.number(`SELECT count(*) FROM bus.parked WHERE dead`) == 1 })
}

// Also over what was in the log before the bus looked at it for the first time.
func TestPositionsMoveOverEventsThatNobodyWants(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"of before the start": true, "that come": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			m := h.module("order")
			b := h.prepare(m)
			b.register(t, m.registration(&pluginv1.Subscription{Name: "other", Topics: []string{"entrepot.test.v1.Other"}}))
			if before {
				m.publish("k", "a", "b")
				h.exec(`SELECT bus.sequence_batch(10, 0, NULL, NULL)`)
			}
			h.background(b.Run)
			if !before {
				m.publish("k", "a", "b")
			}
			h.eventually("every lane is at the end", func() bool {
				// A position that was drawn by a batch that failed stays a gap.
				return h.number(`SELECT count(*) FROM bus.log`) == 2 && h.number(`SELECT count(*) FROM bus.cursor WHERE pos = (SELECT max(pos) FROM bus.log)`) == 64
			})
			require.Empty(t, h.effects(m))
		})
	}
}

package bus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

func TestWhatWaitsInManyLanesGoesInFewDeliveries(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.prepare(m, func(c *Config) { c.InFlight = 2 })
	b.register(t, m.registration(everything()))
	for i := range 100 {
		m.publish(fmt.Sprint("k", i), "x")
	}
	h.exec(`SELECT bus.sequence_batch(1000, 0, NULL, NULL)`)
	h.background(b.Run)
	h.handled(m, 100)
	deliveries := 0
	for events := 0; events < 100; deliveries++ {
		req := <-m.done
		events += len(req.GetEvents())
		require.True(t, slices.IsSortedFunc(req.GetEvents(), func(a, b *pluginv1.Event) int { return int(a.GetPosition() - b.GetPosition()) }))
		require.True(t, slices.IsSortedFunc(req.GetLanes(), func(a, b *pluginv1.LaneMove) int { return int(a.GetLane() - b.GetLane()) }))
	}
	require.LessOrEqual(t, deliveries, 2)
}

// A lane that fails, or that another delivery won, costs the lanes that went
// with it a repetition and nothing more.
func TestOneLaneOfADeliveryHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		index func(bad int) int32
		moved bool
	}{
		"the handler names its event":         {index: func(bad int) int32 { return int32(bad) }},
		"the handler names another's":         {index: func(bad int) int32 { return int32(bad + 1) }},
		"the handler names none that is":      {index: func(int) int32 { return -7 }},
		"the position is elsewhere meanwhile": {moved: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			m := h.module("order")
			d := deliverFunc(func(req *pluginv1.DeliverRequest) error {
				bad := slices.IndexFunc(req.GetEvents(), func(e *pluginv1.Event) bool { return string(e.GetPayload()) == "bad" })
				if bad < 0 || c.moved {
					return m.Deliver(t.Context(), "order", req)
				}
				err := connect.NewError(connect.CodeInternal, "no")
				if detail, derr := connectproto.NewErrorDetail(&pluginv1.DeliveryFailure{Index: c.index(bad)}); derr == nil {
					err = err.WithDetail(detail)
				}
				return err.WithRemote()
			})
			b := h.prepare(d, func(c *Config) { c.InFlight = 1 })
			ids := b.register(t, m.registration(everything()))
			for i := range 30 {
				m.publish(fmt.Sprint("k", i), "x")
			}
			if !c.moved {
				m.publish("poison", "bad")
			}
			h.exec(`SELECT bus.sequence_batch(1000, 0, NULL, NULL)`)
			if c.moved {
				var once sync.Once
				inner := b.c.Deliverer
				b.c.Deliverer = deliverAlso{inner, func(req *pluginv1.DeliverRequest) {
					// Another node hands the first lane's events over and wins.
					once.Do(func() {
						l := req.GetLanes()[0]
						theirs := proto.CloneOf(req)
						theirs.Lanes, theirs.Events = []*pluginv1.LaneMove{l}, nil
						for _, e := range req.GetEvents() {
							if h.number(`SELECT lane FROM bus.log WHERE pos = $1`, e.GetPosition()) == int64(l.GetLane()) {
								theirs.Events = append(theirs.Events, e)
							}
						}
						require.NoError(t, m.Deliver(t.Context(), "order", theirs))
					})
				}}
			}
			h.background(b.Run)
			h.handled(m, 30)
			require.Equal(t, int64(30), h.number(`SELECT count(DISTINCT key) FROM `+m.role+`.effect`))
			if !c.moved {
				h.eventually("the bad one is set aside", func() bool { return h.number(`SELECT count(*) FROM bus.parked WHERE sub = $1`, ids["all"]) == 1 })
			}
			require.Equal(t, int64(30), h.number(`SELECT count(*) FROM `+m.role+`.effect`), "each once")
		})
	}
}

// deliverAlso does something before each delivery.
type deliverAlso struct {
	Deliverer
	before func(*pluginv1.DeliverRequest)
}

func (d deliverAlso) Deliver(ctx context.Context, plugin string, req *pluginv1.DeliverRequest) error {
	d.before(req)
	return d.Deliverer.Deliver(ctx, plugin, req)
}

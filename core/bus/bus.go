// Package bus is the kernel's side of the information bus: it gives committed
// events their positions, delivers them to each subscription lane by lane,
// sets aside what a handler cannot take and tries it again, fires timers and
// schedules, and keeps the log within bounds.
//
// The guarantees stand in the database (sdk/busdb): the order of a key's
// events is the order of their commits, and a position moves only by
// compare-and-set in the transaction that has the effect. So nothing here must
// be alone or alive for them to hold; two nodes, or one that was thought dead,
// at worst do some work twice and lose the compare-and-set.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Deliverer hands a batch of events to a plugin
// (entrepot.plugin.v1.EventService.Deliver). An error that the plugin itself
// answered is a *connect.Error with IsRemote; any other means that the
// delivery is to be tried again. Called concurrently.
type Deliverer interface {
	Deliver(ctx context.Context, plugin string, req *pluginv1.DeliverRequest) error
}

// Config is what New needs. Zero values of the optional fields are the
// defaults named with them.
type Config struct {
	// Pool connects as the kernel's role with application_name
	// "entrepot/bus". Six connections are enough: one sequences, the rest park
	// and read what lags. Required.
	Pool *pgxpool.Pool
	// Node is this process among the nodes of the database. Required.
	Node *Node
	// Deliverer reaches the plugins. Required.
	Deliverer Deliverer
	// Logger, default slog.Default().
	Logger *slog.Logger
	// Metrics, when set, gets the bus's counters.
	Metrics prometheus.Registerer

	// InFlight bounds deliveries under way for one subscription. Default 8.
	InFlight int
	// Batch bounds the events of one delivery. Default 200.
	Batch int
	// DeliverTimeout bounds one delivery. Default 30 s.
	DeliverTimeout time.Duration
	// Poll is how often the outbox is looked at without a poke while there is
	// work; idle, it grows tenfold. Default 25 ms.
	Poll time.Duration
	// Gather is how long events are gathered after a batch before the next is
	// taken. The first after a pause goes at once. Default 20 ms.
	Gather time.Duration
	// RetryBase is the pause after the first failure of an event, doubled by
	// each further one up to RetryMax; the true pause is random below it.
	// Defaults 1 s and 1 h.
	RetryBase, RetryMax time.Duration
	// Backoff is the first pause of a lane whose plugin cannot be reached,
	// doubled up to a hundredfold, which is the pause of a set-aside event
	// then. Default 50 ms.
	Backoff time.Duration
	// KeepDays drops partitions of the log older than this when every
	// subscription is past them. 0 keeps everything.
	KeepDays int
	// DrainTimeout bounds how long Run waits for deliveries under way when it
	// is stopped. Default 5 s.
	DrainTimeout time.Duration
}

func (c *Config) validate() error {
	if c.Pool == nil || c.Node == nil || c.Deliverer == nil {
		return errors.New("bus: Pool, Node and Deliverer are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&c.InFlight, 8}, {&c.Batch, 200}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.DeliverTimeout, 30 * time.Second}, {&c.Poll, 25 * time.Millisecond}, {&c.Gather, 20 * time.Millisecond}, {&c.RetryBase, time.Second},
		{&c.RetryMax, time.Hour}, {&c.Backoff, 50 * time.Millisecond}, {&c.DrainTimeout, 5 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.Batch > 1000 {
		return fmt.Errorf("bus: Batch is %d, at most 1000 fit in a delivery", c.Batch)
	}
	if c.KeepDays < 0 {
		return fmt.Errorf("bus: KeepDays is %d", c.KeepDays)
	}
	return nil
}

// Bus is the kernel's bus. Make it with New, start it with Run. Safe for
// concurrent use.
type Bus struct {
	c       Config
	log     *slog.Logger
	tail    *tail
	metrics *metrics
	// owns tells whether this node delivers a lane.
	owns func(plugin string, sub int16, lane int) bool

	poke      chan struct{} // the outbox has something
	pokeRetry chan struct{} // something was set aside, or may be tried again

	// base is the context of deliveries; it outlives Run's by DrainTimeout.
	base   context.Context
	passed atomic.Int64 // every lane with an event up to here was told of it
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	running bool
	subs    map[int16]*subscription
	byTopic map[string][]*subscription
}

// New makes a bus. Nothing runs before Run.
func New(c Config) (*Bus, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("bus: metrics: %w", err)
	}
	b := &Bus{
		c: c, log: c.Logger.With("room", "bus"), tail: newTail(), metrics: m, owns: c.Node.owns,
		poke: make(chan struct{}, 1), pokeRetry: make(chan struct{}, 1),
		subs: map[int16]*subscription{}, byTopic: map[string][]*subscription{},
	}
	b.base, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// Run works until ctx ends, then lets deliveries under way finish within
// DrainTimeout. It is called once. It returns an error only when it cannot
// start: later troubles with the database are logged and waited out.
func (b *Bus) Run(ctx context.Context) error {
	defer b.stop()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, loop := range []func(context.Context){b.sequence, b.retry, b.clock, b.housekeep} {
		g.Go(func() error { loop(gctx); return nil })
	}
	b.each(func(s *subscription) { s.pump() })
	err := g.Wait()
	b.drain()
	return err
}

// prepare makes the log ready to be written and read.
func (b *Bus) prepare(ctx context.Context) error {
	if err := b.partitions(ctx); err != nil {
		return fmt.Errorf("bus: log partitions: %w", err)
	}
	if err := b.rewind(ctx); err != nil {
		return fmt.Errorf("bus: head of the log: %w", err)
	}
	b.mu.Lock()
	b.running = true
	b.mu.Unlock()
	return nil
}

// rewind forgets all that is known of the log and of positions: what was in
// the log before is read from the database by the lanes that have not passed
// it.
func (b *Bus) rewind(ctx context.Context) error {
	var head int64
	if err := b.row(ctx, `SELECT coalesce(max(pos), 0) FROM bus.log`).Scan(&head); err != nil {
		return err
	}
	b.tail.start(head)
	b.each(func(s *subscription) {
		s.reread(everyLane)
	})
	// Told by being made to look: idle lanes may settle there, though nothing
	// more comes.
	b.passed.Store(head)
	b.each((*subscription).pump)
	return nil
}

func (b *Bus) drain() {
	b.mu.Lock()
	b.running = false
	b.mu.Unlock()
	done := make(chan struct{})
	go func() { b.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(b.c.DrainTimeout):
		b.stop()
		<-done
	}
}

// Poke tells that events were committed: they are delivered at once and not
// at the next poll. It does not block. The router calls it for the header
// Entrepot-Events.
func (b *Bus) Poke() { signal(b.poke) }

// Wake lets a plugin's lanes go on at once that rest because it could not be
// reached: it is ready again.
func (b *Bus) Wake(plugin string) {
	b.each(func(s *subscription) {
		if s.plugin == plugin {
			s.wake()
		}
	})
	signal(b.pokeRetry)
}

// Unregister stops delivering to a plugin that this node no longer runs.
// Other nodes that run it go on.
func (b *Bus) Unregister(plugin string) {
	b.mu.Lock()
	for id, s := range b.subs {
		if s.plugin == plugin {
			s.retire()
			delete(b.subs, id)
		}
	}
	b.index()
	b.mu.Unlock()
	b.c.Node.remove(plugin)
}

// index rebuilds the map from topic to subscriptions. b.mu is held.
func (b *Bus) index() {
	by := map[string][]*subscription{}
	for _, s := range b.subs {
		for t := range s.topics {
			by[t] = append(by[t], s)
		}
	}
	b.byTopic = by
}

func (b *Bus) each(fn func(*subscription)) {
	b.mu.Lock()
	all := make([]*subscription, 0, len(b.subs))
	for _, s := range b.subs {
		all = append(all, s)
	}
	b.mu.Unlock()
	for _, s := range all {
		fn(s)
	}
}

// begin counts a piece of work; false when the bus does not run.
func (b *Bus) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running {
		b.work.Add(1)
	}
	return b.running
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// trouble logs an error of a loop, not the one of a stop.
func (b *Bus) trouble(ctx context.Context, doing string, err error) {
	if ctx.Err() == nil {
		b.log.WarnContext(ctx, "bus: "+doing+" failed; trying again", "error", err)
	}
}

// Package saga runs sagas: it calls the steps that a plugin declared one
// after another, undoes them backwards when one is refused, waits for signals
// and times, and takes over what another node left.
//
// What makes it safe stands in the database (sdk/busdb). A module commits a
// step's effect with the step's record, so a step that is called again answers
// what it answered before; and each driver has an epoch that those records
// check, so one that was taken over can do nothing more. A driver may die at
// any moment. It writes nothing of its own while all goes well: the records of
// the modules are the saga's state.
package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// Caller makes a unary call with a serialised request. The headers of the
// answer are given with an error too. An error that the plugin itself answered
// is a *connect.Error with IsRemote; any other leaves open whether the call
// had an effect.
type Caller interface {
	Unary(ctx context.Context, procedure string, info call.Info, req []byte) (res []byte, header http.Header, err error)
}

// Config is what New needs. Zero values of the optional fields are the
// defaults named with them.
type Config struct {
	// Pool connects as the kernel's role with application_name
	// "entrepot/saga". Four connections are enough. Required.
	Pool *pgxpool.Pool
	// Node is the id of this kernel node (bus.Node.ID). Required.
	Node string
	// Caller reaches the steps. Required.
	Caller Caller
	// Logger, default slog.Default().
	Logger *slog.Logger
	// Metrics, when set, gets the runner's counters.
	Metrics prometheus.Registerer

	// Drives bounds the sagas that this node drives at once. Default 256.
	Drives int
	// Waiters bounds the calls of Run that wait for an end. Default 4096.
	Waiters int
	// Poll is how often the node looks for sagas to take up; one that waits
	// for a time is taken up at that time. Default 1 s.
	Poll time.Duration
	// RetryBase is the first pause before a step is tried again, doubled each
	// time up to five minutes, half of it random. Default 50 ms.
	RetryBase time.Duration
	// Memory is the longest pause that is waited out in memory; before a
	// longer one the saga is put down, for any node to take up. Default 5 s.
	Memory time.Duration
	// StepTimeout bounds one attempt of a step that does not say. Default 10 s.
	StepTimeout time.Duration
	// DrainTimeout bounds how long Run waits for steps under way when it is
	// stopped. Default 5 s.
	DrainTimeout time.Duration
	// KeepDays is how many days a saga is kept that ended done or
	// compensated. A stuck one is kept until the operator resumes it. Default
	// 30.
	KeepDays int
}

const (
	// lease is how long a saga is this node's without a word. PostgreSQL tells
	// of a node's death long before.
	lease = 15 * time.Second
	// renewAfter is the age from which a driven saga's lease is renewed, and
	// how often.
	renewAfter = 5 * time.Second
	// watchPoll is how often ends of sagas are looked for that run elsewhere.
	watchPoll = 200 * time.Millisecond
	// statement bounds one statement.
	statement = 10 * time.Second
	// maxPause bounds a pause between attempts; maxHint what a step may ask.
	maxPause = 5 * time.Minute
	maxHint  = time.Hour
)

func (c *Config) validate() error {
	if c.Pool == nil || c.Node == "" || c.Caller == nil {
		return errors.New("saga: Pool, Node and Caller are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Drives <= 0 {
		c.Drives = 256
	}
	if c.Waiters <= 0 {
		c.Waiters = 4096
	}
	if c.KeepDays <= 0 {
		c.KeepDays = 30
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Poll, time.Second}, {&c.RetryBase, 50 * time.Millisecond}, {&c.Memory, 5 * time.Second},
		{&c.StepTimeout, 10 * time.Second}, {&c.DrainTimeout, 5 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return nil
}

// Runner runs sagas. Make it with New, start it with Run. Safe for concurrent
// use.
type Runner struct {
	c       Config
	log     *slog.Logger
	metrics *metrics
	defs    definitions
	kick    chan struct{}

	// life ends when no further step is to begin; base, when steps under way
	// are to be cut off.
	life, base     context.Context
	endLife, crash context.CancelFunc
	work           sync.WaitGroup

	mu      sync.Mutex
	running bool
	drives  map[uuid.UUID]*drive
	watches map[uuid.UUID]*watch
	waiters int
}

// New makes a runner. Nothing runs before Run.
func New(c Config) (*Runner, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("saga: metrics: %w", err)
	}
	r := &Runner{
		c: c, log: c.Logger.With("room", "saga"), metrics: m, kick: make(chan struct{}, 1),
		drives: map[uuid.UUID]*drive{}, watches: map[uuid.UUID]*watch{},
	}
	r.defs = definitions{pool: c.Pool, known: map[string]*definition{}}
	r.base, r.crash = context.WithCancel(context.Background())
	r.life, r.endLife = context.WithCancel(r.base)
	return r, nil
}

// Run takes up sagas until ctx ends, then lets steps under way finish within
// DrainTimeout; what has not ended is taken up by another node. It is called
// once.
func (r *Runner) Run(ctx context.Context) error {
	defer r.crash()
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	g, gctx := errgroup.WithContext(ctx)
	for _, loop := range []struct {
		every time.Duration
		kick  chan struct{}
		do    func(context.Context) error
	}{
		{r.c.Poll, r.kick, r.takeUp}, {renewAfter, nil, r.renew}, {watchPoll, nil, r.look}, {forgetEvery, nil, r.forgetOld},
	} {
		g.Go(func() error {
			t := time.NewTicker(loop.every)
			defer t.Stop()
			// At once first: what a node before this one left waits.
			for {
				if err := loop.do(gctx); err != nil && gctx.Err() == nil {
					r.log.WarnContext(ctx, "saga: the database does not answer; trying again", "error", err)
				}
				select {
				case <-gctx.Done():
					return nil
				case <-loop.kick:
				case <-t.C:
				}
			}
		})
	}
	err := g.Wait()
	r.drain()
	return err
}

func (r *Runner) drain() {
	r.mu.Lock()
	r.running = false
	r.mu.Unlock()
	r.endLife()
	done := make(chan struct{})
	go func() { r.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(r.c.DrainTimeout):
		r.crash()
		<-done
	}
}

// errBusy: the bound on driven sagas is reached.
var errBusy = errors.New("saga: too many sagas are being driven")

// begin drives a saga unless it is driven here already.
func (r *Runner) begin(d *drive) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.drives[d.id] != nil:
		return nil
	case !r.running || len(r.drives) >= r.c.Drives:
		return errBusy
	}
	r.drives[d.id] = d
	r.work.Add(1)
	r.metrics.driven.Inc()
	go func() {
		defer r.work.Done()
		end := d.run(r.life)
		r.mu.Lock()
		delete(r.drives, d.id)
		r.mu.Unlock()
		r.metrics.driven.Dec()
		if end != nil {
			r.metrics.ends.WithLabelValues(stateName(end.state)).Inc()
			r.tell(d.id, end)
		}
	}()
	return nil
}

// driven lists the sagas that this node drives.
func (r *Runner) driven(olderThan time.Duration) (ids []uuid.UUID, epochs []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.drives {
		if time.Since(d.began) >= olderThan {
			ids, epochs = append(ids, id), append(epochs, d.epoch.Load())
		}
	}
	return ids, epochs
}

func (r *Runner) isDriven(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drives[id] != nil
}

// end is how a saga ended.
type end struct {
	state kernelv1.SagaState
	// step that was refused or failed, and its error as a google.rpc.Status.
	step   string
	status []byte
}

// errGone: there is no such saga.
var errGone = errors.New("saga: there is no such saga")

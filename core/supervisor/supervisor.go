// Package supervisor starts plugin processes, watches them, starts them again
// and stops them. go-plugin owns the handshake; everything that it leaves
// open is closed here: output is pumped, environments are allow-lists, every
// end is bounded, a crash backs off, and nothing outlives the kernel.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// ErrStopped is returned once the supervisor stops.
var ErrStopped = errors.New("the kernel stops")

// Spec is one plugin to run.
type Spec struct {
	Name string
	// SHA256 of the binary, for the operator's eyes.
	SHA256 string
	// Verify returns the path of the verified binary; it is called before each
	// start.
	Verify func() (path string, err error)
}

// Config is what a Supervisor needs. All fields are required but LogLevel and
// Log.
type Config struct {
	Plugins  []Spec
	Registry *registry.Registry
	// HostHandler serves the private socket of one process of a plugin, after
	// Prepare has let the process pass.
	HostHandler func(plugin string) http.Handler
	// Prepare compares what the plugin describes with what was granted, brings
	// its schema up to date and answers the configuration of its instances. It
	// is called before each start, within five minutes; an error keeps the
	// plugin down and is tried again, with pauses.
	Prepare func(ctx context.Context, plugin string, d *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error)
	// LogLevel is the least level that plugins log; empty means info.
	LogLevel string
	Log      *slog.Logger
}

// checkMisses is how many checks a process may leave unanswered in a row.
const checkMisses = 3

// pace is how long each part of a plugin's life may take.
type pace struct {
	// start is for the handshake, describe, prepare and check for one answer
	// each, configure for both calls of one instance.
	start, describe, prepare, configure, check time.Duration
	checkEvery                                 time.Duration
	// inflight is for calls to finish, drain for the plugin's background work,
	// kill for go-plugin's end, before force.
	inflight, drain, kill time.Duration
}

var usual = pace{
	start: 10 * time.Second, describe: 2 * time.Second, prepare: 5 * time.Minute, configure: 10 * time.Second, check: 3 * time.Second,
	checkEvery: 15 * time.Second,
	inflight:   30 * time.Second, drain: 10 * time.Second, kill: 5 * time.Second,
}

// Supervisor runs the plugins of a deployment. Safe for concurrent use.
type Supervisor struct {
	cfg        Config
	pace       pace
	units      map[string]*unit
	sockets    *sockets
	run        context.Context
	cancel     context.CancelFunc
	loops      sync.WaitGroup
	background sync.WaitGroup
}

// New makes a supervisor; Start starts the plugins.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Registry == nil || cfg.HostHandler == nil || cfg.Prepare == nil {
		return nil, errors.New("supervisor: Registry, HostHandler and Prepare are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Supervisor{cfg: cfg, pace: usual, units: make(map[string]*unit, len(cfg.Plugins))}
	s.run, s.cancel = context.WithCancel(context.Background())
	for _, spec := range cfg.Plugins {
		if s.units[spec.Name] != nil {
			return nil, fmt.Errorf("plugin %q stands twice", spec.Name)
		}
		s.units[spec.Name] = &unit{
			sup: s, spec: spec, log: cfg.Log.With("plugin", spec.Name), restart: make(chan chan error), first: make(chan struct{}),
		}
	}
	return s, nil
}

// Start starts every plugin and returns when each has had its first outcome.
// The errors of those that are not up are joined; they are tried again in the
// background all the same. It is called once; ctx bounds the waiting only.
func (s *Supervisor) Start(ctx context.Context) (err error) {
	if s.sockets, err = openSockets(); err != nil {
		return err
	}
	for _, u := range s.units {
		s.loops.Go(func() { u.run(s.run) })
	}
	var errs []error
	for name, u := range s.units {
		select {
		case <-u.first:
			if u.firstErr != nil {
				errs = append(errs, fmt.Errorf("plugin %s: %w", name, u.firstErr))
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// Restart replaces a plugin's process by a new one and returns when the new
// one serves; the old one finishes its calls. When the new one does not come
// up, the error says why and the running process stays. A plugin that is down
// or quarantined is started again at once.
func (s *Supervisor) Restart(ctx context.Context, name string) error {
	u, ok := s.units[name]
	if !ok {
		return fmt.Errorf("no plugin %q", name)
	}
	answer := make(chan error, 1)
	select {
	case u.restart <- answer:
	case <-s.run.Done():
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends every plugin: calls in flight finish, background work ends, then
// the processes, all of them together, so that a call in flight finds the
// plugins that it needs. It returns when all are gone. Callers from outside
// are to be stopped first: until the last call has left, plugins take more.
func (s *Supervisor) Stop() {
	s.cancel()
	s.loops.Wait()
	s.background.Wait()
	s.together((*process).quiesce)
	s.together(func(p *process) { p.drain("the kernel stops") })
	s.together(func(p *process) {
		p.callers.Close()
		p.finish()
	})
	for _, u := range s.units {
		u.show(registry.Stopped, "")
	}
	if s.sockets != nil {
		s.sockets.close()
	}
}

// together does a part of the end of all processes that serve, and returns
// when it is done for each.
func (s *Supervisor) together(do func(*process)) {
	var wg sync.WaitGroup
	for _, u := range s.units {
		if u.serving != nil {
			wg.Go(func() { do(u.serving) })
		}
	}
	wg.Wait()
}

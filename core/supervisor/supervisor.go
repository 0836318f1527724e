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

	"buf.build/go/protovalidate"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

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
	// HostHandler serves the private socket of one plugin's processes.
	HostHandler func(plugin string) http.Handler
	// Prepare compares what the plugin describes with what was granted, brings
	// its schema up to date and answers the configuration of its instances. It
	// is called before each start; an error keeps the plugin down.
	Prepare func(ctx context.Context, plugin string, d *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error)
	// LogLevel is the least level that plugins log; empty means info.
	LogLevel string
	Log      *slog.Logger
}

// Supervisor runs the plugins of a deployment. Safe for concurrent use.
type Supervisor struct {
	cfg        Config
	units      map[string]*unit
	cancel     context.CancelFunc
	loops      sync.WaitGroup
	background sync.WaitGroup
}

// New makes a supervisor; Start starts the plugins.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Supervisor{cfg: cfg, units: make(map[string]*unit, len(cfg.Plugins))}
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
// background all the same.
func (s *Supervisor) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	for _, u := range s.units {
		s.loops.Go(func() { u.run(run) })
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
// one serves; the old one finishes its calls. A quarantined plugin is started
// again; how that goes is shown in the registry.
func (s *Supervisor) Restart(ctx context.Context, name string) error {
	u, ok := s.units[name]
	if !ok {
		return fmt.Errorf("no plugin %q", name)
	}
	answer := make(chan error, 1)
	select {
	case u.restart <- answer:
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
// the processes. It returns when all are gone.
func (s *Supervisor) Stop() {
	if s.cancel != nil {
		s.cancel()
	}
	s.loops.Wait()
	s.background.Wait()
}

// validate holds a plugin's answer to the limits of the contract.
func validate(d *pluginv1.DescribeResponse) error {
	if d.GetManifest() == nil {
		return errors.New("no manifest")
	}
	return protovalidate.Validate(d)
}

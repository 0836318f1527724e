package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// unit is one plugin of the deployment over all its processes.
type unit struct {
	sup  *Supervisor
	spec Spec
	log  *slog.Logger

	// restart asks the loop for a new process; the answer says how it went.
	restart chan chan error
	// first is closed when the first start has an outcome, kept in firstErr.
	first    chan struct{}
	firstErr error

	mu       sync.Mutex
	current  *process
	restarts int
	schema   *registry.Schema
	describe *pluginv1.DescribeResponse
	requests []*pluginv1.ConfigureRequest
}

// run is the unit's loop: start, watch, start again. It ends with ctx, after
// the process has.
func (u *unit) run(ctx context.Context) {
	var crashes history
	firstStart := true
	for ctx.Err() == nil {
		u.show(registry.Starting, "", nil)
		p, err := u.launch(ctx)
		if firstStart {
			u.firstErr, firstStart = err, false
			close(u.first)
		}
		if err == nil {
			err = u.serve(ctx, p)
		}
		if ctx.Err() != nil {
			break
		}
		u.log.Error("plugin is down", "error", err)
		if u.down(ctx, &crashes, err) != nil {
			break
		}
		u.restarts++
	}
	if firstStart {
		u.firstErr = ctx.Err()
		close(u.first)
	}
	u.show(registry.Stopped, "", nil)
}

// down waits out a crash: backoff, or quarantine until the operator asks.
func (u *unit) down(ctx context.Context, crashes *history, cause error) error {
	wait, quarantined := crashes.add(time.Now())
	state, reason := registry.Backoff, cause.Error()
	var timer <-chan time.Time
	if quarantined {
		state = registry.Quarantined
		reason = fmt.Sprintf("crashed %d times within %s, last: %v. Mend it, then: entrepot plugin restart %s", quarantineCrashes, quarantineWindow, cause, u.spec.Name)
		u.log.Error("plugin is quarantined", "reason", reason)
	} else {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	u.show(state, reason, nil)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer:
		return nil
	case answer := <-u.restart:
		*crashes = history{}
		// The loop starts it next; the first outcome is the answer.
		answer <- nil
		return nil
	}
}

// serve makes a process the current one and watches it until it is gone or
// must go. A restart replaces it without a gap.
func (u *unit) serve(ctx context.Context, p *process) error {
	if err := u.publish(p); err != nil {
		p.stop("refused")
		return err
	}
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	misses := 0
	for {
		select {
		case <-ctx.Done():
			u.show(registry.Draining, "", p)
			p.stop("the kernel stops")
			return ctx.Err()
		case <-p.exit:
			p.stop("gone")
			return errors.New("the process ended: " + lastLine(p.child.pump.tail()))
		case answer := <-u.restart:
			next, err := u.launch(ctx)
			if err == nil {
				if err = u.publish(next); err != nil {
					next.stop("refused")
				}
			}
			answer <- err
			if err != nil {
				u.log.Error("the replacement did not start; the running process stays", "error", err)
				continue
			}
			old := p
			p, misses = next, 0
			u.restarts++
			u.sup.background.Go(func() { old.stop("replaced") })
		case <-ticker.C:
			if err := u.check(ctx, p); err != nil {
				if misses++; misses == checkMisses {
					p.stop("unhealthy")
					return fmt.Errorf("it did not answer its check %d times: %w", misses, err)
				}
				continue
			}
			misses = 0
		}
	}
}

func lastLine(s string) string {
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	if s == "" {
		return "it wrote nothing"
	}
	return s
}

// launch brings a process to where it can serve: started, described, verified
// against what the operator granted, configured, checked.
func (u *unit) launch(ctx context.Context) (_ *process, err error) {
	path, err := u.spec.Verify()
	if err != nil {
		return nil, err
	}
	p, err := spawn(ctx, path, u.sup.cfg.LogLevel, u.log, u.sup.cfg.HostHandler(u.spec.Name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.stop("start failed")
		}
	}()
	if err = u.describeAndConfigure(ctx, p); err != nil {
		return nil, err
	}
	return p, nil
}

func (u *unit) describeAndConfigure(ctx context.Context, p *process) error {
	dctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := p.life.Describe(dctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if err := validate(d); err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if d.GetManifest().GetName() != u.spec.Name {
		return fmt.Errorf("the binary is plugin %q, the deployment names it %q", d.GetManifest().GetName(), u.spec.Name)
	}
	if p.schema, err = registry.ReadSchema(d); err != nil {
		return err
	}
	p.describe = d
	cctx, cancelConfigure := context.WithTimeout(ctx, configureTimeout)
	defer cancelConfigure()
	if p.requests, err = u.sup.cfg.Prepare(cctx, u.spec.Name, d); err != nil {
		return err
	}
	for _, req := range p.requests {
		if err := configure(cctx, p, req); err != nil {
			return err
		}
	}
	return nil
}

func configure(ctx context.Context, p *process, req *pluginv1.ConfigureRequest) error {
	found, err := p.life.ValidateConfig(ctx, &pluginv1.ValidateConfigRequest{Instance: req.GetInstance(), Config: req.GetConfig()})
	if err != nil {
		return fmt.Errorf("instance %s: validate: %w", req.GetInstance(), err)
	}
	var wrong []string
	for _, d := range found.GetDiagnostics() {
		if d.GetSeverity() == pluginv1.Diagnostic_SEVERITY_ERROR {
			wrong = append(wrong, strings.TrimSpace(d.GetField()+" "+d.GetMessage()))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("instance %s: configuration: %s", req.GetInstance(), strings.Join(wrong, "; "))
	}
	if _, err := p.life.Configure(ctx, req); err != nil {
		return fmt.Errorf("instance %s: configure: %w", req.GetInstance(), err)
	}
	return nil
}

// check asks every instance how it is. An error means that the process did
// not answer; what it answers changes what is shown.
func (u *unit) check(ctx context.Context, p *process) error {
	state, reason := registry.Ready, ""
	health := make(map[string]string, len(p.requests))
	for _, req := range p.requests {
		cctx, cancel := context.WithTimeout(ctx, checkTimeout)
		res, err := p.life.Check(cctx, &pluginv1.CheckRequest{Instance: req.GetInstance()})
		cancel()
		if err != nil {
			return err
		}
		if res.GetStatus() != pluginv1.CheckResponse_STATUS_OK {
			state, reason = registry.Degraded, res.GetReason()+" "+res.GetMessage()
			health[req.GetInstance()] = reason
		}
	}
	u.put(state, reason, p, health)
	return nil
}

// publish makes a process the one that serves.
func (u *unit) publish(p *process) error {
	u.mu.Lock()
	u.current, u.schema, u.describe, u.requests = p, p.schema, p.describe, p.requests
	u.mu.Unlock()
	return u.put(registry.Ready, "", p, nil)
}

// show changes what is shown of the plugin; what it described stays known
// while no process serves it, so that calls are told "unavailable" and not
// "unknown".
func (u *unit) show(state registry.State, reason string, p *process) {
	if err := u.put(state, reason, p, nil); err != nil {
		u.log.Error("registry", "error", err)
	}
}

func (u *unit) put(state registry.State, reason string, p *process, unhealthy map[string]string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	plugin := &registry.Plugin{Name: u.spec.Name, State: state, Reason: reason, Restarts: u.restarts, SHA256: u.spec.SHA256, Describe: u.describe, Manifest: u.describe.GetManifest()}
	if p != nil && state != registry.Draining {
		plugin.Process, plugin.StartedAt = p.callers, p.started
	}
	contracts := make(map[string]bool)
	for _, c := range plugin.Manifest.GetServes() {
		contracts[c.GetContract()] = true
	}
	instances := make([]*registry.Instance, 0, len(u.requests))
	for _, req := range u.requests {
		instances = append(instances, &registry.Instance{
			Name: req.GetInstance(), Plugin: plugin, Contracts: contracts, Revision: req.GetRevision(),
			Healthy: p != nil && unhealthy[req.GetInstance()] == "", Reason: unhealthy[req.GetInstance()],
		})
	}
	return u.sup.cfg.Registry.Put(u.spec.Name, plugin, instances, u.schema)
}

const (
	backoffFirst      = 250 * time.Millisecond
	backoffMost       = 30 * time.Second
	healthyAfter      = 5 * time.Minute
	quarantineCrashes = 5
	quarantineWindow  = 10 * time.Minute
)

// history counts crashes: pauses grow from a quarter second to thirty with
// full jitter, five minutes of health forget them, and five crashes within
// ten minutes end in quarantine.
type history struct {
	crashes []time.Time
	run     int
}

func (h *history) add(now time.Time) (wait time.Duration, quarantined bool) {
	if n := len(h.crashes); n > 0 && now.Sub(h.crashes[n-1]) > healthyAfter {
		h.run = 0
	}
	h.run++
	h.crashes = append(h.crashes, now)
	recent := 0
	for _, t := range h.crashes {
		if now.Sub(t) <= quarantineWindow {
			recent++
		}
	}
	if len(h.crashes) > quarantineCrashes {
		h.crashes = h.crashes[len(h.crashes)-quarantineCrashes:]
	}
	limit := backoffMost
	if shift := h.run - 1; shift < 7 {
		limit = min(backoffMost, backoffFirst<<shift)
	}
	return time.Duration(rand.Int64N(int64(limit))) + time.Millisecond, recent >= quarantineCrashes
}

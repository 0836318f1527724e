package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/entrepot/entrepot/core/registry"
)

// unit is one plugin of the deployment over all its processes. Everything in
// it belongs to the goroutine of run, but for the channels.
type unit struct {
	sup  *Supervisor
	spec Spec
	log  *slog.Logger

	// restart asks for a new process; the answer says how it went.
	restart chan chan error
	// first is closed when the first start has an outcome, kept in firstErr.
	first    chan struct{}
	firstErr error

	restarts int
	// serving is the process that serves when the loop has ended.
	serving *process
	// last is the process that served last. What it described stays known while
	// none serves, so that calls are told "unavailable" and not "unknown".
	last *process
}

// run is the unit's loop: start, watch, start again. It ends with ctx, and
// leaves the process that serves.
func (u *unit) run(ctx context.Context) {
	var failures history
	var asked chan error // of an operator who waits for the next outcome
	for ctx.Err() == nil {
		u.show(registry.Starting, "")
		p, h, err := u.launch(ctx)
		if err == nil {
			if err = u.publish(p, h); err != nil {
				p.end()
			}
		}
		u.outcome(asked, err)
		var up time.Duration
		if err == nil {
			err = u.serve(ctx, p, h)
			up = time.Since(u.last.started)
		}
		if ctx.Err() != nil {
			break
		}
		u.log.Error("plugin is down", "error", brief(err.Error()))
		if asked, err = u.down(ctx, &failures, up, err); err != nil {
			break
		}
		u.restarts++
	}
	u.outcome(asked, ErrStopped)
}

// outcome tells how a start went to those who wait for it.
func (u *unit) outcome(asked chan error, err error) {
	select {
	case <-u.first:
	default:
		u.firstErr = err
		close(u.first)
	}
	if asked != nil {
		select {
		case asked <- err:
		default: // told already
		}
	}
}

// down waits out a failure: backoff, or quarantine until the operator asks.
func (u *unit) down(ctx context.Context, failures *history, up time.Duration, cause error) (asked chan error, err error) {
	wait, quarantined := failures.add(time.Now(), up, cause)
	var timer <-chan time.Time
	if quarantined {
		reason := fmt.Sprintf("crashed %d times within %s. Mend it, then: entrepot plugin restart %s. Last: %v", quarantineCrashes, quarantineWindow, u.spec.Name, cause)
		u.log.Error("plugin is quarantined", "reason", brief(reason))
		u.show(registry.Quarantined, reason)
	} else {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
		u.show(registry.Backoff, cause.Error())
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer:
		return nil, nil
	case asked = <-u.restart:
		*failures = history{}
		return asked, nil
	}
}

// serve watches the current process until it is gone or must go. A restart
// replaces it without a gap.
func (u *unit) serve(ctx context.Context, p *process, h health) error {
	ticker := time.NewTicker(p.pace.checkEvery)
	defer ticker.Stop()
	misses := 0
	for {
		select {
		case <-ctx.Done():
			_ = u.put(registry.Draining, "", p, p, h) // the schema is the one that is there
			u.serving = p
			return ctx.Err()
		case <-p.exit:
			p.end()
			return crash{p.epitaph()}
		case answer := <-u.restart:
			next, nextHealth, err := u.replace(ctx)
			answer <- err
			if err != nil {
				u.log.Error("the replacement is not taken; the running process stays", "error", brief(err.Error()))
				continue
			}
			old := p
			p, h, misses = next, nextHealth, 0
			u.sup.background.Go(func() { old.stop("replaced") })
		case <-ticker.C:
			now, err := p.check(ctx)
			switch {
			case err == nil:
				misses = 0
				if !now.equal(h) {
					h = now
					u.log.Info("health has changed", "ill", now.ill)
					_ = u.publish(p, h) // the schema is the one that is there
				}
			case ctx.Err() == nil && !p.gone():
				u.log.Warn("the plugin did not answer its check", "error", brief(err.Error()))
				if misses++; misses == checkMisses {
					p.end()
					return crash{fmt.Errorf("it did not answer its check %d times: %w", misses, err)}
				}
			}
		}
	}
}

// replace makes a new process the current one. The new one must be able to
// work; it may be degraded, as the old one may be for the same reason.
func (u *unit) replace(ctx context.Context) (*process, health, error) {
	p, h, err := u.launch(ctx)
	if err != nil {
		return nil, health{}, err
	}
	if h.failed != "" {
		p.end()
		return nil, health{}, fmt.Errorf("the new process fails its check: %s", h.failed)
	}
	u.restarts++
	if err := u.publish(p, h); err != nil {
		u.restarts--
		p.end()
		return nil, health{}, err
	}
	return p, h, nil
}

// publish makes a process the one that serves.
func (u *unit) publish(p *process, h health) error {
	state, reasons := registry.Ready, make([]string, 0, len(h.ill))
	for _, name := range slices.Sorted(maps.Keys(h.ill)) {
		state = registry.Degraded
		reasons = append(reasons, name+": "+h.ill[name])
	}
	if err := u.put(state, strings.Join(reasons, "; "), p, p, h); err != nil {
		return err
	}
	u.last = p
	return nil
}

// show says where the plugin is while no process serves.
func (u *unit) show(state registry.State, reason string) {
	if err := u.put(state, reason, u.last, nil, health{}); err != nil {
		u.log.Error("the registry refuses what it had", "error", err)
	}
}

// put writes the plugin as described made it, served by serving if not nil.
func (u *unit) put(state registry.State, reason string, described, serving *process, h health) error {
	plugin := &registry.Plugin{Name: u.spec.Name, State: state, Reason: brief(reason), Restarts: u.restarts, SHA256: u.spec.SHA256}
	if serving != nil {
		plugin.Process, plugin.StartedAt = serving.callers, serving.started
	}
	if described == nil {
		return u.sup.cfg.Registry.Put(u.spec.Name, plugin, nil, nil)
	}
	plugin.Describe, plugin.Manifest = described.describe, described.describe.GetManifest()
	contracts := make(map[string]bool)
	for _, c := range plugin.Manifest.GetServes() {
		contracts[c.GetContract()] = true
	}
	instances := make([]*registry.Instance, 0, len(described.requests))
	for _, req := range described.requests {
		reason, ill := h.ill[req.GetInstance()]
		instances = append(instances, &registry.Instance{
			Name: req.GetInstance(), Plugin: plugin, Contracts: contracts, Revision: req.GetRevision(),
			Healthy: serving != nil && !ill, Reason: reason,
		})
	}
	return u.sup.cfg.Registry.Put(u.spec.Name, plugin, instances, described.schema)
}

// brief bounds what a plugin can make an operator read.
func brief(s string) string {
	const most = 2000
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

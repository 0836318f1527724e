package shop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// victim is whose process is killed while a step is held.
type victim string

const (
	executor victim = "executor" // of the step
	starter  victim = "starter"  // of the saga
	kernel   victim = "kernel"
)

// death is a victim's at a gate.
type death struct {
	gate
	victim victim
}

const (
	// calm is how long nothing more may come to a gate until those that wait
	// there are dealt with, all of them at once.
	calm = 400 * time.Millisecond
	// hold bounds the wait for calm: modules give up waiting for locks after
	// five seconds.
	hold = 2500 * time.Millisecond
	// crashes from which the operator does not wait for the kernel to start a
	// plugin again.
	crashes = 2
)

// reaper kills whoever works on a step that waits at a gate: each of the deaths
// that are planned, once.
type reaper struct {
	shop  *shop.Shop
	gates *gates
	// wild, if set, has bystanders die too, one in four times.
	wild *rand.Rand
	// wanted are victims still to be killed at a gate, in their order.
	wanted map[gate][]victim
	// deaths that happened, and how often each process died.
	deaths map[death]int
	died   map[string]int
	// kernels is how many more times the kernel may die, and least at how many
	// gates at once: it takes longest to come back.
	kernels, least int
	log            func(format string, args ...any)
	// nursed are plugins that the operator is starting anew.
	nursed sync.Map
	work   sync.WaitGroup
}

// shut shuts every gate at which somebody is wanted.
func (r *reaper) shut(ctx context.Context) error {
	return r.gates.close(ctx, slices.Collect(maps.Keys(r.wanted))...)
}

// run kills until done is closed, then opens every gate.
func (r *reaper) run(ctx context.Context, done <-chan struct{}) error {
	defer r.work.Wait()
	for {
		select {
		case <-done:
			return r.gates.open(ctx, slices.Collect(maps.Keys(r.wanted))...)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if err := errors.Join(r.gates.hurry(ctx), r.nurse(ctx)); err != nil {
			return err
		}
		all, err := r.gather(ctx)
		if err == nil && len(all) > 0 {
			err = r.reap(ctx, all)
		}
		if err != nil {
			return err
		}
	}
}

// gather waits until nothing more comes to the gates.
func (r *reaper) gather(ctx context.Context) (all []held, err error) {
	since, last := time.Time{}, time.Time{}
	for {
		now, err := r.gates.waiting(ctx)
		if err != nil || len(now) == 0 {
			return nil, err
		}
		if !slices.Equal(now, all) {
			all, last = now, time.Now()
			if since.IsZero() {
				since = last
			}
		}
		if time.Since(last) > calm || time.Since(since) > hold {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// reap kills once: the kernel when nobody else is wanted of what waits, else
// every plugin that is wanted by some of it.
func (r *reaper) reap(ctx context.Context, all []held) error {
	by := map[string][]held{} // process to what it dies of
	for _, h := range all {
		switch v := r.wanted[h.gate]; {
		case len(v) == 0: // not any more
			if err := r.gates.open(ctx, h.gate); err != nil {
				return err
			}
		case v[0] == kernel:
			by["kernel"] = append(by["kernel"], h)
		case v[0] == starter:
			by[h.starter()] = append(by[h.starter()], h)
		default:
			by[h.owner] = append(by[h.owner], h)
		}
	}
	if len(by) > 1 {
		delete(by, "kernel")
	}
	if few := by["kernel"]; len(few) > 0 && len(few) < r.least {
		return r.spare(ctx, gatesOf(few)...)
	}
	var dying []held
	for _, list := range by {
		dying = append(dying, list...)
	}
	if err := r.bystander(ctx, by); err != nil {
		return err
	}
	pids, err := r.pids(ctx, by)
	if err != nil {
		return err
	}
	// What is to die after its commit must not hear of it: it stands still while
	// the commit is made.
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop %d: %w", pid, err)
		}
	}
	var commits []held
	for _, h := range dying {
		if h.moment == committed {
			commits = append(commits, h)
		}
	}
	if err := r.gates.open(ctx, gatesOf(commits)...); err != nil {
		return err
	}
	through, err := r.through(ctx, commits)
	if err != nil {
		return err
	}
	for process, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %s: %w", process, err)
		}
		r.died[process]++
		if err := r.gates.bury(ctx, process); err != nil {
			return err
		}
	}
	if err := r.gates.open(ctx, gatesOf(dying)...); err != nil {
		return err
	}
	var shut []gate
	for _, h := range dying {
		if h.moment == committed && !through[h] {
			continue // given up meanwhile: it comes again
		}
		if v := r.wanted[h.gate]; len(v) > 0 && r.deaths[death{h.gate, v[0]}] == 0 {
			r.deaths[death{h.gate, v[0]}]++
			r.wanted[h.gate] = v[1:]
		}
	}
	r.log("%s killed %s at %s", time.Now().Format("05.000"), strings.Join(sorted(pids), ", "), what(dying))
	if _, ok := pids["kernel"]; ok {
		r.kernels--
		<-r.shop.Exited()
		// It forgets who crashed.
		r.died = map[string]int{"kernel": r.died["kernel"]}
	}
	for _, h := range dying {
		if len(r.wanted[h.gate]) > 0 {
			shut = append(shut, h.gate)
		}
	}
	if err := r.gates.close(ctx, shut...); err != nil {
		return err
	}
	if _, ok := pids["kernel"]; ok {
		if r.kernels == 0 {
			if err := r.spare(ctx, slices.Collect(maps.Keys(r.wanted))...); err != nil {
				return err
			}
		}
		return r.shop.Start(ctx)
	}
	return nil
}

// reaped tells whether somebody died at a gate.
func (r *reaper) reaped(at gate) bool {
	return slices.ContainsFunc([]victim{executor, starter, kernel}, func(v victim) bool { return r.deaths[death{at, v}] > 0 })
}

// bystander adds a process to those that die, now and then.
func (r *reaper) bystander(ctx context.Context, by map[string][]held) error {
	if _, ok := by["kernel"]; ok || r.wild == nil || r.wild.IntN(4) > 0 {
		return nil
	}
	st, err := r.shop.Status(ctx)
	if all := st.GetPlugins(); err == nil {
		if p := all[r.wild.IntN(len(all))]; p.GetPid() > 0 && by[p.GetName()] == nil {
			by[p.GetName()] = []held{}
		}
	}
	return err
}

// spare lets the kernel live at some gates.
func (r *reaper) spare(ctx context.Context, at ...gate) error {
	var free []gate
	for _, one := range at {
		r.wanted[one] = slices.DeleteFunc(r.wanted[one], func(v victim) bool { return v == kernel })
		if len(r.wanted[one]) == 0 {
			free = append(free, one)
		}
	}
	return r.gates.open(ctx, free...)
}

func gatesOf(all []held) (out []gate) {
	for _, h := range all {
		out = append(out, h.gate)
	}
	return out
}

func sorted(m map[string]int) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func what(all []held) string {
	var out []string
	for _, h := range all {
		out = append(out, h.String()+"/"+h.moment.String())
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// through waits until steps that were let through are committed. What is
// missing had been given up by its module, which had waited too long.
func (r *reaper) through(ctx context.Context, all []held) (map[held]bool, error) {
	done := make(map[held]bool, len(all))
	for range 100 {
		for _, h := range all {
			ok, err := r.gates.done(ctx, h)
			if err != nil {
				return nil, err
			}
			done[h] = ok
		}
		if !slices.ContainsFunc(all, func(h held) bool { return !done[h] }) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return done, nil
}

// pids finds processes, which the kernel may just be starting.
func (r *reaper) pids(ctx context.Context, of map[string][]held) (map[string]int, error) {
	out := make(map[string]int, len(of))
	if _, ok := of["kernel"]; ok {
		return map[string]int{"kernel": r.shop.PID()}, nil
	}
	return out, shop.Until(ctx, func(ctx context.Context) (bool, error) {
		st, err := r.shop.Status(ctx)
		for _, p := range st.GetPlugins() {
			if _, ok := of[p.GetName()]; ok && p.GetPid() > 0 {
				out[p.GetName()] = int(p.GetPid())
			}
		}
		return len(out) == len(of), err
	})
}

// nurse has the operator start plugins anew that crashed often: the kernel
// waits longer each time, and after the fifth crash within ten minutes for the
// operator. The first ones it starts by itself.
func (r *reaper) nurse(ctx context.Context) error {
	st, err := r.shop.Status(ctx)
	if err != nil {
		return err
	}
	op, err := r.shop.Operator()
	if err != nil {
		return err
	}
	for _, p := range st.GetPlugins() {
		if p.GetState() != "quarantined" && (p.GetState() != "backoff" || r.died[p.GetName()] < crashes) {
			continue
		}
		if _, under := r.nursed.LoadOrStore(p.GetName(), true); under {
			continue
		}
		r.died[p.GetName()] = 0
		r.work.Go(func() {
			defer r.nursed.Delete(p.GetName())
			if _, err := operatorv1connect.NewOperatorServiceClient(op.Client()).RestartPlugin(ctx, &operatorv1.RestartPluginRequest{Plugin: p.GetName()}); err != nil {
				r.log("restart of %s: %v", p.GetName(), err) // it is looked at again
			}
		})
	}
	return nil
}

// table prints who died at which step.
func (r *reaper) table(w io.Writer, steps []step) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "saga\tstep\texecuted by\tkilled while begun\tkilled when committed")
	for _, s := range steps {
		name := s.name
		if s.undo {
			name += ".undo"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.saga, name, s.owner, r.at(gate{s, begun}), r.at(gate{s, committed}))
	}
	_ = t.Flush()
}

func (r *reaper) at(one gate) string {
	var out []string
	for _, v := range []victim{executor, starter, kernel} {
		if r.deaths[death{one, v}] > 0 {
			out = append(out, string(v))
		}
	}
	return strings.Join(out, ", ")
}

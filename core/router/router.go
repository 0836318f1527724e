// Package router brings a call to the plugin that serves it: from market to
// instance by the operator's bindings, then byte for byte to the instance's
// process. It never decodes a message; it adds headers only.
//
// A call is moved to another instance, or tried again, only when no byte of it
// has reached a plugin or when its method is NO_SIDE_EFFECTS. Whatever else
// fails may have happened, and is left to the caller to find out.
package router

import (
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// DefaultTimeout bounds a call of the kernel's own whose context has no
// deadline.
const DefaultTimeout = 30 * time.Second

// Source gives the current snapshot of what runs. *registry.Registry is one.
type Source interface {
	Snapshot() *registry.Snapshot
}

// Config is what a Router needs.
type Config struct {
	// Registry tells what runs. Required.
	Registry Source
	// Committed is told when a plugin's answer says that its call committed
	// events, so that they are delivered at once. It must not block. Default:
	// nobody is told, and the bus finds them at its next poll.
	Committed func(plugin string, events int)
	// Expected tells whether some plugin of the deployment is to serve a
	// contract: until it has described itself, calls of the contract are told
	// to come again, not that nobody serves them. Default: none is.
	Expected func(contract string) bool
}

// Router routes calls. Safe for concurrent use.
type Router struct {
	registry  Source
	table     atomic.Pointer[Table]
	current   atomic.Pointer[view]
	flights   *flights
	committed func(plugin string, events int)
	expected  func(contract string) bool
}

// New makes a router without bindings.
func New(cfg Config) *Router {
	r := &Router{registry: cfg.Registry, flights: newFlights(), committed: cfg.Committed, expected: cfg.Expected}
	if r.committed == nil {
		r.committed = func(string, int) {}
	}
	if r.expected == nil {
		r.expected = func(string) bool { return false }
	}
	r.table.Store(&Table{})
	return r
}

// SetBindings replaces the bindings for all calls that begin afterwards. To
// move a contract to a new instance without losing a call: let the registry
// show the new one, set the bindings, then take the old one away.
func (r *Router) SetBindings(t *Table) { r.table.Store(t) }

// Missing is the answer to a procedure that nothing serves now: come again
// when it is on its way up, unimplemented when it is not.
func (r *Router) Missing(procedure string) *connect.Error {
	service, _, _ := strings.Cut(strings.TrimPrefix(procedure, "/"), "/")
	if dot := strings.LastIndexByte(service, '.'); dot > 0 && r.expected(service[:dot]) && !r.described(service[:dot]) {
		return fault.Retry(Fault(connect.CodeUnavailable, ReasonPluginUnavailable, "the service is starting", "contract", service[:dot]), retryAfter)
	}
	return UnknownMethod(procedure)
}

// described tells whether a plugin has said what the contract's methods are.
// What it said is kept while its process is down.
func (r *Router) described(contract string) bool {
	for _, i := range r.Snapshot().Instances {
		if i.Contracts[contract] {
			return true
		}
	}
	return false
}

// Snapshot is what runs now.
func (r *Router) Snapshot() *registry.Snapshot { return r.registry.Snapshot() }

// InFlight returns the facts of the call with that request id, if it is
// inside of the plugin now: what the kernel knows of it, whatever the plugin
// says.
func (r *Router) InFlight(plugin, requestID string) (call.Info, bool) {
	return r.flights.find(plugin, requestID)
}

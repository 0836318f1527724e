// Package registry holds what runs now: plugins with their processes,
// instances, and the methods and schemas that they described. Readers take an
// immutable snapshot; writers make the next one and swap it in.
package registry

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// State is where a plugin is in its life.
type State string

// The states of a plugin, in the words of the operator.
const (
	Starting    State = "starting"
	Ready       State = "ready"
	Degraded    State = "degraded"
	Draining    State = "draining"
	Stopped     State = "stopped"
	Backoff     State = "backoff"
	Quarantined State = "quarantined"
)

// Snapshot is what runs at one moment. It is never changed.
type Snapshot struct {
	// Revision rises with each snapshot.
	Revision  int64
	Plugins   map[string]*Plugin
	Methods   map[string]*Method
	Instances map[string]*Instance
	// Files has every schema that a plugin described.
	Files *protoregistry.Files
}

// Plugin is one plugin of the deployment.
type Plugin struct {
	Name     string
	Manifest *pluginv1.Manifest
	Describe *pluginv1.DescribeResponse
	// Process serves it now; nil while none does.
	Process *Process
	State   State
	// Reason says why it is not ready, for operators.
	Reason    string
	Restarts  int
	SHA256    string
	StartedAt time.Time

	schema *Schema
}

// Instance is one configured use of a plugin.
type Instance struct {
	Name   string
	Plugin *Plugin
	// Contracts that it serves.
	Contracts map[string]bool
	// Healthy is false while its check fails.
	Healthy  bool
	Revision int64
	Reason   string
}

// Has tells whether the instance declares a capability of a contract. Every
// one has the empty capability.
func (in *Instance) Has(contract, capability string) bool {
	return capability == "" || slices.ContainsFunc(in.Plugin.Manifest.GetServes(), func(s *pluginv1.ServedContract) bool {
		return s.GetContract() == contract && slices.Contains(s.GetCapabilities(), capability)
	})
}

// Method is one method that some plugin serves.
type Method struct {
	// Procedure is "/package.Service/Method", Contract its package.
	Procedure, Contract string
	Desc                protoreflect.MethodDescriptor
	// Access is nil for a method that declares none: refused to everybody.
	Access *optionsv1.Access
	// Capability is what an instance must declare to be called by it; empty
	// for a method that every instance has.
	Capability                                string
	ServerStream, ClientStream, NoSideEffects bool
}

// Process is a running plugin process as callers use it.
type Process struct {
	PID int
	// HTTP1 carries single calls, HTTP2 streams and gRPC. Requests are made
	// for https://localhost.
	HTTP1, HTTP2 http.RoundTripper

	mu       sync.Mutex
	inflight int
	closed   bool
	idle     []chan struct{} // those who wait for the last call to leave
}

// NewProcess makes a process that takes calls.
func NewProcess(pid int, http1, http2 http.RoundTripper) *Process {
	return &Process{PID: pid, HTTP1: http1, HTTP2: http2}
}

// Acquire counts a call in; it is refused once the process is closed. The
// caller calls release exactly once.
func (p *Process) Acquire() (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false
	}
	p.inflight++
	return p.leave, true
}

func (p *Process) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inflight--; p.inflight == 0 {
		for _, c := range p.idle {
			close(c)
		}
		p.idle = nil
	}
}

// Idle returns a channel that is closed once no call is inside. Calls may come
// in all the while, and afterwards, unless the process is closed.
func (p *Process) Idle() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan struct{})
	if p.inflight == 0 {
		close(c)
	} else {
		p.idle = append(p.idle, c)
	}
	return c
}

// Close lets no further call in and returns a channel that is closed when the
// last one has left.
func (p *Process) Close() <-chan struct{} {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.Idle()
}

// Registry holds the current snapshot. Safe for concurrent use.
type Registry struct {
	mu      sync.Mutex
	current atomic.Pointer[Snapshot]
	watch   []func(*Snapshot)
}

// New makes an empty registry.
func New() *Registry {
	r := &Registry{}
	r.current.Store(&Snapshot{
		Plugins: map[string]*Plugin{}, Methods: map[string]*Method{}, Instances: map[string]*Instance{}, Files: new(protoregistry.Files),
	})
	return r
}

// Snapshot returns the current snapshot.
func (r *Registry) Snapshot() *Snapshot { return r.current.Load() }

// Watch calls fn with each new snapshot, in order, from the writer's
// goroutine; fn is quick and does not write.
func (r *Registry) Watch(fn func(*Snapshot)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = append(r.watch, fn)
}

// Put makes plugin the current one of its name, with its instances and the
// methods of schema; nil removes the plugin of that name. It is refused, and
// nothing changes, when another plugin has an instance of the same name or
// describes a schema that does not agree.
func (r *Registry) Put(name string, plugin *Plugin, instances []*Instance, schema *Schema) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.current.Load()
	next := &Snapshot{Revision: old.Revision + 1, Plugins: maps.Clone(old.Plugins), Instances: maps.Clone(old.Instances)}
	delete(next.Plugins, name)
	maps.DeleteFunc(next.Instances, func(_ string, in *Instance) bool { return in.Plugin.Name == name })
	if plugin != nil {
		next.Plugins[name] = plugin
		plugin.schema = schema
		for _, in := range instances {
			if other := next.Instances[in.Name]; other != nil {
				return fmt.Errorf("plugins %s and %s both have an instance %q", other.Plugin.Name, name, in.Name)
			}
			next.Instances[in.Name] = in
		}
	}
	if was := old.Plugins[name]; was.described() == plugin.described() {
		// Most changes are of a state: the schemas stay as they are.
		next.Methods, next.Files = old.Methods, old.Files
	} else if err := next.merge(); err != nil {
		return fmt.Errorf("plugin %s: %w", name, err)
	}
	r.current.Store(next)
	for _, fn := range r.watch {
		fn(next)
	}
	return nil
}

func (p *Plugin) described() *Schema {
	if p == nil {
		return nil
	}
	return p.schema
}

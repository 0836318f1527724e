package router

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
)

// lifecycle is the contract that every plugin serves to the kernel and to
// nobody else. No manifest lists it.
const lifecycle = "entrepot.plugin.v1"

// Lifecycle tells whether a procedure is of the contract that only the kernel
// may call.
func Lifecycle(procedure string) bool { return strings.HasPrefix(procedure, "/"+lifecycle+".") }

// Target is what a call is for.
type Target struct {
	// Contract is the proto package of the method, Capability what an instance
	// must declare of it.
	Contract, Capability string
	// Market and Merchant choose among bindings.
	Market, Merchant string
	// Instance, when set, is the only one that may serve.
	Instance string
}

// view is a snapshot and a table of bindings that were current together.
type view struct {
	snap  *registry.Snapshot
	table *Table
	// serving has the instances of each contract.
	serving map[string][]*registry.Instance
}

func newView(snap *registry.Snapshot, table *Table) *view {
	v := &view{snap: snap, table: table, serving: map[string][]*registry.Instance{}}
	for _, in := range snap.Instances {
		for c, served := range in.Contracts {
			if served {
				v.serving[c] = append(v.serving[c], in)
			}
		}
	}
	return v
}

// resolve returns the instances that may serve a call, the preferred first:
// the named one; else those bound for the most specific scope, healthy ones
// first, by priority, chance and weight deciding among equals; else the only
// one there is. One that does not declare the capability is never among them,
// and no less specific binding stands in for it. It never returns none without
// an error. roll draws from [0, n).
func (v *view) resolve(t Target, at time.Time, roll func(n int) int) ([]*registry.Instance, *connect.Error) {
	ins, err := v.candidates(t, at, roll)
	if err != nil || t.Capability == "" {
		return ins, err
	}
	able := slices.DeleteFunc(slices.Clone(ins), func(in *registry.Instance) bool { return !in.Has(t.Contract, t.Capability) })
	if len(able) == 0 {
		return nil, Fault(connect.CodeUnimplemented, ReasonCapabilityMissing,
			"what serves "+t.Contract+" here does not declare the capability "+t.Capability, "contract", t.Contract, "capability", t.Capability, "instance", ins[0].Name)
	}
	return able, nil
}

// candidates are the instances that may serve a call by what is named and
// bound.
func (v *view) candidates(t Target, at time.Time, roll func(n int) int) ([]*registry.Instance, *connect.Error) {
	if t.Instance != "" {
		in := v.snap.Instances[t.Instance]
		if in == nil || t.Contract != lifecycle && !in.Contracts[t.Contract] {
			return nil, Fault(connect.CodeNotFound, ReasonInstanceUnknown,
				"no instance of that name serves "+t.Contract, "instance", t.Instance, "contract", t.Contract)
		}
		return []*registry.Instance{in}, nil
	}
	if bound := v.table.find(t.Contract, t.Market, t.Merchant, at); len(bound) > 0 {
		ins := v.order(t.Contract, bound, roll)
		if len(ins) == 0 {
			return nil, unavailable(bound[0].Instance, nil)
		}
		return ins, nil
	}
	ins := v.serving[t.Contract]
	if len(ins) == 1 && !v.table.bound[t.Contract] {
		return ins, nil
	}
	return nil, Fault(connect.CodeFailedPrecondition, ReasonNoRoute,
		"no instance is bound to serve "+t.Contract+" here", "contract", t.Contract, "market", t.Market)
}

// order draws the order in which bound instances are tried.
func (v *view) order(contract string, bound []Binding, roll func(n int) int) []*registry.Instance {
	type candidate struct {
		*registry.Instance
		weight int
	}
	out := make([]*registry.Instance, 0, len(bound))
	var down []*registry.Instance
	for len(bound) > 0 {
		var group []candidate
		priority, total := bound[0].Priority, 0
		for len(bound) > 0 && bound[0].Priority == priority {
			b := bound[0]
			bound = bound[1:]
			switch in := v.snap.Instances[b.Instance]; {
			case in == nil || !in.Contracts[contract]:
			case !in.Healthy:
				down = append(down, in)
			default:
				group = append(group, candidate{in, b.Weight})
				total += b.Weight
			}
		}
		for len(group) > 0 {
			i := 0
			if len(group) > 1 {
				for n := roll(total); n >= group[i].weight; i++ {
					n -= group[i].weight
				}
			}
			out = append(out, group[i].Instance)
			total -= group[i].weight
			group = append(group[:i], group[i+1:]...)
		}
	}
	return append(out, down...)
}

// view returns what is current, indexed once per change.
func (r *Router) view() *view {
	snap, table := r.registry.Snapshot(), r.table.Load()
	if v := r.current.Load(); v != nil && v.snap == snap && v.table == table {
		return v
	}
	v := newView(snap, table)
	r.current.Store(v)
	return v
}

// Resolve returns the instances that may serve a call now, the preferred
// first. It fails with not_found for a named instance that does not serve the
// contract, failed_precondition where nothing is bound, and unavailable where
// nothing that is bound runs.
func (r *Router) Resolve(t Target) ([]*registry.Instance, error) {
	ins, err := r.view().resolve(t, time.Now(), rand.IntN)
	if err != nil {
		return nil, err
	}
	return ins, nil
}

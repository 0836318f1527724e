package router

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/entrepot/entrepot/core/registry"
)

// Bound is an instance as it is bound to a contract.
type Bound struct {
	Name             string
	Priority, Weight int
	// Instance is nil until its plugin has described itself for the first
	// time.
	Instance *registry.Instance
}

// Bound returns the instances that are bound to a contract now, those of the
// most specific scope that has any, best first: by priority, the greater
// weight, the name. Where nothing is bound it is the only one there is. Unlike
// Resolve it leaves nothing to chance, and also has what is down.
func (r *Router) Bound(contract, market, merchant string) []Bound {
	v := r.view()
	var out []Bound
	for _, b := range v.table.find(contract, market, merchant, time.Now()) {
		in := v.snap.Instances[b.Instance]
		if in != nil && !in.Contracts[contract] {
			continue
		}
		out = append(out, Bound{Name: b.Instance, Priority: b.Priority, Weight: b.Weight, Instance: in})
	}
	if ins := v.serving[contract]; len(ins) == 1 && !v.table.bound[contract] {
		out = []Bound{{Name: ins[0].Name, Weight: 1, Instance: ins[0]}}
	}
	slices.SortFunc(out, func(a, b Bound) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight), strings.Compare(a.Name, b.Name))
	})
	// Two bindings of one instance may hold at once: the better counts.
	seen := make(map[string]bool, len(out))
	return slices.DeleteFunc(out, func(b Bound) bool {
		again := seen[b.Name]
		seen[b.Name] = true
		return again
	})
}

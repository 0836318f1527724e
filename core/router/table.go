package router

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Binding says which instance serves a contract, and for whom. Operators
// write bindings; the kernel gives them to NewTable.
type Binding struct {
	// Contract is a proto package, "entrepot.payment.provider.v1".
	Contract string
	// Market is the country the binding is for; empty for every market.
	Market string
	// Merchant is the "mrc_..." it is for; empty for every merchant.
	Merchant string
	// Instance is the configured instance that serves.
	Instance string
	// Priority orders the bindings of one scope: the lowest number serves,
	// the next one stands in for it when it is down.
	Priority int
	// Weight shares calls among bindings of equal priority. 0 counts as 1.
	Weight int
	// From and Until bound when the binding holds, until exclusive; zero
	// times do not bound.
	From, Until time.Time
}

func (b Binding) holds(at time.Time) bool {
	return (b.From.IsZero() || !at.Before(b.From)) && (b.Until.IsZero() || at.Before(b.Until))
}

// scope is whom a binding is for.
type scope struct{ contract, market, merchant string }

// Table is a set of bindings, immutable once made.
type Table struct {
	// scopes holds the bindings of a scope by priority.
	scopes map[scope][]Binding
	// bound has the contracts with any binding.
	bound map[string]bool
}

// NewTable makes a table, or tells everything that is wrong with the
// bindings. No bindings make a valid table.
func NewTable(bindings []Binding) (*Table, error) {
	t := &Table{scopes: map[scope][]Binding{}, bound: map[string]bool{}}
	var errs []error
	for i, b := range bindings {
		switch {
		case b.Contract == "":
			errs = append(errs, fmt.Errorf("binding %d: it names no contract", i+1))
		case b.Instance == "":
			errs = append(errs, fmt.Errorf("binding %d of %s: it names no instance", i+1, b.Contract))
		case b.Weight < 0:
			errs = append(errs, fmt.Errorf("binding of %s to %s: weight %d is negative", b.Contract, b.Instance, b.Weight))
		case !b.From.IsZero() && !b.Until.IsZero() && !b.From.Before(b.Until):
			errs = append(errs, fmt.Errorf("binding of %s to %s: it ends before it begins", b.Contract, b.Instance))
		}
		if b.Weight == 0 {
			b.Weight = 1
		}
		s := scope{b.Contract, b.Market, b.Merchant}
		t.scopes[s] = append(t.scopes[s], b)
		t.bound[b.Contract] = true
	}
	for _, bs := range t.scopes {
		slices.SortStableFunc(bs, func(a, b Binding) int { return cmp.Compare(a.Priority, b.Priority) })
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// find returns the bindings that hold for a call, by priority: those of the
// most specific scope that has any. A merchant's binding goes before a
// market's.
func (t *Table) find(contract, market, merchant string, at time.Time) []Binding {
	if !t.bound[contract] {
		return nil
	}
	for _, s := range [...]scope{
		{contract, market, merchant}, {contract, "", merchant}, {contract, market, ""}, {contract, "", ""},
	} {
		bs := t.scopes[s]
		if i := slices.IndexFunc(bs, func(b Binding) bool { return !b.holds(at) }); i >= 0 {
			bs = slices.DeleteFunc(slices.Clone(bs), func(b Binding) bool { return !b.holds(at) })
		}
		if len(bs) > 0 {
			return bs
		}
	}
	return nil
}

package router

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/registry"
)

// still is a snapshot that does not change.
type still struct{ snap *registry.Snapshot }

func (s still) Snapshot() *registry.Snapshot { return s.snap }

func TestWhatIsBoundIsListedBestFirst(t *testing.T) {
	t.Parallel()
	s := instances("fast", "cheap", "even", "!spare", "merchants", "other")
	s.Instances["other"].Contracts = map[string]bool{"acme.other.v1": true}
	all := []Binding{
		{Instance: "spare", Priority: 1, Weight: 9},
		{Instance: "cheap", Weight: 70}, {Instance: "fast", Weight: 30}, {Instance: "even", Weight: 30},
		{Instance: "cheap", Priority: 2},
		{Instance: "away"},
		{Instance: "other"},
		{Market: "JP", Instance: "fast", Until: now},
		{Market: "DE", Instance: "spare"},
		{Merchant: "mrc_1", Instance: "merchants"},
	}
	for i := range all {
		all[i].Contract = contract
	}
	table, err := NewTable(all)
	require.NoError(t, err)
	r := New(Config{Registry: still{s}})
	r.SetBindings(table)
	for _, c := range []struct {
		name, market, merchant string
		want                   []string
	}{
		{"by priority, weight and name; once each; and what is down or not described yet", "GB", "", []string{"cheap 0/70", "even 0/30", "fast 0/30", "away 0/1", "spare 1/9"}},
		{"a market's own instead", "DE", "", []string{"spare 0/1"}},
		{"a binding that has ended counts no more", "JP", "", []string{"cheap 0/70", "even 0/30", "fast 0/30", "away 0/1", "spare 1/9"}},
		{"a merchant's own instead", "DE", "mrc_1", []string{"merchants 0/1"}},
		{"another merchant has the market's", "DE", "mrc_2", []string{"spare 0/1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, b := range r.Bound(contract, c.market, c.merchant) {
				got = append(got, fmt.Sprintf("%s %d/%d", b.Name, b.Priority, b.Weight))
				require.Equal(t, s.Instances[b.Name], b.Instance)
			}
			require.Equal(t, c.want, got)
		})
	}
	require.Empty(t, r.Bound("acme.nobody.v1", "GB", ""))
	require.Equal(t, []Bound{{Name: "other", Weight: 1, Instance: s.Instances["other"]}}, r.Bound("acme.other.v1", "GB", ""), "where nothing is bound, the only one")
}

func TestABindingElsewhereLeavesTheOnlyInstanceUnbound(t *testing.T) {
	t.Parallel()
	table, err := NewTable([]Binding{{Contract: contract, Market: "JP", Instance: "a"}})
	require.NoError(t, err)
	r := New(Config{Registry: still{instances("a")}})
	r.SetBindings(table)
	require.Empty(t, r.Bound(contract, "GB", ""), "as for a call, which has no route")
	require.Len(t, r.Bound(contract, "JP", ""), 1)
}

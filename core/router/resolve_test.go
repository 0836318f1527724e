package router

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

const contract = "acme.pay.v1"

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// instances makes a snapshot; a name with "!" in front is not healthy.
func instances(names ...string) *registry.Snapshot {
	s := &registry.Snapshot{Instances: map[string]*registry.Instance{}}
	for _, n := range names {
		healthy := n[0] != '!'
		if !healthy {
			n = n[1:]
		}
		s.Instances[n] = &registry.Instance{
			Name: n, Healthy: healthy, Contracts: map[string]bool{contract: true}, Plugin: &registry.Plugin{Name: n},
		}
	}
	return s
}

func resolveNames(t require.TestingT, s *registry.Snapshot, bs []Binding, target Target, at time.Time, roll int) ([]string, error) {
	bs = slices.Clone(bs)
	for i := range bs {
		bs[i].Contract = contract
	}
	table, err := NewTable(bs)
	require.NoError(t, err)
	target.Contract = contract
	ins, cerr := newView(s, table).resolve(target, at, func(int) int { return roll })
	if cerr != nil {
		return nil, cerr
	}
	var names []string
	for _, in := range ins {
		names = append(names, in.Name)
	}
	return names, nil
}

func TestWhatAnInstanceDoesNotDeclareItIsNotCalledFor(t *testing.T) {
	t.Parallel()
	s := instances("tracks", "books", "both")
	for name, capabilities := range map[string][]string{"tracks": {"track"}, "books": {"book"}, "both": {"book", "track"}} {
		s.Instances[name].Plugin.Manifest = &pluginv1.Manifest{Serves: []*pluginv1.ServedContract{
			{Contract: "acme.other.v1", Capabilities: []string{"track"}}, {Contract: contract, Capabilities: capabilities},
		}}
	}
	all := []Binding{{Instance: "tracks"}, {Market: "JP", Instance: "books"}, {Market: "DE", Instance: "books", Priority: 1}, {Market: "DE", Instance: "both", Priority: 2}}
	for _, c := range []struct {
		name string
		in   Target
		want []string
	}{
		{"what needs nothing is everybody's", Target{Market: "JP"}, []string{"books"}},
		{"the bound one declares it", Target{Market: "JP", Capability: "book"}, []string{"books"}},
		{"the next that is bound declares it", Target{Market: "DE", Capability: "track"}, []string{"both"}},
		{"a less specific binding does not stand in", Target{Market: "JP", Capability: "track"}, nil},
		{"a named one that does not", Target{Instance: "books", Capability: "track"}, nil},
		{"a named one that does", Target{Instance: "tracks", Capability: "track"}, []string{"tracks"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := resolveNames(t, s, all, c.in, now, 0)
			require.Equal(t, c.want, got)
			if c.want == nil {
				require.Equal(t, connect.CodeUnimplemented, connect.CodeOf(err))
				require.Equal(t, ReasonCapabilityMissing, fault.Reason(err))
			}
		})
	}
}

func TestTheMostSpecificBindingWins(t *testing.T) {
	t.Parallel()
	all := []Binding{
		{Instance: "default"},
		{Market: "JP", Instance: "japan"},
		{Merchant: "mrc_1", Instance: "merchant"},
		{Market: "JP", Merchant: "mrc_1", Instance: "both"},
	}
	s := instances("default", "japan", "merchant", "both")
	for _, c := range []struct {
		name string
		in   Target
		want string
	}{
		{"another market has the default", Target{Market: "DE"}, "default"},
		{"no market has the default", Target{}, "default"},
		{"a market has its own", Target{Market: "JP"}, "japan"},
		{"a merchant has its own", Target{Market: "DE", Merchant: "mrc_1"}, "merchant"},
		{"a merchant in a market has its own", Target{Market: "JP", Merchant: "mrc_1"}, "both"},
		{"another merchant has the market's", Target{Market: "JP", Merchant: "mrc_2"}, "japan"},
		{"a named instance serves whatever is bound", Target{Market: "JP", Instance: "default"}, "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := resolveNames(t, s, all, c.in, now, 0)
			require.NoError(t, err)
			require.Equal(t, []string{c.want}, got)
		})
	}
}

func TestAmongTheBindingsOfOneScope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		snap *registry.Snapshot
		bs   []Binding
		roll int
		want []string
	}{
		{
			"the lowest priority serves, the others stand in", instances("a", "b", "c"),
			[]Binding{{Instance: "c", Priority: 9}, {Instance: "a", Priority: 1}, {Instance: "b", Priority: 5}},
			0, []string{"a", "b", "c"},
		},
		{
			"one that is not healthy comes last", instances("!a", "b"),
			[]Binding{{Instance: "a", Priority: 1}, {Instance: "b", Priority: 5}}, 0, []string{"b", "a"},
		},
		{
			"weight decides among equals", instances("a", "b"),
			[]Binding{{Instance: "a", Weight: 3}, {Instance: "b", Weight: 1}}, 2, []string{"a", "b"},
		},
		{
			"and so it does for the other", instances("a", "b"),
			[]Binding{{Instance: "a", Weight: 3}, {Instance: "b", Weight: 1}}, 3, []string{"b", "a"},
		},
		{
			"one that does not exist is left out", instances("b"),
			[]Binding{{Instance: "gone", Priority: 1}, {Instance: "b", Priority: 2}}, 0, []string{"b"},
		},
		{
			"one that does not hold yet is left out", instances("a", "b"),
			[]Binding{{Instance: "a", From: now.Add(time.Second)}, {Instance: "b", Priority: 7, From: now, Until: now.Add(1)}},
			0, []string{"b"},
		},
		{
			"one that holds no longer leaves the less specific one", instances("a", "b"),
			[]Binding{{Market: "JP", Instance: "a", Until: now}, {Instance: "b"}}, 0, []string{"b"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := resolveNames(t, c.snap, c.bs, Target{Market: "JP"}, now, c.roll)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestWhereNothingServes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		snap *registry.Snapshot
		bs   []Binding
		in   Target
		code connect.Code
	}{
		{"an instance nobody knows is not found", instances("a"), nil, Target{Instance: "b"}, connect.CodeNotFound},
		{"nothing bound and nothing there", instances(), nil, Target{}, connect.CodeFailedPrecondition},
		{"nothing bound and two to choose from", instances("a", "b"), nil, Target{}, connect.CodeFailedPrecondition},
		{"bound elsewhere only", instances("a"), []Binding{{Market: "DE", Instance: "a"}}, Target{Market: "JP"}, connect.CodeFailedPrecondition},
		{"bound to what does not run", instances("a"), []Binding{{Instance: "b"}}, Target{}, connect.CodeUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := resolveNames(t, c.snap, c.bs, c.in, now, 0)
			require.Equal(t, c.code, connect.CodeOf(err))
		})
	}
}

func TestAContractOfOneInstanceNeedsNoBinding(t *testing.T) {
	t.Parallel()
	got, err := resolveNames(t, instances("a"), nil, Target{Market: "JP"}, now, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, got)
}

func TestANamedInstanceMustServeTheContract(t *testing.T) {
	t.Parallel()
	s := instances("a")
	_, err := newView(s, &Table{}).resolve(Target{Contract: "acme.other.v1", Instance: "a"}, now, nil)
	require.Equal(t, connect.CodeNotFound, err.Code())
	ins, err := newView(s, &Table{}).resolve(Target{Contract: lifecycle, Instance: "a"}, now, nil)
	require.Nil(t, err)
	require.Len(t, ins, 1)
}

// Whatever is bound: each instance that is bound and there comes up once,
// healthy ones before others, and no healthy one before another of a lower
// priority number.
func TestTheOrderIsAlwaysAPermutation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "instances")
		var names []string
		var bs []Binding
		priority := map[string]int{}
		for i := range n {
			name := string(rune('a' + i))
			priority[name] = rapid.IntRange(0, 2).Draw(t, "priority")
			bs = append(bs, Binding{Instance: name, Priority: priority[name], Weight: rapid.IntRange(0, 4).Draw(t, "weight")})
			if rapid.Bool().Draw(t, "healthy") {
				names = append(names, name)
			} else {
				names = append(names, "!"+name)
			}
		}
		s := instances(names...)
		for i := range bs {
			bs[i].Contract = contract
		}
		table, err := NewTable(bs)
		require.NoError(t, err)
		got, cerr := newView(s, table).resolve(Target{Contract: contract}, now, func(n int) int {
			return rapid.IntRange(0, n-1).Draw(t, "roll")
		})
		require.Nil(t, cerr)
		require.Len(t, got, n)
		seen := map[string]bool{}
		for i, in := range got {
			require.False(t, seen[in.Name])
			seen[in.Name] = true
			if i > 0 && in.Healthy {
				require.True(t, got[i-1].Healthy)
				require.LessOrEqual(t, priority[got[i-1].Name], priority[in.Name])
			}
		}
	})
}

func TestABadTableIsRefusedWithAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := NewTable([]Binding{
		{Instance: "a"},
		{Contract: contract},
		{Contract: contract, Instance: "a", Weight: -1},
		{Contract: contract, Instance: "a", From: now, Until: now},
	})
	for _, words := range []string{"names no contract", "names no instance", "is negative", "ends before it begins"} {
		require.ErrorContains(t, err, words)
	}
}

func TestAMethodOnItsWayUpIsToldToComeAgain(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	r := New(Config{Registry: reg, Expected: func(contract string) bool { return contract == "shop.v1" }})
	require.Equal(t, connect.CodeUnavailable, r.Missing("/shop.v1.ShopService/Buy").Code())
	for _, procedure := range []string{"/other.v1.ShopService/Buy", "/shop.v1", "", "//"} {
		require.Equal(t, connect.CodeUnimplemented, r.Missing(procedure).Code(), procedure)
	}
	_, _, err := NewCaller(r).Unary(t.Context(), "/shop.v1.ShopService/Buy", call.Info{}, nil)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorIs(t, err, ErrNotSent)

	p := &registry.Plugin{Name: "shop"}
	require.NoError(t, reg.Put("shop", p, []*registry.Instance{{Name: "shop", Plugin: p, Contracts: map[string]bool{"shop.v1": true}}}, nil))
	require.Equal(t, connect.CodeUnimplemented, r.Missing("/shop.v1.ShopService/Haggle").Code(), "it has said what it serves, and that is not among it")
}

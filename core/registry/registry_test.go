package registry

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACallIsCountedInUntilTheProcessCloses(t *testing.T) {
	p := NewProcess(1, nil, nil)
	one, ok := p.Acquire()
	require.True(t, ok)
	two, ok := p.Acquire()
	require.True(t, ok)
	idle := p.Close()
	_, ok = p.Acquire()
	require.False(t, ok, "a closed process takes no call")
	one()
	require.NotPanics(t, func() { p.Close() })
	select {
	case <-idle:
		require.Fail(t, "a call is still in flight")
	default:
	}
	two()
	<-idle
	<-NewProcess(2, nil, nil).Close()
}

func TestAProcessTellsWhenItIsIdleAndTakesCallsAllTheSame(t *testing.T) {
	p := NewProcess(1, nil, nil)
	<-p.Idle()
	one, ok := p.Acquire()
	require.True(t, ok)
	idle := p.Idle()
	two, ok := p.Acquire()
	require.True(t, ok)
	one()
	select {
	case <-idle:
		require.Fail(t, "a call is still in flight")
	default:
	}
	two()
	<-idle
	three, ok := p.Acquire()
	require.True(t, ok)
	three()
	<-p.Idle()
}

func TestASnapshotNeverChangesAndItsSuccessorIsAnnounced(t *testing.T) {
	r := New()
	var seen []int64
	r.Watch(func(s *Snapshot) { seen = append(seen, s.Revision) })
	before := r.Snapshot()
	put(t, r, "shop", shop("shop.v1"))
	after := r.Snapshot()
	require.Empty(t, before.Plugins)
	require.Empty(t, before.Methods)
	require.Contains(t, after.Plugins, "shop")
	require.Contains(t, after.Instances, "shop")
	require.Contains(t, after.Methods, "/shop.v1.S/Read")

	require.NoError(t, r.Put("shop", nil, nil, nil))
	require.Empty(t, r.Snapshot().Plugins)
	require.Empty(t, r.Snapshot().Instances)
	require.Empty(t, r.Snapshot().Methods)
	require.Nil(t, r.Snapshot().Message("shop.v1.M"))
	require.NotNil(t, after.Message("shop.v1.M"), "who holds an older snapshot keeps it")
	require.Equal(t, []int64{1, 2}, seen)
}

func TestAChangeOfStateKeepsTheSchemas(t *testing.T) {
	r := New()
	schema := put(t, r, "shop", shop("shop.v1"))
	before := r.Snapshot()
	require.NoError(t, r.Put("shop", &Plugin{Name: "shop", State: Degraded}, nil, schema))
	require.Equal(t, Degraded, r.Snapshot().Plugins["shop"].State)
	require.Same(t, before.Files, r.Snapshot().Files)
}

func TestTwoPluginsCannotHaveOneInstance(t *testing.T) {
	r := New()
	put(t, r, "shop", shop("shop.v1"))
	mine := &Plugin{Name: "thief"}
	err := r.Put("thief", mine, []*Instance{{Name: "shop", Plugin: mine}}, nil)
	require.ErrorContains(t, err, `plugins shop and thief both have an instance "shop"`)
	require.NotContains(t, r.Snapshot().Plugins, "thief", "what is refused changes nothing")
	require.Equal(t, "shop", r.Snapshot().Instances["shop"].Plugin.Name)
}

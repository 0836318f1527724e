package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/registry"
)

type toldLanes []string

func (l *toldLanes) Wake(plugin string)       { *l = append(*l, "wake "+plugin) }
func (l *toldLanes) Unregister(plugin string) { *l = append(*l, "unregister "+plugin) }

func TestTheBusHearsOfAPluginThatBecameReadyOrWasGivenUpAndOfNothingElse(t *testing.T) {
	reg := registry.New()
	var told toldLanes
	reg.Watch(tellBus(&told))
	one, two := registry.NewProcess(1, nil, nil), registry.NewProcess(2, nil, nil)
	for _, c := range []struct {
		plugin  string
		state   registry.State
		process *registry.Process
		want    []string
	}{
		{"order", registry.Starting, nil, nil},
		{"order", registry.Ready, one, []string{"wake order"}},
		{"stock", registry.Starting, nil, nil},
		{"stock", registry.Degraded, two, []string{"wake stock"}}, // it takes events all the same
		{"stock", registry.Degraded, two, nil},
		{"stock", registry.Ready, two, []string{"wake stock"}},
		{"order", registry.Degraded, one, nil},
		{"order", registry.Ready, two, []string{"wake order"}}, // replaced
		{"order", registry.Draining, two, nil},
		{"stock", registry.Backoff, nil, nil},
		{"stock", registry.Quarantined, nil, []string{"unregister stock"}},
		{"order", registry.Stopped, nil, nil},
	} {
		told = nil
		require.NoError(t, reg.Put(c.plugin, &registry.Plugin{Name: c.plugin, State: c.state, Process: c.process}, nil, nil))
		require.Equal(t, c.want, []string(told), "%s is %s", c.plugin, c.state)
	}
}

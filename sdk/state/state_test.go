package state_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/state"
)

type shelf struct {
	Count int
	Text  string `json:",omitempty"`
}

const manifest = `
name    = "shelves"
version = "0.1.0"
kind    = "provider"
`

func open(t *testing.T) *plugin.Instance {
	var in *plugin.Instance
	plugintest.Start(t, plugin.Plugin{Manifest: manifest, New: func(_ context.Context, i *plugin.Instance) error {
		in = i
		return nil
	}})
	return in
}

func TestNoChangeIsLost(t *testing.T) {
	t.Parallel()
	in := open(t)
	var wg sync.WaitGroup
	for i := range 20 {
		// Each has a map of its own, as several processes have.
		m := state.Of[shelf](in, "s", 2)
		for range 5 {
			wg.Go(func() {
				for _, id := range []string{"one", strconv.Itoa(i)} {
					_, err := m.Update(t.Context(), id, func(s *shelf, _ bool) (bool, error) { s.Count++; return true, nil })
					require.NoError(t, err)
				}
			})
		}
	}
	wg.Wait()
	m := state.Of[shelf](in, "s", 2)
	one, known, err := m.Get(t.Context(), "one")
	require.NoError(t, err)
	require.True(t, known)
	require.Equal(t, 100, one.Count)
	all, err := m.All(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 21)
	require.Equal(t, 5, all["7"].Count)
	_, known, err = state.Of[shelf](in, "other", 2).Get(t.Context(), "one")
	require.NoError(t, err)
	require.False(t, known, "maps of other names are apart")
}

func TestWhatIsNotToBeWrittenIsNot(t *testing.T) {
	t.Parallel()
	m := state.Of[shelf](open(t), "s", 2)
	refused := errors.New("no")
	_, err := m.Update(t.Context(), "a", func(s *shelf, _ bool) (bool, error) { s.Count = 1; return true, refused })
	require.ErrorIs(t, err, refused)
	_, err = m.Update(t.Context(), "a", func(s *shelf, _ bool) (bool, error) { s.Count = 1; return false, nil })
	require.NoError(t, err)
	_, known, err := m.Get(t.Context(), "a")
	require.NoError(t, err)
	require.False(t, known)
}

func TestAFullBucketForgetsOnlyWhatMayBeForgotten(t *testing.T) {
	t.Parallel()
	m := state.Of[shelf](open(t), "s", 1)
	put := func(id string) error {
		_, err := m.Update(t.Context(), id, func(s *shelf, _ bool) (bool, error) { s.Text = strings.Repeat("x", 20<<10); return true, nil })
		return err
	}
	for i := range 3 {
		require.NoError(t, put(strconv.Itoa(i)))
	}
	err := put("3")
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	require.Equal(t, "STATE_FULL", fault.Reason(err))
	m.Spare = func(bucket map[string]shelf, _ string) (string, bool) {
		_, there := bucket["1"]
		return "1", there
	}
	require.NoError(t, put("3"))
	all, err := m.All(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.NotContains(t, all, "1")
	require.Error(t, put("4"))
}

func TestARecordFindsTheRoomItWasPromised(t *testing.T) {
	t.Parallel()
	m := state.Of[shelf](open(t), "s", 1)
	m.Growth = func(s shelf) int { return 20<<10 - len(s.Text) }
	set := func(id string, size int) error {
		_, err := m.Update(t.Context(), id, func(s *shelf, _ bool) (bool, error) { s.Text = strings.Repeat("x", size); return true, nil })
		return err
	}
	for i := range 3 {
		require.NoError(t, set(strconv.Itoa(i), 1))
	}
	require.Equal(t, "STATE_FULL", fault.Reason(set("3", 1)), "there is room for it, but not for all when they have grown")
	for i := range 3 {
		require.NoError(t, set(strconv.Itoa(i), 20<<10))
	}
}

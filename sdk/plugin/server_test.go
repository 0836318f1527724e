package plugin

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// serving is a provider with one instance, "pay".
func serving(t *testing.T) *Server {
	t.Helper()
	s, err := NewServer(Plugin{
		Manifest: "name = \"pay\"\nversion = \"1.0.0\"\nkind = \"provider\"\n",
		New:      func(context.Context, *Instance) error { return nil },
	}, connectinprocess.New(connect.NewServer()))
	require.NoError(t, err)
	_, err = lifecycle{s}.Configure(t.Context(), &pluginv1.ConfigureRequest{Instance: "pay", Revision: 1})
	require.NoError(t, err)
	return s
}

// A caller that is told "unknown" gives up; one that is told "unavailable"
// comes again.
func TestAProcessThatEndsIsAwayAndNotUnknown(t *testing.T) {
	s := serving(t)
	_, release, err := s.acquire("pay")
	require.NoError(t, err)
	release()
	_, _, err = s.acquire("another")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	s.Drain(t.Context())
	_, _, err = s.acquire("pay")
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
}

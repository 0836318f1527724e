package persistence

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

type pluginKey struct{}

func as(ctx context.Context, plugin string) context.Context {
	return context.WithValue(ctx, pluginKey{}, plugin)
}

func state(t *testing.T) *State {
	return open(t).NewState(func(ctx context.Context) (string, bool) {
		name, ok := ctx.Value(pluginKey{}).(string)
		return name, ok
	})
}

func TestStateIsComparedAndSet(t *testing.T) {
	t.Parallel()
	s, ctx := state(t), as(t.Context(), "carrier")
	got, err := s.GetState(ctx, &kernelv1.GetStateRequest{Instance: "a", Key: "cursor"})
	require.NoError(t, err)
	require.Zero(t, got.GetVersion())

	put, err := s.PutState(ctx, &kernelv1.PutStateRequest{Instance: "a", Key: "cursor", Value: []byte("1")})
	require.NoError(t, err)
	require.EqualValues(t, 1, put.GetVersion())
	put, err = s.PutState(ctx, &kernelv1.PutStateRequest{Instance: "a", Key: "cursor", ExpectedVersion: 1})
	require.NoError(t, err)
	require.EqualValues(t, 2, put.GetVersion())
	for _, stale := range []int64{0, 1, 3} {
		_, err = s.PutState(ctx, &kernelv1.PutStateRequest{Instance: "a", Key: "cursor", ExpectedVersion: stale})
		require.Equal(t, connect.CodeAborted, connect.CodeOf(err))
		require.Equal(t, ReasonStateConflict, fault.Reason(err))
	}
}

func TestOfManyWritersOneWins(t *testing.T) {
	t.Parallel()
	s, ctx := state(t), as(t.Context(), "carrier")
	for version := range int64(3) {
		var won atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := s.PutState(ctx, &kernelv1.PutStateRequest{Instance: "a", Key: "k", ExpectedVersion: version}); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, won.Load())
	}
}

func TestAPluginSeesItsOwnStateOnly(t *testing.T) {
	t.Parallel()
	s := state(t)
	_, err := s.PutState(as(t.Context(), "carrier"), &kernelv1.PutStateRequest{Instance: "a", Key: "k", Value: []byte("secret")})
	require.NoError(t, err)
	got, err := s.GetState(as(t.Context(), "spy"), &kernelv1.GetStateRequest{Instance: "a", Key: "k"})
	require.NoError(t, err)
	require.Empty(t, got.GetValue())
	_, err = s.GetState(t.Context(), &kernelv1.GetStateRequest{Instance: "a", Key: "k"})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
}

package sent_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/sent"
)

func TestTheFirstEndOfAKeyStays(t *testing.T) {
	t.Parallel()
	var m sent.Memory
	plugintest.Start(t, plugin.Plugin{
		Manifest: "name = \"pigeon\"\nversion = \"0.1.0\"\nkind = \"provider\"\n",
		New:      func(_ context.Context, in *plugin.Instance) error { m = sent.Of(in); return nil },
	})
	ctx := t.Context()
	end, err := m.End(ctx, "k")
	require.NoError(t, err)
	require.Nil(t, end)
	for _, state := range []providerv1.Delivery_State{
		providerv1.Delivery_STATE_DEFERRED, providerv1.Delivery_STATE_REFUSED, providerv1.Delivery_STATE_ACCEPTED,
	} {
		require.NoError(t, m.Keep(ctx, &providerv1.Delivery{Key: "k", State: state, Code: "550", Reference: "r", Gone: true, At: timestamppb.Now()}))
	}
	end, err = m.End(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, providerv1.Delivery_STATE_REFUSED, end.GetState(), "what is deferred has not ended")
	require.Equal(t, "550r", end.GetCode()+end.GetReference())
	require.True(t, end.GetGone())
	require.NotZero(t, end.GetAt().GetSeconds())
	end, err = m.End(ctx, "another")
	require.NoError(t, err)
	require.Nil(t, end)
}

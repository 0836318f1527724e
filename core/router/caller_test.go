package router_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

func marshal(t testing.TB, text string) []byte {
	t.Helper()
	b, err := proto.Marshal(wrapperspb.String(text))
	require.NoError(t, err)
	return b
}

func TestTheKernelCallsAPlugin(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	p.Methods = append(p.Methods, plugintest.Method{Name: "Step", Unary: func(ctx context.Context, text string) (string, error) {
		info, _ := connect.CallInfoForServerContext(ctx)
		info.ResponseHeader().Set(call.HeaderRecorded, call.RecordedRefused)
		step := call.From(ctx).Step
		if step == nil || step.Key() != "saga/2/do" || !step.Last {
			return "", connect.NewError(connect.CodeInternal, "no step")
		}
		return "", fault.New(connect.CodeFailedPrecondition, "OUT_OF_STOCK", "none left of "+text, "sku", text)
	}})
	plugintest.Start(t, reg, p)
	caller := router.NewCaller(router.New(router.Config{Registry: reg}))

	raw, header, err := caller.Unary(t.Context(), p.Procedure("Do"), call.Info{}, marshal(t, "hello"))
	require.NoError(t, err)
	require.NotEmpty(t, header)
	res := &wrapperspb.StringValue{}
	require.NoError(t, proto.Unmarshal(raw, res))
	require.Equal(t, "hello", res.GetValue())

	step := &call.Step{Saga: "saga", N: 2, Epoch: 4, Last: true}
	_, header, err = caller.Unary(t.Context(), p.Procedure("Step"), call.Info{Step: step}, marshal(t, "sku_1"))
	require.Equal(t, call.RecordedRefused, header.Get(call.HeaderRecorded), "a refusal's headers are there too")
	var ce *connect.Error
	require.ErrorAs(t, err, &ce)
	require.True(t, ce.IsRemote())
	require.Equal(t, connect.CodeFailedPrecondition, ce.Code())
	require.Equal(t, "none left of sku_1", ce.Message())
	info, ok := fault.Info(err)
	require.True(t, ok)
	require.Equal(t, "OUT_OF_STOCK", info.GetReason())
	require.Equal(t, "sku_1", info.GetMetadata()["sku"])

	for name, at := range map[string]struct {
		procedure string
		info      call.Info
		code      connect.Code
	}{
		"an unknown method":      {"/acme.echo.v1.Test/No", call.Info{}, connect.CodeUnimplemented},
		"an unknown instance":    {p.Procedure("Do"), call.Info{Instance: "nobody"}, connect.CodeNotFound},
		"a call that circles":    {p.Procedure("Do"), call.Info{RequestID: "r" + strings.Repeat(".1", router.MaxHops)}, connect.CodeFailedPrecondition},
		"a lifecycle to nowhere": {"/entrepot.plugin.v1.EventService/Deliver", call.Info{Instance: "nobody"}, connect.CodeNotFound},
	} {
		_, _, err = caller.Unary(t.Context(), at.procedure, at.info, nil)
		require.Equal(t, at.code, connect.CodeOf(err), name)
		require.ErrorIs(t, err, router.ErrNotSent, name)
	}

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = caller.Unary(gone, p.Procedure("Do"), call.Info{}, marshal(t, "x"))
	require.Equal(t, connect.CodeCanceled, connect.CodeOf(err))

	dead := echo()
	dead.Name, dead.Contract = "dead", "acme.dead.v1"
	plugintest.Start(t, reg, dead).Server.Close() // it died, and nobody has noticed yet
	_, _, err = caller.Unary(t.Context(), dead.Procedure("Do"), call.Info{}, marshal(t, "x"))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorIs(t, err, router.ErrNotSent, "it could not even connect")
}

func TestAPluginsAnswerIsBounded(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	p.Wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/proto")
			chunk := make([]byte, 1<<20)
			for range 16 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
	}
	plugintest.Start(t, reg, p)
	_, _, err := router.NewCaller(router.New(router.Config{Registry: reg})).Unary(t.Context(), p.Procedure("Do"), call.Info{}, nil)
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
}

// A call is known while it is inside of a plugin, and not afterwards; only
// under the id that this plugin was given, and only to this plugin.
func TestTheKernelKnowsWhatIsInsideOfAPlugin(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	var r *router.Router
	p.Methods = append(p.Methods, plugintest.Method{Name: "Look", Unary: func(ctx context.Context, _ string) (string, error) {
		id := call.From(ctx).RequestID
		in, ok := r.InFlight("echo", id)
		_, other := r.InFlight("other", id)
		_, outer := r.InFlight("echo", "outer")
		if !ok || other || outer || in.Principal.Account != "acc_7" || in.Market != "JP" {
			return "", connect.NewError(connect.CodeInternal, "it is not known as it should be")
		}
		return id, nil
	}})
	plugintest.Start(t, reg, p)
	r = router.New(router.Config{Registry: reg})
	info := call.Info{Principal: call.Principal{Kind: call.Consumer, Account: "acc_7"}, Market: "JP", RequestID: "outer"}
	raw, _, err := router.NewCaller(r).Unary(t.Context(), p.Procedure("Look"), info, nil)
	require.NoError(t, err)
	id := &wrapperspb.StringValue{}
	require.NoError(t, proto.Unmarshal(raw, id))
	require.True(t, strings.HasPrefix(id.GetValue(), "outer."))
	_, ok := r.InFlight("echo", id.GetValue())
	require.False(t, ok)
}

// A provider's code for what it does not declare is never run, whoever asks.
func TestACallNeedsTheCapabilityThatItsMethodNames(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	carrier := func(name string, capabilities ...string) plugintest.Plugin {
		return plugintest.Plugin{Name: name, Contract: "acme.carrier.v1", Capabilities: capabilities, Methods: []plugintest.Method{
			{Name: "Track", Capability: "track", Unary: func(context.Context, string) (string, error) { return name, nil }},
		}}
	}
	able, not := carrier("able", "track"), carrier("not")
	plugintest.Start(t, reg, able)
	plugintest.Start(t, reg, not)
	r := router.New(router.Config{Registry: reg})
	outside := connect.NewClient(connecthttp.NewTransport(http.DefaultClient, front(t, r, call.Info{Instance: "not"}, limits).URL))
	_, err := plugintest.Call(t.Context(), outside, able.Spec("Track"), "x")
	require.Equal(t, connect.CodeUnimplemented, plugintest.Code(err))
	_, _, err = router.NewCaller(r).Unary(t.Context(), able.Procedure("Track"), call.Info{Instance: "not"}, marshal(t, "x"))
	require.Equal(t, router.ReasonCapabilityMissing, fault.Reason(err))
	require.ErrorIs(t, err, router.ErrNotSent)
	_, _, err = router.NewCaller(r).Unary(t.Context(), able.Procedure("Track"), call.Info{Instance: "able"}, marshal(t, "x"))
	require.NoError(t, err)
}

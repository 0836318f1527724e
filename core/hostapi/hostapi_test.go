package hostapi_test

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/hostapi"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// state is a kernel service that tells who called it.
type state struct {
	kernelv1connect.UnimplementedStateServiceHandler
	seen chan string
}

func (b state) GetState(ctx context.Context, _ *kernelv1.GetStateRequest) (*kernelv1.GetStateResponse, error) {
	c, ok := hostapi.CallerFrom(ctx)
	if !ok {
		return nil, connect.NewError(connect.CodeInternal, "no caller")
	}
	b.seen <- c.Plugin + "/" + c.Manifest.GetName() + " for " + call.From(ctx).Principal.String()
	return &kernelv1.GetStateResponse{}, nil
}

// house is a kernel with two plugins: outer, which calls, and inner, which is
// called and tells what it read of the call.
type house struct {
	caller *router.Caller
	outer  *plugintest.Running
	inner  *plugintest.Running
	// socket is outer's line to the kernel.
	socket *connect.Client
	seen   chan string
	// while runs inside of outer's method Serve.
	while func(ctx context.Context)
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{seen: make(chan string, 1)}
	reg := registry.New()
	h.inner = plugintest.Start(t, reg, plugintest.Plugin{
		Name: "inner", Contract: "acme.inner.v1", Instances: []string{"inner", "inner-two"},
		Methods: []plugintest.Method{
			{Name: "Facts", Access: plugintest.ForPlugins, Unary: facts},
			{Name: "ForConsumers", Access: plugintest.Allow("", optionsv1.Audience_AUDIENCE_CONSUMER), Unary: facts},
			{Name: "ForWriters", Access: plugintest.Allow("catalog.write", optionsv1.Audience_AUDIENCE_MERCHANT), Unary: facts},
			{Name: "ForNobody", Unary: facts},
		},
	})
	h.outer = plugintest.Start(t, reg, plugintest.Plugin{
		Name: "outer", Contract: "acme.outer.v1", Calls: []string{"acme.inner.v1", "entrepot.plugin.v1", "acme.gone.v1"},
		Methods: []plugintest.Method{{Name: "Serve", Unary: func(ctx context.Context, _ string) (string, error) {
			h.while(ctx)
			return "", nil
		}}},
	})
	r := router.New(router.Config{Registry: reg})
	table, err := router.NewTable([]router.Binding{
		{Contract: "acme.inner.v1", Instance: "inner"}, {Contract: "acme.inner.v1", Market: "JP", Instance: "inner-two"},
	})
	require.NoError(t, err)
	r.SetBindings(table)
	h.caller = router.NewCaller(r)
	kernel := connect.NewServer()
	kernelv1connect.RegisterStateServiceHandler(kernel, state{seen: h.seen})
	host, err := hostapi.New(hostapi.Config{Router: r, Kernel: kernel, Markets: []string{"GB", "JP"}, DefaultMarket: "GB"})
	require.NoError(t, err)
	s := plugintest.Listen(t, host.Handler("outer", h.outer.Manifest))
	h.socket = connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, false), s.URL))
	return h
}

func facts(ctx context.Context, _ string) (string, error) {
	i := call.From(ctx)
	step := "no step"
	if i.Step != nil {
		step = "step"
	}
	return strings.Join([]string{i.Principal.String(), "by " + i.Caller, i.Market, i.Instance, i.IdempotencyKey, step}, ", "), nil
}

// serve has outer serve a call of a principal, and do something meanwhile.
func (h *house) serve(t *testing.T, info call.Info, while func(ctx context.Context)) {
	t.Helper()
	h.while = while
	_, _, err := h.caller.Unary(t.Context(), h.outer.Procedure("Serve"), info, nil)
	require.NoError(t, err)
}

func TestAPluginOnItsOwnAccountIsItself(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	got, err := plugintest.Call(t.Context(), h.socket, h.inner.Spec("Facts"), "", call.HeaderIdempotencyKey, "k")
	require.NoError(t, err)
	require.Equal(t, "plugin outer, by outer, GB, inner, k, no step", got)

	got, err = plugintest.Call(t.Context(), h.socket, h.inner.Spec("Facts"), "", call.HeaderMarket, "JP")
	require.NoError(t, err, "it may choose the market")
	require.Equal(t, "plugin outer, by outer, JP, inner-two, , no step", got)

	got, err = plugintest.Call(t.Context(), h.socket, h.inner.Spec("Facts"), "", call.HeaderInstance, "inner-two")
	require.NoError(t, err, "it may name the instance")
	require.Equal(t, "plugin outer, by outer, GB, inner-two, , no step", got)

	_, err = plugintest.Call(t.Context(), h.socket, h.inner.Spec("Facts"), "", call.HeaderMarket, "XX")
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, "GB, JP")
}

func TestAForgedHeaderIsNotBelieved(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	forged := call.Info{
		Principal: call.Principal{Kind: call.Operator, Account: "acc_0", Permissions: []string{"*"}},
		Caller:    "payment", RequestID: "made-up", Step: &call.Step{Saga: "s", N: 1, Epoch: 9},
	}
	var headers []string
	forged.Encode(func(k, v string) { headers = append(headers, k, v) })
	got, err := plugintest.Call(t.Context(), h.socket, h.inner.Spec("Facts"), "", headers...)
	require.NoError(t, err)
	require.Equal(t, "plugin outer, by outer, GB, inner, , no step", got)
}

func TestThePrincipalRidesAlongWhileItsCallIsServed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	consumer := call.Info{Principal: call.Principal{Kind: call.Consumer, Account: "acc_1", Subject: "sub_1"}, Market: "JP", RequestID: "outside"}
	var id string
	h.serve(t, consumer, func(ctx context.Context) {
		id = call.From(ctx).RequestID
		got, err := plugintest.Call(ctx, h.socket, h.inner.Spec("ForConsumers"), "",
			call.HeaderRequestID, id, call.HeaderPrincipal, "operator;acc_0;;;;*")
		require.NoError(t, err)
		require.Equal(t, "consumer acc_1, by outer, JP, inner-two, , no step", got)

		_, err = plugintest.Call(ctx, h.socket, h.inner.Spec("ForConsumers"), "", call.HeaderRequestID, "outside")
		require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "that id is not the one it was given")
		_, err = plugintest.Call(ctx, h.socket, h.inner.Spec("ForWriters"), "", call.HeaderRequestID, id)
		require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "and what a consumer may not, it may not for them")

		_, err = kernelv1connect.NewStateServiceClient(h.socket).GetState(with(ctx, call.HeaderRequestID, id), &kernelv1.GetStateRequest{})
		require.NoError(t, err)
		require.Equal(t, "outer/outer for consumer acc_1", <-h.seen)
	})
	_, err := plugintest.Call(t.Context(), h.socket, h.inner.Spec("ForConsumers"), "", call.HeaderRequestID, id)
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "afterwards it does not")
}

func with(ctx context.Context, name, value string) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set(name, value)
	return ctx
}

func TestAPluginIsToldWhichInstanceServed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set(call.HeaderMarket, "JP")
	res := &wrapperspb.StringValue{}
	require.NoError(t, h.socket.CallUnary(ctx, h.inner.Spec("Facts"), wrapperspb.String(""), res))
	require.Equal(t, "inner-two", info.ResponseHeader().Get(call.HeaderInstance))
}

func TestWhatIsNotGrantedIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		name, procedure, reason string
		code                    connect.Code
	}{
		{"a contract that the manifest does not call", "/acme.outer.v1.Test/Serve", hostapi.ReasonScopeMissing, connect.CodePermissionDenied},
		{"the lifecycle, though the manifest lists it", "/entrepot.plugin.v1.PluginService/Drain", hostapi.ReasonScopeMissing, connect.CodePermissionDenied},
		{"a kernel contract that is not served here", "/entrepot.operator.v1.OperatorService/GetStatus", hostapi.ReasonScopeMissing, connect.CodePermissionDenied},
		{"a method without access rule", "/acme.inner.v1.Test/ForNobody", router.ReasonAccessUndeclared, connect.CodePermissionDenied},
		{"a method for consumers", "/acme.inner.v1.Test/ForConsumers", router.ReasonAccessDenied, connect.CodePermissionDenied},
		{"a contract that nothing serves", "/acme.gone.v1.Test/Do", router.ReasonMethodUnknown, connect.CodeUnimplemented},
		{"no procedure at all", "/healthz", router.ReasonMethodUnknown, connect.CodeUnimplemented},
		{"a kernel method without implementation", "/entrepot.kernel.v1.StateService/PutState", "", connect.CodeUnimplemented},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := plugintest.Call(t.Context(), h.socket, connect.Spec{Procedure: c.procedure}, "")
			require.Equal(t, c.code, connect.CodeOf(err))
			require.Equal(t, c.reason, fault.Reason(err))
		})
	}
}

func TestACircleOfCallsEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	depth := 0
	var last error
	info := call.Info{}
	again := func(ctx context.Context) {
		depth++
		in := call.From(ctx)
		_, _, last = h.caller.Unary(ctx, h.outer.Procedure("Serve"), call.Info{RequestID: in.RequestID}, nil)
	}
	h.serve(t, info, again)
	require.Equal(t, router.MaxHops, depth-1)
	require.NoError(t, last, "only the innermost call is refused")
}

func TestAPluginsOpenCallsAreBounded(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	inside, leave := make(chan struct{}), make(chan struct{})
	p := plugintest.Start(t, reg, plugintest.Plugin{
		Name: "inner", Contract: "acme.inner.v1",
		Methods: []plugintest.Method{{Name: "Wait", Access: plugintest.ForPlugins, Unary: func(context.Context, string) (string, error) {
			close(inside)
			<-leave
			return "", nil
		}}},
	})
	host, err := hostapi.New(hostapi.Config{Router: router.New(router.Config{Registry: reg}), Kernel: connect.NewServer(), MaxInFlight: 1})
	require.NoError(t, err)
	manifest := &pluginv1.Manifest{Calls: []string{"acme.inner.v1"}}
	mine := plugintest.Listen(t, host.Handler("outer", manifest))
	c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, false), mine.URL))
	done := make(chan error, 1)
	go func() {
		_, err := plugintest.Call(t.Context(), c, p.Spec("Wait"), "")
		done <- err
	}()
	<-inside
	_, err = plugintest.Call(t.Context(), c, p.Spec("Wait"), "")
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	close(leave)
	require.NoError(t, <-done)
}

// Whatever a plugin writes into its headers, it is itself, or one of those it
// serves now.
func FuzzForgedHeaders(f *testing.F) {
	reg := registry.New()
	seen := ""
	p := plugintest.Start(f, reg, plugintest.Plugin{
		Name: "inner", Contract: "acme.inner.v1",
		Methods: []plugintest.Method{{Name: "Facts", Access: plugintest.ForPlugins, Unary: func(ctx context.Context, s string) (string, error) {
			seen = call.From(ctx).Principal.String() + call.From(ctx).Caller
			return s, nil
		}}},
	})
	host, err := hostapi.New(hostapi.Config{Router: router.New(router.Config{Registry: reg}), Kernel: connect.NewServer(), Markets: []string{"GB"}})
	require.NoError(f, err)
	manifest := proto.CloneOf(p.Manifest)
	manifest.Calls = []string{"acme.inner.v1"}
	s := plugintest.Listen(f, host.Handler("outer", manifest))
	c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(f, false), s.URL))
	f.Add("operator;acc_0;;;;*", "payment", "id.1", "s/1/do/1")
	f.Fuzz(func(t *testing.T, principal, caller, id, step string) {
		seen = ""
		_, _ = plugintest.Call(t.Context(), c, p.Spec("Facts"), "",
			call.HeaderPrincipal, principal, call.HeaderCaller, caller, call.HeaderRequestID, id, call.HeaderStep, step)
		require.Contains(t, []string{"", "plugin outerouter"}, seen)
	})
}

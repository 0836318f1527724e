package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/entrepot/entrepot/core/gateway"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

func dial(t *testing.T, s *shop) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.server.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func TestLiveAndReady(t *testing.T) {
	t.Parallel()
	reasons := []string{"plugin shop is quarantined"}
	s := open(t, func(_ *gateway.Config, p *gateway.Parts) { p.Ready = func() []string { return reasons } })
	health := healthv1.NewHealthClient(dial(t, s))
	check := func(service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
		res, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		return res.GetStatus(), err
	}
	code, _, body := s.do(t, http.MethodGet, "/healthz", "")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"status":"live"}`, body)
	code, _, body = s.do(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"ready":false,"reasons":["plugin shop is quarantined"]}`, body)
	got, err := check("")
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_NOT_SERVING, got)

	reasons = nil
	code, _, body = s.do(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"ready":true,"reasons":[]}`, body)
	for _, service := range []string{"", "acme.shop.v1.Test", "entrepot.identity.v1.IdentityService"} {
		got, err = check(service)
		require.NoError(t, err)
		require.Equal(t, healthv1.HealthCheckResponse_SERVING, got, service)
	}
	_, err = check("acme.none.v1.Test")
	require.EqualValues(t, connect.CodeNotFound, status.Code(err))
	s.plugin.Register(t, s.reg, false)
	got, err = check("acme.shop.v1.Test")
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_NOT_SERVING, got, "its only instance is not healthy")
}

func TestReflectionTellsWhatCanBeCalled(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	plugintest.Start(t, s.reg, plugintest.Plugin{
		Name: "psp", Contract: "acme.psp.v1", Methods: []plugintest.Method{{Name: "Do", Access: plugintest.ForPlugins}},
	})
	stream, err := reflectionv1.NewServerReflectionClient(dial(t, s)).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	ask := func(req *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		require.NoError(t, stream.Send(req))
		res, err := stream.Recv()
		require.NoError(t, err)
		return res
	}
	var names []string
	for _, svc := range ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	require.Contains(t, names, "acme.shop.v1.Test")
	require.Contains(t, names, "entrepot.identity.v1.IdentityService")
	require.Contains(t, names, "grpc.health.v1.Health")
	require.NotContains(t, names, "acme.psp.v1.Test", "it is for plugins only")
	require.True(t, slices.IsSorted(names))

	// As clients do: a symbol, then whatever it imports, until it can be built.
	for _, symbol := range []string{"acme.shop.v1.Test", "acme.shop.v1.Test.Echo", "entrepot.identity.v1.LoginRequest"} {
		res := ask(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
		})
		require.NotEmpty(t, res.GetFileDescriptorResponse().GetFileDescriptorProto(), symbol)
	}
	set := &descriptorpb.FileDescriptorSet{}
	pending, have := []string{"acme.shop.v1.proto"}, map[string]bool{}
	for len(pending) > 0 {
		res := ask(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: pending[0]},
		})
		pending = pending[1:]
		for _, raw := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
			f := &descriptorpb.FileDescriptorProto{}
			require.NoError(t, proto.Unmarshal(raw, f))
			if !have[f.GetName()] {
				have[f.GetName()] = true
				set.File = append(set.File, f)
				pending = append(pending, f.GetDependency()...)
			}
		}
	}
	files, err := protodesc.NewFiles(set)
	require.NoError(t, err)
	_, err = files.FindDescriptorByName("acme.shop.v1.Test.Echo")
	require.NoError(t, err)

	numbers := ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: "google.protobuf.MethodOptions"},
	}).GetAllExtensionNumbersResponse().GetExtensionNumber()
	require.Contains(t, numbers, int32(50010))
	require.NotEmpty(t, ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingExtension{FileContainingExtension: &reflectionv1.ExtensionRequest{
			ContainingType: "google.protobuf.MethodOptions", ExtensionNumber: 50010,
		}},
	}).GetFileDescriptorResponse().GetFileDescriptorProto())
	for _, req := range []*reflectionv1.ServerReflectionRequest{
		{},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: "/etc/passwd"}},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "..."}},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingExtension{}},
	} {
		require.EqualValues(t, connect.CodeNotFound, ask(req).GetErrorResponse().GetErrorCode())
	}
	require.NoError(t, stream.CloseSend())

	old, err := reflectionv1alpha.NewServerReflectionClient(dial(t, s)).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, old.Send(&reflectionv1alpha.ServerReflectionRequest{
		MessageRequest: &reflectionv1alpha.ServerReflectionRequest_ListServices{},
	}))
	res, err := old.Recv()
	require.NoError(t, err)
	require.Len(t, res.GetListServicesResponse().GetService(), len(names))
}

// hooks is a provider that takes webhooks.
func hooks(handle func(context.Context, *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error)) plugintest.Plugin {
	return plugintest.Plugin{
		Name: "psp", Contract: "acme.psp.v1", Instances: []string{"psp-de"}, Capabilities: []string{"webhook"},
		Methods: []plugintest.Method{{Name: "Do", Access: plugintest.ForPlugins}},
		Extra: []connect.Method{{
			Spec: connect.Spec{Procedure: pluginv1connect.WebhookServiceHandleWebhookProcedure},
			Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
				req := &pluginv1.HandleWebhookRequest{}
				if err := stream.Receive(req); err != nil {
					return err
				}
				res, err := handle(ctx, req)
				if err != nil {
					return err
				}
				return stream.Send(res)
			},
		}},
	}
}

func TestAWebhookReachesItsInstanceAsItCame(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	var got *pluginv1.HandleWebhookRequest
	var info call.Info
	plugintest.Start(t, s.reg, hooks(func(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
		got, info = req, call.From(ctx)
		return &pluginv1.HandleWebhookResponse{Status: 202, Body: []byte("thanks"), ContentType: "text/plain"}, nil
	}))
	raw := "{ \"id\" : 1,\x00 \xff }"
	code, h, body := s.do(t, http.MethodPut, "/webhooks/psp-de/pay/in?a=1&b=%20", raw,
		"Content-Type", "application/json", "Webhook-Signature", "v1,abc", "Stripe-Signature", "t=1", "X-Event", "paid",
		"Authorization", "Basic Zm9v", "Cookie", "a=b", "X-Forwarded-For", "6.6.6.6", call.HeaderPrincipal, "operator;;;;;*", "Entrepot-Signature", "x")
	require.Equal(t, 202, code)
	require.Equal(t, "thanks", body)
	require.Contains(t, h.Get("Content-Security-Policy"), "sandbox")
	require.Equal(t, []string{"psp-de", "PUT", "/pay/in", "a=1&b=%20", raw}, []string{
		got.GetInstance(), got.GetMethod(), got.GetPath(), got.GetQuery(), string(got.GetBody()),
	})
	require.Equal(t, call.Nobody, info.Principal.Kind)
	for name, want := range map[string]string{
		"Webhook-Signature": "v1,abc", "Stripe-Signature": "t=1", "X-Event": "paid", "Authorization": "Basic Zm9v", "Content-Type": "application/json",
		"Cookie": "", "X-Forwarded-For": "", call.HeaderPrincipal: "", "Entrepot-Signature": "",
	} {
		require.Equal(t, want, got.GetHeaders()[name], name)
	}
}

func TestWebhooksThatGoNowhereOrWrong(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	var answer *pluginv1.HandleWebhookResponse
	var fail error
	run := plugintest.Start(t, s.reg, hooks(func(context.Context, *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
		return answer, fail
	}))
	post := func(path, body string) int {
		code, _, text := s.do(t, http.MethodPost, path, body)
		require.NotContains(t, text, "secret")
		return code
	}
	require.Equal(t, http.StatusNotFound, post("/webhooks/nobody", ""))
	require.Equal(t, http.StatusNotFound, post("/webhooks/", ""))
	require.Equal(t, http.StatusNotFound, post("/webhooks/shop", ""), "its manifest does not declare webhooks")
	require.Equal(t, http.StatusRequestEntityTooLarge, post("/webhooks/psp-de", strings.Repeat("x", 1<<20+1)))
	require.Equal(t, http.StatusBadRequest, post("/webhooks/psp-de/%ff", ""))
	answer = &pluginv1.HandleWebhookResponse{}
	require.Equal(t, http.StatusOK, post("/webhooks/psp-de", ""))
	answer = &pluginv1.HandleWebhookResponse{Status: 101}
	require.Equal(t, http.StatusInternalServerError, post("/webhooks/psp-de", ""))
	for want, err := range map[int]error{
		http.StatusInternalServerError: connect.NewError(connect.CodeInternal, "secret"),
		http.StatusForbidden:           connect.NewError(connect.CodePermissionDenied, "secret"),
		http.StatusBadRequest:          connect.NewError(connect.CodeInvalidArgument, "secret"),
		http.StatusServiceUnavailable:  connect.NewError(connect.CodeUnavailable, "secret"),
	} {
		fail = err
		require.Equal(t, want, post("/webhooks/psp-de", ""))
	}
	run.Process.Close()
	require.Equal(t, http.StatusServiceUnavailable, post("/webhooks/psp-de", ""))
}

func TestScriptsOfAllowedOriginsMayCall(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, _ *gateway.Parts) { c.AllowedOrigins = []string{"https://shop.example"} })
	preflight := func(origin string) http.Header {
		code, h, _ := s.do(t, http.MethodOptions, s.plugin.Procedure("Echo"), "",
			"Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
		require.Equal(t, http.StatusNoContent, code)
		return h
	}
	h := preflight("https://shop.example")
	require.Equal(t, "https://shop.example", h.Get("Access-Control-Allow-Origin"))
	for _, name := range []string{"Authorization", "Connect-Protocol-Version", call.HeaderMarket, call.HeaderIdempotencyKey} {
		require.Contains(t, h.Get("Access-Control-Allow-Headers"), name)
	}
	require.Empty(t, preflight("https://evil.example").Get("Access-Control-Allow-Origin"))
	_, h, _ = s.do(t, http.MethodPost, s.plugin.Procedure("Echo"), `"x"`, "Content-Type", "application/json", "Origin", "https://shop.example")
	require.Equal(t, "https://shop.example", h.Get("Access-Control-Allow-Origin"))
	require.Contains(t, h.Get("Access-Control-Expose-Headers"), "Grpc-Status")
	require.Contains(t, h.Values("Vary"), "Origin")
}

func TestMetricsCountByMethodAndCode(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, _ *gateway.Parts) { c.Metrics = true })
	_, err := s.facts(t)
	require.NoError(t, err)
	_, err = plugintest.Call(t.Context(), s.client, s.plugin.Spec("Operators"), "")
	require.Error(t, err)
	grpcClient := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, true), s.server.URL, connecthttp.WithGRPC()))
	_, err = plugintest.Call(t.Context(), grpcClient, s.plugin.Spec("Echo"), "x")
	require.NoError(t, err)
	_, err = plugintest.Call(t.Context(), grpcClient, s.plugin.Spec("Writers"), "x", as("reader")...)
	require.Error(t, err)
	for _, path := range []string{"/acme.made.up.v1/One", "/acme.made.up.v1/Two"} {
		s.do(t, http.MethodPost, path, "{}", "Content-Type", "application/json")
	}
	_, _, body := s.do(t, http.MethodGet, "/metrics", "")
	for _, line := range []string{
		`entrepot_gateway_calls_total{code="ok",method="/acme.shop.v1.Test/Facts"} 1`,
		`entrepot_gateway_calls_total{code="unauthenticated",method="/acme.shop.v1.Test/Operators"} 1`,
		`entrepot_gateway_calls_total{code="ok",method="/acme.shop.v1.Test/Echo"} 1`,
		`entrepot_gateway_calls_total{code="permission_denied",method="/acme.shop.v1.Test/Writers"} 1`,
		`entrepot_gateway_calls_total{code="unimplemented",method="unknown"} 2`,
	} {
		require.Contains(t, body, line)
	}
	require.NotContains(t, body, "made.up")
}

func TestTheClientsAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, remote, forwarded, want string
	}{
		{"the connection's", "203.0.113.7:4711", "", "203.0.113.7"},
		{"what a stranger forwards is not believed", "203.0.113.7:4711", "1.2.3.4", "203.0.113.7"},
		{"what a proxy forwards is", "10.0.0.1:80", "198.51.100.9", "198.51.100.9"},
		{"the last that is no proxy", "10.0.0.1:80", "1.1.1.1, 198.51.100.9, 10.0.0.2", "198.51.100.9"},
		{"rubbish ends at the proxy", "10.0.0.1:80", "nobody", "10.0.0.1"},
		{"an IPv4 address within IPv6", "[::ffff:203.0.113.7]:1", "", "203.0.113.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan string, 1)
			g := bare(t, func(cfg *gateway.Config) { cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
				func(ctx context.Context) { seen <- gateway.ClientAddress(ctx).String() })
			r := httptest.NewRequest(http.MethodPost, "/entrepot.identity.v1.IdentityService/Login", strings.NewReader("{}"))
			r.RemoteAddr = c.remote
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer any")
			if c.forwarded != "" {
				r.Header.Set("X-Forwarded-For", c.forwarded)
			}
			g.ServeHTTP(httptest.NewRecorder(), r)
			require.Equal(t, c.want, <-seen)
		})
	}
}

// bare is a gateway without plugins, whose authenticator refuses everybody
// but tells the context of the call at hand.
func bare(t testing.TB, change func(*gateway.Config), seen func(context.Context)) *gateway.Gateway {
	t.Helper()
	cfg := gateway.Config{Markets: []string{"GB"}, RatePerSecond: -1}
	if change != nil {
		change(&cfg)
	}
	g, err := gateway.New(cfg, gateway.Parts{
		Router: router.New(router.Config{Registry: registry.New()}), Authenticator: watcher(seen),
	})
	require.NoError(t, err)
	return g
}

type watcher func(context.Context)

func (w watcher) Authenticate(ctx context.Context, _ string) (call.Principal, string, error) {
	if w != nil {
		w(ctx)
	}
	return call.Principal{}, "", http.ErrNoCookie
}

// Whatever a client sends, it gets an answer with a status, and JSON where
// there is a body.
func FuzzGateway(f *testing.F) {
	g := bare(f, nil, nil)
	f.Add("POST", "/grpc.health.v1.Health/Check", "application/json", "{}", "Bearer x", "GB", "k", "10")
	f.Add("GET", "/webhooks/x/../y", "", "", "", "", "", "")
	f.Add("POST", "/a.b/c", "application/grpc+proto", "\x00\x00\x00\x00\x01x", "", "XX", "", "1S")
	f.Fuzz(func(t *testing.T, method, path, kind, body, authorization, market, key, timeout string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://h/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path, r.RemoteAddr = path, "192.0.2.1:1"
		r.Header = http.Header{
			"Content-Type": {kind}, "Authorization": {authorization}, call.HeaderMarket: {market},
			call.HeaderIdempotencyKey: {key}, "Connect-Timeout-Ms": {timeout}, "Grpc-Timeout": {timeout}, call.HeaderTraceparent: {key},
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		require.GreaterOrEqual(t, w.Code, 200)
		if w.Header().Get("Content-Type") == "application/json" && w.Body.Len() > 0 {
			require.True(t, json.Valid(w.Body.Bytes()))
		}
	})
}

package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/gateway"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// people are who a token stands for: the token is the key.
var people = map[string]call.Principal{
	"consumer": {Kind: call.Consumer, Account: "acc_consumer", Subject: "sub_1"},
	"reader":   {Kind: call.Merchant, Account: "acc_reader", Merchant: "mrc_1", Permissions: []string{"catalog.read"}},
	"writer":   {Kind: call.Merchant, Account: "acc_writer", Merchant: "mrc_1", Permissions: []string{"catalog.write"}},
	"owner":    {Kind: call.Merchant, Account: "acc_owner", Merchant: "mrc_1", Permissions: []string{"*"}},
	"clerk":    {Kind: call.Staff, Account: "acc_clerk", Permissions: []string{"catalog.write"}},
	"operator": {Kind: call.Operator, Account: "acc_operator"},
	"plugin":   {Kind: call.Plugin, Plugin: "order"},
}

type tokens struct{}

func (tokens) Authenticate(_ context.Context, bearer string) (call.Principal, string, error) {
	p, ok := people[bearer]
	if !ok {
		return call.Principal{}, "", errors.New("secret of the inside")
	}
	if bearer == "consumer" {
		return p, "JP", nil
	}
	return p, "", nil
}

type self struct {
	identityv1connect.UnimplementedIdentityServiceHandler
}

func (self) GetSelf(ctx context.Context, _ *identityv1.GetSelfRequest) (*identityv1.GetSelfResponse, error) {
	i := call.From(ctx)
	return &identityv1.GetSelfResponse{Self: &identityv1.Self{AccountId: i.Principal.Account, Market: i.Market}}, nil
}

func (self) Login(ctx context.Context, _ *identityv1.LoginRequest) (*identityv1.LoginResponse, error) {
	return nil, connect.NewError(connect.CodeUnauthenticated, "from "+gateway.ClientAddress(ctx).String())
}

type shop struct {
	reg    *registry.Registry
	router *router.Router
	plugin *plugintest.Running
	server *httptest.Server
	client *connect.Client
}

func access(permission string, a ...optionsv1.Audience) *optionsv1.Access {
	return plugintest.Allow(permission, a...)
}

func open(t testing.TB, change func(*gateway.Config, *gateway.Parts), edit ...func(*plugintest.Plugin)) *shop {
	t.Helper()
	s := &shop{reg: registry.New()}
	facts := func(ctx context.Context, _ string) (string, error) {
		i := call.From(ctx)
		step := "no step"
		if i.Step != nil {
			step = "step"
		}
		return strings.Join([]string{i.Principal.String(), i.Market, i.Instance, i.Caller, i.IdempotencyKey, step}, "|"), nil
	}
	echo := func(_ context.Context, text string) (string, error) { return text, nil }
	p := plugintest.Plugin{
		Name: "shop", Contract: "acme.shop.v1",
		Methods: []plugintest.Method{
			{Name: "Facts", Access: plugintest.Public, NoSideEffects: true, Unary: facts},
			{Name: "Echo", Access: plugintest.Public, Unary: echo},
			{Name: "Count", Access: plugintest.Public, Kind: connect.StreamTypeServer, Stream: func(_ context.Context, st connect.ServerStream) error {
				in := &wrapperspb.StringValue{}
				if err := st.Receive(in); err != nil {
					return err
				}
				for _, c := range in.GetValue() {
					if err := st.Send(wrapperspb.String(string(c))); err != nil {
						return err
					}
				}
				return nil
			}},
			{Name: "Consumers", Access: access("", optionsv1.Audience_AUDIENCE_CONSUMER), Unary: echo},
			{Name: "Writers", Access: access("catalog.write", optionsv1.Audience_AUDIENCE_MERCHANT), Unary: echo},
			{Name: "WritersAndStaff", Access: access("catalog.write", optionsv1.Audience_AUDIENCE_MERCHANT, optionsv1.Audience_AUDIENCE_STAFF), Unary: echo},
			{Name: "Operators", Access: access("", optionsv1.Audience_AUDIENCE_OPERATOR), Unary: echo},
			{Name: "Plugins", Access: plugintest.ForPlugins, Unary: echo},
			{Name: "ConsumersAndPlugins", Access: access("", optionsv1.Audience_AUDIENCE_CONSUMER, optionsv1.Audience_AUDIENCE_PLUGIN), Unary: echo},
			{Name: "Undeclared", Unary: echo},
			{Name: "Empty", Access: &optionsv1.Access{}, Unary: echo},
		},
	}
	for _, e := range edit {
		e(&p)
	}
	s.plugin = plugintest.Start(t, s.reg, p)
	s.router = router.New(router.Config{Registry: s.reg})
	kernel := connect.NewServer()
	identityv1connect.RegisterIdentityServiceHandler(kernel, self{})
	cfg := gateway.Config{Markets: []string{"GB", "DE", "JP"}, DefaultMarket: "GB", RatePerSecond: -1}
	parts := gateway.Parts{Router: s.router, Kernel: kernel, Authenticator: tokens{}}
	if change != nil {
		change(&cfg, &parts)
	}
	g, err := gateway.New(cfg, parts)
	require.NoError(t, err)
	s.server = httptest.NewUnstartedServer(nil)
	s.server.Config = g.Server()
	s.server.Start()
	t.Cleanup(s.server.Close)
	s.client = connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, true), s.server.URL))
	return s
}

func (s *shop) facts(t *testing.T, header ...string) (string, error) {
	t.Helper()
	return plugintest.Call(t.Context(), s.client, s.plugin.Spec("Facts"), "", header...)
}

func as(token string) []string { return []string{"Authorization", "Bearer " + token} }

// do makes a plain HTTP request and gives back status, headers and body.
func (s *shop) do(t testing.TB, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, string(text)
}

func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const (
		ok  = connect.Code(0)
		no  = connect.CodePermissionDenied
		who = connect.CodeUnauthenticated
	)
	names := []string{"", "consumer", "reader", "writer", "owner", "clerk", "operator"}
	for method, want := range map[string][]connect.Code{
		"Echo":                {ok, ok, ok, ok, ok, ok, ok},
		"Consumers":           {who, ok, no, no, no, no, no},
		"Writers":             {who, no, no, ok, ok, no, no},
		"WritersAndStaff":     {who, no, no, ok, ok, ok, no},
		"Operators":           {who, no, no, no, no, no, ok},
		"Plugins":             {no, no, no, no, no, no, no},
		"ConsumersAndPlugins": {who, ok, no, no, no, no, no},
		"Undeclared":          {no, no, no, no, no, no, no},
		"Empty":               {no, no, no, no, no, no, no},
	} {
		for i, name := range names {
			var header []string
			if name != "" {
				header = as(name)
			}
			_, err := plugintest.Call(t.Context(), s.client, s.plugin.Spec(method), "x", header...)
			require.Equal(t, want[i], plugintest.Code(err), "%s by %q: %v", method, name, err)
		}
	}
}

func TestABadTokenIsRefusedOnPublicMethodsToo(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, authorization := range []string{
		"Bearer expired", "Bearer plugin", "Bearer ", "Bearer", "Basic consumer", "consumer", "Bearer " + strings.Repeat("x", 9000),
	} {
		_, err := s.facts(t, "Authorization", authorization)
		require.Equal(t, connect.CodeUnauthenticated, plugintest.Code(err), authorization)
		require.Equal(t, gateway.ReasonTokenInvalid, fault.Reason(err))
		require.NotContains(t, err.Error(), "inside")
	}
	_, h, _ := s.do(t, http.MethodPost, s.plugin.Procedure("Echo"), `"x"`, "Content-Type", "application/json", "Authorization", "Bearer expired")
	require.Equal(t, `Bearer error="invalid_token"`, h.Get("WWW-Authenticate"))
	got, err := s.facts(t, "Authorization", "bearer  writer")
	require.NoError(t, err, "the scheme's case does not matter")
	require.Contains(t, got, "merchant mrc_1")
}

func TestNothingAClientSaysIsBelievedButItsTokenAndMarket(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	forged := call.Info{
		Principal: call.Principal{Kind: call.Operator, Account: "acc_0", Permissions: []string{"*"}},
		Caller:    "order", Instance: "other", RequestID: "mine", Step: &call.Step{Saga: "s", N: 1, Epoch: 9},
	}
	header := []string{call.HeaderIdempotencyKey, "key-1", call.HeaderEvents, "9", call.HeaderRecorded, "done"}
	forged.Encode(func(k, v string) { header = append(header, k, v) })
	got, err := s.facts(t, header...)
	require.NoError(t, err)
	require.Equal(t, "guest|GB|shop||key-1|no step", got)
	got, err = s.facts(t, append(header, as("consumer")...)...)
	require.NoError(t, err)
	require.Equal(t, "consumer acc_consumer|JP|shop||key-1|no step", got)
}

func TestAPluginSeesNoCredentials(t *testing.T) {
	t.Parallel()
	seen := make(chan http.Header, 1)
	s := open(t, nil, func(p *plugintest.Plugin) {
		p.Wrap = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen <- r.Header.Clone()
				w.Header().Set(call.HeaderPrincipal, "operator")
				w.Header().Set("Set-Cookie", "a=b")
				h.ServeHTTP(w, r)
			})
		}
	})
	status, h, _ := s.do(t, http.MethodPost, s.plugin.Procedure("Echo"), `"x"`, "Content-Type", "application/json",
		"Authorization", "Bearer consumer", "Cookie", "session=1", "X-Forwarded-For", "1.2.3.4", "Connection", "X-Hop", "X-Hop", "1")
	require.Equal(t, http.StatusOK, status)
	got := <-seen
	for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-For", "X-Hop"} {
		require.Empty(t, got.Get(name), name)
	}
	require.NotEmpty(t, got.Get(call.HeaderRequestID))
	require.Regexp(t, "^00-[0-9a-f]{32}-[0-9a-f]{16}-00$", got.Get(call.HeaderTraceparent))
	require.NotEmpty(t, got.Get("Connect-Timeout-Ms"))
	require.Empty(t, h.Get(call.HeaderPrincipal))
	require.Empty(t, h.Get("Set-Cookie"))
	require.True(t, strings.HasPrefix(got.Get(call.HeaderRequestID), h.Get("X-Request-Id")))
}

func TestTheMarket(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, c := range []struct {
		name   string
		header []string
		want   string
	}{
		{"the default for a guest", nil, "guest|GB|"},
		{"what a guest asks for", []string{call.HeaderMarket, "DE"}, "guest|DE|"},
		{"the consumer's own", as("consumer"), "consumer acc_consumer|JP|"},
		{"what a consumer asks for", append(as("consumer"), call.HeaderMarket, "DE"), "consumer acc_consumer|DE|"},
		{"the default for one who has none", as("operator"), "operator acc_operator|GB|"},
	} {
		got, err := s.facts(t, c.header...)
		require.NoError(t, err, c.name)
		require.Contains(t, got, c.want, c.name)
	}
	for _, bad := range []string{"US", "gb", "GBR", "DE,GB"} {
		_, err := s.facts(t, call.HeaderMarket, bad)
		require.Equal(t, connect.CodeInvalidArgument, plugintest.Code(err))
		require.ErrorContains(t, err, "GB, DE, JP")
	}
}

func TestEveryProtocolPassesTheGateway(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for name, c := range map[string]struct {
		http2 bool
		opts  []connecthttp.Option
	}{
		"Connect proto": {false, nil},
		"Connect JSON":  {false, []connecthttp.Option{connecthttp.WithProtoJSON()}},
		"Connect GET":   {false, []connecthttp.Option{connecthttp.WithHTTPGet()}},
		"gRPC":          {true, []connecthttp.Option{connecthttp.WithGRPC()}},
		"gRPC-Web":      {false, []connecthttp.Option{connecthttp.WithGRPCWeb()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, c.http2), s.server.URL, c.opts...))
			got, err := plugintest.Call(t.Context(), client, s.plugin.Spec("Facts"), "", as("writer")...)
			require.NoError(t, err)
			require.Contains(t, got, "merchant mrc_1")
			_, err = plugintest.Call(t.Context(), client, s.plugin.Spec("Operators"), "")
			require.Equal(t, connect.CodeUnauthenticated, plugintest.Code(err))
			_, err = plugintest.Call(t.Context(), client, s.plugin.Spec("Nonesuch"), "")
			require.Equal(t, connect.CodeUnimplemented, plugintest.Code(err))

			st, err := client.CallServerStream(t.Context(), s.plugin.Spec("Count"), wrapperspb.String("abc"))
			require.NoError(t, err)
			n := 0
			for ; err == nil; n++ {
				err = st.Receive(&wrapperspb.StringValue{})
			}
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, 4, n)

			identity := identityv1connect.NewIdentityServiceClient(client)
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("Authorization", "Bearer consumer")
			self, err := identity.GetSelf(ctx, &identityv1.GetSelfRequest{})
			require.NoError(t, err)
			require.Equal(t, "acc_consumer", self.GetSelf().GetAccountId())
			require.Equal(t, "JP", self.GetSelf().GetMarket())
			_, err = identity.GetSelf(t.Context(), &identityv1.GetSelfRequest{})
			require.Equal(t, connect.CodeUnauthenticated, plugintest.Code(err), "the kernel's own services have rules too")
			_, err = identity.Login(t.Context(), &identityv1.LoginRequest{})
			require.ErrorContains(t, err, "from 127.0.0.1")
		})
	}
}

func TestMalformedInputIsAnsweredAndHarmsNothing(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, _ *gateway.Parts) { c.MaxBody = 4096 })
	echo, get := s.plugin.Procedure("Echo"), s.plugin.Procedure("Facts")
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
	}{
		{"broken JSON", "POST", echo, `{"value":`, []string{"Content-Type", "application/json"}, 400},
		{"JSON of another shape", "POST", echo, `[1,2]`, []string{"Content-Type", "application/json"}, 400},
		{"broken protobuf", "POST", echo, "\xff\xff\xff", []string{"Content-Type", "application/proto"}, 400},
		{"broken gzip", "POST", echo, "x", []string{"Content-Type", "application/proto", "Content-Encoding", "gzip"}, 400},
		{"an unknown encoding", "POST", echo, "x", []string{"Content-Type", "application/proto", "Content-Encoding", "br"}, 501},
		{"an unknown media type", "POST", echo, "x", []string{"Content-Type", "text/plain"}, 415},
		{"no media type", "POST", echo, "x", nil, 415},
		{"a method that HTTP does not use here", "PUT", echo, "", nil, 405},
		{"GET of a method with effects", "GET", echo, "", nil, 405},
		{"GET without a message", "GET", get, "", nil, 415},
		{"GET with a broken message", "GET", get + "?encoding=json&message=%7B", "", nil, 400},
		{"a broken timeout", "POST", echo, `"x"`, []string{"Content-Type", "application/json", "Connect-Timeout-Ms", "soon"}, 400},
		{"a body over the limit", "POST", echo, `"` + strings.Repeat("x", 5000) + `"`, []string{"Content-Type", "application/json"}, 429},
		{"a key over the limit", "POST", echo, `"x"`, []string{"Content-Type", "application/json", "Idempotency-Key", strings.Repeat("k", 201)}, 400},
		{"a body over the limit for the kernel", "POST", "/entrepot.identity.v1.IdentityService/Login", `{"email":"` + strings.Repeat("x", 5000) + `"}`, []string{"Content-Type", "application/json"}, 429},
		{"the lifecycle", "POST", "/entrepot.plugin.v1.PluginService/Drain", `{}`, []string{"Content-Type", "application/json"}, 501},
		{"a host service", "POST", "/entrepot.kernel.v1.VaultService/Reveal", `{}`, []string{"Content-Type", "application/json"}, 501},
		{"a path of nothing", "GET", "/", "", nil, 404},
		{"a path of dots", "GET", "/../../etc/passwd", "", nil, 404},
		{"metrics that are off", "GET", "/metrics", "", nil, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			status, _, body := s.do(t, c.method, c.path, c.body, c.header...)
			require.Equal(t, c.status, status, body)
			if body != "" {
				require.True(t, json.Valid([]byte(body)), body)
			}
		})
	}
	got, err := s.facts(t)
	require.NoError(t, err)
	require.Contains(t, got, "guest")
}

func TestAnUnknownPathTellsWhereToLook(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	status, _, body := s.do(t, http.MethodGet, "/products", "")
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, body, "/healthz")
	require.Contains(t, body, "grpc.reflection.v1.ServerReflection")
}

func TestTooManyCallsAreRefusedWithAHint(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *gateway.Config, _ *gateway.Parts) { c.RatePerSecond, c.RateBurst = 0.001, 3 })
	for _, who := range [][]string{nil, as("consumer")} {
		for range 3 {
			_, err := s.facts(t, who...)
			require.NoError(t, err, "an account has an allowance of its own")
		}
		_, err := s.facts(t, who...)
		requireExhausted(t, err)
	}
	_, err := s.facts(t, as("expired")...)
	requireExhausted(t, err) // guessing tokens uses the address's
	status, _, _ := s.do(t, http.MethodGet, "/healthz", "")
	require.Equal(t, http.StatusOK, status, "whoever looks after it still gets through")
}

func requireExhausted(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, connect.CodeResourceExhausted, plugintest.Code(err))
	retry, ok := fault.Detail[*errdetails.RetryInfo](err)
	require.True(t, ok)
	require.Positive(t, retry.GetRetryDelay().AsDuration())
}

func TestOneCallMoreThanFitsIsRefused(t *testing.T) {
	t.Parallel()
	inside, leave := make(chan struct{}), make(chan struct{})
	s := open(t, func(c *gateway.Config, _ *gateway.Parts) { c.MaxInFlight = 1 }, func(p *plugintest.Plugin) {
		p.Methods = append(p.Methods, plugintest.Method{Name: "Wait", Access: plugintest.Public, Unary: func(context.Context, string) (string, error) {
			close(inside)
			<-leave
			return "", nil
		}})
	})
	done := make(chan error, 1)
	go func() {
		_, err := plugintest.Call(t.Context(), s.client, s.plugin.Spec("Wait"), "")
		done <- err
	}()
	<-inside
	_, err := s.facts(t)
	requireExhausted(t, err)
	close(leave)
	require.NoError(t, <-done)
	_, err = s.facts(t)
	require.NoError(t, err)
}

func TestADefectInAnAuthenticatorEndsOneCallOnly(t *testing.T) {
	t.Parallel()
	s := open(t, func(_ *gateway.Config, p *gateway.Parts) { p.Authenticator = broken{} })
	_, err := s.facts(t, as("any")...)
	require.Equal(t, connect.CodeInternal, plugintest.Code(err))
	require.NotContains(t, err.Error(), "defect")
	_, err = s.facts(t)
	require.NoError(t, err)
}

type broken struct{}

func (broken) Authenticate(context.Context, string) (call.Principal, string, error) {
	panic("a defect")
}

func TestAConfigurationIsRefusedWithAllThatIsWrong(t *testing.T) {
	t.Parallel()
	err := gateway.Config{
		Address: "nowhere", Markets: []string{"Japan"}, DefaultMarket: "GB", MaxBody: -1, AllowedOrigins: []string{"shop.example", "https://a.example/x"},
	}.Validate()
	for _, words := range []string{`"nowhere" is not host:port`, `"Japan" is not two capital`, `"GB" is none of`, "MaxBody is negative", `"shop.example"`, `"https://a.example/x"`} {
		require.ErrorContains(t, err, words)
	}
	require.NoError(t, gateway.Config{Markets: []string{"GB"}, AllowedOrigins: []string{"*", "http://localhost:3000"}}.Validate())
	require.ErrorContains(t, gateway.Config{}.Validate(), "Markets is empty")
}

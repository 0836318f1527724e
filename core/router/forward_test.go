package router_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

var limits = router.Limits{Body: 1 << 20, StreamBody: 4 << 20, Time: 20 * time.Second, StreamTime: 20 * time.Second}

// front serves a router, each call with the same facts.
func front(t testing.TB, r *router.Router, info call.Info, l router.Limits) *httptest.Server {
	return plugintest.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		m := r.Snapshot().Methods[req.URL.Path]
		if m == nil {
			router.WriteError(w, req, router.UnknownMethod(req.URL.Path))
			return
		}
		r.Forward(w, req, m, info, l)
	}))
}

func echo() plugintest.Plugin {
	return plugintest.Plugin{
		Name: "echo", Contract: "acme.echo.v1",
		Methods: []plugintest.Method{
			{Name: "Get", NoSideEffects: true, Unary: func(_ context.Context, s string) (string, error) { return s, nil }},
			{Name: "Do", Unary: func(_ context.Context, s string) (string, error) { return s, nil }},
			{Name: "Facts", Unary: func(ctx context.Context, _ string) (string, error) {
				i := call.From(ctx)
				return strings.Join([]string{i.Principal.String(), i.Market, i.Instance, i.Caller, i.IdempotencyKey}, "|"), nil
			}},
			{Name: "Refuse", Unary: func(context.Context, string) (string, error) {
				return "", fault.Field("text", "is not to our taste")
			}},
			{Name: "Sum", Kind: connect.StreamTypeClient, Stream: func(_ context.Context, s connect.ServerStream) error {
				var all string
				for {
					in := &wrapperspb.StringValue{}
					if err := s.Receive(in); errors.Is(err, io.EOF) {
						return s.Send(wrapperspb.String(all))
					} else if err != nil {
						return err
					}
					all += in.GetValue()
				}
			}},
			{Name: "Count", Kind: connect.StreamTypeServer, Stream: func(_ context.Context, s connect.ServerStream) error {
				in := &wrapperspb.StringValue{}
				if err := s.Receive(in); err != nil {
					return err
				}
				for _, c := range in.GetValue() {
					if err := s.Send(wrapperspb.String(string(c))); err != nil {
						return err
					}
				}
				return connect.NewError(connect.CodeOutOfRange, "no more letters")
			}},
			{Name: "Talk", Kind: connect.StreamTypeBidi, Stream: func(_ context.Context, s connect.ServerStream) error {
				for {
					in := &wrapperspb.StringValue{}
					if err := s.Receive(in); errors.Is(err, io.EOF) {
						return nil
					} else if err != nil {
						return err
					}
					if err := s.Send(wrapperspb.String("re: " + in.GetValue())); err != nil {
						return err
					}
				}
			}},
		},
	}
}

type protocol struct {
	name  string
	http2 bool
	opts  []connecthttp.Option
}

var protocols = []protocol{
	{"Connect proto over HTTP/1.1", false, nil},
	{"Connect proto over HTTP/2", true, nil},
	{"Connect JSON", false, []connecthttp.Option{connecthttp.WithProtoJSON()}},
	{"Connect GET", false, []connecthttp.Option{connecthttp.WithHTTPGet()}},
	{"Connect JSON GET", true, []connecthttp.Option{connecthttp.WithHTTPGet(), connecthttp.WithProtoJSON()}},
	{"Connect gzip", false, []connecthttp.Option{connecthttp.WithSendGzip()}},
	{"gRPC", true, []connecthttp.Option{connecthttp.WithGRPC()}},
	{"gRPC-Web over HTTP/1.1", false, []connecthttp.Option{connecthttp.WithGRPCWeb()}},
	{"gRPC-Web over HTTP/2", true, []connecthttp.Option{connecthttp.WithGRPCWeb()}},
}

func TestEveryProtocolPassesWhole(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := plugintest.Start(t, reg, echo())
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	for _, pr := range protocols {
		t.Run(pr.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, pr.http2), s.URL, pr.opts...))
			long := strings.Repeat("käse ", 20_000)
			for _, text := range []string{"hello", "", long} {
				if strings.Contains(pr.name, "GET") && len(text) > 1000 {
					continue
				}
				got, err := plugintest.Call(ctx, c, p.Spec("Get"), text)
				require.NoError(t, err)
				require.Equal(t, text, got)
			}
			_, err := plugintest.Call(ctx, c, p.Spec("Refuse"), "x")
			require.Equal(t, connect.CodeInvalidArgument, plugintest.Code(err))
			require.ErrorContains(t, err, "not to our taste")
			bad, ok := fault.Detail[*errdetails.BadRequest](err)
			require.True(t, ok)
			require.Equal(t, "text", bad.GetFieldViolations()[0].GetField())

			var letters []string
			st, err := c.CallServerStream(ctx, p.Spec("Count"), wrapperspb.String("abc"))
			require.NoError(t, err)
			for {
				m := &wrapperspb.StringValue{}
				if err = st.Receive(m); err != nil {
					break
				}
				letters = append(letters, m.GetValue())
			}
			require.Equal(t, []string{"a", "b", "c"}, letters)
			require.Equal(t, connect.CodeOutOfRange, plugintest.Code(err))

			st, err = c.CallClientStream(ctx, p.Spec("Sum"))
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, st.Send(wrapperspb.String("x")))
			}
			require.NoError(t, st.CloseSend())
			sum := &wrapperspb.StringValue{}
			require.NoError(t, st.Receive(sum))
			require.Equal(t, "xxx", sum.GetValue())
			require.NoError(t, st.Close())

			if !pr.http2 {
				return
			}
			st, err = c.CallClientStream(ctx, p.Spec("Talk"))
			require.NoError(t, err)
			for _, w := range []string{"one", "two"} { // each answered before the next is said
				require.NoError(t, st.Send(wrapperspb.String(w)))
				m := &wrapperspb.StringValue{}
				require.NoError(t, st.Receive(m))
				require.Equal(t, "re: "+w, m.GetValue())
			}
			require.NoError(t, st.CloseSend())
			require.ErrorIs(t, st.Receive(&wrapperspb.StringValue{}), io.EOF)
		})
	}
}

func TestErrorsOfTheKernelSpeakTheClientsProtocol(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := plugintest.Start(t, reg, echo())
	p.Process.Close() // takes no more calls
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	for _, pr := range protocols {
		t.Run(pr.name, func(t *testing.T) {
			t.Parallel()
			c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, pr.http2), s.URL, pr.opts...))
			_, err := plugintest.Call(t.Context(), c, p.Spec("Get"), "hello")
			requireUnavailable(t, err)
			st, err := c.CallServerStream(t.Context(), p.Spec("Count"), wrapperspb.String("abc"))
			require.NoError(t, err)
			requireUnavailable(t, st.Receive(&wrapperspb.StringValue{}))
			_, err = plugintest.Call(t.Context(), c, connect.Spec{Procedure: "/acme.echo.v1.Test/No"}, "hello")
			require.Equal(t, connect.CodeUnimplemented, plugintest.Code(err))
		})
	}
}

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, connect.CodeUnavailable, plugintest.Code(err))
	retry, ok := fault.Detail[*errdetails.RetryInfo](err)
	require.True(t, ok)
	require.Positive(t, retry.GetRetryDelay().AsDuration())
	source, ok := fault.Detail[*typev1.ErrorSource](err)
	require.True(t, ok)
	require.Equal(t, typev1.ErrorSource_SOURCE_KERNEL, source.GetSource())
}

func TestThePluginReadsTheKernelsFactsAndNoOthers(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := plugintest.Start(t, reg, echo())
	info := call.Info{
		Principal: call.Principal{Kind: call.Consumer, Account: "acc_1"}, Market: "JP", IdempotencyKey: "k",
	}
	s := front(t, router.New(router.Config{Registry: reg}), info, limits)
	c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, false), s.URL))
	got, err := plugintest.Call(t.Context(), c, p.Spec("Facts"), "",
		call.HeaderPrincipal, "operator;acc_0;;;;*", call.HeaderCaller, "order", call.HeaderMarket, "XX",
		call.HeaderInstance, "other", call.HeaderStep, "s/1/do/1")
	require.NoError(t, err)
	require.Equal(t, "consumer acc_1|JP|echo||k", got)
}

func TestARequestThatIsTooLargeReachesNoPlugin(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	var calls atomic.Int32
	p := echo()
	p.Wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { calls.Add(1); h.ServeHTTP(w, r) })
	}
	plugintest.Start(t, reg, p)
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, router.Limits{Body: 100, StreamBody: 100, Time: time.Minute, StreamTime: time.Minute})
	for _, body := range []io.Reader{
		strings.NewReader(strings.Repeat("x", 101)),                     // announced
		io.MultiReader(strings.NewReader(strings.Repeat("x", 101))),     // in chunks
		io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000))), // far beyond
	} {
		res, err := http.Post(s.URL+p.Procedure("Do"), "application/json", body)
		require.NoError(t, err)
		text, _ := io.ReadAll(res.Body)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		require.Contains(t, string(text), router.ReasonBodyTooLarge)
	}
	require.Zero(t, calls.Load())
}

// fallible is a plugin whose handler may end the connection without a word.
func fallible(name string, broken *atomic.Bool, calls *atomic.Int32) plugintest.Plugin {
	p := echo()
	p.Name = name
	p.Wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			if broken.Load() {
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	}
	return p
}

func TestOnlyACallWithoutSideEffectsIsMoved(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	var broken, whole atomic.Bool
	broken.Store(true)
	var first, second atomic.Int32
	p := plugintest.Start(t, reg, fallible("first", &broken, &first))
	plugintest.Start(t, reg, fallible("second", &whole, &second))
	r := router.New(router.Config{Registry: reg})
	table, err := router.NewTable([]router.Binding{
		{Contract: p.Contract, Instance: "first", Priority: 1}, {Contract: p.Contract, Instance: "second", Priority: 2},
	})
	require.NoError(t, err)
	r.SetBindings(table)
	caller := router.NewCaller(r)

	_, _, err = caller.Unary(t.Context(), p.Procedure("Do"), call.Info{}, marshal(t, "x"))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.NotErrorIs(t, err, router.ErrNotSent, "it may have happened")
	require.Zero(t, second.Load(), "a call that may have happened stays where it is")

	_, _, err = caller.Unary(t.Context(), p.Procedure("Get"), call.Info{}, marshal(t, "x"))
	require.NoError(t, err)
	require.EqualValues(t, 1, second.Load())

	p.Process.Close() // nothing is sent to it any more
	_, _, err = caller.Unary(t.Context(), p.Procedure("Do"), call.Info{}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 2, second.Load())

	_, _, err = caller.Unary(t.Context(), p.Procedure("Do"), call.Info{Instance: "first"}, nil)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "a named instance has no stand-in")
	require.ErrorIs(t, err, router.ErrNotSent)
}

func TestACallGoesToTheProcessThatFollows(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := plugintest.Start(t, reg, echo())
	caller := router.NewCaller(router.New(router.Config{Registry: reg}))
	for range 3 {
		_, _, err := caller.Unary(t.Context(), p.Procedure("Do"), call.Info{}, marshal(t, "x"))
		require.NoError(t, err)
		p.Restart(t, reg)
	}
}

func TestAnAnswerOfNoRPCServerShowsNothingOfItsText(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	p.Wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "pq: password=hunter2", http.StatusInternalServerError)
		})
	}
	plugintest.Start(t, reg, p)
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	res, err := http.Post(s.URL+p.Procedure("Do"), "application/json", strings.NewReader(`"x"`))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NotContains(t, string(text), "hunter2")
	require.Contains(t, string(text), router.ReasonPluginAnswer)
}

func TestADeadlineEndsAsOne(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	left := make(chan struct{})
	p.Wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done() // wedged until it is cut off
			close(left)
		})
	}
	plugintest.Start(t, reg, p)
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+p.Procedure("Do"), bytes.NewReader([]byte(`"x"`)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connect-Timeout-Ms", "20")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
	<-left
}

func TestTheKernelHearsOfCommittedEvents(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	p.Wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(call.HeaderEvents, "3")
			h.ServeHTTP(w, r)
		})
	}
	plugintest.Start(t, reg, p)
	var heard []int
	r := router.New(router.Config{Registry: reg, Committed: func(plugin string, events int) {
		require.Equal(t, "echo", plugin)
		heard = append(heard, events)
	}})
	s := front(t, r, call.Info{}, limits)
	res, err := http.Post(s.URL+p.Procedure("Do"), "application/json", strings.NewReader(`"x"`))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Empty(t, res.Header.Get(call.HeaderEvents), "it is for nobody else")
	_, _, err = router.NewCaller(r).Unary(t.Context(), p.Procedure("Do"), call.Info{}, nil)
	require.NoError(t, err)
	require.Equal(t, []int{3, 3}, heard)
}

func TestAStreamThatBreaksOffDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := echo()
	p.Methods = append(p.Methods, plugintest.Method{Name: "Break", Kind: connect.StreamTypeServer, Stream: func(_ context.Context, s connect.ServerStream) error {
		if err := s.Send(wrapperspb.String("one")); err != nil {
			return err
		}
		panic(http.ErrAbortHandler)
	}})
	plugintest.Start(t, reg, p)
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	for _, pr := range protocols {
		t.Run(pr.name, func(t *testing.T) {
			t.Parallel()
			c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, pr.http2), s.URL, pr.opts...))
			st, err := c.CallServerStream(t.Context(), p.Spec("Break"), wrapperspb.String(""))
			require.NoError(t, err)
			for err == nil {
				err = st.Receive(&wrapperspb.StringValue{})
			}
			require.NotErrorIs(t, err, io.EOF)
			require.NotZero(t, plugintest.Code(err))
		})
	}
}

func TestAPluginWithoutProcessIsUnavailableAndNotUnknown(t *testing.T) {
	t.Parallel()
	reg := registry.New()
	p := plugintest.Start(t, reg, echo())
	p.Process = nil
	p.Register(t, reg, false)
	s := front(t, router.New(router.Config{Registry: reg}), call.Info{}, limits)
	c := connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, false), s.URL))
	_, err := plugintest.Call(t.Context(), c, p.Spec("Do"), "")
	requireUnavailable(t, err)
}

package command

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

// kernel stands for the real one, which has tests of its own.
func kernel(_ context.Context, s Serving) error {
	say(os.Stdout, "serving %s", s.Deployment.Kernel.Listen)
	s.Log.Info("started", "database_url", s.Deployment.Kernel.DatabaseURL)
	return nil
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"entrepot": func() { os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, kernel)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"issue": issue,
		// code N COMMAND... runs a command that ends with the code.
		"code": func(ts *testscript.TestScript, _ bool, args []string) {
			err := ts.Exec(args[1], args[2:]...)
			got := "exit status 0"
			if err != nil {
				got = err.Error()
			}
			if want := "exit status " + args[0]; got != want {
				ts.Fatalf("%s, want %s", got, want)
			}
		},
	}})
}

// operatorKernel answers as a kernel does.
type operatorKernel struct {
	operatorv1connect.UnimplementedOperatorServiceHandler
	operatorv1connect.UnimplementedBusServiceHandler
	operatorv1connect.UnimplementedSagaServiceHandler
	asked []string
}

func (k *operatorKernel) GetStatus(context.Context, *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	return &operatorv1.GetStatusResponse{Version: "1.2.3", Node: "kernel", Pid: 7, StartedAt: timestamppb.Now(), Database: "embedded",
		Plugins: []*operatorv1.PluginStatus{
			{Name: "catalog", Version: "0.1.0", Kind: "module", State: "ready", Pid: 8, StartedAt: timestamppb.Now(), Contracts: []string{"entrepot.catalog.v1"}, ResidentBytes: 3 << 20},
			{Name: "pay", State: "quarantined", Reason: "exit status 3\x1b[2J", Instances: []*operatorv1.InstanceStatus{{Name: "pay-gb", Health: "failed", Reason: "NO_KEY"}}},
		},
		Markets: []*operatorv1.MarketStatus{{Market: "GB", Currency: "GBP", Bindings: []*operatorv1.BindingStatus{{Contract: "pay.v1", Instance: "pay-gb", Weight: 1}}}}}, nil
}

func (k *operatorKernel) RestartPlugin(_ context.Context, req *operatorv1.RestartPluginRequest) (*operatorv1.RestartPluginResponse, error) {
	if req.GetPlugin() != "pay" {
		return nil, fault.New(connect.CodeNotFound, "PLUGIN_UNKNOWN", "this deployment has no such plugin")
	}
	return &operatorv1.RestartPluginResponse{}, nil
}

func (k *operatorKernel) GetBus(context.Context, *operatorv1.GetBusRequest) (*operatorv1.GetBusResponse, error) {
	return &operatorv1.GetBusResponse{Head: 42, Sagas: map[string]int64{"done": 3, "stuck": 1},
		Subscriptions: []*operatorv1.SubscriptionStatus{{Subscription: "order/payments", State: "on", Lag: 5, Dead: 1}}}, nil
}

func (k *operatorKernel) ListParked(_ context.Context, req *operatorv1.ListParkedRequest) (*operatorv1.ListParkedResponse, error) {
	if req.GetPageToken() == "" {
		return &operatorv1.ListParkedResponse{NextPageToken: "2", Events: []*operatorv1.ParkedEvent{{Subscription: "order/payments", Position: 11, Key: "ord_1", Dead: true, Error: "no\nsuch order"}}}, nil
	}
	return &operatorv1.ListParkedResponse{Events: []*operatorv1.ParkedEvent{{Subscription: "order/payments", Position: 12}}}, nil
}

func (k *operatorKernel) RetryParked(_ context.Context, req *operatorv1.RetryParkedRequest) (*operatorv1.RetryParkedResponse, error) {
	k.asked = append(k.asked, req.String())
	return &operatorv1.RetryParkedResponse{Retried: 2}, nil
}

func (k *operatorKernel) DiscardParked(_ context.Context, req *operatorv1.DiscardParkedRequest) (*operatorv1.DiscardParkedResponse, error) {
	k.asked = append(k.asked, req.GetReason())
	return &operatorv1.DiscardParkedResponse{}, nil
}

func (k *operatorKernel) Replay(context.Context, *operatorv1.ReplayRequest) (*operatorv1.ReplayResponse, error) {
	return &operatorv1.ReplayResponse{}, nil
}

func (k *operatorKernel) SetSubscription(context.Context, *operatorv1.SetSubscriptionRequest) (*operatorv1.SetSubscriptionResponse, error) {
	return &operatorv1.SetSubscriptionResponse{}, nil
}

func (k *operatorKernel) ListSagas(_ context.Context, req *operatorv1.ListSagasRequest) (*operatorv1.ListSagasResponse, error) {
	k.asked = append(k.asked, req.GetState().String())
	return &operatorv1.ListSagasResponse{Sagas: []*operatorv1.Saga{{SagaId: "s-1", Definition: "order/checkout@1", State: kernelv1.SagaState_SAGA_STATE_STUCK,
		CreatedAt: timestamppb.Now(), Steps: []*operatorv1.SagaStepStatus{{Name: "capture", Direction: "do", Status: "unknown", Attempt: 12, Error: "timeout"}}}}}, nil
}

func (k *operatorKernel) ResumeSaga(context.Context, *operatorv1.ResumeSagaRequest) (*operatorv1.ResumeSagaResponse, error) {
	return &operatorv1.ResumeSagaResponse{}, nil
}

// running starts a kernel's stand-in and returns a function that runs a
// command line against it.
func running(t *testing.T) (*operatorKernel, func(args ...string) (code int, out, errs string)) {
	k := &operatorKernel{}
	server := connect.NewServer()
	operatorv1connect.RegisterOperatorServiceHandler(server, k)
	operatorv1connect.RegisterBusServiceHandler(server, k)
	operatorv1connect.RegisterSagaServiceHandler(server, k)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":"unauthenticated","message":"the token is not valid"}`))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "deployment.hcl")
	require.NoError(t, os.WriteFile(file, []byte("kernel {\n  listen = \""+strings.TrimPrefix(h.URL, "http://")+"\"\n  data_dir = \"data\"\n}\n"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", tokenFile), []byte("t0ken\n"), 0o600))
	return k, func(args ...string) (int, string, string) {
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "FILE", file)
		}
		var out, errs strings.Builder
		code := Run(t.Context(), args, &out, &errs, kernel)
		return code, out.String(), errs.String()
	}
}

func TestTheStatusShowsPluginsMarketsBusAndSagas(t *testing.T) {
	_, run := running(t)
	code, out, errs := run("status", "FILE")
	require.Zero(t, code, errs)
	for _, want := range []string{
		"kernel 1.2.3, node kernel, pid 7", "catalog  0.1.0    module  ready", "3.0MiB", "entrepot.catalog.v1",
		"plugin pay is quarantined: exit status 3", "instance pay-gb of pay is failed: NO_KEY",
		"GB      GBP       pay.v1    pay-gb", "bus: 42 events", "order/payments  on     5    0       1", "sagas: 3 done, 1 stuck",
	} {
		require.Contains(t, out, want)
	}
	code, out, _ = run("status", "FILE", "--json")
	require.Zero(t, code)
	require.Contains(t, out, `"database": "embedded"`)
	require.Contains(t, out, `"lag": "5"`)
}

func TestWhatAPluginSaysDoesNotMoveTheCursor(t *testing.T) {
	_, run := running(t)
	_, out, _ := run("status", "FILE")
	require.NotContains(t, out, "\x1b")
	_, out, _ = run("bus", "parked", "-f", "FILE")
	require.Contains(t, out, "no such order", "an error is one line")
}

func TestTheBusIsSettled(t *testing.T) {
	k, run := running(t)
	for _, c := range []struct{ line, want string }{
		{"bus parked -f FILE", "12"},
		{"bus retry order/payments -f FILE", "2 events are tried again"},
		{"bus retry order/payments 11 -f FILE", "2 events are tried again"},
		{"bus discard order/payments 11 --reason duplicate -f FILE", "event 11 of order/payments is discarded"},
		{"bus replay order/payments --from 0 -f FILE", "order/payments starts again after position 0"},
		{"bus pause order/payments -f FILE", "order/payments is paused"},
		{"bus resume order/payments -f FILE", "order/payments runs"},
		{"sagas --state stuck -f FILE", "do capture unknown (12)"},
		{"saga resume s-1 -f FILE", "saga s-1 goes on"},
		{"plugin restart pay -f FILE", "plugin pay runs in a new process"},
	} {
		code, out, errs := run(strings.Fields(c.line)...)
		require.Zero(t, code, errs)
		require.Contains(t, out, c.want)
	}
	require.Contains(t, k.asked, "duplicate")
	require.Contains(t, k.asked, "SAGA_STATE_STUCK")
}

func TestExitCodesTellWhatWentWrong(t *testing.T) {
	_, run := running(t)
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"plugin restart nobody -f FILE":                        {exitFailed, "this deployment has no such plugin (not_found, PLUGIN_UNKNOWN)"},
		"bus discard order/payments 11 -f FILE":                {exitUsage, "--reason is required"},
		"bus discard order/payments eleven --reason x -f FILE": {exitUsage, `"eleven" is no position`},
		"bus replay order/payments -f FILE":                    {exitUsage, "--from is required"},
		"bus retry -f FILE":                                    {exitUsage, "write it like: entrepot bus retry SUBSCRIPTION [POSITION]"},
		"sagas --state lost -f FILE":                           {exitUsage, "--state is one of compensated, compensating, done"},
		"status missing.hcl":                                   {exitFailed, "no such file"},
	} {
		code, out, errs := run(strings.Fields(line)...)
		require.Equal(t, want.code, code, "%s: %s", line, errs)
		require.Contains(t, errs, want.text)
		require.Empty(t, out)
	}
}

func TestATokenOfAKernelThatEndedIsExplained(t *testing.T) {
	_, run := running(t)
	_, _, errs := run("status", "FILE")
	require.Empty(t, errs)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, tokenFile), []byte("old"), 0o600))
	file := filepath.Join(dir, "deployment.hcl")
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"code":"unauthenticated","message":"the token is not valid"}`))
	}))
	text := "kernel {\n  listen = \"" + strings.TrimPrefix(h.URL, "http://") + "\"\n  data_dir = \".\"\n}\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	code, _, errs := run("status", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "is this the right file?")

	h.Close()
	code, _, errs = run("status", file)
	require.Equal(t, exitUnreachable, code)
	require.Contains(t, errs, "no kernel answers at 127.0.0.1:")
	require.Contains(t, errs, "entrepot serve "+file)
}

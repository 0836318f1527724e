package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

// binaries is the folder of the plugins "front" and "back".
var binaries string

func TestMain(m *testing.M) {
	var err error
	if binaries, err = os.MkdirTemp("", "kernel"); err != nil {
		panic(err)
	}
	for _, name := range []string{"front", "back"} {
		cmd := exec.Command("go", "build", "-ldflags", "-X main.name="+name, "-o", filepath.Join(binaries, name), "./testdata/plugin")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s\n", out)
			os.Exit(1)
		}
	}
	code := m.Run()
	pgtest.Stop()
	_ = os.RemoveAll(binaries)
	os.Exit(code)
}

var empty = pgtest.NewTemplate(func(context.Context, string) error { return nil })

// house is a deployment of the two plugins with a database of its own.
type house struct {
	t   *testing.T
	dir string
	db  *pgtest.DB
	// settings are lines of the kernel block.
	settings string
}

func newHouse(t *testing.T, settings string) *house {
	return &house{t: t, dir: t.TempDir(), db: pgtest.New(t, empty), settings: settings}
}

// running is a kernel that serves.
type running struct {
	*kernel
	t *testing.T
	// stop asks for the end, and ended has what became of it.
	stop  context.CancelFunc
	ended chan error
	url   string
}

// start runs a kernel until its plugins are ready.
func (h *house) start() *running {
	h.t.Helper()
	file := filepath.Join(h.dir, "deployment.hcl")
	text := fmt.Sprintf("kernel {\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\ndatabase_url = %q\n%s\n}\n", h.db.URL, h.settings)
	for _, name := range []string{"front", "back"} {
		text += fmt.Sprintf("plugin %q {\npath = %q\nconfig { dir = %q }\n}\n", name, filepath.Join(binaries, name), h.dir)
	}
	text += "market \"GB\" {\ncurrency = \"GBP\"\nlanguages = [\"en\"]\n}\n"
	require.NoError(h.t, os.WriteFile(file, []byte(text), 0o600))
	d, err := deployment.Read(file)
	require.NoError(h.t, err)
	store, err := d.Store()
	require.NoError(h.t, err)
	prepared, err := d.Prepare(h.t.Context(), store, false)
	require.NoError(h.t, err)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(h.t, err)
	k := newKernel(Config{Deployment: prepared, Artifacts: store, Version: "test", Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	r := &running{kernel: k, t: h.t, stop: stop, ended: make(chan error, 1), url: "http://" + listener.Addr().String()}
	ready := make(chan struct{})
	told := false
	k.registry.Watch(func(s *registry.Snapshot) {
		if !told && serves(s, "front") && serves(s, "back") {
			told = true
			close(ready)
		}
	})
	go func() { r.ended <- k.run(ctx, listener) }()
	h.t.Cleanup(func() { require.NoError(h.t, r.end()) })
	select {
	case <-ready:
	case err := <-r.ended:
		r.ended <- err
		require.FailNow(h.t, "the kernel ended", "%v", err)
	case <-time.After(time.Minute):
		require.FailNow(h.t, "the plugins are not ready")
	}
	return r
}

func serves(s *registry.Snapshot, plugin string) bool {
	p := s.Plugins[plugin]
	return p != nil && p.State == registry.Ready
}

// end stops the kernel and answers how it ended.
func (r *running) end() error {
	r.stop()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("the kernel does not end")
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

func TestOnlyTheOperatorSeesWhatTheRoomsCount(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	private := probe.Addr().String()
	require.NoError(t, probe.Close())
	k := newHouse(t, fmt.Sprintf("metrics = %q", private)).start()
	res, err := http.Post(k.url+"/test.back.v1.Test/Ask", "application/json", strings.NewReader(`"hello"`))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)

	status, text := get(t, "http://"+private+"/metrics")
	require.Equal(t, http.StatusOK, status)
	for _, name := range []string{"entrepot_bus_sequenced_total", "entrepot_saga_driven", "entrepot_gateway_calls_total", "go_goroutines"} {
		require.Contains(t, text, "\n"+name)
	}
	status, text = get(t, k.url+"/metrics")
	require.Equal(t, http.StatusNotFound, status)
	require.NotContains(t, text, "entrepot_")
}

func TestAMistypedFieldOfTheKernelsOwnServicesIsRefusedByItsName(t *testing.T) {
	t.Parallel()
	k := newHouse(t, "").start()
	const register = "/entrepot.identity.v1.IdentityService/RegisterConsumer"
	for body, kind := range map[string]string{`{"emial": "a@shop.example"}`: "application/json", "\x00\x00": "application/grpc-web+proto"} {
		res, err := http.Post(k.url+register, kind, strings.NewReader(body))
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, errors.Join(err, res.Body.Close()))
		if kind == "application/json" {
			require.Equal(t, http.StatusBadRequest, res.StatusCode)
			require.Contains(t, string(text), "emial")
			continue
		}
		require.Contains(t, string(text)+"grpc-status: "+res.Header.Get("Grpc-Status"), "grpc-status: 3", "%v", res.Header)
	}
}

func TestTheLogIsKeptForAsLongAsTheOperatorSays(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "bus { keep_days = 90 }")
	require.NoError(t, h.start().end())
	// The partition of the first five million events, passed by everybody.
	conn, err := pgx.Connect(t.Context(), h.db.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), `SELECT setval('bus.log_pos', 12000000)`)
	require.NoError(t, err)
	// Sagas that ended 60 and 100 days ago.
	_, err = conn.Exec(t.Context(), `INSERT INTO bus.saga (id, def, ver, key, status, input, created_at, ended_at)
		SELECT gen_random_uuid(), 'x/y', 1, n::text, 3, '', now() - make_interval(days => n), now() - make_interval(days => n) FROM unnest('{60,100}'::int[]) n`)
	require.NoError(t, err)
	h.start()
	require.Eventually(t, func() bool {
		var there bool
		var sagas string
		err := conn.QueryRow(t.Context(), `SELECT to_regclass('bus.log_p0') IS NOT NULL, string_agg(key, ',') FROM bus.saga`).Scan(&there, &sagas)
		return err == nil && !there && sagas == "60"
	}, 30*time.Second, 20*time.Millisecond)
}

// ask calls a plugin as the kernel itself does, for a step of a saga.
func (r *running) ask(plugin, text string) (string, error) {
	req, err := proto.Marshal(wrapperspb.String(text))
	require.NoError(r.t, err)
	res, _, err := router.NewCaller(r.router).Unary(context.Background(), "/test."+plugin+".v1.Test/Ask", call.Info{Market: "GB"}, req)
	if err != nil {
		return "", err
	}
	out := &wrapperspb.StringValue{}
	err = proto.Unmarshal(res, out)
	return out.GetValue(), err
}

func TestACallInFlightFindsThePluginsItNeedsWhileTheKernelStops(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	k := h.start()
	draining := make(chan struct{})
	k.registry.Watch(func(s *registry.Snapshot) {
		if s.Plugins["back"].State == registry.Draining && s.Plugins["front"].State == registry.Draining {
			close(draining)
		}
	})
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := k.ask("front", "hello")
		answered <- answer{text, err}
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(h.dir, "asked")); return err == nil }, 20*time.Second, 5*time.Millisecond)
	k.stop()
	<-draining
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "go"), nil, 0o600))
	got := <-answered
	require.NoError(t, got.err)
	require.Equal(t, "heard: hello", got.text)
	require.NoError(t, k.end())
	_, err := k.ask("back", "hello")
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "what comes later is told so")
}

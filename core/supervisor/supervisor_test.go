package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/handshake"
)

var binary string

// TestMain builds the misbehaving plugin once; started with KERNEL it is a
// kernel that tests kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SUPERVISOR_TEST_KERNEL"); dir != "" {
		kernelToKill(dir)
		return
	}
	dir, err := os.MkdirTemp("", "supervisor")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "plugin")
	if out, err := exec.Command("go", "build", "-o", binary, "./testdata/plugin").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s\n", out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// house is a supervisor with one plugin in a folder of its own.
type house struct {
	*Supervisor
	dir string
	reg *registry.Registry
	log *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newHouse(t testing.TB, dir, mode string) *house {
	t.Helper()
	h := &house{dir: dir, reg: registry.New(), log: &syncBuffer{}}
	h.mode(t, mode)
	path := filepath.Join(dir, "echo")
	// A link: a file that was just written cannot be run while others fork.
	require.NoError(t, os.Link(binary, path))
	var err error
	h.Supervisor, err = New(h.config(path))
	require.NoError(t, err)
	return h
}

func (h *house) config(path string) Config {
	return Config{
		Plugins:  []Spec{{Name: "echo", Verify: func() (string, error) { return path, nil }}},
		Registry: h.reg,
		HostHandler: func(plugin string) http.Handler {
			s := connect.NewServer()
			s.Register(connect.Method{
				Spec: connect.Spec{Procedure: "/test.v1.Kernel/Who", StreamType: connect.StreamTypeUnary},
				Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
					if err := stream.Receive(&emptypb.Empty{}); err != nil {
						return err
					}
					return stream.Send(wrapperspb.String(plugin))
				},
			})
			mux := http.NewServeMux()
			connecthttp.Mount(mux, s)
			return mux
		},
		Prepare: func(context.Context, string, *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error) {
			return []*pluginv1.ConfigureRequest{{Instance: "echo", Revision: 1}}, nil
		},
		Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (h *house) mode(t testing.TB, mode string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "mode"), []byte(mode), 0o600))
}

func start(t *testing.T, mode string, quicker ...func(*pace)) *house {
	t.Helper()
	h := newHouse(t, t.TempDir(), mode)
	for _, q := range quicker {
		q(&h.Supervisor.pace)
	}
	t.Cleanup(h.Stop)
	require.NoError(t, h.Start(t.Context()))
	return h
}

func (h *house) plugin() *registry.Plugin { return h.reg.Snapshot().Plugins["echo"] }

func (h *house) echo(ctx context.Context, text string) (string, error) {
	p := h.plugin().Process
	if p == nil {
		return "", connect.NewError(connect.CodeUnavailable, "no process")
	}
	release, ok := p.Acquire()
	if !ok {
		return "", connect.NewError(connect.CodeUnavailable, "closed")
	}
	defer release()
	var out wrapperspb.StringValue
	c := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: p.HTTP1}, "https://localhost"))
	err := c.CallUnary(ctx, connect.Spec{Procedure: "/test.v1.Echo/Echo", StreamType: connect.StreamTypeUnary}, wrapperspb.String(text), &out)
	return out.GetValue(), err
}

// until waits for the registry to show what is wanted.
func (h *house) until(t *testing.T, ok func(*registry.Plugin) bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	h.reg.Watch(func(*registry.Snapshot) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	deadline := time.After(30 * time.Second)
	for !ok(h.plugin()) {
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "not seen", "%+v\n%s", h.plugin(), h.log)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestAPluginServesAndReachesTheKernelOnItsOwnSocket(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	got, err := h.echo(t.Context(), "hello")
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	who, err := os.ReadFile(filepath.Join(h.dir, "who"))
	require.NoError(t, err)
	require.Equal(t, "echo", string(who), "the kernel knows the plugin by its socket")
	require.Equal(t, registry.Ready, h.plugin().State)
}

func TestAPluginSeesOnlyTheEnvironmentItMay(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://secret")
	h := start(t, "")
	env, err := h.echo(t.Context(), "env")
	require.NoError(t, err)
	allowed := append([]string{handshake.CookieKey, handshake.EnvHostSocket, handshake.EnvLivenessFD, handshake.EnvLogLevel}, passed...)
	for _, variable := range regexp.MustCompile(`(?m)^([A-Z_]+)=`).FindAllStringSubmatch(env, -1) {
		if name := variable[1]; !strings.HasPrefix(name, "PLUGIN_") {
			require.Contains(t, allowed, name)
		}
	}
	require.NotContains(t, env, "secret")
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"rubbish": "Unrecognized remote plugin message", "exit": "cannot find my configuration", "elsewhere": "must listen on a unix socket",
		"wrong-name": `the binary is plugin "another"`, "lying-descriptors": "descriptors", "bad-config": "colour is not known",
		"shouting":          "no! no! no!",
		"dies-in-configure": "exit status 9; it wrote: out of memory, or so",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, t.TempDir(), mode)
			t.Cleanup(h.Stop)
			err := h.Start(t.Context())
			require.ErrorContains(t, err, want)
			require.Less(t, len(err.Error()), 3000, "whatever the plugin says")
			// Mended, it comes up by itself.
			h.mode(t, "")
			h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready })
		})
	}
}

func TestAPluginThatHangsAtItsStartIsGivenUp(t *testing.T) {
	t.Parallel()
	h := newHouse(t, t.TempDir(), "hang")
	h.Supervisor.pace.start = 500 * time.Millisecond
	t.Cleanup(h.Stop)
	require.ErrorContains(t, h.Start(t.Context()), "no handshake within 500ms")
}

func TestStopDoesNotWaitForAStart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, t.TempDir(), "hang")
	h.Supervisor.pace.start = time.Hour
	started := make(chan error, 1)
	go func() { started <- h.Start(t.Context()) }()
	h.until(t, func(p *registry.Plugin) bool { return p != nil && p.State == registry.Starting })
	h.Stop()
	require.ErrorIs(t, <-started, context.Canceled)
	require.ErrorIs(t, h.Restart(t.Context(), "echo"), ErrStopped)
}

func TestWhatAPluginWritesNeverHarmsTheKernel(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"flood", "hostile-log", "noisy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := start(t, mode)
			for range 50 {
				_, err := h.echo(t.Context(), "still there")
				require.NoError(t, err)
			}
			for _, line := range strings.Split(h.log.String(), "\n") {
				require.Less(t, len(line), 2*maxLine)
			}
		})
	}
}

func TestWhatTheKernelCannotDoIsTriedAgainAndIsNoCrash(t *testing.T) {
	t.Parallel()
	h := newHouse(t, t.TempDir(), "")
	well := h.cfg.Prepare
	attempts := 0
	h.cfg.Prepare = func(ctx context.Context, plugin string, d *pluginv1.DescribeResponse) ([]*pluginv1.ConfigureRequest, error) {
		if attempts++; attempts <= quarantineCrashes {
			return nil, errAway
		}
		return well(ctx, plugin, d)
	}
	t.Cleanup(h.Stop)
	require.ErrorContains(t, h.Start(t.Context()), "the database is away")
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready })
	require.Equal(t, quarantineCrashes, h.plugin().Restarts)
}

func TestAPanicInACallIsThatCallsAlone(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	pid := h.plugin().Process.PID
	_, err := h.echo(t.Context(), "panic")
	require.Error(t, err)
	_, err = h.echo(t.Context(), "after")
	require.NoError(t, err)
	require.Equal(t, pid, h.plugin().Process.PID)
}

func TestACrashedPluginComesBack(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	pid := h.plugin().Process.PID
	_, err := h.echo(t.Context(), "crash")
	require.Error(t, err)
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready && p.Process.PID != pid })
	require.Equal(t, 1, h.plugin().Restarts)
	_, err = h.echo(t.Context(), "again")
	require.NoError(t, err)
}

func TestFiveCrashesQuarantineAndTheOperatorStartsItAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, t.TempDir(), "exit")
	t.Cleanup(h.Stop)
	require.Error(t, h.Start(t.Context()))
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Quarantined })
	require.Contains(t, h.plugin().Reason, "entrepot plugin restart echo")
	h.mode(t, "")
	require.NoError(t, h.Restart(t.Context(), "echo"))
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready })
}

// waiting starts a call that answers when the test says so, and returns when
// the plugin has it.
func (h *house) waiting(t *testing.T) (answer <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := h.echo(context.Background(), "wait")
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(h.dir, "waiting")); return err == nil }, 10*time.Second, time.Millisecond)
	return done
}

func (h *house) proceed(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "go"), nil, 0o600))
}

func TestARestartReplacesTheProcessAndNoCallerNotices(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	old := h.plugin().Process.PID
	answer := h.waiting(t)
	require.NoError(t, h.Restart(t.Context(), "echo"))
	require.NotEqual(t, old, h.plugin().Process.PID)
	_, err := h.echo(t.Context(), "new one")
	require.NoError(t, err)
	h.proceed(t)
	require.NoError(t, <-answer, "the call in flight finished at the old process")
	require.Eventually(t, func() bool { return !alive(old) }, 10*time.Second, 5*time.Millisecond)
}

func TestAReplacementThatFailsLeavesTheRunningOne(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	old := h.plugin().Process.PID
	h.mode(t, "exit")
	require.ErrorContains(t, h.Restart(t.Context(), "echo"), "cannot find my configuration")
	require.Equal(t, old, h.plugin().Process.PID)
	_, err := h.echo(t.Context(), "still serving")
	require.NoError(t, err)
}

func TestStopFinishesCallsInFlight(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	pid := h.plugin().Process.PID
	answer := h.waiting(t)
	stopped := make(chan struct{})
	go func() {
		h.Stop()
		close(stopped)
	}()
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Draining })
	h.proceed(t)
	require.NoError(t, <-answer)
	<-stopped
	require.False(t, alive(pid))
	_, err := os.Stat(filepath.Join(h.dir, "drained"))
	require.NoError(t, err, "it was told to drain")
}

func TestStopIsBoundedWhateverThePluginDoes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"hang-at-stop", "grandchild", "wedged"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := start(t, mode, func(p *pace) { p.drain, p.kill = time.Second, time.Second })
			pid := h.plugin().Process.PID
			if mode == "wedged" {
				require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			}
			folder := h.sockets.dir
			h.Stop()
			require.False(t, alive(pid))
			require.NoDirExists(t, folder, "the sockets are removed")
			if mode == "grandchild" {
				b, err := os.ReadFile(filepath.Join(h.dir, "grandchild"))
				require.NoError(t, err)
				child, err := strconv.Atoi(string(b))
				require.NoError(t, err)
				require.Eventually(t, func() bool { return !running(child) }, 10*time.Second, 5*time.Millisecond)
			}
		})
	}
}

// running is false for a zombie too: in a container nobody may reap it.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/handshake"
)

// TestMain is the plugin when a test starts it as one.
func TestMain(m *testing.M) {
	if mode, ok := os.LookupEnv("SERVE_TEST_MODE"); ok {
		os.Exit(Run(plugin(mode)))
	}
	os.Exit(m.Run())
}

func plugin(mode string) Build {
	return func(h *Host) (*connect.Server, func(context.Context), error) {
		fmt.Println("printed by a library")
		slog.Info("building", "mode", mode)
		if mode == "hangs while it is built" {
			fmt.Fprintln(os.Stderr, "in build")
			select {}
		}
		s := connect.NewServer()
		s.Register(unary("/test.v1.T/Echo", func(in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			switch in.GetValue() {
			case "panic":
				panic("boom")
			case "block":
				// Answers once the test has said so.
				fmt.Fprintln(os.Stderr, "in call")
				_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
			case "call the kernel":
				out := &wrapperspb.StringValue{}
				err := connect.NewClient(h.Transport()).CallUnary(context.Background(), connect.Spec{Procedure: "/kernel.v1.K/Who", StreamType: connect.StreamTypeUnary}, &emptypb.Empty{}, out)
				return out, err
			}
			return in, nil
		}), unary("/test.v1.T/Market", func(in *typev1.Market) (*typev1.Market, error) { return in, nil }))
		return s, func(context.Context) {
			fmt.Fprintln(os.Stderr, "drained")
			if mode == "hangs while it drains" {
				select {}
			}
		}, nil
	}
}

// kernel is the host's side of one plugin process, written by hand.
type kernel struct {
	cmd    *exec.Cmd
	id     *identity
	dir    string
	stdin  io.Writer
	stdout *bufio.Reader
	live   *os.File
	client *http.Client
	grpc   *http.Client
	host   net.Listener
	stderr *lines
}

// lines lets a test wait for a line.
type lines struct {
	mu   sync.Mutex
	cond *sync.Cond
	all  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.cond.Broadcast()
	return l.all.Write(p)
}

func (l *lines) await(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.all.String(), text) {
		l.cond.Wait()
	}
	return l.all.String()
}

func start(t *testing.T, mode string) *kernel {
	t.Helper()
	id, err := selfSigned()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "serve")
	require.NoError(t, err)
	k := &kernel{id: id, dir: dir, stderr: &lines{}}
	k.stderr.cond = sync.NewCond(&k.stderr.mu)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	k.live = w
	k.host, err = net.Listen("unix", filepath.Join(dir, "k"))
	require.NoError(t, err)
	k.cmd = exec.Command(os.Args[0])
	k.cmd.Env = []string{
		"SERVE_TEST_MODE=" + mode, handshake.CookieKey + "=" + handshake.CookieValue, "PLUGIN_UNIX_SOCKET_DIR=" + dir,
		"PLUGIN_CLIENT_CERT=" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.der})),
		handshake.EnvLivenessFD + "=3", handshake.EnvHostSocket + "=" + filepath.Join(dir, "k"),
	}
	k.cmd.ExtraFiles, k.cmd.Stderr = []*os.File{r}, k.stderr
	k.stdin, err = k.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := k.cmd.StdoutPipe()
	require.NoError(t, err)
	k.stdout = bufio.NewReader(out)
	require.NoError(t, k.cmd.Start())
	require.NoError(t, r.Close())
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill()
		_ = k.cmd.Wait()
		_ = k.live.Close()
		_ = k.host.Close()
		_ = os.RemoveAll(dir)
	})
	return k
}

// handshake reads the first line and connects as it says.
func (k *kernel) handshake(t *testing.T) {
	t.Helper()
	line, err := k.stdout.ReadString('\n')
	require.NoError(t, err, "%s", k.stderr.await(""))
	parts := strings.Split(strings.TrimSpace(line), "|")
	require.Len(t, parts, 6)
	require.Equal(t, []string{"1", "1", "unix"}, parts[:3])
	require.Equal(t, "grpc", parts[4])
	der, err := base64.RawStdEncoding.DecodeString(parts[5])
	require.NoError(t, err)
	require.NoError(t, k.id.trust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	k.client, k.grpc = unixClient(parts[3], k.id, false), unixClient(parts[3], k.id, true)
}

func unixClient(socket string, id *identity, http2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		TLSClientConfig: id.client(), Protocols: p, MaxIdleConnsPerHost: 64, DisableCompression: true,
	}}
}

func echo(c *http.Client, text string, options ...connecthttp.Option) (string, error) {
	out := &wrapperspb.StringValue{}
	err := connect.NewClient(connecthttp.NewTransport(c, "https://localhost", options...)).CallUnary(
		context.Background(), connect.Spec{Procedure: "/test.v1.T/Echo", StreamType: connect.StreamTypeUnary}, wrapperspb.String(text), out)
	return out.GetValue(), err
}

// ended waits for the process and checks that it left nothing behind.
func (k *kernel) ended(t *testing.T) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- k.cmd.Wait() }()
	select {
	case err := <-done:
		left, globErr := filepath.Glob(filepath.Join(k.dir, "p*"))
		require.NoError(t, globErr)
		require.Empty(t, left, "its socket is removed")
		return err
	case <-time.After(10 * time.Second):
		require.FailNow(t, "it did not end")
		return nil
	}
}

func TestStartedByHandItSaysWhatItIs(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"SERVE_TEST_MODE="}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, string(out), "started by the kernel")
}

func TestTheFirstLineIsTheHandshakeAndEveryProtocolIsServed(t *testing.T) {
	t.Parallel()
	k := start(t, "")
	k.handshake(t)
	k.stderr.await("printed by a library")
	for name, call := range map[string]func() (string, error){
		"connect": func() (string, error) { return echo(k.client, "hello") },
		"json":    func() (string, error) { return echo(k.client, "hello", connecthttp.WithProtoJSON()) },
		"grpc":    func() (string, error) { return echo(k.grpc, "hello", connecthttp.WithGRPC()) },
		"grpcweb": func() (string, error) { return echo(k.client, "hello", connecthttp.WithGRPCWeb()) },
	} {
		got, err := call()
		require.NoError(t, err, name)
		require.Equal(t, "hello", got, name)
	}
}

// What a client mistypes must not count as left out.
func TestAWordThatTheMethodDoesNotHaveIsRefusedByItsName(t *testing.T) {
	t.Parallel()
	k := start(t, "")
	k.handshake(t)
	for body, want := range map[string]string{
		`{"code": "GB", "curency_code": "GBP"}`:  `"code":"invalid_argument"`,
		`{"code": "GB", "currency_code": "GBP"}`: `"currencyCode":`,
	} {
		res, err := k.client.Post("https://localhost/test.v1.T/Market", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, errors.Join(err, res.Body.Close()))
		require.Contains(t, string(text), want)
		if res.StatusCode != http.StatusOK {
			require.Contains(t, string(text), "curency_code")
		}
	}
}

func TestLogsAreJSONWithHclogsKeys(t *testing.T) {
	t.Parallel()
	k := start(t, "any")
	k.handshake(t)
	for line := range strings.Lines(k.stderr.await("building")) {
		if !strings.Contains(line, "building") {
			continue
		}
		var entry map[string]string
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		require.Equal(t, "building", entry["@message"])
		require.Equal(t, "INFO", entry["@level"])
		require.Equal(t, "any", entry["mode"])
		_, err := time.Parse(time.RFC3339, entry["@timestamp"])
		require.NoError(t, err)
	}
}

func TestOnlyTheKernelIsLetIn(t *testing.T) {
	t.Parallel()
	k := start(t, "")
	k.handshake(t)
	stranger, err := selfSigned()
	require.NoError(t, err)
	stranger.kernel = k.id.kernel // it knows the plugin, the plugin does not know it
	sockets, err := filepath.Glob(filepath.Join(k.dir, "p*", "s"))
	require.NoError(t, err)
	require.Len(t, sockets, 1)
	_, err = echo(unixClient(sockets[0], stranger, false), "hello")
	require.Error(t, err)
	_, err = echo(k.client, "hello")
	require.NoError(t, err)
}

func TestThePluginReachesTheKernelWithItsOwnCertificate(t *testing.T) {
	t.Parallel()
	k := start(t, "")
	k.handshake(t)
	s := connect.NewServer()
	s.Register(unary("/kernel.v1.K/Who", func(*emptypb.Empty) (*wrapperspb.StringValue, error) { return wrapperspb.String("the kernel"), nil }))
	mux := http.NewServeMux()
	connecthttp.Mount(mux, s)
	srv := &http.Server{Handler: mux, TLSConfig: k.id.server(), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.ServeTLS(k.host, "", "") }()
	defer func() { _ = srv.Close() }()
	got, err := echo(k.client, "call the kernel")
	require.NoError(t, err)
	require.Equal(t, "the kernel", got)
}

func TestAPanicIsInternalForItsCallerAndTheStackIsLogged(t *testing.T) {
	t.Parallel()
	k := start(t, "")
	k.handshake(t)
	for _, call := range []func() (string, error){
		func() (string, error) { return echo(k.client, "panic") },
		func() (string, error) { return echo(k.grpc, "panic", connecthttp.WithGRPC()) },
	} {
		_, err := call()
		require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
		require.NotContains(t, err.Error(), "boom")
	}
	require.Contains(t, k.stderr.await("panic in a handler"), "serve_test.go")
	_, err := echo(k.client, "after")
	require.NoError(t, err)
}

// shutdown is go-plugin's call, over gRPC as it makes it.
func (k *kernel) shutdown(t *testing.T) {
	t.Helper()
	c := connect.NewClient(connecthttp.NewTransport(k.grpc, "https://localhost", connecthttp.WithGRPC()))
	status := &wrapperspb.Int32Value{}
	require.NoError(t, c.CallUnary(context.Background(), connect.Spec{Procedure: "/grpc.health.v1.Health/Check", StreamType: connect.StreamTypeUnary}, wrapperspb.String("plugin"), status))
	require.EqualValues(t, 1, status.GetValue())
	require.NoError(t, c.CallUnary(context.Background(), connect.Spec{Procedure: "/plugin.GRPCController/Shutdown", StreamType: connect.StreamTypeUnary}, &emptypb.Empty{}, &emptypb.Empty{}))
	k.grpc.CloseIdleConnections()
}

func TestHoweverTheEndComesCallsInFlightFinishFirst(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *kernel){
		"go-plugin's Shutdown": func(t *testing.T, k *kernel) { k.shutdown(t) },
		"SIGTERM":              func(t *testing.T, k *kernel) { require.NoError(t, k.cmd.Process.Signal(syscall.SIGTERM)) },
		"the kernel is gone":   func(t *testing.T, k *kernel) { require.NoError(t, k.live.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := start(t, "")
			k.handshake(t)
			// The kernel's terminal sends this to everybody; it is not for plugins.
			require.NoError(t, k.cmd.Process.Signal(os.Interrupt))
			answer := make(chan error, 1)
			go func() {
				_, err := echo(k.client, "block")
				answer <- err
			}()
			k.stderr.await("in call")
			end(t, k)
			_, err := io.WriteString(k.stdin, "go on\n")
			require.NoError(t, err)
			require.NoError(t, <-answer)
			require.NoError(t, k.ended(t))
			k.stderr.await("drained")
		})
	}
}

func TestItEndsWithTheKernelWhateverHangsInIt(t *testing.T) {
	t.Parallel()
	for mode, mark := range map[string]string{"hangs while it is built": "in build", "hangs while it drains": "", "hangs in a call": "in call"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := start(t, mode)
			if mark != "in build" {
				k.handshake(t)
			}
			if mark == "in call" {
				go func() { _, _ = echo(k.client, "block") }()
			}
			k.stderr.await(mark)
			require.NoError(t, k.live.Close())
			_ = k.ended(t)
		})
	}
}

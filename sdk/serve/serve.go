// Package serve is a plugin's process: the plugin side of go-plugin's
// documented contract (handshake line, health, controller), spoken as Connect
// handlers on one unix socket, so that a plugin needs neither go-plugin nor
// grpc-go and finishes its calls when it is stopped.
package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot/entrepot/sdk/handshake"
)

const (
	// drainTimeout is how long calls in flight may take after the kernel asked
	// for the end: go-plugin's host waits two seconds, then kills.
	drainTimeout = 1900 * time.Millisecond
	// maxMessage bounds a message in either direction.
	maxMessage = 8 << 20
)

// Build makes the plugin's server, and a function that ends its background
// work, once the line to the kernel is known.
type Build func(h *Host) (server *connect.Server, drain func(context.Context), err error)

// Run serves until the kernel asks for the end or is gone, and returns the
// exit code.
func Run(build Build) int {
	if os.Getenv(handshake.CookieKey) != handshake.CookieValue {
		fmt.Fprintln(os.Stderr, "This is a plugin of Entrepot. It is started by the kernel: name it in deployment.hcl and run `entrepot serve deployment.hcl`.")
		return 1
	}
	stdout := takeStdout()
	logTo(os.Stderr)
	p, err := newProcess()
	if err == nil {
		err = p.serve(stdout, build)
	}
	if err != nil {
		slog.Error("the plugin cannot serve", "error", err)
		return 1
	}
	return 0
}

// takeStdout keeps the real standard output for the handshake line and gives
// everybody else a pipe into the log: nothing a library prints can spoil it.
func takeStdout() *os.File {
	real := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		os.Stdout = os.Stderr
		return real
	}
	os.Stdout = w
	go func() { _, _ = io.Copy(os.Stderr, r) }()
	return real
}

// logTo makes slog write JSON in hclog's key names.
func logTo(w io.Writer) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(os.Getenv(handshake.EnvLogLevel))) // unset or unknown: info
	slog.SetDefault(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				a.Key = "@timestamp"
			case slog.LevelKey:
				a.Key = "@level"
			case slog.MessageKey:
				a.Key = "@message"
			}
			return a
		},
	})))
}

// process is the one listener of a plugin process and its end.
type process struct {
	dir      string
	listener net.Listener
	identity *identity // nil without AutoMTLS
	stop     chan struct{}
	once     sync.Once
}

func newProcess() (*process, error) {
	dir, err := os.MkdirTemp(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "p")
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir, stop: make(chan struct{})}
	if p.listener, err = net.Listen("unix", filepath.Join(dir, "s")); err != nil {
		return nil, err
	}
	if cert := os.Getenv("PLUGIN_CLIENT_CERT"); cert != "" {
		if p.identity, err = newIdentity([]byte(cert)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *process) end() { p.once.Do(func() { close(p.stop) }) }

func (p *process) serve(stdout *os.File, build Build) error {
	defer func() { _ = os.RemoveAll(p.dir) }()
	host := newHost(os.Getenv(handshake.EnvHostSocket), p.identity)
	server, drain, err := build(host)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	connecthttp.Mount(mux, p.control(), connecthttp.WithReadMaxBytes(64<<10))
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(maxMessage))
	srv := &http.Server{Handler: recovered(mux), Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	line := ""
	serve := func() error { return srv.Serve(p.listener) }
	if p.identity != nil {
		srv.TLSConfig = p.identity.server()
		line = base64.RawStdEncoding.EncodeToString(p.identity.der)
		serve = func() error { return srv.ServeTLS(p.listener, "", "") }
	} else {
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	p.watch()

	// Serve first, print second: the host calls at once.
	if _, err := fmt.Fprintf(stdout, "1|%d|unix|%s|grpc|%s\n", handshake.ProtocolVersion, p.listener.Addr(), line); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	select {
	case <-p.stop:
	case err := <-failed:
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = srv.Shutdown(ctx)
	drain(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		slog.Warn("calls were still in flight at the end")
		return nil
	}
	return err
}

// watch ends the process when the kernel is gone: its end of the liveness
// pipe closes with it. Interrupts belong to the kernel, which is in the same
// terminal.
func (p *process) watch() {
	signal.Ignore(os.Interrupt)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		p.end()
	}()
	if fd, err := strconv.Atoi(os.Getenv(handshake.EnvLivenessFD)); err == nil {
		go func() {
			_, _ = os.NewFile(uintptr(fd), "kernel").Read(make([]byte, 1))
			p.end()
		}()
	}
}

// control is what go-plugin's host calls, by hand: code generated from its
// schema would collide with go-plugin's own in a binary that links both.
func (p *process) control() *connect.Server {
	s := connect.NewServer()
	s.Register(
		unary("/grpc.health.v1.Health/Check", func(in *wrapperspb.StringValue) (*wrapperspb.Int32Value, error) {
			if in.GetValue() != "" && in.GetValue() != "plugin" {
				return nil, connect.NewError(connect.CodeNotFound, "unknown service")
			}
			return wrapperspb.Int32(1), nil // SERVING
		}),
		unary("/plugin.GRPCController/Shutdown", func(*emptypb.Empty) (*emptypb.Empty, error) {
			p.end()
			return &emptypb.Empty{}, nil
		}),
	)
	return s
}

func unary[In, Out any](procedure string, fn func(*In) (*Out, error)) connect.Method {
	return connect.Method{
		Spec: connect.Spec{Procedure: procedure, StreamType: connect.StreamTypeUnary},
		Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
			in := new(In)
			if err := stream.Receive(in); err != nil {
				return err
			}
			out, err := fn(in)
			if err != nil {
				return err
			}
			return stream.Send(out)
		},
	}
}

// recovered keeps a panic in a handler from ending the process: the call
// fails, the stack goes to the log.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				slog.ErrorContext(r.Context(), "panic in a handler", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

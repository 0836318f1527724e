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
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/handshake"
)

const (
	// drainTimeout is how long calls in flight may take after the kernel asked
	// for the end: go-plugin's host waits two seconds, then kills.
	drainTimeout = 1900 * time.Millisecond
	// exitTimeout is when the process ends whatever still runs in it. Nobody
	// else may be there to end it: the kernel may be gone.
	exitTimeout = 2 * time.Second
	// maxMessage bounds a message in either direction: the largest blob with
	// what is around it. maxControl bounds one of go-plugin's host.
	maxMessage = 8<<20 + 64<<10
	maxControl = 64 << 10
	// compressFrom is the size from which an answer is compressed for clients
	// that take it; on this machine, between processes, nothing is.
	compressFrom = 32 << 10
)

// Build makes the plugin's server once the line to the kernel is known, and a
// function that ends its background work within ctx; drain may be nil.
type Build func(h *Host) (server *connect.Server, drain func(ctx context.Context), err error)

// Run serves until the kernel asks for the end or is gone, and returns the
// exit code. It owns the process: standard output, slog's default and signals
// are its own, and it exits the process itself when it cannot end in time.
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

// process is the one listener of a plugin process and its end.
type process struct {
	dir      string
	listener net.Listener
	identity *identity // nil without AutoMTLS
	stop     chan struct{}
	once     sync.Once
}

func newProcess() (_ *process, err error) {
	p := &process{stop: make(chan struct{})}
	if p.dir, err = os.MkdirTemp(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "p"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(p.dir)
		}
	}()
	// Before anything that could take long: nothing outlives the kernel.
	p.watch()
	if cert := os.Getenv("PLUGIN_CLIENT_CERT"); cert != "" {
		if p.identity, err = newIdentity([]byte(cert)); err != nil {
			return nil, err
		}
	}
	if p.listener, err = net.Listen("unix", filepath.Join(p.dir, "s")); err != nil {
		return nil, err
	}
	return p, nil
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
		syscall.CloseOnExec(fd)
		go func() {
			_, _ = os.NewFile(uintptr(fd), "kernel").Read(make([]byte, 1))
			p.end()
		}()
	}
}

// end asks for the end, and sees to it.
func (p *process) end() {
	p.once.Do(func() {
		close(p.stop)
		time.AfterFunc(exitTimeout, func() {
			slog.Error("the plugin did not end in time")
			_ = os.RemoveAll(p.dir)
			os.Exit(1)
		})
	})
}

func (p *process) serve(stdout *os.File, build Build) error {
	defer func() { _ = os.RemoveAll(p.dir) }()
	server, drain, err := build(newHost(os.Getenv(handshake.EnvHostSocket), p.identity))
	if err != nil {
		return err
	}
	srv := p.server(server)
	failed := make(chan error, 1)
	line := ""
	if p.identity != nil {
		line = base64.RawStdEncoding.EncodeToString(p.identity.der)
		go func() { failed <- srv.ServeTLS(p.listener, "", "") }()
	} else {
		go func() { failed <- srv.Serve(p.listener) }()
	}
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
	if drain != nil {
		drain(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		slog.Warn("calls were still in flight at the end")
		return nil
	}
	return err
}

// server serves the plugin's methods and go-plugin's in every protocol of
// Connect, on HTTP/1.1 and HTTP/2, with mutual TLS where the kernel gave its
// certificate.
func (p *process) server(s *connect.Server) *http.Server {
	mux := http.NewServeMux()
	connecthttp.Mount(mux, p.control(), connecthttp.WithReadMaxBytes(maxControl))
	connecthttp.Mount(mux, recovered(s), connecthttp.WithCodecs(connectproto.NewBinaryCodec(), fault.JSON()),
		connecthttp.WithReadMaxBytes(maxMessage), connecthttp.WithCompressMinBytes(compressFrom))
	srv := &http.Server{
		Handler: mux, Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	if p.identity != nil {
		srv.TLSConfig = p.identity.server()
	} else {
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	return srv
}

package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/net/netutil"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/handshake"
)

const (
	// idleConnections is how many connections to one process are kept: about
	// the calls that run side by side.
	idleConnections = 256
	// hostConnections is how many one process may have open to the kernel.
	hostConnections = 512
	// maxDescription bounds a lifecycle answer, maxHeaders its headers.
	maxDescription = 16 << 20
	maxHeaders     = 256 << 10
)

// process is one start of a plugin: everything in it is made anew for the
// next, go-plugin's client too, which cannot start twice.
type process struct {
	log     *slog.Logger
	pace    pace
	client  *goplugin.Client
	child   *child
	exit    <-chan struct{} // closed when the process has ended
	tls     *tls.Config
	host    *http.Server
	http1   *http.Transport
	http2   *http.Transport
	life    pluginv1connect.PluginServiceClient
	callers *registry.Process
	started time.Time
	ending  sync.Once

	describe *pluginv1.DescribeResponse
	schema   *registry.Schema
	requests []*pluginv1.ConfigureRequest
}

// spawn starts the binary and does the handshake. The process is ended when
// ctx is done before spawn returns.
func (u *unit) spawn(ctx context.Context, path string) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, u.sup.pace.start, fmt.Errorf("no handshake within %s", u.sup.pace.start))
	defer cancel()
	p := &process{log: u.log, pace: u.sup.pace, started: time.Now()}
	cfg := &goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: handshake.ProtocolVersion, MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue,
		},
		// Nothing is dispensed: calls ride connections of their own, which stay
		// until they are drained. The control connection is for Shutdown.
		Plugins:          goplugin.PluginSet{},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     2 * u.sup.pace.start, // ctx is first
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: u.sup.sockets.dir},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, dir string) (_ runner.Runner, err error) {
			p.child, err = newChild(ctx, path, u.sup.cfg.LogLevel, newPump(u.log), spec, dir)
			return p.child, err
		},
	}
	p.client = goplugin.NewClient(cfg)
	addr, err := p.client.Start()
	if err == nil {
		p.tls, p.exit = cfg.TLSConfig, p.child.exited
		p.connect(addr)
		_, err = p.client.Client()
	}
	if err == nil && p.child.settled() {
		return p, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	p.end()
	if p.child != nil {
		if tail := p.child.pump.tail(); tail != "" {
			err = fmt.Errorf("%w; it wrote: %s", err, tail)
		}
	}
	return nil, fmt.Errorf("start: %w", err)
}

// connect makes the transports toward the process. They use the certificates
// of the handshake: each side trusts the one certificate of the other.
func (p *process) connect(addr net.Addr) {
	transport := func(protocols *http.Protocols) *http.Transport {
		return &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, addr.Network(), addr.String())
			},
			TLSClientConfig: p.tls.Clone(), Protocols: protocols, MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections,
			IdleConnTimeout: 5 * time.Minute, DisableCompression: true, TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: maxHeaders,
		}
	}
	h1, h2 := new(http.Protocols), new(http.Protocols)
	h1.SetHTTP1(true)
	h2.SetHTTP2(true)
	p.http1, p.http2 = transport(h1), transport(h2)
	pid, _ := strconv.Atoi(p.child.ID())
	p.callers = registry.NewProcess(pid, p.http1, p.http2)
	p.life = pluginv1connect.NewPluginServiceClient(connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: p.http1}, "https://localhost", connecthttp.WithReadMaxBytes(maxDescription))))
}

// admit serves the kernel's side of the process's socket. Until then what the
// process asks waits: it is not known yet to be what was granted.
func (p *process) admit(h http.Handler) {
	server := p.tls.Clone()
	server.ClientAuth = tls.RequireAndVerifyClientCert
	// go-plugin asks for 1.2 so that old plugins work; here none are.
	server.MinVersion = tls.VersionTLS13
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	p.host = &http.Server{
		Handler: h, TLSConfig: server, Protocols: both, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 10 * time.Minute,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	go func() { _ = p.host.ServeTLS(netutil.LimitListener(p.child.listener, hostConnections), "", "") }()
}

// stop ends a process that another has replaced: it takes no further call,
// those in flight finish, then its background work. Each part is bounded.
func (p *process) stop(reason string) {
	p.callers.Close()
	p.quiesce()
	p.drain(reason)
	p.finish()
}

// quiesce waits until no call is inside.
func (p *process) quiesce() {
	if !within(p.callers.Idle(), p.pace.inflight) && !p.gone() {
		p.log.Warn("calls were still in flight when the plugin was stopped")
	}
}

// drain tells the plugin to end its background work.
func (p *process) drain(reason string) {
	if p.gone() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.pace.drain)
	defer cancel()
	if _, err := p.life.Drain(ctx, &pluginv1.DrainRequest{Reason: reason}); err != nil && !p.gone() {
		p.log.Warn("the plugin did not drain", "error", brief(err.Error()))
	}
}

// end ends a process that does not serve, or must not any longer: at once.
func (p *process) end() {
	if p.callers != nil {
		p.callers.Close()
	}
	if p.child != nil {
		_ = p.child.Kill(context.Background())
	}
	p.finish()
}

// finish ends the process itself: by go-plugin's Shutdown, which finishes what
// is still in flight within two seconds, and by force. go-plugin's Kill has no
// bound of its own and waits for a wedged process without limit.
func (p *process) finish() {
	p.ending.Do(func() {
		if p.child == nil {
			return
		}
		if p.http1 != nil {
			// An idle HTTP/2 connection would make the plugin's shutdown wait.
			p.http1.CloseIdleConnections()
			p.http2.CloseIdleConnections()
		}
		done := make(chan struct{})
		go func() {
			p.client.Kill()
			close(done)
		}()
		if !within(done, p.pace.kill) {
			_ = p.child.Kill(context.Background())
			if !within(done, p.pace.kill) {
				p.log.Error("the process does not end, even when killed", "pid", p.child.ID())
			}
		}
		if p.host != nil {
			_ = p.host.Close()
		}
		// go-plugin forgets its folder when the binary could not be run at all.
		_ = os.RemoveAll(p.child.dir)
	})
}

// within waits for done, at most d.
func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) gone() bool {
	select {
	case <-p.exit:
		return true
	default:
		return false
	}
}

// epitaph says how a process ended that nobody ended.
func (p *process) epitaph() error {
	how := "exit status 0"
	if p.child.waitErr != nil {
		how = p.child.waitErr.Error()
	}
	if tail := p.child.pump.tail(); tail != "" {
		return fmt.Errorf("the process ended: %s; it wrote: %s", how, tail)
	}
	return errors.New("the process ended: " + how)
}

package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/rpc"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/handshake"
)

// Bounds of a plugin's life.
const (
	startTimeout     = 10 * time.Second
	describeTimeout  = 2 * time.Second
	configureTimeout = 30 * time.Second
	checkEvery       = 15 * time.Second
	checkTimeout     = 3 * time.Second
	checkMisses      = 3
	inflightTimeout  = 30 * time.Second
	drainTimeout     = 10 * time.Second
	killTimeout      = 5 * time.Second
)

// idleConnections is how many connections to one process are kept: about the
// calls that run side by side.
const idleConnections = 256

// process is one start of a plugin: everything in it is made anew for the
// next.
type process struct {
	log      *slog.Logger
	client   *goplugin.Client
	child    *child
	host     *http.Server
	exit     <-chan struct{} // closed when go-plugin sees the process end
	http1    *http.Transport
	http2    *http.Transport
	life     pluginv1connect.PluginServiceClient
	callers  *registry.Process
	started  time.Time
	describe *pluginv1.DescribeResponse
	schema   *registry.Schema
	requests []*pluginv1.ConfigureRequest
	stopOnce sync.Once
}

// exitSignal is the one thing taken from go-plugin's control connection: its
// context ends when the process does. Calls ride connections of their own,
// which stay until they are drained.
type exitSignal struct{}

func (exitSignal) Server(*goplugin.MuxBroker) (any, error)              { return nil, nil }
func (exitSignal) Client(*goplugin.MuxBroker, *rpc.Client) (any, error) { return nil, nil }
func (exitSignal) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error  { return nil }
func (exitSignal) GRPCClient(ctx context.Context, _ *goplugin.GRPCBroker, _ *grpc.ClientConn) (any, error) {
	return ctx, nil
}

// spawn starts the binary, does the handshake and opens the private socket on
// which the process reaches the kernel.
func spawn(ctx context.Context, path, level string, log *slog.Logger, host http.Handler) (*process, error) {
	p := &process{log: log, started: time.Now()}
	pump := newPump(log)
	cfg := &goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: handshake.ProtocolVersion, MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue,
		},
		Plugins:          goplugin.PluginSet{"exit": exitSignal{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     startTimeout,
		Logger:           hclog.NewNullLogger(),
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, dir string) (runner.Runner, error) {
			c, err := newChild(path, level, pump, spec, dir)
			p.child = c
			return c, err
		},
	}
	p.client = goplugin.NewClient(cfg)
	addr, err := p.client.Start()
	if err != nil {
		p.abandon()
		return nil, p.startError(err)
	}
	p.connect(addr, cfg.TLSConfig, host)
	rpcClient, err := p.client.Client()
	if err == nil {
		var raw any
		if raw, err = rpcClient.Dispense("exit"); err == nil {
			signal, ok := raw.(context.Context)
			if !ok {
				err = errors.New("go-plugin gave no exit signal")
			} else {
				p.exit = signal.Done()
			}
		}
	}
	if err != nil {
		p.abandon()
		return nil, p.startError(err)
	}
	if ctx.Err() != nil {
		p.abandon()
		return nil, ctx.Err()
	}
	return p, nil
}

// startError adds what the plugin wrote last: usually the reason.
func (p *process) startError(err error) error {
	if p.child != nil {
		if tail := p.child.pump.tail(); tail != "" {
			return fmt.Errorf("start: %w; it wrote: %s", err, tail)
		}
	}
	return fmt.Errorf("start: %w", err)
}

// connect makes the transports toward the process and serves the kernel's
// side of its socket. Both use the certificates of the handshake: each side
// trusts the one certificate of the other.
func (p *process) connect(addr net.Addr, tc *tls.Config, host http.Handler) {
	transport := func(protocols *http.Protocols) *http.Transport {
		return &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, addr.Network(), addr.String())
			},
			TLSClientConfig: tc.Clone(), Protocols: protocols, MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections,
			IdleConnTimeout: 5 * time.Minute, DisableCompression: true, TLSHandshakeTimeout: 5 * time.Second,
		}
	}
	h1, h2 := new(http.Protocols), new(http.Protocols)
	h1.SetHTTP1(true)
	h2.SetHTTP2(true)
	p.http1, p.http2 = transport(h1), transport(h2)
	pid, _ := strconv.Atoi(p.child.ID())
	p.callers = registry.NewProcess(pid, p.http1, p.http2)
	p.life = pluginv1connect.NewPluginServiceClient(connect.NewClient(
		connecthttp.NewTransport(&http.Client{Transport: p.http1}, "https://localhost", connecthttp.WithReadMaxBytes(16<<20))))

	server := tc.Clone()
	server.ClientAuth = tls.RequireAndVerifyClientCert
	server.MinVersion = tls.VersionTLS13
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	p.host = &http.Server{
		Handler: host, TLSConfig: server, Protocols: both, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	go func() { _ = p.host.ServeTLS(p.child.listener, "", "") }()
}

// abandon ends a process that never served: at once, in the background,
// bounded.
func (p *process) abandon() {
	if p.child == nil {
		return
	}
	if p.host != nil {
		_ = p.host.Close()
	}
	go p.kill()
}

// kill ends the process group. go-plugin's Kill has no bound of its own, so
// it never runs on a caller's path.
func (p *process) kill() {
	done := make(chan struct{})
	go func() {
		p.client.Kill()
		close(done)
	}()
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		_ = p.child.Kill(context.Background())
		<-done
	}
	p.child.closeAll()
}

// stop lets calls in flight finish, tells the plugin to end its background
// work, and ends the process. Each part is bounded.
func (p *process) stop(reason string) {
	p.stopOnce.Do(func() {
		timer := time.NewTimer(inflightTimeout)
		defer timer.Stop()
		select {
		case <-p.callers.Close():
		case <-timer.C:
			p.log.Warn("calls were still in flight when the plugin was stopped")
		case <-p.exit:
		}
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if _, err := p.life.Drain(ctx, &pluginv1.DrainRequest{Reason: reason}); err != nil && !p.gone() {
			p.log.Warn("the plugin did not drain", "error", err)
		}
		// An idle HTTP/2 connection would make the plugin's shutdown wait.
		p.http1.CloseIdleConnections()
		p.http2.CloseIdleConnections()
		p.kill()
		_ = p.host.Close()
	})
}

func (p *process) gone() bool {
	select {
	case <-p.exit:
		return true
	default:
		return false
	}
}

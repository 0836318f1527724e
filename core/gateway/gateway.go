// Package gateway is the public edge: Connect, gRPC, gRPC-Web and JSON on one
// port, for the kernel's own services and those of plugins alike. It
// authenticates, decides the market, checks the method's access rule, bounds
// size, time and number of calls, and hands what remains to the router.
//
// Nothing a client sends is believed but its token and its wish for a market.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// Authenticator knows whom a bearer token stands for, and which market they
// shop in ("" when they have none). An error refuses the call, whatever the
// method; its text is not shown unless it is an authored *connect.Error.
type Authenticator interface {
	Authenticate(ctx context.Context, bearer string) (p call.Principal, market string, err error)
}

// Parts are what a gateway works with.
type Parts struct {
	// Router takes the calls of plugins' methods. Required.
	Router *router.Router
	// Kernel has the kernel's own public services. Nil when there are none.
	Kernel *connect.Server
	// Authenticator is required.
	Authenticator Authenticator
	// Blobs serves what lies under /blobs/. Nil when nothing does.
	Blobs http.Handler
	// Ready tells why the deployment cannot serve; nothing when it can. Nil
	// is always ready. It answers at once.
	Ready func() []string
	// Log gets every call at debug and trouble at warn. Default
	// slog.Default().
	Log *slog.Logger
}

// Gateway is the handler of the public port. Safe for concurrent use.
type Gateway struct {
	cfg      Config
	router   *router.Router
	kernel   *router.Local // identity, operator, ...
	builtin  *router.Local // health and reflection
	auth     Authenticator
	blobs    http.Handler
	ready    func() []string
	log      *slog.Logger
	limits   router.Limits
	inFlight chan struct{}
	rates    *rates
	caller   *router.Caller
	metrics  *metrics
	origins  map[string]bool
}

// public admits everybody, for the services that have no rule of their own.
var public = &optionsv1.Access{Allow: []optionsv1.Audience{optionsv1.Audience_AUDIENCE_PUBLIC}}

// New makes a gateway, or tells what is wrong with the configuration.
func New(cfg Config, parts Parts) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if parts.Router == nil || parts.Authenticator == nil {
		return nil, errors.New("gateway: Router and Authenticator are required")
	}
	cfg = cfg.withDefaults()
	g := &Gateway{
		cfg: cfg, router: parts.Router, auth: parts.Authenticator, blobs: parts.Blobs, ready: parts.Ready, log: parts.Log,
		kernel: router.NewLocal(parts.Kernel, nil, cfg.MaxBody),
		limits: router.Limits{
			Body: cfg.MaxBody, StreamBody: cfg.MaxStreamBody, Time: cfg.CallTimeout, StreamTime: cfg.StreamTimeout,
		},
		inFlight: make(chan struct{}, cfg.MaxInFlight),
		rates:    newRates(cfg.RatePerSecond, cfg.RateBurst, cfg.RateClients),
		caller:   router.NewCaller(parts.Router),
		metrics:  newMetrics(),
		origins:  map[string]bool{},
	}
	if g.log == nil {
		g.log = slog.Default()
	}
	if g.ready == nil {
		g.ready = func() []string { return nil }
	}
	for _, o := range cfg.AllowedOrigins {
		g.origins[o] = true
	}
	builtin := connect.NewServer()
	registerHealth(builtin, g)
	registerReflection(builtin, g)
	g.builtin = router.NewLocal(builtin, public, cfg.MaxBody)
	return g, nil
}

// Server is an HTTP server for the public port: HTTP/1.1 and HTTP/2 without
// TLS. The caller listens, serves and shuts it down.
func (g *Gateway) Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Addr:      g.cfg.Address,
		Handler:   g,
		Protocols: protocols,
		// Streams set their own; these hold for everything else.
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       g.cfg.CallTimeout + 10*time.Second,
		WriteTimeout:      g.cfg.CallTimeout + 30*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250},
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP takes any request of the public port.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seen := &observed{ResponseWriter: w}
	defer g.recover(seen, r)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if g.cors(seen, r) {
		return
	}
	switch path := r.URL.Path; {
	case path == "/healthz":
		writeJSON(seen, http.StatusOK, map[string]string{"status": "live"})
	case path == "/readyz":
		g.serveReady(seen)
	case path == "/metrics" && g.cfg.Metrics:
		g.metrics.handler.ServeHTTP(seen, r)
	case strings.HasPrefix(path, "/webhooks/"):
		g.bounded(seen, r, "webhook", g.anonymous, g.serveWebhook)
	case strings.HasPrefix(path, "/blobs/") && g.blobs != nil:
		// The path is the permission: nobody is authenticated.
		g.bounded(seen, r, "blob", g.anonymous, func(w http.ResponseWriter, r *http.Request, _ call.Info) {
			g.blobs.ServeHTTP(w, r)
		})
	case isProcedure(path):
		g.serveProcedure(seen, r)
	default:
		g.notFound(seen, r)
	}
}

func (g *Gateway) serveProcedure(w *observed, r *http.Request) {
	local, m := g.method(r.URL.Path)
	if m == nil || router.Lifecycle(r.URL.Path) {
		g.bounded(w, r, "unknown", g.identify, func(w http.ResponseWriter, r *http.Request, _ call.Info) {
			router.WriteError(w, r, g.router.Missing(r.URL.Path))
		})
		return
	}
	g.bounded(w, r, m.Procedure, g.identify, func(w http.ResponseWriter, r *http.Request, info call.Info) {
		g.serveMethod(w, r, local, m, info)
	})
}

// method finds a procedure: the kernel's own before those of plugins.
func (g *Gateway) method(procedure string) (*router.Local, *registry.Method) {
	for _, l := range [...]*router.Local{g.kernel, g.builtin} {
		if m := l.Method(procedure); m != nil {
			return l, m
		}
	}
	return nil, g.router.Snapshot().Methods[procedure]
}

func (g *Gateway) serveMethod(w http.ResponseWriter, r *http.Request, local *router.Local, m *registry.Method, info call.Info) {
	if r.Method != http.MethodPost && (r.Method != http.MethodGet || !m.NoSideEffects) {
		w.Header().Set("Allow", allowed(m))
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if err := router.Permit(m.Access, info.Principal, false); err != nil {
		router.WriteError(w, r, err)
		return
	}
	if m.ClientStream || m.ServerStream {
		until := time.Now().Add(g.cfg.StreamTimeout + time.Second)
		control := http.NewResponseController(w)
		_ = errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until))
	}
	if local != nil {
		local.Serve(w, r, m, info, g.limits)
		return
	}
	g.router.Forward(w, r, m, info, g.limits)
}

func allowed(m *registry.Method) string {
	if m.NoSideEffects {
		return "GET, POST"
	}
	return "POST"
}

// identifier makes the facts of a call with that id, from that address.
type identifier func(r *http.Request, id string, address netip.Addr) (call.Info, error)

// server serves a call whose facts are known.
type server func(w http.ResponseWriter, r *http.Request, info call.Info)

// bounded serves a call within the limits and notes how it went. method is
// what it is counted as.
func (g *Gateway) bounded(w *observed, r *http.Request, method string, identify identifier, serve server) {
	begin := time.Now()
	id := router.NewRequestID()
	w.Header().Set("X-Request-Id", id)
	info := call.Info{RequestID: id}
	defer func() { g.note(w, r, method, info, time.Since(begin)) }()
	select {
	case g.inFlight <- struct{}{}:
		defer func() { <-g.inFlight }()
	default:
		router.WriteError(w, r, overloaded(time.Second, "too many calls at once"))
		return
	}
	address := g.clientAddress(r)
	r = r.WithContext(context.WithValue(r.Context(), addressKey{}, address))
	known, err := identify(r, id, address)
	if err != nil {
		if connect.CodeOf(err) == connect.CodeUnauthenticated {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		}
		router.WriteError(w, r, err)
		return
	}
	info = known
	serve(w, r, info)
}

func (g *Gateway) note(w *observed, r *http.Request, method string, info call.Info, took time.Duration) {
	code := w.code()
	g.metrics.calls.WithLabelValues(method, code).Inc()
	g.metrics.seconds.WithLabelValues(method).Observe(took.Seconds())
	if g.log.Enabled(r.Context(), slog.LevelDebug) {
		g.log.LogAttrs(r.Context(), slog.LevelDebug, "call", slog.String("method", method), slog.String("code", code),
			slog.String("request", info.RequestID), slog.String("principal", info.Principal.String()),
			slog.String("market", info.Market), slog.Duration("took", took), slog.Int64("bytes", w.bytes))
	}
}

// recover keeps a defect in one call from ending the connection without a
// word, and keeps its stack.
func (g *Gateway) recover(w *observed, r *http.Request) {
	switch v := recover(); v {
	case nil:
	case http.ErrAbortHandler:
		panic(v)
	default:
		g.log.Error("panic while serving a call", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
		if w.status != 0 {
			panic(http.ErrAbortHandler)
		}
		router.WriteError(w, r, router.Fault(connect.CodeInternal, "INTERNAL", "internal error"))
	}
}

// isProcedure tells whether a path has the form /package.Service/Method.
func isProcedure(path string) bool {
	service, method, ok := strings.Cut(path[min(1, len(path)):], "/")
	return ok && strings.Contains(service, ".") && method != "" && !strings.Contains(method, "/")
}

func (g *Gateway) notFound(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusNotFound, map[string]string{
		"code": connect.CodeNotFound.String(),
		"message": "there is nothing here. Methods are at /<package>.<Service>/<Method>; gRPC reflection " +
			"(grpc.reflection.v1.ServerReflection) lists them, and /healthz tells whether the gateway lives",
	})
}

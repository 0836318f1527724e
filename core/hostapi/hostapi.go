// Package hostapi is what a plugin may ask: the kernel's services and the
// methods of other plugins, on the one private socket of its process. The
// caller is known by that socket and by nothing it says.
//
// The original principal of a call rides along with what the call causes. A
// plugin names the call it is serving by its request id; principal and market
// are then looked up among the calls that the kernel has inside of that
// plugin now. So a plugin can speak for those it serves, while it serves
// them, and otherwise for itself.
package hostapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/router"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Reasons of refusals.
const (
	// ReasonScopeMissing: the manifest does not list the contract under calls.
	ReasonScopeMissing = "SCOPE_MISSING"
	// ReasonMarketUnknown: the market is none of the deployment's.
	ReasonMarketUnknown = "MARKET_UNKNOWN"
	// ReasonTooManyCalls: the process has as many calls open as it may.
	ReasonTooManyCalls = "TOO_MANY_CALLS"
)

// Config is what the host API needs.
type Config struct {
	// Router takes calls to other plugins. Required.
	Router *router.Router
	// Kernel has the services of entrepot.kernel.v1. Every plugin reaches
	// them; they check finer scopes themselves, with CallerFrom. Required.
	Kernel *connect.Server
	// Markets are the deployment's, and DefaultMarket the one of a call that
	// names none and belongs to none.
	Markets       []string
	DefaultMarket string
	// MaxBody is the most bytes of a message. Default 8 MiB and 64 KiB: the
	// largest blob, and what stands around it.
	MaxBody int64
	// Timeout is the longest a call may take, StreamTimeout a stream.
	// Defaults 10 minutes and 1 hour: callers' own deadlines ride along and
	// are shorter.
	Timeout, StreamTimeout time.Duration
	// MaxInFlight is how many calls one process may make at once. One more is
	// refused with resource_exhausted. Default 1024.
	MaxInFlight int
	// Log gets refusals at debug. Default slog.Default().
	Log *slog.Logger
}

// Host serves the private sockets of all plugins. Safe for concurrent use.
type Host struct {
	router  *router.Router
	kernel  *router.Local
	markets []string
	market  string
	limits  router.Limits
	most    int
	log     *slog.Logger
}

// New makes a host.
func New(cfg Config) (*Host, error) {
	if cfg.Router == nil || cfg.Kernel == nil {
		return nil, errors.New("hostapi: Router and Kernel are required")
	}
	h := &Host{
		router: cfg.Router, markets: cfg.Markets, market: cfg.DefaultMarket, most: cfg.MaxInFlight, log: cfg.Log,
		limits: router.Limits{Body: cfg.MaxBody, Time: cfg.Timeout, StreamTime: cfg.StreamTimeout},
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	if h.most <= 0 {
		h.most = 1024
	}
	if h.limits.Body <= 0 {
		h.limits.Body = 8<<20 + 64<<10
	}
	if h.limits.Time <= 0 {
		h.limits.Time = 10 * time.Minute
	}
	if h.limits.StreamTime <= 0 {
		h.limits.StreamTime = time.Hour
	}
	h.limits.StreamBody = 16 * h.limits.Body
	h.kernel = router.NewLocal(cfg.Kernel, nil, h.limits.Body)
	return h, nil
}

// Caller is the plugin on whose socket a call came.
type Caller struct {
	Plugin   string
	Manifest *pluginv1.Manifest
}

type callerKey struct{}

// CallerFrom returns the plugin that makes a call of a kernel service; false
// outside of one.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Handler serves the socket of one plugin process. The manifest is the one
// that the operator granted; its calls are the plugin's scope.
func (h *Host) Handler(plugin string, manifest *pluginv1.Manifest) http.Handler {
	caller := Caller{Plugin: plugin, Manifest: manifest}
	inFlight := make(chan struct{}, h.most)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case inFlight <- struct{}{}:
			defer func() { <-inFlight }()
			h.serve(w, r, caller)
		default:
			h.refuse(w, r, caller, fault.Retry(
				router.Fault(connect.CodeResourceExhausted, ReasonTooManyCalls, "this plugin makes too many calls at once"), time.Second))
		}
	})
}

func (h *Host) serve(w http.ResponseWriter, r *http.Request, c Caller) {
	procedure := r.URL.Path
	info, err := h.info(c.Plugin, r.Header)
	if err != nil {
		h.refuse(w, r, c, err)
		return
	}
	if m := h.kernel.Method(procedure); m != nil {
		if err := router.Permit(m.Access, info.Principal, true); err != nil {
			h.refuse(w, r, c, err)
			return
		}
		if info.RequestID == "" {
			info.RequestID = router.NewRequestID()
		}
		h.kernel.Serve(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)), m, info, h.limits)
		return
	}
	if err := inScope(c.Manifest, procedure); err != nil {
		h.refuse(w, r, c, err)
		return
	}
	m := h.router.Snapshot().Methods[procedure]
	if m == nil {
		h.refuse(w, r, c, h.router.Missing(procedure))
		return
	}
	if err := router.Permit(m.Access, info.Principal, true); err != nil {
		h.refuse(w, r, c, err)
		return
	}
	h.router.Forward(w, r, m, info, h.limits)
}

// info is what the kernel knows of a call that a plugin makes. What the
// plugin may choose itself are the market, the instance, the idempotency key
// and the trace.
func (h *Host) info(plugin string, header http.Header) (call.Info, *connect.Error) {
	info := call.Info{
		Principal:      call.Principal{Kind: call.Plugin, Plugin: plugin},
		Caller:         plugin,
		Market:         h.market,
		Instance:       header.Get(call.HeaderInstance),
		IdempotencyKey: header.Get(call.HeaderIdempotencyKey),
		Traceparent:    header.Get(call.HeaderTraceparent),
	}
	if id := header.Get(call.HeaderRequestID); id != "" {
		if serving, ok := h.router.InFlight(plugin, id); ok {
			info.Principal, info.Market, info.RequestID = serving.Principal, serving.Market, id
		}
	}
	if market := header.Get(call.HeaderMarket); market != "" {
		if !slices.Contains(h.markets, market) {
			return call.Info{}, unknownMarket(h.markets)
		}
		info.Market = market
	}
	return info, nil
}

// inScope tells whether a plugin was granted calls to a procedure's contract.
func inScope(manifest *pluginv1.Manifest, procedure string) *connect.Error {
	service, _, ok := strings.Cut(strings.TrimPrefix(procedure, "/"), "/")
	dot := strings.LastIndexByte(service, '.')
	if !ok || dot < 0 {
		return router.UnknownMethod(procedure)
	}
	return granted(manifest, service[:dot])
}

// granted tells whether a plugin may call a contract. The lifecycle is the
// kernel's alone, whatever a manifest lists.
func granted(manifest *pluginv1.Manifest, contract string) *connect.Error {
	if !slices.Contains(manifest.GetCalls(), contract) || router.Lifecycle("/"+contract+".") {
		return router.Fault(connect.CodePermissionDenied, ReasonScopeMissing,
			"the manifest of this plugin does not list "+contract+" under calls", "contract", contract)
	}
	return nil
}

// refuse answers an error and keeps a trace of it for who looks into a
// plugin's doings.
func (h *Host) refuse(w http.ResponseWriter, r *http.Request, c Caller, err *connect.Error) {
	h.log.LogAttrs(r.Context(), slog.LevelDebug, "a plugin's call was refused",
		slog.String("plugin", c.Plugin), slog.String("procedure", r.URL.Path), slog.String("error", err.Error()))
	router.WriteError(w, r, err)
}

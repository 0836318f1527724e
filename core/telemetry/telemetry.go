// Package telemetry shows what the kernel counts, in Prometheus's text format,
// at an address of its own: how much is sold is nobody's business but the
// operator's.
package telemetry

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is where metrics are served.
const Path = "/metrics"

// NewRegistry makes the registry of the kernel's rooms. The process and its
// Go runtime are in it.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Server serves a registry's metrics at Path, and nothing else. What rooms
// with registries of their own serve there follows: more are their handlers.
// The caller listens, serves and shuts it down.
func Server(r *prometheus.Registry, log *slog.Logger, more ...http.Handler) *http.Server {
	// Plain text on both sides, so that one may follow the other.
	own := promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true, ErrorHandling: promhttp.ContinueOnError})
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, req *http.Request) {
		req = req.Clone(req.Context())
		req.Header = http.Header{}
		for _, h := range append([]http.Handler{own}, more...) {
			h.ServeHTTP(w, req)
		}
	})
	return &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Hide keeps Path from those whom public serves.
func Hide(public http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == Path {
			http.NotFound(w, req)
			return
		}
		public.ServeHTTP(w, req)
	})
}

package telemetry_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/telemetry"
)

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	// As Prometheus asks.
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
	r.Header.Set("Accept-Encoding", "gzip")
	h.ServeHTTP(w, r)
	return w
}

func TestTheMetricsOfAllRoomsAreOneText(t *testing.T) {
	own, other := telemetry.NewRegistry(), prometheus.NewRegistry()
	for _, r := range []*prometheus.Registry{own, other} {
		name := map[bool]string{true: "own_total", false: "other_total"}[r == own]
		r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "x"}))
	}
	server := telemetry.Server(own, slog.New(slog.DiscardHandler), promhttp.HandlerFor(other, promhttp.HandlerOpts{}))
	w := get(server.Handler, telemetry.Path)
	for _, sample := range []string{"own_total 0", "other_total 0", "go_goroutines "} {
		require.Equal(t, 1, strings.Count("\n"+w.Body.String(), "\n"+sample), sample)
	}
	require.Contains(t, w.Header().Get("Content-Type"), "text/plain")
	require.Equal(t, http.StatusNotFound, get(server.Handler, "/").Code)
}

func TestThePublicSeesNoMetrics(t *testing.T) {
	public := telemetry.Hide(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }))
	require.Equal(t, http.StatusNotFound, get(public, telemetry.Path).Code)
	require.Equal(t, "/healthz", get(public, "/healthz").Body.String())
}

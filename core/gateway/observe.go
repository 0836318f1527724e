package gateway

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// observed notes how a call was answered while it is being answered.
type observed struct {
	http.ResponseWriter
	status int
	bytes  int64
	named  string // the code an error body names
}

func (o *observed) WriteHeader(status int) {
	if o.status == 0 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

// errorBody is how a Connect error body begins.
var errorBody = []byte(`{"code":"`)

func (o *observed) Write(p []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	if o.bytes == 0 && o.status >= http.StatusBadRequest {
		if rest, ok := bytes.CutPrefix(p, errorBody); ok {
			name, _, _ := bytes.Cut(rest, []byte(`"`))
			o.named = string(name)
		}
	}
	n, err := o.ResponseWriter.Write(p)
	o.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher, which Connect's handlers of streams need.
func (o *observed) Flush() { _ = http.NewResponseController(o.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// code is the Connect code of the answer, "ok", or "stream" for the end of a
// stream that only its client reads. There are no other values but
// "http_<status>" of answers that are none of a call.
func (o *observed) code() string {
	h := o.Header()
	for _, name := range [...]string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if v := h.Get(name); v != "" {
			n, err := strconv.Atoi(v)
			switch {
			case err == nil && n == 0:
				return "ok"
			case err == nil && n > 0 && n <= int(connect.CodeUnauthenticated):
				return connect.Code(n).String()
			}
			return connect.CodeUnknown.String()
		}
	}
	var c connect.Code
	switch {
	case o.named != "" && c.UnmarshalText([]byte(o.named)) == nil && c >= connect.CodeCanceled && c <= connect.CodeUnauthenticated:
		return c.String()
	case o.status >= http.StatusBadRequest:
		return "http_" + strconv.Itoa(min(o.status, 599))
	case strings.HasPrefix(h.Get("Content-Type"), "application/connect+"), strings.HasPrefix(h.Get("Content-Type"), "application/grpc"):
		return "stream"
	default:
		return "ok"
	}
}

// metrics are the gateway's, in a registry of their own.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	handler http.Handler
}

func newMetrics() *metrics {
	registry := prometheus.NewRegistry()
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "entrepot_gateway_calls_total", Help: "Calls answered at the public port, by method and Connect code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "entrepot_gateway_call_seconds", Help: "Time from a call's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method"}),
	}
	registry.MustRegister(m.calls, m.seconds)
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

package saga

import (
	"connectrpc.com/connect/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the runner's counters. Label values are fixed words.
type metrics struct {
	ends   *prometheus.CounterVec
	steps  *prometheus.CounterVec
	driven prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	const ns, sub = "entrepot", "saga"
	m := &metrics{
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "ends_total",
			Help: "Sagas that this node drove to an end, by state; stuck ones wait for the operator."}, []string{"state"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "steps_total",
			Help: "Attempts of steps, by direction and code."}, []string{"direction", "code"}),
		driven: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "driven",
			Help: "Sagas that this node drives now."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.ends, m.steps, m.driven} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) step(undo bool, err error) {
	direction, code := "do", "ok"
	if undo {
		direction = "undo"
	}
	if err != nil {
		code = connect.CodeOf(err).String()
	}
	m.steps.WithLabelValues(direction, code).Inc()
}

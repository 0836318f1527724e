package bus

import "github.com/prometheus/client_golang/prometheus"

// metrics are the bus's counters. Label values are subscriptions and fixed
// words, so their number is bounded by the deployment.
type metrics struct {
	sequenced  prometheus.Counter
	deliveries *prometheus.CounterVec
	events     *prometheus.CounterVec
	aside      *prometheus.CounterVec
	dead       *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "entrepot", Subsystem: "bus", Name: name, Help: help}
	}
	m := &metrics{
		sequenced:  prometheus.NewCounter(opts("sequenced_total", "Events that this node gave a position.")),
		deliveries: prometheus.NewCounterVec(opts("deliveries_total", "Batches sent, by outcome."), []string{"subscription", "outcome"}),
		events:     prometheus.NewCounterVec(opts("handled_total", "Events whose effect is committed."), []string{"subscription"}),
		aside:      prometheus.NewCounterVec(opts("parked_total", "Events set aside because their handler failed."), []string{"subscription"}),
		dead:       prometheus.NewCounterVec(opts("dead_total", "Events given up after their last attempt."), []string{"subscription"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.sequenced, m.deliveries, m.events, m.aside, m.dead} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) delivery(s *subscription, how outcome, events int) {
	name := s.label()
	m.deliveries.WithLabelValues(name, string(how)).Inc()
	if how == handled {
		m.events.WithLabelValues(name).Add(float64(events))
	}
}

func (m *metrics) parked(s *subscription, dead bool) {
	name := s.label()
	m.aside.WithLabelValues(name).Inc()
	if dead {
		m.dead.WithLabelValues(name).Inc()
	}
}

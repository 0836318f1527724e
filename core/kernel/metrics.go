package kernel

import (
	"fmt"
	"net"

	"github.com/entrepot/entrepot/core/telemetry"
)

// showMetrics serves what the rooms count where the operator wants it. The
// gateway counts calls in a registry of its own.
func (k *kernel) showMetrics() (closeServer func(), err error) {
	address := k.cfg.Deployment.Kernel.Metrics
	if address == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the metrics' port: %w. Free it, or write another kernel.metrics", err)
	}
	server := telemetry.Server(k.metrics, k.log, k.gateway)
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}

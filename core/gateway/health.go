package gateway

import (
	"context"
	"encoding/json"
	"net/http"

	"connectrpc.com/connect/v2"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/entrepot/entrepot/core/router"
)

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

func (g *Gateway) serveReady(w http.ResponseWriter) {
	reasons := g.ready()
	if len(reasons) == 0 {
		writeJSON(w, http.StatusOK, readiness{Ready: true, Reasons: []string{}})
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, readiness{Reasons: reasons})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A failed write means that the client is gone.
	_ = json.NewEncoder(w).Encode(v)
}

// registerHealth serves grpc.health.v1.Health/Check: the deployment's
// readiness for the empty service, and for a known service whether an
// instance is there to serve it. Watch is left unimplemented, which the
// protocol allows.
func registerHealth(server *connect.Server, g *Gateway) {
	method := healthv1.File_grpc_health_v1_health_proto.Services().ByName("Health").Methods().ByName("Check")
	server.Register(connect.Method{
		Spec: connect.Spec{
			Procedure: "/grpc.health.v1.Health/Check", StreamType: connect.StreamTypeUnary,
			Schema: method, IdempotencyLevel: connect.IdempotencyNoSideEffects,
		},
		Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
			req := &healthv1.HealthCheckRequest{}
			if err := stream.Receive(req); err != nil {
				return err
			}
			status, err := g.health(req.GetService())
			if err != nil {
				return err
			}
			return stream.Send(&healthv1.HealthCheckResponse{Status: status})
		},
	})
}

func (g *Gateway) health(service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
	if len(g.ready()) > 0 {
		return healthv1.HealthCheckResponse_NOT_SERVING, nil
	}
	if service == "" {
		return healthv1.HealthCheckResponse_SERVING, nil
	}
	found, own := g.service(protoreflect.FullName(service))
	if !found {
		return 0, router.Fault(connect.CodeNotFound, "SERVICE_UNKNOWN", "nothing here serves "+service)
	}
	if !own && !g.served(string(protoreflect.FullName(service).Parent())) {
		return healthv1.HealthCheckResponse_NOT_SERVING, nil
	}
	return healthv1.HealthCheckResponse_SERVING, nil
}

// served tells whether a healthy instance serves a contract.
func (g *Gateway) served(contract string) bool {
	for _, in := range g.router.Snapshot().Instances {
		if in.Healthy && in.Plugin.Process != nil && in.Contracts[contract] {
			return true
		}
	}
	return false
}

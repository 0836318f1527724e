// Package operator serves entrepot.operator.v1.OperatorService: what runs, and
// the restart of a plugin. The bus and the sagas serve their own parts of that
// contract.
package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/core/registry"
	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Reasons of OperatorService.
const (
	ReasonPluginUnknown = "PLUGIN_UNKNOWN"
	ReasonRestartFailed = "RESTART_FAILED"
)

// Config is what the service shows. All fields are required.
type Config struct {
	// Version of the kernel, and the name of its node.
	Version, Node string
	StartedAt     time.Time
	// Database is "embedded" or "external".
	Database   string
	Deployment *deployment.Deployment
	// Snapshot returns what runs now.
	Snapshot func() *registry.Snapshot
	// Restart replaces a plugin's process and returns when the new one serves.
	Restart func(ctx context.Context, plugin string) error
}

// Service implements OperatorService. Safe for concurrent use.
type Service struct{ cfg Config }

var _ operatorv1connect.OperatorServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// GetStatus tells what runs.
func (s *Service) GetStatus(context.Context, *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	res := &operatorv1.GetStatusResponse{
		Version: s.cfg.Version, Node: s.cfg.Node, Pid: int32(os.Getpid()), StartedAt: timestamppb.New(s.cfg.StartedAt), Database: s.cfg.Database,
	}
	snapshot := s.cfg.Snapshot()
	for _, p := range s.cfg.Deployment.Plugins {
		res.Plugins = append(res.Plugins, status(p, snapshot))
	}
	for _, m := range s.cfg.Deployment.Markets {
		res.Markets = append(res.Markets, &operatorv1.MarketStatus{Market: m.Code, Currency: m.Currency, Bindings: bindings(s.cfg.Deployment.Bindings, m.Code, time.Now())})
	}
	return res, nil
}

// RestartPlugin replaces a plugin's process. Operators are told why one does
// not come up: the reason stands in the status anyway.
func (s *Service) RestartPlugin(ctx context.Context, req *operatorv1.RestartPluginRequest) (*operatorv1.RestartPluginResponse, error) {
	if !slices.ContainsFunc(s.cfg.Deployment.Plugins, func(p *deployment.Plugin) bool { return p.Name == req.GetPlugin() }) {
		return nil, fault.New(connect.CodeNotFound, ReasonPluginUnknown, fmt.Sprintf("this deployment has no plugin %q", req.GetPlugin()))
	}
	err := s.cfg.Restart(ctx, req.GetPlugin())
	switch {
	case err == nil:
		return &operatorv1.RestartPluginResponse{}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fault.New(connect.CodeDeadlineExceeded, ReasonRestartFailed, "the new process is not ready yet: look at the status")
	}
	return nil, fault.New(connect.CodeUnavailable, ReasonRestartFailed, fmt.Sprintf("plugin %s does not come up: %v", req.GetPlugin(), err))
}

func status(declared *deployment.Plugin, snapshot *registry.Snapshot) *operatorv1.PluginStatus {
	out := &operatorv1.PluginStatus{Name: declared.Name, State: string(registry.Starting)}
	p := snapshot.Plugins[declared.Name]
	if p == nil {
		return out
	}
	out.Version, out.State, out.Reason, out.Sha256, out.Restarts = p.Manifest.GetVersion(), string(p.State), p.Reason, p.SHA256, int32(p.Restarts)
	switch p.Manifest.GetKind() {
	case pluginv1.Manifest_KIND_MODULE:
		out.Kind = "module"
	case pluginv1.Manifest_KIND_PROVIDER:
		out.Kind = "provider"
	}
	for _, c := range p.Manifest.GetServes() {
		out.Contracts = append(out.Contracts, c.GetContract())
	}
	if p.Process != nil {
		out.Pid, out.StartedAt = int32(p.Process.PID), timestamppb.New(p.StartedAt)
		if use, err := usageOf(p.Process.PID); err == nil {
			out.ResidentBytes, out.CpuSeconds = use.residentBytes, use.cpuSeconds
		}
	}
	for _, i := range declared.Instances {
		out.Instances = append(out.Instances, health(i.Name, snapshot.Instances[i.Name]))
	}
	return out
}

func health(name string, i *registry.Instance) *operatorv1.InstanceStatus {
	if i == nil {
		return &operatorv1.InstanceStatus{Name: name, Health: "failed", Reason: "not configured yet"}
	}
	out := &operatorv1.InstanceStatus{Name: name, Revision: i.Revision, Health: "ok", Reason: i.Reason}
	switch {
	case !i.Healthy:
		out.Health = "failed"
	case i.Reason != "":
		out.Health = "degraded"
	}
	return out
}

// bindings are those that hold in a market now: its own, and the default ones
// of contracts for which it has none.
func bindings(all []*deployment.Binding, market string, now time.Time) []*operatorv1.BindingStatus {
	holds := func(b *deployment.Binding, market string) bool {
		return b.Market == market && b.Merchant == "" && (b.From.IsZero() || !now.Before(b.From)) && (b.Until.IsZero() || now.Before(b.Until))
	}
	own := map[string]bool{}
	var out []*operatorv1.BindingStatus
	for _, scope := range []string{market, ""} {
		for _, b := range all {
			if !holds(b, scope) || scope == "" && own[b.Contract] {
				continue
			}
			own[b.Contract] = own[b.Contract] || scope == market
			out = append(out, &operatorv1.BindingStatus{Contract: b.Contract, Instance: b.Instance, Priority: int32(b.Priority), Weight: int32(b.Weight)})
		}
	}
	slices.SortStableFunc(out, func(a, b *operatorv1.BindingStatus) int {
		return cmp.Or(cmp.Compare(a.GetContract(), b.GetContract()), cmp.Compare(a.GetPriority(), b.GetPriority()))
	})
	return out
}

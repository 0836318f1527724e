package kernel

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/validate"

	"github.com/entrepot/entrepot/core/bus"
	"github.com/entrepot/entrepot/core/hostapi"
	"github.com/entrepot/entrepot/core/operator"
	"github.com/entrepot/entrepot/core/saga"
	"github.com/entrepot/entrepot/core/vault"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/pgerr"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// guard keeps errors that nobody authored from whoever called: a database that
// is away can be asked again, the rest is ours to find in the log.
func (k *kernel) guard(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		err := next(ctx, spec, stream)
		var authored *connect.Error
		switch {
		case err == nil, errors.As(err, &authored), ctx.Err() != nil:
			return err
		case pgerr.Unreachable(err):
			k.log.WarnContext(ctx, "the database is away", "method", spec.Procedure, "error", err)
			away := fault.New(connect.CodeUnavailable, "DATABASE_UNREACHABLE", "the database cannot be reached; try again")
			return fault.Retry(away, 100*time.Millisecond)
		}
		k.log.ErrorContext(ctx, "call failed", "method", spec.Procedure, "error", err)
		return connect.NewError(connect.CodeInternal, "internal error").WithCause(err)
	}
}

// hostServices are what plugins may ask of the kernel.
func (k *kernel) hostServices(markets []string) *connect.Server {
	s := connect.NewServer(k.guard, fault.Receiving, validate.NewServerInterceptor())
	kernelv1connect.RegisterBusServiceHandler(s, bus.NewPublisher(k.bus, k.busCaller, k.schema))
	kernelv1connect.RegisterSagaServiceHandler(s, saga.NewService(k.sagas, sagaCaller))
	kernelv1connect.RegisterVaultServiceHandler(s, k.vault)
	kernelv1connect.RegisterStateServiceHandler(s, k.db.NewState(pluginName))
	kernelv1connect.RegisterInstanceServiceHandler(s, hostapi.NewInstances(k.router, markets))
	kernelv1connect.RegisterBlobServiceHandler(s, k.blobs)
	return s
}

// publicServices are the kernel's own on the public port.
func (k *kernel) publicServices() *connect.Server {
	s := connect.NewServer(k.guard, fault.Receiving, validate.NewServerInterceptor())
	k.identity.Register(s)
	operatorv1connect.RegisterOperatorServiceHandler(s, operator.New(operator.Config{
		Version: k.cfg.Version, Node: k.node.ID(), StartedAt: k.started, Database: k.db.Kind(), Deployment: k.cfg.Deployment.Deployment,
		Snapshot: k.registry.Snapshot, Restart: k.plugins.Restart,
	}))
	operatorv1connect.RegisterBusServiceHandler(s, bus.NewOperator(k.bus, saga.Counts, k.schema))
	operatorv1connect.RegisterSagaServiceHandler(s, saga.NewOperator(k.sagas))
	return s
}

// schema finds a message that some plugin described, to show payloads.
func (k *kernel) schema(name protoreflect.FullName) protoreflect.MessageDescriptor {
	return k.registry.Snapshot().Message(name)
}

func vaultCaller(ctx context.Context) (vault.Caller, bool) {
	c, ok := hostapi.CallerFrom(ctx)
	return vault.Caller{Plugin: c.Plugin, Reveals: c.Manifest.GetReveals()}, ok
}

func (k *kernel) busCaller(ctx context.Context) (bus.Caller, bool) {
	c, ok := hostapi.CallerFrom(ctx)
	out := bus.Caller{Plugin: c.Plugin, Publishes: c.Manifest.GetPublishes()}
	for _, p := range k.cfg.Deployment.Plugins {
		if p.Name == c.Plugin {
			for _, in := range p.Instances {
				out.Instances = append(out.Instances, in.Name)
			}
		}
	}
	return out, ok
}

func sagaCaller(ctx context.Context) (string, bool) { return pluginName(ctx) }

func pluginName(ctx context.Context) (string, bool) {
	c, ok := hostapi.CallerFrom(ctx)
	return c.Plugin, ok
}

package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"connectrpc.com/connect/v2"
	"connectrpc.com/validate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// Server is a plugin as the kernel sees it: the lifecycle, and every method of
// the contracts it serves, dispatched to the instance that a call names.
type Server struct {
	*connect.Server
	plugin   Plugin
	describe *pluginv1.DescribeResponse
	host     *host.Host

	mu        sync.RWMutex
	instances map[string]*Instance
	draining  bool
}

func newServer(p Plugin, d *pluginv1.DescribeResponse, h *host.Host) (*Server, error) {
	s := &Server{Server: connect.NewServer(), plugin: p, describe: d, host: h, instances: make(map[string]*Instance)}
	pluginv1connect.RegisterPluginServiceHandler(s.Server, lifecycle{s})
	pluginv1connect.RegisterEventServiceHandler(s.Server, events{s})
	for _, c := range d.GetManifest().GetServes() {
		if err := s.route(protoreflect.FullName(c.GetContract())); err != nil {
			return nil, err
		}
	}
	pluginv1connect.RegisterWebhookServiceHandler(s.Server, webhooks{s})
	return s, nil
}

// route registers every method of a contract; the handler is looked up in the
// instance when a call comes.
func (s *Server) route(contract protoreflect.FullName) error {
	n := 0
	protoregistry.GlobalFiles.RangeFilesByPackage(contract, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				s.Register(connect.Method{Spec: spec(methods.Get(j)), Handler: s.dispatch})
				n++
			}
		}
		return true
	})
	if n == 0 {
		return fmt.Errorf("contract %s has no services", contract)
	}
	return nil
}

// spec is what generated code would say of a method.
func spec(m protoreflect.MethodDescriptor) connect.Spec {
	out := connect.Spec{Schema: m, Procedure: fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())}
	switch {
	case m.IsStreamingClient() && m.IsStreamingServer():
		out.StreamType = connect.StreamTypeBidi
	case m.IsStreamingClient():
		out.StreamType = connect.StreamTypeClient
	case m.IsStreamingServer():
		out.StreamType = connect.StreamTypeServer
	default:
		out.StreamType = connect.StreamTypeUnary
	}
	if o, ok := m.Options().(*descriptorpb.MethodOptions); ok {
		switch o.GetIdempotencyLevel() {
		case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
			out.IdempotencyLevel = connect.IdempotencyNoSideEffects
		case descriptorpb.MethodOptions_IDEMPOTENT:
			out.IdempotencyLevel = connect.IdempotencyIdempotent
		}
	}
	return out
}

// dispatch serves a business call with the instance it names.
func (s *Server) dispatch(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
	info, _ := connect.CallInfoForServerContext(ctx)
	facts, err := call.Decode(info.RequestHeader().Get)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err.Error())
	}
	in, release, err := s.acquire(facts.Instance)
	if err != nil {
		return err
	}
	defer release()
	if facts.Market == "" {
		facts.Market = in.DefaultMarket
	}
	ctx = store.WithMethod(call.With(ctx, facts), spec)
	return in.Server.Call(ctx, spec.Procedure, info, stream)
}

// acquire finds an instance and counts the call in; an unnamed call goes to
// the only instance there is.
func (s *Server) acquire(name string) (*Instance, func(), error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	in := s.instances[name]
	if in == nil && name == "" && len(s.instances) == 1 {
		for _, only := range s.instances {
			in = only
		}
	}
	if in == nil && s.draining {
		return nil, nil, draining()
	}
	if in == nil {
		return nil, nil, fault.New(connect.CodeNotFound, "INSTANCE_UNKNOWN", "this plugin has no instance of that name", "instance", name)
	}
	in.inflight.Add(1)
	return in, in.inflight.Done, nil
}

// draining tells a caller that came too late: nothing was done.
func draining() error {
	return fault.New(connect.CodeUnavailable, "DRAINING", "the process is ending")
}

// instanceServer is where an instance registers its services: requests are
// validated against the contract, what cannot be read is the client's mistake,
// errors that nobody authored are logged and lose their text.
func instanceServer(log *slog.Logger) *connect.Server {
	return connect.NewServer(guard(log), fault.Receiving, validate.NewServerInterceptor())
}

func guard(log *slog.Logger) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			err := next(ctx, spec, stream)
			if err == nil {
				return nil
			}
			// Who watches a stream leaves when it likes: that is no failure.
			switch left := ctx.Err(); {
			case left == nil || !errors.Is(err, left):
			case errors.Is(left, context.DeadlineExceeded):
				err = connect.NewError(connect.CodeDeadlineExceeded, "it took longer than the caller waits").WithCause(err)
			default:
				err = connect.NewError(connect.CodeCanceled, "the caller left").WithCause(err)
			}
			switch connect.CodeOf(err) {
			case connect.CodeUnknown, connect.CodeInternal:
				log.ErrorContext(ctx, "call failed", "method", spec.Procedure, "request_id", call.From(ctx).RequestID, "error", err)
				return connect.NewError(connect.CodeInternal, "internal error").WithCause(err)
			}
			log.DebugContext(ctx, "call refused", "method", spec.Procedure, "request_id", call.From(ctx).RequestID, "error", err)
			return host.Relay(err)
		}
	}
}

// Drain ends every instance; calls in flight finish first, within ctx.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	instances := s.instances
	s.instances, s.draining = make(map[string]*Instance), true
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, in := range instances {
		wg.Go(func() { in.end(ctx) })
	}
	wg.Wait()
}

// end waits for the calls of an instance and closes it.
func (in *Instance) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	idle := make(chan struct{})
	go func() {
		in.inflight.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	if in.Close != nil {
		in.Close(ctx)
	}
	if in.DB != nil {
		in.endWork()
		if err := in.DB.Close(); err != nil {
			in.Log.WarnContext(ctx, "closing the database pool", "error", err)
		}
	}
}

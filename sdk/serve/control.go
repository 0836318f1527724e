package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// control is what go-plugin's host calls, by hand: code generated from its
// schema would collide with go-plugin's own in a binary that links both. The
// well-known types stand for messages of the same bytes.
func (p *process) control() *connect.Server {
	s := connect.NewServer()
	s.Register(
		unary("/grpc.health.v1.Health/Check", func(in *wrapperspb.StringValue) (*wrapperspb.Int32Value, error) {
			if in.GetValue() != "" && in.GetValue() != "plugin" {
				return nil, connect.NewError(connect.CodeNotFound, "unknown service")
			}
			return wrapperspb.Int32(1), nil // SERVING
		}),
		unary("/plugin.GRPCController/Shutdown", func(*emptypb.Empty) (*emptypb.Empty, error) {
			p.end()
			return &emptypb.Empty{}, nil
		}),
	)
	return s
}

func unary[In, Out any](procedure string, fn func(*In) (*Out, error)) connect.Method {
	return connect.Method{
		Spec: connect.Spec{Procedure: procedure, StreamType: connect.StreamTypeUnary},
		Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
			in := new(In)
			if err := stream.Receive(in); err != nil {
				return err
			}
			out, err := fn(in)
			if err != nil {
				return err
			}
			return stream.Send(out)
		},
	}
}

// recovered serves the methods of a server so that a panic fails its own call
// and no other: the caller learns "internal" in its own protocol, streams
// included, and the stack goes to the log.
func recovered(s *connect.Server) *connect.Server {
	out := connect.NewServer()
	for spec := range s.Specs() {
		out.Register(connect.Method{Spec: spec, Handler: func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
			defer func() {
				switch v := recover(); v {
				case nil:
				case http.ErrAbortHandler:
					panic(v)
				default:
					slog.ErrorContext(ctx, "panic in a handler", "method", spec.Procedure, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
					err = connect.NewError(connect.CodeInternal, "internal error")
				}
			}()
			info, _ := connect.CallInfoForServerContext(ctx)
			return s.Call(ctx, spec.Procedure, info, stream)
		}})
	}
	return out
}

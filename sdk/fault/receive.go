package fault

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
)

// ReasonMessageUnreadable is given for what is no message of the method.
const ReasonMessageUnreadable = "MESSAGE_UNREADABLE"

// JSON is the codec of servers for JSON: a field that the method does not have
// is an error that names it. In binary messages unknown fields are numbers
// that a newer program gave a meaning; in JSON they are words that somebody
// mistyped, and a mistyped quantity must not become none.
func JSON() connect.Codec {
	c := connectproto.NewJSONCodec()
	c.UnmarshalOptions.DiscardUnknown = false
	return c
}

// Receiving is an interceptor for servers: a request that cannot be read is
// its sender's mistake, whatever Connect calls it, and one that breaks off is
// nobody's.
func Receiving(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		return next(ctx, spec, receiving{stream})
	}
}

type receiving struct{ connect.ServerStream }

func (r receiving) Receive(msg any) error {
	err := r.ServerStream.Receive(msg)
	var ce *connect.Error
	switch {
	case errors.Is(err, io.EOF), !errors.As(err, &ce):
		return err
	case ce.Code() == connect.CodeInternal:
		return New(connect.CodeInvalidArgument, ReasonMessageUnreadable, "the request is no message in the protocol that it names").WithCause(err)
	case ce.Code() == connect.CodeUnknown:
		return connect.NewError(connect.CodeCanceled, "the request broke off").WithCause(err)
	}
	return err
}

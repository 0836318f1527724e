package fault

import (
	"context"
	"errors"
	"io"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
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
// its sender's mistake, whatever Connect calls it, and so is a text with U+0000,
// which PostgreSQL cannot hold; one that breaks off is nobody's.
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
	case err == nil:
		if m, ok := msg.(proto.Message); ok {
			if field, found := nul(m.ProtoReflect()); found {
				return Field(field, "holds the character U+0000")
			}
		}
		return nil
	case errors.Is(err, io.EOF), !errors.As(err, &ce):
		return err
	case ce.Code() == connect.CodeInternal:
		return New(connect.CodeInvalidArgument, ReasonMessageUnreadable, "the request is no message in the protocol that it names").WithCause(err)
	case ce.Code() == connect.CodeUnknown:
		return connect.NewError(connect.CodeCanceled, "the request broke off").WithCause(err)
	}
	return err
}

// nul finds a text with U+0000 in a message, and names its field.
func nul(m protoreflect.Message) (field string, found bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		var within string
		look := func(kind protoreflect.Kind, v protoreflect.Value) bool {
			switch kind {
			case protoreflect.StringKind:
				found = strings.IndexByte(v.String(), 0) >= 0
			case protoreflect.MessageKind:
				within, found = nul(v.Message())
			}
			return !found
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				return look(f.MapKey().Kind(), k.Value()) && look(f.MapValue().Kind(), v)
			})
		case f.IsList():
			for i := 0; i < v.List().Len() && look(f.Kind(), v.List().Get(i)); i++ {
			}
		default:
			look(f.Kind(), v)
		}
		if found {
			field = strings.TrimSuffix(string(f.Name())+"."+within, ".")
		}
		return !found
	})
	return field, found
}

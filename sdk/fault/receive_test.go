package fault_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// What clients get wrong they are told, in every protocol; what a newer one
// sends in binary is passed over.
func TestARequestThatCannotBeReadIsItsSendersMistake(t *testing.T) {
	t.Parallel()
	s := connect.NewServer(fault.Receiving)
	for path, kind := range map[string]connect.StreamType{"/x.v1.X/One": connect.StreamTypeUnary, "/x.v1.X/Many": connect.StreamTypeClient} {
		s.Register(connect.Method{
			Spec: connect.Spec{Procedure: path, StreamType: kind},
			Handler: func(_ context.Context, spec connect.Spec, stream connect.ServerStream) error {
				in := &typev1.Money{}
				err := stream.Receive(in)
				for spec.StreamType == connect.StreamTypeClient && err == nil {
					err = stream.Receive(in)
				}
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				return stream.Send(in)
			},
		})
	}
	mux := http.NewServeMux()
	connecthttp.Mount(mux, s, connecthttp.WithCodecs(connectproto.NewBinaryCodec(), fault.JSON()))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	money, err := proto.Marshal(&typev1.Money{CurrencyCode: "GBP", MinorUnits: 5})
	require.NoError(t, err)
	framed := func(flags byte, n int, body []byte) string {
		return string(append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(n)), body...))
	}
	whole := framed(0, len(money), money)
	const web, unary, stream = "application/grpc-web+proto", "application/proto", "application/connect+proto"
	for name, c := range map[string]struct{ path, kind, body, code, says string }{
		"JSON as it should be":        {"One", "application/json", `{"currencyCode": "GBP", "minorUnits": "5"}`, "ok", ""},
		"JSON under the proto's name": {"One", "application/json", `{"currency_code": "GBP"}`, "ok", ""},
		"a word nobody knows":         {"One", "application/json", `{"minorUnitts": 5}`, "invalid_argument", "minorUnitts"},
		"no JSON":                     {"One", "application/json", `{"minorUnits": `, "invalid_argument", "unmarshal"},
		"binary as it should be":      {"One", unary, string(money), "ok", ""},
		"a field of a newer release":  {"One", unary, string(money) + "\xf8\x07\x01", "ok", ""},
		"binary rubbish":              {"One", unary, "\xff\xff\xff", "invalid_argument", "unmarshal"},
		"gRPC-Web as it should be":    {"One", web, whole, "ok", ""},
		"a frame that promises more":  {"One", web, framed(0, 900, money), "invalid_argument", "no message in the protocol"},
		"half a frame's head":         {"One", web, "\x00\x00", "invalid_argument", "no message in the protocol"},
		"a frame of an unknown kind":  {"One", web, framed(0x40, len(money), money), "invalid_argument", "no message in the protocol"},
		"compressed without a word":   {"One", web, framed(1, len(money), money), "invalid_argument", "no message in the protocol"},
		"a stream as it should be":    {"Many", stream, whole + whole, "ok", ""},
		"a stream that breaks off":    {"Many", stream, whole + whole[:7], "invalid_argument", "no message in the protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/x.v1.X/"+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", c.kind)
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			code, text := "ok", string(body)
			switch {
			case c.kind == web:
				text += res.Header.Get("Grpc-Message")
				if strings.Contains(text, "grpc-status: 3") || res.Header.Get("Grpc-Status") == "3" {
					code = "invalid_argument"
				} else if !strings.Contains(text, "grpc-status: 0") {
					code = "another"
				}
			case strings.Contains(text, `"code":"`):
				_, code, _ = strings.Cut(text, `"code":"`)
				code, _, _ = strings.Cut(code, `"`)
			}
			require.Equal(t, c.code, code, "%s %v", text, res.Header)
			require.Contains(t, text, c.says)
		})
	}
}

// received is a stream on which one message comes.
type received struct {
	connect.ServerStream
	message proto.Message
}

func (r received) Receive(msg any) error {
	proto.Merge(msg.(proto.Message), r.message)
	return nil
}

func TestATextWithU0000IsRefusedByItsField(t *testing.T) {
	t.Parallel()
	text := structpb.NewStringValue
	deep := &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{text("x"), text("b\x00")}})}}
	for name, c := range map[string]struct {
		message proto.Message
		field   string
	}{
		"a field":                {&typev1.Money{CurrencyCode: "G\x00P"}, "currency_code"},
		"deep in lists and maps": {deep, "fields.list_value.values.string_value"},
		"a key of a map":         {&structpb.Struct{Fields: map[string]*structpb.Value{"\x00": text("x")}}, "fields"},
		"one of many":            {&typev1.LocalizedText{Language: "en", Text: "a\x00"}, "text"},
		"none":                   {&typev1.Money{CurrencyCode: "GBP"}, ""},
		"in bytes it may stand":  {&wrapperspb.BytesValue{Value: []byte{0}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := fault.Receiving(func(_ context.Context, _ connect.Spec, s connect.ServerStream) error {
				return s.Receive(c.message.ProtoReflect().New().Interface())
			})(t.Context(), connect.Spec{}, received{message: c.message})
			if c.field == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
			require.ErrorContains(t, err, c.field+": holds the character U+0000")
		})
	}
}

package e2e_test

import (
	"context"
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
)

// dial opens a connection of grpc-go, which knows nothing of Connect.
func dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(open.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// One call, on one port, in every protocol that clients speak: the same
// answer in each.
func TestOneCallInEveryProtocolHasOneAnswer(t *testing.T) {
	open.article(t, 3)
	open.books(t)
	ask := &catalogv1.SearchListingsRequest{Query: "lantern", Sort: catalogv1.SearchListingsRequest_SORT_TITLE, PageSize: 5, WithFacets: true}
	connected := func(options ...connecthttp.Option) func(*testing.T) *catalogv1.SearchListingsResponse {
		return func(t *testing.T) *catalogv1.SearchListingsResponse {
			c := catalogv1connect.NewStorefrontServiceClient(connect.NewClient(connecthttp.NewTransport(http.DefaultClient, open.URL, options...)))
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("Entrepot-Market", "JP")
			res, err := c.SearchListings(ctx, ask)
			require.NoError(t, err)
			return res
		}
	}
	want := connected()(t)
	require.NotEmpty(t, want.GetListings())
	require.Equal(t, "JPY", want.GetListings()[0].GetPrice().GetCurrencyCode())
	for name, speak := range map[string]func(*testing.T) *catalogv1.SearchListingsResponse{
		"Connect with JSON":     connected(connecthttp.WithProtoJSON()),
		"Connect by GET":        connected(connecthttp.WithHTTPGet()),
		"gRPC-Web":              connected(connecthttp.WithGRPCWeb()),
		"gRPC-Web by hand":      func(t *testing.T) *catalogv1.SearchListingsResponse { return grpcWeb(t, ask) },
		"gRPC with grpc-go":     func(t *testing.T) *catalogv1.SearchListingsResponse { return withGRPC(t, ask) },
		"plain JSON by POST":    func(t *testing.T) *catalogv1.SearchListingsResponse { return plainJSON(t, ask, http.MethodPost) },
		"plain JSON in the URL": func(t *testing.T) *catalogv1.SearchListingsResponse { return plainJSON(t, ask, http.MethodGet) },
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, cmp.Diff(want, speak(t), protocmp.Transform()))
		})
	}
}

func withGRPC(t *testing.T, ask *catalogv1.SearchListingsRequest) *catalogv1.SearchListingsResponse {
	t.Helper()
	res := &catalogv1.SearchListingsResponse{}
	require.NoError(t, dial(t).Invoke(metadata.AppendToOutgoingContext(t.Context(), "entrepot-market", "JP"), search, ask, res))
	return res
}

func plainJSON(t *testing.T, ask *catalogv1.SearchListingsRequest, method string) *catalogv1.SearchListingsResponse {
	t.Helper()
	text, err := protojson.Marshal(ask)
	require.NoError(t, err)
	q := jsonTo(search, string(text), "Entrepot-Market", "JP")
	if method == http.MethodGet {
		q = request{method: method, path: search + "?connect=v1&encoding=json&message=" + url.QueryEscape(string(text)), header: map[string]string{"Entrepot-Market": "JP"}}
	}
	a := open.do(t, q)
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	res := &catalogv1.SearchListingsResponse{}
	require.NoError(t, protojson.Unmarshal(a.body, res))
	return res
}

// grpcWeb speaks gRPC-Web as a browser does: a length before each message,
// the trailers as a last message (grpc/doc/PROTOCOL-WEB.md).
func grpcWeb(t *testing.T, ask *catalogv1.SearchListingsRequest) *catalogv1.SearchListingsResponse {
	t.Helper()
	message, err := proto.Marshal(ask)
	require.NoError(t, err)
	a := open.do(t, request{path: search, body: append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...),
		header: map[string]string{"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1", "Entrepot-Market": "JP"}})
	require.Equal(t, http.StatusOK, a.status)
	require.Greater(t, len(a.body), 5)
	n := binary.BigEndian.Uint32(a.body[1:5])
	res := &catalogv1.SearchListingsResponse{}
	require.NoError(t, proto.Unmarshal(a.body[5:5+n], res))
	trailer := a.body[5+n:]
	require.Equal(t, byte(0x80), trailer[0])
	require.Contains(t, strings.ToLower(string(trailer[5:])), "grpc-status: 0")
	return res
}

// A refusal is the same refusal in every protocol.
func TestARefusalKeepsItsCodeInEveryProtocol(t *testing.T) {
	ask := &catalogv1.GetListingRequest{Sku: "sku_none"}
	const path = "/entrepot.catalog.v1.StorefrontService/GetListing"
	for name, options := range map[string][]connecthttp.Option{
		"Connect": nil, "Connect with JSON": {connecthttp.WithProtoJSON()}, "gRPC-Web": {connecthttp.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			c := catalogv1connect.NewStorefrontServiceClient(connect.NewClient(connecthttp.NewTransport(http.DefaultClient, open.URL, options...)))
			_, err := c.GetListing(t.Context(), ask)
			require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), "%v", err)
		})
	}
	err := dial(t).Invoke(t.Context(), path, ask, &catalogv1.GetListingResponse{})
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
	require.NotEmpty(t, status.Convert(err).Details())
}

// A length that lies costs the server nothing, and the client its call.
func TestAFrameThatLiesAboutItsLengthIsRefused(t *testing.T) {
	for name, frame := range map[string]string{"huge": "\x00\xff\xff\xff\xffx", "too long": "\x00\x00\x00\x00\x09x", "cut off": "\x00\x00", "packed": "\x01\x00\x00\x00\x01x"} {
		t.Run(name, func(t *testing.T) {
			a := open.do(t, request{path: search, body: []byte(frame), header: map[string]string{"Content-Type": "application/grpc-web+proto"}})
			said := strings.ToLower(string(a.body)) + "grpc-status: " + a.header.Get("Grpc-Status")
			require.Contains(t, said, "grpc-status: ")
			require.NotContains(t, said, "grpc-status: 0")
			require.NotRegexp(t, inside, said)
			open.serves(t)
		})
	}
}

// A client needs no file of ours to call: the running deployment describes
// itself, and only what can be called from outside.
func TestReflectionDescribesWhatRuns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(dial(t)).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	ask := func(req *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		require.NoError(t, stream.Send(req))
		res, err := stream.Recv()
		require.NoError(t, err)
		require.Nil(t, res.GetErrorResponse(), "%v", res)
		return res
	}
	listed := map[string]bool{}
	for _, s := range ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		listed[s.GetName()] = true
	}
	for _, name := range []string{
		"entrepot.catalog.v1.StorefrontService", "entrepot.catalog.v1.CatalogService", "entrepot.order.v1.OrderService", "entrepot.warehouse.v1.StockService",
		"entrepot.payment.v1.PaymentService", "entrepot.identity.v1.IdentityService", "entrepot.operator.v1.OperatorService", "grpc.health.v1.Health",
	} {
		require.True(t, listed[name], name)
	}
	for _, name := range []string{"entrepot.catalog.v1.QuoteService", "entrepot.payment.provider.v1.PaymentProviderService", "entrepot.plugin.v1.LifecycleService"} {
		require.False(t, listed[name], "%s is for plugins", name)
	}
	for name := range listed {
		set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
		add := func(files [][]byte) (imports []string) {
			for _, raw := range files {
				f := &descriptorpb.FileDescriptorProto{}
				require.NoError(t, proto.Unmarshal(raw, f))
				if !seen[f.GetName()] {
					seen[f.GetName()] = true
					set.File = append(set.File, f)
					imports = append(imports, f.GetDependency()...)
				}
			}
			return imports
		}
		pending := add(ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}).
			GetFileDescriptorResponse().GetFileDescriptorProto())
		for ; len(pending) > 0; pending = pending[1:] {
			if !seen[pending[0]] {
				pending = append(pending, add(ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: pending[0]}}).
					GetFileDescriptorResponse().GetFileDescriptorProto())...)
			}
		}
		files, err := protodesc.NewFiles(set)
		require.NoError(t, err, name)
		_, err = files.FindDescriptorByName(protoreflect.FullName(name))
		require.NoError(t, err)
	}
	health, err := healthv1.NewHealthClient(dial(t)).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "entrepot.catalog.v1.StorefrontService"})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, health.GetStatus())
}

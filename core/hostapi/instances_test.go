package hostapi_test

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/validate"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/blob"
	"github.com/entrepot/entrepot/core/hostapi"
	"github.com/entrepot/entrepot/core/registry"
	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/core/router/plugintest"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// yard is a kernel with carriers, some of them bound in Britain, and the
// sockets of two plugins.
type yard struct {
	reg    *registry.Registry
	slow   *plugintest.Running
	router *router.Router
	host   *hostapi.Host
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{reg: registry.New()}
	quote := []plugintest.Method{{Name: "Quote", Access: plugintest.ForPlugins, Unary: facts}}
	plugintest.Start(t, y.reg, plugintest.Plugin{
		Name: "fleet", Contract: "acme.carrier.v1", Methods: quote, Capabilities: []string{"book", "track"}, Instances: []string{"fleet-gb", "fleet-express"},
	})
	y.slow = plugintest.Start(t, y.reg, plugintest.Plugin{Name: "slow", Contract: "acme.carrier.v1", Methods: quote})
	y.router = router.New(router.Config{Registry: y.reg})
	table, err := router.NewTable([]router.Binding{
		{Contract: "acme.carrier.v1", Market: "GB", Instance: "fleet-gb", Weight: 30},
		{Contract: "acme.carrier.v1", Market: "GB", Instance: "slow", Weight: 70},
		{Contract: "acme.carrier.v1", Market: "GB", Instance: "coming", Priority: 5},
		{Contract: "acme.carrier.v1", Market: "JP", Instance: "fleet-gb"},
		{Contract: "acme.carrier.v1", Merchant: "mrc_1", Instance: "fleet-express"},
	})
	require.NoError(t, err)
	y.router.SetBindings(table)
	markets := []string{"GB", "DE", "JP"}
	dir := t.TempDir()
	blobs, err := blob.Open(blob.Options{Dir: dir + "/blobs", KeyFile: dir + "/keys/blob.key", CallerFrom: func(ctx context.Context) (string, bool) {
		c, ok := hostapi.CallerFrom(ctx)
		return c.Plugin, ok
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = blobs.Close() })
	kernel := connect.NewServer(validate.NewServerInterceptor())
	kernelv1connect.RegisterInstanceServiceHandler(kernel, hostapi.NewInstances(y.router, markets))
	kernelv1connect.RegisterBlobServiceHandler(kernel, blobs)
	y.host, err = hostapi.New(hostapi.Config{Router: y.router, Kernel: kernel, Markets: markets, DefaultMarket: "GB"})
	require.NoError(t, err)
	return y
}

// socket is a plugin's line to the kernel.
func (y *yard) socket(t *testing.T, plugin string, calls ...string) *connect.Client {
	t.Helper()
	s := plugintest.Listen(t, y.host.Handler(plugin, &pluginv1.Manifest{Name: plugin, Calls: calls}))
	return connect.NewClient(connecthttp.NewTransport(plugintest.Client(t, false), s.URL, connecthttp.WithReadMaxBytes(16<<20)))
}

func TestAPluginListsTheInstancesThatItMayChooseFrom(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	client := kernelv1connect.NewInstanceServiceClient(y.socket(t, "logistics", "acme.carrier.v1"))
	list := func(ctx context.Context, req *kernelv1.ListInstancesRequest) []string {
		req.Contract = "acme.carrier.v1"
		res, err := client.ListInstances(ctx, req)
		require.NoError(t, err)
		var out []string
		for _, in := range res.GetInstances() {
			ready := "down"
			if in.GetReady() {
				ready = "ready"
			}
			out = append(out, strings.Join([]string{in.GetInstance(), in.GetPlugin(), strings.Join(in.GetCapabilities(), "+"), ready}, "/"))
		}
		return out
	}
	gb := []string{"slow/slow//ready", "fleet-gb/fleet/book+track/ready", "coming///down"}
	require.Equal(t, gb, list(t.Context(), &kernelv1.ListInstancesRequest{}), "in the market of the call")
	require.Equal(t, []string{"fleet-gb/fleet/book+track/ready"}, list(with(t.Context(), call.HeaderMarket, "JP"), &kernelv1.ListInstancesRequest{}))
	require.Equal(t, []string{"fleet-gb/fleet/book+track/ready"}, list(t.Context(), &kernelv1.ListInstancesRequest{Market: "JP"}), "or of another")
	require.Empty(t, list(t.Context(), &kernelv1.ListInstancesRequest{Market: "DE"}), "nothing is bound there")
	require.Equal(t, []string{"fleet-express/fleet/book+track/ready"}, list(t.Context(), &kernelv1.ListInstancesRequest{MerchantId: "mrc_1"}))

	y.slow.Register(t, y.reg, false)
	require.Equal(t, "slow/slow//down", list(t.Context(), &kernelv1.ListInstancesRequest{})[0], "its check fails")
}

func TestAnInstanceThatIsListedIsReachedByItsName(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	socket := y.socket(t, "logistics", "acme.carrier.v1")
	res, err := kernelv1connect.NewInstanceServiceClient(socket).ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: "acme.carrier.v1"})
	require.NoError(t, err)
	name := res.GetInstances()[1].GetInstance()
	got, err := plugintest.Call(t.Context(), socket, y.slow.Spec("Quote"), "", call.HeaderInstance, name)
	require.NoError(t, err)
	require.Contains(t, got, "GB, "+name)
}

func TestInstancesOfWhatIsNotGrantedAreNotTold(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	client := kernelv1connect.NewInstanceServiceClient(y.socket(t, "logistics", "acme.other.v1", "entrepot.plugin.v1"))
	for _, c := range []struct {
		name, contract, market, reason string
		code                           connect.Code
	}{
		{"a contract that the manifest does not call", "acme.carrier.v1", "", hostapi.ReasonScopeMissing, connect.CodePermissionDenied},
		{"the lifecycle, though the manifest lists it", "entrepot.plugin.v1", "", hostapi.ReasonScopeMissing, connect.CodePermissionDenied},
		{"a market that is none", "acme.other.v1", "US", hostapi.ReasonMarketUnknown, connect.CodeInvalidArgument},
		{"no contract", "", "", "", connect.CodeInvalidArgument},
		{"no country", "acme.other.v1", "gb", "", connect.CodeInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := client.ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: c.contract, Market: c.market})
			require.Equal(t, c.code, connect.CodeOf(err))
			require.Equal(t, c.reason, fault.Reason(err))
		})
	}
}

func TestABlobIsItsPluginsWhoeverSaysOtherwise(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	mine, others := kernelv1connect.NewBlobServiceClient(y.socket(t, "order")), kernelv1connect.NewBlobServiceClient(y.socket(t, "catalog"))
	put, err := mine.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: []byte("hello")})
	require.NoError(t, err)
	got, err := mine.GetBlob(t.Context(), &kernelv1.GetBlobRequest{BlobId: put.GetBlobId()})
	require.NoError(t, err)
	require.Equal(t, "hello", string(got.GetContent()))
	forged := with(t.Context(), call.HeaderCaller, "order")
	_, err = others.GetBlob(forged, &kernelv1.GetBlobRequest{BlobId: put.GetBlobId()})
	require.Equal(t, blob.ReasonUnknown, fault.Reason(err))
	_, err = mine.GetBlob(t.Context(), &kernelv1.GetBlobRequest{BlobId: "../order/x"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = mine.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "image/png", Content: []byte("hello")})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, "media_type")
}

func TestTheLargestBlobPassesTheSocket(t *testing.T) {
	t.Parallel()
	blobs := kernelv1connect.NewBlobServiceClient(newYard(t).socket(t, "order"))
	content := []byte(strings.Repeat("8 bytes\n", blob.MaxBytes/8))
	put, err := blobs.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: content})
	require.NoError(t, err)
	got, err := blobs.GetBlob(t.Context(), &kernelv1.GetBlobRequest{BlobId: put.GetBlobId()})
	require.NoError(t, err)
	require.Equal(t, content, got.GetContent())
	_, err = blobs.PutBlob(t.Context(), &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: append(content, '\n')})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

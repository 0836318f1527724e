package plugintest_test

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const manifest = `
name    = "papers"
version = "0.1.0"
kind    = "provider"
calls   = ["acme.carrier.v1"]
`

func open(t *testing.T, opts ...plugintest.Option) (*plugintest.Module, *host.Host) {
	t.Helper()
	var h *host.Host
	m := plugintest.Start(t, plugin.Plugin{Manifest: manifest, New: func(_ context.Context, in *plugin.Instance) error {
		h = in.Host
		return nil
	}}, opts...)
	return m, h
}

func TestAPluginUnderTestKeepsBlobs(t *testing.T) {
	t.Parallel()
	m, h := open(t)
	ctx := t.Context()
	put, err := h.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: "text/plain", Content: []byte("hello")})
	require.NoError(t, err)
	require.Equal(t, "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", put.GetBlobId())
	got, err := h.Blobs.GetBlob(ctx, &kernelv1.GetBlobRequest{BlobId: put.GetBlobId()})
	require.NoError(t, err)
	require.Equal(t, "hello", string(got.GetContent()))

	link, err := h.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: put.GetBlobId()})
	require.NoError(t, err)
	mediaType, content, ok := m.Download(link.GetPath())
	require.True(t, ok)
	require.Equal(t, "text/plain hello", mediaType+" "+string(content))

	_, err = h.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: "application/json", Content: []byte("hello")})
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
	for _, lie := range []string{"application/pdf", "image/png", "application/zip", "text/html"} {
		_, err = h.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: lie, Content: []byte("hello")})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), lie)
	}

	_, err = h.Blobs.DeleteBlob(ctx, &kernelv1.DeleteBlobRequest{BlobId: put.GetBlobId()})
	require.NoError(t, err)
	_, _, ok = m.Download(link.GetPath())
	require.False(t, ok, "links end with the blob")
	_, err = h.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: put.GetBlobId()})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestAPersonUploadsWhatAPluginUnderTestGrants(t *testing.T) {
	t.Parallel()
	m, h := open(t)
	grant, err := h.Blobs.GrantUpload(t.Context(), &kernelv1.GrantUploadRequest{MediaTypes: []string{"text/csv"}, MaxBytes: 4})
	require.NoError(t, err)
	id, err := m.Upload(grant.GetPath(), "text/csv", []byte("a,b\n"))
	require.NoError(t, err)
	got, err := h.Blobs.GetBlob(t.Context(), &kernelv1.GetBlobRequest{BlobId: id})
	require.NoError(t, err)
	require.Equal(t, "text/csv", got.GetMediaType())
	_, err = m.Upload(grant.GetPath(), "text/csv", []byte("a,b,c\n"))
	require.ErrorContains(t, err, "at most 4 bytes")
	_, err = m.Upload(grant.GetPath(), "text/plain", []byte("x"))
	require.ErrorContains(t, err, "does not take text/plain")
	_, err = m.Upload("/blobs/upload/none", "text/csv", []byte("x"))
	require.ErrorContains(t, err, "nothing is granted")
	_, err = h.Blobs.GrantUpload(t.Context(), &kernelv1.GrantUploadRequest{MediaTypes: []string{"text/html"}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestAPluginUnderTestListsTheInstancesOfTheTest(t *testing.T) {
	t.Parallel()
	_, h := open(t, plugintest.Instances("acme.carrier.v1", &kernelv1.Instance{Instance: "fast", Ready: true}, &kernelv1.Instance{Instance: "cheap"}))
	res, err := h.Instances.ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: "acme.carrier.v1"})
	require.NoError(t, err)
	require.Len(t, res.GetInstances(), 2)
	require.Equal(t, "fast", res.GetInstances()[0].GetInstance())
	_, err = h.Instances.ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: "acme.other.v1"})
	require.Equal(t, "SCOPE_MISSING", fault.Reason(err))

	_, h = open(t)
	res, err = h.Instances.ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: "acme.carrier.v1"})
	require.NoError(t, err)
	require.Empty(t, res.GetInstances(), "nothing is bound unless the test binds it")
}

// own is a fake of the test's own.
type own struct {
	kernelv1connect.UnimplementedInstanceServiceHandler
}

func (own) ListInstances(context.Context, *kernelv1.ListInstancesRequest) (*kernelv1.ListInstancesResponse, error) {
	return &kernelv1.ListInstancesResponse{Instances: []*kernelv1.Instance{{Instance: "mine"}}}, nil
}

func TestATestsOwnFakeGoesBeforeTheKernels(t *testing.T) {
	t.Parallel()
	_, h := open(t, plugintest.Neighbours(func(s *connect.Server) { kernelv1connect.RegisterInstanceServiceHandler(s, own{}) }))
	res, err := h.Instances.ListInstances(t.Context(), &kernelv1.ListInstancesRequest{Contract: "acme.carrier.v1"})
	require.NoError(t, err)
	require.Equal(t, "mine", res.GetInstances()[0].GetInstance())
}

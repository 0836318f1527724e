package plugintest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// mediaTypes are what the kernel keeps.
var mediaTypes = []string{
	"image/jpeg", "image/png", "image/webp", "application/pdf", "application/json", "application/xml", "text/plain", "text/csv",
	"application/zpl", "application/zip",
}

const maxBlob = 8 << 20

// blobs keeps a plugin's blobs in memory. Links and grants do not end.
type blobs struct {
	mu     sync.Mutex
	kept   map[string]*kernelv1.GetBlobResponse
	links  map[string]string // id by path
	grants map[string]*kernelv1.GrantUploadRequest
}

func newBlobs() *blobs {
	return &blobs{kept: map[string]*kernelv1.GetBlobResponse{}, links: map[string]string{}, grants: map[string]*kernelv1.GrantUploadRequest{}}
}

func (b *blobs) PutBlob(_ context.Context, req *kernelv1.PutBlobRequest) (*kernelv1.PutBlobResponse, error) {
	id, err := b.put(req.GetMediaType(), req.GetContent())
	if err != nil {
		return nil, err
	}
	return &kernelv1.PutBlobResponse{BlobId: id}, nil
}

// put believes more than the kernel does: it knows pictures, PDF and archives
// by how they begin, and nothing else.
func (b *blobs) put(mediaType string, content []byte) (string, error) {
	seen := http.DetectContentType(content)
	switch claim := mediaType; {
	case !slices.Contains(mediaTypes, claim):
		return "", fault.Field("media_type", claim+" is not kept")
	case len(content) == 0 || len(content) > maxBlob:
		return "", fault.Field("content", "is empty, or larger than 8 MiB")
	case claim != seen && (strings.HasPrefix(claim, "image/") || claim == "application/pdf" || claim == "application/zip"):
		return "", fault.Field("media_type", "the content is no "+claim+": it looks like "+seen)
	}
	sum := sha256.Sum256(content)
	id := "sha256-" + hex.EncodeToString(sum[:])
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := b.kept[id]; was != nil && was.GetMediaType() != mediaType {
		return "", fault.New(connect.CodeAlreadyExists, "BLOB_TYPE_DIFFERS", "the same bytes are stored as "+was.GetMediaType())
	}
	b.kept[id] = &kernelv1.GetBlobResponse{MediaType: mediaType, Content: slices.Clone(content)}
	return id, nil
}

func (b *blobs) GetBlob(_ context.Context, req *kernelv1.GetBlobRequest) (*kernelv1.GetBlobResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kept := b.kept[req.GetBlobId()]; kept != nil {
		return kept, nil
	}
	return nil, noBlob()
}

func (b *blobs) LinkBlob(_ context.Context, req *kernelv1.LinkBlobRequest) (*kernelv1.LinkBlobResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept[req.GetBlobId()] == nil {
		return nil, noBlob()
	}
	path := fmt.Sprintf("/blobs/%d", len(b.links)+1)
	b.links[path] = req.GetBlobId()
	return &kernelv1.LinkBlobResponse{Path: path}, nil
}

func (b *blobs) GrantUpload(_ context.Context, req *kernelv1.GrantUploadRequest) (*kernelv1.GrantUploadResponse, error) {
	for i, t := range req.GetMediaTypes() {
		if !slices.Contains(mediaTypes, t) {
			return nil, fault.Field(fmt.Sprintf("media_types[%d]", i), t+" is not kept")
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	path := fmt.Sprintf("/blobs/upload/%d", len(b.grants)+1)
	b.grants[path] = req
	return &kernelv1.GrantUploadResponse{Path: path}, nil
}

func (b *blobs) DeleteBlob(_ context.Context, req *kernelv1.DeleteBlobRequest) (*kernelv1.DeleteBlobResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.kept, req.GetBlobId())
	return &kernelv1.DeleteBlobResponse{}, nil
}

func noBlob() error {
	return fault.New(connect.CodeNotFound, "BLOB_UNKNOWN", "this plugin has no such blob")
}

// Upload sends content to a path that the plugin granted (GrantUpload), as a
// person does by HTTP PUT, and answers the id of the blob.
func (m *Module) Upload(path, mediaType string, content []byte) (blobID string, err error) {
	b := m.kernel.blobs
	b.mu.Lock()
	g := b.grants[path]
	b.mu.Unlock()
	switch {
	case g == nil:
		return "", fmt.Errorf("nothing is granted at %q", path)
	case !slices.Contains(g.GetMediaTypes(), mediaType):
		return "", fmt.Errorf("%q does not take %s", path, mediaType)
	case g.GetMaxBytes() > 0 && int64(len(content)) > g.GetMaxBytes():
		return "", fmt.Errorf("%q takes at most %d bytes", path, g.GetMaxBytes())
	}
	return b.put(mediaType, content)
}

// Download gets what a path leads to that the plugin linked (LinkBlob), as a
// browser does; false when it leads nowhere, or no longer.
func (m *Module) Download(path string) (mediaType string, content []byte, ok bool) {
	b := m.kernel.blobs
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.kept[b.links[path]]
	return kept.GetMediaType(), slices.Clone(kept.GetContent()), kept != nil
}

package blob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

var _ kernelv1connect.BlobServiceHandler = (*Store)(nil)

// How long links and grants hold when nobody says.
const (
	linkTime  = 5 * time.Minute
	grantTime = 15 * time.Minute
)

// PutBlob implements BlobService.
func (s *Store) PutBlob(ctx context.Context, req *kernelv1.PutBlobRequest) (*kernelv1.PutBlobResponse, error) {
	owner, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	id, err := s.put(ctx, owner, req.GetMediaType(), req.GetContent())
	if err != nil {
		return nil, s.authored(ctx, err)
	}
	return &kernelv1.PutBlobResponse{BlobId: id}, nil
}

// GetBlob implements BlobService.
func (s *Store) GetBlob(ctx context.Context, req *kernelv1.GetBlobRequest) (*kernelv1.GetBlobResponse, error) {
	owner, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	mediaType, content, err := s.get(ctx, owner, req.GetBlobId())
	if err != nil {
		return nil, s.authored(ctx, err)
	}
	return &kernelv1.GetBlobResponse{MediaType: mediaType, Content: content}, nil
}

// LinkBlob implements BlobService. Only what the caller owns is linked.
func (s *Store) LinkBlob(ctx context.Context, req *kernelv1.LinkBlobRequest) (*kernelv1.LinkBlobResponse, error) {
	owner, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.open(ctx, owner, req.GetBlobId())
	if err != nil {
		return nil, s.authored(ctx, err)
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("blobs: %w", err)
	}
	return &kernelv1.LinkBlobResponse{Path: s.signer.link(link{
		owner: owner, id: req.GetBlobId(), fileName: req.GetFileName(), until: s.until(req.GetSeconds(), linkTime),
	})}, nil
}

// GrantUpload implements BlobService.
func (s *Store) GrantUpload(ctx context.Context, req *kernelv1.GrantUploadRequest) (*kernelv1.GrantUploadResponse, error) {
	owner, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	for i, t := range req.GetMediaTypes() {
		if _, err := kind(t); err != nil {
			return nil, fault.Field(fmt.Sprintf("media_types[%d]", i), t+" is not kept")
		}
	}
	most := req.GetMaxBytes()
	if most <= 0 || most > MaxBytes {
		most = MaxBytes
	}
	return &kernelv1.GrantUploadResponse{Path: s.signer.grant(grant{
		nonce: newNonce(), owner: owner, types: slices.Compact(slices.Sorted(slices.Values(req.GetMediaTypes()))), max: most,
		until: s.until(req.GetSeconds(), grantTime),
	})}, nil
}

// DeleteBlob implements BlobService.
func (s *Store) DeleteBlob(ctx context.Context, req *kernelv1.DeleteBlobRequest) (*kernelv1.DeleteBlobResponse, error) {
	owner, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.remove(ctx, owner, req.GetBlobId()); err != nil {
		return nil, err
	}
	return &kernelv1.DeleteBlobResponse{}, nil
}

func (s *Store) caller(ctx context.Context) (string, error) {
	owner, ok := s.callerFrom(ctx)
	if !ok {
		return "", connect.NewError(connect.CodePermissionDenied, "only plugins keep blobs")
	}
	return owner, nil
}

func (s *Store) until(seconds int32, otherwise time.Duration) time.Time {
	if seconds <= 0 {
		return s.now().Add(otherwise)
	}
	return s.now().Add(time.Duration(seconds) * time.Second)
}

// authored tells callers of damage, and operators too.
func (s *Store) authored(ctx context.Context, err error) error {
	if !errors.Is(err, errDamaged) {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelError, "a blob is damaged; its owner can put it again", slog.String("error", err.Error()))
	return fault.New(connect.CodeDataLoss, ReasonDamaged, "the blob is damaged; put it again")
}

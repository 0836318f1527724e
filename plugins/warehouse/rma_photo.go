package main

import (
	"context"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// photoTypes are what photos of graded goods come as.
var photoTypes = []string{"image/jpeg", "image/png", "image/webp"}

// GrantGradingPhoto gives who grades a return a path for one photo.
func (s *service) GrantGradingPhoto(ctx context.Context, req *warehousev1.GrantGradingPhotoRequest) (*warehousev1.GrantGradingPhotoResponse, error) {
	if _, err := readReturn(ctx, s.db, req.GetReturnId(), ""); err != nil {
		return nil, store.Wrap(err)
	}
	res, err := s.host.Blobs.GrantUpload(ctx, &kernelv1.GrantUploadRequest{MediaTypes: photoTypes})
	return &warehousev1.GrantGradingPhotoResponse{Path: res.GetPath()}, host.Relay(err)
}

// sent makes sure that photos are here: what nobody can look at shows nothing.
func (s *service) sent(ctx context.Context, photos []string) error {
	for _, b := range photos {
		_, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: b, Seconds: 1})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return fault.Field("blob_ids", b+" was not sent here")
		}
		if err != nil {
			return host.Relay(err)
		}
	}
	return nil
}

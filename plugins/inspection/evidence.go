package main

import (
	"context"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// evidenceTypes are what photos and documents come as.
var evidenceTypes = []string{"image/jpeg", "image/png", "image/webp", "application/pdf"}

// GrantEvidenceUpload gives who works on a case, or whose goods it is about, a
// path for one photo or document.
func (s *service) GrantEvidenceUpload(ctx context.Context, req *inspectionv1.GrantEvidenceUploadRequest) (*inspectionv1.GrantEvidenceUploadResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	c, err := loadCase(ctx, s.db, req.GetCaseId())
	switch {
	case err != nil:
		return nil, store.Wrap(err)
	case merchant != "" && c.merchant != merchant:
		return nil, unknownCase()
	}
	res, err := s.host.Blobs.GrantUpload(ctx, &kernelv1.GrantUploadRequest{MediaTypes: evidenceTypes})
	return &inspectionv1.GrantEvidenceUploadResponse{Path: res.GetPath()}, host.Relay(err)
}

// sent makes sure that evidence is here: what nobody can look at proves
// nothing.
func (s *service) sent(ctx context.Context, field string, blobs []string) error {
	for _, b := range blobs {
		_, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: b, Seconds: 1})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return fault.Field(field, b+" was not sent here")
		}
		if err != nil {
			return host.Relay(err)
		}
	}
	return nil
}

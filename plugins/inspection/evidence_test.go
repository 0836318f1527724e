package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
)

func TestEvidenceIsSentBeforeItIsNamed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	c := h.consign(t, "W1").GetConsignment().GetCaseIds()[0]
	ask := &inspectionv1.GrantEvidenceUploadRequest{CaseId: c}

	never := seen(c, saysGenuine)
	never.Inputs[0].BlobId = blob('9')
	_, err := h.ann.RecordCheck(t.Context(), never)
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, "was not sent here")

	grant, err := h.ann.GrantEvidenceUpload(t.Context(), ask)
	require.NoError(t, err)
	_, err = h.Upload(grant.GetPath(), "text/plain", []byte("a word"))
	require.Error(t, err, "only pictures and documents")
	sent, err := h.Upload(grant.GetPath(), "image/png", photo('9'))
	require.NoError(t, err)
	require.Equal(t, blob('9'), sent)
	_, err = h.ann.RecordCheck(t.Context(), never)
	require.NoError(t, err)

	_, err = h.merchant.GrantEvidenceUpload(t.Context(), ask)
	require.NoError(t, err, "whose goods they are may send evidence for an appeal")
	_, err = h.other.GrantEvidenceUpload(t.Context(), ask)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

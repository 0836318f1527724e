package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func (b bank) evidence(ctx context.Context, key, dispute string, submit bool, all ...*providerv1.Evidence) (*providerv1.Dispute, error) {
	res, err := b.SubmitEvidence(ctx, &providerv1.SubmitEvidenceRequest{Key: key, DisputeReference: dispute, Evidence: all, Submit: submit})
	return res.GetDispute(), err
}

func says(kind providerv1.Evidence_Kind, text string) *providerv1.Evidence {
	return &providerv1.Evidence{Kind: kind, Text: text}
}

func TestEvidenceIsAddedAndSentOnce(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	id := b.fake.dispute(pay, "needs_response", nil)
	statement := says(providerv1.Evidence_KIND_STATEMENT, "It was delivered.")
	for range 2 {
		_, err := b.evidence(t.Context(), "e1", id, false, statement, says(providerv1.Evidence_KIND_SHIPPING_CARRIER, "Post"),
			says(providerv1.Evidence_KIND_DELIVERED_AT, "2026-11-01"))
		require.NoError(t, err)
	}
	for range 2 {
		d, err := b.evidence(t.Context(), "e2", id, true, says(providerv1.Evidence_KIND_SHIPPING_CARRIER, "RB123456785GB"))
		require.NoError(t, err)
		require.Equal(t, providerv1.Dispute_STATUS_UNDER_REVIEW, d.GetStatus())
	}
	b.fake.change("disputes", id, func(o object) {
		require.Equal(t, object{"uncategorized_text": "It was delivered.\nDelivered at: 2026-11-01", "shipping_carrier": "Post\nRB123456785GB"}, o["evidence"])
	})
	_, err := b.evidence(t.Context(), "e3", id, false, statement)
	require.Equal(t, "DISPUTE_NOT_OPEN", fault.Reason(err), "what is sent is sent")

	// What was added before may be sent alone; nobody hears what comes too late.
	id = b.fake.dispute(pay, "needs_response", nil)
	_, err = b.evidence(t.Context(), "e1", id, false, statement)
	require.NoError(t, err)
	d, err := b.evidence(t.Context(), "e1", id, true, statement)
	require.NoError(t, err)
	require.Equal(t, providerv1.Dispute_STATUS_UNDER_REVIEW, d.GetStatus())
	late := b.fake.dispute(pay, "needs_response", object{"evidence_details": object{"due_by": time.Now().Add(-time.Hour).Unix()}})
	_, err = b.evidence(t.Context(), "e4", late, true, statement)
	require.Equal(t, "DISPUTE_NOT_OPEN", fault.Reason(err))
	long := b.fake.dispute(pay, "needs_response", object{"evidence": object{"uncategorized_text": strings.Repeat("x", 19_990)}})
	_, err = b.evidence(t.Context(), "e5", long, true, statement)
	require.Equal(t, "EVIDENCE_TOO_LONG", fault.Reason(err))
}

func TestEvidenceOfWhichTheAnswerIsLostIsNotAddedTwice(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for _, how := range []mishap{lostBefore, lostAfter, failBefore, failAfter} {
		id := b.fake.dispute(b.hold(t, string(how), 1000, "pm_card_visa"), "needs_response", nil)
		b.fake.fail("POST /v1/disputes", how)
		_, err := b.evidence(t.Context(), "e1", id, false, says(providerv1.Evidence_KIND_STATEMENT, "once"))
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
		_, err = b.evidence(t.Context(), "e1", id, false, says(providerv1.Evidence_KIND_STATEMENT, "once"))
		require.NoError(t, err)
		b.fake.change("disputes", id, func(o object) { require.Equal(t, object{"uncategorized_text": "once"}, o["evidence"]) })
	}
}

func TestADisputeIsAccepted(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	for status, want := range map[string]providerv1.Dispute_Status{
		"needs_response": providerv1.Dispute_STATUS_LOST, "won": providerv1.Dispute_STATUS_WON, "lost": providerv1.Dispute_STATUS_LOST,
	} {
		id := b.fake.dispute(pay, status, nil)
		for range 2 {
			res, err := b.AcceptDispute(t.Context(), &providerv1.AcceptDisputeRequest{Key: status, DisputeReference: id})
			require.NoError(t, err)
			require.Equal(t, want, res.GetDispute().GetStatus())
		}
	}
	for _, id := range []string{"du_missing", "nonsense", "../balance", b.fake.dispute(pay, "warning_needs_response", nil)} {
		_, err := b.AcceptDispute(t.Context(), &providerv1.AcceptDisputeRequest{Key: "k", DisputeReference: id})
		require.Equal(t, "DISPUTE_UNKNOWN", fault.Reason(err), id)
		_, err = b.GetDispute(t.Context(), &providerv1.GetDisputeRequest{DisputeReference: id})
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	}
}

func TestDisputesAreToldWhole(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	id := b.fake.dispute(pay, "needs_response", nil)
	b.tell(t, "evt_0", "charge.dispute.created", b.fake.change("disputes", b.fake.dispute(pay, "warning_needs_response", nil), func(object) {}))
	b.tell(t, "evt_3", "charge.dispute.closed", b.fake.change("disputes", id, func(o object) { o["status"] = "won" }))
	for range 2 {
		b.tell(t, "evt_1", "charge.dispute.created", b.fake.change("disputes", id, func(o object) { o["status"] = "needs_response" }))
	}
	var told []*providerv1.DisputeUpdated
	for _, e := range b.Published(t) {
		u, ok := e.(*providerv1.DisputeUpdated)
		require.True(t, ok)
		told = append(told, u)
	}
	require.Len(t, told, 2, "an inquiry is none, and a repetition nothing new")
	require.Equal(t, providerv1.Dispute_STATUS_WON, told[0].GetDispute().GetStatus())
	require.Equal(t, id, told[1].GetReference())
	res, err := b.GetDispute(t.Context(), &providerv1.GetDisputeRequest{DisputeReference: id})
	require.NoError(t, err)
	d := res.GetDispute()
	told[1].GetDispute().UpdatedAt, d.UpdatedAt = nil, nil
	require.Equal(t, d.String(), told[1].GetDispute().String())
	require.Equal(t, pay, d.GetPaymentReference())
	require.EqualValues(t, 600, d.GetAmount().GetMinorUnits())
	require.EqualValues(t, 1500, d.GetFee().GetMinorUnits())
	require.Equal(t, providerv1.DisputeReason_DISPUTE_REASON_NOT_RECEIVED, d.GetReason())
	require.Equal(t, "13.1", d.GetCode())
	require.NotNil(t, d.GetEvidenceDueAt())
	_, all := b.report(t, &providerv1.ReportRequest{})
	require.Len(t, all, 1)
	require.Equal(t, id, all[0].GetReference())
}

package paymenttest

import (
	"context"
	"fmt"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// disputes are demands on what a company says of disputes.
var disputes = []check{
	{"dispute", "is told as it is, and one that is not there is not", tells},
	{"dispute", "takes evidence until it is sent, and no more", takesEvidence},
	{"dispute", "is accepted once, and for good", accepts},
}

func tells(ctx context.Context, k *kit) error {
	payment, reference, amount, err := k.Disputed(ctx)
	if err != nil {
		return err
	}
	res, err := k.Client.GetDispute(ctx, &providerv1.GetDisputeRequest{DisputeReference: reference})
	if err != nil {
		return err
	}
	d := res.GetDispute()
	if d.GetReference() != reference || d.GetPaymentReference() != payment || d.GetStatus() != providerv1.Dispute_STATUS_NEEDS_RESPONSE ||
		!proto.Equal(d.GetAmount(), amount) || d.GetOpenedAt() == nil || d.GetUpdatedAt() == nil {
		return fmt.Errorf("a dispute of %v is told as %v", amount, d)
	}
	_, err = k.Client.GetDispute(ctx, &providerv1.GetDisputeRequest{DisputeReference: "dispute-of-nobody"})
	if connect.CodeOf(err) != connect.CodeNotFound || fault.Reason(err) != "DISPUTE_UNKNOWN" {
		return fmt.Errorf("a dispute that is not there is answered %w", err)
	}
	return nil
}

func takesEvidence(ctx context.Context, k *kit) error {
	_, reference, _, err := k.Disputed(ctx)
	if err != nil {
		return err
	}
	statement := []*providerv1.Evidence{{Kind: providerv1.Evidence_KIND_STATEMENT, Text: "It was delivered."}}
	send := k.key()
	for _, step := range []struct {
		key    string
		submit bool
		want   providerv1.Dispute_Status
	}{
		{k.key(), false, providerv1.Dispute_STATUS_NEEDS_RESPONSE},
		{send, true, providerv1.Dispute_STATUS_UNDER_REVIEW},
		{send, true, providerv1.Dispute_STATUS_UNDER_REVIEW},
	} {
		res, err := k.Client.SubmitEvidence(ctx, &providerv1.SubmitEvidenceRequest{Key: step.key, DisputeReference: reference, Evidence: statement, Submit: step.submit})
		if err != nil {
			return err
		}
		if got := res.GetDispute().GetStatus(); got != step.want {
			return fmt.Errorf("after evidence (sent: %v) it is %v", step.submit, got)
		}
	}
	_, err = k.Client.SubmitEvidence(ctx, &providerv1.SubmitEvidenceRequest{Key: k.key(), DisputeReference: reference, Evidence: statement})
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || fault.Reason(err) != "DISPUTE_NOT_OPEN" {
		return fmt.Errorf("evidence after the evidence was sent is answered %w", err)
	}
	return nil
}

func accepts(ctx context.Context, k *kit) error {
	_, reference, _, err := k.Disputed(ctx)
	if err != nil {
		return err
	}
	for range 2 {
		res, err := k.Client.AcceptDispute(ctx, &providerv1.AcceptDisputeRequest{Key: k.key(), DisputeReference: reference})
		if err != nil {
			return err
		}
		if res.GetDispute().GetReference() != reference {
			return fmt.Errorf("%s is accepted, and %v answered", reference, res.GetDispute())
		}
	}
	return nil
}

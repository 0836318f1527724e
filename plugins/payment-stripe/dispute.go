package main

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"time"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// metaEvidence and a fingerprint of the key: written with the evidence, so that
// a repetition does not add it twice.
const metaEvidence = "entrepot_evidence_"

var disputeStatus = map[stripe.DisputeStatus]providerv1.Dispute_Status{
	stripe.DisputeStatusNeedsResponse: providerv1.Dispute_STATUS_NEEDS_RESPONSE,
	stripe.DisputeStatusUnderReview:   providerv1.Dispute_STATUS_UNDER_REVIEW,
	stripe.DisputeStatusWon:           providerv1.Dispute_STATUS_WON,
	stripe.DisputeStatusLost:          providerv1.Dispute_STATUS_LOST,
}

var disputeReason = map[stripe.DisputeReason]providerv1.DisputeReason{
	stripe.DisputeReasonFraudulent:          providerv1.DisputeReason_DISPUTE_REASON_FRAUDULENT,
	stripe.DisputeReasonDebitNotAuthorized:  providerv1.DisputeReason_DISPUTE_REASON_FRAUDULENT,
	stripe.DisputeReasonUnrecognized:        providerv1.DisputeReason_DISPUTE_REASON_UNRECOGNIZED,
	stripe.DisputeReasonProductNotReceived:  providerv1.DisputeReason_DISPUTE_REASON_NOT_RECEIVED,
	stripe.DisputeReasonProductUnacceptable: providerv1.DisputeReason_DISPUTE_REASON_NOT_AS_DESCRIBED,
	stripe.DisputeReasonDuplicate:           providerv1.DisputeReason_DISPUTE_REASON_DUPLICATE,
	stripe.DisputeReasonCreditNotProcessed:  providerv1.DisputeReason_DISPUTE_REASON_REFUND_NOT_RECEIVED,
}

// dispute is a dispute as the contract has it, at the time when Stripe told of
// it, 0 when it was asked. Nil: it is none, for no money was taken: an inquiry,
// or one that was prevented.
func dispute(d *stripe.Dispute, told int64) (*providerv1.Dispute, error) {
	status, known := disputeStatus[d.Status]
	if !known {
		return nil, nil
	}
	amount, err := fromStripe(d.Amount, d.Currency)
	if err != nil {
		return nil, err
	}
	out := &providerv1.Dispute{
		Reference: clip(d.ID, 200), Status: status, Amount: amount.Proto(), Reason: providerv1.DisputeReason_DISPUTE_REASON_OTHER,
		Code: string(d.Reason), OpenedAt: timestamppb.New(time.Unix(d.Created, 0)),
	}
	switch {
	case d.PaymentIntent != nil:
		out.PaymentReference = clip(d.PaymentIntent.ID, 200)
	case d.Charge != nil:
		out.PaymentReference = clip(d.Charge.ID, 200)
	}
	if r, ok := disputeReason[d.Reason]; ok {
		out.Reason = r
	}
	if p := d.PaymentMethodDetails; p != nil && p.Card != nil && p.Card.NetworkReasonCode != "" {
		out.Code = p.Card.NetworkReasonCode
	}
	out.Code = clip(out.Code, 100)
	if d.EvidenceDetails != nil && d.EvidenceDetails.DueBy > 0 {
		out.EvidenceDueAt = timestamppb.New(time.Unix(d.EvidenceDetails.DueBy, 0))
	}
	changed := max(told, d.Created)
	if out.Fee, err = disputeFee(d, &changed); err != nil {
		return nil, err
	}
	out.UpdatedAt = timestamppb.New(time.Unix(changed, 0))
	return out, nil
}

// disputeFee sums what Stripe keeps: a fee, and perhaps its return.
func disputeFee(d *stripe.Dispute, changed *int64) (*typev1.Money, error) {
	var sum int64
	var currency stripe.Currency
	for _, t := range d.BalanceTransactions {
		sum += t.Fee
		currency = t.Currency
		*changed = max(*changed, t.Created)
	}
	if sum <= 0 {
		return nil, nil
	}
	fee, err := fromStripe(sum, currency)
	if err != nil {
		return nil, err
	}
	return fee.Proto(), nil
}

var disputeID = regexp.MustCompile(`^(dp|du|pdp)_[A-Za-z0-9_]{1,150}$`)

func unknownDispute() error {
	return fault.New(connect.CodeNotFound, "DISPUTE_UNKNOWN", "Stripe has no dispute of this number")
}

func notOpen() error {
	return fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the dispute takes no evidence any more")
}

// getDispute reads a dispute, and as the contract has it.
func (a *adapter) getDispute(ctx context.Context, id string) (*stripe.Dispute, *providerv1.Dispute, error) {
	if !disputeID.MatchString(id) {
		return nil, nil, unknownDispute()
	}
	d, err := a.stripe.V1Disputes.Retrieve(ctx, id, nil)
	if err == nil && d.ID != id {
		err = errNothing
	}
	if err != nil {
		return nil, nil, disputeError(err)
	}
	out, err := dispute(d, 0)
	if err != nil {
		return nil, nil, unknown(err)
	}
	if out == nil {
		return nil, nil, unknownDispute()
	}
	return d, out, nil
}

// disputeError is what an error means to who asked about a dispute.
func disputeError(err error) error {
	var e *stripe.Error
	switch {
	case declined(err) == nil:
		return unknown(err)
	case errors.As(err, &e) && e.HTTPStatusCode == http.StatusNotFound:
		return unknownDispute()
	}
	// Its words may repeat the evidence.
	return fault.New(connect.CodeFailedPrecondition, "DISPUTE_REFUSED", "Stripe refused", "code", clip(declined(err).Code, 100))
}

// GetDispute implements the contract.
func (a *adapter) GetDispute(ctx context.Context, req *providerv1.GetDisputeRequest) (*providerv1.GetDisputeResponse, error) {
	_, out, err := a.getDispute(ctx, req.GetDisputeReference())
	if err != nil {
		return nil, err
	}
	return &providerv1.GetDisputeResponse{Dispute: out}, nil
}

// AcceptDispute implements the contract.
func (a *adapter) AcceptDispute(ctx context.Context, req *providerv1.AcceptDisputeRequest) (*providerv1.AcceptDisputeResponse, error) {
	_, out, err := a.getDispute(ctx, req.GetDisputeReference())
	if err != nil {
		return nil, err
	}
	switch out.GetStatus() {
	case providerv1.Dispute_STATUS_WON, providerv1.Dispute_STATUS_LOST:
		return &providerv1.AcceptDisputeResponse{Dispute: out}, nil
	}
	d, err := a.stripe.V1Disputes.Close(ctx, req.GetDisputeReference(), nil)
	if err != nil {
		return nil, disputeError(err)
	}
	if out, err = dispute(d, time.Now().Unix()); err != nil || out == nil {
		return nil, unknown(err)
	}
	return &providerv1.AcceptDisputeResponse{Dispute: out}, nil
}

package main

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// maxEvidence is the most characters that Stripe takes in one field.
const maxEvidence = 20_000

// SubmitEvidence implements the contract. Stripe replaces a field that is
// written, so what it has is read and added to. It keeps texts by kind; kinds
// for which it wants a file go to the free text, under a heading.
func (a *adapter) SubmitEvidence(ctx context.Context, req *providerv1.SubmitEvidenceRequest) (*providerv1.SubmitEvidenceResponse, error) {
	a.disputing.Lock()
	defer a.disputing.Unlock()
	was, out, err := a.getDispute(ctx, req.GetDisputeReference())
	if err != nil {
		return nil, err
	}
	marker := metaEvidence + fingerprint(req.GetKey())[:20]
	added := was.Metadata[marker] != ""
	open := out.GetStatus() == providerv1.Dispute_STATUS_NEEDS_RESPONSE
	switch {
	case added && (!req.GetSubmit() || !open):
		return &providerv1.SubmitEvidenceResponse{Dispute: out}, nil // it was done before
	case !open, out.GetEvidenceDueAt() != nil && out.GetEvidenceDueAt().AsTime().Before(time.Now()):
		return nil, notOpen()
	}
	// Stripe submits unless it is told not to.
	p := &stripe.DisputeUpdateParams{Submit: stripe.Bool(req.GetSubmit()), Metadata: map[string]string{marker: fmt.Sprint(time.Now().Unix())}}
	if !added {
		if p.Evidence, err = merged(was.Evidence, req.GetEvidence()); err != nil {
			return nil, err
		}
	}
	d, err := a.stripe.V1Disputes.Update(ctx, req.GetDisputeReference(), p)
	if err != nil {
		return nil, disputeError(err)
	}
	if out, err = dispute(d, time.Now().Unix()); err != nil || out == nil {
		return nil, unknown(err)
	}
	return &providerv1.SubmitEvidenceResponse{Dispute: out}, nil
}

// headings are of kinds for which Stripe has no text.
var headings = map[providerv1.Evidence_Kind]string{
	providerv1.Evidence_KIND_DELIVERED_AT:           "Delivered at",
	providerv1.Evidence_KIND_DELIVERY_CONFIRMATION:  "Delivery confirmation",
	providerv1.Evidence_KIND_AUTHENTICITY:           "Authenticity",
	providerv1.Evidence_KIND_CUSTOMER_COMMUNICATION: "Communication with the customer",
	providerv1.Evidence_KIND_RECEIPT:                "Receipt",
}

// merged is the evidence that there is with what is new below it.
func merged(was *stripe.DisputeEvidence, add []*providerv1.Evidence) (*stripe.DisputeUpdateEvidenceParams, error) {
	if len(add) == 0 {
		return nil, nil
	}
	if was == nil {
		was = &stripe.DisputeEvidence{}
	}
	out := &stripe.DisputeUpdateEvidenceParams{}
	for _, e := range add {
		text, field, before := e.GetText(), &out.UncategorizedText, was.UncategorizedText
		switch e.GetKind() {
		case providerv1.Evidence_KIND_PRODUCT_DESCRIPTION:
			field, before = &out.ProductDescription, was.ProductDescription
		case providerv1.Evidence_KIND_SHIPPING_CARRIER:
			field, before = &out.ShippingCarrier, was.ShippingCarrier
		case providerv1.Evidence_KIND_SHIPPING_TRACKING_NUMBER:
			field, before = &out.ShippingTrackingNumber, was.ShippingTrackingNumber
		case providerv1.Evidence_KIND_SHIPPED_AT:
			field, before = &out.ShippingDate, was.ShippingDate
		case providerv1.Evidence_KIND_REFUND_POLICY:
			field, before = &out.RefundPolicyDisclosure, was.RefundPolicyDisclosure
		case providerv1.Evidence_KIND_REFUND_REFUSAL:
			field, before = &out.RefundRefusalExplanation, was.RefundRefusalExplanation
		case providerv1.Evidence_KIND_DUPLICATE_EXPLANATION:
			field, before = &out.DuplicateChargeExplanation, was.DuplicateChargeExplanation
		default:
			if h := headings[e.GetKind()]; h != "" {
				text = h + ": " + text
			}
		}
		if *field != nil {
			before = **field
		}
		if before != "" {
			text = before + "\n" + text
		}
		if utf8.RuneCountInString(text) > maxEvidence {
			return nil, fault.New(connect.CodeInvalidArgument, "EVIDENCE_TOO_LONG", "Stripe takes at most 20000 characters of this kind", "kind", e.GetKind().String())
		}
		*field = &text
	}
	return out, nil
}

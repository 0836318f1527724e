package main

import (
	"context"

	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
)

// Refund implements the contract.
func (a *adapter) Refund(ctx context.Context, req *providerv1.RefundRequest) (*providerv1.RefundResponse, error) {
	if err := payment(req.GetPaymentReference()); err != nil {
		return nil, err
	}
	r, amount, err := asked(refund, req.GetAmount(), req.GetPaymentReference())
	if err != nil {
		return nil, err
	}
	r.Intent = req.GetPaymentReference()
	out, err := a.do(ctx, req.GetKey(), r, func(ctx context.Context, key string, r record) (*end, error) {
		p := &stripe.RefundCreateParams{
			PaymentIntent: &r.Intent, Amount: &amount, Metadata: map[string]string{metaKey: key, metaInstance: a.in.Name},
		}
		p.IdempotencyKey = a.idempotency(key, "refund", r)
		back, err := a.stripe.V1Refunds.Create(ctx, p)
		if err != nil {
			return nil, err
		}
		return returned(back)
	})
	return &providerv1.RefundResponse{Outcome: out}, err
}

// returned is what became of a refund. One that succeeded may fail days later,
// when the bank does not take it: it is then told as declined.
func returned(back *stripe.Refund) (*end, error) {
	e := &end{Reference: back.ID, At: back.Created}
	if back.PaymentIntent != nil {
		e.Payment = back.PaymentIntent.ID
	}
	switch back.Status {
	case stripe.RefundStatusSucceeded:
		e.Status = succeeded
	case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
		e.Status, e.Code = declinedEnd, "refund_"+string(back.Status)
		if back.FailureReason != "" {
			e.Code = string(back.FailureReason)
		}
	default:
		e.Status = pending
	}
	return counted(e, back.Amount, back.Currency)
}

func (a *adapter) findRefund(ctx context.Context, key string, r record) (*end, error) {
	p := &stripe.RefundListParams{PaymentIntent: &r.Intent}
	p.Limit = stripe.Int64(page)
	for back, err := range a.stripe.V1Refunds.List(ctx, p).All(ctx) {
		if err != nil {
			return gone(err)
		}
		if back.Metadata[metaKey] == key && back.Metadata[metaInstance] == a.in.Name {
			return returned(back)
		}
	}
	return nil, nil
}

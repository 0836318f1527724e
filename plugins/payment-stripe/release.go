package main

import (
	"context"
	"time"

	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
)

// Void implements the contract. The key is written on the intent before it is
// cancelled: Stripe takes none with the cancellation. What Stripe has released
// by itself (the hold expired, or its last capture was of a part) is given up
// too, and answered so.
func (a *adapter) Void(ctx context.Context, req *providerv1.VoidRequest) (*providerv1.VoidResponse, error) {
	if err := payment(req.GetPaymentReference()); err != nil {
		return nil, err
	}
	r := record{Operation: void, Intent: req.GetPaymentReference(), Print: fingerprint(void.String(), req.GetPaymentReference())}
	out, err := a.do(ctx, req.GetKey(), r, a.release)
	return &providerv1.VoidResponse{Outcome: out}, err
}

func (a *adapter) release(ctx context.Context, key string, r record) (*end, error) {
	pi, err := a.intent(ctx, r.Intent)
	if err != nil {
		return nil, err
	}
	was, err := held(pi)
	if err != nil {
		return nil, err
	}
	by := pi.Metadata[metaVoid]
	if was == nil || was.Status != succeeded || rest(pi) <= 0 || released(pi) && by != "" && by != key {
		return &end{Status: declinedEnd, Code: "nothing_left", Message: "nothing is held", Reference: pi.ID, Payment: pi.ID, At: time.Now().Unix()}, nil
	}
	mark := &stripe.PaymentIntentUpdateParams{Metadata: map[string]string{metaVoid: key}}
	mark.IdempotencyKey = a.idempotency(key, "void", r)
	if _, err := a.stripe.V1PaymentIntents.Update(ctx, pi.ID, mark); err != nil {
		return nil, err
	}
	if !released(pi) {
		cancel := &stripe.PaymentIntentCancelParams{}
		cancel.IdempotencyKey = a.idempotency(key, "cancel", r)
		cancel.AddExpand("latest_charge")
		if pi, err = a.stripe.V1PaymentIntents.Cancel(ctx, pi.ID, cancel); err != nil {
			return nil, changed(err)
		}
	}
	return voided(pi)
}

// released tells whether nothing is held any more.
func released(pi *stripe.PaymentIntent) bool {
	return pi.Status == stripe.PaymentIntentStatusCanceled || pi.Status == stripe.PaymentIntentStatusSucceeded
}

// rest is what was held and never captured, in Stripe's units.
func rest(pi *stripe.PaymentIntent) int64 { return pi.Amount - pi.AmountReceived }

// voided is the end of a void; nil while the money is held.
func voided(pi *stripe.PaymentIntent) (*end, error) {
	if !released(pi) {
		return nil, nil
	}
	e := &end{Status: succeeded, Reference: pi.ID, Payment: pi.ID, At: pi.CanceledAt}
	if e.At == 0 {
		e.At = time.Now().Unix()
	}
	return counted(e, rest(pi), pi.Currency)
}

func (a *adapter) findVoid(ctx context.Context, key string, r record) (*end, error) {
	pi, err := a.intent(ctx, r.Intent)
	if err != nil {
		return gone(err)
	}
	if pi.Metadata[metaVoid] != key {
		return nil, nil
	}
	return voided(pi)
}

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	stripe "github.com/stripe/stripe-go/v85"
	stripehook "github.com/stripe/stripe-go/v85/webhook"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

const signatureHeader = "Stripe-Signature"

// webhook takes what Stripe sent: the signature is checked before anything is
// read. An event tells how its object stood when it happened, and a fact of it
// is published once, however often and in what order events come; kinds that
// are not known are taken and passed over.
func (a *adapter) webhook(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
	switch {
	case len(a.secrets) == 0:
		return &pluginv1.HandleWebhookResponse{Status: http.StatusNotFound}, nil
	case req.GetMethod() != http.MethodPost:
		return &pluginv1.HandleWebhookResponse{Status: http.StatusMethodNotAllowed}, nil
	case !a.signed(req.GetBody(), req.GetHeaders()[signatureHeader]):
		return &pluginv1.HandleWebhookResponse{Status: http.StatusUnauthorized}, nil
	}
	var e stripe.Event
	if err := json.Unmarshal(req.GetBody(), &e); err != nil || e.Object != "event" || e.Data == nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusBadRequest}, nil //nolint:nilerr // the sender is answered, the kernel is not at fault
	}
	// Of connected accounts nothing is told here.
	if e.Account == "" {
		if err := a.hear(ctx, &e); err != nil {
			return nil, err
		}
	}
	return &pluginv1.HandleWebhookResponse{}, nil
}

// signed checks the signature with each secret. The library takes a time that
// is too old for too old, and one ahead of ours for good.
func (a *adapter) signed(body []byte, header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if t, ok := strings.CutPrefix(part, "t="); ok {
			at, err := strconv.ParseInt(t, 10, 64)
			if err != nil || time.Until(time.Unix(at, 0)) > a.tolerance {
				return false
			}
		}
	}
	for _, secret := range a.secrets {
		if stripehook.ValidatePayloadWithTolerance(body, header, secret, a.tolerance) == nil {
			return true
		}
	}
	return false
}

// hear publishes what an event tells.
func (a *adapter) hear(ctx context.Context, e *stripe.Event) error {
	switch kind := string(e.Type); {
	case strings.HasPrefix(kind, "payment_intent."):
		return heard(ctx, a, e, a.hearIntent)
	case strings.HasPrefix(kind, "refund."), kind == string(stripe.EventTypeChargeRefundUpdated):
		return heard(ctx, a, e, a.hearRefund)
	case kind == string(stripe.EventTypeTransferCreated):
		return heard(ctx, a, e, a.hearTransfer)
	case strings.HasPrefix(kind, "charge.dispute."):
		return heard(ctx, a, e, a.hearDispute)
	}
	return nil
}

// heard reads an event's object. One that cannot be read would come again for
// days, and be no better: it is noted and passed over.
func heard[T any](ctx context.Context, a *adapter, e *stripe.Event, tell func(context.Context, *stripe.Event, *T) error) error {
	var object T
	if err := json.Unmarshal(e.Data.Raw, &object); err != nil {
		a.in.Log.ErrorContext(ctx, "an event of Stripe's cannot be read", "event", clip(e.ID, 100), "type", clip(string(e.Type), 100), "version", clip(e.APIVersion, 40))
		return nil //nolint:nilerr // as above
	}
	return tell(ctx, e, &object)
}

func (a *adapter) hearIntent(ctx context.Context, e *stripe.Event, pi *stripe.PaymentIntent) error {
	if pi.Metadata[metaInstance] != a.in.Name {
		return nil
	}
	all, err := facts(pi, false)
	if err != nil {
		return a.unreadable(ctx, e)
	}
	// A hold that was cancelled tells of its charge by number alone.
	if v, err := voided(pi); len(all) == 0 && err == nil && v != nil && pi.Metadata[metaVoid] != "" && rest(pi) > 0 {
		all = append(all, fact{pi.Metadata[metaVoid], void, v})
	}
	if pi.Status == stripe.PaymentIntentStatusCanceled && pi.Metadata[metaVoid] == "" {
		a.in.Log.WarnContext(ctx, "Stripe has given up a hold that nobody here voided", "payment", pi.ID, "reason", string(pi.CancellationReason))
	}
	for _, f := range all {
		if err := a.publish(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (a *adapter) unreadable(ctx context.Context, e *stripe.Event) error {
	a.in.Log.ErrorContext(ctx, "an event of Stripe's has an amount that cannot be counted", "event", clip(e.ID, 100))
	return nil
}

func (a *adapter) hearRefund(ctx context.Context, e *stripe.Event, back *stripe.Refund) error {
	if back.Metadata[metaInstance] != a.in.Name {
		return nil
	}
	end, err := returned(back)
	if err != nil {
		return a.unreadable(ctx, e)
	}
	return a.publish(ctx, fact{back.Metadata[metaKey], refund, end})
}

func (a *adapter) hearTransfer(ctx context.Context, e *stripe.Event, tr *stripe.Transfer) error {
	if tr.Metadata[metaInstance] != a.in.Name {
		return nil
	}
	end, err := transferred(tr)
	if err != nil {
		return a.unreadable(ctx, e)
	}
	return a.publish(ctx, fact{tr.Metadata[metaKey], payout, end})
}

// publish tells of an operation that has ended, once for each end.
func (a *adapter) publish(ctx context.Context, f fact) error {
	if f.Status == pending || f.key == "" || len(f.key) > 200 {
		return nil
	}
	e := &providerv1.TransactionUpdated{Key: f.key, Instance: a.in.Name, Outcome: f.outcome(f.key, f.operation)}
	return a.in.Host.Publish(ctx, a.in.Name, e, f.operation.String()+"/"+fingerprint(f.key, f.Reference, f.Status.String()))
}

func (a *adapter) hearDispute(ctx context.Context, e *stripe.Event, d *stripe.Dispute) error {
	told, err := dispute(d, e.Created)
	if err != nil {
		return a.unreadable(ctx, e)
	}
	if told == nil || told.GetPaymentReference() == "" {
		return nil
	}
	return a.in.Host.Publish(ctx, a.in.Name, &providerv1.DisputeUpdated{Reference: told.GetReference(), Instance: a.in.Name, Dispute: told}, clip(e.ID, 200))
}

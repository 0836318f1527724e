package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// What is written on Stripe's objects, to find operations there again and to
// tell them from others' in the same account. A capture is written on its
// intent, by the very request that captures.
const (
	metaKey      = "entrepot_key"
	metaInstance = "entrepot_instance"
	metaPayment  = "entrepot_payment"
	metaVoid     = "entrepot_void"
	metaCapture  = "entrepot_capture_" // and a fingerprint of the key
)

func captureName(key string) string { return metaCapture + fingerprint(key)[:20] }

// taken is a capture as it is written on the intent: amount in minor units,
// time, key.
type taken struct {
	minor, at int64
	key       string
}

func (t taken) String() string {
	return strconv.FormatInt(t.minor, 10) + " " + strconv.FormatInt(t.at, 10) + " " + t.key
}

func parseTaken(s string) (t taken, ok bool) {
	f := strings.SplitN(s, " ", 3)
	if len(f) != 3 {
		return t, false
	}
	var err, aerr error
	t.minor, err = strconv.ParseInt(f[0], 10, 64)
	t.at, aerr = strconv.ParseInt(f[1], 10, 64)
	t.key = f[2]
	return t, err == nil && aerr == nil && t.minor > 0
}

var intentID = regexp.MustCompile(`^pi_[A-Za-z0-9_]{1,150}$`)

// payment checks the number of a payment before it is part of an address.
func payment(reference string) error {
	if !intentID.MatchString(reference) {
		return fault.New(connect.CodeNotFound, "PAYMENT_UNKNOWN", "Stripe has no payment of this number")
	}
	return nil
}

// Authorize implements the contract. An intent is made first, which holds
// nothing, and its number written down; only then is it confirmed. So there is
// never money held at Stripe by an intent of which nobody knows.
func (a *adapter) Authorize(ctx context.Context, req *providerv1.AuthorizeRequest) (*providerv1.AuthorizeResponse, error) {
	token := req.GetMethodToken()
	if !strings.HasPrefix(token, "pm_") && !strings.HasPrefix(token, "ctoken_") {
		return nil, fault.New(connect.CodeInvalidArgument, "METHOD_TOKEN_UNKNOWN", "the token is none of Stripe's: want pm_... or ctoken_...")
	}
	r, amount, err := asked(authorize, req.GetAmount(), token, req.GetMerchantReference())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, req.GetKey(), r, func(ctx context.Context, key string, r record) (*end, error) {
		if r.Intent == "" {
			if r, err = a.intend(ctx, key, r, amount, req.GetMerchantReference()); err != nil {
				return nil, err
			}
		}
		return a.confirm(ctx, key, r, token)
	})
	return &providerv1.AuthorizeResponse{Outcome: out}, err
}

// intend makes the intent, and writes its number down.
func (a *adapter) intend(ctx context.Context, key string, r record, amount int64, merchant string) (record, error) {
	p := &stripe.PaymentIntentCreateParams{
		Amount: &amount, Currency: stripe.String(strings.ToLower(r.Currency)),
		CaptureMethod: stripe.String(stripe.PaymentIntentCaptureMethodManual), PaymentMethodTypes: []*string{stripe.String("card")},
		Metadata: map[string]string{metaKey: key, metaInstance: a.in.Name, metaPayment: merchant},
	}
	if merchant != "" {
		p.Description = &merchant
	}
	if a.cfg.Multicapture {
		p.PaymentMethodOptions = &stripe.PaymentIntentCreatePaymentMethodOptionsParams{Card: &stripe.PaymentIntentCreatePaymentMethodOptionsCardParams{
			RequestMulticapture: stripe.String(stripe.PaymentIntentPaymentMethodOptionsCardRequestMulticaptureIfAvailable),
		}}
	}
	p.IdempotencyKey = a.idempotency(key, "create", r)
	pi, err := a.stripe.V1PaymentIntents.Create(ctx, p)
	if err != nil {
		return r, err
	}
	if !intentID.MatchString(pi.ID) {
		return r, errNothing
	}
	return a.memory.change(ctx, key, func(r *record) {
		if r.Intent == "" {
			r.Intent = pi.ID
		}
		r.Sent = time.Now().UnixMilli()
	})
}

// confirm holds the money. The contract has no way for the consumer's bank to
// ask the consumer something, so a card for which it wants to is declined.
func (a *adapter) confirm(ctx context.Context, key string, r record, token string) (*end, error) {
	p := &stripe.PaymentIntentConfirmParams{ErrorOnRequiresAction: stripe.Bool(true)}
	if strings.HasPrefix(token, "ctoken_") {
		p.ConfirmationToken = &token
	} else {
		p.PaymentMethod = &token
	}
	p.AddExpand("latest_charge")
	p.IdempotencyKey = a.idempotency(key, "confirm", r)
	pi, err := a.stripe.V1PaymentIntents.Confirm(ctx, r.Intent, p)
	if err != nil {
		return declinedAt(changed(err), r)
	}
	if e, err := held(pi); e != nil || err != nil {
		return e, err
	}
	return &end{Status: pending, Currency: r.Currency, Minor: r.Minor, Payment: r.Intent, At: pi.Created}, nil
}

// declinedAt makes a refusal an end of the payment's.
func declinedAt(err error, r record) (*end, error) {
	e := declined(err)
	if e == nil {
		return nil, err
	}
	e.Currency, e.Minor, e.Reference, e.Payment = r.Currency, r.Minor, r.Intent, r.Intent
	return e, nil
}

// held is what became of an authorisation; nil: nothing yet.
func held(pi *stripe.PaymentIntent) (*end, error) {
	e := &end{Status: succeeded, Reference: chargeOf(pi), Payment: pi.ID, At: pi.Created}
	amount := pi.Amount
	switch pi.Status {
	case stripe.PaymentIntentStatusRequiresCapture:
		amount = pi.AmountCapturable + pi.AmountReceived
	case stripe.PaymentIntentStatusSucceeded:
	case stripe.PaymentIntentStatusProcessing:
		e.Status = pending
	case stripe.PaymentIntentStatusRequiresPaymentMethod:
		if pi.LastPaymentError == nil {
			return nil, nil
		}
		why := no(pi.LastPaymentError)
		e.Status, e.Code, e.Message, e.Reference = declinedEnd, why.Code, why.Message, pi.ID
	case stripe.PaymentIntentStatusCanceled:
		// It was held if there is a charge that went well.
		if pi.LatestCharge == nil || pi.LatestCharge.Status != stripe.ChargeStatusSucceeded {
			return nil, nil
		}
	default:
		return nil, nil
	}
	if pi.LatestCharge != nil && pi.LatestCharge.Created > 0 {
		e.At = pi.LatestCharge.Created
	}
	return counted(e, amount, pi.Currency)
}

// counted gives an end its amount. One that cannot be counted is an error, and
// never "it did not happen".
func counted(e *end, amount int64, currency stripe.Currency) (*end, error) {
	m, err := fromStripe(amount, currency)
	if err != nil {
		return nil, fmt.Errorf("%s: %d %s: %w", e.Reference, amount, currency, err)
	}
	e.Currency, e.Minor = m.Currency, m.Minor
	return e, nil
}

func (a *adapter) intent(ctx context.Context, id string) (*stripe.PaymentIntent, error) {
	p := &stripe.PaymentIntentRetrieveParams{}
	p.AddExpand("latest_charge")
	pi, err := a.stripe.V1PaymentIntents.Retrieve(ctx, id, p)
	if err == nil && pi.ID != id {
		err = errNothing
	}
	return pi, err
}

func (a *adapter) findHold(ctx context.Context, r record) (*end, error) {
	if r.Intent == "" {
		return nil, nil
	}
	pi, err := a.intent(ctx, r.Intent)
	if err != nil {
		return nil, err
	}
	return held(pi)
}

// Capture implements the contract.
func (a *adapter) Capture(ctx context.Context, req *providerv1.CaptureRequest) (*providerv1.CaptureResponse, error) {
	if err := payment(req.GetPaymentReference()); err != nil {
		return nil, err
	}
	r, amount, err := asked(capture, req.GetAmount(), req.GetPaymentReference())
	if err != nil {
		return nil, err
	}
	r.Intent = req.GetPaymentReference()
	out, err := a.do(ctx, req.GetKey(), r, func(ctx context.Context, key string, r record) (*end, error) {
		return a.take(ctx, key, r, amount)
	})
	return &providerv1.CaptureResponse{Outcome: out}, err
}

// take captures. Unless the hold can be captured in several parts, what is not
// captured now is released.
func (a *adapter) take(ctx context.Context, key string, r record, amount int64) (*end, error) {
	p := &stripe.PaymentIntentCaptureParams{
		AmountToCapture: &amount,
		Metadata:        map[string]string{captureName(key): taken{r.Minor, r.Begun, key}.String()},
	}
	if a.cfg.Multicapture {
		pi, err := a.intent(ctx, r.Intent)
		if err != nil {
			return nil, err
		}
		if multicapture(pi) && amount < pi.AmountCapturable {
			p.FinalCapture = stripe.Bool(false)
		}
	}
	p.IdempotencyKey = a.idempotency(key, "capture", r)
	pi, err := a.stripe.V1PaymentIntents.Capture(ctx, r.Intent, p)
	if err != nil {
		return nil, err
	}
	if _, ok := parseTaken(pi.Metadata[captureName(key)]); !ok || pi.ID != r.Intent {
		return nil, errNothing
	}
	return captured(pi, key, r), nil
}

func multicapture(pi *stripe.PaymentIntent) bool {
	c := pi.LatestCharge
	return c != nil && c.PaymentMethodDetails != nil && c.PaymentMethodDetails.Card != nil && c.PaymentMethodDetails.Card.Multicapture != nil &&
		c.PaymentMethodDetails.Card.Multicapture.Status == stripe.ChargePaymentMethodDetailsCardMulticaptureStatusAvailable
}

// captured is a capture that succeeded or, while its intent is processed, will.
func captured(pi *stripe.PaymentIntent, key string, r record) *end {
	e := &end{Status: succeeded, Currency: r.Currency, Minor: r.Minor, Reference: chargeOf(pi), Payment: pi.ID, At: time.Now().Unix()}
	if t, ok := parseTaken(pi.Metadata[captureName(key)]); ok {
		e.Minor, e.At = t.minor, t.at
	}
	if pi.Status == stripe.PaymentIntentStatusProcessing {
		e.Status = pending
	}
	return e
}

func chargeOf(pi *stripe.PaymentIntent) string {
	if pi.LatestCharge != nil {
		return pi.LatestCharge.ID
	}
	return pi.ID
}

func (a *adapter) findCapture(ctx context.Context, key string, r record) (*end, error) {
	pi, err := a.intent(ctx, r.Intent)
	if err != nil {
		return gone(err)
	}
	if _, ok := parseTaken(pi.Metadata[captureName(key)]); !ok {
		return nil, nil
	}
	return captured(pi, key, r), nil
}

// gone: of a payment that is not there, nothing happened.
func gone(err error) (*end, error) {
	if declined(err) != nil {
		return nil, nil
	}
	return nil, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"

	"github.com/entrepot/entrepot/sdk/fault"
)

// quiet are decline codes that are not told further: whoever holds the card
// would learn that it is known to be stolen. Stripe's Dashboard has them.
// https://docs.stripe.com/declines/codes
var quiet = map[stripe.DeclineCode]bool{
	stripe.DeclineCodeFraudulent: true, stripe.DeclineCodeLostCard: true, stripe.DeclineCodeStolenCard: true,
	stripe.DeclineCodePickupCard: true, stripe.DeclineCodeMerchantBlacklist: true,
}

// declined is Stripe's final no, nil when an error is none. Only the kinds that
// say that nothing was done, and never will be, count: parameters or a state
// that it does not take (400, 404), and a bank's no (402).
func declined(err error) *end {
	var e *stripe.Error
	if !errors.As(err, &e) || e.Type == stripe.ErrorTypeIdempotency || e.Code == stripe.ErrorCodeLockTimeout {
		return nil
	}
	switch e.HTTPStatusCode {
	case http.StatusBadRequest, http.StatusPaymentRequired, http.StatusNotFound:
	default:
		return nil
	}
	return no(e)
}

// changed makes of "the intent is in another state" that nothing is known:
// somebody was faster, and it is to be seen who.
func changed(err error) error {
	var e *stripe.Error
	if errors.As(err, &e) && e.Code == stripe.ErrorCodePaymentIntentUnexpectedState {
		return errors.New("the intent has changed meanwhile")
	}
	return err
}

// no are a refusal's code and words.
func no(e *stripe.Error) *end {
	out := &end{Status: declinedEnd, Code: string(e.DeclineCode), Message: e.Msg, At: time.Now().Unix()}
	switch {
	case quiet[e.DeclineCode]:
		out.Code, out.Message = string(stripe.ErrorCodeCardDeclined), "The card was declined."
	case out.Code == "":
		out.Code = string(e.Code)
	}
	if out.Code == "" {
		out.Code = string(e.Type)
	}
	if out.Code == "" {
		out.Code = "refused"
	}
	if e.RequestID != "" {
		out.Message = clip(out.Message, 150) + " [" + e.RequestID + "]"
	}
	return out
}

// replayed tells whether Stripe itself failed, and said so: it answers the same
// to every repetition under the same idempotency key. What stands before Stripe
// (502 to 504) remembers nothing, and what it gave up may still be under way.
func replayed(err error) bool {
	var e *stripe.Error
	return errors.As(err, &e) && e.HTTPStatusCode == http.StatusInternalServerError
}

// unknown is what is answered when it is not known what happened. What the
// library says of an error holds all of the answer, and so secrets of intents:
// it goes nowhere.
func unknown(err error) error {
	var e *stripe.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.DeadlineExceeded) {
			return fault.Downstream(fault.New(connect.CodeDeadlineExceeded, fault.ReasonOutcomeUnknown, "Stripe did not answer in time"))
		}
		return fault.Downstream(fault.New(connect.CodeUnavailable, fault.ReasonOutcomeUnknown, "Stripe did not answer"))
	}
	said := fmt.Errorf("stripe: HTTP %d %s %s %s", e.HTTPStatusCode, e.Type, e.Code, e.RequestID)
	switch e.HTTPStatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Downstream(fault.New(connect.CodeUnavailable, "CREDENTIALS_REFUSED", "Stripe does not take the secret key, or it is not allowed this").WithCause(said))
	case http.StatusTooManyRequests:
		return fault.Downstream(fault.Retry(fault.New(connect.CodeUnavailable, "RATE_LIMITED", "Stripe has too many requests").WithCause(said), time.Second))
	}
	return fault.Downstream(fault.New(connect.CodeUnavailable, fault.ReasonOutcomeUnknown, "Stripe's answer does not tell what happened").WithCause(said))
}

// clip shortens what Stripe wrote to what the contract takes.
func clip(s string, most int) string {
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

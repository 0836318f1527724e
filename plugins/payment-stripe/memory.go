package main

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// The contract's words, shorter.
const (
	succeeded   = providerv1.Outcome_STATUS_SUCCEEDED
	declinedEnd = providerv1.Outcome_STATUS_DECLINED
	pending     = providerv1.Outcome_STATUS_PENDING

	authorize = providerv1.Operation_OPERATION_AUTHORIZE
	capture   = providerv1.Operation_OPERATION_CAPTURE
	void      = providerv1.Operation_OPERATION_VOID
	refund    = providerv1.Operation_OPERATION_REFUND
	payout    = providerv1.Operation_OPERATION_PAYOUT
)

const (
	// buckets hold some two million operations of a few hundred bytes.
	buckets = 8192
	// remembered is how long an operation is known at least. Stripe's own
	// memory of idempotency keys is a day, a hold's life 31 days at most.
	remembered = 40 * 24 * time.Hour
	// silence is the time after which a request that left can no longer arrive
	// at Stripe: until then "no trace of it" tells nothing.
	silence = 15 * time.Second
)

// record is what is remembered of an operation, from before Stripe hears of it.
type record struct {
	Operation providerv1.Operation `json:"o"`
	// Print is of what was asked with the key.
	Print    string `json:"p"`
	Currency string `json:"c,omitempty"`
	Minor    int64  `json:"m,omitempty"`
	// Intent is Stripe's number of the payment. An authorisation has it before
	// its intent is confirmed, and so before any money can be held.
	Intent string `json:"i,omitempty"`
	// Begun is when it was first asked for, in seconds: the same for every try,
	// as all parameters under one idempotency key have to be.
	Begun int64 `json:"b,omitempty"`
	// Sent is when what may move money last left, in milliseconds.
	Sent int64 `json:"s,omitempty"`
	// Failed says that Stripe answered with an error of its own, which it
	// repeats under the same idempotency key; Tries how often that was so, and
	// nothing was found to have happened.
	Failed bool `json:"f,omitempty"`
	Tries  int  `json:"t,omitempty"`
	End    *end `json:"e,omitempty"`
}

// underway is for how long yet what was sent may arrive at Stripe: nothing of
// what was answered.
func (r record) underway(now time.Time) time.Duration {
	if r.Failed {
		return 0
	}
	return max(0, silence-now.Sub(time.UnixMilli(r.Sent)))
}

// end is what became of it.
type end struct {
	Status   providerv1.Outcome_Status `json:"s"`
	Currency string                    `json:"c,omitempty"`
	Minor    int64                     `json:"m,omitempty"`
	// Reference is Stripe's number of the operation, Payment of its payment.
	Reference string `json:"r,omitempty"`
	Payment   string `json:"i,omitempty"`
	Code      string `json:"d,omitempty"`
	Message   string `json:"w,omitempty"`
	At        int64  `json:"a,omitempty"`
}

// outcome is an end as the contract has it.
func (e *end) outcome(key string, op providerv1.Operation) *providerv1.Outcome {
	o := &providerv1.Outcome{
		Key: key, Operation: op, Status: e.Status, Reference: clip(e.Reference, 200), PaymentReference: clip(e.Payment, 200),
		Code: clip(e.Code, 100), Message: clip(e.Message, 500),
	}
	if e.Currency != "" {
		o.Amount = &typev1.Money{CurrencyCode: e.Currency, MinorUnits: e.Minor}
	}
	if e.At > 0 {
		o.At = timestamppb.New(time.Unix(e.At, 0))
	}
	return o
}

// memory is the instance's own book of operations, kept by the kernel. Safe
// for concurrent use, also by several processes.
type memory struct{ operations *state.Map[record] }

func remember(in *plugin.Instance) memory {
	m := state.Of[record](in, "operations", buckets)
	m.Growth = func(r record) int {
		if r.End != nil {
			return 0
		}
		return 600
	}
	m.Spare = func(bucket map[string]record, keep string) (oldest string, ok bool) {
		before := time.Now().Add(-remembered).UnixMilli()
		for key, r := range bucket {
			if key != keep && r.End != nil && r.Sent < before && (!ok || r.Sent < bucket[oldest].Sent) {
				oldest, ok = key, true
			}
		}
		return oldest, ok
	}
	return memory{m}
}

var errKeyReused = errors.New("the key was used for another operation")

// begin writes an operation down before anything is sent; fresh: it was not
// there.
func (m memory) begin(ctx context.Context, key string, r record) (_ record, fresh bool, err error) {
	now := time.Now()
	r.Begun, r.Sent = now.Unix(), now.UnixMilli()
	got, err := m.operations.Update(ctx, key, func(was *record, known bool) (bool, error) {
		fresh = !known
		if known && (was.Operation != r.Operation || was.Print != r.Print) {
			return false, errKeyReused
		}
		if fresh {
			*was = r
		}
		return fresh, nil
	})
	if errors.Is(err, errKeyReused) {
		return got, fresh, fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "this key was used for another operation")
	}
	return got, fresh, forgetful(err)
}

// forgetful is an error of the kernel's state. It is never a refusal of the
// operation, whatever its code.
func forgetful(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(connect.CodeUnavailable, "STATE_UNAVAILABLE", "the operation cannot be looked up or written down").WithCause(err)
}

// again notes that an operation is sent once more. seen is what was known
// before Stripe was searched for it: a failure that came later may have left
// something there, so it is searched again before another idempotency key is
// used.
func (m memory) again(ctx context.Context, key string, seen record) (record, error) {
	late := false
	r, err := m.change(ctx, key, func(r *record) {
		late = r.Failed && !(seen.Failed && seen.Tries == r.Tries)
		if late {
			return
		}
		if r.Failed {
			r.Failed, r.Tries = false, r.Tries+1
		}
		r.Sent = time.Now().UnixMilli()
	})
	if err == nil && late {
		err = fault.Retry(fault.New(connect.CodeUnavailable, fault.ReasonOutcomeUnknown, "the same operation is under way; try again"), time.Second)
	}
	return r, err
}

// change changes what is known of an operation that has not ended.
func (m memory) change(ctx context.Context, key string, how func(*record)) (record, error) {
	r, err := m.operations.Update(ctx, key, func(r *record, known bool) (bool, error) {
		if known && r.End == nil {
			how(r)
			return true, nil
		}
		return false, nil
	})
	return r, forgetful(err)
}

// get is what is known of a key.
func (m memory) get(ctx context.Context, key string) (record, bool, error) {
	r, known, err := m.operations.Get(ctx, key)
	return r, known, forgetful(err)
}

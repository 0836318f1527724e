package main

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// again lets an open attempt be sent once more under the same key. It writes
// nothing when the attempt has ended, or when the payment was reversed
// meanwhile and the attempt is no part of that: a reversal that has found
// nothing at the provider must stay right.
const again = `UPDATE attempt a SET state = 1, sent_at = now() FROM payment p
 WHERE a.key = $1 AND a.state IN (1, 4, 5) AND p.id = a.payment AND (NOT p.reversed OR a.id = a.payment AND a.operation <> 1)`

// outcome brings an attempt to its end: it sends one that is fresh, asks what
// became of any other, and sends again under the same key what never arrived.
// An error means that it is still not known.
func (s *service) outcome(ctx context.Context, a *attempt, fresh bool, token string) (*providerv1.Outcome, error) {
	if !fresh {
		o, err := s.providers.lookup(ctx, a)
		if o != nil || err != nil {
			return s.told(ctx, a, o, err)
		}
		res, err := s.db.Do(ctx, again, a.key)
		if err != nil {
			return nil, store.Wrap(err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return nil, errors.Join(err, fault.Retry(fault.New(connect.CodeAborted, "PAYMENT_BUSY", "the payment is changing; try again"), 100*time.Millisecond))
		}
	}
	o, err := s.providers.send(ctx, a, token)
	return s.told(ctx, a, o, err)
}

// told passes a final outcome; any other is noted and is an error.
func (s *service) told(ctx context.Context, a *attempt, o *providerv1.Outcome, err error) (*providerv1.Outcome, error) {
	state := unknown
	switch {
	case err == nil && o.GetStatus() != providerv1.Outcome_STATUS_PENDING:
		return o, nil
	case err == nil:
		state = pending
	default:
		s.log.WarnContext(ctx, "outcome unknown", "payment", a.payment, "key", a.key, "instance", a.instance, "error", err)
	}
	// The caller may be gone: what is known is still worth writing.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, werr := s.db.Do(wctx, `UPDATE attempt SET state = $2::int2 WHERE key = $1 AND state IN (1, 4, 5) AND state <> $2::int2`, a.key, int16(state)); werr != nil {
		err = errors.Join(err, werr) // sent or unknown: both are asked about
	}
	return nil, outcomeUnknown(err, time.Second)
}

// record settles an outcome in a transaction of its own.
func (s *service) record(ctx context.Context, a *attempt, o *providerv1.Outcome) error {
	return s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		_, err := a.settle(ctx, tx, o)
		return err
	})
}

// asAsked tells whether an outcome is exactly what was asked for.
func (a *attempt) asAsked(o *providerv1.Outcome) bool {
	return o.GetStatus() == providerv1.Outcome_STATUS_SUCCEEDED && o.GetAmount().GetMinorUnits() == a.amount && o.GetAmount().GetCurrencyCode() == a.currency
}

package main

import (
	"context"
	"database/sql"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// reverseIntent closes a payment: from its commit on nothing more is sent but
// what gives back. A payment that never was becomes a tombstone.
var reverseIntent = store.NewIntent(1, `
result AS (INSERT INTO payment (id, reversed, ended) SELECT $1::text, true, true FROM step WHERE step.open
  ON CONFLICT (id) DO UPDATE SET reversed = true, updated_at = now() RETURNING true AS made)`)

// The intents of what gives back. Their id is the payment's own, so that there
// is one void and one refund of the rest at a time, whoever asks for it; one
// that was declined may be made anew under another key.
const (
	voidRest = `INSERT INTO attempt (key, id, payment, instance, operation, amount, currency)
SELECT $2::text || CASE n WHEN 0 THEN '' ELSE '/' || n + 1 END, p.id, p.id, p.instance, 3, p.authorized - p.captured - p.voided, p.currency
  FROM payment p, (SELECT count(*) AS n FROM attempt d WHERE d.id = $1::text AND d.operation = 3 AND d.state = 3) d
 WHERE p.id = $1::text AND p.capturing = 0 AND (p.reversed OR p.conflicted) ON CONFLICT DO NOTHING`
	refundRest = `WITH p AS (UPDATE payment SET refunding = captured - refunded - disputed, updated_at = now()
  WHERE id = $1::text AND reversed AND refunding = 0 AND captured > refunded + disputed
    AND NOT EXISTS (SELECT FROM attempt a WHERE a.id = $1::text AND a.operation = 4 AND a.state <> 3) RETURNING *)
INSERT INTO attempt (key, id, payment, instance, operation, amount, currency)
SELECT $2::text || CASE n WHEN 0 THEN '' ELSE '/' || n + 1 END, p.id, p.id, p.instance, 4, p.refunding, p.currency
  FROM p, (SELECT count(*) AS n FROM attempt d WHERE d.id = $1::text AND d.operation = 4 AND d.state = 3) d`
)

// ReversePayment gives everything back. First it learns what became of every
// call that is open, then it voids what is held and refunds what was captured.
func (s *service) ReversePayment(ctx context.Context, req *paymentv1.ReversePaymentRequest) (*paymentv1.ReversePaymentResponse, error) {
	id := req.GetPaymentId()
	var made sql.NullBool
	res, answered, err := store.WriteIntent[*paymentv1.ReversePaymentResponse](ctx, s.db, reverseIntent, []any{id}, &made)
	if answered || err != nil {
		return res, err
	}
	if err := s.learn(ctx, id); err != nil {
		return nil, err
	}
	p, err := load(ctx, s.db, id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	key := keyFor(ctx, id)
	if err := s.giveBack(ctx, p, key+keySuffix(ctx, "/void")); err != nil {
		return nil, err
	}
	if p.captured > p.refunded+p.disputed {
		if err := s.back(ctx, p, refund, refundRest, key+"/refund"); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.ReversePaymentResponse, error) {
		p, err := load(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		if p.authorized == 0 && !p.conflicted {
			return &paymentv1.ReversePaymentResponse{}, nil
		}
		return &paymentv1.ReversePaymentResponse{Payment: p.proto()}, nil
	})
}

// keySuffix tells operations of one name apart; a step's key needs none.
func keySuffix(ctx context.Context, suffix string) string {
	if _, ok := store.StepOf(ctx); ok {
		return ""
	}
	return suffix
}

// learn asks what became of every open call. One that the provider has never
// seen did not happen once it is too late for it to arrive.
func (s *service) learn(ctx context.Context, payment string) error {
	all, err := loadAttempts(ctx, s.db, payment)
	if err != nil {
		return store.Wrap(err)
	}
	for _, a := range all {
		if a.conflict && a.operation != authorize && a.posted == 0 && a.amount > 0 {
			return needsPeople(a)
		}
		if !a.open() || a.givesBack() {
			continue
		}
		o, err := s.providers.lookup(ctx, a)
		if o != nil || err != nil {
			if o, err = s.told(ctx, a, o, err); err == nil {
				err = s.record(ctx, a, o)
			}
		} else {
			err = s.never(ctx, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// never ends an attempt that the provider has never seen.
func (s *service) never(ctx context.Context, a *attempt) error {
	var p *payment
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		p, err = a.settleNever(ctx, tx)
		return err
	})
	if err == nil && p == nil {
		// Too young, or changed meanwhile: the next attempt sees.
		return outcomeUnknown(nil, min(max(time.Second, silence-time.Since(a.sentAt)), silence))
	}
	return err
}

// giveBack voids what the provider holds and was not captured; also what it
// holds in another currency than was asked.
func (s *service) giveBack(ctx context.Context, p *payment, key string) error {
	if p.held() == 0 {
		a, err := loadAttempt(ctx, s.db, p.id, authorize)
		if err != nil {
			return store.Wrap(err)
		}
		if a == nil || a.state != succeeded || a.posted > 0 {
			return nil
		}
	}
	return s.back(ctx, p, void, voidRest, key)
}

// back brings the void or the refund of the rest to its end.
func (s *service) back(ctx context.Context, p *payment, op operation, intent, key string) error {
	res, err := s.db.Do(ctx, intent, p.id, key)
	if err != nil && store.SQLState(err) != uniqueViolation {
		return store.Wrap(err)
	}
	var made int64
	if err == nil {
		if made, err = res.RowsAffected(); err != nil {
			return err
		}
	}
	a, err := loadAttempt(ctx, s.db, p.id, op)
	switch {
	case err != nil:
		return store.Wrap(err)
	case a == nil || a.state == declined:
		// Somebody else's ended between the two statements.
		return fault.Retry(fault.New(connect.CodeAborted, "PAYMENT_BUSY", "the payment is changing; try again"), 100*time.Millisecond)
	case a.state == succeeded:
		return nil
	}
	o, err := s.outcome(ctx, a, made > 0, "")
	if err != nil {
		return err
	}
	if err := s.record(ctx, a, o); err != nil {
		return err
	}
	switch {
	case o.GetStatus() == providerv1.Outcome_STATUS_DECLINED:
		return fault.New(connect.CodeUnavailable, "REVERSAL_DECLINED", "the payment provider declined to give the money back", "code", clip(o.GetCode(), 100))
	case !a.asAsked(o) && a.amount > 0:
		return needsPeople(a)
	}
	return nil
}

// needsPeople stops a reversal that no rule can finish: the provider moved
// another amount than was asked, and the books do not have it.
func needsPeople(a *attempt) error {
	return fault.New(connect.CodeUnavailable, "PAYMENT_CONFLICTED", "the provider moved another amount than was asked; a person must settle it", "key", a.key)
}

// uniqueViolation is the SQLSTATE of a row that is there already.
const uniqueViolation = "23505"

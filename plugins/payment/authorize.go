package main

import (
	"context"
	"database/sql"

	"connectrpc.com/connect/v2"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// authorizeIntent writes the payment and its first attempt before the provider
// is called. It makes nothing when there is a payment of that id, or when no
// instance is known.
var authorizeIntent = store.NewIntent(7, `
made AS (INSERT INTO payment (id, reference, market, currency, asked, instance)
  SELECT $1::text, $2::text, $3::text, $4::text, $5::bigint, $6::text FROM step WHERE step.open AND $6::text <> '' ON CONFLICT DO NOTHING RETURNING id),
result AS (INSERT INTO attempt (key, id, payment, instance, operation, amount, currency)
  SELECT $7::text, made.id, made.id, $6::text, 1, $5::bigint, $4::text FROM made RETURNING true AS made)`)

// AuthorizePayment holds money. Its hot path is the intent in one statement,
// the provider's call, and one transaction for the result.
func (s *service) AuthorizePayment(ctx context.Context, req *paymentv1.AuthorizePaymentRequest) (*paymentv1.AuthorizePaymentResponse, error) {
	amount, err := positive("amount", req.GetAmount())
	if err != nil {
		return refuse[*paymentv1.AuthorizePaymentResponse](ctx, s, req, err)
	}
	a := &attempt{
		key: keyFor(ctx, req.GetPaymentId()), id: req.GetPaymentId(), payment: req.GetPaymentId(), operation: authorize,
		amount: amount.Minor, currency: amount.Currency,
	}
	var unresolved error
	a.instance, unresolved = s.providers.of(ctx, req.GetMarket(), a.key)
	var made sql.NullBool
	res, answered, err := store.WriteIntent[*paymentv1.AuthorizePaymentResponse](ctx, s.db, authorizeIntent,
		[]any{a.id, req.GetReference(), req.GetMarket(), a.currency, a.amount, a.instance, a.key}, &made)
	if answered || err != nil {
		return res, err
	}
	if !made.Bool {
		p, err := load(ctx, s.db, a.id)
		switch {
		case err != nil:
			return nil, store.Wrap(err)
		case p == nil:
			return nil, unresolved
		case p.tombstone() || p.ended:
			return s.authorized(ctx, req, p)
		}
		if err := p.sameAs(req); err != nil {
			return refuse[*paymentv1.AuthorizePaymentResponse](ctx, s, req, err)
		}
		if a, err = loadAttempt(ctx, s.db, p.id, authorize); err != nil || a == nil {
			return nil, store.Wrap(err)
		}
	}
	o, err := s.outcome(ctx, a, made.Bool, req.GetMethodToken())
	if err != nil {
		return nil, err
	}
	if a.asAsked(o) {
		return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.AuthorizePaymentResponse, error) {
			p, err := a.settle(ctx, tx, o)
			if err == nil && p == nil {
				p, err = load(ctx, tx, a.payment)
			}
			if err != nil {
				return nil, err
			}
			return p.answer(a)
		})
	}
	if err := s.record(ctx, a, o); err != nil {
		return nil, err
	}
	p, err := load(ctx, s.db, a.payment)
	if err != nil {
		return nil, store.Wrap(err)
	}
	return s.authorized(ctx, req, p)
}

// authorized answers for a payment whose authorisation has ended. What a
// provider holds of another amount is given back before that is refused: a
// step that is refused is not undone.
func (s *service) authorized(ctx context.Context, req *paymentv1.AuthorizePaymentRequest, p *payment) (*paymentv1.AuthorizePaymentResponse, error) {
	if p.conflicted && !p.reversed {
		if err := s.giveBack(ctx, p, keyFor(ctx, p.id)+"/void"); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.AuthorizePaymentResponse, error) {
		p, err := load(ctx, tx, p.id)
		if err != nil {
			return nil, err
		}
		if err := p.sameAs(req); err != nil {
			return nil, err
		}
		a, err := loadAttempt(ctx, tx, p.id, authorize)
		if err != nil {
			return nil, err
		}
		return p.answer(a)
	})
}

// answer is what a payment answers to its authorisation.
func (p *payment) answer(a *attempt) (*paymentv1.AuthorizePaymentResponse, error) {
	switch {
	case p.conflicted:
		return nil, conflictedPayment()
	case p.declined:
		return nil, declinedPayment(p, a)
	case p.reversed || p.authorized == 0:
		return nil, reversedPayment()
	}
	return &paymentv1.AuthorizePaymentResponse{Payment: p.proto()}, nil
}

func declinedPayment(p *payment, a *attempt) error {
	return fault.New(connect.CodeFailedPrecondition, "PAYMENT_DECLINED", "the payment provider declined", "code", a.code, "instance", p.instance)
}

// sameAs refuses another request under the id of a payment.
func (p *payment) sameAs(req *paymentv1.AuthorizePaymentRequest) error {
	switch {
	case p.tombstone():
		return reversedPayment()
	case p.reference != req.GetReference() || p.market != req.GetMarket() || p.currency != req.GetAmount().GetCurrencyCode() || p.asked != req.GetAmount().GetMinorUnits():
		return fault.New(connect.CodeAlreadyExists, "PAYMENT_DIFFERS", "this payment was made with another request; take another id")
	}
	return nil
}

package main

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// movement is what captures and refunds have in common: a part of what there
// is moves, and while its end is not known it counts as moved.
type movement struct {
	operation operation
	intent    *store.Intent
	exceeds   string
	words     string
	// left is what may still move.
	left func(*payment) int64
}

var (
	capturing = &movement{
		operation: capture, intent: moveIntent(2, `capturing = p.capturing + $4::bigint`, `p.captured + p.capturing + p.voided + $4::bigint <= p.authorized`),
		exceeds: "CAPTURE_EXCEEDS_AUTHORIZATION", words: "this is more than is held and not captured", left: (*payment).held,
	}
	refunding = &movement{
		operation: refund, intent: moveIntent(4, `refunding = p.refunding + $4::bigint`, `p.refunded + p.refunding + p.disputed + $4::bigint <= p.captured`),
		exceeds: "REFUND_EXCEEDS_CAPTURE", words: "this is more than was captured and neither refunded nor disputed", left: (*payment).refundable,
	}
)

// moveIntent reserves the amount under the payment's lock and writes the
// attempt. It makes nothing when the amount is not there, when nothing may
// move any more, or when there is an attempt at the operation.
func moveIntent(operation int, reserve, fits string) *store.Intent {
	op := fmt.Sprint(operation)
	return store.NewIntent(6, `
held AS (UPDATE payment p SET `+reserve+`, updated_at = now() FROM step
  WHERE step.open AND p.id = $2::text AND p.currency = $5::text AND `+fits+` AND NOT p.reversed AND NOT p.conflicted
    AND NOT EXISTS (SELECT FROM attempt a WHERE a.id = $3::text AND a.operation = `+op+`)
  RETURNING p.id, p.instance, p.provider_reference),
result AS (INSERT INTO attempt (key, id, payment, instance, operation, amount, currency, shares)
  SELECT $1::text, $3::text, h.id, h.instance, `+op+`, $4::bigint, $5::text, $6::jsonb FROM held h
  RETURNING instance, (SELECT h.provider_reference FROM held h))`)
}

// CapturePayment takes held money.
func (s *service) CapturePayment(ctx context.Context, req *paymentv1.CapturePaymentRequest) (*paymentv1.CapturePaymentResponse, error) {
	parts, err := sharesOf(req)
	if err != nil {
		return refuse[*paymentv1.CapturePaymentResponse](ctx, s, req, err)
	}
	return move(ctx, s, capturing, req, parts, func(p *payment) *paymentv1.CapturePaymentResponse {
		return &paymentv1.CapturePaymentResponse{Payment: p.proto()}
	})
}

// RefundPayment returns captured money.
func (s *service) RefundPayment(ctx context.Context, req *paymentv1.RefundPaymentRequest) (*paymentv1.RefundPaymentResponse, error) {
	parts, err := sharesOf(req)
	if err != nil {
		return refuse[*paymentv1.RefundPaymentResponse](ctx, s, req, err)
	}
	return move(ctx, s, refunding, req, parts, func(p *payment) *paymentv1.RefundPaymentResponse {
		return &paymentv1.RefundPaymentResponse{Payment: p.proto()}
	})
}

// sharesOf sums the shares by merchant, and checks that they are the amount.
func sharesOf(req interface {
	GetAmount() *typev1.Money
	GetShares() []*paymentv1.MerchantShare
},
) (shares, error) {
	var out shares
	var sum int64
	for _, in := range req.GetShares() {
		if strings.ContainsAny(in.GetMerchantId(), ":/\x00") {
			return nil, fault.Field("shares.merchant_id", "is no merchant's id")
		}
		if in.GetMinorUnits() > math.MaxInt64-sum {
			return nil, fault.Field("shares", "do not fit")
		}
		sum += in.GetMinorUnits()
		i := slices.IndexFunc(out, func(s share) bool { return s.Merchant == in.GetMerchantId() })
		if i < 0 {
			i, out = len(out), append(out, share{Merchant: in.GetMerchantId()})
		}
		out[i].Amount += in.GetMinorUnits()
	}
	if len(out) > 0 && req.GetAmount() == nil {
		return nil, fault.Field("amount", "is needed with shares")
	}
	if len(out) > 0 && sum != req.GetAmount().GetMinorUnits() {
		return nil, fault.Field("shares", "must sum to the amount")
	}
	return out, nil
}

// moveRequest is a request to capture or refund.
type moveRequest interface {
	proto.Message
	GetPaymentId() string
	GetOperationId() string
	GetAmount() *typev1.Money
}

func move[Res proto.Message](ctx context.Context, s *service, m *movement, req moveRequest, parts shares, answer func(*payment) Res) (none Res, err error) {
	a := &attempt{
		key: keyFor(ctx, req.GetOperationId()), id: req.GetOperationId(), payment: req.GetPaymentId(), operation: m.operation, shares: parts,
	}
	if err := s.amountOf(ctx, m, req, a); err != nil {
		return refuseOrPass[Res](ctx, s, req, err)
	}
	fresh, res, answered, err := writeMove[Res](ctx, s, m, a)
	if answered || err != nil {
		return res, err
	}
	if !fresh {
		found, err := s.moveBefore(ctx, m, req, a)
		if err != nil {
			return refuseOrPass[Res](ctx, s, req, err)
		}
		a = found
	}
	if a.open() {
		o, err := s.outcome(ctx, a, fresh, "")
		if err != nil {
			return none, err
		}
		if a.asAsked(o) {
			return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (Res, error) {
				p, err := a.settle(ctx, tx, o)
				if err == nil && p == nil {
					p, err = load(ctx, tx, a.payment)
				}
				if err != nil {
					return none, err
				}
				return answer(p), nil
			})
		}
		if err := s.record(ctx, a, o); err != nil {
			return none, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (Res, error) {
		p, err := load(ctx, tx, a.payment)
		if err != nil {
			return none, err
		}
		a, err := loadAttempt(ctx, tx, a.id, a.operation)
		switch {
		case err != nil:
			return none, err
		case a.conflict:
			return none, conflictedPayment()
		case a.state == declined:
			return none, declinedPayment(p, a)
		}
		return answer(p), nil
	})
}

// refuseOrPass records a refusal; what is none may be tried again.
func refuseOrPass[Res proto.Message](ctx context.Context, s *service, req proto.Message, err error) (none Res, _ error) {
	if store.IsRefusal(err) {
		return refuse[Res](ctx, s, req, err)
	}
	return none, store.Wrap(err)
}

// amountOf takes the amount of the request, or else all there is.
func (s *service) amountOf(ctx context.Context, m *movement, req moveRequest, a *attempt) error {
	if req.GetAmount() != nil {
		amount, err := positive("amount", req.GetAmount())
		a.amount, a.currency = amount.Minor, amount.Currency
		return err
	}
	before, err := loadAttempt(ctx, s.db, a.id, a.operation)
	if err != nil {
		return err
	}
	if before != nil {
		a.amount, a.currency = before.amount, before.currency
		return nil
	}
	p, err := load(ctx, s.db, a.payment)
	switch {
	case err != nil:
		return err
	case p == nil:
		return unknownPayment()
	case m.left(p) <= 0:
		return p.explain(m, 0)
	}
	a.amount, a.currency = m.left(p), p.currency
	return nil
}

func writeMove[Res proto.Message](ctx context.Context, s *service, m *movement, a *attempt) (fresh bool, res Res, answered bool, err error) {
	parts, err := a.shares.json()
	if err != nil {
		return false, res, false, err
	}
	var instance, reference sql.NullString
	res, answered, err = store.WriteIntent[Res](ctx, s.db, m.intent, []any{a.key, a.payment, a.id, a.amount, a.currency, parts}, &instance, &reference)
	if store.SQLState(err) == uniqueViolation {
		// The same operation came twice at once, and the other was first.
		return false, res, false, nil
	}
	a.instance, a.holdReference = instance.String, reference.String
	return instance.Valid, res, answered, err
}

// moveBefore finds the attempt that was made before, or says why there is none.
func (s *service) moveBefore(ctx context.Context, m *movement, req moveRequest, a *attempt) (*attempt, error) {
	found, err := loadAttempt(ctx, s.db, a.id, a.operation)
	if err != nil {
		return nil, err
	}
	if found != nil {
		same := found.payment == a.payment && found.amount == a.amount && found.currency == a.currency && slices.Equal(found.shares, a.shares)
		if !same {
			return nil, fault.New(connect.CodeAlreadyExists, "OPERATION_DIFFERS", "this operation was made with another request; take another id")
		}
		return found, nil
	}
	p, err := load(ctx, s.db, req.GetPaymentId())
	switch {
	case err != nil:
		return nil, err
	case p == nil || p.tombstone():
		return nil, unknownPayment()
	case p.currency != a.currency:
		return nil, fault.New(connect.CodeFailedPrecondition, "CURRENCY_MISMATCH", "the payment is in another currency", "currency", p.currency)
	}
	return nil, p.explain(m, a.amount)
}

// explain says why an amount cannot move.
func (p *payment) explain(m *movement, amount int64) error {
	switch {
	case p.conflicted:
		return conflictedPayment()
	case p.reversed:
		return reversedPayment()
	case p.authorized == 0 && !p.ended:
		return outcomeUnknown(nil, 0)
	case p.authorized == 0:
		return fault.New(connect.CodeFailedPrecondition, "PAYMENT_DECLINED", "nothing is held for this payment")
	case amount == 0 || amount > m.left(p):
		return fault.New(connect.CodeFailedPrecondition, m.exceeds, m.words, "left", fmt.Sprint(m.left(p)), "currency", p.currency)
	}
	return fault.New(connect.CodeAborted, "PAYMENT_BUSY", "the payment is changing; try again")
}

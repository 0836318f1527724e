package main

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// operationPayout is the provider's word for it; a payment has none.
const operationPayout = operation(providerv1.Operation_OPERATION_PAYOUT)

const (
	payoutOpen       = paymentv1.Payout_STATE_OPEN
	payoutPaid       = paymentv1.Payout_STATE_PAID
	payoutDeclined   = paymentv1.Payout_STATE_DECLINED
	payoutConflicted = paymentv1.Payout_STATE_CONFLICTED
	payoutSettled    = paymentv1.Payout_STATE_SETTLED
)

// payout is a row of the table payout.
type payout struct {
	id, merchant, instance, currency string
	amount                           int64
	state                            paymentv1.Payout_State
	code, reference                  string
	processed                        int64
	processedCurrency                string
	at, sentAt                       time.Time
	endedAt                          sql.NullTime
	scheduledOn                      sql.NullTime
	// paid is what a person found who settled it.
	paid            sql.NullInt64
	settledBy, note string
}

const payoutColumns = `o.id, o.merchant, o.instance, o.currency, o.amount, o.state, o.code, o.provider_reference, o.processed, o.processed_currency,
  o.at, o.sent_at, o.ended_at, o.scheduled_on, o.paid, o.settled_by, o.note`

func (p *payout) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(&p.id, &p.merchant, &p.instance, &p.currency, &p.amount, &p.state, &p.code, &p.reference, &p.processed, &p.processedCurrency,
		&p.at, &p.sentAt, &p.endedAt, &p.scheduledOn, &p.paid, &p.settledBy, &p.note)
}

func payouts(rows *sql.Rows, err error) (out []*payout, _ error) {
	return out, each(rows, err, func() error {
		p := &payout{}
		out = append(out, p)
		return p.scan(rows)
	})
}

func (p *payout) money() *typev1.Money {
	return &typev1.Money{CurrencyCode: p.currency, MinorUnits: p.amount}
}

func (p *payout) proto() *paymentv1.Payout {
	out := &paymentv1.Payout{
		PayoutId: p.id, MerchantId: p.merchant, Instance: p.instance, Amount: p.money(), State: p.state, ProviderReference: p.reference, Code: p.code,
		RequestedAt: timestamppb.New(p.at), SettledBy: p.settledBy, Note: p.note,
	}
	if p.scheduledOn.Valid {
		out.ScheduledOn = p.scheduledOn.Time.Format(time.DateOnly)
	}
	if p.endedAt.Valid {
		out.EndedAt = timestamppb.New(p.endedAt.Time)
	}
	switch p.state {
	case payoutConflicted:
		out.Processed = &typev1.Money{CurrencyCode: p.processedCurrency, MinorUnits: p.processed}
	case payoutSettled:
		out.Processed = &typev1.Money{CurrencyCode: p.currency, MinorUnits: p.paid.Int64}
	}
	return out
}

// attempt is the payout as an operation at its provider.
func (p *payout) attempt() *attempt {
	return &attempt{key: p.id, id: p.id, payment: p.merchant, instance: p.instance, operation: operationPayout, amount: p.amount, currency: p.currency}
}

// told is the attempt as far as it is known.
func (p *payout) told() *attempt {
	a := p.attempt()
	a.state, a.processed, a.processedCurrency = map[paymentv1.Payout_State]attemptState{
		payoutOpen: unknown, payoutPaid: succeeded, payoutDeclined: declined, payoutConflicted: succeeded, payoutSettled: succeeded,
	}[p.state], p.processed, p.processedCurrency
	return a
}

const (
	// payoutIntent writes a payout and takes its money from what is available.
	// The ledger's trigger refuses more than there is.
	payoutIntent = `WITH made AS (INSERT INTO payout (id, merchant, instance, currency, amount) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING *)
INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
SELECT 'payout', id, 'merchant:' || merchant || ':available', 'merchant:' || merchant || ':payout', currency, amount, instance, id FROM made`
	// payoutAgain lets an open payout be sent once more under the same key.
	payoutAgain = `UPDATE payout SET sent_at = now(), next_try = now() + interval '20 s' WHERE id = $1 AND state = 1`
	// payoutEnd writes what became of it, once. One that was never seen ends
	// only when nobody has sent it since ($7).
	payoutEnd = `WITH ended AS (UPDATE payout SET state = $2::int2, code = $3::text, provider_reference = $4::text, processed = $5::int8, processed_currency = $6::text,
    ended_at = now() WHERE id = $1 AND state = 1 AND ($7::timestamptz IS NULL OR sent_at = $7) RETURNING *),
  posted AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
    SELECT CASE state WHEN 2 THEN 'payout_paid' ELSE 'payout_back' END, id, 'merchant:' || merchant || ':payout',
       CASE state WHEN 2 THEN 'provider:' || instance || ':clearing' ELSE 'merchant:' || merchant || ':available' END, currency, amount, instance, id
    FROM ended WHERE state IN (2, 3))
SELECT count(*) FROM ended`
	overdrawn = "PM002"
)

// RequestPayout pays a merchant: the intent is committed first, the company is
// asked under its key, and what it did is posted once.
func (s *service) RequestPayout(ctx context.Context, req *paymentv1.RequestPayoutRequest) (*paymentv1.RequestPayoutResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	if merchant == "" || strings.ContainsAny(merchant, ":/\x00") {
		return nil, fault.Field("merchant_id", "is no merchant's id")
	}
	amount, err := positive("amount", req.GetAmount())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	res, err := s.db.Do(ctx, payoutIntent, req.GetPayoutId(), merchant, req.GetInstance(), amount.Currency, amount.Minor)
	if store.SQLState(err) == overdrawn {
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_EXCEEDS_BALANCE", "this is more than is available")
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	made, err := res.RowsAffected()
	if err != nil {
		return nil, err
	}
	p, err := s.payout(ctx, req.GetPayoutId())
	if err != nil {
		return nil, err
	}
	if p.merchant != merchant || p.instance != req.GetInstance() || p.currency != amount.Currency || p.amount != amount.Minor {
		return nil, fault.New(connect.CodeAlreadyExists, "PAYOUT_DIFFERS", "this payout was made with another request; take another id")
	}
	if p.state == payoutOpen {
		if err := s.pay(ctx, p, made > 0, began); err != nil {
			return nil, err
		}
		if p, err = s.payout(ctx, p.id); err != nil {
			return nil, err
		}
	}
	switch p.state {
	case payoutDeclined:
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_DECLINED", "the payment provider declined the payout", "code", p.code)
	case payoutConflicted:
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_CONFLICTED", "the provider paid another amount than was asked; a person must settle it", "payout", p.id)
	case payoutSettled:
		if p.paid.Int64 != p.amount {
			return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_SETTLED", "a person found that another amount was paid than was asked; ListPayouts tells it", "payout", p.id)
		}
	}
	return &paymentv1.RequestPayoutResponse{ProviderReference: p.reference}, nil
}

func (s *service) payout(ctx context.Context, id string) (*payout, error) {
	p := &payout{}
	return p, store.Wrap(p.scan(s.db.Row(ctx, `SELECT `+payoutColumns+` FROM payout o WHERE o.id = $1`, id)))
}

// pay brings a payout to its end, or says that it is not known. A fresh one was
// written after began.
func (s *service) pay(ctx context.Context, p *payout, fresh bool, began time.Time) error {
	a := p.attempt()
	var o *providerv1.Outcome
	var err error
	if !fresh {
		if o, err = s.providers.lookup(ctx, a); o == nil && err == nil {
			began = time.Now()
			res, err := s.db.Do(ctx, payoutAgain, p.id)
			if err != nil {
				return store.Wrap(err)
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return err // it has ended meanwhile
			}
		}
	}
	if o == nil && err == nil {
		// A process that was paused since it wrote so must not send any more.
		sctx, cancel := context.WithDeadline(ctx, began.Add(patience))
		o, err = s.providers.send(sctx, a, "")
		cancel()
	}
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "outcome unknown", "payout", p.id, "instance", p.instance, "error", err)
		return outcomeUnknown(host.Relay(err), time.Second)
	case o.GetStatus() == providerv1.Outcome_STATUS_PENDING:
		return outcomeUnknown(nil, time.Second)
	}
	return store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.endPayout(ctx, tx, p, o, time.Time{}) }))
}

// endPayout writes an outcome and publishes what it means; nothing when the
// payout had ended before. With a time, only if it was sent then and not
// since.
func (s *service) endPayout(ctx context.Context, tx *store.Tx, p *payout, o *providerv1.Outcome, sent time.Time) error {
	state := payoutPaid
	var news proto.Message = &paymentv1.PayoutPaid{MerchantId: p.merchant, PayoutId: p.id, Amount: p.money(), Instance: p.instance}
	switch {
	case o.GetStatus() == providerv1.Outcome_STATUS_DECLINED:
		state = payoutDeclined
		news = &paymentv1.PayoutFailed{MerchantId: p.merchant, PayoutId: p.id, Amount: p.money(), Instance: p.instance, Code: clip(o.GetCode(), 100)}
	case !p.attempt().asAsked(o):
		state, news = payoutConflicted, nil
		s.log.ErrorContext(ctx, "a provider paid out another amount than was asked", "payout", p.id, "instance", p.instance)
	}
	since := sql.NullTime{Time: sent, Valid: !sent.IsZero()}
	var n int
	err := tx.Row(ctx, payoutEnd, p.id, int16(state), clip(o.GetCode(), 100), clip(o.GetReference(), 200), o.GetAmount().GetMinorUnits(),
		o.GetAmount().GetCurrencyCode(), since).Scan(&n)
	if err != nil || n == 0 || news == nil {
		return err
	}
	return tx.Publish(news)
}

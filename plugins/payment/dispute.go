package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

type disputeState = paymentv1.Dispute_State

const (
	needsResponse = paymentv1.Dispute_STATE_NEEDS_RESPONSE
	underReview   = paymentv1.Dispute_STATE_UNDER_REVIEW
	won           = paymentv1.Dispute_STATE_WON
	lost          = paymentv1.Dispute_STATE_LOST
	accepted      = paymentv1.Dispute_STATE_ACCEPTED
)

// closed tells whether a dispute has ended, for good.
func closed(s disputeState) bool { return s >= won }

// dispute is a row of the table dispute.
type dispute struct {
	id, instance, reference, paymentReference string
	// payment is empty while there is none of that reference here.
	payment, currency string
	amount            int64
	state             disputeState
	reason            paymentv1.Dispute_Reason
	code              string
	due               sql.NullTime
	posted            int64
	postings          int
	fee               int64
	feeCurrency       string
	feePosted         int64
	feePostings       int
	charged           int64
	accepting         bool
	openedAt, toldAt  time.Time
	closedAt          sql.NullTime
	at                time.Time
	// order is what the payment is of.
	order string
}

const disputeColumns = `d.id, d.instance, d.reference, d.payment_reference, coalesce(d.payment, ''), d.currency, d.amount, d.state, d.reason, d.code, d.due,
  d.posted, d.postings, d.fee, d.fee_currency, d.fee_posted, d.fee_postings, d.charged, d.accepting, d.opened_at, d.told_at, d.closed_at, d.at,
  coalesce((SELECT p.reference FROM payment p WHERE p.id = d.payment), '')`

func (d *dispute) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(
		&d.id, &d.instance, &d.reference, &d.paymentReference, &d.payment, &d.currency, &d.amount, &d.state, &d.reason, &d.code, &d.due,
		&d.posted, &d.postings, &d.fee, &d.feeCurrency, &d.feePosted, &d.feePostings, &d.charged, &d.accepting, &d.openedAt, &d.toldAt, &d.closedAt, &d.at, &d.order)
}

func disputes(rows *sql.Rows, err error) (out []*dispute, _ error) {
	return out, each(rows, err, func() error {
		d := &dispute{}
		out = append(out, d)
		return d.scan(rows)
	})
}

// sound takes a company's word of a dispute only when it makes sense.
func sound(instance string, t *providerv1.Dispute) error {
	for _, s := range []string{t.GetReference(), t.GetPaymentReference()} {
		if s == "" || len(s) > 200 || clip(s, 200) != s {
			return fmt.Errorf("instance %s tells a dispute without its numbers", instance)
		}
	}
	m := t.GetAmount()
	switch {
	case t.GetStatus() < providerv1.Dispute_STATUS_NEEDS_RESPONSE || t.GetStatus() > providerv1.Dispute_STATUS_LOST:
		return fmt.Errorf("instance %s tells dispute %s without a status", instance, t.GetReference())
	case m.GetMinorUnits() <= 0 || m.GetMinorUnits() > maxMinor || !currencyCode(m.GetCurrencyCode()):
		return fmt.Errorf("instance %s tells dispute %s without an amount", instance, t.GetReference())
	}
	if f := t.GetFee(); f.GetMinorUnits() != 0 && (f.GetMinorUnits() < 0 || f.GetMinorUnits() > maxMinor || !currencyCode(f.GetCurrencyCode())) {
		return fmt.Errorf("instance %s tells dispute %s with a fee that is none", instance, t.GetReference())
	}
	return nil
}

// contradicts names what a company tells otherwise of the same dispute than
// before, which cannot change; empty: nothing.
func (d *dispute) contradicts(t *providerv1.Dispute) string {
	status := disputeState(t.GetStatus())
	switch {
	case t.GetPaymentReference() != d.paymentReference:
		return "of another payment"
	case t.GetAmount().GetCurrencyCode() != d.currency || t.GetAmount().GetMinorUnits() != d.amount:
		return "of another amount"
	case closed(d.state) && closed(status) && (d.state == won) != (status == won):
		return "with another end"
	}
	return ""
}

// advance takes what a company tells into what is known. Whatever comes first
// or twice, the furthest state stands, and of the rest what was told last at
// the company.
func (d *dispute) advance(t *providerv1.Dispute, now time.Time) {
	status := disputeState(t.GetStatus())
	if status == lost && d.accepting {
		status = accepted
	}
	if !closed(d.state) && status > d.state {
		d.state = status
		if closed(status) {
			d.closedAt = sql.NullTime{Time: now, Valid: true}
		}
	}
	at := now
	if u := t.GetUpdatedAt(); u.IsValid() {
		at = u.AsTime()
		if at.Before(d.toldAt) {
			return
		}
	}
	d.toldAt = at
	d.reason, d.code = paymentv1.Dispute_Reason(t.GetReason()), clip(t.GetCode(), 100)
	if u := t.GetEvidenceDueAt(); u.IsValid() {
		d.due = sql.NullTime{Time: u.AsTime(), Valid: true}
	}
	if f := t.GetFee(); d.feeCurrency == "" || f.GetMinorUnits() == 0 || f.GetCurrencyCode() == d.feeCurrency {
		d.fee = f.GetMinorUnits()
		if d.fee > 0 {
			d.feeCurrency = f.GetCurrencyCode()
		}
	}
}

// disputed locks the payment that a dispute is of; nil: there is none here, or
// not yet.
func disputed(ctx context.Context, tx *store.Tx, instance, reference string) (*payment, error) {
	p := &payment{}
	err := tx.Row(ctx, `SELECT `+paymentColumns+` FROM payment p WHERE p.instance = $1 AND p.provider_reference = $2 AND p.provider_reference <> ''
		ORDER BY p.id LIMIT 1 FOR UPDATE`, instance, reference).Scan(p.targets()...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// hearDispute takes a company's word of a dispute: it is made or advanced,
// what the bank took is posted or given back, and events tell of it. It may be
// told any number of times, in any order. The payment is locked before the
// dispute. Without a word it looks whether more can be posted by now.
func (s *service) hearDispute(ctx context.Context, tx *store.Tx, instance, reference, paymentReference string, t *providerv1.Dispute) error {
	p, err := disputed(ctx, tx, instance, paymentReference)
	if err != nil {
		return err
	}
	var now time.Time
	if err := tx.Row(ctx, `SELECT now()`).Scan(&now); err != nil {
		return err
	}
	if t != nil {
		opened := now
		if u := t.GetOpenedAt(); u.IsValid() {
			opened = u.AsTime()
		}
		if _, err := tx.Do(ctx, `INSERT INTO dispute (id, instance, reference, payment_reference, currency, amount, state, reason, code, opened_at, told_at)
			VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, 'epoch') ON CONFLICT (instance, reference) DO NOTHING`, id.New("dsp"), instance, reference,
			paymentReference, t.GetAmount().GetCurrencyCode(), t.GetAmount().GetMinorUnits(), int16(t.GetReason()), clip(t.GetCode(), 100), opened); err != nil {
			return err
		}
	}
	d := &dispute{}
	if err := d.scan(tx.Row(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE d.instance = $1 AND d.reference = $2 FOR UPDATE`, instance, reference)); err != nil {
		return err
	}
	log := s.log.With("dispute", d.id, "instance", instance)
	if t != nil {
		if what := d.contradicts(t); what != "" {
			log.ErrorContext(ctx, "a provider told a dispute otherwise than before", "what", what)
			return nil
		}
	}
	before, matched := d.state, d.payment != ""
	if t != nil {
		d.advance(t, now)
	}
	if p != nil {
		d.payment = p.id
	}
	if p == nil {
		log.WarnContext(ctx, "a dispute of a payment that is not known")
		return d.save(ctx, tx)
	}
	// What was taken and came back before anybody here heard of it moves
	// nothing.
	if d.state != won {
		if err := s.takeDispute(ctx, tx, d, p); err != nil {
			return err
		}
	} else if before != won {
		if err := giveBackDispute(ctx, tx, d, p); err != nil {
			return err
		}
	}
	if err := s.postFee(ctx, tx, d); err != nil {
		return err
	}
	if err := d.save(ctx, tx); err != nil {
		return err
	}
	borne, err := sharesOfDisputes(ctx, tx, []string{d.id})
	if err != nil {
		return err
	}
	var news []proto.Message
	if !matched {
		news = append(news, &paymentv1.DisputeOpened{
			PaymentId: p.id, Reference: p.reference, DisputeId: d.id, Amount: d.money(d.amount), Reason: d.reason, EvidenceDueAt: stamp(d.due),
			Shares: merchantShares(borne[d.id]), Instance: instance,
		})
	}
	if closed(d.state) && (!matched || !closed(before)) {
		news = append(news, &paymentv1.DisputeClosed{
			PaymentId: p.id, Reference: p.reference, DisputeId: d.id, Amount: d.money(d.amount), State: d.state, Shares: merchantShares(borne[d.id]), Instance: instance,
		})
	}
	if before != won && d.state == won {
		// What went back to pending may be released, as if it had stayed.
		for _, b := range borne[d.id] {
			if b.pending > 0 {
				if err := release(ctx, tx, p.reference, b.merchant); err != nil {
					return err
				}
			}
		}
	}
	return tx.Publish(news...)
}

// askDisputes is how often an open dispute is asked about, for what was told
// and never heard.
const askDisputes = 6 * time.Hour

// save writes what is known. What waits for its payment, or for more to be
// left of it, is looked at again when its turn comes; what is open is asked
// about.
func (d *dispute) save(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Do(ctx, `UPDATE dispute SET payment = nullif($2, ''), state = $3::int2, reason = $4::int2, code = $5, due = $6, posted = $7, postings = $8, fee = $9,
		fee_currency = $10, fee_posted = $11, fee_postings = $12, charged = $13, accepting = $14, told_at = $15, closed_at = $16,
		next_try = CASE WHEN $2 = '' OR $7::int8 < amount AND $3::int2 <> 3 THEN coalesce(next_try, now() + interval '15 s')
		                WHEN $3::int2 < 3 THEN CASE WHEN $14 THEN least(next_try, now() + interval '30 s') ELSE now() + make_interval(secs => $17::int8) END END,
		tries = CASE WHEN $2 = '' OR $7::int8 < amount AND $3::int2 <> 3 THEN tries ELSE 0 END
		WHERE id = $1`, d.id, d.payment, int16(d.state), int16(d.reason), d.code, d.due, d.posted, d.postings, d.fee, d.feeCurrency, d.feePosted, d.feePostings,
		d.charged, d.accepting, d.toldAt, d.closedAt, int64(askDisputes.Seconds()))
	return err
}

func (d *dispute) money(minor int64) *typev1.Money {
	return money.Money{Currency: d.currency, Minor: minor}.Proto()
}

func stamp(t sql.NullTime) *timestamppb.Timestamp {
	if !t.Valid {
		return nil
	}
	return timestamppb.New(t.Time)
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// settle writes the end of an attempt, once: the attempt, the payment's
// amounts and the ledger in one statement. It writes nothing when the attempt
// has ended before, or was sent within the last $8 seconds.
//
// What is posted is what the provider processed. An authorisation of another
// amount is posted as it is, so that giving it back balances; another capture
// or refund than was asked is posted not at all: it is for people to look at.
const settle = `WITH a AS (UPDATE attempt SET state = $2::int2, processed = $3::int8, processed_currency = $4::text, provider_reference = $5::text, code = $7::text,
  ended_at = now(), conflict = $2::int2 = 2 AND ($3::int8 <> amount OR $4::text <> currency),
  posted = CASE WHEN $2::int2 = 2 AND $4::text = currency AND ($3::int8 = amount OR operation = 1) THEN $3::int8 ELSE 0 END
  WHERE key = $1 AND state IN (1, 4, 5) AND ($8::int4 = 0 OR sent_at < now() - make_interval(secs => $8::int4)) RETURNING *),
p AS (UPDATE payment p SET updated_at = now(),
  authorized = p.authorized + CASE a.operation WHEN 1 THEN a.posted ELSE 0 END,
  captured   = p.captured   + CASE a.operation WHEN 2 THEN a.posted ELSE 0 END,
  capturing  = p.capturing  - CASE a.operation WHEN 2 THEN a.amount ELSE 0 END,
  voided     = p.voided     + CASE a.operation WHEN 3 THEN a.posted ELSE 0 END,
  refunded   = p.refunded   + CASE a.operation WHEN 4 THEN a.posted ELSE 0 END,
  refunding  = p.refunding  - CASE a.operation WHEN 4 THEN a.amount ELSE 0 END,
  provider_reference = CASE WHEN a.operation = 1 AND a.state = 2 THEN $6::text ELSE p.provider_reference END,
  ended      = p.ended OR a.operation = 1,
  declined   = p.declined OR a.operation = 1 AND a.state = 3 AND a.code <> '` + neverSeen + `',
  conflicted = p.conflicted OR a.conflict
  FROM a WHERE p.id = a.payment RETURNING ` + paymentColumns + `, a.operation, a.key, a.posted, a.shares),
t AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT e.kind, p.key, replace(replace(e.debit, '<i>', p.instance), '<p>', p.id), replace(replace(e.credit, '<i>', p.instance), '<p>', p.id),
         p.currency, p.posted, p.instance, p.id
    FROM p JOIN (VALUES (1, 'authorize', 'provider:<i>:authorized', 'consumer:<p>'),
                        (2, 'settle',    'consumer:<p>',            'provider:<i>:authorized'),
                        (2, 'capture',   'provider:<i>:clearing',   'platform:unallocated'),
                        (3, 'void',      'consumer:<p>',            'provider:<i>:authorized'),
                        (4, 'refund',    'platform:unallocated',    'provider:<i>:clearing')) e(operation, kind, debit, credit)
      ON e.operation = p.operation WHERE p.posted > 0),
s AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT e.kind, p.key || '/' || x.merchant, e.debit, e.credit, p.currency, e.amount, p.instance, p.id
    FROM p CROSS JOIN jsonb_to_recordset(p.shares) x(merchant text, amount bigint)
    LEFT JOIN LATERAL (SELECT r.basis_points AS rate FROM tax_rule r WHERE r.market = p.market AND r.merchant IN ('', x.merchant) AND r.valid_from <= now()
      ORDER BY r.merchant DESC, r.valid_from DESC LIMIT 1) r ON true
    CROSS JOIN LATERAL (VALUES ('share', 'platform:unallocated', 'merchant:' || x.merchant || ':pending', x.amount),
      ('tax', 'merchant:' || x.merchant || ':pending', 'tax:' || p.market, round(x.amount::numeric * r.rate / (10000 + r.rate))::bigint)) e(kind, debit, credit, amount)
   WHERE p.operation = 2 AND p.posted > 0 AND e.amount > 0 ORDER BY x.merchant, e.kind)
SELECT ` + paymentColumns + `, p.posted FROM p`

// holdings are what each merchant has of a payment: base is its share less what
// was taken back of it, tax the part of that which was collected, pending what
// is not released of the rest, fee the commission that was kept, shared and
// taxed what base and tax were at first; charged what was kept when released
// was, and recovered what was taken back of that.
const holdings = `SELECT x.merchant, min(t.currency) AS currency, min(t.instance) AS instance,
    sum(CASE WHEN t.kind IN ('share', 'dispute_reshare', 'dispute_restore') THEN t.amount
             WHEN t.kind IN ('unshare', 'recover', 'dispute_unshare', 'dispute_recover') THEN -t.amount ELSE 0 END) AS base,
    sum(CASE WHEN t.credit = 'merchant:' || x.merchant || ':pending' THEN t.amount WHEN t.debit = 'merchant:' || x.merchant || ':pending' THEN -t.amount ELSE 0 END) AS pending,
    sum(CASE WHEN t.kind IN ('commission', 'dispute_commission') THEN t.amount WHEN t.kind IN ('fee_return', 'dispute_fee_return') THEN -t.amount ELSE 0 END) AS fee,
    sum(CASE WHEN t.kind IN ('tax', 'dispute_tax') THEN t.amount WHEN t.kind IN ('tax_return', 'dispute_tax_return') THEN -t.amount ELSE 0 END) AS tax,
    sum(t.amount) FILTER (WHERE t.kind = 'share') AS shared, coalesce(sum(t.amount) FILTER (WHERE t.kind = 'tax'), 0) AS taxed,
    coalesce(sum(t.amount) FILTER (WHERE t.kind = 'commission'), 0) AS charged, coalesce(sum(t.amount) FILTER (WHERE t.kind = 'release'), 0) AS released,
    sum(CASE WHEN t.kind IN ('recover', 'dispute_recover') THEN t.amount WHEN t.kind = 'dispute_restore' THEN -t.amount ELSE 0 END) AS recovered
    FROM transfer t, LATERAL (SELECT split_part(CASE WHEN t.credit LIKE 'merchant:%' THEN t.credit ELSE t.debit END, ':', 2) AS merchant) x
   WHERE t.payment = $1::text AND (t.credit LIKE 'merchant:%' OR t.debit LIKE 'merchant:%') GROUP BY 1`

// takeBack takes a refund from the merchants it is of: all there is when
// everything captured has been returned; else those the refund names; else the
// one merchant who has all of the payment. The tax of it comes back to what is
// pending; it is taken from there first, then from what is available. Tax comes
// back as the share at first bore it, so that roundings of many parts do not
// add up, and leaves no more than there is of the share; commission comes back
// as what was released bore it. The payment's row is locked.
const takeBack = `WITH m AS (` + holdings + `),
r AS (SELECT m.*, 'tax:' || p.market AS taxes, least(m.base, CASE WHEN $4::bool THEN m.base WHEN $5::jsonb <> '[]' THEN coalesce(n.amount, 0) WHEN m.shared = $6::int8 THEN $3::int8 ELSE 0 END) AS taken
    FROM m CROSS JOIN payment p LEFT JOIN jsonb_to_recordset($5::jsonb) n(merchant text, amount bigint) USING (merchant) WHERE p.id = $1::text),
b AS (SELECT r.*, least(r.tax, greatest(round(r.taxed * r.base / r.shared) - round(r.taxed * (r.base - r.taken) / r.shared), r.tax - (r.base - r.taken))) AS untaxed
    FROM r WHERE r.taken > 0),
c AS (SELECT b.*, least(b.taken, b.pending + b.untaxed) AS unshared, b.taken - least(b.taken, b.pending + b.untaxed) AS recovers FROM b)
INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
SELECT e.kind, $2::text || '/' || c.merchant, e.debit, e.credit, c.currency, e.amount, c.instance, $1::text
  FROM c, LATERAL (VALUES ('tax_return', c.taxes, 'merchant:' || c.merchant || ':pending', c.untaxed),
                          ('unshare', 'merchant:' || c.merchant || ':pending', 'platform:unallocated', c.unshared),
                          ('recover', 'merchant:' || c.merchant || ':available', 'platform:unallocated', c.recovers),
                          ('fee_return', 'platform:fees', 'merchant:' || c.merchant || ':available',
                           c.fee - round(c.charged * greatest(c.released - c.recovered - c.recovers, 0) / nullif(c.released, 0)))
  ) e(kind, debit, credit, amount) WHERE e.amount > 0 ORDER BY c.merchant, e.kind`

// neverSeen is the code of an attempt that certainly did not happen.
const neverSeen = "NEVER_SEEN"

// settle writes an outcome and publishes what it means. It returns nil when
// the attempt had ended before.
func (a *attempt) settle(ctx context.Context, tx *store.Tx, o *providerv1.Outcome) (*payment, error) {
	return a.settleAfter(ctx, tx, o, 0)
}

// settleNever ends an attempt that the company has never seen; nil when it was
// sent too shortly ago to be certain.
func (a *attempt) settleNever(ctx context.Context, tx *store.Tx) (*payment, error) {
	return a.settleAfter(ctx, tx, &providerv1.Outcome{Status: providerv1.Outcome_STATUS_DECLINED, Code: neverSeen}, silence)
}

func (a *attempt) settleAfter(ctx context.Context, tx *store.Tx, o *providerv1.Outcome, quiet time.Duration) (*payment, error) {
	state, amount, currency := declined, int64(0), ""
	if o.GetStatus() == providerv1.Outcome_STATUS_SUCCEEDED {
		state, amount, currency = succeeded, o.GetAmount().GetMinorUnits(), o.GetAmount().GetCurrencyCode()
	}
	p := &payment{}
	var posted int64
	err := tx.Row(ctx, settle, a.key, int16(state), amount, currency, clip(o.GetReference(), 200), clip(o.GetPaymentReference(), 200),
		clip(o.GetCode(), 100), int64(quiet.Seconds())).Scan(append(p.targets(), &posted)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if a.operation == refund && posted > 0 {
		named, err := a.shares.json()
		if err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, takeBack, p.id, a.key, posted, p.refunded+p.disputed == p.captured, named, p.captured); err != nil {
			return nil, err
		}
	}
	if e := a.event(p, state, posted, o); e != nil {
		return p, tx.Publish(e)
	}
	return p, nil
}

// event is what the world is told; nil: nothing.
func (a *attempt) event(p *payment, state attemptState, posted int64, o *providerv1.Outcome) proto.Message {
	switch {
	case a.operation == authorize && state == declined && o.GetCode() != neverSeen:
		return &paymentv1.PaymentDeclined{PaymentId: p.id, Reference: p.reference, Code: clip(o.GetCode(), 100), Instance: p.instance}
	case posted == 0 || p.conflicted && a.operation == authorize:
		return nil
	case a.operation == authorize:
		return &paymentv1.PaymentAuthorized{PaymentId: p.id, Reference: p.reference, Amount: p.money(posted), Instance: p.instance, Market: p.market}
	case a.operation == capture:
		e := &paymentv1.PaymentCaptured{PaymentId: p.id, Reference: p.reference, Amount: p.money(posted), Captured: p.money(p.captured), Instance: p.instance}
		for _, s := range a.shares {
			e.Shares = append(e.Shares, &paymentv1.MerchantShare{MerchantId: s.Merchant, MinorUnits: s.Amount})
		}
		return e
	case a.operation == void:
		return &paymentv1.PaymentVoided{PaymentId: p.id, Reference: p.reference, Amount: p.money(posted), Instance: p.instance}
	default:
		return &paymentv1.PaymentRefunded{PaymentId: p.id, Reference: p.reference, Amount: p.money(posted), Refunded: p.money(p.refunded), Instance: p.instance}
	}
}

// clip bounds a text of a provider and takes out what PostgreSQL cannot hold.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

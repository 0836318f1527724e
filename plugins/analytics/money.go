package main

import (
	"context"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onAuthorized notes in which market a payment is. It comes before all else of
// its payment.
func onAuthorized(ctx context.Context, tx *store.Tx, events []event.Of[*paymentv1.PaymentAuthorized]) error {
	if _, err := change(ctx, tx); err != nil {
		return err
	}
	var ids, orders, markets []string
	for _, e := range events {
		ids, orders, markets = append(ids, e.Body.GetPaymentId()), append(orders, e.Body.GetReference()), append(markets, e.Body.GetMarket())
	}
	_, err := tx.Do(ctx, `INSERT INTO payment (id, order_id, market) SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING`,
		ids, orders, markets)
	return err
}

// What the payment had in all after a capture tells one capture from another.
// What no merchant has a share of stands under none.
const keepCaptured = `WITH u AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::date[]) u(payment, total, merchant, minor, currency, day)),
new AS (INSERT INTO money (payment, kind, total, merchant, minor)
  SELECT payment, 'captured', total, merchant, sum(minor)::bigint FROM u GROUP BY payment, total, merchant ON CONFLICT DO NOTHING RETURNING *),
whole AS (SELECT DISTINCT payment, total, currency, day FROM u)
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, captured_minor)
SELECT w.day, coalesce(p.market, ''), new.merchant, '', w.currency, sum(new.minor)::bigint
  FROM new JOIN whole w USING (payment, total) LEFT JOIN payment p ON p.id = new.payment GROUP BY 1, 2, 3, 5 ORDER BY 1, 2, 3, 5
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET captured_minor = f.captured_minor + EXCLUDED.captured_minor`

func onCaptured(ctx context.Context, tx *store.Tx, events []event.Of[*paymentv1.PaymentCaptured]) error {
	if _, err := change(ctx, tx); err != nil {
		return err
	}
	var payments, merchants, currencies, days []string
	var totals, minors []int64
	for _, e := range events {
		rest := e.Body.GetAmount().GetMinorUnits()
		add := func(merchant string, minor int64) {
			payments, totals = append(payments, e.Body.GetPaymentId()), append(totals, e.Body.GetCaptured().GetMinorUnits())
			merchants, minors = append(merchants, merchant), append(minors, minor)
			currencies, days = append(currencies, e.Body.GetAmount().GetCurrencyCode()), append(days, day(e.At))
		}
		for _, s := range e.Body.GetShares() {
			add(s.GetMerchantId(), s.GetMinorUnits())
			rest -= s.GetMinorUnits()
		}
		if rest != 0 {
			add("", rest)
		}
	}
	_, err := tx.Do(ctx, keepCaptured, payments, totals, merchants, minors, currencies, days)
	return err
}

// A refund is its merchant's when the payment has one merchant only. When all
// that was captured is given back, each merchant has given its own: what stood
// under nobody is divided then. In between it stands under nobody.
const keepRefunded = `WITH held AS (SELECT merchant, sum(minor) FILTER (WHERE kind = 'captured') AS captured, sum(minor) FILTER (WHERE kind = 'refunded') AS refunded
    FROM money WHERE payment = $1 GROUP BY merchant),
known AS (SELECT count(*) FILTER (WHERE captured IS NOT NULL) AS merchants, coalesce(sum(captured), 0) AS captured FROM held),
shares AS (
  SELECT h.merchant, CASE WHEN k.merchants = 1 AND h.captured IS NOT NULL THEN $3::bigint ELSE coalesce(h.captured, 0) - coalesce(h.refunded, 0) END AS minor
    FROM held h, known k WHERE k.captured = $2::bigint OR k.merchants = 1 AND h.captured IS NOT NULL
  UNION ALL SELECT '', $3::bigint FROM known k WHERE k.captured <> $2::bigint AND k.merchants <> 1),
new AS (INSERT INTO money (payment, kind, total, merchant, minor)
  SELECT $1, 'refunded', $2::bigint, merchant, minor FROM shares s
   WHERE minor <> 0 AND NOT EXISTS (SELECT FROM money m WHERE m.payment = $1 AND m.kind = 'refunded' AND m.total >= $2::bigint) RETURNING *)
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, refunded_minor)
SELECT $4::date, coalesce((SELECT market FROM payment WHERE id = $1), ''), merchant, '', $5::text, minor FROM new ORDER BY merchant
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET refunded_minor = f.refunded_minor + EXCLUDED.refunded_minor`

// onRefunded attributes one refund after the other: each needs to know of
// those before it.
func onRefunded(ctx context.Context, tx *store.Tx, e event.Of[*paymentv1.PaymentRefunded]) error {
	if _, err := change(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Do(ctx, keepRefunded, e.Body.GetPaymentId(), e.Body.GetRefunded().GetMinorUnits(), e.Body.GetAmount().GetMinorUnits(),
		day(e.At), e.Body.GetAmount().GetCurrencyCode())
	return err
}

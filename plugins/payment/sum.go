package main

import (
	"context"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// sumLedger sums what moved, from the ledger and from the payments.
const sumLedger = `WITH l AS (SELECT instance, currency,
  coalesce(sum(amount) FILTER (WHERE kind = 'authorize'), 0)::bigint AS authorized, coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0)::bigint AS captured,
  coalesce(sum(amount) FILTER (WHERE kind = 'void'), 0)::bigint AS voided, coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded,
  coalesce(sum(CASE kind WHEN 'dispute' THEN amount WHEN 'dispute_won' THEN -amount END), 0)::bigint AS disputed
  FROM transfer GROUP BY 1, 2),
n AS (SELECT instance, currency, count(*) AS payments FROM payment WHERE currency <> '' GROUP BY 1, 2)
SELECT instance, currency, coalesce(l.authorized, 0), coalesce(l.captured, 0), coalesce(l.voided, 0), coalesce(l.refunded, 0), coalesce(l.disputed, 0), n.payments
  FROM n LEFT JOIN l USING (instance, currency) ORDER BY 1, 2`

// checkLedger replays the ledger payment by payment and compares it with the
// amounts that are kept: it answers how many payments disagree, and how many
// attempts and payouts are open.
const checkLedger = `WITH l AS (SELECT payment, min(currency) AS currency, count(DISTINCT (currency, instance)) AS kinds,
  coalesce(sum(amount) FILTER (WHERE kind = 'authorize'), 0) AS authorized, coalesce(sum(amount) FILTER (WHERE kind = 'settle'), 0) AS settled,
  coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,     coalesce(sum(amount) FILTER (WHERE kind = 'void'), 0) AS voided,
  coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunded,      coalesce(sum(amount) FILTER (WHERE kind = 'share'), 0) AS shared,
  coalesce(sum(CASE kind WHEN 'dispute' THEN amount WHEN 'dispute_won' THEN -amount END), 0) AS disputed,
  coalesce(sum(CASE WHEN kind IN ('unshare', 'recover', 'dispute_unshare', 'dispute_recover') THEN amount
                    WHEN kind IN ('dispute_reshare', 'dispute_restore') THEN -amount END), 0) AS unshared,
  coalesce(sum(CASE WHEN kind IN ('tax', 'dispute_tax') THEN amount WHEN kind IN ('tax_return', 'dispute_tax_return') THEN -amount END), 0) AS taxed,
  sum(CASE WHEN credit = 'consumer:' || payment THEN amount WHEN debit = 'consumer:' || payment THEN -amount ELSE 0 END) AS held
  FROM transfer WHERE kind NOT IN ('payout', 'payout_paid', 'payout_back', 'payout_owed', 'dispute_cost', 'dispute_cost_back', 'dispute_charge',
    'tax_remitted', 'reserve_release', 'reserve_cover') GROUP BY payment),
k AS (SELECT account, currency, instance, sum(amount) AS amount FROM (
    SELECT credit AS account, currency, instance, amount FROM transfer WHERE is_kept(credit)
    UNION ALL SELECT debit, currency, instance, -amount FROM transfer WHERE is_kept(debit)) x GROUP BY 1, 2, 3),
h AS (SELECT 'merchant:' || merchant || ':reserve' AS account, currency, instance, sum(kept) AS kept FROM reserve_hold GROUP BY 1, 2, 3)
SELECT (SELECT count(*) FROM payment p FULL JOIN l ON l.payment = p.id WHERE p.id IS NULL
    OR l.payment IS NULL AND p.authorized + p.captured + p.voided + p.refunded + p.disputed <> 0
    OR l.payment IS NOT NULL AND ((l.currency, l.kinds, l.authorized, l.captured, l.settled, l.voided, l.refunded, l.disputed, l.held)
         <> (p.currency, 1, p.authorized, p.captured, p.captured, p.voided, p.refunded, p.disputed, p.authorized - p.captured - p.voided)
       OR l.unshared > l.shared OR l.shared > l.captured OR l.taxed < 0 OR l.taxed > l.shared - l.unshared))
  + (SELECT count(*) FROM k FULL JOIN balance b USING (account, currency, instance) WHERE k.amount IS DISTINCT FROM b.amount)
  + (SELECT count(*) FROM h FULL JOIN (SELECT * FROM balance WHERE account LIKE 'merchant:%:reserve') b USING (account, currency, instance)
      WHERE h.kept IS DISTINCT FROM b.amount),
  (SELECT count(*) FROM attempt WHERE state IN (1, 4, 5)) + (SELECT count(*) FROM payout WHERE state = 1)`

// trialBalance sums the accounts by kind.
const trialBalance = `SELECT CASE split_part(account, ':', 1) WHEN 'platform' THEN account WHEN 'tax' THEN 'tax' WHEN 'consumer' THEN 'consumer'
    ELSE split_part(account, ':', 1) || ':' || split_part(account, ':', 3) END, currency, instance, sum(amount)::bigint
  FROM (SELECT credit AS account, currency, instance, amount FROM transfer UNION ALL SELECT debit, currency, instance, -amount FROM transfer) t
 GROUP BY 1, 2, 3 ORDER BY 2, 3, 1`

// SumPayments sums the ledger and checks that it balances.
func (s *service) SumPayments(ctx context.Context, _ *paymentv1.SumPaymentsRequest) (*paymentv1.SumPaymentsResponse, error) {
	res := &paymentv1.SumPaymentsResponse{}
	rows, err := s.db.Rows(ctx, sumLedger)
	if err := each(rows, err, func() error {
		sum := &paymentv1.PaymentSum{}
		res.Sums = append(res.Sums, sum)
		return rows.Scan(&sum.Instance, &sum.CurrencyCode, &sum.AuthorizedMinor, &sum.CapturedMinor, &sum.VoidedMinor, &sum.RefundedMinor, &sum.DisputedMinor, &sum.Payments)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	accounts, err := s.db.Rows(ctx, trialBalance)
	if err := each(accounts, err, func() error {
		sum := &paymentv1.AccountSum{}
		res.Accounts = append(res.Accounts, sum)
		return accounts.Scan(&sum.Account, &sum.CurrencyCode, &sum.Instance, &sum.MinorUnits)
	}); err != nil {
		return nil, store.Wrap(err)
	}
	var wrong int64
	if err := s.db.Row(ctx, checkLedger).Scan(&wrong, &res.Open); err != nil {
		return nil, store.Wrap(err)
	}
	res.Balanced = wrong == 0
	return res, nil
}

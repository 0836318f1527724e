package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// listed is how many differences an answer names.
	listed = 100
	// maxReport bounds how many operations one reconciliation remembers: eight
	// bytes and a map's overhead each.
	maxReport = 5_000_000
)

// told are the words for an operation's end: "capture succeeded 12.99 EUR".
func told(op operation, o *providerv1.Outcome) string {
	return words(op, strings.ToLower(strings.TrimPrefix(o.GetStatus().String(), "STATUS_")), o.GetAmount().GetMinorUnits(), o.GetAmount().GetCurrencyCode())
}

// told are the words for what is known of an attempt.
func (a *attempt) told() string {
	return words(a.operation, strings.ToLower(strings.TrimPrefix(a.state.String(), "STATE_")), a.processed, a.processedCurrency)
}

func words(op operation, state string, minor int64, currency string) string {
	out := strings.ToLower(strings.TrimPrefix(op.String(), "OPERATION_")) + " " + state
	if state == "succeeded" {
		out += " " + money.Money{Currency: currency, Minor: minor}.String()
	}
	return clip(out, 200)
}

// agrees tells whether an outcome is what is known of an attempt.
func (a *attempt) agrees(o *providerv1.Outcome) bool {
	return a.told() == told(operation(o.GetOperation()), o)
}

// comparison collects what ledger and provider tell differently.
type comparison struct {
	seen map[uint64]struct{}
	seed maphash.Seed
	res  *paymentv1.ReconcilePaymentsResponse
}

func (c *comparison) differ(key, ours, theirs string) {
	c.res.Total++
	if len(c.res.Differences) < listed {
		c.res.Differences = append(c.res.Differences, &paymentv1.Difference{Key: clip(key, 200), Ours: ours, Theirs: theirs})
	}
}

// ReconcilePayments compares attempts with a provider's own report, key by
// key. What was sent since the report began is left for the next one.
func (s *service) ReconcilePayments(ctx context.Context, req *paymentv1.ReconcilePaymentsRequest) (*paymentv1.ReconcilePaymentsResponse, error) {
	var began time.Time
	if err := s.db.Row(ctx, `SELECT now()`).Scan(&began); err != nil {
		return nil, store.Wrap(err)
	}
	c := &comparison{seen: make(map[uint64]struct{}), seed: maphash.MakeSeed(), res: &paymentv1.ReconcilePaymentsResponse{}}
	stream, err := s.providers.client.Report(host.ToInstance(ctx, req.GetInstance()), &providerv1.ReportRequest{})
	if err != nil {
		return nil, host.Relay(err)
	}
	for {
		page, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, host.Relay(err)
		}
		if err := s.compare(ctx, c, req.GetInstance(), began, page.GetOutcomes()); err != nil {
			return nil, err
		}
	}
	return c.res, s.missing(ctx, c, req.GetInstance(), began)
}

// compare looks at one page of a report.
func (s *service) compare(ctx context.Context, c *comparison, instance string, began time.Time, page []*providerv1.Outcome) error {
	if len(page) > 1000 || len(c.seen) > maxReport {
		return fault.New(connect.CodeResourceExhausted, "REPORT_TOO_LARGE", "the provider's report is larger than can be compared at once")
	}
	keys := make([]string, len(page))
	for i, o := range page {
		keys[i] = clip(o.GetKey(), 200)
	}
	ours, err := attempts(s.db.Rows(ctx, `SELECT `+attemptColumns+` FROM attempt a JOIN payment p ON p.id = a.payment
		WHERE a.instance = $1 AND a.key = ANY ($2)`, instance, keys))
	if err != nil {
		return store.Wrap(err)
	}
	byKey := make(map[string]*attempt, len(ours))
	for _, a := range ours {
		byKey[a.key] = a
	}
	payouts, err := s.payoutsTold(ctx, instance, keys)
	if err != nil {
		return store.Wrap(err)
	}
	for i, o := range page {
		h := maphash.String(c.seed, keys[i])
		_, twice := c.seen[h]
		c.seen[h] = struct{}{}
		c.res.Compared++
		a, theirs := byKey[keys[i]], told(operation(o.GetOperation()), o)
		switch {
		case o.GetOperation() == providerv1.Operation_OPERATION_PAYOUT && payouts[keys[i]] != "" && !twice:
			if ours := payouts[keys[i]]; ours != theirs && ours != underWay {
				c.differ(o.GetKey(), ours, theirs)
			}
		case a == nil:
			c.differ(o.GetKey(), "never asked", theirs)
		case twice:
			c.differ(a.key, a.told(), theirs+", told twice")
		case !a.agrees(o) && a.sentAt.Before(began):
			c.differ(a.key, a.told(), theirs)
		}
	}
	return nil
}

// missing finds what succeeded here and is not in the report.
func (s *service) missing(ctx context.Context, c *comparison, instance string, began time.Time) error {
	for after := ""; ; {
		page, err := attempts(s.db.Rows(ctx, `SELECT `+attemptColumns+` FROM attempt a JOIN payment p ON p.id = a.payment
			WHERE a.instance = $1 AND a.key > $2 AND a.state = 2 AND a.ended_at < $3 ORDER BY a.key LIMIT 1000`, instance, after, began))
		if err != nil {
			return store.Wrap(err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, a := range page {
			if _, ok := c.seen[maphash.String(c.seed, a.key)]; !ok {
				c.res.Compared++
				c.differ(a.key, a.told(), "not in the report")
			}
		}
		after = page[len(page)-1].key
	}
}

// sumLedger sums what moved, from the ledger and from the payments.
const sumLedger = `WITH l AS (SELECT instance, currency,
  coalesce(sum(amount) FILTER (WHERE kind = 'authorize'), 0)::bigint AS authorized, coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0)::bigint AS captured,
  coalesce(sum(amount) FILTER (WHERE kind = 'void'), 0)::bigint AS voided, coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded
  FROM transfer GROUP BY 1, 2),
n AS (SELECT instance, currency, count(*) AS payments FROM payment WHERE currency <> '' GROUP BY 1, 2)
SELECT instance, currency, coalesce(l.authorized, 0), coalesce(l.captured, 0), coalesce(l.voided, 0), coalesce(l.refunded, 0), n.payments
  FROM n LEFT JOIN l USING (instance, currency) ORDER BY 1, 2`

// checkLedger replays the ledger payment by payment and compares it with the
// amounts that are kept: it answers how many payments disagree, and how many
// attempts are open.
const checkLedger = `WITH l AS (SELECT payment, min(currency) AS currency, count(DISTINCT (currency, instance)) AS kinds,
  coalesce(sum(amount) FILTER (WHERE kind = 'authorize'), 0) AS authorized, coalesce(sum(amount) FILTER (WHERE kind = 'settle'), 0) AS settled,
  coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,     coalesce(sum(amount) FILTER (WHERE kind = 'void'), 0) AS voided,
  coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunded,      coalesce(sum(amount) FILTER (WHERE kind = 'share'), 0) AS shared,
  coalesce(sum(amount) FILTER (WHERE kind IN ('unshare', 'recover')), 0) AS unshared,
  sum(CASE WHEN credit = 'consumer:' || payment THEN amount WHEN debit = 'consumer:' || payment THEN -amount ELSE 0 END) AS held
  FROM transfer WHERE kind NOT IN ('payout', 'payout_paid', 'payout_back') GROUP BY payment),
k AS (SELECT account, currency, instance, sum(amount) AS amount FROM (
    SELECT credit AS account, currency, instance, amount FROM transfer WHERE credit LIKE 'merchant:%:available'
    UNION ALL SELECT debit, currency, instance, -amount FROM transfer WHERE debit LIKE 'merchant:%:available') x GROUP BY 1, 2, 3)
SELECT (SELECT count(*) FROM payment p FULL JOIN l ON l.payment = p.id WHERE p.id IS NULL
    OR l.payment IS NULL AND p.authorized + p.captured + p.voided + p.refunded <> 0
    OR l.payment IS NOT NULL AND ((l.currency, l.kinds, l.authorized, l.captured, l.settled, l.voided, l.refunded, l.held)
         <> (p.currency, 1, p.authorized, p.captured, p.captured, p.voided, p.refunded, p.authorized - p.captured - p.voided)
       OR l.unshared > l.shared OR l.shared > l.captured))
  + (SELECT count(*) FROM k FULL JOIN balance b USING (account, currency, instance) WHERE k.amount IS DISTINCT FROM b.amount),
  (SELECT count(*) FROM attempt WHERE state IN (1, 4, 5))`

// SumPayments sums the ledger and checks that it balances.
func (s *service) SumPayments(ctx context.Context, _ *paymentv1.SumPaymentsRequest) (*paymentv1.SumPaymentsResponse, error) {
	res := &paymentv1.SumPaymentsResponse{}
	rows, err := s.db.Rows(ctx, sumLedger)
	if err != nil {
		return nil, store.Wrap(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		sum := &paymentv1.PaymentSum{}
		if err := rows.Scan(&sum.Instance, &sum.CurrencyCode, &sum.AuthorizedMinor, &sum.CapturedMinor, &sum.VoidedMinor, &sum.RefundedMinor, &sum.Payments); err != nil {
			return nil, fmt.Errorf("sum of the ledger: %w", err)
		}
		res.Sums = append(res.Sums, sum)
	}
	if err := rows.Err(); err != nil {
		return nil, store.Wrap(err)
	}
	var wrong int64
	if err := s.db.Row(ctx, checkLedger).Scan(&wrong, &res.Open); err != nil {
		return nil, store.Wrap(err)
	}
	res.Balanced = wrong == 0
	return res, nil
}

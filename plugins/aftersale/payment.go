package main

import (
	"context"
	"database/sql"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// onCaptured keeps how much each payment of an order took.
func onCaptured(ctx context.Context, tx *store.Tx, e event.Of[*paymentv1.PaymentCaptured]) error {
	_, err := tx.Do(ctx, `INSERT INTO purchase_payment AS p (payment_id, order_id, captured) VALUES ($1, $2, $3)
		ON CONFLICT (payment_id) DO UPDATE SET captured = greatest(p.captured, EXCLUDED.captured)`,
		e.Body.GetPaymentId(), e.Body.GetReference(), e.Body.GetCaptured().GetMinorUnits())
	return err
}

// onRefunded keeps how much of it went back, whoever asked for it.
func onRefunded(ctx context.Context, tx *store.Tx, e event.Of[*paymentv1.PaymentRefunded]) error {
	_, err := tx.Do(ctx, `UPDATE purchase_payment SET refunded = greatest(refunded, $2) WHERE payment_id = $1`,
		e.Body.GetPaymentId(), e.Body.GetRefunded().GetMinorUnits())
	return err
}

// splitRefund says which payment gives which part of a case's refund: the
// first that paid for the order as far as it has anything left, then the next.
// What none is known to have left is asked of the first, which will say.
const splitRefund = `WITH room AS (SELECT p.payment_id, greatest(0, p.captured - p.refunded
    - coalesce((SELECT sum(r.amount) FROM refund_part r WHERE r.payment_id = p.payment_id AND NOT r.paid), 0))::bigint AS n,
    p.payment_id <> $3 AS further FROM purchase_payment p WHERE p.order_id = $2),
taken AS (SELECT payment_id, greatest(0, least(n, $4::bigint - before))::bigint AS n FROM (SELECT payment_id, n,
    coalesce(sum(n) OVER (ORDER BY further, payment_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS before FROM room) r),
part AS (SELECT payment_id, n FROM taken UNION ALL SELECT $3, $4::bigint - (SELECT coalesce(sum(n), 0) FROM taken)::bigint)
INSERT INTO refund_part (case_id, payment_id, operation, amount)
SELECT $1, payment_id, CASE WHEN payment_id = $3 THEN $5 ELSE $5 || '/' || payment_id END, sum(n)::bigint FROM part GROUP BY payment_id HAVING sum(n) > 0`

// split writes the parts of a planned refund.
func (c *caseFile) split(ctx context.Context, tx *store.Tx, p *purchase) error {
	_, err := tx.Do(ctx, splitRefund, c.ID, c.OrderID, p.PaymentID, c.Refund, c.RefundID)
	return err
}

// pay asks each payment for its part, under an operation of its own: repeated,
// it pays once. paid are the payments that gave theirs; a refusal is for good,
// anything else is tried again.
func (s *service) pay(ctx context.Context, c *caseFile) (paid []string, refusal, err error) {
	if c.RefundState != refundPlanned {
		return nil, nil, nil
	}
	type part struct {
		payment, operation string
		amount             int64
	}
	var parts []part
	rows, err := s.db.Rows(ctx, `SELECT payment_id, operation, amount FROM refund_part WHERE case_id = $1 AND NOT paid ORDER BY payment_id`, c.ID)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var p part
		err := rows.Scan(&p.payment, &p.operation, &p.amount)
		parts = append(parts, p)
		return err
	}); err != nil {
		return nil, nil, store.Wrap(err)
	}
	for _, p := range parts {
		operation := p.operation
		if operation != c.RefundID {
			operation = id.Derive("rfd", p.operation)
		}
		_, err := s.payments.RefundPayment(host.InMarket(ctx, c.Market), &paymentv1.RefundPaymentRequest{
			PaymentId: p.payment, OperationId: operation, Amount: amount(c.Currency, p.amount), Reason: c.ID,
			Shares: []*paymentv1.MerchantShare{{MerchantId: c.Merchant, MinorUnits: p.amount}},
		})
		switch err = host.Relay(err); {
		case err == nil:
			paid = append(paid, p.payment)
		case store.IsRefusal(err):
			refusal = err
		default:
			return nil, nil, err
		}
	}
	return paid, refusal, nil
}

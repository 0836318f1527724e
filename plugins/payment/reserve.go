package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// PutReserveRule sets what is kept back from a day on.
func (s *service) PutReserveRule(ctx context.Context, req *paymentv1.PutReserveRuleRequest) (*paymentv1.PutReserveRuleResponse, error) {
	r := req.GetRule()
	if r.GetValidFrom().CheckValid() != nil {
		return nil, fault.Field("rule.valid_from", "is no time")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.PutReserveRuleResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO reserve_rule (merchant, market, valid_from, basis_points, days, set_by) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (merchant, market, valid_from) DO UPDATE SET basis_points = excluded.basis_points, days = excluded.days, set_by = excluded.set_by`,
			r.GetMerchantId(), r.GetMarket(), r.GetValidFrom().AsTime(), r.GetBasisPoints(), r.GetDays(), call.From(ctx).Principal.String())
		return &paymentv1.PutReserveRuleResponse{}, err
	})
}

// ListReserveRules tells every rule, the most general first.
func (s *service) ListReserveRules(ctx context.Context, _ *paymentv1.ListReserveRulesRequest) (*paymentv1.ListReserveRulesResponse, error) {
	res := &paymentv1.ListReserveRulesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT merchant, market, basis_points, days, valid_from FROM reserve_rule ORDER BY merchant, market, valid_from LIMIT 10000`)
	return res, store.Wrap(each(rows, err, func() error {
		r := &paymentv1.ReserveRule{}
		var from time.Time
		if err := rows.Scan(&r.MerchantId, &r.Market, &r.BasisPoints, &r.Days, &from); err != nil {
			return err
		}
		r.ValidFrom = timestamppb.New(from)
		res.Rules = append(res.Rules, r)
		return nil
	}))
}

const (
	// reserveBatch is how many reserves one round looks at.
	reserveBatch = 100
	// reservesDue are the reserves of which something is to be given: its time
	// is over, or the merchant owes.
	reservesDue = `SELECT merchant, currency, instance FROM reserve_hold WHERE kept > 0 AND due <= now()
UNION SELECT split_part(a.account, ':', 2), a.currency, a.instance FROM balance a
  JOIN balance r ON r.account = replace(a.account, ':available', ':reserve') AND r.currency = a.currency AND r.instance = a.instance
 WHERE a.account LIKE 'merchant:%:available' AND a.amount < 0 AND r.amount > 0
 ORDER BY 1, 2, 3 LIMIT $1`
	// lockReserve keeps another janitor away until what this one does is done.
	lockReserve = `SELECT FROM reserve_hold WHERE merchant = $1 AND currency = $2 AND instance = $3 AND kept > 0 ORDER BY payment, n FOR UPDATE`
	// endReserve pays with what is kept back what the merchant owes, the oldest
	// first, and gives back what is due of the rest. A release at the same moment
	// may make the debt less than was read: then the merchant has some of its
	// reserve early.
	endReserve = `WITH h AS (SELECT payment, n, kept, due <= now() AS due, sum(kept) OVER (ORDER BY due, payment, n) - kept AS before
  FROM reserve_hold WHERE merchant = $1 AND currency = $2 AND instance = $3 AND kept > 0),
b AS (SELECT greatest(-amount, 0) AS owed FROM balance WHERE account = 'merchant:' || $1 || ':available' AND currency = $2 AND instance = $3),
p AS (SELECT h.*, least(kept, greatest(0, b.owed - before))::bigint AS covers FROM h, b),
q AS (SELECT p.*, CASE WHEN due THEN kept - covers ELSE 0 END AS frees FROM p),
u AS (UPDATE reserve_hold r SET kept = r.kept - q.covers - q.frees FROM q WHERE r.payment = q.payment AND r.merchant = $1 AND r.n = q.n AND q.covers + q.frees > 0
  RETURNING q.covers, q.frees)
INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
SELECT e.kind, $4, 'merchant:' || $1 || ':reserve', 'merchant:' || $1 || ':available', $2, e.amount, $3, $4
  FROM (SELECT sum(covers)::bigint AS covers, sum(frees)::bigint AS frees FROM u) s, LATERAL (VALUES ('reserve_cover', covers), ('reserve_release', frees)) e(kind, amount)
 WHERE e.amount > 0`
)

// tendReserves pays what merchants owe with what is kept back of their money,
// and gives them back what was kept for long enough.
func (s *service) tendReserves(ctx context.Context) error {
	type reserve struct{ merchant, currency, instance string }
	var due []reserve
	rows, err := s.db.Rows(ctx, reservesDue, reserveBatch)
	if err := each(rows, err, func() error {
		var r reserve
		err := rows.Scan(&r.merchant, &r.currency, &r.instance)
		due = append(due, r)
		return err
	}); err != nil {
		return store.Wrap(err)
	}
	var failed error
	for _, r := range due {
		failed = errors.Join(failed, store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.Do(ctx, lockReserve, r.merchant, r.currency, r.instance); err != nil {
				return err
			}
			_, err := tx.Do(ctx, endReserve, r.merchant, r.currency, r.instance, id.New("rsv"))
			return err
		})))
	}
	return failed
}

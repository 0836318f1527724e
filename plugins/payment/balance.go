package main

import (
	"context"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// whose is the merchant that a request may see: a member's own, for staff the
// one it names.
func whose(ctx context.Context, named string) (string, error) {
	p := call.From(ctx).Principal
	if p.Kind != call.Merchant {
		return named, nil
	}
	if named != "" && named != p.Merchant {
		return "", fault.Field("merchant_id", "is another merchant's")
	}
	return p.Merchant, nil
}

// balances sums the accounts of one merchant, or of all, by currency and
// instance.
const balances = `SELECT split_part(account, ':', 2), currency, instance,
  coalesce(sum(amount) FILTER (WHERE place = 'pending'), 0)::bigint, coalesce(sum(amount) FILTER (WHERE place = 'available'), 0)::bigint,
  coalesce(sum(amount) FILTER (WHERE place = 'payout'), 0)::bigint, coalesce(-sum(amount) FILTER (WHERE kind IN ('payout_paid', 'payout_owed')), 0)::bigint,
  coalesce(sum(amount) FILTER (WHERE place = 'reserve'), 0)::bigint
 FROM (SELECT t.*, split_part(account, ':', 3) AS place FROM (
   SELECT credit AS account, currency, instance, kind, amount FROM transfer
    WHERE credit LIKE 'merchant:%' AND ($1 = '' OR credit = ANY ($2))
   UNION ALL SELECT debit, currency, instance, kind, -amount FROM transfer
    WHERE debit LIKE 'merchant:%' AND ($1 = '' OR debit = ANY ($2))) t) x
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`

// accountsOf are a merchant's.
func accountsOf(merchant string) []string {
	return []string{pendingOf(merchant), availableOf(merchant), reserveOf(merchant), "merchant:" + merchant + ":payout"}
}

// ListBalances tells what merchants have.
func (s *service) ListBalances(ctx context.Context, req *paymentv1.ListBalancesRequest) (*paymentv1.ListBalancesResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	res := &paymentv1.ListBalancesResponse{}
	rows, err := s.db.Rows(ctx, balances, merchant, accountsOf(merchant))
	return res, store.Wrap(each(rows, err, func() error {
		b := &paymentv1.Balance{}
		res.Balances = append(res.Balances, b)
		return rows.Scan(&b.MerchantId, &b.CurrencyCode, &b.Instance, &b.PendingMinor, &b.AvailableMinor, &b.InPayoutMinor, &b.PaidOutMinor, &b.ReservedMinor)
	}))
}

const (
	// maxStatement is the longest statement that is told at once.
	maxStatement = 10_000
	// statement reads the postings of a merchant up to the end of a period:
	// what came before as one sum, then the lines.
	statement = `WITH t AS (SELECT t.id, t.at, t.kind, t.payment, t.instance,
    CASE WHEN t.credit LIKE $1 THEN t.amount ELSE 0 END - CASE WHEN t.debit LIKE $1 THEN t.amount ELSE 0 END AS effect,
    CASE WHEN t.credit = $2 THEN t.amount WHEN t.debit = $2 THEN -t.amount ELSE 0 END AS available
    FROM transfer t WHERE (t.credit = ANY ($3) OR t.debit = ANY ($3)) AND t.currency = $4 AND t.at < $6)
SELECT NULL::timestamptz, '', '', '', coalesce(sum(effect), 0)::bigint, 0::bigint, '' FROM t WHERE at < $5
UNION ALL (SELECT t.at, t.kind, t.payment, coalesce(p.reference, ''), t.effect, t.available, t.instance
  FROM t LEFT JOIN payment p ON p.id = t.payment WHERE t.at >= $5 ORDER BY t.at, t.id LIMIT 10001)`
)

// GetStatement tells a merchant's postings of a period.
func (s *service) GetStatement(ctx context.Context, req *paymentv1.GetStatementRequest) (*paymentv1.GetStatementResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	from, until := req.GetFrom(), req.GetUntil()
	switch {
	case err != nil:
		return nil, err
	case merchant == "":
		return nil, fault.Field("merchant_id", "is needed")
	case from.CheckValid() != nil || until.CheckValid() != nil || !from.AsTime().Before(until.AsTime()):
		return nil, fault.Field("until", "must be after from")
	}
	res := &paymentv1.GetStatementResponse{}
	own := "merchant:" + merchant + ":"
	rows, err := s.db.Rows(ctx, statement, own+"%", availableOf(merchant), accountsOf(merchant), req.GetCurrencyCode(), from.AsTime(), until.AsTime())
	if err := each(rows, err, func() error {
		l := &paymentv1.StatementLine{}
		var at *time.Time
		if err := rows.Scan(&at, &l.Kind, &l.SubjectId, &l.Reference, &l.MinorUnits, &l.AvailableMinor, &l.Instance); err != nil {
			return err
		}
		res.ClosingMinor += l.MinorUnits
		if at == nil {
			res.OpeningMinor = l.MinorUnits
			return nil
		}
		l.At = timestamppb.New(*at)
		res.Lines = append(res.Lines, l)
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetLines()) > maxStatement {
		return nil, fault.New(connect.CodeResourceExhausted, "STATEMENT_TOO_LARGE", "the period has more lines than are told at once; take a shorter one")
	}
	return res, nil
}

// PutCommissionRule sets what the marketplace keeps from a day on.
func (s *service) PutCommissionRule(ctx context.Context, req *paymentv1.PutCommissionRuleRequest) (*paymentv1.PutCommissionRuleResponse, error) {
	r := req.GetRule()
	if r.GetValidFrom().CheckValid() != nil {
		return nil, fault.Field("rule.valid_from", "is no time")
	}
	var fixed money.Money
	if r.GetFixed() != nil {
		var err error
		if fixed, err = positive("rule.fixed", r.GetFixed()); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.PutCommissionRuleResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO commission_rule (merchant, market, currency, valid_from, basis_points, fixed, set_by) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (merchant, market, currency, valid_from) DO UPDATE SET basis_points = excluded.basis_points, fixed = excluded.fixed, set_by = excluded.set_by`,
			r.GetMerchantId(), r.GetMarket(), fixed.Currency, r.GetValidFrom().AsTime(), r.GetBasisPoints(), fixed.Minor, call.From(ctx).Principal.String())
		return &paymentv1.PutCommissionRuleResponse{}, err
	})
}

// ListCommissionRules tells every rule, the most general first.
func (s *service) ListCommissionRules(ctx context.Context, _ *paymentv1.ListCommissionRulesRequest) (*paymentv1.ListCommissionRulesResponse, error) {
	res := &paymentv1.ListCommissionRulesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT merchant, market, currency, valid_from, basis_points, fixed FROM commission_rule ORDER BY 1, 2, 3, 4 LIMIT 10000`)
	return res, store.Wrap(each(rows, err, func() error {
		r := &paymentv1.CommissionRule{}
		var currency string
		var from time.Time
		var fixed int64
		if err := rows.Scan(&r.MerchantId, &r.Market, &currency, &from, &r.BasisPoints, &fixed); err != nil {
			return err
		}
		r.ValidFrom = timestamppb.New(from)
		if fixed > 0 {
			r.Fixed = &typev1.Money{CurrencyCode: currency, MinorUnits: fixed}
		}
		res.Rules = append(res.Rules, r)
		return nil
	}))
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// PutTaxRule sets what is collected from a day on.
func (s *service) PutTaxRule(ctx context.Context, req *paymentv1.PutTaxRuleRequest) (*paymentv1.PutTaxRuleResponse, error) {
	r := req.GetRule()
	switch {
	case r.GetValidFrom().CheckValid() != nil:
		return nil, fault.Field("rule.valid_from", "is no time")
	case r.GetMarket() == "":
		return nil, fault.Field("rule.market", "is needed")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.PutTaxRuleResponse, error) {
		_, err := tx.Do(ctx, `INSERT INTO tax_rule (merchant, market, valid_from, basis_points, source, set_by) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (market, merchant, valid_from) DO UPDATE SET basis_points = excluded.basis_points, source = excluded.source, set_by = excluded.set_by`,
			r.GetMerchantId(), r.GetMarket(), r.GetValidFrom().AsTime(), r.GetBasisPoints(), r.GetSource(), call.From(ctx).Principal.String())
		return &paymentv1.PutTaxRuleResponse{}, err
	})
}

// ListTaxRules tells every rule, the most general first.
func (s *service) ListTaxRules(ctx context.Context, _ *paymentv1.ListTaxRulesRequest) (*paymentv1.ListTaxRulesResponse, error) {
	res := &paymentv1.ListTaxRulesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT merchant, market, basis_points, valid_from, source FROM tax_rule ORDER BY market, merchant, valid_from LIMIT 10000`)
	return res, store.Wrap(each(rows, err, func() error {
		r := &paymentv1.TaxRule{}
		var from time.Time
		if err := rows.Scan(&r.MerchantId, &r.Market, &r.BasisPoints, &from, &r.Source); err != nil {
			return err
		}
		r.ValidFrom = timestamppb.New(from)
		res.Rules = append(res.Rules, r)
		return nil
	}))
}

// taxes sums the tax accounts: what was before a period, and what it brought.
const taxes = `SELECT substr(account, 5), currency, instance, coalesce(sum(amount) FILTER (WHERE at < $2), 0)::bigint,
  coalesce(sum(amount) FILTER (WHERE at >= $2 AND kind = 'tax'), 0)::bigint,
  coalesce(-sum(amount) FILTER (WHERE at >= $2 AND kind IN ('tax_return', 'dispute_tax_return', 'dispute_tax')), 0)::bigint,
  coalesce(-sum(amount) FILTER (WHERE at >= $2 AND kind = 'tax_remitted'), 0)::bigint, sum(amount)::bigint
 FROM (SELECT credit AS account, currency, instance, kind, at, amount FROM transfer WHERE credit LIKE 'tax:%' AND ($1 = '' OR credit = 'tax:' || $1) AND at < $3
   UNION ALL SELECT debit, currency, instance, kind, at, -amount FROM transfer WHERE debit LIKE 'tax:%' AND ($1 = '' OR debit = 'tax:' || $1) AND at < $3) t
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`

// SumTaxes sums the tax accounts over a period.
func (s *service) SumTaxes(ctx context.Context, req *paymentv1.SumTaxesRequest) (*paymentv1.SumTaxesResponse, error) {
	from, until := req.GetFrom(), req.GetUntil()
	if from.CheckValid() != nil || until.CheckValid() != nil || !from.AsTime().Before(until.AsTime()) {
		return nil, fault.Field("until", "must be after from")
	}
	res := &paymentv1.SumTaxesResponse{}
	rows, err := s.db.Rows(ctx, taxes, req.GetMarket(), from.AsTime(), until.AsTime())
	return res, store.Wrap(each(rows, err, func() error {
		t := &paymentv1.TaxSum{}
		res.Sums = append(res.Sums, t)
		return rows.Scan(&t.Market, &t.CurrencyCode, &t.Instance, &t.OpeningMinor, &t.CollectedMinor, &t.ReturnedMinor, &t.RemittedMinor, &t.ClosingMinor)
	}))
}

// remit writes a remittance of what a tax account has. Of two at once one
// waits for the other; a refund does not wait, and what it returns afterwards
// may bring the account below zero.
const (
	lockTaxes = `SELECT pg_advisory_xact_lock(hashtextextended('tax:' || $1, 0))`
	remit     = `WITH stands AS (SELECT coalesce(sum(amount), 0)::bigint AS n FROM (
    SELECT amount FROM transfer WHERE credit = 'tax:' || $2 AND credit LIKE 'tax:%' AND currency = $4 AND instance = $3
    UNION ALL SELECT -amount FROM transfer WHERE debit = 'tax:' || $2 AND debit LIKE 'tax:%' AND currency = $4 AND instance = $3) t),
made AS (INSERT INTO tax_remittance (id, market, instance, currency, amount, reference, left_over, made_by)
  SELECT $1, $2, $3, $4, $5::bigint, $6, n - $5::bigint, $7 FROM stands WHERE n >= $5::bigint RETURNING *),
posted AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT 'tax_remitted', id, 'tax:' || market, 'platform:bank', currency, amount, instance, id FROM made)
SELECT n, EXISTS (SELECT FROM made) FROM stands`
)

func otherRemittance() error {
	return fault.New(connect.CodeAlreadyExists, "REMITTANCE_DIFFERS", "this remittance was recorded with another request; take another id")
}

// RecordTaxRemittance writes that the marketplace paid an authority.
func (s *service) RecordTaxRemittance(ctx context.Context, req *paymentv1.RecordTaxRemittanceRequest) (*paymentv1.RecordTaxRemittanceResponse, error) {
	amount, err := positive("amount", req.GetAmount())
	switch {
	case err != nil:
		return nil, err
	case req.GetMarket() == "":
		return nil, fault.Field("market", "is needed")
	}
	left := amount
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.RecordTaxRemittanceResponse, error) {
		if _, err := tx.Do(ctx, lockTaxes, req.GetMarket()); err != nil {
			return nil, err
		}
		var same bool
		err := tx.Row(ctx, `SELECT (market, instance, currency, amount, reference) = ($2, $3, $4, $5::bigint, $6), left_over FROM tax_remittance WHERE id = $1`,
			req.GetRemittanceId(), req.GetMarket(), req.GetInstance(), amount.Currency, amount.Minor, req.GetReference()).Scan(&same, &left.Minor)
		switch {
		case err == nil && same:
			return &paymentv1.RecordTaxRemittanceResponse{Left: left.Proto()}, nil
		case err == nil:
			return nil, otherRemittance()
		case !errors.Is(err, sql.ErrNoRows):
			return nil, err
		}
		var stands int64
		var made bool
		if err := tx.Row(ctx, remit, req.GetRemittanceId(), req.GetMarket(), req.GetInstance(), amount.Currency, amount.Minor, req.GetReference(),
			call.From(ctx).Principal.String()).Scan(&stands, &made); store.SQLState(err) == uniqueViolation {
			// Of this market it would have been found: it is another's, of this moment.
			return nil, otherRemittance()
		} else if err != nil {
			return nil, err
		}
		if !made {
			return nil, fault.New(connect.CodeFailedPrecondition, "TAX_EXCEEDS_BALANCE", "this is more than the tax account has", "left", fmt.Sprint(stands), "currency", amount.Currency)
		}
		left.Minor = stands - amount.Minor
		return &paymentv1.RecordTaxRemittanceResponse{Left: left.Proto()}, nil
	})
}

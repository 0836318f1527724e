package main

import (
	"context"
	"database/sql"
	"errors"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// payoutSettle ends a payout in conflict, once: what was paid leaves, what
	// was not is available again, what was too much is owed. The three make
	// what the provider's account lost.
	payoutSettle = `WITH settled AS (UPDATE payout SET state = 5, paid = $2::int8, settled_by = $3, note = $4 WHERE id = $1 AND state = 4 RETURNING *),
posted AS (INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
  SELECT e.kind, s.id, e.debit, e.credit, s.currency, e.amount, s.instance, s.id
    FROM settled s, LATERAL (SELECT 'provider:' || s.instance || ':clearing', 'merchant:' || s.merchant || ':available', 'merchant:' || s.merchant || ':payout') a(clearing, available, payout),
    LATERAL (VALUES ('payout_paid', a.payout, a.clearing, least(s.paid, s.amount)), ('payout_back', a.payout, a.available, s.amount - least(s.paid, s.amount)),
                    ('payout_owed', a.available, a.clearing, s.paid - least(s.paid, s.amount))) e(kind, debit, credit, amount) WHERE e.amount > 0)
SELECT count(*) FROM settled`
	// notPaid is the code of a payout of which a person found that nothing was
	// paid.
	notPaid = "NOT_PAID"
)

// SettlePayout ends a payout in conflict as a person found it to be.
func (s *service) SettlePayout(ctx context.Context, req *paymentv1.SettlePayoutRequest) (*paymentv1.SettlePayoutResponse, error) {
	paid := req.GetPaid().GetMinorUnits()
	if paid < 0 {
		return nil, fault.Field("paid.minor_units", "must not be less than zero")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*paymentv1.SettlePayoutResponse, error) {
		p := &payout{}
		// The row is locked: of two who settle it, one reads what the other did.
		err := p.scan(tx.Row(ctx, `SELECT `+payoutColumns+` FROM payout o WHERE o.id = $1 FOR UPDATE`, req.GetPayoutId()))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, fault.New(connect.CodeNotFound, "PAYOUT_UNKNOWN", "there is no such payout")
		case err != nil:
			return nil, err
		case req.GetPaid().GetCurrencyCode() != p.currency:
			return nil, fault.Field("paid.currency_code", "must be the payout's")
		case p.state == payoutSettled && p.paid.Int64 == paid && p.note == req.GetNote():
			return &paymentv1.SettlePayoutResponse{Payout: p.proto()}, nil
		case p.state == payoutSettled:
			return nil, fault.New(connect.CodeAlreadyExists, "PAYOUT_DIFFERS", "this payout was settled otherwise", "by", p.settledBy)
		case p.state != payoutConflicted:
			return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_NOT_CONFLICTED", "only a payout in conflict is settled")
		}
		p.state, p.paid, p.note, p.settledBy = payoutSettled, sql.NullInt64{Int64: paid, Valid: true}, req.GetNote(), call.From(ctx).Principal.String()
		var n int
		if err := tx.Row(ctx, payoutSettle, p.id, paid, p.settledBy, p.note).Scan(&n); err != nil {
			return nil, err
		}
		var news proto.Message = &paymentv1.PayoutPaid{
			MerchantId: p.merchant, PayoutId: p.id, Amount: &typev1.Money{CurrencyCode: p.currency, MinorUnits: paid}, Instance: p.instance,
		}
		if paid == 0 {
			news = &paymentv1.PayoutFailed{MerchantId: p.merchant, PayoutId: p.id, Amount: p.money(), Instance: p.instance, Code: notPaid}
		}
		return &paymentv1.SettlePayoutResponse{Payout: p.proto()}, tx.Publish(news)
	})
}

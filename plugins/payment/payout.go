package main

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// operationPayout is the provider's word for it; a payment has none.
const operationPayout = operation(providerv1.Operation_OPERATION_PAYOUT)

// underWay is a payout of which it is not known what became.
const underWay = "payout under way"

const (
	// payoutIntent writes a payout and takes its money from what is available.
	// The ledger's trigger refuses more than there is.
	payoutIntent = `WITH made AS (INSERT INTO payout (id, merchant, instance, currency, amount) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING *)
INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
SELECT 'payout', id, 'merchant:' || merchant || ':available', 'merchant:' || merchant || ':payout', currency, amount, instance, id FROM made`
	// payoutEnd writes what became of it, once.
	payoutEnd = `WITH ended AS (UPDATE payout SET state = $2::int2, code = $3::text, provider_reference = $4::text WHERE id = $1 AND state = 1 RETURNING *)
INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment)
SELECT CASE state WHEN 2 THEN 'payout_paid' ELSE 'payout_back' END, id, 'merchant:' || merchant || ':payout',
       CASE state WHEN 2 THEN 'provider:' || instance || ':clearing' ELSE 'merchant:' || merchant || ':available' END, currency, amount, instance, id FROM ended`
	overdrawn = "PM002"
)

// RequestPayout pays a merchant: the intent is committed first, the company is
// asked under its key, and what it did is posted once.
func (s *service) RequestPayout(ctx context.Context, req *paymentv1.RequestPayoutRequest) (*paymentv1.RequestPayoutResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	if merchant == "" || strings.ContainsAny(merchant, ":/\x00") {
		return nil, fault.Field("merchant_id", "is no merchant's id")
	}
	amount, err := positive("amount", req.GetAmount())
	if err != nil {
		return nil, err
	}
	res, err := s.db.Do(ctx, payoutIntent, req.GetPayoutId(), merchant, req.GetInstance(), amount.Currency, amount.Minor)
	if store.SQLState(err) == overdrawn {
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_EXCEEDS_BALANCE", "this is more than is available")
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	made, err := res.RowsAffected()
	if err != nil {
		return nil, err
	}
	var state int16
	var same bool
	var code, reference string
	look := func() error {
		return store.Wrap(s.db.Row(ctx, `SELECT state, code, provider_reference, (merchant, instance, currency, amount) = ($2::text, $3::text, $4::text, $5::int8) FROM payout WHERE id = $1`,
			req.GetPayoutId(), merchant, req.GetInstance(), amount.Currency, amount.Minor).Scan(&state, &code, &reference, &same))
	}
	if err := look(); err != nil {
		return nil, err
	}
	if !same {
		return nil, fault.New(connect.CodeAlreadyExists, "PAYOUT_DIFFERS", "this payout was made with another request; take another id")
	}
	if state == 1 {
		if err := s.pay(ctx, req, merchant, made > 0); err != nil {
			return nil, err
		}
		if err := look(); err != nil {
			return nil, err
		}
	}
	if state == 3 {
		return nil, fault.New(connect.CodeFailedPrecondition, "PAYOUT_DECLINED", "the payment provider declined the payout", "code", code)
	}
	return &paymentv1.RequestPayoutResponse{ProviderReference: reference}, nil
}

// pay brings a payout to its end, or says that it is not known.
func (s *service) pay(ctx context.Context, req *paymentv1.RequestPayoutRequest, merchant string, fresh bool) error {
	a := &attempt{
		key: req.GetPayoutId(), id: req.GetPayoutId(), payment: merchant, instance: req.GetInstance(), operation: operationPayout,
		amount: req.GetAmount().GetMinorUnits(), currency: req.GetAmount().GetCurrencyCode(),
	}
	var o *providerv1.Outcome
	var err error
	if !fresh {
		o, err = s.providers.lookup(ctx, a)
	}
	if o == nil && err == nil {
		o, err = s.providers.send(ctx, a, "")
	}
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "outcome unknown", "payout", a.key, "instance", a.instance, "error", err)
		return outcomeUnknown(host.Relay(err), time.Second)
	case o.GetStatus() == providerv1.Outcome_STATUS_PENDING:
		return outcomeUnknown(nil, time.Second)
	case o.GetStatus() == providerv1.Outcome_STATUS_SUCCEEDED && !a.asAsked(o):
		s.log.ErrorContext(ctx, "a provider paid out another amount than was asked", "payout", a.key, "instance", a.instance)
		return fault.New(connect.CodeUnavailable, "PAYMENT_CONFLICTED", "the provider moved another amount than was asked; a person must settle it", "key", a.key)
	}
	state, told := int16(2), proto.Message(&paymentv1.PayoutPaid{MerchantId: merchant, PayoutId: a.key, Amount: req.GetAmount(), Instance: a.instance})
	if o.GetStatus() == providerv1.Outcome_STATUS_DECLINED {
		state, told = 3, &paymentv1.PayoutFailed{MerchantId: merchant, PayoutId: a.key, Amount: req.GetAmount(), Instance: a.instance, Code: clip(o.GetCode(), 100)}
	}
	return store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		res, err := tx.Do(ctx, payoutEnd, a.key, state, clip(o.GetCode(), 100), clip(o.GetReference(), 200))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // another call was first
		}
		return tx.Publish(told)
	}))
}

// payoutsTold are the words for payouts of those keys.
func (s *service) payoutsTold(ctx context.Context, instance string, keys []string) (map[string]string, error) {
	out := make(map[string]string)
	rows, err := s.db.Rows(ctx, `SELECT id, state, amount, currency FROM payout WHERE instance = $1 AND id = ANY ($2)`, instance, keys)
	return out, each(rows, err, func() error {
		var key, currency string
		var state int16
		var amount int64
		if err := rows.Scan(&key, &state, &amount, &currency); err != nil {
			return err
		}
		status := map[int16]providerv1.Outcome_Status{2: providerv1.Outcome_STATUS_SUCCEEDED, 3: providerv1.Outcome_STATUS_DECLINED}[state]
		out[key] = told(operationPayout, &providerv1.Outcome{Status: status, Amount: &typev1.Money{CurrencyCode: currency, MinorUnits: amount}})
		if state == 1 {
			out[key] = underWay
		}
		return nil
	})
}

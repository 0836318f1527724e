package main

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

const metaMerchant = "entrepot_merchant"

// Payout implements the contract: a transfer to the merchant's connected
// account, from where Stripe pays it to the merchant's bank by that account's
// own schedule.
func (a *adapter) Payout(ctx context.Context, req *providerv1.PayoutRequest) (*providerv1.PayoutResponse, error) {
	to := a.accounts[req.GetMerchantId()]
	if to == "" {
		return nil, fault.New(connect.CodeFailedPrecondition, "MERCHANT_ACCOUNT_UNKNOWN", "the merchant has no connected account here", "merchant", req.GetMerchantId())
	}
	r, amount, err := asked(payout, req.GetAmount(), req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, req.GetKey(), r, func(ctx context.Context, key string, r record) (*end, error) {
		p := &stripe.TransferCreateParams{
			Amount: &amount, Currency: stripe.String(strings.ToLower(r.Currency)), Destination: &to, TransferGroup: a.group(key),
			Metadata: map[string]string{metaKey: key, metaInstance: a.in.Name, metaMerchant: req.GetMerchantId()},
		}
		p.IdempotencyKey = a.idempotency(key, "transfer", r)
		tr, err := a.stripe.V1Transfers.Create(ctx, p)
		if err != nil {
			return nil, err
		}
		return transferred(tr)
	})
	return &providerv1.PayoutResponse{Outcome: out}, err
}

// group is by what a transfer is found again: Stripe lists transfers by it.
func (a *adapter) group(key string) *string {
	return stripe.String("entrepot-" + fingerprint(a.in.Name, key))
}

func transferred(tr *stripe.Transfer) (*end, error) {
	return counted(&end{Status: succeeded, Reference: tr.ID, At: tr.Created}, tr.Amount, tr.Currency)
}

func (a *adapter) findTransfer(ctx context.Context, key string, _ record) (*end, error) {
	p := &stripe.TransferListParams{TransferGroup: a.group(key)}
	p.Limit = stripe.Int64(page)
	for tr, err := range a.stripe.V1Transfers.List(ctx, p).All(ctx) {
		if err != nil {
			return nil, err
		}
		if tr.Metadata[metaKey] == key {
			return transferred(tr)
		}
	}
	return nil, nil
}

package main

import (
	"context"
	"testing"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/paymenttest"
)

// The kit of the contract, which the other companies pass too.
func TestStripeIsAPaymentCompany(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		card   string
		config map[string]any
	}{"one capture": {"pm_card_visa", nil}, "several captures": {"pm_card_multi", map[string]any{"multicapture": true}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, c.config)
			paymenttest.Run(t, paymenttest.Company{
				Client: b, Capabilities: paymenttest.Declared(t, manifest), Currency: "GBP", Good: c.card, Bad: "pm_card_declined", Merchant: "mer_1",
				OneCapture: c.config == nil,
				Disputed: func(context.Context) (string, string, *typev1.Money, error) {
					return "pi_disputed", b.fake.dispute("pi_disputed", "needs_response", nil), gbp(600), nil
				},
			})
		})
	}
}

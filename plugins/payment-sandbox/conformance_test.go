package main

import (
	"testing"

	"github.com/entrepot/entrepot/sdk/paymenttest"
)

// The kit of the contract, which real companies pass too.
func TestTheSandboxIsAPaymentCompany(t *testing.T) {
	t.Parallel()
	paymenttest.Run(t, paymenttest.Company{
		Client: open(t), Capabilities: paymenttest.Declared(t, manifest), Currency: "GBP", Good: "tok_ok", Bad: "tok_declined", Merchant: "mer_1",
	})
}

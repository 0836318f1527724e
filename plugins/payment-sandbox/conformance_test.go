package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/paymenttest"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

// The kit of the contract, which real companies pass too.
func TestTheSandboxIsAPaymentCompany(t *testing.T) {
	t.Parallel()
	var a *adapter
	p := provider()
	p.New = func(_ context.Context, in *plugin.Instance) (err error) {
		a, err = adapt(in)
		return err
	}
	m := plugintest.Start(t, p)
	company, err := a.open(t.Context())
	require.NoError(t, err)
	paymenttest.Run(t, paymenttest.Company{
		Client:       providerv1connect.NewPaymentProviderServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "payment"}})),
		Capabilities: paymenttest.Declared(t, manifest), Currency: "GBP", Good: "tok_ok", Bad: "tok_declined", Merchant: "mer_1",
		Dispute: func(_ context.Context, payment string, amount *typev1.Money) (string, error) {
			company.mu.Lock()
			e := company.charge(payment, amount.GetCurrencyCode(), amount.GetMinorUnits())
			company.mu.Unlock()
			return e.Reference, e.wait()
		},
	})
}

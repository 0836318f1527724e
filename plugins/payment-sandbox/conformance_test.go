package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/paymenttest"
)

// The kit of the contract, which real companies pass too.
func TestTheSandboxIsAPaymentCompany(t *testing.T) {
	t.Parallel()
	b := open(t)
	var n atomic.Int64
	paymenttest.Run(t, paymenttest.Company{
		Client: b, Capabilities: paymenttest.Declared(t, manifest), Currency: "GBP", Good: "tok_ok", Bad: "tok_declined", Merchant: "mer_1",
		Disputed: func(ctx context.Context) (string, string, *typev1.Money, error) {
			key := fmt.Sprint("disputed", n.Add(1))
			held, err := b.Authorize(ctx, &providerv1.AuthorizeRequest{Key: key, Amount: gbp(600), MethodToken: "tok_disputed"})
			if err != nil {
				return "", "", nil, err
			}
			pay := held.GetOutcome().GetPaymentReference()
			if _, err := b.Capture(ctx, &providerv1.CaptureRequest{Key: key + "/capture", PaymentReference: pay, Amount: gbp(600)}); err != nil {
				return "", "", nil, err
			}
			stream, err := b.Report(ctx, &providerv1.ReportRequest{})
			for err == nil {
				var page *providerv1.ReportResponse
				if page, err = stream.Receive(); errors.Is(err, io.EOF) {
					err = errors.New("the report has no such dispute")
				}
				for _, d := range page.GetDisputes() {
					if d.GetPaymentReference() == pay {
						return pay, d.GetReference(), gbp(600), nil
					}
				}
			}
			return "", "", nil, err
		},
	})
}

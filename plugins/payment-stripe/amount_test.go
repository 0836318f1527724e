package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	stripe "github.com/stripe/stripe-go/v85"
	"pgregory.net/rapid"

	"github.com/entrepot/entrepot/sdk/money"
)

func TestAmountsAreCountedAsStripeDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		currency string
		minor    int64
		want     int64
		err      error
	}{
		{"USD", 1099, 1099, nil},
		{"JPY", 500, 500, nil},
		{"KRW", 500, 500, nil},
		{"KWD", 5120, 5120, nil},    // 5.120
		{"KWD", 5124, 0, errAmount}, // the last digit is 0
		{"MGA", 500, 5, nil},        // 5.00, which Stripe counts whole
		{"MGA", 550, 0, errAmount},  // has no halves there
		{"ISK", 5, 500, nil},        // whole, and counted in hundredths
		{"UGX", 5, 0, errCurrency},  // nobody knows
		{"CLF", 10000, 0, errCurrency},
		{"IQD", 1000, 0, errCurrency},
		{"XXX", 1, 0, errCurrency},
		{"GBP", 0, 0, errAmount},
		{"GBP", -5, 0, errAmount},
	} {
		got, err := toStripe(c.minor, c.currency)
		require.ErrorIs(t, err, c.err, c.currency)
		require.Equal(t, c.want, got, c.currency)
	}
	_, err := fromStripe(501, "isk")
	require.ErrorIs(t, err, errAmount)
}

func TestWhatStripeCountsIsWhatWasAsked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.StringMatching(`[A-Z]{3}`).Draw(t, "code")
		if rapid.Bool().Draw(t, "known") {
			code = rapid.SampledFrom(append([]string{"EUR", "GBP", "HUF", "TWD", "ISK"}, append(whole, thousandth...)...)).Draw(t, "currency")
		}
		minor := rapid.Int64Range(1, 9_000_000_000_000).Draw(t, "minor")
		n, err := toStripe(minor, code)
		if err != nil {
			return
		}
		back, err := fromStripe(n, stripe.Currency(strings.ToLower(code)))
		if err != nil || back != (money.Money{Currency: code, Minor: minor}) {
			t.Fatalf("%d %s is %d and comes back as %v, %v", minor, code, n, back, err)
		}
	})
}

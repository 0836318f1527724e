package main

import (
	"errors"
	"slices"
	"strings"

	stripe "github.com/stripe/stripe-go/v85"

	"github.com/entrepot/entrepot/sdk/money"
)

// Stripe counts most currencies in hundredths, and not always as ISO 4217 does
// (https://docs.stripe.com/currencies): these are whole, these in thousandths of
// which the last digit is 0, and these are whole to ISO but counted in
// hundredths.
var (
	whole      = []string{"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
	thousandth = []string{"BHD", "JOD", "KWD", "OMR", "TND"}
	padded     = []string{"ISK"}
	// unsure are those of which Stripe's own page says two things: a payment
	// would be a hundredth or a hundredfold.
	unsure = []string{"UGX"}
)

var (
	errCurrency = errors.New("no currency of Stripe's")
	errAmount   = errors.New("no amount that Stripe can count")
)

// scale is by how many Stripe's units are more (up) or fewer (down) than minor
// units.
func scale(currency string) (up, down int64, err error) {
	c, known := money.Lookup(currency)
	digits := 2
	switch {
	case !known || slices.Contains(unsure, currency):
		return 0, 0, errCurrency
	case slices.Contains(whole, currency):
		digits = 0
	case slices.Contains(thousandth, currency):
		digits = 3
	case c.Digits != 2 && !slices.Contains(padded, currency):
		return 0, 0, errCurrency
	}
	up, down = 1, 1
	for ; digits > c.Digits; digits-- {
		up *= 10
	}
	for ; digits < c.Digits; digits++ {
		down *= 10
	}
	return up, down, nil
}

// toStripe is an amount as Stripe counts it, never rounded.
func toStripe(minor int64, currency string) (int64, error) {
	up, down, err := scale(currency)
	if err != nil {
		return 0, err
	}
	if minor <= 0 || minor%down != 0 || slices.Contains(thousandth, currency) && minor%10 != 0 {
		return 0, errAmount
	}
	return minor / down * up, nil
}

// fromStripe is what Stripe counts in minor units.
func fromStripe(amount int64, currency stripe.Currency) (money.Money, error) {
	code := strings.ToUpper(string(currency))
	up, down, err := scale(code)
	if err != nil {
		return money.Money{}, err
	}
	if amount%up != 0 {
		return money.Money{}, errAmount
	}
	return money.New(amount/up*down, code)
}

// Package money is exact money: whole minor units of an ISO 4217 currency in
// an int64, arithmetic that refuses overflow and mixed currencies, division
// that loses nothing.
package money

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
)

// Errors that are wrapped; what is wrong is in the text.
var (
	ErrCurrency = errors.New("no ISO 4217 currency")
	ErrMixed    = errors.New("different currencies")
	ErrOverflow = errors.New("the amount does not fit")
	ErrSyntax   = errors.New("no amount")
)

// Money is an amount of a currency. The zero Money is no currency's. Values
// are compared with ==.
type Money struct {
	// Currency is the ISO 4217 alphabetic code.
	Currency string
	// Minor is the amount in minor units, negative for what is owed.
	Minor int64
}

// New makes money of a known currency.
func New(minor int64, currency string) (Money, error) {
	if _, ok := Lookup(currency); !ok {
		return Money{}, fmt.Errorf("%w: %q", ErrCurrency, currency)
	}
	return Money{Currency: currency, Minor: minor}, nil
}

// FromProto reads the contract's money.
func FromProto(m *typev1.Money) (Money, error) {
	return New(m.GetMinorUnits(), m.GetCurrencyCode())
}

// Proto writes the contract's money.
func (m Money) Proto() *typev1.Money {
	return &typev1.Money{CurrencyCode: m.Currency, MinorUnits: m.Minor}
}

// Parse reads a decimal amount: "12.99" EUR is 1299, "1299" JPY is 1299. More
// fraction digits than the currency has are an error, never rounded away.
func Parse(s, currency string) (Money, error) {
	c, ok := Lookup(currency)
	if !ok {
		return Money{}, fmt.Errorf("%w: %q", ErrCurrency, currency)
	}
	whole, fraction, dotted := strings.Cut(s, ".")
	digits := strings.TrimPrefix(whole, "-")
	if digits == "" || dotted && fraction == "" || len(fraction) > c.Digits || !decimal(digits) || !decimal(fraction) {
		return Money{}, fmt.Errorf("%w of %s: %q", ErrSyntax, currency, s)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", c.Digits-len(fraction)), 10, 64)
	if err != nil {
		return Money{}, fmt.Errorf("%w: %q", ErrOverflow, s)
	}
	return Money{Currency: currency, Minor: n}, nil
}

func decimal(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return true
}

// String is the decimal amount and the code, "12.99 EUR": for people and
// logs, in no locale.
func (m Money) String() string {
	d := currencies[m.Currency].Digits
	s := strconv.FormatInt(m.Minor, 10)
	if d == 0 {
		return s + " " + m.Currency
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	if len(s) <= d {
		s = strings.Repeat("0", d-len(s)+1) + s
	}
	return sign + s[:len(s)-d] + "." + s[len(s)-d:] + " " + m.Currency
}

// Add sums two amounts of one currency.
func (m Money) Add(o Money) (Money, error) {
	if m.Currency != o.Currency {
		return Money{}, fmt.Errorf("%w: %s and %s", ErrMixed, m.Currency, o.Currency)
	}
	sum := m.Minor + o.Minor
	if (sum > m.Minor) != (o.Minor > 0) && o.Minor != 0 {
		return Money{}, fmt.Errorf("%w: %v + %v", ErrOverflow, m, o)
	}
	return Money{Currency: m.Currency, Minor: sum}, nil
}

// Sub takes one amount from another of the same currency.
func (m Money) Sub(o Money) (Money, error) {
	if m.Currency != o.Currency {
		return Money{}, fmt.Errorf("%w: %s and %s", ErrMixed, m.Currency, o.Currency)
	}
	diff := m.Minor - o.Minor
	if (diff < m.Minor) != (o.Minor > 0) && o.Minor != 0 {
		return Money{}, fmt.Errorf("%w: %v - %v", ErrOverflow, m, o)
	}
	return Money{Currency: m.Currency, Minor: diff}, nil
}

// Neg is the opposite amount.
func (m Money) Neg() (Money, error) {
	return Money{Currency: m.Currency}.Sub(m)
}

// Cmp is -1, 0 or 1 as m is less than, the same as or more than o.
func (m Money) Cmp(o Money) (int, error) {
	if m.Currency != o.Currency {
		return 0, fmt.Errorf("%w: %s and %s", ErrMixed, m.Currency, o.Currency)
	}
	return cmp.Compare(m.Minor, o.Minor), nil
}

// Mul multiplies by a count.
func (m Money) Mul(n int64) (Money, error) {
	p := new(big.Int).Mul(big.NewInt(m.Minor), big.NewInt(n))
	if !p.IsInt64() {
		return Money{}, fmt.Errorf("%w: %v * %d", ErrOverflow, m, n)
	}
	return Money{Currency: m.Currency, Minor: p.Int64()}, nil
}

// Allocate divides an amount by weights so that the parts sum to it exactly:
// each gets its whole share, and the minor units that remain go to the largest
// remainders, of equal ones to the first. Weights are not negative and not all
// zero.
func (m Money) Allocate(weights ...int64) ([]Money, error) {
	total := new(big.Int)
	for _, w := range weights {
		if w < 0 {
			return nil, fmt.Errorf("allocate %v: negative weight %d", m, w)
		}
		total.Add(total, big.NewInt(w))
	}
	if total.Sign() == 0 {
		return nil, fmt.Errorf("allocate %v: no weight", m)
	}
	// A negative amount is divided like its opposite, so that a refund is
	// divided like its sale.
	amount, sign := new(big.Int).Abs(big.NewInt(m.Minor)), int64(1)
	if m.Minor < 0 {
		sign = -1
	}
	parts, rest := make([]Money, len(weights)), make([]*big.Int, len(weights))
	left := new(big.Int).Set(amount)
	for i, w := range weights {
		share, remainder := new(big.Int).QuoRem(new(big.Int).Mul(amount, big.NewInt(w)), total, new(big.Int))
		left.Sub(left, share)
		// MinInt64's opposite does not fit, but then a share of it is -2^63.
		parts[i], rest[i] = Money{Currency: m.Currency, Minor: new(big.Int).Mul(share, big.NewInt(sign)).Int64()}, remainder
	}
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return rest[b].Cmp(rest[a]) })
	for i := range int(left.Int64()) {
		parts[order[i]].Minor += sign
	}
	return parts, nil
}

// Convert changes money into another currency at a rate, a decimal string:
// how many units of the other currency one unit is worth. The result is
// rounded half to even. The caller records the rate.
func (m Money) Convert(rate, currency string) (Money, error) {
	from, ok1 := Lookup(m.Currency)
	to, ok2 := Lookup(currency)
	if !ok1 || !ok2 {
		return Money{}, fmt.Errorf("%w: %q or %q", ErrCurrency, m.Currency, currency)
	}
	whole, fraction, _ := strings.Cut(rate, ".")
	if whole == "" || len(rate) > 40 || !decimal(whole) || !decimal(fraction) {
		return Money{}, fmt.Errorf("rate %q is no decimal number", rate)
	}
	n, _ := new(big.Int).SetString(whole+fraction, 10)
	if n.Sign() == 0 {
		return Money{}, errors.New("a rate of zero changes nothing into anything")
	}
	n.Mul(n, big.NewInt(m.Minor))
	// n / 10^(fraction + from.Digits - to.Digits)
	d := big.NewInt(1)
	if e := len(fraction) + from.Digits - to.Digits; e >= 0 {
		d.Exp(big.NewInt(10), big.NewInt(int64(e)), nil)
	} else {
		n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-e)), nil))
	}
	q, r := new(big.Int).QuoRem(n, d, new(big.Int))
	twice := new(big.Int).Mul(new(big.Int).Abs(r), big.NewInt(2))
	if c := twice.Cmp(d); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(int64(n.Sign())))
	}
	if !q.IsInt64() {
		return Money{}, fmt.Errorf("%w: %v at %s", ErrOverflow, m, rate)
	}
	return Money{Currency: currency, Minor: q.Int64()}, nil
}

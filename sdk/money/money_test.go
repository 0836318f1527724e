package money

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Where CLDR's digits, which a common library takes for ISO's, are others.
func TestDigitsAreISO4217sAndNotCLDRs(t *testing.T) {
	for _, code := range []string{
		"AFN", "ALL", "AMD", "COP", "GYD", "IDR", "IRR", "KPW", "LAK", "LBP", "MGA", "MUR", "MNT", "MMK", "PKR", "RSD", "SOS", "SYP", "TZS", "UZS", "YER",
	} {
		c, ok := Lookup(code)
		require.True(t, ok, code)
		require.Equal(t, 2, c.Digits, code)
	}
	for code, digits := range map[string]int{
		"IQD": 3, "KWD": 3, "BHD": 3, "JOD": 3, "OMR": 3, "TND": 3, "LYD": 3, "JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "VND": 0, "UGX": 0, "CLF": 4, "UYW": 4,
		"XCG": 2, "XAD": 2, "MRU": 2, "SLE": 2, "VES": 2, "VED": 2, "ZWG": 2, "EUR": 2, "GBP": 2, "USD": 2,
	} {
		c, ok := Lookup(code)
		require.True(t, ok, code)
		require.Equal(t, digits, c.Digits, code)
	}
}

func TestWhatIsNoMoneyIsRefused(t *testing.T) {
	for _, code := range []string{"XAU", "XDR", "XXX", "XTS", "eur", "", "EURO"} {
		_, err := New(1, code)
		require.ErrorIs(t, err, ErrCurrency, code)
	}
	numeric := map[string]string{}
	for code, c := range currencies {
		require.Len(t, c.Numeric, 3, code)
		require.Empty(t, numeric[c.Numeric], "%s and %s share a number", code, numeric[c.Numeric])
		numeric[c.Numeric] = code
	}
}

func TestAmountsAreReadAndWrittenExactly(t *testing.T) {
	for _, c := range []struct {
		text, currency string
		minor          int64
		shown          string
	}{
		{"12.99", "EUR", 1299, "12.99 EUR"}, {"12.9", "EUR", 1290, "12.90 EUR"}, {"12", "EUR", 1200, "12.00 EUR"}, {"1299", "JPY", 1299, "1299 JPY"},
		{"1.299", "KWD", 1299, "1.299 KWD"}, {"-0.05", "GBP", -5, "-0.05 GBP"}, {"0", "GBP", 0, "0.00 GBP"},
	} {
		m, err := Parse(c.text, c.currency)
		require.NoError(t, err, c.text)
		require.Equal(t, Money{c.currency, c.minor}, m)
		require.Equal(t, c.shown, m.String())
	}
	for _, c := range [][2]string{{"12.999", "EUR"}, {"1.5", "JPY"}, {"", "EUR"}, {".5", "EUR"}, {"1.", "EUR"}, {"1,5", "EUR"}, {"1e3", "EUR"}, {"+1", "EUR"}, {"--1", "EUR"}} {
		_, err := Parse(c[0], c[1])
		require.ErrorIs(t, err, ErrSyntax, c[0])
	}
	_, err := Parse("99999999999999999999", "EUR")
	require.ErrorIs(t, err, ErrOverflow)
}

func TestArithmeticRefusesOverflowAndMixedCurrencies(t *testing.T) {
	most := Money{"EUR", math.MaxInt64}
	_, err := most.Add(Money{"EUR", 1})
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Money{"EUR", math.MinInt64}.Sub(Money{"EUR", 1})
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Money{"EUR", 0}.Sub(Money{"EUR", math.MinInt64})
	require.ErrorIs(t, err, ErrOverflow)
	least, err := Money{"EUR", -1}.Sub(Money{"EUR", math.MaxInt64})
	require.NoError(t, err)
	require.Equal(t, int64(math.MinInt64), least.Minor)
	_, err = least.Neg()
	require.ErrorIs(t, err, ErrOverflow)
	_, err = least.Cmp(Money{"JPY", 1})
	require.ErrorIs(t, err, ErrMixed)
	_, err = most.Mul(2)
	require.ErrorIs(t, err, ErrOverflow)
	_, err = Money{"EUR", 1}.Add(Money{"GBP", 1})
	require.ErrorIs(t, err, ErrMixed)
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		sum, err := Money{"EUR", a}.Add(Money{"EUR", b})
		sameAs(t, new(big.Int).Add(big.NewInt(a), big.NewInt(b)), sum, err)
		diff, err := Money{"EUR", a}.Sub(Money{"EUR", b})
		sameAs(t, new(big.Int).Sub(big.NewInt(a), big.NewInt(b)), diff, err)
		product, err := Money{"EUR", a}.Mul(b)
		sameAs(t, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), product, err)
		order, err := Money{"EUR", a}.Cmp(Money{"EUR", b})
		require.NoError(t, err)
		require.Equal(t, big.NewInt(a).Cmp(big.NewInt(b)), order)
	})
}

// sameAs holds a result to the exact one: equal where that fits, refused where
// it does not.
func sameAs(t require.TestingT, exact *big.Int, got Money, err error) {
	if !exact.IsInt64() {
		require.ErrorIs(t, err, ErrOverflow)
		return
	}
	require.NoError(t, err)
	require.Equal(t, exact.Int64(), got.Minor)
}

func TestAllocationSumsExactlyAndIsFair(t *testing.T) {
	parts, err := Money{"EUR", 100}.Allocate(1, 1, 1)
	require.NoError(t, err)
	require.Equal(t, []Money{{"EUR", 34}, {"EUR", 33}, {"EUR", 33}}, parts)
	rapid.Check(t, func(t *rapid.T) {
		m := Money{"JPY", rapid.Int64().Draw(t, "amount")}
		weights := rapid.SliceOfN(rapid.Int64Range(0, math.MaxInt64), 1, 20).Draw(t, "weights")
		parts, err := m.Allocate(weights...)
		total := new(big.Int)
		for _, w := range weights {
			total.Add(total, big.NewInt(w))
		}
		if total.Sign() == 0 {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		sum := new(big.Int)
		for i, p := range parts {
			sum.Add(sum, big.NewInt(p.Minor))
			// Each part is within one minor unit of its exact share.
			off := new(big.Int).Mul(big.NewInt(p.Minor), total)
			off.Sub(off, new(big.Int).Mul(big.NewInt(m.Minor), big.NewInt(weights[i])))
			require.Negative(t, off.CmpAbs(total), "part %d", i)
		}
		require.Equal(t, m.Minor, sum.Int64())
	})
}

func TestConversionRoundsHalfToEven(t *testing.T) {
	for _, c := range []struct {
		m        Money
		rate, to string
		want     int64
	}{
		{Money{"GBP", 100}, "1.15", "EUR", 115}, {Money{"GBP", 250}, "190", "JPY", 475}, {Money{"GBP", 1}, "0.5", "EUR", 0},
		{Money{"GBP", 3}, "0.5", "EUR", 2}, {Money{"GBP", 5}, "0.5", "EUR", 2}, {Money{"JPY", 100}, "0.005", "KWD", 500}, {Money{"GBP", -3}, "0.5", "EUR", -2},
	} {
		got, err := c.m.Convert(c.rate, c.to)
		require.NoError(t, err)
		require.Equal(t, Money{c.to, c.want}, got, "%v at %s", c.m, c.rate)
	}
	_, err := Money{"GBP", 1}.Convert("1e9", "EUR")
	require.Error(t, err)
	_, err = Money{"GBP", 1}.Convert("0.00", "EUR")
	require.Error(t, err)
	_, err = Money{"GBP", math.MaxInt64}.Convert("100", "EUR")
	require.ErrorIs(t, err, ErrOverflow)
}

func FuzzParse(f *testing.F) {
	f.Add("12.99")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := Parse(s, "KWD"); err == nil {
			again, err := Parse(m.String()[:len(m.String())-4], "KWD")
			require.NoError(t, err)
			require.Equal(t, m, again)
		}
	})
}

package trade

import (
	"compress/gzip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/money"
)

type counted map[string]int

func (c counted) add(r Refusal) { c[r.Reason]++ }

func catalogue(t *testing.T) (map[string]Article, counted) {
	t.Helper()
	f, err := os.Open("../data/catalogue.csv")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	refused := counted{}
	list, err := ReadCatalogue(f, refused.add)
	require.NoError(t, err)
	out := make(map[string]Article, len(list))
	for _, a := range list {
		out[a.Code] = a
	}
	return out, refused
}

func TestTheCatalogueIsReadButForTwoServices(t *testing.T) {
	articles, refused := catalogue(t)
	require.Equal(t, counted{ServiceCode: 2}, refused, "next day carriage and a gift voucher stand among the goods")
	require.Equal(t, Article{
		Code: "85123A", Title: "WHITE HANGING HEART T-LIGHT HOLDER", Price: money.Money{Currency: "GBP", Minor: 295}, Sold: articles["85123A"].Sold,
		Merchant: articles["85123A"].Merchant, GTIN: articles["85123A"].GTIN, Category: "home/candles", HSCode: "340600", Origin: "CN",
	}, articles["85123A"])

	categories := Categories()
	gtins, merchants, guessed := map[string]bool{}, map[int]int{}, 0
	for _, a := range articles {
		_, err := gs1.GTIN(a.GTIN)
		require.NoError(t, err)
		require.False(t, gtins[a.GTIN], "GTIN %s stands twice", a.GTIN)
		gtins[a.GTIN] = true
		require.True(t, strings.HasPrefix(a.GTIN, "20"), "a GTIN inside one company only")
		require.True(t, slices.Contains(categories, a.Category), a.Category)
		merchants[a.Merchant]++
		if a.Category != "gifts" {
			guessed++
		}
		for market, currency := range Currencies {
			p, err := a.PriceIn(market)
			require.NoError(t, err)
			require.Equal(t, currency, p.Currency)
			require.Positive(t, p.Minor)
		}
	}
	require.Len(t, gtins, 3721)
	require.Equal(t, map[int]int{0: 931, 1: 930, 2: 930, 3: 930}, merchants)
	require.Greater(t, guessed*10, len(articles)*7, "words place more than seven articles of ten")
}

func TestPricesFollowFromTheFixedRates(t *testing.T) {
	a := Article{Price: money.Money{Currency: "GBP", Minor: 295}}
	for market, want := range map[string]money.Money{"GB": {Currency: "GBP", Minor: 295}, "DE": {Currency: "EUR", Minor: 339}, "JP": {Currency: "JPY", Minor: 577}} {
		p, err := a.PriceIn(market)
		require.NoError(t, err)
		require.Equal(t, want, p)
	}
	_, err := a.PriceIn("US")
	require.Error(t, err)
}

func TestWordsAreWholeOnes(t *testing.T) {
	require.Equal(t, "stationery/pens", kindOf("PACK OF 3 PENS").category)
	require.Equal(t, "gifts", kindOf("OPEN SATIN DELIGHT").category)
}

func TestEveryRowOfTheInvoicesIsUsedOrRefusedWithItsReason(t *testing.T) {
	articles, _ := catalogue(t)
	f, err := os.Open("../data/invoices.csv.gz")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	refused := counted{}
	all, err := ReadInvoices(z, func(code string) bool { _, ok := articles[code]; return ok }, refused.add)
	require.NoError(t, err)

	purchases := map[string]Invoice{}
	markets := map[string]int{}
	cancelled := map[string]bool{}
	for _, v := range all {
		require.NotEmpty(t, v.Lines)
		require.LessOrEqual(t, len(v.Lines), maxLines)
		if v.Cancels == "" {
			require.Empty(t, purchases[v.Number].Number, "an invoice stands once")
			purchases[v.Number] = v
			markets[v.Market]++
			continue
		}
		require.Equal(t, v.Customer, purchases[v.Cancels].Customer, "a cancellation names an earlier purchase of its own customer")
		require.False(t, cancelled[v.Cancels], "a purchase is cancelled once")
		cancelled[v.Cancels] = true
		require.Empty(t, beyond(v, purchases[v.Cancels]), "nothing is taken back that was not bought")
	}
	require.Equal(t, map[string]int{"GB": 4183, "DE": 310, "JP": 36}, markets)
	require.Len(t, cancelled, 541)
	require.Equal(t, counted{
		ServiceCode: 733, NoPrice: 362, QuantityNotPositive: 227, UnknownArticle: 65, // rows
		NothingLeft: 543, TooManyLines: 15, CancellationUnmatched: 372, // invoices
	}, refused)
	// All that the file holds is one or the other: 6,000 invoices.
	require.Equal(t, 6000, len(all)+refused[NothingLeft]+refused[TooManyLines]+refused[CancellationUnmatched])
}

// beyond are the lines of a cancellation that its purchase does not hold.
func beyond(cancellation, purchase Invoice) (out []Line) {
	held := map[string]int64{}
	for _, l := range purchase.Lines {
		held[l.Code] = l.Quantity
	}
	for _, l := range cancellation.Lines {
		if held[l.Code] < l.Quantity {
			out = append(out, l)
		}
	}
	return out
}

const head = "invoice_no,stock_code,description,quantity,invoice_date,unit_price_gbp,customer_id,country\n"

func globe(code string) bool { return code == "10002" }

func TestMessyRowsAreRefusedAndTheRestIsRead(t *testing.T) {
	text := head + strings.Join([]string{
		"1,10002,GLOBE,2,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,3,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,POST,POSTAGE,1,2010-12-01T08:26:00Z,9,17,United Kingdom",
		"2,10002,GLOBE,-2,2010-12-01T08:26:00Z,0.85,,France",
		"too,few",
		"1,10002,a \"bare\" quote,1,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		",10002,GLOBE,1,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,1,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,1,2010-12-01T08:26:00Z,NaN,17,United Kingdom",
		"1,10002,GLOBE,99999,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,100001,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,99999,GONE,1,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,1,2010-12-01T08:26:00Z,0.00,17,United Kingdom",
		"C2b,10002,GLOBE,-7,2010-12-02T08:26:00Z,0.85,17,United Kingdom",
		"C3,10002,GLOBE,-2,2010-12-02T08:26:00Z,0.85,17,United Kingdom",
		"C4,10002,GLOBE,-2,2010-12-02T08:26:00Z,0.85,17,United Kingdom",
		"A5,B,Adjust bad debt,1,2010-12-02T08:26:00Z,11062.06,,United Kingdom",
		"6,10002,GLOBE,x,2010-12-02T08:26:00Z,1,17,Japan",
		"7,10002,GLOBE,1,2010-12-02T08:26:00Z,1,18,Japan",
	}, "\n")
	refused := counted{}
	got, err := ReadInvoices(strings.NewReader(text), globe, refused.add)
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, []Line{{"10002", 6}}, got[0].Lines, "lines of one article are one line, wherever they stand")
	require.Equal(t, "1", got[1].Cancels)
	require.Equal(t, "JP", got[2].Market)
	require.Equal(t, counted{
		ServiceCode: 1, QuantityNotPositive: 1, NothingLeft: 3, Malformed: 5, CancellationUnmatched: 2, BadDebt: 1,
		QuantityTooLarge: 2, UnknownArticle: 1, NoPrice: 1,
	}, refused)
}

func TestARefusalNamesItsLine(t *testing.T) {
	var got []Refusal
	_, err := ReadInvoices(strings.NewReader(head+"1,POST,POSTAGE,1,2010-12-01T08:26:00Z,9,17,France\n"), globe, func(r Refusal) { got = append(got, r) })
	require.NoError(t, err)
	require.Equal(t, []Refusal{{"invoices.csv.gz", 2, ServiceCode}, {"invoices.csv.gz", 2, NothingLeft}}, got)
}

func TestConsumersAreInventedAndAlwaysTheSame(t *testing.T) {
	for _, market := range []string{"GB", "DE", "JP"} {
		emails := map[string]bool{}
		for n := range 100 {
			v := Invoice{Number: strconv.Itoa(n), Market: market}
			if n%2 == 0 {
				v.Customer = strconv.Itoa(10_000 + n)
			}
			c := v.Consumer()
			require.Equal(t, c.Email, v.Consumer().Email)
			require.Equal(t, c.Name, v.Consumer().Name)
			require.NoError(t, protovalidate.Validate(c.Address), "the contract takes the address")
			require.Equal(t, market, c.Address.GetCountryCode())
			require.Regexp(t, map[string]string{"GB": `^ZZ\d{1,2} \dZZ$`, "DE": `^00\d{3}$`, "JP": `^000-\d{4}$`}[market], c.Address.GetPostalCode())
			require.True(t, strings.HasSuffix(c.Email, "@shop.example"))
			require.False(t, emails[c.Email])
			emails[c.Email] = true
		}
	}
}

func FuzzReadInvoices(f *testing.F) {
	f.Add(head + "1,10002,GLOBE,2,2010-12-01T08:26:00Z,0.85,17,United Kingdom\n")
	f.Add(head + "\"\n\n,,,,,,,\nC1,10002,,-9223372036854775808,2010-12-01T08:26:00Z,1,,\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := ReadInvoices(strings.NewReader(text), globe, func(Refusal) {})
		for _, v := range all {
			require.NotEmpty(t, v.Lines)
			for _, l := range v.Lines {
				require.Positive(t, l.Quantity)
				require.LessOrEqual(t, l.Quantity, int64(maxQuantity))
			}
		}
	})
}

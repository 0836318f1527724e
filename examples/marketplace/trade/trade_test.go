package trade

import (
	"compress/gzip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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

func TestTheWholeCatalogueIsRead(t *testing.T) {
	articles, refused := catalogue(t)
	require.Len(t, articles, 3723)
	require.Empty(t, refused)
	heart := articles["85123A"]
	require.Equal(t, "home/candles", heart.Category)
	require.Equal(t, "GBP", heart.Price.Currency)
	seen := map[string]bool{}
	for _, a := range articles {
		require.False(t, seen[a.GTIN], "GTIN %s stands twice", a.GTIN)
		seen[a.GTIN] = true
		require.Positive(t, a.Price.Minor)
	}
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

	number := map[string]Invoice{}
	markets := map[string]int{}
	cancellations := 0
	cancelled := map[string]bool{}
	for _, v := range all {
		require.NotEmpty(t, v.Lines)
		require.LessOrEqual(t, len(v.Lines), maxLines)
		if v.Cancels == "" {
			number[v.Number] = v
			markets[v.Market]++
			continue
		}
		cancellations++
		require.Equal(t, v.Customer, number[v.Cancels].Customer, "a cancellation names an earlier purchase of its own customer")
		require.False(t, cancelled[v.Cancels], "a purchase is cancelled once")
		cancelled[v.Cancels] = true
	}
	require.GreaterOrEqual(t, len(number), 4000)
	require.NotZero(t, cancellations)
	for _, m := range []string{"GB", "DE", "JP"} {
		require.NotZero(t, markets[m], m)
	}
	for _, reason := range []string{ServiceCode, QuantityNotPositive, NoPrice, TooManyLines, CancellationUnmatched} {
		require.NotZero(t, refused[reason], reason)
	}
	t.Logf("%d purchases %v, %d cancellations, refused %v", len(number), markets, cancellations, refused)
}

func TestMessyRowsAreRefusedAndTheRestIsRead(t *testing.T) {
	const head = "invoice_no,stock_code,description,quantity,invoice_date,unit_price_gbp,customer_id,country\n"
	text := head + strings.Join([]string{
		"1,10002,GLOBE,2,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,10002,GLOBE,3,2010-12-01T08:26:00Z,0.85,17,United Kingdom",
		"1,POST,POSTAGE,1,2010-12-01T08:26:00Z,9,17,United Kingdom",
		"2,10002,GLOBE,-2,2010-12-01T08:26:00Z,0.85,,France",
		"too,few",
		"C3,10002,GLOBE,-2,2010-12-02T08:26:00Z,0.85,17,United Kingdom",
		"C4,10002,GLOBE,-2,2010-12-02T08:26:00Z,0.85,17,United Kingdom",
		"A5,B,Adjust bad debt,1,2010-12-02T08:26:00Z,11062.06,,United Kingdom",
		"6,10002,GLOBE,x,2010-12-02T08:26:00Z,1,17,Japan",
		"7,10002,GLOBE,1,2010-12-02T08:26:00Z,1,18,Japan",
	}, "\n")
	refused := counted{}
	got, err := ReadInvoices(strings.NewReader(text), func(code string) bool { return code == "10002" }, refused.add)
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, []Line{{"10002", 5}}, got[0].Lines, "lines of one article are one line")
	require.Equal(t, "1", got[1].Cancels)
	require.Equal(t, "JP", got[2].Market)
	require.Equal(t, counted{ServiceCode: 1, QuantityNotPositive: 1, NothingLeft: 3, Malformed: 2, CancellationUnmatched: 1, BadDebt: 1}, refused)
}

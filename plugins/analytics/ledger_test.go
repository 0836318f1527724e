package main

import (
	"encoding/csv"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// books are what the ledgers of the other modules say, kept apart from the
// figures in the plainest way.
type books struct {
	sold, cancelled, returned, genuine, counterfeit map[string]int64 // units by good
	captured, refunded                              map[string]int64 // minor units by market
	orders                                          int64
}

// history is what happened, by key: the order within a key is fixed, between
// keys the bus may deliver as it likes.
type history struct {
	keys map[string][]fact
	books
}

type fact struct {
	subscription string
	event        proto.Message
	day          int
	delivered    *pluginv1.Event // once it has its id
}

func (y *history) happen(key, subscription string, day int, e proto.Message) {
	y.keys[key] = append(y.keys[key], fact{subscription: subscription, event: e, day: day})
}

func drawHistory(t *rapid.T) *history {
	y := &history{keys: make(map[string][]fact), books: books{
		sold: map[string]int64{}, cancelled: map[string]int64{}, returned: map[string]int64{}, genuine: map[string]int64{}, counterfeit: map[string]int64{},
		captured: map[string]int64{}, refunded: map[string]int64{},
	}}
	markets, skus, merchants := []string{"GB", "DE"}, []string{"A", "B", "C"}, map[string]string{"A": "mrc_one", "B": "mrc_one", "C": "mrc_two"}
	for i := range rapid.IntRange(1, 6).Draw(t, "orders") {
		order, payment := fmt.Sprint("ord_", i), fmt.Sprint("pay_", i)
		market, day := rapid.SampledFrom(markets).Draw(t, "market"), rapid.IntRange(1, 5).Draw(t, "day")
		o := &orderv1.OrderPlaced{OrderId: order, Market: market, Total: pounds(0)}
		shares := map[string]int64{}
		for range rapid.IntRange(1, 4).Draw(t, "lines") {
			sku, n := rapid.SampledFrom(skus).Draw(t, "sku"), rapid.Int64Range(1, 9).Draw(t, "quantity")
			o.Lines = append(o.Lines, &orderv1.Line{Sku: sku, MerchantId: merchants[sku], Quantity: n, Total: pounds(n * 7)})
			y.sold[sku] += n
			shares[merchants[sku]] += n * 7
		}
		y.orders++
		y.happen(order, "sales", day, o)
		stands := make(map[string]int64)
		for _, l := range o.GetLines() {
			stands[l.GetSku()] += l.GetQuantity()
		}
		for k := range rapid.IntRange(0, 2).Draw(t, "edits") {
			e := &orderv1.OrderEdited{OrderId: order, EditId: fmt.Sprint(order, "/", k), Market: market, Total: pounds(0)}
			for _, sku := range skus {
				n := rapid.Int64Range(0, 9).Draw(t, "becomes")
				if n > 0 {
					e.Lines = append(e.Lines, &orderv1.Line{Sku: sku, MerchantId: merchants[sku], Quantity: n, Total: pounds(n * 7)})
				}
				y.sold[sku] += max(0, n-stands[sku])
				y.cancelled[sku] += max(0, stands[sku]-n)
				stands[sku] = n
			}
			y.happen(order, "sales", day+1, e)
		}
		if rapid.Bool().Draw(t, "cancelled") {
			y.happen(order, "sales", day+2, &orderv1.OrderCancelled{OrderId: order})
			for sku, n := range stands {
				y.cancelled[sku] += n
			}
		}
		y.happen(payment, "sales", day, &paymentv1.PaymentAuthorized{PaymentId: payment, Reference: order, Market: market})
		var total, back int64
		for _, merchant := range []string{"mrc_one", "mrc_two"} {
			if minor := shares[merchant]; minor > 0 {
				total += minor
				y.happen(payment, "sales", day, captured(payment, minor, total, share(merchant, minor)))
			}
		}
		y.captured[market] += total
		for back < total && rapid.Bool().Draw(t, "refund") {
			part := rapid.Int64Range(1, total-back).Draw(t, "part")
			back += part
			y.happen(payment, "sales", day+2, refunded(payment, part, back))
		}
		y.refunded[market] += back
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "returns") {
		sku, n := rapid.SampledFrom(skus).Draw(t, "sku"), rapid.Int64Range(1, 9).Draw(t, "quantity")
		y.happen(fmt.Sprint("ret_", i%2), "hands", 4, back(fmt.Sprint("ret_", i%2), "ord_0", sku, n))
		y.returned[sku] += n
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "cases") {
		sku, n := rapid.SampledFrom(skus).Draw(t, "sku"), rapid.Int64Range(1, 9).Draw(t, "quantity")
		v := rapid.SampledFrom([]inspectionv1.Verdict{inspectionv1.Verdict_VERDICT_GENUINE, inspectionv1.Verdict_VERDICT_COUNTERFEIT}).Draw(t, "verdict")
		y.happen(fmt.Sprint("case_", i), "hands", 2, verdict(fmt.Sprint("case_", i), sku, n, v))
		if v == inspectionv1.Verdict_VERDICT_GENUINE {
			y.genuine[sku] += n
		} else {
			y.counterfeit[sku] += n
		}
	}
	return y
}

// tell delivers the whole history: keys in any order and in deliveries of any
// length, some of them again.
func (y *history) tell(t *rapid.T, tb testing.TB, h *house) {
	next := make(map[string]int)
	for {
		var open []string
		for _, key := range sorted(y.keys) {
			if next[key] < len(y.keys[key]) {
				open = append(open, key)
			}
		}
		if len(open) == 0 {
			return
		}
		key := rapid.SampledFrom(open).Draw(t, "key")
		all := y.keys[key]
		n := rapid.IntRange(1, len(all)-next[key]).Draw(t, "events")
		from := next[key]
		next[key] += n
		// Sometimes the key is rewound and told again from its beginning.
		if rapid.IntRange(0, 3).Draw(t, "replay") == 0 {
			from = 0
		}
		var events []*pluginv1.Event
		for i := from; i < next[key]; i++ {
			if all[i].delivered == nil {
				h.at = date(all[i].day)
				all[i].delivered = h.happened(tb, all[i].event)[0]
			}
			events = append(events, all[i].delivered)
		}
		h.send(tb, all[0].subscription, events...)
	}
}

func sorted(m map[string][]fact) []string {
	var out []string
	for i := range 10 {
		for _, kind := range []string{"ord_", "pay_", "ret_", "case_"} {
			if k := kind + strconv.Itoa(i); m[k] != nil {
				out = append(out, k)
			}
		}
	}
	return out
}

// Whatever happened, in whatever order the bus tells of it and how often, the
// figures are those of the ledgers to the unit, and a copy made anew from the
// log has the same.
func TestFiguresAreThoseOfTheLedgers(t *testing.T) {
	t.Parallel()
	h := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		h.empty(t)
		y := drawHistory(rt)
		y.tell(rt, t, h)
		y.agree(rt, t, h)
		first := h.everything(t)
		h.empty(t)
		y.tell(rt, t, h)
		same(t, first, h.everything(t))
	})
}

// empty takes the module's copy away, as for making it anew.
func (h *house) empty(t testing.TB) {
	t.Helper()
	for _, table := range []string{"purchase", "sale_line", "order_edit", "payment", "money", "verdict", "returned", "figure_day"} {
		_, err := h.Admin.Exec(t.Context(), "DELETE FROM p_analytics."+table)
		require.NoError(t, err)
	}
}

func (h *house) everything(t testing.TB) []*analyticsv1.Figure {
	return append(h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_DAY, analyticsv1.Dimension_DIMENSION_MARKET, analyticsv1.Dimension_DIMENSION_MERCHANT,
		analyticsv1.Dimension_DIMENSION_PRODUCT), h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_DAY, analyticsv1.Dimension_DIMENSION_MARKET)...)
}

func (y *history) agree(rt *rapid.T, t testing.TB, h *house) {
	got := books{sold: map[string]int64{}, cancelled: map[string]int64{}, returned: map[string]int64{}, genuine: map[string]int64{}, counterfeit: map[string]int64{}, captured: map[string]int64{}, refunded: map[string]int64{}}
	put := func(m map[string]int64, key string, n int64) {
		if n != 0 {
			m[key] += n
		}
	}
	for _, f := range h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_PRODUCT) {
		put(got.sold, f.GetSku(), f.GetSoldUnits())
		put(got.cancelled, f.GetSku(), f.GetCancelledUnits())
		put(got.returned, f.GetSku(), f.GetReturnedUnits())
		put(got.genuine, f.GetSku(), f.GetGenuineUnits())
		put(got.counterfeit, f.GetSku(), f.GetCounterfeitUnits())
	}
	for _, f := range h.rows(t, operator, november(), analyticsv1.Dimension_DIMENSION_MARKET) {
		got.orders += f.GetOrders()
		for _, a := range f.GetAmounts() {
			put(got.captured, f.GetMarket(), a.GetCapturedMinor())
			put(got.refunded, f.GetMarket(), a.GetRefundedMinor())
		}
	}
	for _, m := range []map[string]int64{y.refunded, y.sold, y.cancelled} {
		maps.DeleteFunc(m, func(_ string, n int64) bool { return n == 0 })
	}
	require.Equal(rt, y.books, got)
	// The same money, told apart by merchant and by day, is the same sum.
	for _, by := range []analyticsv1.Dimension{analyticsv1.Dimension_DIMENSION_MERCHANT, analyticsv1.Dimension_DIMENSION_DAY} {
		var captured, refunded int64
		for _, f := range h.rows(t, operator, november(), by) {
			for _, a := range f.GetAmounts() {
				captured += a.GetCapturedMinor()
				refunded += a.GetRefundedMinor()
			}
		}
		require.Equal(rt, y.captured["GB"]+y.captured["DE"], captured)
		require.Equal(rt, y.refunded["GB"]+y.refunded["DE"], refunded)
	}
}

// The export is what the pages are, and every column may be summed.
func TestExportIsThePages(t *testing.T) {
	t.Parallel()
	h := open(t)
	for i := range 40 {
		h.at = date(1 + i%20)
		h.deliver(t, "sales", two(fmt.Sprint("ord_", i)), placed(fmt.Sprint("ord_d", i), "", "DE", "A"))
	}
	by := []analyticsv1.Dimension{analyticsv1.Dimension_DIMENSION_DAY, analyticsv1.Dimension_DIMENSION_PRODUCT}
	var pages []*analyticsv1.Figure
	req := &analyticsv1.GetFiguresRequest{Scope: november(), By: by, PageSize: 7}
	for {
		res, err := h.figures(operator).GetFigures(t.Context(), req)
		require.NoError(t, err)
		require.LessOrEqual(t, len(res.GetFigures()), 7)
		pages = append(pages, res.GetFigures()...)
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	require.Len(t, pages, 40)

	stream, err := h.figures(operator).ExportFigures(t.Context(), &analyticsv1.ExportFiguresRequest{Scope: november(), By: by})
	require.NoError(t, err)
	var text strings.Builder
	last := &analyticsv1.ExportFiguresResponse{}
	for !last.GetComplete() {
		last, err = stream.Receive()
		require.NoError(t, err)
		text.WriteString(last.GetCsv())
	}
	lines, err := csv.NewReader(strings.NewReader(text.String())).ReadAll()
	require.NoError(t, err)
	require.Equal(t, exportColumns, lines[0])
	require.EqualValues(t, len(lines)-1, last.GetLines())
	sum := func(column string) (n int64) {
		for i, c := range exportColumns {
			for _, l := range lines[1:] {
				if c == column {
					v, err := strconv.ParseInt(l[i], 10, 64)
					require.NoError(t, err)
					n += v
				}
			}
		}
		return n
	}
	require.EqualValues(t, 4*40, sum("sold_units"), "goods of two currencies count once")
	require.EqualValues(t, 40*1700+40*500, sum("sold_minor"))
	require.Len(t, lines, 1+20*3)
}

package recommend

import (
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bought is one line of an invoice.
type bought struct {
	order, person, sku string
	at                 time.Time
}

// lines reads a shop's invoices, as examples/marketplace/data/README.md tells
// of them: the file that ENTREPOT_TRANSACTIONS names, else the excerpt in the
// repository. Cancellations, corrections and services are left out.
func lines(tb testing.TB) (name string, out []bought) {
	tb.Helper()
	name = cmp.Or(os.Getenv("ENTREPOT_TRANSACTIONS"), "../../../examples/marketplace/data/invoices.csv.gz")
	f, err := os.Open(name)
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	rows, err := csv.NewReader(z).ReadAll()
	require.NoError(tb, err)
	at := make(map[string]int)
	for i, column := range rows[0] {
		at[column] = i
	}
	for _, r := range rows[1:] {
		order, sku := r[at["invoice_no"]], r[at["stock_code"]]
		quantity, err := strconv.Atoi(r[at["quantity"]])
		require.NoError(tb, err)
		price, err := strconv.ParseFloat(r[at["unit_price_gbp"]], 64)
		require.NoError(tb, err)
		if quantity <= 0 || price <= 0 || strings.ContainsAny(order[:1], "CA") || sku[0] < '0' || sku[0] > '9' {
			continue
		}
		when, err := time.Parse(time.RFC3339, r[at["invoice_date"]])
		require.NoError(tb, err)
		out = append(out, bought{order, r[at["customer_id"]], sku, when})
	}
	slices.SortStableFunc(out, func(a, b bought) int { return a.at.Compare(b.at) })
	return name, out
}

// trial is a past to learn from and a future to be measured by: the last tenth
// of the lines. Of each person who bought in both, wanted are the goods of the
// future that they had not bought before.
type trial struct {
	past   []bought
	goods  []string
	now    time.Time
	before map[string]map[string]bool
	wanted map[string]map[string]bool
}

func newTrial(all []bought) *trial {
	cut := len(all) * 9 / 10
	t := &trial{past: all[:cut], now: all[cut].at, before: make(map[string]map[string]bool), wanted: make(map[string]map[string]bool)}
	put := func(m map[string]map[string]bool, b bought) {
		if m[b.person] == nil {
			m[b.person] = make(map[string]bool)
		}
		m[b.person][b.sku] = true
	}
	seen := make(map[string]bool)
	for i, b := range all {
		if !seen[b.sku] {
			seen[b.sku] = true
			t.goods = append(t.goods, b.sku)
		}
		switch {
		case b.person == "":
		case i < cut:
			put(t.before, b)
		case t.before[b.person] != nil && !t.before[b.person][b.sku]:
			put(t.wanted, b)
		}
	}
	return t
}

// measure tells how many of the people find one of the goods they came to want
// among twenty (HR@20), and how high in the list (NDCG@20).
func (t *trial) measure(answer func(person string) []string) (hr, ndcg float64) {
	for person, wanted := range t.wanted {
		var dcg, ideal float64
		hit := false
		for i, sku := range answer(person) {
			if wanted[sku] {
				hit = true
				dcg += 1 / math.Log2(float64(i+2))
			}
		}
		for i := range min(20, len(wanted)) {
			ideal += 1 / math.Log2(float64(i+2))
		}
		if hit {
			hr++
		}
		ndcg += dcg / ideal
	}
	n := float64(len(t.wanted))
	return hr / n, ndcg / n
}

// twenty are the best twenty goods that a person had not bought.
func (t *trial) twenty(person string, scores map[string]float64) []string {
	var out []string
	for sku, s := range scores {
		if s > 0 && !t.before[person][sku] {
			out = append(out, sku)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(scores[b], scores[a]), strings.Compare(a, b)) })
	return out[:min(20, len(out))]
}

// popularity recommends what most people bought.
func (t *trial) popularity() (hr, ndcg float64) {
	scores := make(map[string]float64)
	for _, goods := range t.before {
		for sku := range goods {
			scores[sku]++
		}
	}
	return t.measure(func(person string) []string { return t.twenty(person, scores) })
}

// cosine is the method to reach: item-item cosine, fifty neighbours.
func (t *trial) cosine() (hr, ndcg float64) {
	buyers := make(map[string][]string)
	for person, goods := range t.before {
		for sku := range goods {
			buyers[sku] = append(buyers[sku], person)
		}
	}
	type near struct {
		sku string
		s   float64
	}
	lists := make(map[string][]near)
	for sku, people := range buyers {
		common := make(map[string]float64)
		for _, p := range people {
			for other := range t.before[p] {
				common[other]++
			}
		}
		delete(common, sku)
		var l []near
		for other, n := range common {
			l = append(l, near{other, n / math.Sqrt(float64(len(people))*float64(len(buyers[other])))})
		}
		slices.SortFunc(l, func(a, b near) int { return cmp.Or(cmp.Compare(b.s, a.s), strings.Compare(a.sku, b.sku)) })
		lists[sku] = l[:min(50, len(l))]
	}
	return t.measure(func(person string) []string {
		scores := make(map[string]float64)
		for sku := range t.before[person] {
			for _, n := range lists[sku] {
				scores[n.sku] += n.s
			}
		}
		return t.twenty(person, scores)
	})
}

// learned is a model of the past.
func (t *trial) learned() *Model {
	m := New(Options{})
	for i, sku := range t.goods {
		m.Offer("GB", sku, true, int64(i))
	}
	for from := 0; from < len(t.past); {
		to := from
		var skus []string
		for to < len(t.past) && t.past[to].order == t.past[from].order {
			skus = append(skus, t.past[to].sku)
			to++
		}
		b := t.past[from]
		m.Buy(b.order, b.person, "GB", b.at, skus...)
		from = to
	}
	for m.Refresh(1000) > 0 {
	}
	return m
}

func (t *trial) ask(m *Model, person string) []string {
	var out []string
	for _, p := range m.Answer(Query{Kind: Personal, Person: person, Market: "GB", Limit: 20, Now: t.now}) {
		out = append(out, p.SKU)
	}
	return out
}

// What is recommended is what people come to buy: more often than what is
// popular, by a clear margin, and at least as often as by the plain method.
func TestQualityOnAShopsInvoices(t *testing.T) {
	t.Parallel()
	_, all := lines(t)
	trial := newTrial(all)
	popHR, popNDCG := trial.popularity()
	cosHR, cosNDCG := trial.cosine()
	m := trial.learned()
	hr, ndcg := trial.measure(func(person string) []string { return trial.ask(m, person) })
	t.Logf("%d people; popularity %.4f %.4f, cosine %.4f %.4f, ours %.4f %.4f", len(trial.wanted), popHR, popNDCG, cosHR, cosNDCG, hr, ndcg)
	require.Greater(t, hr, 1.1*popHR)
	require.Greater(t, ndcg, 1.2*popNDCG)
	require.GreaterOrEqual(t, hr, cosHR)
	require.GreaterOrEqual(t, ndcg, cosNDCG)
}

// BenchmarkQuality reports quality beside two known methods, and what learning
// and answering cost.
func BenchmarkQuality(b *testing.B) {
	name, all := lines(b)
	trial := newTrial(all)
	people := make([]string, 0, len(trial.wanted))
	for p := range trial.wanted {
		people = append(people, p)
	}
	slices.Sort(people)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	m := trial.learned()
	learned := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	popHR, popNDCG := trial.popularity()
	cosHR, cosNDCG := trial.cosine()
	hr, ndcg := trial.measure(func(person string) []string { return trial.ask(m, person) })
	b.Logf("%s", name)
	i := 0
	cpu := used(b)
	for b.Loop() {
		trial.ask(m, people[i%len(people)])
		i++
	}
	b.ReportMetric((used(b)-cpu).Seconds()*1000/float64(i), "cpu-ms")
	b.ReportMetric(hr, "HR@20")
	b.ReportMetric(ndcg, "NDCG@20")
	b.ReportMetric(cosHR, "cosine-HR@20")
	b.ReportMetric(cosNDCG, "cosine-NDCG@20")
	b.ReportMetric(popHR, "popular-HR@20")
	b.ReportMetric(popNDCG, "popular-NDCG@20")
	b.ReportMetric(float64(len(trial.wanted)), "people")
	b.ReportMetric(float64(len(all)), "lines")
	b.ReportMetric(learned.Seconds(), "learn-s")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	runtime.KeepAlive(m)
}

// used is the processor time of this process.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package recommend

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// shop offers goods in GB.
func shop(goods ...string) *Model {
	m := New(Options{})
	for i, g := range goods {
		m.Offer("GB", g, true, int64(i))
	}
	return m
}

func (m *Model) counted() *Model {
	for m.Refresh(100) > 0 {
	}
	return m
}

func skus(picks []Pick) []string {
	var out []string
	for _, p := range picks {
		out = append(out, p.SKU)
	}
	return out
}

func ask(kind Kind, person string, seeds ...string) Query {
	return Query{Kind: kind, Person: person, Seeds: seeds, Market: "GB", Limit: 10, Now: now}
}

// What one single person bought says nothing to others; what two did, does.
func TestOnePersonsBasketIsToldToNobody(t *testing.T) {
	t.Parallel()
	m := shop("a", "b")
	m.Buy("o1", "p1", "GB", now, "a", "b")
	require.Equal(t, Trending, m.counted().Answer(ask(Similar, "", "a"))[0].Why)
	require.Equal(t, Trending, m.Answer(ask(Together, "", "a"))[0].Why)
	m.Buy("o2", "p2", "GB", now, "a", "b")
	require.Equal(t, Pick{"b", BoughtByOthers, []string{"a"}}, m.counted().Answer(ask(Similar, "", "a"))[0])
	require.Equal(t, Pick{"b", InOneBasket, []string{"a"}}, m.Answer(ask(Together, "", "a"))[0])
}

// The later a purchase, the louder it speaks.
func TestLateSpeaksLouder(t *testing.T) {
	t.Parallel()
	m := shop("old", "new", "likeold", "likenew")
	for i := range 4 {
		m.Buy(fmt.Sprint("a", i), fmt.Sprint("p", i), "GB", now, "old", "likeold")
		m.Buy(fmt.Sprint("b", i), fmt.Sprint("q", i), "GB", now, "new", "likenew")
	}
	m.Buy("c", "ann", "GB", now.Add(-200*24*time.Hour), "old")
	m.Buy("d", "ann", "GB", now.Add(-time.Hour), "new")
	require.Equal(t, []string{"likenew", "likeold"}, skus(m.counted().Answer(ask(Personal, "ann"))))
	require.Equal(t, []string{"new"}, m.Answer(ask(Personal, "ann"))[0].Because)
}

// What sold last week trends, not what sold most ever.
func TestTrendsAge(t *testing.T) {
	t.Parallel()
	m := shop("evergreen", "fashion")
	for i := range 20 {
		m.Buy(fmt.Sprint("a", i), "", "GB", now.Add(-60*24*time.Hour), "evergreen")
	}
	m.Buy("b", "", "GB", now, "fashion")
	require.Equal(t, []string{"fashion", "evergreen"}, skus(m.Answer(ask(Trends, ""))))
	m.Drop("b", "fashion")
	require.Equal(t, "evergreen", m.Answer(ask(Trends, ""))[0].SKU)
}

// An answer holds each good once, none that cannot be sold in the market, none
// that was named, for a person none that they bought, and no more than asked.
func TestAnswersProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := New(Options{PersonGoods: 4, BasketGoods: 3, Neighbours: 3})
		goods := []string{"a", "b", "c", "d", "e", "f", "g"}
		can, bought := map[string]bool{}, map[string]bool{}
		for i := range rapid.IntRange(0, 60).Draw(t, "acts") {
			sku, at := rapid.SampledFrom(goods).Draw(t, "sku"), now.Add(-time.Duration(rapid.IntRange(0, 1000).Draw(t, "hours"))*time.Hour)
			switch rapid.IntRange(0, 4).Draw(t, "act") {
			case 0:
				can[sku] = rapid.Bool().Draw(t, "can")
				m.Offer("GB", sku, can[sku], int64(i))
				m.Offer("DE", sku, true, int64(i))
			case 1:
				m.Look(rapid.SampledFrom([]string{"", "p1", "p2"}).Draw(t, "person"), "GB", sku, at)
			case 2:
				m.Drop(fmt.Sprint("o", rapid.IntRange(0, 59).Draw(t, "order")), sku)
			default:
				person := rapid.SampledFrom([]string{"", "p1", "p2", "p3"}).Draw(t, "person")
				m.Buy(fmt.Sprint("o", i), person, "GB", at, sku, rapid.SampledFrom(goods).Draw(t, "other"))
			}
			if i%3 == 0 {
				m.Refresh(2)
			}
		}
		if r, ok := m.people.index["p1"]; ok {
			for _, e := range m.people.rows[r] {
				bought[m.names[e.good]] = e.bought > 0
			}
		}
		q := Query{
			Kind: Kind(rapid.IntRange(1, 4).Draw(t, "kind")), Person: "p1", Seeds: []string{rapid.SampledFrom(goods).Draw(t, "seed")}, Market: "GB",
			Limit: rapid.IntRange(1, 8).Draw(t, "limit"), Now: now,
		}
		picks := m.Answer(q)
		require.LessOrEqual(t, len(picks), q.Limit)
		seen := map[string]bool{}
		for _, p := range picks {
			require.False(t, seen[p.SKU], "%s twice", p.SKU)
			seen[p.SKU] = true
			require.True(t, can[p.SKU])
			require.NotEqual(t, q.Seeds[0], p.SKU)
			require.False(t, q.Kind == Personal && bought[p.SKU])
			require.LessOrEqual(t, len(p.Because), 3)
		}
		// All that can be sold is in it, when there is room.
		for _, sku := range goods {
			if len(picks) < q.Limit && can[sku] && sku != q.Seeds[0] && (q.Kind != Personal || !bought[sku]) {
				require.True(t, seen[sku], sku)
			}
		}
	})
}

// Learned event by event, with baskets changed, cancelled and told again, and people forgotten, a
// model counts as one does that only ever saw what is left.
func TestIncrementsAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		goods := []string{"a", "b", "c", "d", "e"}
		type order struct {
			id, person string
			skus       []string
		}
		m, left := shop(goods...), shop(goods...)
		var orders []order
		for i := range rapid.IntRange(1, 25).Draw(t, "orders") {
			o := order{id: fmt.Sprint("o", i), person: fmt.Sprint("p", rapid.IntRange(0, 5).Draw(t, "person")), skus: rapid.SliceOfN(rapid.SampledFrom(goods), 1, 4).Draw(t, "skus")}
			m.Buy(o.id, o.person, "GB", now, o.skus...)
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				m.Drop(o.id, o.skus...)
				o.skus = nil
			case 1: // changed: one good less, another more
				m.Drop(o.id, o.skus[0])
				more := rapid.SampledFrom(goods).Draw(t, "more")
				m.Buy(o.id, o.person, "GB", now, more)
				o.skus = append(slices.DeleteFunc(slices.Clone(o.skus), func(s string) bool { return s == o.skus[0] }), more)
			case 2:
				m.Buy(o.id, o.person, "GB", now, o.skus...) // told again
			}
			orders = append(orders, o)
			m.Refresh(rapid.IntRange(0, 3).Draw(t, "refresh"))
		}
		forgotten := fmt.Sprint("p", rapid.IntRange(0, 5).Draw(t, "forgotten"))
		m.Forget(forgotten)
		for _, o := range orders {
			if o.person == forgotten {
				o.person = ""
			}
			left.Buy(o.id, o.person, "GB", now, o.skus...)
		}
		m.counted()
		left.counted()
		for _, kind := range []Kind{Similar, Together} {
			for _, g := range goods {
				x, y := m.neighbours(kind, g), left.neighbours(kind, g)
				require.Len(t, x, len(y), "%v", g)
				for sku, s := range y {
					require.InDelta(t, s, x[sku], 1e-6)
				}
			}
		}
	})
}

// neighbours of a good by name.
func (m *Model) neighbours(kind Kind, sku string) map[string]float64 {
	x := m.people
	if kind == Together {
		x = m.baskets
	}
	out := make(map[string]float64)
	if g, ok := m.goods[sku]; ok && int(g) < len(x.near) {
		for _, n := range x.near[g].goods {
			out[m.names[n.good]] = float64(n.s)
		}
	}
	return out
}

func TestAModelIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	m := shop("a", "b", "c")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 200 {
				m.Buy(fmt.Sprint(w, "/", i), fmt.Sprint("p", i%7), "GB", now, "a", "b")
				m.Look(fmt.Sprint("p", i%7), "GB", "c", now)
				m.Refresh(2)
				m.Answer(ask(Personal, fmt.Sprint("p", i%7)))
				m.Size()
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1600, m.Size().Lines)
}

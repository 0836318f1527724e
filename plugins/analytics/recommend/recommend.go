// Package recommend knows who bought and looked at what, and says what they
// may like. It holds everything in memory, takes one event at a time, and
// knows no database.
//
// Similar goods are those that the same people bought: the cosine of two goods
// over people, squared, of which each good keeps its best neighbours. What one
// person may like is the sum over what they bought, the later the more, of the
// neighbours of each (G. Linden et al., Amazon.com Recommendations, 2003; that
// few neighbours and a higher power do better than fifty plain ones was
// measured here, see BenchmarkQuality).
package recommend

import (
	"slices"
	"sync"
	"time"
)

// Options of a Model. The zero value of a field means its default.
type Options struct {
	// Neighbours of a good that are kept: 20.
	Neighbours int
	// HalfLife is after how long a purchase counts half for what its buyer may
	// like: 60 days.
	HalfLife time.Duration
	// TrendHalfLife is the same for what trends: 7 days.
	TrendHalfLife time.Duration
	// ViewWeight is what a look at a good counts of a purchase: 0.25.
	ViewWeight float64
	// People that two goods must have in common before one speaks for the
	// other: 2. Of what one single person bought nothing is told to others.
	People int
	// PersonGoods bounds the goods that are kept of one person, the latest: 1000.
	PersonGoods int
	// BasketGoods bounds the goods of one basket that are taken as bought
	// together, the first: 100.
	BasketGoods int
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Neighbours, 20)
	def(&o.People, 2)
	def(&o.PersonGoods, 1000)
	def(&o.BasketGoods, 100)
	if o.HalfLife == 0 {
		o.HalfLife = 60 * 24 * time.Hour
	}
	if o.TrendHalfLife == 0 {
		o.TrendHalfLife = 7 * 24 * time.Hour
	}
	if o.ViewWeight == 0 {
		o.ViewWeight = 0.25
	}
	return o
}

// Model is what is known. It is safe for concurrent use.
type Model struct {
	o  Options
	mu sync.RWMutex

	goods map[string]int32
	names []string

	people, baskets *incidence
	// basketOf holds whose each basket is, and when it was bought.
	basketOf map[string]basket
	markets  map[string]*market
	lines    int64
	asOf     time.Time
	pool     sync.Pool
}

type basket struct {
	person, market string
	at             time.Time
	goods          []int32
}

// New makes a model that knows nothing.
func New(o Options) *Model {
	o = o.withDefaults()
	return &Model{
		o: o, goods: make(map[string]int32), people: newIncidence(o.PersonGoods), baskets: newIncidence(o.BasketGoods),
		basketOf: make(map[string]basket), markets: make(map[string]*market),
	}
}

// Buy records that a basket was bought; person is empty for somebody unknown.
// Told again it changes nothing, but that it may be nobody's now, and that
// goods it had not are in it too.
func (m *Model) Buy(order, person, market string, at time.Time, skus ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.basketOf[order]
	switch {
	case !ok:
		b = basket{person: person, market: market, at: at}
		m.seen(at)
	case person == "" && b.person != "":
		for _, g := range b.goods {
			m.people.take(b.person, g)
		}
		b.person = ""
	}
	for _, sku := range skus {
		g := m.good(sku)
		if slices.Contains(b.goods, g) {
			continue
		}
		m.market(b.market).trend(g, 1, b.at, m.o.TrendHalfLife)
		if len(b.goods) < m.o.BasketGoods {
			m.baskets.add(order, g, b.at, true, 1)
		}
		if b.person != "" {
			m.people.add(b.person, g, b.at, true, 1)
		}
		b.goods = append(b.goods, g)
		m.lines++
	}
	m.basketOf[order] = b
}

// Drop takes goods out of a basket.
func (m *Model) Drop(order string, skus ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.basketOf[order]
	if !ok {
		return
	}
	for _, sku := range skus {
		i := slices.Index(b.goods, m.good(sku))
		if i < 0 {
			continue
		}
		g := b.goods[i]
		b.goods = slices.Delete(b.goods, i, i+1)
		m.lines--
		m.baskets.take(order, g)
		m.market(b.market).trend(g, -1, b.at, m.o.TrendHalfLife)
		if b.person != "" {
			m.people.take(b.person, g)
		}
	}
	if len(b.goods) == 0 {
		m.baskets.drop(order)
	}
	m.basketOf[order] = b
}

// Look records that somebody looked at a good; person is empty for somebody
// unknown.
func (m *Model) Look(person, market, sku string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.good(sku)
	m.seen(at)
	m.market(market).trend(g, m.o.ViewWeight/2, at, m.o.TrendHalfLife)
	if person != "" {
		m.people.add(person, g, at, false, m.o.ViewWeight)
	}
}

// Forget removes a person. What they bought stays as somebody's.
func (m *Model) Forget(person string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.people.drop(person)
	for order, b := range m.basketOf {
		if b.person == person {
			b.person = ""
			m.basketOf[order] = b
		}
	}
}

// Offer says whether a good can be sold in a market now. Of two that were
// offered the one with the higher position is newer.
func (m *Model) Offer(market, sku string, can bool, position int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.market(market).offer(m.good(sku), can, position)
}

// Size of a model.
type Size struct {
	Lines, Goods, People, Baskets int64
	// Bytes is about what the records take.
	Bytes int64
	// AsOf is when the newest record was made.
	AsOf time.Time
}

// Size tells how much the model knows.
func (m *Model) Size() Size {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := Size{
		Lines: m.lines, Goods: int64(len(m.names)), People: int64(len(m.people.index)), Baskets: int64(len(m.baskets.index)), AsOf: m.asOf,
		Bytes: m.people.bytes() + m.baskets.bytes(),
	}
	for _, n := range m.names {
		s.Bytes += int64(len(n)) + 48
	}
	for o, b := range m.basketOf {
		s.Bytes += int64(len(o)) + int64(4*len(b.goods)) + 120
	}
	for _, k := range m.markets {
		s.Bytes += int64(17 * len(k.trends))
	}
	return s
}

// good is a good's number.
func (m *Model) good(sku string) int32 {
	if g, ok := m.goods[sku]; ok {
		return g
	}
	g := int32(len(m.names))
	m.goods[sku], m.names = g, append(m.names, sku)
	return g
}

func (m *Model) market(name string) *market {
	k := m.markets[name]
	if k == nil {
		k = &market{}
		m.markets[name] = k
	}
	return k
}

func (m *Model) seen(at time.Time) {
	if at.After(m.asOf) {
		m.asOf = at
	}
}

// AsOf is when the newest record was made; zero while there is none.
func (m *Model) AsOf() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.asOf
}

package recommend

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Why something is recommended.
type Why int

// The reasons, strongest first.
const (
	// BoughtByOthers: those who bought the goods named bought it.
	BoughtByOthers Why = iota + 1
	// InOneBasket: it is often in one basket with them.
	InOneBasket
	// Trending: many in the market buy it or look at it now.
	Trending
	// TrendingElsewhere: many in other markets do.
	TrendingElsewhere
	// Newest: offered last.
	Newest
)

// Kind is what is asked for.
type Kind int

// The kinds.
const (
	Personal Kind = iota + 1
	Similar
	Together
	Trends
)

// Query is a question.
type Query struct {
	Kind   Kind
	Person string
	// Seeds are goods to go by; they are not in the answer.
	Seeds  []string
	Market string
	Limit  int
	Now    time.Time
	// Skip leaves goods out. Optional.
	Skip func(sku string) bool
}

// Pick is one good of an answer.
type Pick struct {
	SKU string
	Why Why
	// Because names the goods that speak for it most, at most three.
	Because []string
}

// Answer tells what can be sold in the market and fits best, at most Limit of
// it. Where a kind finds too little, trends and then what is new fill the
// list. For a person nothing is in it that they bought.
func (m *Model) Answer(q Query) []Pick {
	m.mu.RLock()
	defer m.mu.RUnlock()
	a := &answer{m: m, q: q, market: m.markets[q.Market], taken: make(map[int32]bool)}
	if a.market == nil || q.Limit <= 0 {
		return nil
	}
	a.exclude()
	switch q.Kind {
	case Personal:
		a.near(m.people, BoughtByOthers, a.history())
	case Similar:
		a.near(m.people, BoughtByOthers, a.seeds())
	case Together:
		a.near(m.baskets, InOneBasket, a.seeds())
		a.near(m.people, BoughtByOthers, a.seeds())
	}
	a.trends()
	a.elsewhere()
	a.newest()
	return a.picks
}

// answer is a question on its way.
type answer struct {
	m      *Model
	q      Query
	market *market
	// taken goods are in the answer or must not be.
	taken map[int32]bool
	picks []Pick
}

// source is a good that speaks for others, as loud as w.
type source struct {
	good int32
	w    float64
}

func (a *answer) exclude() {
	for _, sku := range a.q.Seeds {
		if g, ok := a.m.goods[sku]; ok {
			a.taken[g] = true
		}
	}
	if a.q.Kind != Personal {
		return
	}
	if r, ok := a.m.people.index[a.q.Person]; ok && a.q.Person != "" {
		for _, e := range a.m.people.rows[r] {
			if e.bought > 0 {
				a.taken[e.good] = true
			}
		}
	}
}

func (a *answer) seeds() []source {
	var out []source
	for _, sku := range a.q.Seeds {
		if g, ok := a.m.goods[sku]; ok {
			out = append(out, source{g, 1})
		}
	}
	return out
}

// history is what the person bought and looked at, the later the louder, and
// what they have just seen.
func (a *answer) history() []source {
	out := a.seeds()
	if r, ok := a.m.people.index[a.q.Person]; ok && a.q.Person != "" {
		for _, e := range a.m.people.rows[r] {
			age := a.q.Now.Sub(time.Unix(e.at, 0))
			out = append(out, source{e.good, e.w() * math.Exp2(-age.Hours()/a.m.o.HalfLife.Hours())})
		}
	}
	return out
}

// fits tells whether a good may be in the answer.
func (a *answer) fits(g int32) bool {
	return !a.taken[g] && a.market.offers(g) && (a.q.Skip == nil || !a.q.Skip(a.m.names[g]))
}

func (a *answer) full() bool { return len(a.picks) >= a.q.Limit }

// near takes the goods that the sources' neighbours speak for most.
func (a *answer) near(x *incidence, why Why, sources []source) {
	if a.full() || len(sources) == 0 {
		return
	}
	scores, _ := a.m.pool.Get().(map[int32]float64)
	if scores == nil {
		scores = make(map[int32]float64)
	}
	defer func() { clear(scores); a.m.pool.Put(scores) }()
	lists := make([][]neighbour, len(sources))
	for i, s := range sources {
		if int(s.good) < len(x.near) {
			lists[i] = x.near[s.good].goods
		}
		for _, n := range lists[i] {
			scores[n.good] += float64(n.s) * s.w
		}
	}
	best := a.best(func(yield func(int32, float64)) {
		for g, score := range scores {
			if score > 0 {
				yield(g, score)
			}
		}
	})
	at := make(map[int32]int, len(best))
	for i, g := range best {
		at[g] = i
	}
	because := make([][]source, len(best))
	for i, s := range sources {
		for _, n := range lists[i] {
			if k, ok := at[n.good]; ok {
				because[k] = append(because[k], source{s.good, float64(n.s) * s.w})
			}
		}
	}
	for i, g := range best {
		a.pick(g, why, because[i])
	}
}

// best are the goods that fit with the highest scores, as many as the answer
// still takes.
func (a *answer) best(all func(yield func(int32, float64))) []int32 {
	room := a.q.Limit - len(a.picks)
	type scored struct {
		good  int32
		score float64
	}
	worse := func(x, y scored) int { return cmp.Or(cmp.Compare(y.score, x.score), cmp.Compare(x.good, y.good)) }
	top := make([]scored, 0, room+1)
	all(func(g int32, score float64) {
		s := scored{g, score}
		if len(top) == room && worse(top[room-1], s) <= 0 || !a.fits(g) {
			return
		}
		i, _ := slices.BinarySearchFunc(top, s, worse)
		top = slices.Insert(top, i, s)
		top = top[:min(len(top), room)]
	})
	out := make([]int32, len(top))
	for i, s := range top {
		out[i] = s.good
	}
	return out
}

func (a *answer) pick(g int32, why Why, because []source) {
	slices.SortFunc(because, func(x, y source) int { return cmp.Or(cmp.Compare(y.w, x.w), cmp.Compare(x.good, y.good)) })
	p := Pick{SKU: a.m.names[g], Why: why}
	for _, s := range because {
		if name := a.m.names[s.good]; len(p.Because) < 3 && !slices.Contains(p.Because, name) {
			p.Because = append(p.Because, name)
		}
	}
	a.taken[g] = true
	a.picks = append(a.picks, p)
}

func (a *answer) trends() {
	a.all(Trending, func(yield func(int32, float64)) {
		for g, t := range a.market.trends {
			if t > 0 {
				yield(int32(g), t)
			}
		}
	})
}

func (a *answer) elsewhere() {
	a.all(TrendingElsewhere, func(yield func(int32, float64)) {
		for g, can := range a.market.can {
			if !can {
				continue
			}
			var t float64
			for _, k := range a.m.markets {
				if g < len(k.trends) {
					t += k.trends[g]
				}
			}
			if t > 0 {
				yield(int32(g), t)
			}
		}
	})
}

func (a *answer) newest() {
	a.all(Newest, func(yield func(int32, float64)) {
		for g, can := range a.market.can {
			if can {
				yield(int32(g), float64(a.market.positions[g]))
			}
		}
	})
}

func (a *answer) all(why Why, of func(yield func(int32, float64))) {
	if a.full() {
		return
	}
	for _, g := range a.best(of) {
		a.pick(g, why, nil)
	}
}

// Refresh counts neighbours anew: of goods of the latest events first, then of
// others whose lists are older than the last change, up to most of them. It
// answers how many. Answers go on meanwhile.
func (m *Model) Refresh(most int) int {
	m.mu.Lock()
	type job struct {
		x    *incidence
		good int32
	}
	var jobs []job
	for _, x := range []*incidence{m.people, m.baskets} {
		for g := range x.dirty {
			if len(jobs) == most {
				break
			}
			jobs = append(jobs, job{x, g})
			delete(x.dirty, g)
		}
	}
	for _, x := range []*incidence{m.people, m.baskets} {
		for range len(x.near) {
			if len(jobs) >= most {
				break
			}
			x.sweep = (x.sweep + 1) % len(x.near)
			if at := x.near[x.sweep].at; at > 0 && at < x.changes {
				jobs = append(jobs, job{x, int32(x.sweep)})
			}
		}
	}
	m.mu.Unlock()
	var c counter
	for _, j := range jobs {
		m.mu.RLock()
		l := list{goods: j.x.count(&c, j.good, m.o), at: j.x.changes}
		m.mu.RUnlock()
		m.mu.Lock()
		j.x.near[j.good] = l
		m.mu.Unlock()
	}
	return len(jobs)
}

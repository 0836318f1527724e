package recommend

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// incidence is which goods stand in which rows: rows are people, or baskets.
type incidence struct {
	most  int // goods of a row
	index map[string]int32
	rows  [][]entry
	free  []int32
	// By good: the rows that hold it, the sum of its squared weights, and its
	// neighbours as they were counted last.
	held  [][]int32
	norms []float64
	near  []list
	// dirty goods are counted anew first; changes tells which lists are older
	// than the last change, sweep goes round them.
	dirty   map[int32]bool
	changes int64
	sweep   int
}

// entry is one good of a row.
type entry struct {
	good   int32
	bought uint16  // times
	weight float32 // of looks; a purchase weighs 1
	at     int64   // Unix seconds, the last
}

func (e *entry) w() float64 {
	if e.bought > 0 {
		return 1
	}
	return float64(e.weight)
}

// neighbour is a good that stands in the same rows.
type neighbour struct {
	good int32
	s    float32
}

type list struct {
	goods []neighbour
	at    int64 // changes when it was counted
}

func newIncidence(most int) *incidence {
	return &incidence{most: most, index: make(map[string]int32), dirty: make(map[int32]bool)}
}

func (x *incidence) grow(good int32) {
	for int(good) >= len(x.held) {
		x.held, x.norms = append(x.held, nil), append(x.norms, 0)
		x.near = append(x.near, list{})
	}
}

// add puts a good into a row, or raises what it weighs there.
func (x *incidence) add(name string, good int32, at time.Time, bought bool, weight float64) {
	x.grow(good)
	r, ok := x.index[name]
	if !ok {
		if n := len(x.free); n > 0 {
			r, x.free = x.free[n-1], x.free[:n-1]
		} else {
			r, x.rows = int32(len(x.rows)), append(x.rows, nil)
		}
		x.index[name] = r
	}
	i := slices.IndexFunc(x.rows[r], func(e entry) bool { return e.good == good })
	if i < 0 {
		if len(x.rows[r]) == x.most {
			x.oust(r)
		}
		i = len(x.rows[r])
		x.rows[r] = append(x.rows[r], entry{good: good})
		x.held[good] = append(x.held[good], r)
	}
	e := &x.rows[r][i]
	before := e.w()
	if bought && e.bought < math.MaxUint16 {
		e.bought++
	} else if !bought {
		e.weight = max(e.weight, float32(weight))
	}
	e.at = max(e.at, at.Unix())
	x.norms[good] += e.w()*e.w() - before*before
	x.touch(good)
}

func (x *incidence) touch(good int32) {
	x.changes++
	x.dirty[good] = true
}

// oust removes the oldest entry of a full row.
func (x *incidence) oust(r int32) {
	oldest := 0
	for i, e := range x.rows[r] {
		if e.at < x.rows[r][oldest].at {
			oldest = i
		}
	}
	x.remove(r, oldest)
}

func (x *incidence) remove(r int32, i int) {
	e := x.rows[r][i]
	x.norms[e.good] -= e.w() * e.w()
	x.rows[r] = slices.Delete(x.rows[r], i, i+1)
	if k := slices.Index(x.held[e.good], r); k >= 0 {
		x.held[e.good] = slices.Delete(x.held[e.good], k, k+1)
	}
	x.touch(e.good)
}

// take takes one purchase of a good back; what was looked at stays so.
func (x *incidence) take(name string, good int32) {
	r, ok := x.index[name]
	if !ok {
		return
	}
	i := slices.IndexFunc(x.rows[r], func(e entry) bool { return e.good == good })
	if i < 0 || x.rows[r][i].bought == 0 {
		return
	}
	e := &x.rows[r][i]
	if e.bought == 1 && e.weight == 0 {
		x.remove(r, i)
		return
	}
	before := e.w()
	e.bought--
	x.norms[good] += e.w()*e.w() - before*before
	x.touch(good)
}

// drop removes a row.
func (x *incidence) drop(name string) {
	r, ok := x.index[name]
	if !ok {
		return
	}
	for len(x.rows[r]) > 0 {
		x.remove(r, len(x.rows[r])-1)
	}
	x.rows[r] = nil
	delete(x.index, name)
	x.free = append(x.free, r)
}

// counter counts neighbours of one good after the other.
type counter struct {
	sums  []float64
	rows  []int32
	found []int32
}

// count counts the neighbours of a good anew.
func (x *incidence) count(c *counter, good int32, o Options) []neighbour {
	for len(c.sums) < len(x.held) {
		c.sums, c.rows = append(c.sums, 0), append(c.rows, 0)
	}
	for _, r := range x.held[good] {
		row := x.rows[r]
		i := slices.IndexFunc(row, func(e entry) bool { return e.good == good })
		w := row[i].w()
		for k := range row {
			g := row[k].good
			if c.rows[g] == 0 {
				c.found = append(c.found, g)
			}
			c.rows[g]++
			c.sums[g] += w * row[k].w()
		}
	}
	var near []neighbour
	for _, g := range c.found {
		if g != good && int(c.rows[g]) >= o.People {
			near = append(near, neighbour{g, float32(c.sums[g] * c.sums[g] / (x.norms[good] * x.norms[g]))})
		}
		c.sums[g], c.rows[g] = 0, 0
	}
	c.found = c.found[:0]
	slices.SortFunc(near, func(a, b neighbour) int { return cmp.Or(cmp.Compare(b.s, a.s), cmp.Compare(a.good, b.good)) })
	return slices.Clone(near[:min(len(near), o.Neighbours)])
}

func (x *incidence) bytes() int64 {
	var n int64
	for _, r := range x.rows {
		n += int64(24*cap(r) + 24)
	}
	for g := range x.held {
		n += int64(4*cap(x.held[g]) + 8*len(x.near[g].goods) + 24 + 8 + 32)
	}
	for name := range x.index {
		n += int64(len(name) + 40)
	}
	return n
}

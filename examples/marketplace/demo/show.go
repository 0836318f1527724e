package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// bar shows how far a piece of work is: redrawn in place on a terminal, a line
// at its end elsewhere.
type bar struct {
	mu       sync.Mutex
	what     string
	n, total int
	began    time.Time
	drawn    time.Time
	live     bool
}

func newBar(what string, total int) *bar {
	st, err := os.Stdout.Stat()
	return &bar{what: what, total: total, began: time.Now(), live: err == nil && st.Mode()&os.ModeCharDevice != 0}
}

// Add tells that n more are done.
func (b *bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += n
	if b.live && time.Since(b.drawn) > 100*time.Millisecond {
		b.drawn = time.Now()
		b.draw()
	}
}

func (b *bar) draw() {
	const width = 30
	full := 0
	if b.total > 0 {
		full = min(width, width*b.n/b.total)
	}
	rate := float64(b.n) / max(time.Since(b.began).Seconds(), 0.001)
	fmt.Printf("\r%-10s [%s%s] %d/%d  %.0f/s \x1b[K", b.what, strings.Repeat("#", full), strings.Repeat(".", width-full), b.n, b.total, rate)
}

// Done draws the bar for the last time.
func (b *bar) Done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	took := time.Since(b.began).Seconds()
	if b.live {
		b.draw()
		fmt.Printf(" %.1f s\n", took)
		return
	}
	fmt.Printf("%-10s %d in %.1f s\n", b.what, b.n, took)
}

// show prints the reconciliation, a line a check.
func show(b *shop.Books) {
	for _, c := range b.Checks {
		mark := "ok"
		if !c.OK() {
			mark = "DIFFERS"
		}
		fmt.Printf("  %-7s  %-30s %14d  %-20s %14d  %s\n", mark, c.What, c.Want, c.Left, c.Have, c.Right)
	}
}

func counts(all ...map[string]int) string {
	sum := map[string]int{}
	for _, m := range all {
		for k, n := range m {
			sum[k] += n
		}
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(sum)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, sum[k]))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

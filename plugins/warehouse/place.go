package main

import (
	"cmp"
	"slices"
	"strings"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// picks are what is still to be taken for some fulfilments, in the order in
// which somebody walks along the shelves.
func picks(all []*fulfilment) (out []*warehousev1.Pick) {
	for _, one := range all {
		for _, l := range one.lines {
			if l.Picked < l.Quantity && one.state == statePicking {
				out = append(out, &warehousev1.Pick{
					FulfilmentId: one.id, Sku: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated, Quantity: l.Quantity - l.Picked, Location: l.Location,
				})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *warehousev1.Pick) int {
		return cmp.Or(along(a.GetLocation(), b.GetLocation()), cmp.Compare(a.GetSku(), b.GetSku()), cmp.Compare(a.GetLot(), b.GetLot()))
	})
	return out
}

// along compares locations as their shelves stand: "A-9" before "A-10", and
// last what has no place.
func along(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(b), len(a))
	}
	for a != "" && b != "" {
		x, restA := run(a)
		y, restB := run(b)
		if c := compareRuns(x, y); c != 0 {
			return c
		}
		a, b = restA, restB
	}
	return cmp.Compare(len(a), len(b))
}

// run is the digits that a location begins with, or what comes before some.
func run(s string) (head, rest string) {
	digit := func(r byte) bool { return '0' <= r && r <= '9' }
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n], s[n:]
}

// compareRuns compares numbers by their value, whatever their length, and all
// else as it is written.
func compareRuns(a, b string) int {
	if a[0] <= '9' && b[0] <= '9' && a[0] >= '0' && b[0] >= '0' {
		x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y), cmp.Compare(len(a), len(b)))
	}
	return cmp.Compare(a, b)
}

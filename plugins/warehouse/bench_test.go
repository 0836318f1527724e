package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// A reservation is four statements: BEGIN, the reservation, its event, COMMIT.
func BenchmarkReserve(b *testing.B) {
	h := open(b)
	var skus []string
	for i := range 500 {
		skus = append(skus, fmt.Sprintf("sku_%03d", i))
	}
	require.NoError(b, h.Deliver(b.Context(), "catalog", &catalogv1.ProductChanged{ProductId: "prd_3", MerchantId: "mrc_one", Skus: skus}))
	quantities := make(map[string]int64)
	for _, sku := range skus {
		quantities[sku] = 1_000_000_000
	}
	h.stock(b, "", quantities)
	_, err := h.Admin.Exec(b.Context(), "VACUUM ANALYZE")
	require.NoError(b, err)
	for _, lines := range []int{1, 5, 20} {
		b.Run(fmt.Sprint(lines, " lines"), func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				req := reservationOf()
				for i := range lines {
					req.Lines = append(req.Lines, &warehousev1.ReservationLine{Sku: skus[(n*7+i*23)%len(skus)], Quantity: 1})
				}
				if _, err := h.orders.ReserveStock(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Moves of the ledger alone, without serials and with: one statement each,
// however many entries.
func BenchmarkPost(b *testing.B) {
	h := open(b)
	all := make([]string, 20)
	for i := range all {
		all[i] = fmt.Sprintf("unt_%02d", i)
	}
	h.stock(b, "", map[string]int64{"sku_a": 1_000_000})
	h.shelve(b, "sku_a", all...)
	for _, c := range []struct {
		name string
		g    goods
	}{
		{"a quantity", goods{key: key{"sku_a", "main", "", false}, quantity: 20}},
		{"a serial", goods{key: key{"sku_a", "main", "", true}, units: all[:1]}},
		{"twenty serials", goods{key: key{"sku_a", "main", "", true}, units: all}},
	} {
		b.Run(c.name, func(b *testing.B) {
			entries := max(len(c.g.units), 1)
			c.g.reference = "bench"
			moves := 0
			for b.Loop() {
				// To the picker and back: the reservation is left alone.
				err := h.DB.Run(b.Context(), func(ctx context.Context, tx *store.Tx) error {
					for _, w := range []way{{reason: "reservation", from: "sellable", to: "reserved"}, {reason: "pick", from: "reserved", to: "picked"},
						{reason: "cancellation", from: "picked", to: "reserved"}, {reason: "release", from: "reserved", to: "sellable"}} {
						g := c.g
						if w.from == "sellable" || w.to == "sellable" {
							g.quantity, g.units = max(int64(len(g.units)), g.quantity), nil
						}
						if _, err := post(ctx, tx, w, g); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				moves += 2 + 2*entries
			}
			b.ReportMetric(float64(moves)/b.Elapsed().Seconds(), "moves/s")
			b.ReportMetric(4*float64(b.N)/float64(moves), "statements/move")
		})
	}
}

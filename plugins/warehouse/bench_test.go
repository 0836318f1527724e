package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
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

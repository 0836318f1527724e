package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
)

// A change of an order counts on its own day, more as sold and less as
// cancelled, and once; what is cancelled later is the order as it was then.
func TestAChangedOrder(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = date(3)
	h.deliver(t, "sales", two("ord_1"))
	h.at = date(4)
	// One A less, B is gone, three C of a third merchant.
	edited := h.deliver(t, "sales", &orderv1.OrderEdited{OrderId: "ord_1", EditId: "edt_1", Market: "GB", Total: pounds(800), Lines: []*orderv1.Line{
		{Sku: "A", MerchantId: "mrc_one", Quantity: 1, Total: pounds(500)}, {Sku: "C", MerchantId: "mrc_three", Quantity: 3, Total: pounds(300)},
	}})
	gbp := func(sold, cancelled int64) []*analyticsv1.Amounts {
		return []*analyticsv1.Amounts{{CurrencyCode: "GBP", SoldMinor: sold, CancelledMinor: cancelled}}
	}
	day4 := &analyticsv1.Scope{FromDay: "2024-11-04", ToDay: "2024-11-04"}
	for range 2 {
		same(t, []*analyticsv1.Figure{
			{Sku: "A", CancelledUnits: 1, Amounts: gbp(0, 500)},
			{Sku: "B", CancelledUnits: 1, Amounts: gbp(0, 700)},
			{Sku: "C", Orders: 1, SoldUnits: 3, Amounts: gbp(300, 0)},
		}, h.rows(t, operator, day4, analyticsv1.Dimension_DIMENSION_PRODUCT))
		h.send(t, "sales", edited...)
	}
	same(t, []*analyticsv1.Figure{{SoldUnits: 3, CancelledUnits: 2, Amounts: gbp(300, 1200)}}, h.rows(t, operator, day4))
	require.Equal(t, 2, h.count(t, "purchase WHERE NOT cancelled"))
	h.at = date(5)
	h.deliver(t, "sales", &orderv1.OrderCancelled{OrderId: "ord_1"})
	h.send(t, "sales", edited...)
	same(t, []*analyticsv1.Figure{{Orders: 1, SoldUnits: 6, CancelledUnits: 6, Amounts: gbp(2000, 2000)}}, h.rows(t, operator, november()))
	eventually(t, "the recommender takes it back", func() bool { return h.model(t).GetLines() == 0 })
}

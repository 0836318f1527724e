package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestAnOrderThatWasChangedIsAppliedForAsItIsNow(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.place(t, h.ann.principal.Account, "DE", time.Now(), 0, tea(1), bought{sku: "sku_pot", quantity: 1, price: 3000})
	elsewhere := id.New("vlt")
	pan := bought{sku: "sku_pan", quantity: 2, price: 700}
	edited := &orderv1.OrderEdited{OrderId: order, Market: "DE", Total: euros(4000), PaymentId: id.New("pay"), ShipToRef: elsewhere}
	for _, l := range []bought{tea(2), pan} {
		edited.Lines = append(edited.Lines, &orderv1.Line{Sku: l.sku, MerchantId: "mrc_one", Title: l.sku, Quantity: l.quantity, UnitPrice: euros(l.price), Total: euros(l.price * l.quantity)})
	}
	require.NoError(t, h.Deliver(t.Context(), "orders", edited, edited))
	f, s := h.send(t, order, id.New("frq"), tea(2), pan)
	h.arrive(t, order, f, s, time.Now())
	check, err := h.ann.CheckApplication(t.Context(), &aftersalev1.CheckApplicationRequest{OrderId: order})
	require.NoError(t, err)
	free, worth := map[string]int64{}, map[string]int64{}
	for _, l := range check.GetLines() {
		free[l.GetSku()], worth[l.GetSku()] = l.GetFree(), l.GetKinds()[0].GetRefund().GetMinorUnits()
	}
	require.Equal(t, map[string]int64{"sku_tea": 2, "sku_pan": 2, "sku_pot": 0}, free)
	// 3900 of goods, and 100 beside: 64 are the teas', 36 the pans'.
	require.Equal(t, map[string]int64{"sku_tea": 1282, "sku_pan": 718, "sku_pot": 0}, worth)
	c := h.apply(t, application(order, withdrawal, 0, "sku_pan", 1))
	require.Equal(t, elsewhere, h.booked[c.GetReturnShipmentId()].GetFrom().GetAddressRef(), "it comes from where it was sent")
}

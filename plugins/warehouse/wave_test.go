package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// What is not on the shelf is taken out of the books and waits as a fulfilment
// of its own until goods come.
func TestAShortPickWaitsForGoods(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 5})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 5))
	picks := d.plan(t, "w1").GetPicks()
	picks[0].Quantity = 3
	d.pick(t, "w1", picks...)
	require.Equal(t, map[string]int64{"picked": 3}, d.units(t), "the two are nobody's to sell")
	require.EqualValues(t, 3, d.get(t, f).GetLines()[0].GetQuantity())
	waiting, err := d.floor.ListFulfilments(t.Context(), &warehousev1.ListFulfilmentsRequest{State: warehousev1.Fulfilment_STATE_WAITING})
	require.NoError(t, err)
	require.Len(t, waiting.GetFulfilments(), 1)
	rest := waiting.GetFulfilments()[0].GetFulfilmentId()
	revival := func() {
		require.NoError(t, d.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "warehouse/revival"}))
	}
	revival()
	require.Equal(t, warehousev1.Fulfilment_STATE_WAITING, d.get(t, rest).GetState())
	d.stock(t, "", map[string]int64{"sku_a": 4})
	revival()
	require.Equal(t, warehousev1.Fulfilment_STATE_OPEN, d.get(t, rest).GetState())
	require.Equal(t, map[string]int64{"picked": 3, "sellable": 2, "reserved": 2}, d.units(t))
	d.pick(t, "w2", d.plan(t, "w2").GetPicks()...)
	for _, one := range []string{f, rest} {
		d.pack(t, one)
		d.assign(t, one)
		d.handOver(t, "m-"+one, one)
		d.tell(t, one, logisticsv1.Status_STATUS_DELIVERED)
	}
	require.Equal(t, map[string]int64{"sellable": 2}, d.units(t))
}

func TestAWaitingPartIsStoppedWithItsOrder(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 5})
	_, r := d.ordered(t, "ord_1", line("sku_a", 5))
	picks := d.plan(t, "w1").GetPicks()
	picks[0].Quantity = 3
	d.pick(t, "w1", picks...)
	d.stock(t, "", map[string]int64{"sku_a": 4})
	require.NoError(t, d.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "warehouse/revival"}))
	_, err := d.steps.CancelFulfilment(t.Context(), &warehousev1.CancelFulfilmentRequest{Reference: "ord_1"})
	require.NoError(t, err)
	_, err = d.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: r})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"sellable": 7}, d.units(t))
}

// A line that asks for goods that passed gets those, piece by piece scanned,
// each in one place.
func TestAuthenticatedGoodsAreScanned(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.passed(t, "unt_1", "unt_2", "unt_3")
	d.stock(t, "", map[string]int64{"sku_a": 5})
	want := &warehousev1.ReservationLine{Sku: "sku_a", Quantity: 2, Authenticated: true}
	f, _ := d.ordered(t, "ord_1", want)
	picks := d.plan(t, "w1").GetPicks()
	confirm := func(n string, units ...string) error {
		picks[0].UnitIds = units
		_, err := d.floor.ConfirmPicks(t.Context(), &warehousev1.ConfirmPicksRequest{PickId: n, WaveId: "w1", Picks: picks})
		return err
	}
	refused(t, connect.CodeInvalidArgument, "UNITS_NOT_SCANNED", confirm("p1"))
	refused(t, connect.CodeInvalidArgument, "UNITS_NOT_SCANNED", confirm("p2", "unt_1"))
	refused(t, connect.CodeFailedPrecondition, "UNIT_ELSEWHERE", confirm("p3", "unt_1", "unt_9"))
	require.NoError(t, confirm("p4", "unt_1", "unt_3"))
	d.pack(t, f)
	require.ElementsMatch(t, []string{"unt_1", "unt_3"}, d.get(t, f).GetParcels()[0].GetLines()[0].GetUnitIds())
	d.assign(t, f)
	d.handOver(t, "m1", f)
	d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	require.Equal(t, map[string]int64{"sellable": 6}, d.units(t))
	for _, e := range d.Published(t) {
		if e, ok := e.(*warehousev1.FulfilmentDelivered); ok {
			require.ElementsMatch(t, []string{"unt_1", "unt_3"}, e.GetUnitIds())
		}
	}
	// Only one is left that passed: plain goods do not stand in for it.
	_, err := d.orders.ReserveStock(t.Context(), reservationOf(want))
	refused(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
}

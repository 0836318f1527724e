package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// The first part of an order goes out while the rest is still packed: each is a
// fulfilment with a shipment of its own, serials with the part that they are
// in.
func TestAnOrderIsShippedInParts(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.shelve(t, "sku_a", "unt_1", "unt_2")
	d.stock(t, "", map[string]int64{"sku_b": 5})
	f, _ := d.ordered(t, "ord_1", &warehousev1.ReservationLine{Sku: "sku_a", Quantity: 2, Authenticated: true}, line("sku_b", 3))
	picks := d.plan(t, "w1").GetPicks()
	for _, p := range picks {
		if p.GetAuthenticated() {
			p.UnitIds = []string{"unt_1", "unt_2"}
		}
	}
	d.pick(t, "w1", picks...)
	_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{ParcelId: id.New("pcl"), FulfilmentId: f, WeightGrams: 1800, Lines: []*warehousev1.ParcelLine{
		{Sku: "sku_a", Quantity: 1, UnitIds: []string{"unt_2"}}, {Sku: "sku_b", Quantity: 2},
	}})
	require.NoError(t, err)
	finished, err := d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: f, Partial: true})
	require.NoError(t, err)
	rest := finished.GetRest()
	require.Equal(t, f, rest.GetSplitFrom())
	require.Equal(t, finished.GetFulfilment().GetRequestId(), rest.GetRequestId())
	require.Equal(t, []string{"unt_1"}, rest.GetLines()[0].GetUnitIds())
	require.EqualValues(t, 1, rest.GetLines()[1].GetQuantity())
	d.assign(t, f)
	d.handOver(t, "m1", f)
	require.Equal(t, map[string]int64{"in_transit": 3, "picked": 2, "sellable": 2}, d.units(t))
	d.pack(t, rest.GetFulfilmentId())
	d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	require.Equal(t, map[string]int64{"packed": 2, "sellable": 2}, d.units(t))
	d.assign(t, rest.GetFulfilmentId())
	d.handOver(t, "m2", rest.GetFulfilmentId())
	d.tell(t, rest.GetFulfilmentId(), logisticsv1.Status_STATUS_DELIVERED)
	require.Equal(t, map[string]int64{"sellable": 2}, d.units(t))

	var split []*warehousev1.FulfilmentSplit
	delivered := map[string][]string{}
	for _, e := range d.Published(t) {
		switch e := e.(type) {
		case *warehousev1.FulfilmentSplit:
			split = append(split, e)
		case *warehousev1.FulfilmentDelivered:
			require.Equal(t, "ord_1", e.GetReference())
			delivered[e.GetShipmentId()] = e.GetUnitIds()
		}
	}
	require.Len(t, split, 1)
	require.Equal(t, rest.GetFulfilmentId(), split[0].GetRestId())
	require.False(t, split[0].GetShort(), "it is all there")
	require.Equal(t, map[string][]string{"shp_" + f: {"unt_2"}, "shp_" + rest.GetFulfilmentId(): {"unt_1"}}, delivered)
	// All of it may come back, as one order.
	_, err = d.desk(worker("acc_1")).returns.AuthoriseReturn(t.Context(), authorisation("ord_1", back("sku_a", 2, "unt_1", "unt_2"), back("sku_b", 3)))
	require.NoError(t, err)
}

// Goods that stand at two sites are sent from both, each when it is ready.
func TestAnOrderIsSplitOverItsSites(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 3})
	d.stock(t, "north", map[string]int64{"sku_a": 3})
	r := reservationOf(line("sku_a", 5))
	_, err := d.orders.ReserveStock(t.Context(), r)
	require.NoError(t, err)
	res, err := d.steps.RequestFulfilment(t.Context(), request("ord_1", r.GetReservationId(), line("sku_a", 5)))
	require.NoError(t, err)
	require.Len(t, res.GetFulfilmentIds(), 2)
	main, north := res.GetFulfilmentIds()[0], res.GetFulfilmentIds()[1]
	require.EqualValues(t, 3, d.get(t, main).GetLines()[0].GetQuantity())
	require.Equal(t, "north", d.get(t, north).GetSite())
	require.Len(t, d.plan(t, "w1").GetFulfilments(), 1, "a wave is of one site")
	send := func(site, f string) {
		plan, err := d.floor.PlanWave(t.Context(), &warehousev1.PlanWaveRequest{WaveId: "w-" + site, Site: site})
		require.NoError(t, err)
		if site == "" {
			plan = d.plan(t, "w1")
		}
		require.Len(t, plan.GetPicks(), 1)
		_, err = d.floor.ConfirmPicks(t.Context(), &warehousev1.ConfirmPicksRequest{PickId: "p-" + site, WaveId: d.get(t, f).GetWaveId(), Picks: plan.GetPicks()})
		require.NoError(t, err)
		d.pack(t, f)
		d.assign(t, f)
		d.handOver(t, "m-"+site, f)
		d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	}
	send("north", north)
	require.Equal(t, map[string]int64{"reserved": 3, "sellable": 1}, d.units(t))
	send("", main)
	require.Equal(t, map[string]int64{"sellable": 1}, d.units(t))
	for _, f := range res.GetFulfilmentIds() {
		require.Equal(t, warehousev1.Fulfilment_STATE_DELIVERED, d.get(t, f).GetState())
	}
}

package main

import (
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestGoodsGoFromTheShelfToTheDoor(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 10, "sku_b": 10})
	f, r := d.ordered(t, "ord_1", line("sku_a", 7), line("sku_b", 2))
	again, err := d.steps.RequestFulfilment(t.Context(), request("ord_1", r, line("sku_a", 7), line("sku_b", 2)))
	require.NoError(t, err)
	require.Equal(t, []string{f}, again.GetFulfilmentIds(), "asked twice is asked once")
	res, err := d.orders.GetReservation(t.Context(), &warehousev1.GetReservationRequest{ReservationId: r})
	require.NoError(t, err)
	require.Equal(t, warehousev1.Reservation_STATE_FULFILLED, res.GetReservation().GetState())

	plan := d.plan(t, "w1")
	require.Len(t, plan.GetPicks(), 2)
	require.Empty(t, d.plan(t, "w2").GetFulfilments(), "it is in a wave already")
	for range 2 {
		d.pick(t, "w1", plan.GetPicks()...)
	}
	require.Equal(t, map[string]int64{"sellable": 11, "picked": 9}, d.units(t))
	d.pack(t, f)
	require.Equal(t, map[string]int64{"sellable": 11, "packed": 9}, d.units(t))
	got := d.get(t, f)
	require.Len(t, got.GetParcels(), 2, "7.8 kg in parcels of 5")
	for _, p := range got.GetParcels() {
		require.NoError(t, gs1.SSCC(p.GetSscc()))
	}
	d.assign(t, f)
	require.Equal(t, map[string]int64{"sellable": 11, "outbound": 9}, d.units(t))
	d.handOver(t, "m1", f)
	require.Equal(t, map[string]int64{"sellable": 11, "in_transit": 9}, d.units(t))
	for range 2 {
		d.tell(t, f, logisticsv1.Status_STATUS_IN_TRANSIT)
		d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	}
	require.Equal(t, map[string]int64{"sellable": 11}, d.units(t))
	require.Equal(t, warehousev1.Fulfilment_STATE_DELIVERED, d.get(t, f).GetState())
	var told []string
	for _, e := range d.Published(t) {
		switch e := e.(type) {
		case *warehousev1.FulfilmentOpened:
			told = append(told, "opened")
		case *warehousev1.FulfilmentPacked:
			told = append(told, "packed")
			require.Len(t, e.GetParcels(), 2)
		case *warehousev1.FulfilmentHandedOver:
			told = append(told, "handed over")
		case *warehousev1.FulfilmentDelivered:
			told = append(told, "delivered")
		}
	}
	require.Equal(t, []string{"opened", "packed", "handed over", "delivered"}, told, "each once")
	var shipped int64
	require.NoError(t, d.DB.QueryRowContext(t.Context(), `SELECT sum(quantity) FROM shipped WHERE reference = 'ord_1'`).Scan(&shipped))
	require.EqualValues(t, 9, shipped, "what may come back")
}

func TestOnlyReservedGoodsAreFulfilled(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 10})
	r := reservationOf(line("sku_a", 5))
	_, err := d.orders.ReserveStock(t.Context(), r)
	require.NoError(t, err)
	_, err = d.steps.RequestFulfilment(t.Context(), request("ord_1", r.GetReservationId(), line("sku_a", 6)))
	refused(t, connect.CodeFailedPrecondition, "NOT_RESERVED", err)
	_, err = d.steps.RequestFulfilment(t.Context(), request("ord_2", r.GetReservationId(), line("sku_a", 3)))
	require.NoError(t, err)
	_, err = d.steps.RequestFulfilment(t.Context(), request("ord_3", r.GetReservationId(), line("sku_a", 3)))
	refused(t, connect.CodeFailedPrecondition, "NOT_RESERVED", err)
	_, err = d.steps.RequestFulfilment(t.Context(), request("ord_4", id.New("rsv"), line("sku_a", 1)))
	refused(t, connect.CodeFailedPrecondition, "RESERVATION_ENDED", err)
	d.consistent(t)
}

// At every point before the lorry an order can be stopped, and its goods are
// sellable again once its reservation is released; after it nothing changes.
func TestAnOrderIsStoppedUntilItIsHandedOver(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 1, "sku_b": 1})
	for upTo, name := range []string{"open", "in a wave", "picked", "partly packed", "packed", "at the door", "on the lorry"} {
		order := fmt.Sprint("ord_", upTo)
		d.stock(t, "", map[string]int64{"sku_a": 3, "sku_b": 1})
		had := d.units(t)["sellable"]
		f, r := d.ordered(t, order, line("sku_a", 3), line("sku_b", 1))
		for i, do := range []func(){
			func() { d.plan(t, order) },
			func() { d.pick(t, order, d.plan(t, order).GetPicks()...) },
			func() {
				_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{
					ParcelId: id.New("pcl"), FulfilmentId: f, WeightGrams: 2000, Lines: []*warehousev1.ParcelLine{{Sku: "sku_a", Quantity: 2}},
				})
				require.NoError(t, err)
			},
			func() { d.pack(t, f) },
			func() { d.assign(t, f) },
			func() { d.handOver(t, "m1", f) },
		} {
			if i < upTo {
				do()
			}
		}
		_, err := d.steps.CancelFulfilment(t.Context(), &warehousev1.CancelFulfilmentRequest{Reference: order})
		if name == "on the lorry" {
			refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
			require.Equal(t, map[string]int64{"sellable": had - 4, "in_transit": 4}, d.units(t))
			continue
		}
		require.NoError(t, err, name)
		_, err = d.steps.CancelFulfilment(t.Context(), &warehousev1.CancelFulfilmentRequest{Reference: order})
		require.NoError(t, err, "stopped twice is stopped")
		require.Equal(t, map[string]int64{"sellable": had - 4, "reserved": 4}, d.units(t), name)
		_, err = d.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: r})
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"sellable": had}, d.units(t), name)
		late := request(order, r, line("sku_a", 1))
		late.RequestId = id.New("frq")
		_, err = d.steps.RequestFulfilment(t.Context(), late)
		refused(t, connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", err)
		_, err = d.steps.AssignShipment(t.Context(), &warehousev1.AssignShipmentRequest{FulfilmentId: f, ShipmentId: "shp_late", CarrierInstance: "post"})
		refused(t, connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", err)
	}
}

// Two floors plan, pick and pack side by side: every piece goes to one order.
func TestTwoFloorsShareTheWork(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 40})
	for i := range 20 {
		d.ordered(t, fmt.Sprint("ord_", i), line("sku_a", 2))
	}
	var wg sync.WaitGroup
	for n := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				wave := fmt.Sprintf("w%d-%d", n, i)
				res, err := d.floor.PlanWave(t.Context(), &warehousev1.PlanWaveRequest{WaveId: wave, MaxFulfilments: 3})
				require.NoError(t, err)
				if len(res.GetFulfilments()) == 0 {
					return
				}
				d.pick(t, wave, res.GetPicks()...)
				for _, f := range res.GetFulfilments() {
					d.pack(t, f.GetFulfilmentId())
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, map[string]int64{"packed": 40}, d.units(t))
}

package main

import (
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

// dock is a warehouse with its floor.
type dock struct {
	*house
	floor warehousev1connect.FulfilmentServiceClient
	steps warehousev1connect.FulfilmentStepServiceClient
}

func openDock(t testing.TB) *dock {
	t.Helper()
	h := open(t)
	require.NoError(t, h.Deliver(t.Context(), "catalog", &catalogv1.ProductChanged{
		ProductId: "prd_1", MerchantId: "mrc_one", Skus: []string{"sku_a", "sku_b"},
		Goods: []*catalogv1.GoodsFacts{{Sku: "sku_a", WeightGrams: 1000}, {Sku: "sku_b", WeightGrams: 400}},
	}))
	return &dock{
		h, warehousev1connect.NewFulfilmentServiceClient(h.Client(plugintest.As(call.Principal{Kind: call.Staff, Account: "acc_staff"}, "GB"))),
		warehousev1connect.NewFulfilmentStepServiceClient(h.Client(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "order"}, "GB"))),
	}
}

// ordered goods are reserved and asked for; the answer is their fulfilment.
func (d *dock) ordered(t testing.TB, order string, lines ...*warehousev1.ReservationLine) (fulfilment, reservation string) {
	t.Helper()
	r := reservationOf(lines...)
	r.Reference = order
	_, err := d.orders.ReserveStock(t.Context(), r)
	require.NoError(t, err)
	res, err := d.steps.RequestFulfilment(t.Context(), request(order, r.GetReservationId(), lines...))
	require.NoError(t, err)
	require.Len(t, res.GetFulfilmentIds(), 1)
	return res.GetFulfilmentIds()[0], r.GetReservationId()
}

func request(order, reservation string, lines ...*warehousev1.ReservationLine) *warehousev1.RequestFulfilmentRequest {
	req := &warehousev1.RequestFulfilmentRequest{
		RequestId: id.Derive("frq", order), ReservationId: reservation, Reference: order, MerchantId: "mrc_one", Market: "GB",
	}
	for _, l := range lines {
		req.Lines = append(req.Lines, &warehousev1.FulfilmentLine{Sku: l.GetSku(), Quantity: l.GetQuantity(), Authenticated: l.GetAuthenticated()})
	}
	return req
}

func (d *dock) get(t testing.TB, fulfilment string) *warehousev1.Fulfilment {
	t.Helper()
	res, err := d.floor.GetFulfilment(t.Context(), &warehousev1.GetFulfilmentRequest{FulfilmentId: fulfilment})
	require.NoError(t, err)
	return res.GetFulfilment()
}

func (d *dock) plan(t testing.TB, wave string) *warehousev1.PlanWaveResponse {
	t.Helper()
	res, err := d.floor.PlanWave(t.Context(), &warehousev1.PlanWaveRequest{WaveId: wave})
	require.NoError(t, err)
	return res
}

func (d *dock) pick(t testing.TB, wave string, picks ...*warehousev1.Pick) {
	t.Helper()
	_, err := d.floor.ConfirmPicks(t.Context(), &warehousev1.ConfirmPicksRequest{PickId: wave, WaveId: wave, Picks: picks})
	require.NoError(t, err)
}

// pack packs everything as proposed and closes the parcels.
func (d *dock) pack(t testing.TB, fulfilment string) {
	t.Helper()
	plan, err := d.floor.ProposeParcels(t.Context(), &warehousev1.ProposeParcelsRequest{FulfilmentId: fulfilment, Limits: &warehousev1.ParcelLimits{MaxWeightGrams: 5000}})
	require.NoError(t, err)
	for i, p := range plan.GetParcels() {
		for range 2 { // scanned twice is packed once
			_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{
				ParcelId: id.Derive("pcl", fmt.Sprint(fulfilment, i)), FulfilmentId: fulfilment, WeightGrams: max(p.GetWeightGrams(), 1), Lines: p.GetLines(),
			})
			require.NoError(t, err)
		}
	}
	for range 2 {
		_, err = d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: fulfilment})
		require.NoError(t, err)
	}
}

func (d *dock) assign(t testing.TB, fulfilment string) {
	t.Helper()
	for range 2 {
		_, err := d.steps.AssignShipment(t.Context(), &warehousev1.AssignShipmentRequest{FulfilmentId: fulfilment, ShipmentId: "shp_" + fulfilment, CarrierInstance: "post"})
		require.NoError(t, err)
	}
}

func (d *dock) ssccs(t testing.TB, fulfilment string) (all []string) {
	t.Helper()
	for _, p := range d.get(t, fulfilment).GetParcels() {
		all = append(all, p.GetSscc())
	}
	return all
}

func (d *dock) handOver(t testing.TB, manifest, fulfilment string) {
	t.Helper()
	for range 2 {
		res, err := d.floor.HandOver(t.Context(), &warehousev1.HandOverRequest{ManifestId: manifest, CarrierInstance: "post", Ssccs: d.ssccs(t, fulfilment)})
		require.NoError(t, err)
		require.Equal(t, []string{fulfilment}, res.GetFulfilmentIds())
	}
}

func (d *dock) tell(t testing.TB, fulfilment string, status logisticsv1.Status) {
	t.Helper()
	require.NoError(t, d.Deliver(t.Context(), "logistics", &logisticsv1.ShipmentMoved{
		ShipmentId: "shp_" + fulfilment, Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, Reference: fulfilment, Status: status,
	}))
}

// gone brings a fulfilment as far as the lorry.
func (d *dock) gone(t testing.TB, order string, lines ...*warehousev1.ReservationLine) string {
	t.Helper()
	f, _ := d.ordered(t, order, lines...)
	d.pick(t, "w-"+order, d.plan(t, "w-"+order).GetPicks()...)
	d.pack(t, f)
	d.assign(t, f)
	d.handOver(t, "m-"+order, f)
	return f
}

func (d *dock) units(t testing.TB) map[string]int64 {
	t.Helper()
	left := map[string]int64{}
	for what, n := range d.consistent(t).GetUnits() {
		if n != 0 {
			left[what] = n
		}
	}
	return left
}

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

func TestGoodsAtTwoSitesAreTwoFulfilments(t *testing.T) {
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
	require.EqualValues(t, 3, d.get(t, res.GetFulfilmentIds()[0]).GetLines()[0].GetQuantity())
	require.Equal(t, "north", d.get(t, res.GetFulfilmentIds()[1]).GetSite())
	require.Len(t, d.plan(t, "w1").GetFulfilments(), 1, "a wave is of one site")
}

// At every point before the lorry an order can be stopped, and its goods are
// sellable again once its reservation is released; after it nothing changes.
func TestAnOrderIsStoppedUntilItIsHandedOver(t *testing.T) {
	t.Parallel()
	for name, upTo := range map[string]int{"open": 0, "in a wave": 1, "picked": 2, "partly packed": 3, "packed": 4, "at the door": 5, "on the lorry": 6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDock(t)
			d.stock(t, "", map[string]int64{"sku_a": 4, "sku_b": 2})
			f, r := d.ordered(t, "ord_1", line("sku_a", 3), line("sku_b", 1))
			for i, do := range []func(){
				func() { d.plan(t, "w1") },
				func() { d.pick(t, "w1", d.plan(t, "w1").GetPicks()...) },
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
			_, err := d.steps.CancelFulfilment(t.Context(), &warehousev1.CancelFulfilmentRequest{Reference: "ord_1"})
			if upTo == 6 {
				refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
				require.Equal(t, map[string]int64{"sellable": 2, "in_transit": 4}, d.units(t))
				return
			}
			require.NoError(t, err)
			_, err = d.steps.CancelFulfilment(t.Context(), &warehousev1.CancelFulfilmentRequest{Reference: "ord_1"})
			require.NoError(t, err, "stopped twice is stopped")
			require.Equal(t, map[string]int64{"sellable": 2, "reserved": 4}, d.units(t))
			_, err = d.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: r})
			require.NoError(t, err)
			require.Equal(t, map[string]int64{"sellable": 6}, d.units(t))
			late := request("ord_1", r, line("sku_a", 1))
			late.RequestId = id.New("frq")
			_, err = d.steps.RequestFulfilment(t.Context(), late)
			refused(t, connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", err)
			_, err = d.steps.AssignShipment(t.Context(), &warehousev1.AssignShipmentRequest{FulfilmentId: f, ShipmentId: "shp_late", CarrierInstance: "post"})
			refused(t, connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", err)
		})
	}
}

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

func TestAParcelThatWeighsWrongIsNotClosed(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9, "sku_c": 9})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 4), line("sku_c", 1))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	pack := func(grams int32, lines ...*warehousev1.ParcelLine) error {
		_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{ParcelId: id.New("pcl"), FulfilmentId: f, WeightGrams: grams, Lines: lines})
		return err
	}
	four := &warehousev1.ParcelLine{Sku: "sku_a", Quantity: 4}
	refused(t, connect.CodeFailedPrecondition, "WEIGHT_IMPLAUSIBLE", pack(3100, four))
	refused(t, connect.CodeFailedPrecondition, "WEIGHT_IMPLAUSIBLE", pack(4900, four))
	refused(t, connect.CodeFailedPrecondition, "NOT_PICKED", pack(5000, &warehousev1.ParcelLine{Sku: "sku_a", Quantity: 5}))
	refused(t, connect.CodeFailedPrecondition, "NOT_PICKED", pack(5000, &warehousev1.ParcelLine{Sku: "sku_b", Quantity: 1}))
	require.NoError(t, pack(4700, four))
	_, err := d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: f})
	refused(t, connect.CodeFailedPrecondition, "UNPACKED", err)
	res, err := d.floor.FinishPacking(t.Context(), &warehousev1.FinishPackingRequest{FulfilmentId: f, Partial: true})
	require.NoError(t, err)
	require.Equal(t, "sku_c", res.GetRest().GetLines()[0].GetSku())
	require.Equal(t, warehousev1.Fulfilment_STATE_PICKED, res.GetRest().GetState())
	require.NoError(t, func() error {
		_, err := d.floor.PackParcel(t.Context(), &warehousev1.PackParcelRequest{
			ParcelId: id.New("pcl"), FulfilmentId: res.GetRest().GetFulfilmentId(), WeightGrams: 20_000, Lines: []*warehousev1.ParcelLine{{Sku: "sku_c", Quantity: 1}},
		})
		return err
	}(), "nobody said what it weighs")
	require.Equal(t, map[string]int64{"packed": 5, "sellable": 13}, d.units(t))
}

func TestParcelsFitTheCarrier(t *testing.T) {
	t.Parallel()
	boxes := []carton{{"s", 200, 150, 100, 50, 2000}, {"m", 400, 300, 200, 200, 10_000}, {"l", 1200, 600, 600, 900, 30_000}}
	rapid.Check(t, func(t *rapid.T) {
		var pieces []piece
		want := map[string]int64{}
		for i := range rapid.IntRange(1, 6).Draw(t, "lines") {
			sku := fmt.Sprint("sku_", i)
			n, g := rapid.Int64Range(1, 60).Draw(t, "quantity"), rapid.Int64Range(0, 4000).Draw(t, "grams")
			pieces, want[sku] = append(pieces, piece{&warehousev1.ParcelLine{Sku: sku, Quantity: n}, g}), n
		}
		grams := map[string]int64{}
		for _, p := range pieces {
			grams[p.line.GetSku()] = p.grams
		}
		limit := rapid.Int32Range(6000, 40_000).Draw(t, "limit")
		got, err := plan(pieces, allowed(boxes, &warehousev1.ParcelLimits{MaxWeightGrams: limit, MaxGirthMm: 2000}))
		require.NoError(t, err)
		have := map[string]int64{}
		for _, p := range got {
			require.NotEqual(t, "l", p.GetBox(), "its girth is too much")
			require.LessOrEqual(t, p.GetWeightGrams(), min(limit, 10_000))
			require.NotEmpty(t, p.GetLines())
			for _, l := range p.GetLines() {
				have[l.GetSku()] += l.GetQuantity()
			}
		}
		require.Equal(t, want, have, "every piece once")
	})
	_, err := plan([]piece{{&warehousev1.ParcelLine{Sku: "x", Quantity: 1}, 31_000}}, boxes)
	refused(t, connect.CodeFailedPrecondition, "TOO_HEAVY", err)
	_, err = plan(nil, nil)
	refused(t, connect.CodeFailedPrecondition, "NO_BOX", err)
}

func TestALorryTakesItsOwnParcelsOnce(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	f, _ := d.ordered(t, "ord_1", line("sku_a", 1))
	d.pick(t, "w1", d.plan(t, "w1").GetPicks()...)
	d.pack(t, f)
	sscc := d.ssccs(t, f)
	hand := func(manifest, carrier string, ssccs ...string) error {
		_, err := d.floor.HandOver(t.Context(), &warehousev1.HandOverRequest{ManifestId: manifest, CarrierInstance: carrier, Ssccs: ssccs})
		return err
	}
	refused(t, connect.CodeFailedPrecondition, "FULFILMENT_STATE", hand("m1", "post", sscc...))
	d.assign(t, f)
	refused(t, connect.CodeFailedPrecondition, "OTHER_CARRIER", hand("m1", "express", sscc...))
	refused(t, connect.CodeNotFound, "PARCEL_UNKNOWN", hand("m1", "post", sscc[0], "106141411234567897"))
	require.NoError(t, hand("m1", "post", sscc...))
	refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", hand("m2", "post", sscc...))
}

func TestGoodsThatComeBackByTheCarrierStandInQuarantine(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	for order, c := range map[string]struct {
		status logisticsv1.Status
		stands map[string]int64
	}{
		"ord_1": {logisticsv1.Status_STATUS_RETURNED, map[string]int64{"quarantine": 2, "sellable": 7}},
	} {
		f := d.gone(t, order, line("sku_a", 2))
		d.tell(t, f, c.status)
		d.tell(t, f, c.status)
		require.Equal(t, c.stands, d.units(t))
	}
	f := d.gone(t, "ord_2", line("sku_a", 3))
	d.tell(t, f, logisticsv1.Status_STATUS_LOST)
	d.tell(t, f, logisticsv1.Status_STATUS_DELIVERED)
	require.Equal(t, map[string]int64{"quarantine": 2, "sellable": 4}, d.units(t))
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

// passed puts serialised goods that passed an inspection on the shelf.
func (d *dock) passed(t testing.TB, units ...string) {
	t.Helper()
	for _, u := range units {
		require.NoError(t, d.Deliver(t.Context(), "inspection", &inspectionv1.GoodsPassed{
			Passage: "cas_1/sku_a//" + u + "/1", CaseId: "cas_1", Sku: "sku_a", UnitId: u, Quantity: 1,
		}))
		for _, w := range [][3]string{{"admission", "external", "receiving"}, {"put-away", "receiving", "sellable"}} {
			_, err := d.DB.ExecContext(t.Context(), `SELECT post(?, ?, ?, '{sku_a}', '{main}', '{""}', '{true}', ARRAY[?], '{1}', '{x}', 'cas_1', '', 'test')`, w[0], w[1], w[2], u)
			require.NoError(t, err)
		}
	}
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

func TestAParcelsLabelCarriesItsNumber(t *testing.T) {
	t.Parallel()
	d := openDock(t)
	d.stock(t, "", map[string]int64{"sku_a": 9})
	f := d.gone(t, "ord_1", line("sku_a", 1))
	p := d.get(t, f).GetParcels()[0]
	for format, begins := range map[warehousev1.GetParcelLabelRequest_Format]string{
		warehousev1.GetParcelLabelRequest_FORMAT_PDF: "%PDF", warehousev1.GetParcelLabelRequest_FORMAT_ZPL: "^XA",
	} {
		res, err := d.floor.GetParcelLabel(t.Context(), &warehousev1.GetParcelLabelRequest{ParcelId: p.GetParcelId(), Format: format})
		require.NoError(t, err)
		require.Contains(t, string(res.GetContent()), begins)
		if format == warehousev1.GetParcelLabelRequest_FORMAT_ZPL {
			require.Contains(t, string(res.GetContent()), ">;>800"+p.GetSscc())
		}
	}
	two := warehousev1connect.NewFulfilmentServiceClient(d.Client(plugintest.As(call.Principal{Kind: call.Merchant, Merchant: "mrc_two", Permissions: []string{"*"}}, "GB")))
	_, err := two.GetParcelLabel(t.Context(), &warehousev1.GetParcelLabelRequest{ParcelId: p.GetParcelId()})
	refused(t, connect.CodeNotFound, "PARCEL_UNKNOWN", err)
	_, err = two.GetFulfilment(t.Context(), &warehousev1.GetFulfilmentRequest{FulfilmentId: f})
	refused(t, connect.CodeNotFound, "FULFILMENT_UNKNOWN", err)
}

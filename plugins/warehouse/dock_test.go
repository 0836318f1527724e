package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
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

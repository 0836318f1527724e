package shop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// site is the one warehouse, and the one inspection, of the example.
const site = "main"

// Floor is what the warehouse's people do: they pick, pack and hand over
// whatever merchants have accepted.
type Floor struct {
	shop *Shop
	// waves are numbered, and so are manifests.
	mu         sync.Mutex
	n          int
	fulfil     warehousev1connect.FulfilmentServiceClient
	shipments  logisticsv1connect.ShipmentServiceClient
	units      inspectionv1connect.UnitServiceClient
	purchasing warehousev1connect.PurchasingServiceClient
	// picked are serials that are off the shelf, so that no other pick scans
	// them.
	picked map[string]bool
}

// NewFloor opens the floor, which says where the warehouse is.
func (s *Shop) NewFloor(ctx context.Context, who *Person) (*Floor, error) {
	c := who.Client()
	if err := s.place(ctx, who, "warehouse/"+site, "Entrepot"); err != nil {
		return nil, err
	}
	return &Floor{
		shop: s, picked: map[string]bool{}, fulfil: warehousev1connect.NewFulfilmentServiceClient(c),
		shipments: logisticsv1connect.NewShipmentServiceClient(c), units: inspectionv1connect.NewUnitServiceClient(c), purchasing: warehousev1connect.NewPurchasingServiceClient(c),
	}, nil
}

// Work picks up to so many fulfilments, oldest first, and goes on until they
// are handed over. step is told of each.
func (f *Floor) Work(ctx context.Context, most int, step func(n int)) error {
	for {
		packed := 0
		var err error
		if most > 0 {
			if packed, err = f.Wave(ctx, min(most, 50)); err != nil {
				return err
			}
			most -= packed
		}
		if packed == 0 {
			most = 0 // no more are there
		}
		gone, err := f.handOver(ctx)
		if err != nil {
			return err
		}
		step(gone)
		if packed+gone > 0 {
			continue
		}
		if open, err := f.open(ctx); err != nil || open == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (f *Floor) next(what string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return fmt.Sprintf("%s-%05d", what, f.n)
}

// Wave picks and packs up to so many fulfilments and answers how many.
func (f *Floor) Wave(ctx context.Context, most int) (int, error) {
	name := f.next("wave")
	plan, err := Patient(ctx, func(ctx context.Context) (*warehousev1.PlanWaveResponse, error) {
		return f.fulfil.PlanWave(ctx, &warehousev1.PlanWaveRequest{WaveId: name, Site: site, MaxFulfilments: int32(most)})
	})
	if err != nil || len(plan.GetFulfilments()) == 0 {
		return 0, err
	}
	for n, picks := range whole(plan.GetPicks()) {
		for _, p := range picks {
			if err := f.scan(ctx, p); err != nil {
				return 0, err
			}
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ConfirmPicksResponse, error) {
			return f.fulfil.ConfirmPicks(ctx, &warehousev1.ConfirmPicksRequest{PickId: fmt.Sprintf("%s-%d", name, n), WaveId: name, Picks: picks})
		}); err != nil {
			return 0, fmt.Errorf("pick %s: %w", name, err)
		}
	}
	return len(plan.GetFulfilments()), side(ctx, len(plan.GetFulfilments()), 4, func(ctx context.Context, i int) error {
		if err := f.pack(ctx, plan.GetFulfilments()[i].GetFulfilmentId()); err != nil {
			return fmt.Errorf("pack %s: %w", plan.GetFulfilments()[i].GetFulfilmentId(), err)
		}
		return nil
	})
}

// scan reads the serials of goods that must have passed inspection.
func (f *Floor) scan(ctx context.Context, p *warehousev1.Pick) error {
	if !p.GetAuthenticated() || len(p.GetUnitIds()) > 0 {
		return nil
	}
	res, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.ListUnitsResponse, error) {
		return f.units.ListUnits(ctx, &inspectionv1.ListUnitsRequest{
			Sku: p.GetSku(), Holder: "warehouse/" + site, Verdict: inspectionv1.Verdict_VERDICT_GENUINE, PageSize: 500,
		})
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range res.GetUnits() {
		if !f.picked[u.GetUnitId()] && int64(len(p.GetUnitIds())) < p.GetQuantity() {
			f.picked[u.GetUnitId()] = true
			p.UnitIds = append(p.UnitIds, u.GetUnitId())
		}
	}
	return nil
}

// carriers of the example take parcels up to this.
var limits = &warehousev1.ParcelLimits{MaxWeightGrams: 30_000}

func (f *Floor) pack(ctx context.Context, fulfilment string) error {
	plan, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ProposeParcelsResponse, error) {
		return f.fulfil.ProposeParcels(ctx, &warehousev1.ProposeParcelsRequest{FulfilmentId: fulfilment, Limits: limits})
	})
	if err != nil {
		return err
	}
	for _, p := range plan.GetParcels() {
		req := &warehousev1.PackParcelRequest{
			ParcelId: id.New("pcl"), FulfilmentId: fulfilment, Box: p.GetBox(), WeightGrams: max(p.GetWeightGrams(), 1), LengthMm: p.GetLengthMm(),
			WidthMm: p.GetWidthMm(), HeightMm: p.GetHeightMm(), Lines: p.GetLines(),
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.PackParcelResponse, error) {
			return f.fulfil.PackParcel(ctx, req)
		}); err != nil {
			return err
		}
	}
	_, err = Patient(ctx, func(ctx context.Context) (*warehousev1.FinishPackingResponse, error) {
		return f.fulfil.FinishPacking(ctx, &warehousev1.FinishPackingRequest{FulfilmentId: fulfilment})
	})
	return err
}

// handOver gives what stands at the door to its carriers.
func (f *Floor) handOver(ctx context.Context) (int, error) {
	ready, err := f.List(ctx, warehousev1.Fulfilment_STATE_READY)
	if err != nil || len(ready) == 0 {
		return 0, err
	}
	by := map[string][]*warehousev1.Fulfilment{}
	for _, r := range ready {
		by[r.GetCarrierInstance()] = append(by[r.GetCarrierInstance()], r)
	}
	for carrier, all := range by {
		if err := f.Manifest(ctx, carrier, all); err != nil {
			return 0, fmt.Errorf("hand over to %s: %w", carrier, err)
		}
	}
	return len(ready), nil
}

// Manifest gives parcels that stand at the door to their carrier.
func (f *Floor) Manifest(ctx context.Context, carrier string, all []*warehousev1.Fulfilment) error {
	name := f.next("manifest")
	m := &logisticsv1.CreateManifestRequest{ManifestId: name, Instance: carrier, PlaceId: "warehouse/" + site}
	h := &warehousev1.HandOverRequest{ManifestId: name, CarrierInstance: carrier}
	for _, r := range all {
		m.ShipmentIds = append(m.ShipmentIds, r.GetShipmentId())
		for _, p := range r.GetParcels() {
			h.Ssccs = append(h.Ssccs, p.GetSscc())
		}
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.CreateManifestResponse, error) {
		return f.shipments.CreateManifest(ctx, m)
	}); err != nil {
		return err
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.HandOverResponse, error) { return f.fulfil.HandOver(ctx, h) }); err != nil {
		return err
	}
	if !strings.HasPrefix(carrier, "post-") {
		return nil
	}
	var items []string
	for _, r := range all {
		for _, p := range r.GetParcels() {
			items = append(items, p.GetTrackingNumber())
		}
	}
	return f.shop.sort(items...)
}

// sort is the post's sorting office: its scanners write what they see of items
// into a file, which the post's provider follows.
func (s *Shop) sort(items ...string) error {
	file, err := os.OpenFile(filepath.Join(s.scans(), "office.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // the plugin reads it
	if err != nil {
		return err
	}
	var b strings.Builder
	now := time.Now().UTC()
	for _, item := range items {
		for i, code := range []string{"EMA", "EMG", "EDG", "EMI"} {
			fmt.Fprintf(&b, "{\"item\":%q,\"event\":%q,\"at\":%q,\"office\":\"Exampleton\",\"country\":\"GB\"}\n",
				item, code, now.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano))
		}
	}
	_, err = file.WriteString(b.String())
	return errors.Join(err, file.Close())
}

// List lists fulfilments of a state.
func (f *Floor) List(ctx context.Context, state warehousev1.Fulfilment_State) ([]*warehousev1.Fulfilment, error) {
	res, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ListFulfilmentsResponse, error) {
		return f.fulfil.ListFulfilments(ctx, &warehousev1.ListFulfilmentsRequest{State: state, Site: site, PageSize: 200})
	})
	return res.GetFulfilments(), err
}

// open counts what is on its way to the door.
func (f *Floor) open(ctx context.Context) (int, error) {
	n := 0
	for _, state := range []warehousev1.Fulfilment_State{
		warehousev1.Fulfilment_STATE_PICKING, warehousev1.Fulfilment_STATE_PICKED,
		warehousev1.Fulfilment_STATE_PACKED, warehousev1.Fulfilment_STATE_READY,
	} {
		all, err := f.List(ctx, state)
		if err != nil {
			return 0, err
		}
		n += len(all)
	}
	return n, nil
}

// whole cuts a list of picks where a fulfilment ends, into lists that a call
// takes.
func whole(picks []*warehousev1.Pick) (lists [][]*warehousev1.Pick) {
	by := map[string][]*warehousev1.Pick{}
	var order []string
	for _, p := range picks {
		if by[p.GetFulfilmentId()] == nil {
			order = append(order, p.GetFulfilmentId())
		}
		by[p.GetFulfilmentId()] = append(by[p.GetFulfilmentId()], p)
	}
	for _, id := range order {
		if n := len(lists); n > 0 && len(lists[n-1])+len(by[id]) <= 500 {
			lists[n-1] = append(lists[n-1], by[id]...)
		} else {
			lists = append(lists, by[id])
		}
	}
	return lists
}

// Delivered waits until nothing is on its way any more, and answers how the
// shipments ended.
func (s *Shop) Delivered(ctx context.Context) (*logisticsv1.SumShipmentsResponse, error) {
	op, err := s.Operator()
	if err != nil {
		return nil, err
	}
	for {
		res, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.SumShipmentsResponse, error) {
			return logisticsv1connect.NewShipmentServiceClient(op.Client()).SumShipments(ctx, &logisticsv1.SumShipmentsRequest{})
		})
		if err != nil {
			return nil, err
		}
		under := res.GetUnknown()
		for name, n := range res.GetShipments() {
			if !strings.HasSuffix(name, "/delivered") && !strings.HasSuffix(name, "/cancelled") {
				under += n
			}
		}
		if under == 0 {
			return res, nil
		}
		select {
		case <-ctx.Done():
			return res, fmt.Errorf("%d shipments still on their way: %v", under, res.GetShipments())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

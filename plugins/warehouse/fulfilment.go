package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// floor serves the fulfilment services of entrepot.warehouse.v1. Safe for
// concurrent use.
type floor struct {
	db *store.DB
	// company is the GS1 company prefix of the parcels' numbers.
	company string
}

// nobodys is a prefix that GS1 gave to nobody: for trials.
const nobodys = "0000000"

func openFloor(in *plugin.Instance) (*floor, error) {
	var cfg struct {
		CompanyPrefix string `json:"gs1_company_prefix"`
	}
	if err := in.Config(&cfg); err != nil {
		return nil, err
	}
	f := &floor{db: in.DB, company: cfg.CompanyPrefix}
	if f.company == "" {
		f.company = nobodys
	}
	if n := len(f.company); n < 4 || n > 12 {
		return nil, errors.New("gs1_company_prefix: a GS1 company prefix has 4 to 12 digits")
	}
	if _, err := f.sscc(1); err != nil {
		return nil, err
	}
	warehousev1connect.RegisterFulfilmentServiceHandler(in.Server, f)
	warehousev1connect.RegisterFulfilmentStepServiceHandler(in.Server, f)
	return f, nil
}

var (
	_ warehousev1connect.FulfilmentServiceHandler     = (*floor)(nil)
	_ warehousev1connect.FulfilmentStepServiceHandler = (*floor)(nil)
)

// States as the table has them.
const (
	stateOpen      = int16(warehousev1.Fulfilment_STATE_OPEN)
	statePicking   = int16(warehousev1.Fulfilment_STATE_PICKING)
	statePicked    = int16(warehousev1.Fulfilment_STATE_PICKED)
	statePacked    = int16(warehousev1.Fulfilment_STATE_PACKED)
	stateReady     = int16(warehousev1.Fulfilment_STATE_READY)
	stateGone      = int16(warehousev1.Fulfilment_STATE_HANDED_OVER)
	stateDelivered = int16(warehousev1.Fulfilment_STATE_DELIVERED)
	stateCancelled = int16(warehousev1.Fulfilment_STATE_CANCELLED)
	stateWaiting   = int16(warehousev1.Fulfilment_STATE_WAITING)
)

// fulfilment is one with its lines, serials and parcels.
type fulfilment struct {
	id, request, reservation, reference, merchant, market, site string
	wave, shipment, carrier, splitFrom, ended                   string
	state                                                       int16
	created                                                     time.Time
	handed                                                      *time.Time
	lines                                                       []fline
	units                                                       []funit
	parcels                                                     []fparcel
}

type fline struct {
	SKU           string `json:"sku"`
	Lot           string `json:"lot"`
	Authenticated bool   `json:"authenticated"`
	Quantity      int64  `json:"quantity"`
	Picked        int64  `json:"picked"`
	Packed        int64  `json:"packed"`
	// Location is the shelf that such goods were put on last.
	Location string `json:"location"`
}

type funit struct {
	Unit   string `json:"unit"`
	SKU    string `json:"sku"`
	Lot    string `json:"lot"`
	Parcel string `json:"parcel"`
}

type fparcel struct {
	ID       string `json:"id"`
	SSCC     string `json:"sscc"`
	Box      string `json:"box"`
	Grams    int32  `json:"grams"`
	Length   int32  `json:"length"`
	Width    int32  `json:"width"`
	Height   int32  `json:"height"`
	Tracking string `json:"tracking"`
	Manifest string `json:"manifest"`
	Lines    []struct {
		SKU           string `json:"sku"`
		Lot           string `json:"lot"`
		Authenticated bool   `json:"authenticated"`
		Quantity      int64  `json:"quantity"`
	} `json:"lines"`
}

// fulfilmentColumns read one from a relation f with all that belongs to it:
// one statement, one row.
const fulfilmentColumns = `f.id, f.request_id, f.reservation_id, f.reference, f.merchant, f.market, f.site, f.state, f.wave_id, f.shipment_id, f.carrier,
  f.split_from, f.ended, f.created_at, f.handed_over_at,
  (SELECT json_agg(json_build_object('sku', l.sku, 'lot', l.lot, 'authenticated', l.authenticated, 'quantity', l.quantity, 'picked', l.picked,
     'packed', l.packed, 'location', coalesce(h.location, '')) ORDER BY l.sku, l.lot, l.authenticated) FROM fulfilment_line l LEFT JOIN shelf h
     ON h.site = f.site AND h.sku = l.sku AND h.lot = l.lot AND h.authenticated = l.authenticated WHERE l.fulfilment_id = f.id),
  (SELECT json_agg(json_build_object('unit', u.unit, 'sku', u.sku, 'lot', u.lot, 'parcel', u.parcel_id) ORDER BY u.unit)
     FROM fulfilment_unit u WHERE u.fulfilment_id = f.id),
  (SELECT json_agg(json_build_object('id', p.id, 'sscc', p.sscc, 'box', p.box, 'grams', p.grams, 'length', p.length_mm, 'width', p.width_mm,
     'height', p.height_mm, 'tracking', p.tracking, 'manifest', p.manifest_id, 'lines',
     (SELECT json_agg(json_build_object('sku', x.sku, 'lot', x.lot, 'authenticated', x.authenticated, 'quantity', x.quantity) ORDER BY x.sku, x.lot)
        FROM parcel_line x WHERE x.parcel_id = p.id)) ORDER BY p.sscc) FROM parcel p WHERE p.fulfilment_id = f.id)`

func readFulfilments(ctx context.Context, db reader, where string, args ...any) (all []*fulfilment, err error) {
	rows, err := db.Rows(ctx, `SELECT `+fulfilmentColumns+` FROM fulfilment f `+where, args...)
	err = scan(rows, err, func(rows *sql.Rows) error {
		f := &fulfilment{}
		var lines, units, parcels []byte
		if err := rows.Scan(&f.id, &f.request, &f.reservation, &f.reference, &f.merchant, &f.market, &f.site, &f.state, &f.wave, &f.shipment, &f.carrier,
			&f.splitFrom, &f.ended, &f.created, &f.handed, &lines, &units, &parcels); err != nil {
			return err
		}
		for _, d := range []struct {
			doc  []byte
			into any
		}{{lines, &f.lines}, {units, &f.units}, {parcels, &f.parcels}} {
			if len(d.doc) > 0 {
				if err := json.Unmarshal(d.doc, d.into); err != nil {
					return err
				}
			}
		}
		all = append(all, f)
		return nil
	})
	return all, err
}

// lockFulfilments locks fulfilments in the order of their ids and reads them
// as they then are.
func lockFulfilments(ctx context.Context, tx *store.Tx, where string, args ...any) ([]*fulfilment, error) {
	if _, err := tx.Do(ctx, `SELECT FROM fulfilment f `+where+` ORDER BY f.id FOR NO KEY UPDATE`, args...); err != nil {
		return nil, err
	}
	return readFulfilments(ctx, tx, where+` ORDER BY f.id`, args...)
}

// lockOne locks a fulfilment that must be there.
func lockOne(ctx context.Context, tx *store.Tx, id string) (*fulfilment, error) {
	all, err := lockFulfilments(ctx, tx, `WHERE f.id = $1`, id)
	if err == nil && len(all) == 0 {
		err = noFulfilment()
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func noFulfilment() error {
	return fault.New(connect.CodeNotFound, "FULFILMENT_UNKNOWN", "there is no such fulfilment, or it is not yours")
}

func wrongState(f *fulfilment, want string) error {
	return fault.New(connect.CodeFailedPrecondition, "FULFILMENT_STATE", "this fulfilment is not "+want, "fulfilment", f.id,
		"state", warehousev1.Fulfilment_State(f.state).String())
}

func (f *fulfilment) proto() *warehousev1.Fulfilment {
	out := &warehousev1.Fulfilment{
		FulfilmentId: f.id, RequestId: f.request, Reference: f.reference, MerchantId: f.merchant, Market: f.market, Site: f.site,
		State: warehousev1.Fulfilment_State(f.state), ShipmentId: f.shipment, CarrierInstance: f.carrier, WaveId: f.wave, SplitFrom: f.splitFrom,
		CreatedAt: timestamppb.New(f.created), Lines: f.linesProto(), Parcels: f.parcelsProto(),
	}
	if f.handed != nil {
		out.HandedOverAt = timestamppb.New(*f.handed)
	}
	return out
}

func (f *fulfilment) linesProto() (out []*warehousev1.FulfilmentLine) {
	for _, l := range f.lines {
		p := &warehousev1.FulfilmentLine{Sku: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated, Quantity: l.Quantity, Picked: l.Picked, Packed: l.Packed}
		if l.Picked < l.Quantity {
			p.Location = l.Location
		}
		for _, u := range f.units {
			if l.Authenticated && u.SKU == l.SKU && u.Lot == l.Lot {
				p.UnitIds = append(p.UnitIds, u.Unit)
			}
		}
		out = append(out, p)
	}
	return out
}

func (f *fulfilment) parcelsProto() (out []*warehousev1.Parcel) {
	for _, p := range f.parcels {
		one := &warehousev1.Parcel{
			ParcelId: p.ID, Sscc: p.SSCC, Box: p.Box, WeightGrams: p.Grams, LengthMm: p.Length, WidthMm: p.Width, HeightMm: p.Height, TrackingNumber: p.Tracking,
		}
		for _, l := range p.Lines {
			line := &warehousev1.ParcelLine{Sku: l.SKU, Lot: l.Lot, Quantity: l.Quantity}
			for _, u := range f.units {
				if l.Authenticated && u.Parcel == p.ID && u.SKU == l.SKU && u.Lot == l.Lot {
					line.UnitIds = append(line.UnitIds, u.Unit)
				}
			}
			one.Lines = append(one.Lines, line)
		}
		out = append(out, one)
	}
	return out
}

// GetFulfilment tells one.
func (f *floor) GetFulfilment(ctx context.Context, req *warehousev1.GetFulfilmentRequest) (*warehousev1.GetFulfilmentResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	all, err := readFulfilments(ctx, f.db, `WHERE f.id = $1 AND ($2 = '' OR f.merchant = $2)`, req.GetFulfilmentId(), merchant)
	switch {
	case err != nil:
		return nil, store.Wrap(err)
	case len(all) == 0:
		return nil, noFulfilment()
	}
	return &warehousev1.GetFulfilmentResponse{Fulfilment: all[0].proto()}, nil
}

// ListFulfilments pages by rising id: oldest first.
func (f *floor) ListFulfilments(ctx context.Context, req *warehousev1.ListFulfilmentsRequest) (*warehousev1.ListFulfilmentsResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	after, err := pageAfter(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	all, err := readFulfilments(ctx, f.db, `WHERE ($1 = 0 OR f.state = $1) AND ($2 = '' OR f.reference = $2) AND ($3 = '' OR f.site = $3)
		AND ($4 = '' OR f.merchant = $4) AND f.id > $5 ORDER BY f.id LIMIT $6`, int16(req.GetState()), req.GetReference(), req.GetSite(), merchant, after, size+1)
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &warehousev1.ListFulfilmentsResponse{}
	if len(all) > size {
		all, res.NextPageToken = all[:size], nextPage(all[size-1].id)
	}
	for _, one := range all {
		res.Fulfilments = append(res.Fulfilments, one.proto())
	}
	return res, nil
}

package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// How a booking stands.
const (
	bookingAsked     = 1
	bookingDone      = 2
	bookingRefused   = 3
	bookingUnknown   = 4
	bookingCancelled = 5
)

// shipment is a row with its parcels' numbers and documents.
type shipment struct {
	id, instance, service, carrierRef, merchant, market, place, currency, code, manifest string
	booking, status                                                                      int16
	request                                                                              *logisticsv1.BookShipmentRequest
	cost                                                                                 *int64
	tries                                                                                int
	sent, booked, delivered                                                              *time.Time
	updated                                                                              time.Time
	tracking                                                                             map[string]string // by parcel
	documents                                                                            []string
}

const shipmentColumns = `s.id, s.instance, s.service, s.carrier_ref, s.merchant, s.market, s.place, s.currency, s.code, s.manifest_id, s.booking, s.status,
  s.request, s.cost, s.tries, s.sent_at, s.booked_at, s.delivered_at, s.updated_at,
  (SELECT json_object_agg(p.parcel_id, p.tracking) FROM shipment_parcel p WHERE p.shipment_id = s.id),
  (SELECT json_agg(d.name ORDER BY d.name) FROM shipment_document d WHERE d.shipment_id = s.id)`

// reader is a transaction or the database.
type reader interface {
	Rows(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

func readShipments(ctx context.Context, db reader, where string, args ...any) (all []*shipment, err error) {
	rows, err := db.Rows(ctx, `SELECT `+shipmentColumns+` FROM shipment s `+where, args...)
	err = scan(rows, err, func(rows *sql.Rows) error {
		s := &shipment{request: &logisticsv1.BookShipmentRequest{}}
		var doc, numbers, documents []byte
		if err := rows.Scan(&s.id, &s.instance, &s.service, &s.carrierRef, &s.merchant, &s.market, &s.place, &s.currency, &s.code, &s.manifest, &s.booking,
			&s.status, &doc, &s.cost, &s.tries, &s.sent, &s.booked, &s.delivered, &s.updated, &numbers, &documents); err != nil {
			return err
		}
		if len(numbers) > 0 {
			if err := json.Unmarshal(numbers, &s.tracking); err != nil {
				return err
			}
		}
		if len(documents) > 0 {
			if err := json.Unmarshal(documents, &s.documents); err != nil {
				return err
			}
		}
		all = append(all, s)
		return proto.Unmarshal(doc, s.request)
	})
	return all, err
}

func readShipment(ctx context.Context, db reader, id string) (*shipment, error) {
	all, err := readShipments(ctx, db, `WHERE s.id = $1`, id)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

func (s *shipment) proto() *logisticsv1.Shipment {
	r := s.request
	out := &logisticsv1.Shipment{
		ShipmentId: s.id, Leg: r.GetLeg(), Status: logisticsv1.Status(s.status), From: r.GetFrom(), To: r.GetTo(), Reference: r.GetReference(),
		OrderId: r.GetOrderId(), MerchantId: s.merchant, Market: s.market, Instance: s.instance, Service: s.service, CarrierReference: s.carrierRef,
		Customs: r.GetCustoms(), ManifestId: s.manifest, Documents: s.documents, UpdatedAt: timestamppb.New(s.updated),
	}
	for _, p := range r.GetParcels() {
		one := proto.CloneOf(p)
		one.TrackingNumber = s.tracking[p.GetParcelId()]
		out.Parcels = append(out.Parcels, one)
	}
	if s.cost != nil {
		out.Cost = &typev1.Money{CurrencyCode: s.currency, MinorUnits: *s.cost}
	}
	if s.booked != nil {
		out.BookedAt = timestamppb.New(*s.booked)
	}
	if s.delivered != nil {
		out.DeliveredAt = timestamppb.New(*s.delivered)
	}
	return out
}

// mine reads a shipment that the caller may see.
func (s *service) mine(ctx context.Context, id string) (*shipment, error) {
	one, err := readShipment(ctx, s.db, id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	if m := owner(ctx); one == nil || m != "" && one.merchant != m {
		return nil, noShipment()
	}
	return one, nil
}

// GetShipment tells one.
func (s *service) GetShipment(ctx context.Context, req *logisticsv1.GetShipmentRequest) (*logisticsv1.GetShipmentResponse, error) {
	one, err := s.mine(ctx, req.GetShipmentId())
	if err != nil {
		return nil, err
	}
	return &logisticsv1.GetShipmentResponse{Shipment: one.proto()}, nil
}

// ListShipments pages by falling id: newest first.
func (s *service) ListShipments(ctx context.Context, req *logisticsv1.ListShipmentsRequest) (*logisticsv1.ListShipmentsResponse, error) {
	before, err := pageToken(req.GetPageToken(), "shp_")
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	all, err := readShipments(ctx, s.db, `WHERE ($1 = 0 OR s.leg = $1) AND ($2 = 0 OR s.status = $2) AND ($3 = '' OR s.reference = $3) AND ($4 = '' OR s.order_id = $4)
		AND ($5 = '' OR s.merchant = $5) AND ($6 = '' OR s.id < $6) AND s.leg <> 0 ORDER BY s.id DESC LIMIT $7`,
		int16(req.GetLeg()), int16(req.GetStatus()), req.GetReference(), req.GetOrderId(), owner(ctx), before, size+1)
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &logisticsv1.ListShipmentsResponse{}
	if len(all) > size {
		all, res.NextPageToken = all[:size], nextToken(all[size-1].id)
	}
	for _, one := range all {
		res.Shipments = append(res.Shipments, one.proto())
	}
	return res, nil
}

// GetDocument links to a label or form.
func (s *service) GetDocument(ctx context.Context, req *logisticsv1.GetDocumentRequest) (*logisticsv1.GetDocumentResponse, error) {
	one, err := s.mine(ctx, req.GetShipmentId())
	if err != nil {
		return nil, err
	}
	var blob string
	if err := s.db.Row(ctx, `SELECT coalesce(max(blob_id), '') FROM shipment_document WHERE shipment_id = $1 AND name = $2`, one.id, req.GetDocument()).Scan(&blob); err != nil {
		return nil, store.Wrap(err)
	}
	if blob == "" {
		return nil, noShipment()
	}
	link, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: blob, FileName: req.GetDocument()})
	if err != nil {
		return nil, host.Relay(err)
	}
	return &logisticsv1.GetDocumentResponse{Path: link.GetPath()}, nil
}

// SumShipments counts for reconciliation.
func (s *service) SumShipments(ctx context.Context, _ *logisticsv1.SumShipmentsRequest) (*logisticsv1.SumShipmentsResponse, error) {
	res := &logisticsv1.SumShipmentsResponse{Shipments: map[string]int64{}}
	rows, err := s.db.Rows(ctx, `SELECT 'n', leg, status, count(*) FROM shipment WHERE leg <> 0 GROUP BY 2, 3
		UNION ALL SELECT 'unknown', 0, 0, count(*) FROM shipment WHERE booking IN (1, 4)
		UNION ALL SELECT 'tasks', 0, 0, count(*) FROM task WHERE resolved_at IS NULL UNION ALL SELECT 'facts', 0, 0, count(*) FROM fact`)
	return res, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		var what string
		var leg, status int32
		var n int64
		if err := rows.Scan(&what, &leg, &status, &n); err != nil {
			return err
		}
		switch what {
		case "unknown":
			res.Unknown = n
		case "tasks":
			res.TasksOpen = n
		case "facts":
			res.Facts = n
		default:
			res.Shipments[lower(logisticsv1.Leg(leg).String(), "LEG_")+"/"+lower(logisticsv1.Status(status).String(), "STATUS_")] = n
		}
		return nil
	}))
}

func lower(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func pageSize(asked int32) int {
	if asked == 0 {
		return 50
	}
	return int(asked)
}

// A page token is the id of the last row shown, opaque to clients.
func nextToken(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

func pageToken(token, prefix string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !strings.HasPrefix(string(b), prefix) {
		return "", fault.Field("page_token", "not one of this list")
	}
	return string(b), nil
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// CreateManifest lists shipments for one carrier at one place: written down
// first, then told to the carrier by its id, however often.
func (s *service) CreateManifest(ctx context.Context, req *logisticsv1.CreateManifestRequest) (*logisticsv1.CreateManifestResponse, error) {
	merchant := owner(ctx)
	if merchant != "" && req.GetPlaceId() != "merchant/"+merchant {
		return nil, fault.New(connect.CodePermissionDenied, "NOT_YOUR_PLACE", "members hand over at their own merchant's place")
	}
	m := &logisticsv1.Manifest{ManifestId: req.GetManifestId(), Instance: req.GetInstance(), PlaceId: req.GetPlaceId()}
	var all []*shipment
	var blob string
	var told bool
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		made, err := tx.Do(ctx, `INSERT INTO manifest (id, instance, place, merchant) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			req.GetManifestId(), req.GetInstance(), req.GetPlaceId(), merchant)
		if err != nil {
			return err
		}
		if n, err := made.RowsAffected(); err != nil {
			return err
		} else if n == 1 {
			if err := list(ctx, tx, req); err != nil {
				return err
			}
		}
		var at time.Time
		var instance, place string
		if err := tx.Row(ctx, `SELECT instance, place, carrier_ref, told, blob_id, created_at FROM manifest WHERE id = $1`, req.GetManifestId()).
			Scan(&instance, &place, &m.CarrierReference, &told, &blob, &at); err != nil {
			return err
		}
		if instance != req.GetInstance() || place != req.GetPlaceId() {
			return fault.New(connect.CodeAlreadyExists, "MANIFEST_DIFFERS", "this manifest is of something else; take another id")
		}
		m.CreatedAt = timestamppb.New(at)
		all, err = readShipments(ctx, tx, `WHERE s.manifest_id = $1 ORDER BY s.id`, req.GetManifestId())
		m.ShipmentIds, m.Parcels = nil, 0
		for _, one := range all {
			m.ShipmentIds = append(m.ShipmentIds, one.id)
			m.Parcels += int32(len(one.request.GetParcels()))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !told {
		if blob, err = s.tellManifest(ctx, m, call.From(ctx).Market, all); err != nil {
			return nil, err
		}
	}
	if blob != "" {
		link, err := s.host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: blob})
		if err != nil {
			return nil, host.Relay(err)
		}
		m.Path = link.GetPath()
	}
	return &logisticsv1.CreateManifestResponse{Manifest: m}, nil
}

// list puts shipments on a new manifest: those that are named, all of them or
// none, or what stands at the door.
func list(ctx context.Context, tx *store.Tx, req *logisticsv1.CreateManifestRequest) error {
	done, err := tx.Do(ctx, `UPDATE shipment SET manifest_id = $1, updated_at = now() WHERE id IN (SELECT s.id FROM shipment s
		WHERE s.booking = 2 AND s.manifest_id = '' AND s.instance = $2 AND s.place = $3 AND (cardinality($4::text[]) = 0 OR s.id = ANY ($4)) ORDER BY s.id LIMIT 500 FOR NO KEY UPDATE)`,
		req.GetManifestId(), req.GetInstance(), req.GetPlaceId(), append([]string{}, req.GetShipmentIds()...))
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	switch {
	case err != nil:
		return err
	case n == 0:
		return fault.New(connect.CodeFailedPrecondition, "NOTHING_TO_HAND_OVER", "no booked shipment of the carrier waits there")
	case len(req.GetShipmentIds()) > 0 && n != int64(len(req.GetShipmentIds())):
		return fault.New(connect.CodeFailedPrecondition, "SHIPMENT_NOT_READY", "one of these is not booked with the carrier there, or is on a manifest")
	}
	return nil
}

// tellManifest has the carrier take it over. A refusal takes the shipments off
// again; an outcome that nobody knows leaves them on, and the same call goes
// on. For a carrier that takes no manifests the list is the marketplace's own.
func (s *service) tellManifest(ctx context.Context, m *logisticsv1.Manifest, market string, on []*shipment) (blob string, err error) {
	references := make([]string, len(on))
	for i, one := range on {
		references[i] = one.carrierRef
	}
	res := &providerv1.CreateManifestResponse{}
	none, err := s.lacks(ctx, market, m.GetInstance(), "manifest")
	if err == nil && !none {
		cctx, cancel := s.bounded(host.ToInstance(ctx, m.GetInstance()))
		res, err = s.carriers.CreateManifest(cctx, &providerv1.CreateManifestRequest{Key: "manifest/" + m.GetManifestId(), References: references})
		cancel()
	}
	if incapable(err) {
		res, err = &providerv1.CreateManifestResponse{}, nil
	}
	write := context.WithoutCancel(ctx)
	var ce *connect.Error
	if errors.As(err, &ce) && ce.IsRemote() && (ce.Code() == connect.CodeFailedPrecondition || ce.Code() == connect.CodeNotFound || ce.Code() == connect.CodeInvalidArgument) {
		refusal := host.Relay(err)
		if err := s.db.Run(write, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Do(ctx, `WITH s AS (UPDATE shipment SET manifest_id = '' WHERE manifest_id = $1) DELETE FROM manifest WHERE id = $1`, m.GetManifestId())
			return err
		}); err != nil {
			return "", err
		}
		return "", refusal
	}
	if err != nil {
		return "", fault.Retry(fault.New(connect.CodeUnavailable, "OUTCOME_UNKNOWN", "the carrier has not answered; the same manifest is told again").WithCause(err), time.Second)
	}
	if d := res.GetDocument(); len(d.GetContent()) > 0 && len(d.GetContent()) <= maxDocument {
		put, err := s.host.Blobs.PutBlob(write, &kernelv1.PutBlobRequest{MediaType: d.GetMediaType(), Content: d.GetContent()})
		if err != nil {
			s.in.Log.WarnContext(ctx, "a carrier's manifest is left out", "manifest", m.GetManifestId(), "error", err)
		}
		blob = put.GetBlobId()
	}
	m.CarrierReference = tidy(res.GetReference(), 200)
	_, err = s.db.Do(write, `UPDATE manifest SET told = true, carrier_ref = $2, blob_id = $3 WHERE id = $1 AND NOT told`, m.GetManifestId(), m.GetCarrierReference(), blob)
	return blob, store.Wrap(err)
}

// SchedulePickup asks the carrier to come.
func (s *service) SchedulePickup(ctx context.Context, req *logisticsv1.SchedulePickupRequest) (*logisticsv1.SchedulePickupResponse, error) {
	from, until := req.GetFrom().AsTime(), req.GetUntil().AsTime()
	if !from.Before(until) || time.Until(until) < 0 {
		return nil, fault.Field("until", "after from, and not past")
	}
	var instance, place, reference, merchant string
	err := s.db.Row(ctx, `SELECT instance, place, carrier_ref, merchant FROM manifest WHERE id = $1`, req.GetManifestId()).Scan(&instance, &place, &reference, &merchant)
	if m := owner(ctx); errors.Is(err, sql.ErrNoRows) || err == nil && m != "" && merchant != m {
		return nil, fault.New(connect.CodeNotFound, "MANIFEST_UNKNOWN", "there is no such manifest, or it is not yours")
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	ends, err := s.ends(ctx, &logisticsv1.Party{PlaceId: place})
	if err != nil {
		return nil, err
	}
	none, err := s.lacks(ctx, call.From(ctx).Market, instance, "pickup")
	if err != nil {
		return nil, err
	}
	if none {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_PICKUP", "this carrier does not come; bring it the parcels", "instance", instance)
	}
	all, err := readShipments(ctx, s.db, `WHERE s.manifest_id = $1`, req.GetManifestId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	parcels := 0
	for _, one := range all {
		parcels += len(one.request.GetParcels())
	}
	cctx, cancel := s.bounded(host.ToInstance(ctx, instance))
	defer cancel()
	res, err := s.carriers.SchedulePickup(cctx, &providerv1.SchedulePickupRequest{
		Key: "pickup/" + req.GetPickupId(), ManifestReference: reference, Parcels: int32(max(parcels, 1)), From: req.GetFrom(), Until: req.GetUntil(),
		Place: &providerv1.Endpoint{Address: ends[0].address, CountryCode: ends[0].country, PostalCode: ends[0].postal},
	})
	if err != nil {
		return nil, host.Relay(err)
	}
	_, err = s.db.Do(ctx, `INSERT INTO pickup (id, manifest_id, carrier_ref) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		req.GetPickupId(), req.GetManifestId(), tidy(res.GetReference(), 200))
	return &logisticsv1.SchedulePickupResponse{CarrierReference: res.GetReference()}, store.Wrap(err)
}

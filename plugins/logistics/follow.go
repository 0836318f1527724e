package main

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// GetTracking tells a shipment's way. It names nobody; a number that is not
// known and one that is not the caller's are answered alike.
func (s *service) GetTracking(ctx context.Context, req *logisticsv1.GetTrackingRequest) (*logisticsv1.GetTrackingResponse, error) {
	t, err := s.tracking(ctx, req.GetTrackingNumber(), req.GetShipmentId())
	return &logisticsv1.GetTrackingResponse{Tracking: t}, err
}

func (s *service) tracking(ctx context.Context, number, id string) (*logisticsv1.Tracking, error) {
	if id != "" {
		if err := mayByID(ctx); err != nil {
			return nil, err
		}
		if _, err := s.mine(ctx, id); err != nil {
			return nil, err
		}
	} else if err := s.db.Row(ctx, `SELECT coalesce(max(shipment_id), '') FROM shipment_parcel WHERE tracking = $1`, number).Scan(&id); err != nil {
		return nil, store.Wrap(err)
	}
	one, err := readShipment(ctx, s.db, id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	if one == nil || number == "" && id == "" {
		return nil, noShipment()
	}
	facts, err := readFacts(ctx, s.db, []string{id})
	if err != nil {
		return nil, store.Wrap(err)
	}
	t := &logisticsv1.Tracking{TrackingNumber: number, Status: logisticsv1.Status(one.status), Carrier: one.instance}
	if number == "" {
		t.ShipmentId = id
	}
	if one.delivered != nil {
		t.DeliveredAt = timestamppb.New(*one.delivered)
	}
	all := facts[id]
	slices.Reverse(all)
	for _, f := range all[max(0, len(all)-200):] {
		if number != "" && f.tracking != number {
			continue
		}
		t.Facts = append(t.Facts, &logisticsv1.TrackingFact{
			FactId: f.id, Status: f.status, Code: f.code, Text: f.words, Reason: f.reason, Place: f.place, CountryCode: f.country, TrackingNumber: f.tracking,
			At: timestamppb.New(f.at), HeardAt: timestamppb.New(f.heard),
		})
	}
	return t, nil
}

// final statuses: nothing more is told.
func ended(s logisticsv1.Status) bool {
	switch s {
	case logisticsv1.Status_STATUS_DELIVERED, logisticsv1.Status_STATUS_RETURNED, logisticsv1.Status_STATUS_LOST, logisticsv1.Status_STATUS_CANCELLED,
		logisticsv1.Status_STATUS_REFUSED:
		return true
	}
	return false
}

// watchEvery is how often a watched shipment is looked at.
const watchEvery = time.Second

// WatchTracking streams a shipment's way until it ends.
func (s *service) WatchTracking(ctx context.Context, req *logisticsv1.WatchTrackingRequest, stream logisticsv1connect.TrackingServiceWatchTrackingServerStream) error {
	leave, err := s.watch()
	if err != nil {
		return err
	}
	defer leave()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	facts := -1
	last := logisticsv1.Status_STATUS_UNSPECIFIED
	for {
		t, err := s.tracking(ctx, req.GetTrackingNumber(), "")
		if err != nil {
			return err
		}
		if len(t.GetFacts()) != facts || t.GetStatus() != last {
			facts, last = len(t.GetFacts()), t.GetStatus()
			if err := stream.Send(&logisticsv1.WatchTrackingResponse{Tracking: t}); err != nil {
				return err
			}
		}
		if ended(t.GetStatus()) {
			return nil
		}
		if err := s.pause(ctx, tick); err != nil {
			return err
		}
	}
}

// RefreshTracking asks the carrier now.
func (s *service) RefreshTracking(ctx context.Context, req *logisticsv1.RefreshTrackingRequest) (*logisticsv1.RefreshTrackingResponse, error) {
	one, err := s.mine(ctx, req.GetShipmentId())
	if err != nil {
		return nil, err
	}
	if one.carrierRef == "" {
		return nil, fault.New(connect.CodeFailedPrecondition, "NOT_BOOKED", "no carrier has it")
	}
	none, err := s.lacks(ctx, one.market, one.instance, "track")
	if err != nil {
		return nil, err
	}
	if none {
		return nil, fault.New(connect.CodeFailedPrecondition, "NOT_TRACKED", "this carrier cannot be asked where a shipment is", "instance", one.instance)
	}
	fresh, err := s.track(ctx, one)
	return &logisticsv1.RefreshTrackingResponse{NewFacts: int32(fresh)}, host.Relay(err)
}

// watchBack is how many of the last changes of status a watcher looks at
// again: two commits may come in another order than their numbers.
const watchBack = 500

// WatchShipments streams shipments that change.
func (s *service) WatchShipments(ctx context.Context, req *logisticsv1.WatchShipmentsRequest, stream logisticsv1connect.ShipmentServiceWatchShipmentsServerStream) error {
	leave, err := s.watch()
	if err != nil {
		return err
	}
	defer leave()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	told := map[string]time.Time{}
	for {
		all, err := readShipments(ctx, s.db, `JOIN (SELECT DISTINCT shipment_id FROM (SELECT shipment_id FROM movement ORDER BY seq DESC LIMIT $5) m) m ON m.shipment_id = s.id
			WHERE s.leg <> 0 AND ($1 = 0 OR s.leg = $1) AND ($2 = '' OR s.order_id = $2) AND ($3 = '' OR s.reference = $3) AND ($4 = '' OR s.merchant = $4) ORDER BY s.updated_at, s.id`,
			int16(req.GetLeg()), req.GetOrderId(), req.GetReference(), owner(ctx), watchBack)
		if err != nil {
			return store.Wrap(err)
		}
		res := &logisticsv1.WatchShipmentsResponse{}
		now := make(map[string]time.Time, len(all))
		for _, one := range all {
			now[one.id] = one.updated
			if !told[one.id].Equal(one.updated) {
				res.Shipments = append(res.Shipments, one.proto())
			}
		}
		told = now
		if len(res.GetShipments()) > 0 {
			if err := stream.Send(res); err != nil {
				return err
			}
		}
		if err := s.pause(ctx, tick); err != nil {
			return err
		}
	}
}

// watch takes a place among those who watch.
func (s *service) watch() (leave func(), err error) {
	select {
	case s.watching <- struct{}{}:
		return func() { <-s.watching }, nil
	default:
		return nil, fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_WATCH", "too many watch at this moment; ask again"), 5*time.Second)
	}
}

// pause waits for the next look.
func (s *service) pause(ctx context.Context, tick *time.Ticker) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended:
		return fault.Retry(fault.New(connect.CodeUnavailable, "DRAINING", "the process is ending; come back"), time.Second)
	case <-tick.C:
		return nil
	}
}

package main

import (
	"context"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// callOff gives a booking back at its carrier.
func (s *service) callOff(ctx context.Context, one *shipment, reference string) error {
	ctx, cancel := s.bounded(host.ToInstance(ctx, one.instance))
	defer cancel()
	_, err := s.carriers.Cancel(ctx, &providerv1.CancelRequest{Key: one.key() + "/cancel", Reference: reference})
	return err
}

// CancelShipment gives a booking back, and leaves a tombstone for one that
// never was.
func (s *service) CancelShipment(ctx context.Context, req *logisticsv1.CancelShipmentRequest) (*logisticsv1.CancelShipmentResponse, error) {
	one, err := readShipment(ctx, s.db, req.GetShipmentId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if m := owner(ctx); m != "" && (one == nil || one.merchant != m) {
		return nil, noShipment()
	}
	if one != nil {
		if err := s.release(ctx, one); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.CancelShipmentResponse, error) {
		doc, err := proto.Marshal(&logisticsv1.BookShipmentRequest{ShipmentId: req.GetShipmentId()})
		if err != nil {
			return nil, err
		}
		// The tombstone has no leg: it is no shipment that anybody sees.
		if _, err := tx.Do(ctx, `INSERT INTO shipment (id, leg, booking, status, request) VALUES ($1, 0, 5, $2, $3) ON CONFLICT DO NOTHING`,
			req.GetShipmentId(), int16(logisticsv1.Status_STATUS_CANCELLED), doc); err != nil {
			return nil, err
		}
		done, err := tx.Do(ctx, `WITH m AS (UPDATE shipment SET booking = 5, status = $2, next_poll = NULL, updated_at = now()
			  WHERE id = $1 AND booking IN (1, 2, 4) AND manifest_id = '' RETURNING id)
			INSERT INTO movement (shipment_id) SELECT id FROM m`,
			req.GetShipmentId(), int16(logisticsv1.Status_STATUS_CANCELLED))
		if err != nil {
			return nil, err
		}
		n, err := done.RowsAffected()
		if err != nil {
			return nil, err
		}
		now, err := readShipment(ctx, tx, req.GetShipmentId())
		switch {
		case err != nil:
			return nil, err
		case now.request.GetLeg() == 0:
			return &logisticsv1.CancelShipmentResponse{}, nil
		case now.booking == bookingDone:
			return nil, handedOver()
		case n == 0:
			return &logisticsv1.CancelShipmentResponse{Shipment: now.proto()}, nil
		}
		return &logisticsv1.CancelShipmentResponse{Shipment: now.proto()}, tx.Publish(&logisticsv1.ShipmentCancelled{
			ShipmentId: now.id, Leg: now.request.GetLeg(), Reference: now.request.GetReference(), OrderId: now.request.GetOrderId(), MerchantId: now.merchant,
		}, &logisticsv1.ShipmentMoved{
			ShipmentId: now.id, Leg: now.request.GetLeg(), Reference: now.request.GetReference(), OrderId: now.request.GetOrderId(), MerchantId: now.merchant,
			Status: logisticsv1.Status_STATUS_CANCELLED,
		})
	})
}

func handedOver() error {
	return fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "the carrier has it, or is about to")
}

// release sees to it that the carrier does not carry a shipment that is to be
// cancelled. An outcome that nobody knows is looked up first; "never seen"
// counts when the call that asked can no longer arrive.
func (s *service) release(ctx context.Context, one *shipment) error {
	reference := one.carrierRef
	switch one.booking {
	case bookingCancelled, bookingRefused:
		return nil
	case bookingDone:
		if one.manifest != "" || one.status != int16(logisticsv1.Status_STATUS_BOOKED) {
			return handedOver()
		}
	default:
		if one.sent == nil {
			return nil
		}
		found, err := s.lookUp(ctx, one)
		if err != nil || found == nil && time.Since(*one.sent) < silence {
			return fault.Retry(fault.New(connect.CodeUnavailable, "OUTCOME_UNKNOWN", "nobody knows yet whether the carrier booked", "shipment", one.id).WithCause(err), 5*time.Second)
		}
		if found == nil || found.GetState() != providerv1.Booking_STATE_BOOKED {
			return nil
		}
		reference = found.GetReference()
	}
	err := s.callOff(ctx, one, reference)
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		return nil
	case connect.CodeFailedPrecondition:
		return handedOver()
	}
	return host.Relay(err)
}

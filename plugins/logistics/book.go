package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// silence is the time after which a call that left can no longer arrive: the
// kernel ends it shortly after the longest timeout, the rest is margin. Only
// then does "never seen" mean that it will never happen.
const silence = 90 * time.Second

// BookShipment books once, with one carrier, whatever happens in between.
func (s *service) BookShipment(ctx context.Context, req *logisticsv1.BookShipmentRequest) (*logisticsv1.BookShipmentResponse, error) {
	one, err := readShipment(ctx, s.db, req.GetShipmentId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if one == nil {
		if one, err = s.intend(ctx, req); err != nil {
			return nil, err
		}
	}
	if m := owner(ctx); m != "" && one.merchant != m && one.booking != bookingCancelled {
		return nil, noShipment()
	}
	switch one.booking {
	case bookingCancelled:
		return nil, fault.New(connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", "this shipment was called off")
	case bookingRefused:
		return nil, refusal(one.code)
	case bookingAsked, bookingUnknown:
		if !same(one.request, req) {
			return nil, fault.New(connect.CodeAlreadyExists, "SHIPMENT_DIFFERS", "this shipment is of something else; take another id")
		}
		if err := s.settle(ctx, one); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*logisticsv1.BookShipmentResponse, error) {
		now, err := readShipment(ctx, tx, one.id)
		if err != nil {
			return nil, err
		}
		if now.booking != bookingDone {
			return nil, fault.New(connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", "this shipment was called off")
		}
		return &logisticsv1.BookShipmentResponse{Shipment: now.proto()}, nil
	})
}

func refusal(code string) error {
	return fault.New(connect.CodeFailedPrecondition, "BOOKING_REFUSED", "the carrier does not take it", "code", code)
}

// same tells whether two requests ask for the same way; where a carrier's
// choice is left open it may have changed.
func same(a, b *logisticsv1.BookShipmentRequest) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Rule, b.Rule = nil, nil
	a.MerchantId, b.MerchantId, a.Market, b.Market = "", "", "", ""
	return proto.Equal(a, b)
}

// intend chooses a carrier and writes down that it will be asked.
func (s *service) intend(ctx context.Context, req *logisticsv1.BookShipmentRequest) (*shipment, error) {
	market, merchant := req.GetMarket(), req.GetMerchantId()
	if market == "" {
		market = call.From(ctx).Market
	}
	if m := owner(ctx); m != "" {
		merchant = m
	}
	seen := map[string]bool{}
	for _, p := range req.GetParcels() {
		if seen[p.GetParcelId()] {
			return nil, fault.Field("parcels", "each parcel_id once")
		}
		seen[p.GetParcelId()] = true
	}
	ends, err := s.ends(ctx, req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, err
	}
	if !ends[0].whole() || !ends[1].whole() {
		return nil, fault.Field("from, to", "a booking wants addresses, not countries")
	}
	if err := s.declared(req, ends); err != nil {
		return nil, err
	}
	rate, err := s.choose(ctx, req, market, ends)
	if err != nil {
		return nil, err
	}
	doc, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	var one *shipment
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		// Whoever was first has chosen.
		_, err := tx.Do(ctx, `INSERT INTO shipment (id, leg, status, instance, service, reference, order_id, merchant, market, place, request)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`, req.GetShipmentId(), int16(req.GetLeg()),
			int16(logisticsv1.Status_STATUS_BOOKING), rate.GetInstance(), rate.GetService(), req.GetReference(), req.GetOrderId(), merchant, market,
			req.GetFrom().GetPlaceId(), doc)
		if err != nil {
			return err
		}
		one, err = readShipment(ctx, tx, req.GetShipmentId())
		return err
	})
	return one, err
}

// declared requires what a customs office will ask for.
func (s *service) declared(req *logisticsv1.BookShipmentRequest, ends []end) error {
	if !s.border(ends[0].country, ends[1].country) {
		return nil
	}
	missing := func(field string) error {
		return fault.New(connect.CodeFailedPrecondition, "DECLARATION_MISSING", "what crosses a border is declared: this is missing", "field", field)
	}
	if req.GetCustoms().GetCategory() == logisticsv1.CustomsData_CATEGORY_UNSPECIFIED {
		return missing("customs.category")
	}
	for _, p := range req.GetParcels() {
		if len(p.GetItems()) == 0 {
			return missing("parcels.items")
		}
		for _, it := range p.GetItems() {
			switch {
			case it.GetDescription() == "":
				return missing("items.description")
			case it.GetValue() == nil:
				return missing("items.value")
			}
		}
	}
	return nil
}

// settle finds out what became of a booking that was asked for, or asks. It
// returns when the booking is done; a refusal and an unknown end are errors.
func (s *service) settle(ctx context.Context, one *shipment) error {
	if one.sent != nil {
		found, err := s.lookUp(ctx, one)
		switch {
		case err == nil && found != nil && len(found.GetDocuments()) > 0:
			return s.record(ctx, one, found)
		case err == nil && found != nil && found.GetState() != providerv1.Booking_STATE_BOOKED:
			return s.record(ctx, one, found)
		case err != nil:
			return s.unknown(ctx, one, err)
		}
		// Never seen, or seen without its documents: the same key does not book
		// twice.
	}
	if _, err := s.db.Do(ctx, `UPDATE shipment SET sent_at = now(), tries = tries + 1, updated_at = now() WHERE id = $1 AND booking IN (1, 4)`, one.id); err != nil {
		return store.Wrap(err)
	}
	booking, err := s.send(ctx, one)
	if err != nil {
		return s.unknown(ctx, one, err)
	}
	return s.record(ctx, one, booking)
}

// key is the booking's at its carrier, for ever.
func (s *shipment) key() string { return s.id }

// send makes the call, with the addresses as they are at this moment.
func (s *service) send(ctx context.Context, one *shipment) (*providerv1.Booking, error) {
	r := one.request
	ends, err := s.ends(call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "logistics"}, Market: one.market}), r.GetFrom(), r.GetTo())
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(host.ToInstance(ctx, one.instance))
	defer cancel()
	point := func(e end) *providerv1.Endpoint {
		return &providerv1.Endpoint{Address: e.address, CountryCode: e.country, PostalCode: e.postal}
	}
	req := &providerv1.BookRequest{
		Key: one.key(), Service: one.service, From: point(ends[0]), To: point(ends[1]), Parcels: r.GetParcels(),
		Return: r.GetLeg() == logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, MerchantReference: one.id,
	}
	if ends[0].country != ends[1].country {
		req.Customs = r.GetCustoms()
	}
	res, err := s.carriers.Book(ctx, req)
	if err != nil {
		return nil, err
	}
	return one.check(res.GetBooking())
}

// check believes an answer only if it is of this booking.
func (s *shipment) check(b *providerv1.Booking) (*providerv1.Booking, error) {
	if b.GetKey() != s.key() {
		return nil, errors.New("the carrier answered for another key")
	}
	if b.GetState() == providerv1.Booking_STATE_BOOKED {
		if b.GetReference() == "" {
			return nil, errors.New("the carrier booked without a reference")
		}
		for _, p := range s.request.GetParcels() {
			if n := b.GetTrackingNumbers()[p.GetParcelId()]; n == "" || len(n) > 64 {
				return nil, errors.New("the carrier booked a parcel without a number")
			}
		}
	}
	return b, nil
}

func (s *service) lookUp(ctx context.Context, one *shipment) (*providerv1.Booking, error) {
	ctx, cancel := s.bounded(host.ToInstance(ctx, one.instance))
	defer cancel()
	res, err := s.carriers.Lookup(ctx, &providerv1.LookupRequest{Key: one.key()})
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return one.check(res.GetBooking())
}

// bounded leaves time to write down what a call's end was.
func (s *service) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	d := s.bookTimeout
	if at, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(at)*4/5)
	}
	return context.WithTimeout(ctx, d)
}

// final are codes by which a carrier says that it did not and will not.
var final = []connect.Code{
	connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeUnimplemented, connect.CodePermissionDenied,
}

// unknown writes down that nobody knows, or that the carrier refused.
func (s *service) unknown(ctx context.Context, one *shipment, cause error) error {
	var ce *connect.Error
	if errors.As(cause, &ce) && ce.IsRemote() && slices.Contains(final, ce.Code()) {
		code := fault.Reason(host.Relay(cause))
		if code == "" {
			code = ce.Code().String()
		}
		return s.record(ctx, one, &providerv1.Booking{Key: one.key(), State: providerv1.Booking_STATE_REFUSED, Code: code})
	}
	s.in.Log.WarnContext(ctx, "a booking's outcome is not known", "shipment", one.id, "instance", one.instance, "error", cause)
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := s.db.Do(write, `UPDATE shipment SET booking = 4, updated_at = now() WHERE id = $1 AND booking = 1`, one.id); err != nil {
		return store.Wrap(err)
	}
	return fault.Retry(fault.New(connect.CodeUnavailable, "OUTCOME_UNKNOWN", "the carrier has not answered; the same booking is asked for again", "shipment", one.id), time.Second)
}

// record writes a booking's end. Documents are kept first: what refers to them
// is then one commit.
func (s *service) record(ctx context.Context, one *shipment, b *providerv1.Booking) error {
	ctx = context.WithoutCancel(ctx) // it happened: it is written down
	if b.GetState() != providerv1.Booking_STATE_BOOKED {
		return s.refused(ctx, one, b)
	}
	var names, blobs []string
	for _, d := range b.GetDocuments() {
		put, err := s.host.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: d.GetMediaType(), Content: d.GetContent()})
		if err != nil {
			// A carrier whose documents are no documents has booked all the same.
			s.in.Log.WarnContext(ctx, "a carrier's document is left out", "shipment", one.id, "document", d.GetName(), "error", err)
			continue
		}
		names, blobs = append(names, d.GetName()), append(blobs, put.GetBlobId())
	}
	late := false
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		var cost *int64
		if t := b.GetTotal(); t != nil {
			cost = &t.MinorUnits
		}
		done, err := tx.Do(ctx, `UPDATE shipment SET booking = 2, status = $2, carrier_ref = $3, cost = $4, currency = $5, booked_at = now(), updated_at = now()
			WHERE id = $1 AND booking IN (1, 4)`, one.id, int16(logisticsv1.Status_STATUS_BOOKED), b.GetReference(), cost, b.GetTotal().GetCurrencyCode())
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			if err != nil {
				return err
			}
			now, err := readShipment(ctx, tx, one.id)
			late = err == nil && now.booking == bookingCancelled
			return err // somebody else has written it, or called it off
		}
		var parcels, numbers []string
		for p, n := range b.GetTrackingNumbers() {
			parcels, numbers = append(parcels, p), append(numbers, n)
		}
		if _, err := tx.Do(ctx, `WITH p AS (INSERT INTO shipment_parcel SELECT $1, * FROM unnest($2::text[], $3::text[]) ON CONFLICT DO NOTHING)
			INSERT INTO shipment_document SELECT $1, * FROM unnest($4::text[], $5::text[]) ON CONFLICT DO NOTHING`, one.id, parcels, numbers, names, blobs); err != nil {
			return err
		}
		return tx.Publish(&logisticsv1.ShipmentBooked{
			ShipmentId: one.id, Leg: one.request.GetLeg(), Reference: one.request.GetReference(), OrderId: one.request.GetOrderId(), MerchantId: one.merchant,
			Instance: one.instance, Service: one.service, TrackingNumbers: b.GetTrackingNumbers(),
		})
	})
	if err != nil || !late {
		return err
	}
	// It was called off while the carrier booked: nobody wants it.
	if err := s.callOff(ctx, one, b.GetReference()); err != nil {
		return err
	}
	return fault.New(connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", "this shipment was called off")
}

func (s *service) refused(ctx context.Context, one *shipment, b *providerv1.Booking) error {
	state, status := bookingRefused, logisticsv1.Status_STATUS_REFUSED
	if b.GetState() == providerv1.Booking_STATE_CANCELLED {
		state, status = bookingCancelled, logisticsv1.Status_STATUS_CANCELLED
	}
	if _, err := s.db.Do(ctx, `UPDATE shipment SET booking = $2, status = $3, code = $4, updated_at = now() WHERE id = $1 AND booking IN (1, 4)`,
		one.id, int16(state), int16(status), b.GetCode()); err != nil {
		return store.Wrap(err)
	}
	return refusal(b.GetCode())
}

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
		done, err := tx.Do(ctx, `UPDATE shipment SET booking = 5, status = $2, updated_at = now() WHERE id = $1 AND booking IN (1, 2, 4) AND manifest_id = ''`,
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

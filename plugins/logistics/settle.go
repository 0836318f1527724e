package main

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// silence is the time after which a call that left can no longer arrive: the
// kernel ends it shortly after the longest timeout, the rest is margin. Only
// then does "never seen" mean that it will never happen.
const silence = 90 * time.Second

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
	ends, err := s.ends(asMarket(ctx, one.market), r.GetFrom(), r.GetTo())
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
	if s.border(ends[0].country, ends[1].country) {
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
		if r := b.GetReference(); r == "" || r != tidy(r, 200) {
			return nil, errors.New("the carrier booked without a reference, or with one that cannot be kept")
		}
		for _, p := range s.request.GetParcels() {
			if n := b.GetTrackingNumbers()[p.GetParcelId()]; n == "" || n != tidy(n, 64) {
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

// errTwice is of a carrier that gives two bookings one reference.
var errTwice = errors.New("the carrier gave the reference of another booking")

// adopt writes what belongs to a booking, and takes the facts that came first.
const adopt = `WITH p AS (INSERT INTO shipment_parcel SELECT $1, * FROM unnest($2::text[], $3::text[]) ON CONFLICT DO NOTHING),
  d AS (INSERT INTO shipment_document SELECT $1, * FROM unnest($4::text[], $5::text[]) ON CONFLICT DO NOTHING),
  m AS (INSERT INTO movement (shipment_id) VALUES ($1)),
  s AS (DELETE FROM stray_fact WHERE instance = $6 AND carrier_ref = $7 RETURNING id, tracking, status, code, words, reason, place, country, at, heard_at),
  f AS (INSERT INTO fact (shipment_id, id, tracking, status, code, words, reason, place, country, at, heard_at) SELECT $1, s.* FROM s ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM f`

const (
	// maxDocument and maxDocuments bound what one booking's papers may be.
	maxDocument  = 4 << 20
	maxDocuments = 20
)

// keepDocuments puts a booking's papers where they can be linked to. A carrier
// whose documents are no documents has booked all the same.
func (s *service) keepDocuments(ctx context.Context, one *shipment, all []*providerv1.Document) (names, blobs []string) {
	for _, d := range all[:min(len(all), maxDocuments)] {
		if len(d.GetContent()) > maxDocument || !documentName.MatchString(d.GetName()) {
			s.in.Log.WarnContext(ctx, "a carrier's document is too large or has no name", "shipment", one.id, "bytes", len(d.GetContent()))
			continue
		}
		put, err := s.host.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: d.GetMediaType(), Content: d.GetContent()})
		if err != nil {
			s.in.Log.WarnContext(ctx, "a carrier's document is left out", "shipment", one.id, "document", d.GetName(), "error", err)
			continue
		}
		names, blobs = append(names, d.GetName()), append(blobs, put.GetBlobId())
	}
	return names, blobs
}

var documentName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// record writes a booking's end. Documents are kept first: what refers to them
// is then one commit.
func (s *service) record(ctx context.Context, one *shipment, b *providerv1.Booking) error {
	ctx = context.WithoutCancel(ctx) // it happened: it is written down
	if b.GetState() != providerv1.Booking_STATE_BOOKED {
		return s.refused(ctx, one, b)
	}
	every := s.cadence(ctx, one.market, one.instance)
	names, blobs := s.keepDocuments(ctx, one, b.GetDocuments())
	late := false
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		var cost *int64
		if t := b.GetTotal(); t != nil {
			cost = &t.MinorUnits
		}
		// Who hears of it waits until it is written down, or is heard below.
		done, err := tx.Do(ctx, `UPDATE shipment SET booking = 2, status = $4, carrier_ref = $2, cost = $5, currency = $6, booked_at = now(), updated_at = now(),
			  poll_every = $7, next_poll = CASE WHEN $7 > 0 THEN now() + $7 * interval '1 second' END
			FROM (SELECT pg_advisory_xact_lock(`+lockBooked+`)) l WHERE id = $3 AND booking IN (1, 4)`,
			one.instance, b.GetReference(), one.id, int16(logisticsv1.Status_STATUS_BOOKED), cost, b.GetTotal().GetCurrencyCode(), every)
		if store.IsConstraint(err, "shipment_carrier") {
			return errTwice
		}
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
		var strays int
		if err := tx.Row(ctx, adopt, one.id, parcels, numbers, names, blobs, one.instance, b.GetReference()).Scan(&strays); err != nil {
			return err
		}
		if err := tx.Publish(&logisticsv1.ShipmentBooked{
			ShipmentId: one.id, Leg: one.request.GetLeg(), Reference: one.request.GetReference(), OrderId: one.request.GetOrderId(), MerchantId: one.merchant,
			Instance: one.instance, Service: one.service, TrackingNumbers: b.GetTrackingNumbers(),
		}); err != nil || strays == 0 {
			return err
		}
		return rederive(ctx, tx, []string{one.id})
	})
	if errors.Is(err, errTwice) {
		return s.unknown(ctx, one, err)
	}
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
	if _, err := s.db.Do(ctx, `WITH m AS (UPDATE shipment SET booking = $2, status = $3, code = $4, updated_at = now() WHERE id = $1 AND booking IN (1, 4) RETURNING id)
		INSERT INTO movement (shipment_id) SELECT id FROM m`, one.id, int16(state), int16(status), tidy(b.GetCode(), 100)); err != nil {
		return store.Wrap(err)
	}
	return refusal(tidy(b.GetCode(), 100))
}

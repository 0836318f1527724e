package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// heard are what carriers say, by the words of the contract.
var heard = map[providerv1.Status]logisticsv1.Status{
	providerv1.Status_STATUS_HANDED_OVER: logisticsv1.Status_STATUS_IN_TRANSIT, providerv1.Status_STATUS_IN_TRANSIT: logisticsv1.Status_STATUS_IN_TRANSIT,
	providerv1.Status_STATUS_OUT_FOR_DELIVERY: logisticsv1.Status_STATUS_OUT_FOR_DELIVERY,
	providerv1.Status_STATUS_READY_FOR_PICKUP: logisticsv1.Status_STATUS_READY_FOR_PICKUP, providerv1.Status_STATUS_DELIVERED: logisticsv1.Status_STATUS_DELIVERED,
	providerv1.Status_STATUS_DELIVERY_FAILED: logisticsv1.Status_STATUS_DELIVERY_FAILED, providerv1.Status_STATUS_ON_HOLD: logisticsv1.Status_STATUS_ON_HOLD,
	providerv1.Status_STATUS_RETURN_TO_SENDER: logisticsv1.Status_STATUS_RETURN_TO_SENDER, providerv1.Status_STATUS_RETURNED: logisticsv1.Status_STATUS_RETURNED,
	providerv1.Status_STATUS_LOST: logisticsv1.Status_STATUS_LOST,
}

// fact is one thing that happened on the way.
type fact struct {
	id, tracking, code, words, reason, place, country string
	status                                            logisticsv1.Status
	at, heard                                         time.Time
}

// advance of a parcel: of two facts of one moment the later stage counts, and a
// shipment is as far as the parcel that is least far.
var advance = map[logisticsv1.Status]int{
	logisticsv1.Status_STATUS_BOOKED: 0, logisticsv1.Status_STATUS_IN_TRANSIT: 1, logisticsv1.Status_STATUS_ON_HOLD: 2,
	logisticsv1.Status_STATUS_DELIVERY_FAILED: 3, logisticsv1.Status_STATUS_READY_FOR_PICKUP: 4, logisticsv1.Status_STATUS_OUT_FOR_DELIVERY: 5,
	logisticsv1.Status_STATUS_RETURN_TO_SENDER: 6, logisticsv1.Status_STATUS_RETURNED: 7, logisticsv1.Status_STATUS_LOST: 8,
	logisticsv1.Status_STATUS_DELIVERED: 9,
}

// slack is how far a fact's time may lie outside of what can be.
const slack = 24 * time.Hour

// derive tells how far a shipment is, by the set of its facts alone: in which
// order they came, and how often, makes no difference. Delivered stays, but for
// a way back to the sender. A fact from before the booking or from the future
// is kept, and believed by nobody.
func derive(parcels []string, facts []fact, booked time.Time) (status logisticsv1.Status, at time.Time, reason string) {
	by := map[string][]fact{}
	for _, f := range facts {
		if _, known := advance[f.status]; known && f.at.After(booked.Add(-slack)) && f.at.Before(f.heard.Add(slack)) {
			by[f.tracking] = append(by[f.tracking], f)
		}
	}
	for i, p := range parcels {
		s, t, r := one(by[p])
		if i == 0 || advance[s] < advance[status] || s == status && t.After(at) {
			status, at, reason = s, t, r
		}
	}
	return status, at, reason
}

// one parcel's status.
func one(facts []fact) (status logisticsv1.Status, at time.Time, reason string) {
	slices.SortFunc(facts, func(a, b fact) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(advance[a.status], advance[b.status]), cmp.Compare(a.id, b.id))
	})
	status = logisticsv1.Status_STATUS_BOOKED
	for _, f := range facts {
		back := f.status == logisticsv1.Status_STATUS_RETURN_TO_SENDER || f.status == logisticsv1.Status_STATUS_RETURNED
		switch {
		case status == logisticsv1.Status_STATUS_DELIVERED && !back:
			continue
		case status == logisticsv1.Status_STATUS_RETURNED:
			continue
		case status == logisticsv1.Status_STATUS_RETURN_TO_SENDER && !back:
			continue
		}
		status, at, reason = f.status, f.at, f.reason
	}
	return status, at, reason
}

// onTracking takes what carriers tell of their own accord: a batch's facts in
// one statement.
func (s *service) onTracking(ctx context.Context, tx *store.Tx, events []event.Of[*providerv1.TrackingUpdated]) error {
	var t told
	for _, e := range events {
		for _, f := range e.Body.GetFacts() {
			t.add(e.Body.GetInstance(), e.Body.GetReference(), f)
		}
	}
	return t.write(ctx, tx)
}

// told are facts as columns.
type told struct {
	instances, references, ids, tracking, codes, words, reasons, places, countries []string
	statuses                                                                       []int16
	ats                                                                            []time.Time
}

func (t *told) add(instance, reference string, f *providerv1.Fact) {
	if f.GetAt() == nil || !f.GetAt().IsValid() {
		return // nobody can say where it belongs
	}
	id := f.GetFactId()
	if id == "" {
		h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%d", f.GetTrackingNumber(), f.GetStatus(), f.GetCode(), f.GetAt().AsTime().UnixNano()))
		id = hex.EncodeToString(h[:16])
	}
	t.instances, t.references, t.ids = append(t.instances, instance), append(t.references, reference), append(t.ids, id)
	t.tracking, t.codes, t.words = append(t.tracking, f.GetTrackingNumber()), append(t.codes, f.GetCode()), append(t.words, f.GetText())
	t.reasons, t.places, t.countries = append(t.reasons, f.GetReason()), append(t.places, f.GetPlace()), append(t.countries, f.GetCountryCode())
	t.statuses, t.ats = append(t.statuses, int16(heard[f.GetStatus()])), append(t.ats, f.GetAt().AsTime())
}

const writeFacts = `WITH u AS (SELECT * FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::smallint[]),
    unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]), unnest($11::timestamptz[]))
    u(instance, carrier_ref, id, tracking, status, code, words, reason, place, country, at)),
  s AS (SELECT s.id, s.instance, s.carrier_ref FROM shipment s WHERE (s.instance, s.carrier_ref) IN (SELECT u.instance, u.carrier_ref FROM u)
    ORDER BY s.id FOR NO KEY UPDATE),
  f AS (INSERT INTO fact (shipment_id, id, tracking, status, code, words, reason, place, country, at)
    SELECT s.id, u.id, u.tracking, u.status, u.code, u.words, u.reason, u.place, u.country, u.at FROM u JOIN s USING (instance, carrier_ref)
    ON CONFLICT DO NOTHING RETURNING shipment_id)
SELECT f.shipment_id, count(*) FROM f GROUP BY 1`

// write keeps facts and moves the shipments that they are of: three statements
// for any number, and one more where a status is another now.
func (t *told) write(ctx context.Context, tx *store.Tx) error {
	_, err := t.keep(ctx, tx)
	return err
}

func (t *told) keep(ctx context.Context, tx *store.Tx) (fresh int, err error) {
	if len(t.ids) == 0 {
		return 0, nil
	}
	var ids []string
	rows, err := tx.Rows(ctx, writeFacts, t.instances, t.references, t.ids, t.tracking, t.statuses, t.codes, t.words, t.reasons, t.places, t.countries, t.ats)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		ids, fresh = append(ids, id), fresh+n
		return nil
	}); err != nil || len(ids) == 0 {
		return fresh, err
	}
	all, err := readShipments(ctx, tx, `WHERE s.id = ANY ($1) ORDER BY s.id`, ids)
	if err != nil {
		return fresh, err
	}
	facts, err := readFacts(ctx, tx, ids)
	if err != nil {
		return fresh, err
	}
	return fresh, move(ctx, tx, all, facts)
}

func readFacts(ctx context.Context, db reader, ids []string) (map[string][]fact, error) {
	out := map[string][]fact{}
	rows, err := db.Rows(ctx, `SELECT shipment_id, id, tracking, status, code, words, reason, place, country, at, heard_at FROM fact WHERE shipment_id = ANY ($1)
		ORDER BY at DESC, id DESC LIMIT 20000`, ids)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var of string
		var status int32
		var f fact
		if err := rows.Scan(&of, &f.id, &f.tracking, &status, &f.code, &f.words, &f.reason, &f.place, &f.country, &f.at, &f.heard); err != nil {
			return err
		}
		f.status = logisticsv1.Status(status)
		out[of] = append(out[of], f)
		return nil
	})
}

// troubles want a person, once each.
var troubles = map[logisticsv1.Status]string{
	logisticsv1.Status_STATUS_DELIVERY_FAILED: "DELIVERY_FAILED", logisticsv1.Status_STATUS_LOST: "LOST",
	logisticsv1.Status_STATUS_RETURN_TO_SENDER: "RETURN_TO_SENDER", logisticsv1.Status_STATUS_RETURNED: "RETURN_TO_SENDER",
}

// move writes new statuses and tells of them.
func move(ctx context.Context, tx *store.Tx, all []*shipment, facts map[string][]fact) error {
	var ids []string
	var statuses []int16
	var delivered []*time.Time
	var tasks jobs
	for _, one := range all {
		if one.booking != bookingDone || one.booked == nil {
			continue
		}
		numbers := make([]string, 0, len(one.tracking))
		for _, n := range one.tracking {
			numbers = append(numbers, n)
		}
		status, at, reason := derive(numbers, facts[one.id], *one.booked)
		if int16(status) == one.status {
			continue
		}
		var when *time.Time
		if status == logisticsv1.Status_STATUS_DELIVERED {
			when = &at
		}
		ids, statuses, delivered = append(ids, one.id), append(statuses, int16(status)), append(delivered, when)
		if kind := troubles[status]; kind != "" {
			tasks.add(one, kind, reason)
		}
		if err := tx.Publish(&logisticsv1.ShipmentMoved{
			ShipmentId: one.id, Leg: one.request.GetLeg(), Reference: one.request.GetReference(), OrderId: one.request.GetOrderId(), MerchantId: one.merchant,
			Status: status, At: timestamppb.New(at), Reason: reason,
		}); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := tx.Do(ctx, `UPDATE shipment s SET status = u.status, delivered_at = coalesce(u.delivered, s.delivered_at), updated_at = now()
		FROM ROWS FROM (unnest($1::text[]), unnest($2::smallint[]), unnest($3::timestamptz[])) u(id, status, delivered) WHERE s.id = u.id`, ids, statuses, delivered); err != nil {
		return err
	}
	return tasks.open(ctx, tx)
}

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
	select {
	case s.watching <- struct{}{}:
		defer func() { <-s.watching }()
	default:
		return fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_WATCH", "too many watch at this moment; ask again"), 5*time.Second)
	}
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
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
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
	cctx, cancel := s.bounded(host.ToInstance(ctx, one.instance))
	defer cancel()
	res, err := s.carriers.Track(cctx, &providerv1.TrackRequest{Reference: one.carrierRef})
	if err != nil {
		return nil, host.Relay(err)
	}
	var t told
	for _, f := range res.GetFacts() {
		t.add(one.instance, one.carrierRef, f)
	}
	out := &logisticsv1.RefreshTrackingResponse{}
	return out, s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		n, err := t.keep(ctx, tx)
		out.NewFacts = int32(n)
		return err
	})
}

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/event"
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
	id := tidy(f.GetFactId(), 200)
	if id == "" || len(id) > maxFactID {
		h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s\x00%d", id, f.GetTrackingNumber(), f.GetStatus(), f.GetCode(), f.GetAt().AsTime().UnixNano()))
		id = hex.EncodeToString(h[:16])
	}
	t.instances, t.references, t.ids = append(t.instances, instance), append(t.references, reference), append(t.ids, id)
	t.tracking, t.codes, t.words = append(t.tracking, tidy(f.GetTrackingNumber(), 64)), append(t.codes, tidy(f.GetCode(), 64)), append(t.words, tidy(f.GetText(), 200))
	t.reasons, t.places, t.countries = append(t.reasons, tidy(f.GetReason(), 64)), append(t.places, tidy(f.GetPlace(), 100)), append(t.countries, tidy(f.GetCountryCode(), 2))
	t.statuses, t.ats = append(t.statuses, int16(heard[f.GetStatus()])), append(t.ats, f.GetAt().AsTime())
}

// maxFactID is the contract's; longer ones are told apart by their hash.
const maxFactID = 100

// tidy keeps of a carrier's text what a column can hold, so many characters of
// it: nothing that a carrier says may keep the rest from being heard.
func tidy(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i]
		}
	}
	return s
}

const writeFacts = `WITH u AS (SELECT * FROM ` + factColumns + `),
  s AS (SELECT s.id, s.instance, s.carrier_ref FROM shipment s WHERE (s.instance, s.carrier_ref) IN (SELECT u.instance, u.carrier_ref FROM u)
    ORDER BY s.id FOR NO KEY UPDATE),
  f AS (INSERT INTO fact (shipment_id, id, tracking, status, code, words, reason, place, country, at)
    SELECT s.id, u.id, u.tracking, u.status, u.code, u.words, u.reason, u.place, u.country, u.at FROM u JOIN s USING (instance, carrier_ref)
    ON CONFLICT DO NOTHING RETURNING shipment_id)
SELECT f.shipment_id, count(*), '', '' FROM f GROUP BY 1
UNION ALL SELECT DISTINCT '', 0, u.instance, u.carrier_ref FROM u WHERE NOT EXISTS (SELECT FROM s WHERE s.instance = u.instance AND s.carrier_ref = u.carrier_ref)`

const factColumns = `ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::smallint[]),
    unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]), unnest($11::timestamptz[]))
    u(instance, carrier_ref, id, tracking, status, code, words, reason, place, country, at)`

func (t *told) args() []any {
	return []any{t.instances, t.references, t.ids, t.tracking, t.statuses, t.codes, t.words, t.reasons, t.places, t.countries, t.ats}
}

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
	ids, fresh, strays, err := t.insert(ctx, tx)
	if err != nil {
		return 0, err
	}
	if len(strays) > 0 {
		more, n, err := t.stray(ctx, tx, strays)
		if err != nil {
			return 0, err
		}
		ids, fresh = append(ids, more...), fresh+n
	}
	if len(ids) == 0 {
		return 0, nil
	}
	return fresh, rederive(ctx, tx, ids)
}

// booked is a carrier's name of a shipment.
type booked struct{ instance, reference string }

// insert keeps facts once each, and answers the shipments that have new ones,
// and who is not known to have been booked.
func (t *told) insert(ctx context.Context, tx *store.Tx) (ids []string, fresh int, strays []booked, err error) {
	rows, err := tx.Rows(ctx, writeFacts, t.args()...)
	return ids, fresh, strays, scan(rows, err, func(rows *sql.Rows) error {
		var id string
		var n int
		var b booked
		if err := rows.Scan(&id, &n, &b.instance, &b.reference); err != nil {
			return err
		}
		if id == "" {
			strays = append(strays, b)
			return nil
		}
		ids, fresh = append(ids, id), fresh+n
		return nil
	})
}

// lockBooked makes who writes down a booking and who hears of it wait for each
// other. The lock of who writes is its own alone.
const lockBooked = `hashtextextended('logistics/' || $1 || '/' || $2, 0)`

// stray keeps facts of bookings whose answer is not written down yet: they are
// the shipment's when it is.
func (t *told) stray(ctx context.Context, tx *store.Tx, of []booked) (ids []string, fresh int, err error) {
	var some told
	for i := range t.ids {
		if slices.Contains(of, booked{t.instances[i], t.references[i]}) {
			some.take(t, i)
		}
	}
	if _, err := tx.Do(ctx, `SELECT pg_advisory_xact_lock_shared(hashtextextended(x.k, 0)) FROM
		(SELECT DISTINCT 'logistics/' || i || '/' || r AS k FROM unnest($1::text[], $2::text[]) b(i, r) ORDER BY 1) x`, some.instances, some.references); err != nil {
		return nil, 0, err
	}
	// Whoever held a lock has committed: look again.
	ids, fresh, still, err := some.insert(ctx, tx)
	if err != nil || len(still) == 0 {
		return ids, fresh, err
	}
	_, err = tx.Do(ctx, `INSERT INTO stray_fact (instance, carrier_ref, id, tracking, status, code, words, reason, place, country, at)
		SELECT u.* FROM `+factColumns+` WHERE NOT EXISTS (SELECT FROM shipment s WHERE s.instance = u.instance AND s.carrier_ref = u.carrier_ref)
		ON CONFLICT DO NOTHING`, some.args()...)
	return ids, fresh, err
}

// take copies a fact.
func (t *told) take(from *told, i int) {
	t.instances, t.references, t.ids = append(t.instances, from.instances[i]), append(t.references, from.references[i]), append(t.ids, from.ids[i])
	t.tracking, t.codes, t.words = append(t.tracking, from.tracking[i]), append(t.codes, from.codes[i]), append(t.words, from.words[i])
	t.reasons, t.places, t.countries = append(t.reasons, from.reasons[i]), append(t.places, from.places[i]), append(t.countries, from.countries[i])
	t.statuses, t.ats = append(t.statuses, from.statuses[i]), append(t.ats, from.ats[i])
}

// rederive moves shipments to where their facts say that they are.
func rederive(ctx context.Context, tx *store.Tx, ids []string) error {
	all, err := readShipments(ctx, tx, `WHERE s.id = ANY ($1) ORDER BY s.id`, ids)
	if err != nil {
		return err
	}
	facts, err := readFacts(ctx, tx, ids)
	if err != nil {
		return err
	}
	return move(ctx, tx, all, facts)
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

// needs is the trouble that wants a person, if any. What a customs office
// holds to look at it comes free by itself.
func needs(status logisticsv1.Status, reason string) string {
	if status == logisticsv1.Status_STATUS_ON_HOLD {
		if reason == "" || reason == "CUSTOMS_INSPECTION" {
			return ""
		}
		return "CUSTOMS_HOLD"
	}
	return troubles[status]
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
		if kind := needs(status, reason); kind != "" {
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
	// Of what has ended no carrier is asked any more.
	if _, err := tx.Do(ctx, `WITH m AS (UPDATE shipment s SET status = u.status, delivered_at = coalesce(u.delivered, s.delivered_at), updated_at = now(),
		    next_poll = CASE WHEN u.status IN (6, 10, 11) THEN NULL ELSE s.next_poll END
		  FROM ROWS FROM (unnest($1::text[]), unnest($2::smallint[]), unnest($3::timestamptz[])) u(id, status, delivered) WHERE s.id = u.id RETURNING s.id)
		INSERT INTO movement (shipment_id) SELECT id FROM m`, ids, statuses, delivered); err != nil {
		return err
	}
	return tasks.open(ctx, tx)
}

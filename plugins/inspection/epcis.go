package main

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/store"
)

// recorded is an event that is written.
type recorded struct {
	*epcis.Event
	id, hash, declaration string
	own                   bool
	merchant              string
}

// names are all that an event names, in normal form.
func names(e *epcis.Event) []string {
	seen := make(map[string]bool)
	var out []string
	for _, list := range [][]string{e.EPCs, e.Inputs, e.Classes} {
		for _, epc := range list {
			if n := gs1.Normal(epc); !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out
}

const insertEvents = `WITH x AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[]) WITH ORDINALITY x(id, hash, declaration, own, merchant, type, event_time, biz_step, disposition, read_point, biz_location, body, n)),
made AS (
  INSERT INTO epcis_event (id, hash, declaration, own, merchant, type, event_time, biz_step, disposition, read_point, biz_location, body, octets, recorded_at)
  SELECT id, hash, declaration, own, merchant, type, event_time, biz_step, disposition, read_point, biz_location, body, octet_length(body), $13 FROM x ORDER BY x.n
  ON CONFLICT DO NOTHING RETURNING n, hash, declaration),
named AS (INSERT INTO epcis_epc (epc, event) SELECT p.epc, made.n FROM unnest($14::text[], $15::text[], $16::text[]) p(epc, hash, declaration)
  JOIN made USING (hash, declaration))
SELECT count(*) FROM made`

// writeEvents writes events that are not there yet and returns how many those
// were. One statement.
func writeEvents(ctx context.Context, tx *store.Tx, events []recorded) (fresh int, err error) {
	if len(events) == 0 {
		return 0, nil
	}
	n := len(events)
	texts := make([][]string, 10)
	for i := range texts {
		texts[i] = make([]string, n)
	}
	owns, times := make([]bool, n), make([]time.Time, n)
	var epcs, hashes, declarations []string
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i, e := range events {
		body, err := e.JSON(e.id, now)
		if err != nil {
			return 0, err
		}
		for j, t := range []string{
			e.id, e.hash, e.declaration, e.merchant, e.Type, e.BizStep, e.Disposition, gs1.Normal(e.ReadPoint), gs1.Normal(e.BizLocation), string(body),
		} {
			texts[j][i] = t
		}
		owns[i], times[i] = e.own, e.Time
		for _, epc := range names(e.Event) {
			epcs, hashes, declarations = append(epcs, epc), append(hashes, e.hash), append(declarations, e.declaration)
		}
	}
	err = tx.Row(ctx, insertEvents, texts[0], texts[1], texts[2], owns, texts[3], texts[4], times, texts[5], texts[6], texts[7], texts[8], texts[9], now,
		epcs, hashes, declarations).Scan(&fresh)
	return fresh, err
}

// byMerchant takes steps of goods of several merchants apart, so that each can
// be told the events of its own goods and of no other's.
func byMerchant(steps []step) []step {
	var out []step
	for _, st := range steps {
		at := make(map[string]int)
		for _, u := range st.units {
			i, ok := at[u.merchant]
			if !ok {
				i = len(out)
				at[u.merchant] = i
				one := st
				one.units, one.merchant = nil, u.merchant
				out = append(out, one)
			}
			out[i].units = append(out[i].units, u)
		}
		if len(st.units) == 0 {
			out = append(out, st)
		}
	}
	return out
}

// epcisEvents writes the EPCIS events of steps and returns their ids, one for
// each step. A step that an event told has that event.
func (s *service) epcisEvents(ctx context.Context, tx *store.Tx, steps []step) ([]string, error) {
	out := make([]string, len(steps))
	var events []recorded
	for i, st := range steps {
		if st.event != "" {
			out[i] = st.event
			continue
		}
		e, err := epcis.New(s.eventOf(st))
		if err != nil {
			return nil, err
		}
		out[i] = e.HashID()
		events = append(events, recorded{Event: e, id: out[i], hash: out[i], own: true, merchant: st.merchant})
	}
	_, err := writeEvents(ctx, tx, events)
	return out, err
}

// eventOf is an ObjectEvent: what happened to which goods, where it was seen,
// where the goods are now, who held them before, and by which document.
func (s *service) eventOf(st step) map[string]any {
	o := map[string]any{
		"type": epcis.ObjectEvent, "eventTime": st.at.UTC().Format(time.RFC3339Nano), "eventTimeZoneOffset": "+00:00", "action": st.action,
		"bizStep": st.bizStep, "disposition": st.disposition,
	}
	if len(st.units) > 0 {
		epcs := make([]any, len(st.units))
		for i, u := range st.units {
			epcs[i] = u.digitalLink
		}
		o["epcList"] = epcs
	} else {
		o["quantityList"] = []any{map[string]any{"epcClass": s.classOf(st), "quantity": json.Number(strconv.FormatInt(st.quantity, 10))}}
	}
	seen := st.from
	if s.place(seen) == "" {
		seen = st.holder
	}
	if p := s.place(seen); p != "" {
		o["readPoint"] = map[string]any{"id": p}
	}
	// Goods that are under way are at no location.
	if p := s.place(st.holder); p != "" && kindOf(st.holder) != atCarrier {
		o["bizLocation"] = map[string]any{"id": p}
	}
	if from, to := s.place(st.from), s.place(st.holder); from != "" && from != to {
		o["sourceList"] = []any{map[string]any{"type": "possessing_party", "source": from}}
		if to != "" {
			o["destinationList"] = []any{map[string]any{"type": "possessing_party", "destination": to}}
		}
	}
	if st.document != "" {
		document := map[string]any{"bizTransaction": s.base + "/document/" + url.PathEscape(st.document)}
		if st.transaction != "" {
			document["type"] = st.transaction
		}
		o["bizTransactionList"] = []any{document}
	}
	return o
}

// classOf names goods without units: a lot of a GTIN, or an address of ours
// where they have none.
func (s *service) classOf(st step) string {
	if st.gtin != "" {
		if l := gs1.TradeItem(st.gtin, st.lot, ""); l.Check() == nil {
			return l.URI(s.base)
		}
	}
	class := s.base + "/sku/" + url.PathEscape(st.sku)
	if st.lot != "" {
		class += "/lot/" + url.PathEscape(st.lot)
	}
	return class
}

const placePath = "/place/"

// place is the address of a holder as events name it; consumers, and nobody,
// have none.
func (s *service) place(holder string) string {
	if !strings.Contains(holder, "/") {
		return ""
	}
	return s.base + placePath + holder
}

var isHolder = regexp.MustCompile(`^(merchant|inspection|warehouse|carrier)/[A-Za-z0-9_-]{1,64}$`)

// holderAt is who holds what is at a place; empty for places of others.
func (s *service) holderAt(place string) string {
	holder, ok := strings.CutPrefix(place, s.base+placePath)
	if !ok || !isHolder.MatchString(holder) {
		return ""
	}
	return holder
}

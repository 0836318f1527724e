package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/store"
)

// clockSkew is how far the clocks of who captures may be ahead.
const clockSkew = 10 * time.Minute

// CaptureEvents takes the events of an EPCISDocument: all or none.
func (s *service) CaptureEvents(ctx context.Context, req *inspectionv1.CaptureEventsRequest) (*inspectionv1.CaptureEventsResponse, error) {
	events, err := epcis.ParseDocument(req.GetDocument())
	if err != nil {
		return nil, fault.Field("document", err.Error())
	}
	c := &capture{all: make([]recorded, len(events))}
	for i, e := range events {
		r := recorded{Event: e, id: e.ID, hash: e.HashID()}
		switch {
		case e.Time.After(time.Now().Add(clockSkew)):
			return nil, fault.Field("document", fmt.Sprintf("event %d has not happened yet", i+1))
		case r.id == "":
			r.id = r.hash
		case strings.HasPrefix(r.id, "ni:///sha-256;") && strings.HasSuffix(r.id, "?ver=CBV2.0") && r.id != r.hash:
			return nil, fault.Field("document", fmt.Sprintf("event %d has the hash id of another event; its own is %s", i+1, r.hash))
		}
		if d := e.Error; d != nil {
			sum := sha256.Sum256([]byte(strings.Join(append([]string{d.Time.UTC().Format(time.RFC3339Nano), d.Reason}, d.Corrective...), " ")))
			r.declaration = hex.EncodeToString(sum[:])
		}
		c.all[i] = r
	}
	return mutate(ctx, s, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.CaptureEventsResponse, error) {
		return s.capture(ctx, tx, &capture{all: slices.Clone(c.all)})
	})
}

// capture is a document that is taken.
type capture struct {
	all []recorded
	// fresh are those that are not known, in the order in which they happened.
	fresh []recorded
	// wrong are ids of events that a fresh one declares an error.
	wrong []string
	// units are the known ones that the document names, by what names them.
	units map[string]*unit
	// before is where units were when the document came.
	before map[string]unit
}

func (s *service) capture(ctx context.Context, tx *store.Tx, c *capture) (*inspectionv1.CaptureEventsResponse, error) {
	// The units' locks are taken first: of two captures of one document the
	// second sees what the first wrote.
	if err := c.lock(ctx, tx); err != nil {
		return nil, err
	}
	if err := c.sort(ctx, tx); err != nil {
		return nil, err
	}
	res := &inspectionv1.CaptureEventsResponse{}
	for _, r := range c.all {
		res.EventIds = append(res.EventIds, r.id)
	}
	fresh, err := writeEvents(ctx, tx, c.fresh)
	if err != nil {
		return nil, err
	}
	res.Captured = int32(fresh)
	return res, s.apply(ctx, tx, c)
}

// unitNamed takes apart what names a unit: an SGTIN, or our own address of one
// without.
func unitNamed(epc string) (gtin, serial, unitID string) {
	l, err := gs1.ParseDigitalLink(gs1.Normal(epc))
	if err == nil {
		return l.GTIN(), l.Serial(), ""
	}
	if u, err := url.Parse(epc); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
		if i := strings.LastIndex(u.Path, ownPath); i >= 0 && isUnit(u.Path[i+len(ownPath):]) {
			return "", "", u.Path[i+len(ownPath):]
		}
	}
	return "", "", ""
}

// lock finds and locks the units that the document names.
func (c *capture) lock(ctx context.Context, tx *store.Tx) error {
	var gtins, serials, unitIDs []string
	for _, r := range c.all {
		for _, epc := range r.EPCs {
			switch gtin, serial, unitID := unitNamed(epc); {
			case unitID != "":
				unitIDs = append(unitIDs, unitID)
			case serial != "":
				gtins, serials = append(gtins, gtin), append(serials, serial)
			}
		}
	}
	c.units, c.before = make(map[string]*unit), make(map[string]unit)
	if len(gtins)+len(unitIDs) == 0 {
		return nil
	}
	found, err := readUnits(tx.Rows(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.id IN (
		SELECT o.id FROM unnest($1::text[], $2::text[]) k(gtin, serial) JOIN unit o ON o.gtin = k.gtin AND o.serial = k.serial
		UNION ALL SELECT unnest($3::text[])) ORDER BY u.id FOR UPDATE`, gtins, serials, unitIDs))
	for _, u := range found {
		c.before[u.id] = *u
		c.units[u.id] = u
		if u.gtin != "" {
			c.units[u.gtin+" "+u.serial] = u
		}
	}
	return err
}

// of are the known units that an event observed, each once.
func (c *capture) of(e *epcis.Event) []*unit {
	var out []*unit
	for _, epc := range e.EPCs {
		gtin, serial, unitID := unitNamed(epc)
		u := c.units[unitID]
		if serial != "" {
			u = c.units[gtin+" "+serial]
		}
		if u != nil && !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

// sort tells what is new from what is known, and refuses what cannot be: two
// events of one id, an error of an event that nobody captured.
func (c *capture) sort(ctx context.Context, tx *store.Tx) error {
	ids, hashes := make([]string, len(c.all)), make([]string, len(c.all))
	for i, r := range c.all {
		ids[i], hashes[i] = r.id, r.hash
	}
	byHash, byID, declared := make(map[string]recorded), make(map[string]string), make(map[string]bool)
	note := func(r recorded) {
		if r.declaration != "" {
			declared[r.hash+r.declaration] = true
			return
		}
		byHash[r.hash], byID[r.id] = r, r.hash
	}
	rows, err := tx.Rows(ctx, `SELECT id, hash, declaration, own FROM epcis_event WHERE hash = ANY ($1)
		UNION SELECT id, hash, declaration, own FROM epcis_event WHERE id = ANY ($2)`, hashes, ids)
	if err := each(rows, err, func(r row) error {
		var k recorded
		if err := r.Scan(&k.id, &k.hash, &k.declaration, &k.own); err != nil {
			return err
		}
		note(k)
		return nil
	}); err != nil {
		return err
	}
	for i := range c.all {
		r := &c.all[i]
		known, isKnown := byHash[r.hash]
		switch other, used := byID[r.id]; {
		case used && other != r.hash:
			return fault.New(connect.CodeAlreadyExists, "EVENT_DIFFERS", "another event has this id", "event_id", r.id)
		case r.declaration != "" && !isKnown:
			return fault.New(connect.CodeFailedPrecondition, "EVENT_UNKNOWN", "no such event was captured; it cannot be an error", "event_id", r.id)
		case r.declaration != "" && known.own:
			return fault.New(connect.CodeFailedPrecondition, "EVENT_OWN", "this event is the platform's own; what it tells is put right by another step", "event_id", known.id)
		case r.declaration != "" && declared[r.hash+r.declaration], r.declaration == "" && isKnown:
			r.id = known.id
			continue
		case r.declaration != "":
			r.id = known.id
			c.wrong = append(c.wrong, known.id)
		}
		r.merchant = c.merchantOf(r.Event)
		note(*r)
		c.fresh = append(c.fresh, *r)
	}
	slices.SortStableFunc(c.fresh, func(a, b recorded) int { return a.Time.Compare(b.Time) })
	return nil
}

// merchantOf is whose goods an event is about; empty when they are several
// merchants', or nobody's that is known.
func (c *capture) merchantOf(e *epcis.Event) string {
	merchant := ""
	for _, u := range c.of(e) {
		if merchant != "" && u.merchant != merchant {
			return ""
		}
		merchant = u.merchant
	}
	return merchant
}

package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// apply makes the units' state what the captured events say. An event that
// happened before the last thing that is known of a unit is history, and says
// nothing of where the unit is. What was declared an error is taken back where
// nothing has happened to the unit since.
func (s *service) apply(ctx context.Context, tx *store.Tx, c *capture) error {
	var all []*unit
	for id := range c.before {
		all = append(all, c.units[id])
	}
	if len(all) == 0 || len(c.fresh) == 0 {
		return nil
	}
	steps, err := s.takeBack(ctx, tx, c)
	if err != nil {
		return err
	}
	last, err := lastSteps(ctx, tx, ids(all))
	if err != nil {
		return err
	}
	under, err := held(ctx, tx, all)
	if err != nil {
		return err
	}
	var seen sightings
	for _, r := range c.fresh {
		if r.declaration != "" || slices.Contains(c.wrong, r.id) {
			continue
		}
		var there []*unit
		for _, u := range c.of(r.Event) {
			if r.Time.After(last[u.id]) {
				there = append(there, u)
				last[u.id] = r.Time
			}
		}
		told, found, err := s.effect(r, there, under)
		if err != nil {
			return err
		}
		steps, seen = append(steps, told...), append(seen, found...)
	}
	if len(seen) > 0 {
		return seen
	}
	return s.settleCaptured(ctx, tx, c, steps)
}

// effect is what an event makes of the units that it is the newest to tell of.
// It follows the rules of a hand-over. Of sold and disposed units an event may
// tell, but not that they are elsewhere.
func (s *service) effect(r recorded, units []*unit, under map[string]string) ([]step, sightings, error) {
	var steps []step
	var seen sightings
	to := s.holderAt(r.BizLocation)
	bizStep, disposition := r.BizStep, r.Disposition
	if !epcis.IsBizStep(bizStep) {
		bizStep = "other"
	}
	for _, u := range units {
		holder := cmp.Or(to, u.holder)
		moves := holder != u.holder
		after := u.disposition
		if epcis.IsDisposition(disposition) {
			after = disposition
		}
		switch {
		case u.disposition == destroyed:
			seen = append(seen, sighting{u, shortOf(r), seenDestroyed})
			continue
		case u.holder == consumer && moves:
			seen = append(seen, sighting{u, shortOf(r), seenSold})
			continue
		case u.holder == nobody && moves:
			return nil, nil, fault.New(connect.CodeFailedPrecondition, "UNIT_GONE", "this unit was disposed of", "unit_id", u.id)
		case u.holder == consumer, u.holder == nobody:
			continue
		case under[u.id] != "" && (moves || after != u.disposition):
			return nil, nil, fault.New(connect.CodeFailedPrecondition, "UNDER_INSPECTION", "an open case has this unit; it moves when the case is closed",
				"unit_id", u.id, "case_id", under[u.id])
		}
		if err := checkWords(bizStep, after); err != nil {
			return nil, nil, err
		}
		steps = append(steps, step{
			units: []*unit{u}, merchant: u.merchant, bizStep: bizStep, disposition: after, from: u.holder, holder: holder, document: shortOf(r), action: r.Action,
			at: r.Time, event: r.id,
		})
		u.holder, u.disposition, u.document = holder, after, shortOf(r)
	}
	return steps, seen, nil
}

// shortOf is the document of a step that an event told: documents are short,
// so it is the beginning of the event's hash.
func shortOf(r recorded) string { return "epcis-" + r.hash[len("ni:///sha-256;"):][:32] }

// lastSteps tells when the last thing happened to units that stands: steps of
// events that were declared errors, and what took them back, do not count.
func lastSteps(ctx context.Context, tx *store.Tx, unitIDs []string) (map[string]time.Time, error) {
	last := make(map[string]time.Time)
	rows, err := tx.Rows(ctx, `SELECT t.unit, max(t.at) FROM unit_step t WHERE t.unit = ANY ($1)
		AND NOT EXISTS (SELECT FROM epcis_event d WHERE d.id = t.event_id AND d.declaration <> '') GROUP BY t.unit`, unitIDs)
	return last, each(rows, err, func(r row) error {
		var u string
		var at time.Time
		if err := r.Scan(&u, &at); err != nil {
			return err
		}
		last[u] = at
		return nil
	})
}

// takeBack puts units to where they were before an event that was an error,
// unless something has happened to them since.
func (s *service) takeBack(ctx context.Context, tx *store.Tx, c *capture) ([]step, error) {
	if len(c.wrong) == 0 {
		return nil, nil
	}
	var steps []step
	rows, err := tx.Rows(ctx, `WITH last AS (SELECT DISTINCT ON (t.unit) t.unit, t.id, t.event_id FROM unit_step t
		 WHERE t.unit IN (SELECT w.unit FROM unit_step w WHERE w.event_id = ANY ($1)) ORDER BY t.unit, t.id DESC)
		SELECT l.unit, l.event_id, p.holder, p.disposition, p.reference FROM last l
		CROSS JOIN LATERAL (SELECT t.holder, t.disposition, t.reference FROM unit_step t WHERE t.unit = l.unit AND t.id < l.id
		  AND NOT EXISTS (SELECT FROM epcis_event d WHERE d.id = t.event_id AND d.declaration <> '') ORDER BY t.id DESC LIMIT 1) p
		WHERE l.event_id = ANY ($1) ORDER BY l.unit`, c.wrong)
	return steps, each(rows, err, func(r row) error {
		var unitID string
		st := step{bizStep: "other"}
		if err := r.Scan(&unitID, &st.event, &st.holder, &st.disposition, &st.document); err != nil {
			return err
		}
		u := c.units[unitID]
		if u == nil {
			// The declaration names what the event named: it is there.
			return nil
		}
		st.units, st.merchant, st.from = []*unit{u}, u.merchant, u.holder
		steps = append(steps, st)
		u.holder, u.disposition, u.document = st.holder, st.disposition, st.document
		return nil
	})
}

// settleCaptured writes what steps came to: the units once each, and the steps.
func (s *service) settleCaptured(ctx context.Context, tx *store.Tx, c *capture, steps []step) error {
	if len(steps) == 0 {
		return nil
	}
	var changed, holders, dispositions, documents []string
	for id, was := range c.before {
		if u := c.units[id]; was.holder != u.holder || was.disposition != u.disposition || was.document != u.document {
			changed, holders, dispositions, documents = append(changed, id), append(holders, u.holder), append(dispositions, u.disposition), append(documents, u.document)
		}
	}
	if _, err := tx.Do(ctx, `UPDATE unit u SET holder = x.holder, disposition = x.disposition, document = x.document, updated_at = now()
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) x(id, holder, disposition, document) WHERE u.id = x.id`,
		changed, holders, dispositions, documents); err != nil {
		return err
	}
	return s.recordStep(ctx, tx, steps...)
}

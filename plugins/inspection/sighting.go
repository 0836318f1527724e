package main

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// Why a serial cannot be where it was seen.
const (
	seenDestroyed = "DESTROYED"
	seenSold      = "SOLD"
	seenElsewhere = "ELSEWHERE"
	// soldOtherwise came back for an order with which it was not sold: two orders
	// were mixed up, or something else was sent back with a serial that passes.
	soldOtherwise = "OTHER_ORDER"
	tagReplayed   = "TAG_REPLAYED"
)

// sighting is a serial that was seen where it cannot be.
type sighting struct {
	unit *unit
	// reference is what it was found in: consignment, case, custody document.
	reference, reason string
}

// sightings are an error too: what was asked is not done.
type sightings []sighting

func (l sightings) Error() string { return "serials were seen where they cannot be" }

func (l sightings) refusal() error {
	serials := make([]string, 0, len(l))
	for _, x := range l {
		if len(serials) < 20 {
			serials = append(serials, x.unit.serial)
		}
	}
	return fault.New(connect.CodeFailedPrecondition, "CLONE_SUSPECTED", "a serial was seen that is sold, destroyed or elsewhere; an inspection was opened",
		"serials", strings.Join(serials, " "), "why", l[0].reason)
}

// raise records sightings, each once: what was certified is not any more,
// everybody is told, and a case about the serial is opened where none is open
// and the goods are not under inspection already.
func (s *service) raise(ctx context.Context, tx *store.Tx, list ...sighting) error {
	if len(list) == 0 {
		return nil
	}
	units, references, reasons := make([]string, len(list)), make([]string, len(list)), make([]string, len(list))
	for i, x := range list {
		units[i], references[i], reasons[i] = x.unit.id, x.reference, x.reason
	}
	// The units' rows are locked first, in the one order, by this statement.
	if _, err := lockUnits(ctx, tx, units); err != nil {
		return err
	}
	fresh := make(map[string]string)
	rows, err := tx.Rows(ctx, `INSERT INTO sighting (unit, reference, reason) SELECT DISTINCT u, f, r FROM unnest($1::text[], $2::text[], $3::text[]) x(u, f, r)
		ON CONFLICT DO NOTHING RETURNING unit, reason`, units, references, reasons)
	if err := each(rows, err, func(r row) error {
		var u, reason string
		defer func() { fresh[u] = reason }()
		return r.Scan(&u, &reason)
	}); err != nil || len(fresh) == 0 {
		return err
	}
	var suspects, caseIDs, documents, notes []string
	for _, x := range list {
		if fresh[x.unit.id] != x.reason {
			continue
		}
		delete(fresh, x.unit.id)
		suspects, documents, notes = append(suspects, x.unit.id), append(documents, x.reference), append(notes, x.reason)
		caseIDs = append(caseIDs, id.New("cas"))
		if err := tx.Publish(&inspectionv1.CloneSuspected{
			UnitId: x.unit.id, Gtin: x.unit.gtin, Serial: x.unit.serial, Reference: x.reference, Reason: x.reason,
		}); err != nil {
			return err
		}
	}
	if err := s.revokeCertificates(ctx, tx, suspects, "CLONED"); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE unit SET clone_suspected = true, updated_at = now() WHERE id = ANY ($1)`, suspects); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, openSightings, caseIDs, suspects, documents, notes, s.marketOf(ctx)); err != nil {
		return err
	}
	return doubt(ctx, tx, suspects)
}

const openSightings = `WITH found AS (
  SELECT x.case_id AS new_id, u.*, x.document AS found_in, x.note FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) x(case_id, unit, document, note)
    JOIN unit u ON u.id = x.unit
   WHERE x.note <> 'TAG_REPLAYED' AND NOT EXISTS (SELECT FROM case_unit cu JOIN case_file c ON c.id = cu.case_id
     WHERE cu.unit = u.id AND c.origin = 4 AND c.state <> 8)),
made AS (
  INSERT INTO case_file (id, origin, merchant, sku, gtin, lot, quantity, reference, site, destination, market, category, reason)
  SELECT f.new_id, 4, f.merchant, f.sku, f.gtin, f.lot, 1, f.found_in, 'main', 'main', $5,
    coalesce((SELECT c.category FROM case_file c WHERE c.sku = f.sku AND c.category <> '' ORDER BY c.opened_at DESC LIMIT 1), ''), f.note
    FROM found f RETURNING id, reason),
entry AS (INSERT INTO case_entry (case_id, what, who, note) SELECT id, 'opened', 'system', reason FROM made)
INSERT INTO case_unit (case_id, unit, held) SELECT f.new_id, f.id, false FROM found f`

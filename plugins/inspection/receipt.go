package main

import (
	"cmp"
	"context"
	"encoding/json"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// ReceiveConsignment records what came, commissions its units and opens its
// cases, in a number of statements that does not grow with them.
func (s *service) ReceiveConsignment(ctx context.Context, req *inspectionv1.ReceiveConsignmentRequest) (*inspectionv1.ReceiveConsignmentResponse, error) {
	lines, err := readLines(req.GetLines())
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ReceiveConsignmentResponse, error) {
		g, err := loadConsignment(ctx, tx, req.GetConsignmentId(), "FOR UPDATE OF g")
		if err != nil {
			return nil, err
		}
		if g.state >= received {
			return s.receiptOf(ctx, tx, g)
		}
		r := &receipt{consignment: g, lines: g.complete(lines)}
		if err := s.identify(ctx, tx, r); err != nil {
			return nil, err
		}
		if err := s.receive(ctx, tx, r); err != nil {
			return nil, err
		}
		if g, err = loadConsignment(ctx, tx, g.id, ""); err != nil {
			return nil, err
		}
		return s.receiptOf(ctx, tx, g)
	})
}

// receiptOf answers for a consignment that was received.
func (s *service) receiptOf(ctx context.Context, tx *store.Tx, g *consignment) (*inspectionv1.ReceiveConsignmentResponse, error) {
	units, err := readUnits(tx.Rows(ctx, `SELECT `+unitColumns+` FROM unit u JOIN case_unit cu ON cu.unit = u.id
		JOIN case_file c ON c.id = cu.case_id WHERE c.reference = $1 AND c.origin = 1 ORDER BY u.id`, g.id))
	return &inspectionv1.ReceiveConsignmentResponse{Consignment: g.proto(), Units: protos(units)}, err
}

// complete takes over from the announcement what was not said again of the
// goods that were counted.
func (g *consignment) complete(counted list[line]) list[line] {
	for i := range counted {
		l := &counted[i]
		for _, a := range g.lines {
			if a.SKU != l.SKU || a.Lot != l.Lot && l.Lot != "" {
				continue
			}
			l.GTIN, l.Lot = cmp.Or(l.GTIN, a.GTIN), cmp.Or(l.Lot, a.Lot)
			l.ExpiresOn, l.Category = cmp.Or(l.ExpiresOn, a.ExpiresOn), cmp.Or(l.Category, a.Category)
			break
		}
	}
	return counted
}

// receipt is what came of a consignment: pieces, in which cases they are
// looked at, and serials that cannot be here.
type receipt struct {
	*consignment
	lines        list[line]
	fresh, known []*unit
	cases        []*caseFile
	sightings    []sighting
}

// piece is a serialised good of a line.
type piece struct {
	line *line
	unit *unit
}

// identify finds out which good each counted piece is. A piece that carries
// another good's serial gets an identity of its own, without GTIN, so that
// nothing says that it is that good; its case says what it carried.
func (s *service) identify(ctx context.Context, tx *store.Tx, r *receipt) error {
	var pieces []piece
	var asked []*unit
	for i := range r.lines {
		l := &r.lines[i]
		if !l.Serialised {
			if l.Quantity > 0 {
				r.cases = append(r.cases, r.caseOf(l, l.Quantity, ""))
			}
			continue
		}
		of := unit{sku: l.SKU, merchant: r.merchant, gtin: l.GTIN, lot: l.Lot, reference: r.id, holder: atInspection + "/" + r.site}
		for n := range int(l.Quantity) {
			serial := ""
			if n < len(l.Serials) {
				serial = l.Serials[n]
			}
			pieces = append(pieces, piece{l, s.newUnit(id.New("unt"), serial, of)})
			asked = append(asked, pieces[len(pieces)-1].unit)
		}
	}
	known, err := s.lockSame(ctx, tx, asked)
	if err != nil {
		return err
	}
	here := make(map[string]*unit, len(pieces))
	for i, p := range pieces {
		old, why := known[i], ""
		switch first := here[p.unit.key()]; {
		case first != nil:
			old, why = first, seenElsewhere
		case old != nil && old.disposition == destroyed:
			why = seenDestroyed
		case old != nil && old.disposition == sold:
			why = seenSold
		case old != nil && (old.sku != p.line.SKU || old.merchant != r.merchant || old.holder != atMerchant+"/"+r.merchant && old.reference != r.id):
			why = seenElsewhere
		}
		switch {
		case why != "":
			r.sightings = append(r.sightings, sighting{old, r.id, why})
			impostor := *p.unit
			impostor.gtin = ""
			u := s.newUnit(p.unit.id, "", impostor)
			r.fresh = append(r.fresh, u)
			r.cases = append(r.cases, r.caseOf(p.line, 1, u.id))
			r.cases[len(r.cases)-1].reason = "SERIAL_" + why + " " + p.unit.serial
		case old != nil:
			here[old.key()] = old
			r.known = append(r.known, old)
			r.cases = append(r.cases, r.caseOf(p.line, 1, old.id))
		default:
			here[p.unit.key()] = p.unit
			r.fresh = append(r.fresh, p.unit)
			r.cases = append(r.cases, r.caseOf(p.line, 1, p.unit.id))
		}
	}
	return nil
}

func (r *receipt) caseOf(l *line, quantity int64, unitID string) *caseFile {
	c := &caseFile{
		id: id.New("cas"), origin: inspectionv1.Case_ORIGIN_CONSIGNMENT, state: opened, merchant: r.merchant, sku: l.SKU, gtin: l.GTIN, lot: l.Lot,
		expiresOn: l.ExpiresOn, category: l.Category, quantity: quantity, reference: r.id, site: r.site, destination: r.destination, market: r.market,
	}
	if unitID != "" {
		c.units = []string{unitID}
	}
	return c
}

// receive writes a receipt.
func (s *service) receive(ctx context.Context, tx *store.Tx, r *receipt) error {
	if err := s.commission(ctx, tx, r.fresh); err != nil {
		return err
	}
	at := step{
		bizStep: "receiving", disposition: "in_progress", from: atMerchant + "/" + r.merchant, holder: atInspection + "/" + r.site,
		document: r.id, transaction: "desadv", merchant: r.merchant,
	}
	var steps []step
	if units := append(append([]*unit(nil), r.fresh...), r.known...); len(units) > 0 {
		one := at
		one.units = units
		steps = append(steps, one)
	}
	for _, l := range r.lines {
		if !l.Serialised && l.Quantity > 0 {
			one := at
			one.sku, one.lot, one.gtin, one.quantity = l.SKU, l.Lot, l.GTIN, l.Quantity
			steps = append(steps, one)
		}
	}
	if err := s.carry(ctx, tx, steps...); err != nil {
		return err
	}
	if err := openCases(ctx, tx, r.cases); err != nil {
		return err
	}
	// What was sold, and that its merchant has again without a return.
	if err := doubt(ctx, tx, ids(r.known)); err != nil {
		return err
	}
	if err := s.raise(ctx, tx, r.sightings...); err != nil {
		return err
	}
	b, err := json.Marshal(r.lines)
	if err != nil {
		return err
	}
	state := received
	if len(r.cases) == 0 {
		state = ended
	}
	if _, err := tx.Do(ctx, `UPDATE consignment SET state = $2, received = $3::text::jsonb, received_at = now() WHERE id = $1`, r.id, int16(state), string(b)); err != nil {
		return err
	}
	caseIDs := make([]string, len(r.cases))
	for i, c := range r.cases {
		caseIDs[i] = c.id
	}
	return tx.Publish(&inspectionv1.ConsignmentReceived{ConsignmentId: r.id, MerchantId: r.merchant, CaseIds: caseIDs})
}

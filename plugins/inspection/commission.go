package main

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// gtin14 checks a GTIN; none is none.
func gtin14(field, given string) (string, error) {
	if given == "" {
		return "", nil
	}
	g, err := gs1.GTIN(given)
	if err != nil {
		return "", fault.Field(field, "is no GTIN with a right check digit")
	}
	return g, nil
}

// punctuation of GS1 AI encodable character set 82 (General Specifications,
// table 7.11-1), beside letters and digits.
const punctuation = `!"%&'()*+,-./:;<=>?_`

func checkSerial(field, serial string) error {
	for _, c := range serial {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune(punctuation, c) {
			return fault.Field(field, "holds a character that no serial of GS1 has")
		}
	}
	return nil
}

// platformSerial is the serial of a unit that has none of its maker: it
// follows from the unit's id, so that a repetition gives the same.
func platformSerial(unitID string) string {
	return strings.ToUpper(id.Derive("srl", unitID)[len("srl_"):][:20])
}

// newUnit is a good that gets its identity now, at an inspection site.
func (s *service) newUnit(unitID, serial string, of unit) *unit {
	u := of
	u.id, u.serial = unitID, serial
	if serial == "" {
		u.serial = platformSerial(unitID)
	}
	u.digitalLink = s.linkOf(&u)
	return &u
}

// CommissionUnits gives goods their identity.
func (s *service) CommissionUnits(ctx context.Context, req *inspectionv1.CommissionUnitsRequest) (*inspectionv1.CommissionUnitsResponse, error) {
	gtin, err := gtin14("gtin", req.GetGtin())
	if err != nil {
		return nil, err
	}
	of := unit{sku: req.GetSku(), merchant: req.GetMerchantId(), gtin: gtin, lot: req.GetLot(), reference: req.GetReference(),
		holder: atInspection + "/" + site(req.GetSite())}
	asked := make([]*unit, len(req.GetUnits()))
	seen := make(map[string]bool, 2*len(asked))
	for i, n := range req.GetUnits() {
		if err := checkSerial("units.serial", n.GetSerial()); err != nil {
			return nil, err
		}
		asked[i] = s.newUnit(n.GetUnitId(), n.GetSerial(), of)
		if seen[asked[i].id] || seen[asked[i].serial] {
			return nil, fault.Field("units", "a unit or serial stands twice")
		}
		seen[asked[i].id], seen[asked[i].serial] = true, true
	}
	return mutate(ctx, s, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.CommissionUnitsResponse, error) {
		fresh, err := s.unknownOf(ctx, tx, asked)
		if err != nil {
			return nil, err
		}
		if err := s.commission(ctx, tx, fresh); err != nil {
			return nil, err
		}
		stored, err := lockUnits(ctx, tx, ids(asked))
		if err != nil {
			return nil, err
		}
		byID := make(map[string]*unit, len(stored))
		for _, u := range stored {
			byID[u.id] = u
		}
		res := &inspectionv1.CommissionUnitsResponse{}
		for _, u := range asked {
			res.Units = append(res.Units, byID[u.id].proto())
		}
		return res, nil
	})
}

// unknownOf are those of the units asked for that are not there yet. It
// refuses serials that others have.
func (s *service) unknownOf(ctx context.Context, tx *store.Tx, asked []*unit) ([]*unit, error) {
	known, err := s.lockSame(ctx, tx, asked)
	if err != nil {
		return nil, err
	}
	byID, err := lockUnits(ctx, tx, ids(asked))
	if err != nil {
		return nil, err
	}
	there := make(map[string]*unit, len(byID))
	for _, u := range byID {
		there[u.id] = u
	}
	var fresh []*unit
	var seen sightings
	for i, u := range asked {
		old := there[u.id]
		if old == nil {
			old = known[i]
		}
		switch {
		case old == nil:
			fresh = append(fresh, u)
		case old.id == u.id && old.serial == u.serial && old.gtin == u.gtin && old.sku == u.sku && old.merchant == u.merchant && old.reference == u.reference:
		case old.id != u.id && old.disposition == destroyed:
			seen = append(seen, sighting{old, u.reference, seenDestroyed})
		case old.id != u.id && old.disposition == sold:
			seen = append(seen, sighting{old, u.reference, seenSold})
		default:
			return nil, serialExists(u.serial)
		}
	}
	if len(seen) > 0 {
		return nil, seen
	}
	return fresh, nil
}

func serialExists(serial string) error {
	return fault.New(connect.CodeAlreadyExists, "SERIAL_EXISTS", "another unit has this id or serial", "serial", serial)
}

// lockSame finds, for each of some units, the one that has its serial already:
// by GTIN and serial, or by sku and serial for goods without a GTIN.
func (s *service) lockSame(ctx context.Context, tx *store.Tx, units []*unit) ([]*unit, error) {
	gtins, skus, serials := make([]string, len(units)), make([]string, len(units)), make([]string, len(units))
	for i, u := range units {
		gtins[i], skus[i], serials[i] = u.gtin, u.sku, u.serial
	}
	found, err := readUnits(tx.Rows(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.id IN (
		SELECT o.id FROM unnest($1::text[], $3::text[]) k(gtin, serial) JOIN unit o ON o.gtin = k.gtin AND o.serial = k.serial WHERE k.gtin <> ''
		UNION ALL
		SELECT o.id FROM unnest($1::text[], $2::text[], $3::text[]) k(gtin, sku, serial) JOIN unit o ON o.sku = k.sku AND o.serial = k.serial
		 WHERE k.gtin = '' AND o.gtin = '') ORDER BY u.id FOR UPDATE`, gtins, skus, serials))
	if err != nil {
		return nil, err
	}
	byKey := make(map[string]*unit, len(found))
	for _, u := range found {
		byKey[u.key()] = u
	}
	out := make([]*unit, len(units))
	for i, u := range units {
		out[i] = byKey[u.key()]
	}
	return out, nil
}

// key is what a unit is told apart by: its SGTIN, or its own serial.
func (u *unit) key() string {
	if u.gtin != "" {
		return "01/" + u.gtin + "/21/" + u.serial
	}
	return "sku/" + u.sku + "/" + u.serial
}

// commission writes new units, and tells of them.
func (s *service) commission(ctx context.Context, tx *store.Tx, units []*unit) error {
	if len(units) == 0 {
		return nil
	}
	n := len(units)
	skus, merchants, gtins, serials, lots := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	links, references, holders := make([]string, n), make([]string, n), make([]string, n)
	for i, u := range units {
		skus[i], merchants[i], gtins[i], serials[i], lots[i] = u.sku, u.merchant, u.gtin, u.serial, u.lot
		links[i], references[i], holders[i] = u.digitalLink, u.reference, u.holder
		if err := tx.Publish(&inspectionv1.UnitCommissioned{
			UnitId: u.id, Sku: u.sku, MerchantId: u.merchant, Gtin: u.gtin, Serial: u.serial, Lot: u.lot,
		}); err != nil {
			return err
		}
	}
	_, err := tx.Do(ctx, `INSERT INTO unit (id, sku, merchant, gtin, serial, lot, digital_link, reference, holder, disposition, document)
		SELECT i, k, m, g, s, l, d, r, h, 'active', r FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
		x(i, k, m, g, s, l, d, r, h) ORDER BY i`, ids(units), skus, merchants, gtins, serials, lots, links, references, holders)
	if store.IsConstraint(err, "unit_pkey") || store.IsConstraint(err, "unit_sgtin") || store.IsConstraint(err, "unit_own_serial") {
		return serialExists(units[0].serial)
	}
	if err != nil {
		return err
	}
	var steps []step
	for _, st := range byHolder(units, step{bizStep: "commissioning", disposition: "active", document: units[0].reference, action: "ADD"}) {
		st.from = ""
		steps = append(steps, st)
	}
	return s.recordStep(ctx, tx, steps...)
}

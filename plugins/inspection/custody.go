package main

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// Kinds of holders; the first three are "<kind>/<which>".
const (
	atMerchant   = "merchant"
	atInspection = "inspection"
	atWarehouse  = "warehouse"
	atCarrier    = "carrier"
	consumer     = "consumer"
	nobody       = "nobody"
)

// kindOf is what sort of holder holds.
func kindOf(holder string) string {
	kind, _, _ := strings.Cut(holder, "/")
	return kind
}

// carry records what happened to units and makes it their state: the last of
// steps of the same unit stands.
func (s *service) carry(ctx context.Context, tx *store.Tx, steps ...step) error {
	for _, st := range steps {
		if len(st.units) == 0 {
			continue
		}
		if _, err := tx.Do(ctx, `UPDATE unit SET holder = $2, disposition = $3, document = $4, updated_at = now() WHERE id = ANY ($1)`,
			ids(st.units), st.holder, st.disposition, st.document); err != nil {
			return err
		}
		for _, u := range st.units {
			u.holder, u.disposition, u.document = st.holder, st.disposition, st.document
		}
	}
	return s.recordStep(ctx, tx, steps...)
}

// byHolder makes a step for the units of each holder, who stays the holder
// where the step names none.
func byHolder(units []*unit, st step) []step {
	var out []step
	at := make(map[string]int)
	for _, u := range units {
		i, ok := at[u.holder]
		if !ok {
			i = len(out)
			at[u.holder] = i
			one := st
			one.from, one.units = u.holder, nil
			if one.holder == "" {
				one.holder = u.holder
			}
			out = append(out, one)
		}
		out[i].units = append(out[i].units, u)
	}
	return out
}

// MoveCustody records that somebody else holds units. From a consumer goods
// come back by a return only: who says otherwise has seen a serial that is
// sold.
func (s *service) MoveCustody(ctx context.Context, req *inspectionv1.MoveCustodyRequest) (*inspectionv1.MoveCustodyResponse, error) {
	if err := checkWords(req.GetBizStep(), req.GetDisposition()); err != nil {
		return nil, err
	}
	if req.GetHolder() == nobody && req.GetDisposition() != "disposed" {
		return nil, fault.Field("holder", "goods that nobody holds are disposed, or destroyed by an order of destruction")
	}
	return mutate(ctx, s, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.MoveCustodyResponse, error) {
		units, err := lockUnits(ctx, tx, req.GetUnitIds())
		if err != nil {
			return nil, err
		}
		if len(units) < len(req.GetUnitIds()) {
			return nil, unknownUnit()
		}
		moving, err := s.movable(ctx, tx, units, req.GetDocument(), req.GetHolder())
		if err != nil {
			return nil, err
		}
		return &inspectionv1.MoveCustodyResponse{}, s.carry(ctx, tx, byHolder(moving, step{
			bizStep: req.GetBizStep(), disposition: req.GetDisposition(), holder: req.GetHolder(), document: req.GetDocument(),
		})...)
	})
}

// checkWords refuses words that other ways alone lead to.
func checkWords(bizStep, disposition string) error {
	switch {
	case disposition == destroyed:
		return fault.Field("disposition", "goods are destroyed by an order of destruction")
	case disposition == sold:
		return fault.Field("disposition", "goods are sold when their fulfilment is delivered")
	case !epcis.IsDisposition(disposition):
		return fault.Field("disposition", "is no word of the CBV")
	case !epcis.IsBizStep(bizStep):
		return fault.Field("biz_step", "is no word of the CBV")
	case bizStep == "commissioning" || bizStep == "destroying":
		return fault.Field("biz_step", "this is no hand-over")
	}
	return nil
}

// movable are those of some units that a hand-over moves; the others went with
// it before. It refuses what cannot be handed over.
func (s *service) movable(ctx context.Context, tx *store.Tx, units []*unit, document, holder string) ([]*unit, error) {
	var moving []*unit
	var seen sightings
	for _, u := range units {
		switch {
		case u.disposition == destroyed:
			seen = append(seen, sighting{u, document, seenDestroyed})
		case u.document == document && u.holder == holder:
		case u.holder == consumer:
			seen = append(seen, sighting{u, document, seenSold})
		case u.holder == nobody && u.disposition != missing:
			return nil, fault.New(connect.CodeFailedPrecondition, "UNIT_GONE", "this unit was disposed of", "unit_id", u.id)
		default:
			moving = append(moving, u)
		}
	}
	if len(seen) > 0 {
		return nil, seen
	}
	under, err := held(ctx, tx, moving)
	if err != nil {
		return nil, err
	}
	for _, u := range moving {
		if under[u.id] != "" && kindOf(holder) != kindOf(u.holder) {
			return nil, fault.New(connect.CodeFailedPrecondition, "UNDER_INSPECTION", "an open case has this unit; it moves when the case is closed",
				"unit_id", u.id, "case_id", under[u.id])
		}
	}
	return moving, nil
}

// atHand are those of a case's units that nobody outside holds: what was sold
// or shipped since has overtaken its case and stays where it is.
func atHand(units []*unit) []*unit {
	var out []*unit
	for _, u := range units {
		if k := kindOf(u.holder); k != consumer && k != atCarrier && k != nobody {
			out = append(out, u)
		}
	}
	return out
}

// held tells the open cases that have units at hand.
func held(ctx context.Context, db reader, units []*unit) (map[string]string, error) {
	under := make(map[string]string)
	if len(units) == 0 {
		return under, nil
	}
	rows, err := db.Rows(ctx, `SELECT unit, case_id FROM case_unit WHERE held AND unit = ANY ($1)`, ids(units))
	return under, each(rows, err, func(r row) error {
		var u, c string
		if err := r.Scan(&u, &c); err != nil {
			return err
		}
		under[u] = c
		return nil
	})
}

package main

import (
	"context"
	"database/sql"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// arrival is what arrived: a quantity, or one serialised good as it was scanned.
type arrival struct {
	sku, lot, unit string
	quantity       int64
	// wrong: this serial was not sold with the order.
	wrong bool
	// booked: the ledger lets the serial in, for it stands outside or was
	// never seen. Else another good wears it, and this one is booked without.
	booked bool
}

// look tells of scanned serials whether they were sold with the order and
// whether the ledger has them outside.
const look = `SELECT u.unit, NOT EXISTS (SELECT FROM shipped s WHERE s.reference = $2 AND s.unit = u.unit AND s.sku = u.sku),
  coalesce(x.disposition = 'external' AND x.sku = u.sku, true), coalesce(x.lot, u.lot)
 FROM unnest($1::text[], $3::text[], $4::text[]) u(unit, sku, lot) LEFT JOIN stock_unit x ON x.unit = u.unit`

// scanned are the pieces of a registration. A serial that the ledger knows is
// of the lot that it was, whatever the label says.
func scanned(ctx context.Context, tx *store.Tx, order string, lines []*warehousev1.ReturnLine) ([]arrival, error) {
	var all []arrival
	var units, skus, names []string
	at := make(map[string]int)
	for i, l := range lines {
		for _, u := range l.GetUnitIds() {
			if _, twice := at[u]; twice {
				return nil, fault.Field(lineField(i)+".unit_ids", "a serial stands twice")
			}
			at[u] = len(all)
			all = append(all, arrival{sku: l.GetSku(), lot: l.GetLot(), unit: u, quantity: 1})
			units, skus, names = append(units, u), append(skus, l.GetSku()), append(names, l.GetLot())
		}
		if len(l.GetUnitIds()) == 0 {
			all = append(all, arrival{sku: l.GetSku(), lot: l.GetLot(), quantity: l.GetQuantity()})
		}
	}
	if len(units) == 0 {
		return all, nil
	}
	rows, err := tx.Rows(ctx, look, units, order, skus, names)
	return all, scan(rows, err, func(rows *sql.Rows) error {
		var unit, lot string
		var wrong, outside bool
		if err := rows.Scan(&unit, &wrong, &outside, &lot); err != nil {
			return err
		}
		p := &all[at[unit]]
		p.wrong, p.booked = wrong, outside
		if outside {
			p.lot = lot
		}
		return nil
	})
}

// keepPieces records what came, counts it on its lines, and answers the skus of
// which more came than was authorised, or that nobody authorised.
const keepPieces = `WITH came AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::boolean[], $7::bigint[])
    u(sku, lot, unit, authenticated, wrong, n)),
sum AS MATERIALIZED (SELECT sku, sum(n)::bigint AS n FROM came GROUP BY sku),
over AS MATERIALIZED (SELECT s.sku FROM sum s LEFT JOIN return_line l ON l.return_id = $1 AND l.sku = s.sku WHERE l.sku IS NULL OR l.received + s.n > l.quantity),
line AS (UPDATE return_line l SET received = l.received + s.n FROM sum s WHERE l.return_id = $1 AND l.sku = s.sku AND NOT EXISTS (SELECT FROM over)),
head AS (UPDATE rma SET state = 2, received_at = coalesce(received_at, now()) WHERE id = $1 AND NOT EXISTS (SELECT FROM over)),
piece AS (INSERT INTO return_piece AS p (return_id, sku, lot, unit, authenticated, wrong, received)
  SELECT $1, sku, lot, unit, authenticated, wrong, sum(n) FROM came WHERE NOT EXISTS (SELECT FROM over) GROUP BY 2, 3, 4, 5, 6
  ON CONFLICT (return_id, sku, lot, unit) DO UPDATE SET received = p.received + EXCLUDED.received)
SELECT sku FROM over ORDER BY 1`

// RegisterReturn records what arrived. Every piece stands in quarantine; one
// whose serial was not sold with the order is graded as a wrong item at once,
// which asks for an inspection.
func (s *service) RegisterReturn(ctx context.Context, req *warehousev1.RegisterReturnRequest) (*warehousev1.RegisterReturnResponse, error) {
	if _, _, _, _, err := asked(req.GetLines()); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.RegisterReturnResponse, error) {
		r, err := lockReturn(ctx, tx, req.GetReturnId())
		switch {
		case err != nil:
			return nil, err
		case r == nil || r.merchant == "":
			return nil, returnUnknown()
		case r.state == rmaCancelled:
			return nil, fault.New(connect.CodeFailedPrecondition, "RETURN_CANCELLED", "this return was cancelled; authorise it again")
		}
		first, err := firstTime(ctx, tx, "registration", req.GetRegistrationId(), "", req, nil)
		if err != nil {
			return nil, err
		}
		if first {
			if err := r.register(ctx, tx, req); err != nil {
				return nil, err
			}
		}
		res, err := readReturn(ctx, tx, r.id, "")
		return &warehousev1.RegisterReturnResponse{Return: res}, err
	})
}

func (r *rma) register(ctx context.Context, tx *store.Tx, req *warehousev1.RegisterReturnRequest) error {
	pieces, err := scanned(ctx, tx, r.reference, req.GetLines())
	if err != nil {
		return err
	}
	if err := r.keep(ctx, tx, pieces); err != nil {
		return err
	}
	var all []goods
	for _, p := range pieces {
		all = append(all, p.goods(r))
	}
	if _, err := post(ctx, tx, way{reason: "return", from: "external", to: "quarantine"}, summed(all)...); err != nil {
		return err
	}
	for _, p := range pieces {
		if p.wrong {
			g := grading{
				id: req.GetRegistrationId() + "/" + p.unit, sku: p.sku, lot: p.lot, quantity: 1, units: []string{p.unit}, grade: warehousev1.Grade_GRADE_WRONG_ITEM,
				answers: []*warehousev1.ChecklistAnswer{{Question: "serial", Note: "not sold with this order"}},
			}
			if err := r.grade(ctx, tx, &g); err != nil {
				return err
			}
		}
	}
	return tx.Publish(&warehousev1.ReturnReceived{ReturnId: r.id, Reference: r.reference, MerchantId: r.merchant, Lines: arrived(pieces), Site: r.site})
}

// goods are a piece as the ledger books it.
func (p *arrival) goods(r *rma) goods {
	g := goods{key: key{sku: p.sku, site: r.site, lot: p.lot, authenticated: p.unit != "" && p.booked}, quantity: p.quantity, reference: r.id}
	if g.authenticated {
		g.units = []string{p.unit}
	}
	return g
}

func (r *rma) keep(ctx context.Context, tx *store.Tx, pieces []arrival) error {
	var skus, names, units []string
	var kinds, wrong []bool
	var amounts []int64
	for _, p := range pieces {
		skus, names, units = append(skus, p.sku), append(names, p.lot), append(units, p.unit)
		kinds, wrong, amounts = append(kinds, p.unit != "" && p.booked), append(wrong, p.wrong), append(amounts, p.quantity)
	}
	var over []string
	rows, err := tx.Rows(ctx, keepPieces, r.id, skus, names, units, kinds, wrong, amounts)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var sku string
		err := rows.Scan(&sku)
		over = append(over, sku, "too many")
		return err
	})
	if store.SQLState(err) == "23514" {
		return fault.New(connect.CodeFailedPrecondition, "SERIAL_TWICE", "a serial of these has come with this return before")
	}
	if err == nil && len(over) > 0 {
		err = fault.New(connect.CodeFailedPrecondition, "NOT_AUTHORISED", "more came than was authorised; authorise it first", over...)
	}
	return err
}

// arrived are pieces as lines of an event.
func arrived(pieces []arrival) (lines []*warehousev1.ReturnLine) {
	at := make(map[[2]string]int)
	for _, p := range pieces {
		i, ok := at[[2]string{p.sku, p.lot}]
		if !ok {
			i = len(lines)
			at[[2]string{p.sku, p.lot}], lines = i, append(lines, &warehousev1.ReturnLine{Sku: p.sku, Lot: p.lot})
		}
		lines[i].Quantity += p.quantity
		lines[i].Received += p.quantity
		if p.unit != "" {
			lines[i].UnitIds = append(lines[i].UnitIds, p.unit)
		}
	}
	return lines
}

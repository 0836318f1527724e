package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// rule is what follows from a grade: where the goods go, and why an inspection
// is asked for, if one is. None goes to the shelf.
type rule struct {
	to, reason string
}

var rules = map[warehousev1.Grade]rule{
	warehousev1.Grade_GRADE_AS_NEW:     {"inspecting", "RETURN_AS_NEW"},
	warehousev1.Grade_GRADE_OPENED:     {"inspecting", "RETURN_OPENED"},
	warehousev1.Grade_GRADE_SUSPECT:    {"suspect", "RETURN_SUSPECT"},
	warehousev1.Grade_GRADE_WRONG_ITEM: {"suspect", "RETURN_WRONG_ITEM"},
	warehousev1.Grade_GRADE_DAMAGED:    {"damaged", ""},
	warehousev1.Grade_GRADE_DEFECTIVE:  {"defective", ""},
}

// wrongSerial is why an inspection is asked for of a serial that was not sold
// with the order that it came back for: the books say so, and not who looked.
const wrongSerial = "RETURN_WRONG_SERIAL"

// grading is the outcome of a checklist on some pieces of a return.
type grading struct {
	id, sku, lot string
	quantity     int64
	units        []string
	grade        warehousev1.Grade
	answers      []*warehousev1.ChecklistAnswer
	blobs        []string
	caseID       string
}

// agrees refuses a grade that its own checklist contradicts: as new means that
// everything was as expected, any other that something was not.
func (g *grading) agrees() error {
	fine := true
	for _, a := range g.answers {
		fine = fine && a.GetAsExpected()
	}
	if fine != (g.grade == warehousev1.Grade_GRADE_AS_NEW) {
		return fault.New(connect.CodeInvalidArgument, "CHECKLIST_DISAGREES", "goods are as new when everything was as expected, and only then")
	}
	return nil
}

// GradeReturn records a checklist and moves the pieces by the rules.
func (s *service) GradeReturn(ctx context.Context, req *warehousev1.GradeReturnRequest) (*warehousev1.GradeReturnResponse, error) {
	g := grading{
		id: req.GetGradingId(), sku: req.GetSku(), lot: req.GetLot(), quantity: req.GetQuantity(), units: req.GetUnitIds(), grade: req.GetGrade(),
		answers: req.GetAnswers(), blobs: req.GetBlobIds(),
	}
	if n := len(g.units); n > 0 && int64(n) != g.quantity {
		return nil, fault.Field("unit_ids", "as many as the quantity")
	}
	if err := g.agrees(); err != nil {
		return nil, err
	}
	if err := s.sent(ctx, g.blobs); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.GradeReturnResponse, error) {
		r, err := lockReturn(ctx, tx, req.GetReturnId())
		switch {
		case err != nil:
			return nil, err
		case r == nil || r.merchant == "":
			return nil, returnUnknown()
		}
		first, err := firstTime(ctx, tx, "grading", g.id, "", req, nil)
		if err != nil {
			return nil, err
		}
		if first {
			err = r.grade(ctx, tx, &g)
		} else {
			err = tx.Row(ctx, `SELECT case_id FROM return_grading WHERE id = $1`, g.id).Scan(&g.caseID)
		}
		if err != nil {
			return nil, err
		}
		res, err := readReturn(ctx, tx, r.id, "")
		return &warehousev1.GradeReturnResponse{Return: res, CaseId: g.caseID}, err
	})
}

// gradePieces counts pieces as graded and tells what they are in the ledger:
// how many rows agree, whether as goods with serials, and whether a wrong item
// is among them.
const gradePieces = `WITH graded AS (UPDATE return_piece p SET graded = p.graded + CASE WHEN p.unit = '' THEN $4 ELSE 1 END
  WHERE p.return_id = $1 AND p.sku = $2 AND p.lot = $3 AND p.unit = ANY ($5::text[]) AND p.received - p.graded >= CASE WHEN p.unit = '' THEN $4 ELSE 1 END
  RETURNING authenticated, wrong),
line AS (UPDATE return_line l SET graded = l.graded + $4 WHERE l.return_id = $1 AND l.sku = $2 AND (SELECT count(*) FROM graded) = cardinality($5::text[])),
head AS (UPDATE rma SET state = 3 WHERE id = $1 AND NOT EXISTS (SELECT FROM return_line l WHERE l.return_id = $1
  AND l.graded + CASE WHEN l.sku = $2 THEN $4 ELSE 0 END < l.received))
SELECT count(*), coalesce(bool_and(authenticated), false), coalesce(bool_or(authenticated), false), coalesce(bool_or(wrong), false) FROM graded`

// grade moves pieces of a return by the rule of their grade, and asks for the
// inspection that it wants.
func (r *rma) grade(ctx context.Context, tx *store.Tx, g *grading) error {
	rule, named := rules[g.grade], g.units
	if len(named) == 0 {
		named = []string{""}
	}
	var found int
	var all, some, wrong bool
	err := tx.Row(ctx, gradePieces, r.id, g.sku, g.lot, g.quantity, named).Scan(&found, &all, &some, &wrong)
	switch {
	case err != nil:
		return err
	case found != len(named):
		return fault.New(connect.CodeFailedPrecondition, "NOT_IN_QUARANTINE", "not so many pieces of these wait to be graded", "sku", g.sku, "lot", g.lot)
	case all != some:
		return fault.Field("unit_ids", "grade goods that wear another's serial by themselves")
	case wrong && rule.to != "suspect":
		return fault.New(connect.CodeFailedPrecondition, "WRONG_ITEM", "a serial of these was not sold with the order; they are a wrong item")
	}
	at := key{sku: g.sku, site: r.site, lot: g.lot, authenticated: all}
	move := goods{key: at, quantity: g.quantity, reference: r.id}
	if all {
		move.units = g.units
	}
	if _, err := post(ctx, tx, way{reason: "grading", from: "quarantine", to: rule.to}, move); err != nil {
		return err
	}
	if wrong {
		rule.reason = wrongSerial
	}
	if rule.reason != "" {
		wanted := inspection{
			key: at, merchant: r.merchant, quantity: g.quantity, units: g.units, disposition: rule.to, reference: r.id, grading: g.id, reason: rule.reason, market: r.market,
		}
		if g.caseID, err = wanted.request(ctx, tx, "grading/"+g.id); err != nil {
			return err
		}
	}
	answers, err := json.Marshal(g.answers)
	if err != nil {
		return err
	}
	by := call.From(ctx).Principal.String()
	_, err = tx.Do(ctx, `INSERT INTO return_grading (return_id, id, sku, lot, quantity, units, grade, answers, blobs, graded_by, case_id, disposition, authenticated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, $12, $13)`,
		r.id, g.id, g.sku, g.lot, g.quantity, nonNil(g.units), int16(g.grade), string(answers), nonNil(g.blobs), by, g.caseID, rule.to, all)
	if err != nil {
		return err
	}
	return tx.Publish(&warehousev1.ReturnGraded{ReturnId: r.id, Reference: r.reference, MerchantId: r.merchant, Grading: &warehousev1.Grading{
		GradingId: g.id, Sku: g.sku, Lot: g.lot, Quantity: g.quantity, UnitIds: g.units, Grade: g.grade, Answers: g.answers, BlobIds: g.blobs,
		GradedBy: by, CaseId: g.caseID,
	}})
}

// nonNil is a list for a column that has one always.
func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// decided is where a decision sends goods.
var decided = map[warehousev1.DecideReturnRequest_Decision]string{
	warehousev1.DecideReturnRequest_DECISION_REPAIR:             "repair",
	warehousev1.DecideReturnRequest_DECISION_RETURN_TO_MERCHANT: "external",
	warehousev1.DecideReturnRequest_DECISION_DISPOSE:            "disposed",
	warehousev1.DecideReturnRequest_DECISION_INSPECT:            "inspecting",
}

// DecideReturn says what becomes of graded goods that do not go to the shelf.
func (s *service) DecideReturn(ctx context.Context, req *warehousev1.DecideReturnRequest) (*warehousev1.DecideReturnResponse, error) {
	to := decided[req.GetDecision()]
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.DecideReturnResponse, error) {
		var returnID string
		if err := tx.Row(ctx, `SELECT return_id FROM return_grading WHERE id = $1`, req.GetGradingId()).Scan(&returnID); errors.Is(err, sql.ErrNoRows) {
			return nil, fault.New(connect.CodeNotFound, "GRADING_UNKNOWN", "no such grading")
		} else if err != nil {
			return nil, err
		}
		r, err := lockReturn(ctx, tx, returnID)
		if err != nil {
			return nil, err
		}
		first, err := firstTime(ctx, tx, "decision", req.GetDecisionId(), "", req, nil)
		if err != nil {
			return nil, err
		}
		if first {
			if err := r.decide(ctx, tx, req, to); err != nil {
				return nil, err
			}
		}
		res, err := readReturn(ctx, tx, r.id, "")
		return &warehousev1.DecideReturnResponse{Return: res}, err
	})
}

func (r *rma) decide(ctx context.Context, tx *store.Tx, req *warehousev1.DecideReturnRequest, to string) error {
	move := goods{key: key{site: r.site}, reference: r.id}
	var from string
	var units []string
	err := tx.Row(ctx, `SELECT sku, lot, quantity, to_jsonb(units), disposition, authenticated FROM return_grading WHERE id = $1`, req.GetGradingId()).
		Scan(&move.sku, &move.lot, &move.quantity, fromJSON{&units}, &from, &move.authenticated)
	if err != nil {
		return err
	}
	if move.authenticated {
		move.units = units
	}
	levels, err := post(ctx, tx, way{reason: "decision", from: from, to: to, cause: req.GetReason()}, move)
	if err != nil {
		return err
	}
	// Who follows serials, and who keeps a copy of the levels, want to know.
	if err := tx.Publish(&warehousev1.StockMoved{
		MoveId: req.GetDecisionId(), From: dispositions[from], To: dispositions[to], Quantity: move.quantity, UnitIds: move.units, Levels: levels, Reference: r.id,
	}); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE inspected SET ended = true WHERE grading_id = $1 AND NOT ended`, req.GetGradingId()); err != nil {
		return err
	}
	caseID := ""
	if to == "inspecting" {
		wanted := inspection{
			key: move.key, merchant: r.merchant, quantity: move.quantity, units: units, disposition: to, reference: r.id, grading: req.GetGradingId(),
			reason: "REPAIRED", market: r.market,
		}
		if caseID, err = wanted.request(ctx, tx, "decision/"+req.GetDecisionId()); err != nil {
			return err
		}
	}
	return settled(ctx, tx, req.GetGradingId(), to, caseID)
}

// settleCase remembers where the goods of a case stand now, and tells which
// grading they are of; nothing when they stand no more where they were looked
// for.
const settleCase = `UPDATE inspected SET disposition = $2, ended = $2 IN ('receiving', 'external', 'destroyed')
 WHERE case_id = $1 AND disposition = $3 AND NOT ended RETURNING grading_id`

// settle tells the return that goods of a case are of, if any, where they went.
func (w *standing) settle(ctx context.Context, tx *store.Tx, caseID, to string) error {
	var gradingID string
	err := tx.Row(ctx, settleCase, caseID, to, w.disposition).Scan(&gradingID)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fault.Retry(fault.New(connect.CodeUnavailable, "CASE_BUSY", "the goods of this inspection are moved at this moment; try again"), 100*time.Millisecond)
	case err != nil || gradingID == "":
		return err
	}
	return settled(ctx, tx, gradingID, to, "")
}

// settleGrading counts goods of a grading at their end, and closes the return
// when every piece that came is at its own. It answers the return where it
// closed.
const settleGrading = `WITH g AS (UPDATE return_grading SET disposition = $2, case_id = CASE WHEN $3 = '' THEN case_id ELSE $3 END WHERE id = $1
  RETURNING return_id, sku, quantity),
line AS (UPDATE return_line l SET restocked = l.restocked + CASE WHEN $2 = 'receiving' THEN g.quantity ELSE 0 END,
    destroyed = l.destroyed + CASE WHEN $2 IN ('destroyed', 'disposed') THEN g.quantity ELSE 0 END,
    sent_back = l.sent_back + CASE WHEN $2 = 'external' THEN g.quantity ELSE 0 END
  FROM g WHERE l.return_id = g.return_id AND l.sku = g.sku
  RETURNING l.return_id, l.sku, l.restocked + l.destroyed + l.sent_back AS ended)
UPDATE rma r SET state = 4 FROM line WHERE r.id = line.return_id AND r.state = 3 AND NOT EXISTS (SELECT FROM return_line l WHERE l.return_id = r.id
  AND l.received > CASE WHEN l.sku = line.sku THEN line.ended ELSE l.restocked + l.destroyed + l.sent_back END) RETURNING r.id`

func settled(ctx context.Context, tx *store.Tx, gradingID, to, caseID string) error {
	var closed string
	err := tx.Row(ctx, settleGrading, gradingID, to, caseID).Scan(&closed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := readReturn(ctx, tx, closed, "")
	if err != nil {
		return err
	}
	return tx.Publish(&warehousev1.ReturnClosed{ReturnId: r.GetReturnId(), Reference: r.GetReference(), MerchantId: r.GetMerchantId(), Lines: r.GetLines()})
}

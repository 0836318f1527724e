package main

import (
	"context"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// ProposeVerdict is the first person's word.
func (s *service) ProposeVerdict(ctx context.Context, req *inspectionv1.ProposeVerdictRequest) (*inspectionv1.ProposeVerdictResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ProposeVerdictResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if c.state != proposed || c.proposedBy != who || c.verdict != req.GetVerdict() {
			if err := s.propose(ctx, tx, c, who, req); err != nil {
				return nil, err
			}
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.ProposeVerdictResponse{Case: answer}, err
	})
}

func (s *service) propose(ctx context.Context, tx *store.Tx, c *caseFile, who string, req *inspectionv1.ProposeVerdictRequest) error {
	if err := c.must(propose); err != nil {
		return err
	}
	last, err := lastWords(ctx, tx, c.id)
	if err != nil {
		return err
	}
	if err := c.weigh(last, req.GetVerdict()); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE case_file SET state = 4, verdict = $2, proposed_by = $3, reason = $4 WHERE id = $1`,
		c.id, int16(req.GetVerdict()), who, req.GetReason()); err != nil {
		return err
	}
	return note(ctx, tx, c.id, "proposed "+verdictWord(req.GetVerdict()), req.GetReason())
}

// verdictWord is a verdict as it stands in events' reasons: "GENUINE".
func verdictWord(v verdict) string { return strings.TrimPrefix(v.String(), "VERDICT_") }

// RejectVerdict sends a proposal back to checking.
func (s *service) RejectVerdict(ctx context.Context, req *inspectionv1.RejectVerdictRequest) (*inspectionv1.RejectVerdictResponse, error) {
	if _, err := person(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.RejectVerdictResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if err := c.must(reject); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `UPDATE case_file SET state = 3, verdict = 0, proposed_by = '' WHERE id = $1`, c.id); err != nil {
			return nil, err
		}
		if err := note(ctx, tx, c.id, "rejected "+verdictWord(c.verdict), req.GetReason()); err != nil {
			return nil, err
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.RejectVerdictResponse{Case: answer}, err
	})
}

// ConfirmVerdict is the second person's word: from now on the verdict stands.
// Confirmed again, goods that the warehouse refused are sent to it again.
func (s *service) ConfirmVerdict(ctx context.Context, req *inspectionv1.ConfirmVerdictRequest) (*inspectionv1.ConfirmVerdictResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	var started *saga.Started
	res, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ConfirmVerdictResponse, error) {
		started = nil
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		again := c.state == confirmed && c.verdict == genuine && req.GetVerdict() == genuine
		switch {
		case c.state >= confirmed && c.confirmedBy == who && c.verdict == req.GetVerdict() && !again:
		case !again:
			if err := s.confirm(ctx, tx, c, who, req.GetVerdict()); err != nil {
				return nil, err
			}
			fallthrough
		default:
			if c.verdict == genuine && !c.about() {
				if started, err = s.order(ctx, tx, c, toShelf); err != nil {
					return nil, err
				}
			}
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.ConfirmVerdictResponse{Case: answer}, err
	})
	if err == nil {
		s.launch(ctx, started)
	}
	return res, err
}

// confirm makes a proposed verdict stand.
func (s *service) confirm(ctx context.Context, tx *store.Tx, c *caseFile, who string, v verdict) error {
	switch {
	case c.state != proposed:
		return wrongState(confirm, c.state)
	case who == c.proposedBy:
		return samePerson("another than the one who proposed the verdict confirms it")
	case who == c.openedBy:
		return samePerson("another than the one who asked for the inspection confirms its verdict")
	case v != c.verdict:
		return fault.New(connect.CodeFailedPrecondition, "VERDICT_DIFFERS", "another verdict is proposed; read it again", "proposed", verdictWord(c.verdict))
	}
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return err
	}
	var alive []*unit
	for _, u := range units {
		if u.disposition != destroyed {
			alive = append(alive, u)
		} else if v == genuine {
			return fault.New(connect.CodeFailedPrecondition, "UNIT_DESTROYED", "this serial was destroyed; goods that bear it are not genuine", "unit_id", u.id)
		}
	}
	if _, err := tx.Do(ctx, `UPDATE case_file SET state = 5, confirmed_by = $2, confirmed_at = now() WHERE id = $1`, c.id, who); err != nil {
		return err
	}
	if err := note(ctx, tx, c.id, "confirmed "+verdictWord(v), ""); err != nil {
		return err
	}
	c.state, c.confirmedBy = confirmed, who
	if err := s.stand(ctx, tx, c, alive); err != nil {
		return err
	}
	if err := tx.Publish(&inspectionv1.VerdictConfirmed{
		CaseId: c.id, MerchantId: c.merchant, Sku: c.sku, Lot: c.lot, Quantity: c.quantity, UnitIds: c.units, Verdict: v, Reference: c.reference,
	}); err != nil {
		return err
	}
	switch {
	case c.about():
		return s.close(ctx, tx, c)
	case v == genuine:
		return tx.Publish(c.passes()...)
	}
	return nil
}

// stand gives units their verdict. What is found false has no certificate from
// this moment on.
func (s *service) stand(ctx context.Context, tx *store.Tx, c *caseFile, units []*unit) error {
	if c.verdict != genuine {
		if err := s.revokeCertificates(ctx, tx, ids(units), verdictWord(c.verdict)); err != nil {
			return err
		}
	}
	if _, err := tx.Do(ctx, `UPDATE unit SET verdict = $2::int2, verdict_at = now(), case_id = $3, clone_suspected = clone_suspected AND $2::int2 <> 1, updated_at = now()
		WHERE id = ANY ($1)`, ids(units), int16(c.verdict), c.id); err != nil {
		return err
	}
	if clears(c.verdict) {
		if err := c.clearBy(ctx, tx); err != nil {
			return err
		}
	} else if err := doubt(ctx, tx, ids(units)); err != nil {
		return err
	}
	if c.about() {
		// Nobody has the goods at hand: they are where they were.
		return nil
	}
	found := step{bizStep: "inspecting", disposition: foundWords[c.verdict], document: c.id, transaction: "testres", merchant: c.merchant}
	if len(c.units) > 0 {
		return s.carry(ctx, tx, byHolder(atHand(units), found)...)
	}
	found.sku, found.gtin, found.lot, found.quantity, found.holder = c.sku, c.gtin, c.lot, c.quantity, c.where()
	found.from = found.holder
	return s.recordStep(ctx, tx, found)
}

// foundWords are the CBV dispositions of what was found.
var foundWords = map[verdict]string{
	genuine: "conformant", counterfeit: "non_conformant", inconclusive: "unknown", wrongItem: "mismatch_class", damaged: "damaged",
}

// where is who holds a case's goods while it is open.
func (c *caseFile) where() string {
	if c.inWarehouse() {
		return atWarehouse + "/" + c.destination
	}
	return atInspection + "/" + c.site
}

// passes tell that goods passed: each unit, or the whole.
func (c *caseFile) passes() []proto.Message {
	lot := strings.NewReplacer("%", "%25", "/", "%2F").Replace(c.lot)
	pass := func(unitID string, quantity int64) proto.Message {
		return &inspectionv1.GoodsPassed{
			Passage: strings.Join([]string{c.id, c.sku, lot, unitID, strconv.FormatInt(quantity, 10)}, "/"),
			CaseId:  c.id, Sku: c.sku, Lot: c.lot, UnitId: unitID, Quantity: quantity, MerchantId: c.merchant,
		}
	}
	if len(c.units) == 0 {
		return []proto.Message{pass("", c.quantity)}
	}
	out := make([]proto.Message, len(c.units))
	for i, u := range c.units {
		out[i] = pass(u, 1)
	}
	return out
}

// Appeal is the merchant's: a verdict that is not in its favour does not stand
// until the goods were looked at again. A destruction that was ordered and not
// done is off.
func (s *service) Appeal(ctx context.Context, req *inspectionv1.AppealRequest) (*inspectionv1.AppealResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.sent(ctx, "blob_ids", req.GetBlobIds()); err != nil {
		return nil, err
	}
	words := strings.Join(append([]string{req.GetReason()}, req.GetBlobIds()...), " ")
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.AppealResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		var repeated bool
		switch {
		case merchant == "" || c.merchant != merchant:
			return nil, unknownCase()
		case c.appealed:
			if err := tx.Row(ctx, `SELECT EXISTS (SELECT FROM case_entry WHERE case_id = $1 AND what = 'appealed' AND note = $2)`, c.id, words).Scan(&repeated); err != nil {
				return nil, err
			}
			if !repeated {
				return nil, fault.New(connect.CodeFailedPrecondition, "APPEAL_USED", "this case was appealed once; the second verdict is final")
			}
		default:
			if err := s.reopenByAppeal(ctx, tx, c, words); err != nil {
				return nil, err
			}
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.AppealResponse{Case: answer}, err
	})
}

func (s *service) reopenByAppeal(ctx context.Context, tx *store.Tx, c *caseFile, words string) error {
	if err := c.must(appeal); err != nil {
		return err
	}
	switch {
	case c.verdict == genuine:
		return fault.New(connect.CodeFailedPrecondition, "NOTHING_TO_APPEAL", "the verdict is in your favour")
	case c.state == disposed && c.ordered != toEnd:
		return wrongState(appeal, c.state)
	}
	if _, err := tx.Do(ctx, `DELETE FROM destruction WHERE case_id = $1`, c.id); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE case_file SET state = 3, verdict = 0, proposed_by = '', confirmed_by = '', confirmed_at = NULL, ordered = 0, appealed = true
		WHERE id = $1`, c.id); err != nil {
		return err
	}
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE unit SET verdict = 0, verdict_at = NULL, case_id = '', updated_at = now() WHERE id = ANY ($1) AND case_id = $2`,
		ids(units), c.id); err != nil {
		return err
	}
	if err := doubt(ctx, tx, c.units); err != nil {
		return err
	}
	return note(ctx, tx, c.id, "appealed", words)
}

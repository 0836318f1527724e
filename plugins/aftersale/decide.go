package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// decision is how an application is approved.
type decision struct {
	code, by, textRef, carrier string
	keepGoods                  bool
	// accepted pieces by sku; nil: all.
	accepted map[string]int64
}

// approve accepts pieces and starts what they need. Pieces that are not
// accepted can be applied for again.
func (c *caseFile) approve(ctx context.Context, tx *store.Tx, p *purchase, d decision) (*saga.Started, error) {
	outcome := aftersalev1.Decision_OUTCOME_APPROVED
	var sum int64
	for _, l := range c.lines {
		l.Accepted = l.Asked
		if d.accepted != nil {
			l.Accepted = d.accepted[l.SKU]
		}
		if l.Accepted > l.Asked {
			return nil, fault.Field("lines.quantity", fmt.Sprintf("%s: %d were applied for", l.SKU, l.Asked))
		}
		if l.Accepted < l.Asked {
			outcome = aftersalev1.Decision_OUTCOME_PARTLY_APPROVED
		}
		sum += l.Accepted
	}
	if sum == 0 {
		return nil, fault.Field("lines", "accept something, or reject")
	}
	if err := c.release(ctx, tx, func(l *caseLine) int64 { return l.Accepted }); err != nil {
		return nil, claimedBefore(err)
	}
	if err := c.saveLines(ctx, tx, "accepted"); err != nil {
		return nil, err
	}
	c.Outcome, c.ReasonCode, c.DecisionRef, c.DecidedBy, c.DecidedAt, c.KeepGoods = int16(outcome), d.code, d.textRef, d.by, now().Truncate(time.Microsecond), d.keepGoods
	c.DecideBy, c.AnswerBy, c.Note, c.RefundState, c.Refund, c.Deduction = time.Time{}, time.Time{}, "", 0, 0, 0
	tx.CancelTimer(c.timer(deadlineDecide))
	return c.proceed(ctx, tx, p, d.carrier, "case.approved", d.by, d.code)
}

// decided are the columns of a case that a decision sets.
var decided = []string{
	"outcome", "reason_code", "decision_ref", "decided_by", "decided_at", "keep_goods", "decide_by", "answer_by", "note", "remedy",
	"refund", "deduction", "refund_state", "escalated",
}

// proceed starts the saga of an approved case, and tells of the decision. What
// needs no goods back is assessed at once.
func (c *caseFile) proceed(ctx context.Context, tx *store.Tx, p *purchase, carrier, what, who, note string) (*saga.Started, error) {
	started, err := c.begin(ctx, tx, p, carrier)
	if err != nil {
		return nil, err
	}
	state := stateApproved
	if c.ShipmentID == "" && (c.Remedy == remedyRefund || c.Remedy == remedyPartial) {
		state = stateAssessed
		if err := c.planRefund(ctx, tx, p); err != nil {
			return nil, err
		}
	}
	if err := c.move(ctx, tx, state, what, who, note, append(append([]string{}, decided...), begun...)...); err != nil {
		return nil, err
	}
	return started, tx.Publish(&aftersalev1.CaseDecided{
		CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Outcome: aftersalev1.Decision_Outcome(c.Outcome), ReasonCode: c.ReasonCode,
		Remedy: aftersalev1.Remedy(c.Remedy), KeepGoods: c.KeepGoods,
	})
}

// end brings a case into a final state, and tells.
func (c *caseFile) end(ctx context.Context, tx *store.Tx, state int16, what, who, note string, columns ...string) error {
	c.SettledAt, c.DecideBy, c.AnswerBy = now().Truncate(time.Microsecond), time.Time{}, time.Time{}
	tx.CancelTimer(c.timer(deadlineDecide))
	if err := c.move(ctx, tx, state, what, who, note, append(columns, "settled_at", "decide_by", "answer_by")...); err != nil {
		return err
	}
	paid := int64(0)
	if c.RefundState == refundPaid {
		paid = c.Refund
	}
	return tx.Publish(&aftersalev1.CaseSettled{
		CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Market: c.Market, Kind: aftersalev1.Kind(c.Kind), Reason: aftersalev1.Reason(c.Reason),
		State: aftersalev1.Case_State(state), Remedy: aftersalev1.Remedy(c.Remedy), Refunded: amount(c.Currency, paid), Lines: c.linesProto(),
	})
}

func errNotOpen() error {
	return fault.New(connect.CodeFailedPrecondition, "CASE_NOT_OPEN", "the case is not waiting for this")
}

// undecided tells whether a case waits for a decision.
func (c *caseFile) undecided() bool { return c.State == stateRequested || c.State == stateOffered }

// decides tells whether somebody may decide a case now.
func (c *caseFile) decides(who party) error {
	if who.side == aftersalev1.Side_SIDE_MERCHANT && c.Escalated {
		return fault.New(connect.CodeFailedPrecondition, "ESCALATED", "the marketplace decides this case")
	}
	return nil
}

// change is what methods have in common that change a case: who the caller is,
// a sealed text, the lock, what to do, and the saga that it started.
func (s *service) change(ctx context.Context, caseID, secret, words string,
	fn func(ctx context.Context, tx *store.Tx, c *caseFile, who party, ref string) (*saga.Started, error),
) (*aftersalev1.Case, error) {
	before, who, err := s.ofCase(ctx, caseID, secret)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, before.OrderID, text(words)...)
	if err != nil {
		return nil, err
	}
	var c *caseFile
	var started *saga.Started
	err = s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		if c, err = lockCase(ctx, tx, caseID); err != nil {
			return err
		}
		ref, err := keep(ctx, tx, c.OrderID, sealed)
		if err != nil {
			return err
		}
		started, err = fn(ctx, tx, c, who, ref)
		return err
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	s.launch(ctx, started)
	return c.proto(), nil
}

// Decide approves or rejects.
func (s *service) Decide(ctx context.Context, req *aftersalev1.DecideRequest) (*aftersalev1.DecideResponse, error) {
	var accepted map[string]int64
	for _, l := range req.GetLines() {
		if accepted == nil {
			accepted = map[string]int64{}
		}
		if _, twice := accepted[l.GetSku()]; twice {
			return nil, fault.Field("lines.sku", "each sku once")
		}
		accepted[l.GetSku()] = l.GetQuantity()
	}
	out, err := s.change(ctx, req.GetCaseId(), "", req.GetText(), func(ctx context.Context, tx *store.Tx, c *caseFile, who party, ref string) (*saga.Started, error) {
		unpaid := c.State == stateAssessed && c.RefundState == refundRefused
		switch {
		case c.DecidedBy == who.who && c.ReasonCode == req.GetReasonCode() && !c.undecided() && !unpaid && (c.State == stateRejected) != req.GetApprove():
			return nil, nil // said before
		case !c.undecided() && !unpaid:
			return nil, errNotOpen()
		}
		if err := c.decides(who); err != nil {
			return nil, err
		}
		for sku := range accepted {
			if c.line(sku) == nil {
				return nil, fault.Field("lines.sku", sku+" is not of this case")
			}
		}
		switch {
		case unpaid:
			return c.payAgain(ctx, tx, req, who, ref)
		case !req.GetApprove():
			return nil, c.reject(ctx, tx, req.GetReasonCode(), who.who, ref)
		case req.GetKeepGoods() && c.Remedy == remedyRepair:
			return nil, fault.Field("keep_goods", "goods that are repaired come in")
		}
		p, err := readPurchase(ctx, tx, c.OrderID, false)
		if err != nil {
			return nil, err
		}
		return c.approve(ctx, tx, p, decision{
			code: req.GetReasonCode(), by: who.who, textRef: ref, carrier: req.GetCarrierInstance(), keepGoods: req.GetKeepGoods(), accepted: accepted,
		})
	})
	return &aftersalev1.DecideResponse{Case: out}, err
}

func (c *caseFile) line(sku string) *caseLine {
	for _, l := range c.lines {
		if l.SKU == sku {
			return l
		}
	}
	return nil
}

func (c *caseFile) reject(ctx context.Context, tx *store.Tx, code, who, ref string) error {
	if err := c.release(ctx, tx, nothing); err != nil {
		return err
	}
	c.Outcome, c.ReasonCode, c.DecisionRef, c.DecidedBy, c.DecidedAt = int16(aftersalev1.Decision_OUTCOME_REJECTED), code, ref, who, now().Truncate(time.Microsecond)
	if err := tx.Publish(&aftersalev1.CaseDecided{
		CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Outcome: aftersalev1.Decision_OUTCOME_REJECTED, ReasonCode: code, Remedy: aftersalev1.Remedy(c.Remedy),
	}); err != nil {
		return err
	}
	return c.end(ctx, tx, stateRejected, "case.rejected", who, code, decided...)
}

// payAgain is what becomes of a refund that the payment refused: it is tried
// again under another operation, or given up.
func (c *caseFile) payAgain(ctx context.Context, tx *store.Tx, req *aftersalev1.DecideRequest, who party, ref string) (*saga.Started, error) {
	c.ReasonCode, c.DecidedBy, c.DecisionRef, c.DecidedAt, c.Note = req.GetReasonCode(), who.who, ref, now().Truncate(time.Microsecond), ""
	if !req.GetApprove() {
		return nil, c.giveUp(ctx, tx, who)
	}
	p, err := readPurchase(ctx, tx, c.OrderID, false)
	if err != nil {
		return nil, err
	}
	if c.Remedy == remedyRepair {
		c.Remedy = remedyRefund // it could not be repaired
	}
	kept := c.KeepGoods
	c.KeepGoods, c.RefundState = true, refundPlanned // nothing more comes back
	shipment, back := c.ShipmentID, c.ReturnID
	started, err := c.begin(ctx, tx, p, "")
	if err != nil {
		return nil, err
	}
	c.KeepGoods, c.ShipmentID, c.ReturnID = kept, shipment, back
	if _, err := tx.Do(ctx, `UPDATE refund_part SET operation = CASE WHEN payment_id = $2 THEN $3 ELSE $3 || '/' || payment_id END WHERE case_id = $1 AND NOT paid`,
		c.ID, p.PaymentID, c.RefundID); err != nil {
		return nil, err
	}
	return started, c.move(ctx, tx, stateAssessed, "refund.again", who.who, c.ReasonCode, append(append([]string{}, decided...), begun...)...)
}

// giveUp pays no more of a refund. What some payment gave of it already stays
// given, and counted.
func (c *caseFile) giveUp(ctx context.Context, tx *store.Tx, who party) error {
	err := tx.Row(ctx, `WITH gone AS (DELETE FROM refund_part WHERE case_id = $1 AND NOT paid)
		SELECT coalesce(sum(amount), 0)::bigint FROM refund_part WHERE case_id = $1 AND paid`, c.ID).Scan(&c.Refund)
	if err != nil {
		return err
	}
	c.RefundState = refundPaid
	if c.Refund == 0 {
		c.RefundState = 0
		if _, err := tx.Do(ctx, `UPDATE refund_line SET amount = 0, pieces = 0 WHERE case_id = $1`, c.ID); err != nil {
			return err
		}
	}
	return c.end(ctx, tx, stateSettled, "refund.given_up", who.who, c.ReasonCode, decided...)
}

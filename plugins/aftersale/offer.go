package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// Offer proposes an amount for which the goods stay where they are.
func (s *service) Offer(ctx context.Context, req *aftersalev1.OfferRequest) (*aftersalev1.OfferResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), "", req.GetText(), func(ctx context.Context, tx *store.Tx, c *caseFile, who party, ref string) (*saga.Started, error) {
		if !c.undecided() {
			return nil, errNotOpen()
		}
		if err := c.decides(who); err != nil {
			return nil, err
		}
		if c.State == stateOffered && c.Offer == req.GetAmount().GetMinorUnits() && c.OfferedBy == who.who {
			return nil, nil
		}
		p, err := readPurchase(ctx, tx, c.OrderID, false)
		if err != nil {
			return nil, err
		}
		var worth int64
		for _, l := range c.lines {
			worth += p.line(l.SKU).worthNext(l.Asked)
		}
		switch a := req.GetAmount(); {
		case a.GetCurrencyCode() != c.Currency:
			return nil, fault.Field("amount.currency_code", "is not the order's, "+c.Currency)
		case a.GetMinorUnits() <= 0 || a.GetMinorUnits() > worth:
			return nil, fault.Field("amount.minor_units", fmt.Sprintf("more than nothing and at most what the goods cost, %d", worth))
		}
		terms := &aftersalev1.Policy{}
		if err := proto.Unmarshal(c.Policy, terms); err != nil {
			return nil, err
		}
		c.Offer, c.OfferRef, c.OfferedBy, c.OfferedAt = req.GetAmount().GetMinorUnits(), ref, who.who, now().Truncate(time.Microsecond)
		c.AnswerBy, c.DecideBy = now().Add(time.Duration(terms.GetDecideHours())*time.Hour).Truncate(time.Microsecond), time.Time{}
		tx.CancelTimer(c.timer(deadlineDecide))
		if err := c.move(ctx, tx, stateOffered, "case.offered", who.who, fmt.Sprintf("%d %s", c.Offer, c.Currency),
			"offer", "offer_ref", "offered_by", "offered_at", "answer_by", "decide_by"); err != nil {
			return nil, err
		}
		if err := tx.Publish(&aftersalev1.CaseOffered{CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Amount: req.GetAmount()}); err != nil {
			return nil, err
		}
		return nil, c.deadline(tx, deadlineAnswer, c.AnswerBy)
	})
	return &aftersalev1.OfferResponse{Case: out}, err
}

// AnswerOffer takes or declines an offer.
func (s *service) AnswerOffer(ctx context.Context, req *aftersalev1.AnswerOfferRequest) (*aftersalev1.AnswerOfferResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), req.GetCartSecret(), "", func(ctx context.Context, tx *store.Tx, c *caseFile, who party, _ string) (*saga.Started, error) {
		offered := req.GetAmount().GetMinorUnits() == c.Offer && req.GetAmount().GetCurrencyCode() == c.Currency
		switch {
		case req.GetAccept() && c.Remedy == remedyPartial && offered:
			return nil, nil // taken before
		case c.State != stateOffered:
			return nil, errNotOpen()
		case !offered:
			return nil, fault.New(connect.CodeFailedPrecondition, "OFFER_CHANGED", "the offer is another now; look at it again", "offer", fmt.Sprint(c.Offer))
		case !req.GetAccept():
			tx.CancelTimer(c.timer(deadlineAnswer))
			return nil, c.backToDecision(ctx, tx, "offer.declined", who.who)
		}
		tx.CancelTimer(c.timer(deadlineAnswer))
		p, err := readPurchase(ctx, tx, c.OrderID, false)
		if err != nil {
			return nil, err
		}
		c.Remedy = remedyPartial
		return c.approve(ctx, tx, p, decision{code: "OFFER_TAKEN", by: who.who, keepGoods: true})
	})
	return &aftersalev1.AnswerOfferResponse{Case: out}, err
}

// backToDecision makes an application stand as before an offer.
func (c *caseFile) backToDecision(ctx context.Context, tx *store.Tx, what, who string) error {
	terms := &aftersalev1.Policy{}
	if err := proto.Unmarshal(c.Policy, terms); err != nil {
		return err
	}
	c.DecideBy, c.AnswerBy = now().Add(time.Duration(terms.GetDecideHours())*time.Hour).Truncate(time.Microsecond), time.Time{}
	if err := c.move(ctx, tx, stateRequested, what, who, "", "decide_by", "answer_by"); err != nil {
		return err
	}
	return c.deadline(tx, deadlineDecide, c.DecideBy)
}

// WithdrawApplication takes back what is not approved.
func (s *service) WithdrawApplication(ctx context.Context, req *aftersalev1.WithdrawApplicationRequest) (*aftersalev1.WithdrawApplicationResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), req.GetCartSecret(), "", func(ctx context.Context, tx *store.Tx, c *caseFile, who party, _ string) (*saga.Started, error) {
		switch {
		case c.State == stateWithdrawn:
			return nil, nil
		case !c.undecided():
			return nil, errNotOpen()
		}
		if err := c.release(ctx, tx, nothing); err != nil {
			return nil, err
		}
		return nil, c.end(ctx, tx, stateWithdrawn, "case.withdrawn", who.who, "")
	})
	return &aftersalev1.WithdrawApplicationResponse{Case: out}, err
}

// Escalate asks the marketplace to decide. A rejected case is open again: its
// pieces are claimed anew, if nobody else has them by now.
func (s *service) Escalate(ctx context.Context, req *aftersalev1.EscalateRequest) (*aftersalev1.EscalateResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), req.GetCartSecret(), "", func(ctx context.Context, tx *store.Tx, c *caseFile, who party, _ string) (*saga.Started, error) {
		switch {
		case c.Escalated && c.State == stateRejected:
			return nil, fault.New(connect.CodeFailedPrecondition, "CASE_NOT_OPEN", "the marketplace has decided")
		case c.Escalated:
			return nil, nil
		case !c.undecided() && c.State != stateRejected:
			return nil, errNotOpen()
		}
		if c.State == stateRejected {
			if err := c.release(ctx, tx, func(l *caseLine) int64 { return l.Asked }); err != nil {
				return nil, claimedBefore(err)
			}
		}
		return nil, c.escalate(ctx, tx, "ASKED", who.who)
	})
	return &aftersalev1.EscalateResponse{Case: out}, err
}

// escalate makes the marketplace decide.
func (c *caseFile) escalate(ctx context.Context, tx *store.Tx, reason, who string) error {
	c.Escalated, c.DecideBy, c.SettledAt = true, time.Time{}, time.Time{}
	tx.CancelTimer(c.timer(deadlineDecide))
	state := c.State
	if state == stateRejected {
		state = stateRequested
	}
	if err := c.move(ctx, tx, state, "case.escalated", who, reason, "escalated", "decide_by", "settled_at", "note"); err != nil {
		return err
	}
	return tx.Publish(&aftersalev1.CaseEscalated{CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Reason: reason})
}

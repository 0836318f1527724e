package main

import (
	"context"
	"fmt"
	"time"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// ofCase is news of a case to its consumer.
func ofCase(m event.Meta, topic, caseID, order, which string, f facts) *news {
	f["case_id"], f["order_id"] = caseID, order
	return &news{Source: topic + "/" + caseID + which, Topic: topic, Order: order, Reference: caseID, At: when(m), Facts: f}
}

// toMerchant makes it its merchant's.
func (n *news) toMerchant(merchant string) *news {
	n.Order, n.Merchant = "", merchant
	return n
}

// onApplication acknowledges an application, a withdrawal on a durable medium
// as is owed (Directive 2011/83/EU, article 11(3)), and has the merchant decide.
func (s *service) onApplication(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.ApplicationOpened]) error {
	var all []*news
	for _, e := range events {
		a := e.Body
		kind := word(a.GetKind(), "KIND_")
		received := ofCase(e.Meta, "case.received", a.GetCaseId(), a.GetOrderId(), "", facts{"kind": kind})
		if a.GetKind() == aftersalev1.Kind_KIND_WITHDRAWAL {
			received = ofCase(e.Meta, "withdrawal.received", a.GetCaseId(), a.GetOrderId(), "", facts{"at": when(e.Meta).UTC().Format(time.RFC3339)})
		}
		received.EmailRef = a.GetEmailRef()
		all = append(all, received, ofCase(e.Meta, "case.opened", a.GetCaseId(), a.GetOrderId(), "", facts{"kind": kind}).toMerchant(a.GetMerchantId()))
	}
	return s.file(ctx, tx, addressed(all))
}

// addressed leaves out what is nobody's.
func addressed(all []*news) []*news {
	out := all[:0]
	for _, n := range all {
		if n.Order != "" || n.Account != "" || n.Merchant != "" {
			out = append(out, n)
		}
	}
	return out
}

func (s *service) onOffer(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.CaseOffered]) error {
	var all []*news
	for _, e := range events {
		o := e.Body
		all = append(all, ofCase(e.Meta, "case.offered", o.GetCaseId(), o.GetOrderId(), fmt.Sprint("/", o.GetAmount().GetMinorUnits()), facts{"amount": price(o.GetAmount())}))
	}
	return s.file(ctx, tx, addressed(all))
}

// onDecision tells of each outcome: one that was rejected and escalated may be
// approved.
func (s *service) onDecision(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.CaseDecided]) error {
	var all []*news
	for _, e := range events {
		d := e.Body
		outcome := word(d.GetOutcome(), "OUTCOME_")
		all = append(all, ofCase(e.Meta, "case.decided", d.GetCaseId(), d.GetOrderId(), "/"+outcome, facts{"decision": outcome, "keep_goods": d.GetKeepGoods()}))
	}
	return s.file(ctx, tx, addressed(all))
}

func (s *service) onEscalation(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.CaseEscalated]) error {
	var all []*news
	for _, e := range events {
		c := e.Body
		all = append(all, ofCase(e.Meta, "case.escalated", c.GetCaseId(), c.GetOrderId(), "/"+c.GetReason(), facts{"reason": c.GetReason()}).toMerchant(c.GetMerchantId()))
	}
	return s.file(ctx, tx, addressed(all))
}

func (s *service) onAssessment(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.CaseAssessed]) error {
	var all []*news
	for _, e := range events {
		a := e.Body
		if a.GetRefund().GetCurrencyCode() == "" || a.GetDeduction().GetCurrencyCode() == "" {
			continue // an exchange or a repair: there is no money to tell of
		}
		all = append(all, ofCase(e.Meta, "case.assessed", a.GetCaseId(), a.GetOrderId(), "", facts{"refund": price(a.GetRefund()), "deduction": price(a.GetDeduction())}))
	}
	return s.file(ctx, tx, addressed(all))
}

// onSettlement tells both sides of each end: one that was rejected may go on
// and end another way.
func (s *service) onSettlement(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.CaseSettled]) error {
	var all []*news
	for _, e := range events {
		c := e.Body
		outcome := word(c.GetState(), "STATE_")
		f := func() facts { return facts{"outcome": outcome, "refunded": price(c.GetRefunded())} }
		all = append(all, ofCase(e.Meta, "case.settled", c.GetCaseId(), c.GetOrderId(), "/"+outcome, f()),
			ofCase(e.Meta, "case.closed", c.GetCaseId(), c.GetOrderId(), "/"+outcome, f()).toMerchant(c.GetMerchantId()))
	}
	return s.file(ctx, tx, addressed(all))
}

// onMessage tells those who did not write it. What it says stands where it was
// said.
func (s *service) onMessage(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.MessagePosted]) error {
	var all []*news
	for _, e := range events {
		m := e.Body
		f := func() facts {
			return facts{"case_id": m.GetCaseId(), "order_id": m.GetOrderId(), "conversation_id": m.GetConversationId()}
		}
		if m.GetAuthor() != "consumer" && !m.GetInternal() {
			all = append(all, &news{
				Source: "message.posted/" + m.GetMessageId(), Topic: "message.posted", Order: m.GetOrderId(), Reference: m.GetConversationId(), At: when(e.Meta), Facts: f(),
			})
		}
		if m.GetAuthor() != "merchant" && !m.GetInternal() {
			all = append(all, &news{
				Source: "case.message/" + m.GetMessageId(), Topic: "case.message", Merchant: m.GetMerchantId(), Reference: m.GetConversationId(), At: when(e.Meta), Facts: f(),
			})
		}
	}
	return s.file(ctx, tx, addressed(all))
}

// onUnanswered reminds a merchant for each moment since when a consumer waits.
func (s *service) onUnanswered(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.ResponseOverdue]) error {
	var all []*news
	for _, e := range events {
		o := e.Body
		since := o.GetWaitingSince().AsTime().UTC().Format(time.RFC3339Nano)
		all = append(all, &news{
			Source: "case.overdue/" + o.GetConversationId() + "/" + since, Topic: "case.overdue", Merchant: o.GetMerchantId(), Reference: o.GetConversationId(),
			At: when(e.Meta), Facts: facts{
				"case_id": o.GetCaseId(), "order_id": o.GetOrderId(), "conversation_id": o.GetConversationId(), "waiting_since": since,
			},
		})
	}
	return s.file(ctx, tx, addressed(all))
}

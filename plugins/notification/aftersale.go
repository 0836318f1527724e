package main

import (
	"fmt"
	"time"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/event"
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
func onApplication(e event.Of[*aftersalev1.ApplicationOpened]) []*news {
	a := e.Body
	kind := word(a.GetKind(), "KIND_")
	received := ofCase(e.Meta, "case.received", a.GetCaseId(), a.GetOrderId(), "", facts{"kind": kind})
	if a.GetKind() == aftersalev1.Kind_KIND_WITHDRAWAL {
		received = ofCase(e.Meta, "withdrawal.received", a.GetCaseId(), a.GetOrderId(), "", facts{"at": when(e.Meta).UTC().Format(time.RFC3339)})
	}
	received.EmailRef = a.GetEmailRef()
	return []*news{received, ofCase(e.Meta, "case.opened", a.GetCaseId(), a.GetOrderId(), "", facts{"kind": kind}).toMerchant(a.GetMerchantId())}
}

func onOffer(e event.Of[*aftersalev1.CaseOffered]) []*news {
	o := e.Body
	return []*news{ofCase(e.Meta, "case.offered", o.GetCaseId(), o.GetOrderId(), fmt.Sprint("/", o.GetAmount().GetMinorUnits()), facts{"amount": price(o.GetAmount())})}
}

// onDecision tells of each outcome: one that was rejected and escalated may be
// approved.
func onDecision(e event.Of[*aftersalev1.CaseDecided]) []*news {
	d := e.Body
	outcome := word(d.GetOutcome(), "OUTCOME_")
	return []*news{ofCase(e.Meta, "case.decided", d.GetCaseId(), d.GetOrderId(), "/"+outcome, facts{"decision": outcome, "keep_goods": d.GetKeepGoods()})}
}

func onEscalation(e event.Of[*aftersalev1.CaseEscalated]) []*news {
	c := e.Body
	return []*news{ofCase(e.Meta, "case.escalated", c.GetCaseId(), c.GetOrderId(), "/"+c.GetReason(), facts{"reason": c.GetReason()}).toMerchant(c.GetMerchantId())}
}

func onAssessment(e event.Of[*aftersalev1.CaseAssessed]) []*news {
	a := e.Body
	if a.GetRefund().GetCurrencyCode() == "" || a.GetDeduction().GetCurrencyCode() == "" {
		return nil // an exchange or a repair: there is no money to tell of
	}
	return []*news{ofCase(e.Meta, "case.assessed", a.GetCaseId(), a.GetOrderId(), "", facts{"refund": price(a.GetRefund()), "deduction": price(a.GetDeduction())})}
}

// onSettlement tells both sides of each end: one that was rejected may go on
// and end another way.
func onSettlement(e event.Of[*aftersalev1.CaseSettled]) []*news {
	c := e.Body
	outcome := word(c.GetState(), "STATE_")
	f := func() facts { return facts{"outcome": outcome, "refunded": price(c.GetRefunded())} }
	return []*news{ofCase(e.Meta, "case.settled", c.GetCaseId(), c.GetOrderId(), "/"+outcome, f()),
		ofCase(e.Meta, "case.closed", c.GetCaseId(), c.GetOrderId(), "/"+outcome, f()).toMerchant(c.GetMerchantId())}
}

// onMessage tells those who did not write it. What it says stands where it was
// said.
func onMessage(e event.Of[*aftersalev1.MessagePosted]) []*news {
	m := e.Body
	var all []*news
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
	return all
}

// onUnanswered reminds a merchant for each moment since when a consumer waits.
func onUnanswered(e event.Of[*aftersalev1.ResponseOverdue]) []*news {
	o := e.Body
	since := o.GetWaitingSince().AsTime().UTC().Format(time.RFC3339Nano)
	return []*news{{
		Source: "case.overdue/" + o.GetConversationId() + "/" + since, Topic: "case.overdue", Merchant: o.GetMerchantId(), Reference: o.GetConversationId(),
		At: when(e.Meta), Facts: facts{
			"case_id": o.GetCaseId(), "order_id": o.GetOrderId(), "conversation_id": o.GetConversationId(), "waiting_since": since,
		},
	}}
}

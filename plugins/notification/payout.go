package main

import (
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/event"
)

// ofPayout is news of a payout, that end once.
func ofPayout(m event.Meta, topic, payout, merchant string, f facts) *news {
	f["payout_id"] = payout
	return &news{Source: topic + "/" + payout, Topic: topic, Merchant: merchant, Reference: payout, At: when(m), Facts: f}
}

func onPaidOut(e event.Of[*paymentv1.PayoutPaid]) []*news {
	p := e.Body
	return []*news{ofPayout(e.Meta, "payout.paid", p.GetPayoutId(), p.GetMerchantId(), facts{"amount": price(p.GetAmount())})}
}

func onNotPaidOut(e event.Of[*paymentv1.PayoutFailed]) []*news {
	p := e.Body
	return []*news{ofPayout(e.Meta, "payout.failed", p.GetPayoutId(), p.GetMerchantId(), facts{"amount": price(p.GetAmount()), "code": p.GetCode()})}
}

// onDoubted tells a merchant why its share waits: once a case and reason. That
// a return waits for its inspection is no news.
func onDoubted(e event.Of[*inspectionv1.SaleDoubted]) []*news {
	d := e.Body
	if d.GetReason() == "RETURNED" {
		return nil
	}
	return []*news{{
		Source: "sale.doubted/" + d.GetCaseId() + "/" + d.GetUnitId() + "/" + d.GetReason(), Topic: "sale.doubted", Merchant: d.GetMerchantId(),
		Reference: d.GetOrderId(), At: when(e.Meta),
		Facts: facts{"order_id": d.GetOrderId(), "case_id": d.GetCaseId(), "unit_id": d.GetUnitId(), "reason": d.GetReason()},
	}}
}

func onCleared(e event.Of[*inspectionv1.SaleCleared]) []*news {
	c := e.Body
	return []*news{{
		Source: "sale.cleared/" + c.GetCaseId() + "/" + c.GetUnitId(), Topic: "sale.cleared", Merchant: c.GetMerchantId(), Reference: c.GetOrderId(),
		At: when(e.Meta), Facts: facts{"order_id": c.GetOrderId(), "case_id": c.GetCaseId(), "unit_id": c.GetUnitId()},
	}}
}

package main

import (
	"context"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// ofPayout is news of a payout, that end once.
func ofPayout(m event.Meta, topic, payout, merchant string, f facts) *news {
	f["payout_id"] = payout
	return &news{Source: topic + "/" + payout, Topic: topic, Merchant: merchant, Reference: payout, At: when(m), Facts: f}
}

func (s *service) onPaidOut(ctx context.Context, tx *store.Tx, events []event.Of[*paymentv1.PayoutPaid]) error {
	var all []*news
	for _, e := range events {
		p := e.Body
		all = append(all, ofPayout(e.Meta, "payout.paid", p.GetPayoutId(), p.GetMerchantId(), facts{"amount": price(p.GetAmount())}))
	}
	return s.file(ctx, tx, owned(all))
}

func (s *service) onNotPaidOut(ctx context.Context, tx *store.Tx, events []event.Of[*paymentv1.PayoutFailed]) error {
	var all []*news
	for _, e := range events {
		p := e.Body
		all = append(all, ofPayout(e.Meta, "payout.failed", p.GetPayoutId(), p.GetMerchantId(), facts{"amount": price(p.GetAmount()), "code": p.GetCode()}))
	}
	return s.file(ctx, tx, owned(all))
}

// onDoubted tells a merchant why its share waits: once a case and reason. That
// a return waits for its inspection is no news.
func (s *service) onDoubted(ctx context.Context, tx *store.Tx, events []event.Of[*inspectionv1.SaleDoubted]) error {
	var all []*news
	for _, e := range events {
		d := e.Body
		if d.GetReason() == "RETURNED" {
			continue
		}
		all = append(all, &news{
			Source: "sale.doubted/" + d.GetCaseId() + "/" + d.GetUnitId() + "/" + d.GetReason(), Topic: "sale.doubted", Merchant: d.GetMerchantId(),
			Reference: d.GetOrderId(), At: when(e.Meta),
			Facts: facts{"order_id": d.GetOrderId(), "case_id": d.GetCaseId(), "unit_id": d.GetUnitId(), "reason": d.GetReason()},
		})
	}
	return s.file(ctx, tx, owned(all))
}

func (s *service) onCleared(ctx context.Context, tx *store.Tx, events []event.Of[*inspectionv1.SaleCleared]) error {
	var all []*news
	for _, e := range events {
		c := e.Body
		all = append(all, &news{
			Source: "sale.cleared/" + c.GetCaseId() + "/" + c.GetUnitId(), Topic: "sale.cleared", Merchant: c.GetMerchantId(), Reference: c.GetOrderId(),
			At: when(e.Meta), Facts: facts{"order_id": c.GetOrderId(), "case_id": c.GetCaseId(), "unit_id": c.GetUnitId()},
		})
	}
	return s.file(ctx, tx, owned(all))
}

package main

import (
	"fmt"
	"time"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
)

// stale is how old a recommendation may be: by then the goods may be sold.
const stale = 24 * time.Hour

// onRecommendations tells consumers who asked to be told.
func onRecommendations(e event.Of[*analyticsv1.RecommendationsReady]) []*news {
	r := e.Body
	if len(r.GetRecommendations()) == 0 || time.Since(when(e.Meta)) > stale {
		return nil
	}
	items := []any{}
	for _, one := range r.GetRecommendations() {
		items = append(items, map[string]any{
			"sku": one.GetSku(), "merchant_id": one.GetMerchantId(), "price": price(one.GetPrice()), "why": word(one.GetReason().GetCode(), "CODE_"),
		})
	}
	return []*news{{
		Source: fmt.Sprintf("recommendation.new/%s/%d", r.GetAccountId(), e.Position), Topic: "recommendation.new", Account: r.GetAccountId(), Market: r.GetMarket(),
		At: when(e.Meta), Facts: facts{"count": len(items), "market": r.GetMarket(), "items": items},
	}}
}

// onOverdue reminds a merchant of goods that are late.
func onOverdue(e event.Of[*orderv1.ConsignmentOverdue]) []*news {
	o := e.Body
	due := o.GetDueBy().AsTime().UTC().Format(time.RFC3339)
	return []*news{{
		Source: "sale.overdue/" + o.GetOrderId() + "/" + o.GetMerchantId() + "/" + due, Topic: "sale.overdue", Merchant: o.GetMerchantId(), Reference: o.GetOrderId(),
		At: when(e.Meta), Facts: facts{"order_id": o.GetOrderId(), "due_by": due},
	}}
}

package main

import (
	"fmt"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
)

// onLow tells a merchant each time: the warehouse says when that is.
func onLow(e event.Of[*warehousev1.StockLow]) []*news {
	l := e.Body
	return []*news{{
		Source: fmt.Sprintf("stock.low/%s/%s/%d", l.GetSku(), l.GetMarket(), e.Position), Topic: "stock.low", Merchant: l.GetMerchantId(),
		Market: l.GetMarket(), Reference: l.GetSku(), At: when(e.Meta),
		Facts: facts{"sku": l.GetSku(), "market": l.GetMarket(), "sellable": l.GetSellable(), "reorder_point": l.GetReorderPoint()},
	}}
}

// onShort tells a merchant of each reminder: its number says which.
func onShort(e event.Of[*orderv1.ShortageReminder]) []*news {
	r := e.Body
	since := r.GetShortSince().AsTime()
	return []*news{{
		Source: fmt.Sprintf("stock.shortage/%s/%s/%d/%d", r.GetSku(), r.GetMarket(), since.UnixMicro(), r.GetNumber()), Topic: "stock.shortage",
		Merchant: r.GetMerchantId(), Market: r.GetMarket(), Reference: r.GetSku(), At: when(e.Meta),
		Facts: facts{"sku": r.GetSku(), "market": r.GetMarket(), "since": since, "number": r.GetNumber()},
	}}
}

// onBack tells who waited for goods, each time that they waited.
func onBack(e event.Of[*orderv1.BackInStock]) []*news {
	b := e.Body
	return []*news{{
		Source: fmt.Sprintf("stock.available/%s/%s/%s/%d", b.GetAccountId(), b.GetSku(), b.GetMarket(), e.Position), Topic: "stock.available",
		Account: b.GetAccountId(), Market: b.GetMarket(), Reference: b.GetSku(), At: when(e.Meta),
		Facts: facts{"sku": b.GetSku(), "title": b.GetTitle(), "market": b.GetMarket(), "quantity": b.GetQuantity()},
	}}
}

package main

import (
	"context"
	"fmt"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onLow tells a merchant each time: the warehouse says when that is.
func (s *service) onLow(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.StockLow]) error {
	var all []*news
	for _, e := range events {
		l := e.Body
		all = append(all, &news{
			Source: fmt.Sprintf("stock.low/%s/%s/%d", l.GetSku(), l.GetMarket(), e.Position), Topic: "stock.low", Merchant: l.GetMerchantId(),
			Market: l.GetMarket(), Reference: l.GetSku(), At: when(e.Meta),
			Facts: facts{"sku": l.GetSku(), "market": l.GetMarket(), "sellable": l.GetSellable(), "reorder_point": l.GetReorderPoint()},
		})
	}
	return s.file(ctx, tx, owned(all))
}

// onShort tells a merchant of each reminder: its number says which.
func (s *service) onShort(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.ShortageReminder]) error {
	var all []*news
	for _, e := range events {
		r := e.Body
		since := r.GetShortSince().AsTime()
		all = append(all, &news{
			Source: fmt.Sprintf("stock.shortage/%s/%s/%d/%d", r.GetSku(), r.GetMarket(), since.UnixMicro(), r.GetNumber()), Topic: "stock.shortage",
			Merchant: r.GetMerchantId(), Market: r.GetMarket(), Reference: r.GetSku(), At: when(e.Meta),
			Facts: facts{"sku": r.GetSku(), "market": r.GetMarket(), "since": since, "number": r.GetNumber()},
		})
	}
	return s.file(ctx, tx, owned(all))
}

// onBack tells who waited for goods, each time that they waited.
func (s *service) onBack(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.BackInStock]) error {
	var all []*news
	for _, e := range events {
		b := e.Body
		all = append(all, &news{
			Source: fmt.Sprintf("stock.available/%s/%s/%s/%d", b.GetAccountId(), b.GetSku(), b.GetMarket(), e.Position), Topic: "stock.available",
			Account: b.GetAccountId(), Market: b.GetMarket(), Reference: b.GetSku(), At: when(e.Meta),
			Facts: facts{"sku": b.GetSku(), "title": "", "market": b.GetMarket(), "quantity": b.GetQuantity()},
		})
	}
	return s.file(ctx, tx, all)
}

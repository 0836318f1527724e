package main

import (
	"context"
	"fmt"
	"maps"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// backorder is what the events of an order that waits for stock have alike.
type backorder interface {
	GetOrderId() string
	GetSku() string
	GetQuantity() int64
}

func ofBackorder(m event.Meta, topic, source string, b backorder, more facts) *news {
	f := facts{"order_id": b.GetOrderId(), "sku": b.GetSku(), "quantity": b.GetQuantity()}
	maps.Copy(f, more)
	return &news{Source: topic + "/" + source, Topic: topic, Order: b.GetOrderId(), Reference: b.GetOrderId(), At: when(m), Facts: f}
}

// onBackordered learns whom the news of an order go to that waits for stock: it
// is placed when it is allotted, and what happens before is told too.
func (s *service) onBackordered(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.BackorderPlaced]) error {
	var ids, markets, accounts, emails, merchants []string
	var all []*news
	for _, e := range events {
		b := e.Body
		ids, markets, accounts = append(ids, b.GetOrderId()), append(markets, b.GetMarket()), append(accounts, b.GetAccountId())
		emails, merchants = append(emails, b.GetEmailRef()), append(merchants, b.GetMerchantId())
		sale := ofBackorder(e.Meta, "sale.backordered", b.GetOrderId(), b, facts{"market": b.GetMarket(), "expected_on": b.GetExpectedOn()})
		sale.Order, sale.Merchant, sale.Market = "", b.GetMerchantId(), b.GetMarket()
		all = append(all, sale, ofBackorder(e.Meta, "backorder.placed", b.GetOrderId(), b, facts{"expected_on": b.GetExpectedOn()}))
	}
	if _, err := tx.Do(ctx, `INSERT INTO buyer (order_id, market, account, email_ref, address_ref, merchants)
		SELECT u.o, u.m, u.a, u.e, '', ARRAY[u.t] FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) u(o, m, a, e, t)
		ORDER BY 1 ON CONFLICT DO NOTHING`, ids, markets, accounts, emails, merchants); err != nil {
		return err
	}
	waited, err := unpark(ctx, tx, ids)
	if err != nil {
		return err
	}
	return s.file(ctx, tx, append(all, waited...))
}

// onRescheduled tells of each other day: of a later one with the right to end
// the contract, as is owed (Directive 2011/83/EU, article 18).
func onRescheduled(e event.Of[*orderv1.BackorderRescheduled]) []*news {
	b := e.Body
	return []*news{ofBackorder(e.Meta, "backorder.rescheduled", fmt.Sprintf("%s/%d", b.GetOrderId(), e.Position), b, facts{
		"told_on": b.GetToldOn(), "expected_on": b.GetExpectedOn(), "later": b.GetExpectedOn() > b.GetToldOn(),
	})}
}

// onPaymentRefused tells each time that an order's turn had come.
func onPaymentRefused(e event.Of[*orderv1.BackorderPaymentRefused]) []*news {
	return []*news{ofBackorder(e.Meta, "backorder.payment_refused", fmt.Sprintf("%s/%d", e.Body.GetOrderId(), e.Position), e.Body, nil)}
}

func onBackorderCancelled(e event.Of[*orderv1.BackorderCancelled]) []*news {
	return []*news{ofBackorder(e.Meta, "backorder.cancelled", e.Body.GetOrderId(), e.Body, facts{"reason": e.Body.GetReason()})}
}

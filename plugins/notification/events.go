package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// told is a handler of events each of which is news by itself: what it says is
// filed for whom it is, and what it says to nobody is left out.
func told[M proto.Message](s *service, says func(event.Of[M]) []*news) event.Handler {
	return event.OnBatch(func(ctx context.Context, tx *store.Tx, events []event.Of[M]) error {
		var all []*news
		for _, e := range events {
			all = append(all, says(e)...)
		}
		return s.file(ctx, tx, slices.DeleteFunc(all, func(n *news) bool { return n.Order == "" && n.Account == "" && n.Merchant == "" }))
	})
}

// when an event happened, by the log.
func when(m event.Meta) time.Time {
	if m.At.Unix() <= 0 {
		return time.Now() // a log that says nothing
	}
	return m.At
}

func price(m *typev1.Money) map[string]any {
	return map[string]any{"currency": m.GetCurrencyCode(), "minor": m.GetMinorUnits()}
}

// word is an enum's value without its name: "STATUS_LOST" is "LOST".
func word(value fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(value.String(), prefix)
}

func lines(of []*orderv1.Line) (out []any, sum map[string]any) {
	total := &typev1.Money{}
	for _, l := range of {
		out = append(out, map[string]any{"sku": l.GetSku(), "title": l.GetTitle(), "quantity": l.GetQuantity(), "total": price(l.GetTotal())})
		total.CurrencyCode, total.MinorUnits = l.GetTotal().GetCurrencyCode(), total.GetMinorUnits()+l.GetTotal().GetMinorUnits()
	}
	return out, price(total)
}

// byMerchant divides an order's lines.
func byMerchant(all []*orderv1.Line) (names []string, by map[string][]*orderv1.Line) {
	by = make(map[string][]*orderv1.Line)
	for _, l := range all {
		if by[l.GetMerchantId()] == nil {
			names = append(names, l.GetMerchantId())
		}
		by[l.GetMerchantId()] = append(by[l.GetMerchantId()], l)
	}
	return names, by
}

// onPlaced learns whom the news of an order go to, and tells both sides.
func (s *service) onPlaced(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderPlaced]) error {
	var ids, markets, accounts, emails, addresses, merchants []string
	var all []*news
	for _, e := range events {
		o := e.Body
		names, by := byMerchant(o.GetLines())
		ids, markets, accounts = append(ids, o.GetOrderId()), append(markets, o.GetMarket()), append(accounts, o.GetAccountId())
		emails, addresses = append(emails, o.GetEmailRef()), append(addresses, o.GetShipToRef())
		merchants = append(merchants, strings.Join(names, " "))
		bought, _ := lines(o.GetLines())
		all = append(all, &news{
			Source: "order.placed/" + o.GetOrderId(), Topic: "order.placed", Order: o.GetOrderId(), Reference: o.GetOrderId(), At: when(e.Meta),
			Facts: facts{"order_id": o.GetOrderId(), "total": price(o.GetTotal()), "lines": bought},
		})
		for _, m := range names {
			sold, total := lines(by[m])
			all = append(all, &news{
				Source: "sale.placed/" + o.GetOrderId() + "/" + m, Topic: "sale.placed", Merchant: m, Market: o.GetMarket(), Reference: o.GetOrderId(),
				At: when(e.Meta), Facts: facts{"order_id": o.GetOrderId(), "market": o.GetMarket(), "total": total, "lines": sold},
			})
		}
	}
	if _, err := tx.Do(ctx, `INSERT INTO buyer (order_id, market, account, email_ref, address_ref, merchants)
		SELECT u.o, u.m, u.a, u.e, u.s, coalesce(string_to_array(nullif(u.t, ''), ' '), '{}')
		FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]), unnest($6::text[])) u(o, m, a, e, s, t)
		ORDER BY 1 ON CONFLICT (order_id) DO UPDATE SET address_ref = EXCLUDED.address_ref WHERE buyer.address_ref = ''`, ids, markets, accounts, emails, addresses, merchants); err != nil {
		return err
	}
	waited, err := unpark(ctx, tx, ids)
	if err != nil {
		return err
	}
	return s.file(ctx, tx, append(all, waited...))
}

func onAccepted(e event.Of[*orderv1.OrderAccepted]) []*news {
	var all []*news
	if e.Body.GetComplete() {
		all = append(all, ofOrder(e.Meta, "order.accepted", e.Body.GetOrderId(), facts{}))
	}
	return all
}

// ofOrder is news of an order that come once.
func ofOrder(m event.Meta, topic, order string, f facts) *news {
	f["order_id"] = order
	return &news{Source: topic + "/" + order, Topic: topic, Order: order, Reference: order, At: when(m), Facts: f}
}

func (s *service) onDelivered(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderDelivered]) error {
	var all []*news
	for _, e := range events {
		all = append(all, ofOrder(e.Meta, "sale.delivered", e.Body.GetOrderId(), facts{}))
	}
	all, err := toMerchants(ctx, tx, all)
	if err != nil {
		return err
	}
	return s.file(ctx, tx, all)
}

// toMerchants makes news of orders news of the merchants in them. The sale of
// an order that is not known was told nobody.
func toMerchants(ctx context.Context, tx *store.Tx, all []*news) ([]*news, error) {
	buyers, err := readBuyers(ctx, tx, all)
	if err != nil {
		return nil, err
	}
	var out []*news
	for _, n := range all {
		b := buyers[n.Order]
		if b == nil {
			continue
		}
		for _, m := range b.merchants {
			one := *n
			one.Source, one.Order, one.Merchant, one.Market = n.Source+"/"+m, "", m, b.market
			out = append(out, &one)
		}
	}
	return out, nil
}

func (s *service) onCancelled(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderCancelled]) error {
	var all, sales []*news
	for _, e := range events {
		o := e.Body.GetOrderId()
		all = append(all, ofOrder(e.Meta, "order.cancelled", o, facts{"reason": e.Body.GetReason()}))
		sales = append(sales, ofOrder(e.Meta, "sale.cancelled", o, facts{}))
	}
	sales, err := toMerchants(ctx, tx, sales)
	if err != nil {
		return err
	}
	return s.file(ctx, tx, append(all, sales...))
}

// onRefunded tells of each refund of an order's payment: how much was refunded
// in all says which it is.
func onRefunded(e event.Of[*paymentv1.PaymentRefunded]) []*news {
	p := e.Body
	if !strings.HasPrefix(p.GetReference(), "ord_") {
		return nil
	}
	return []*news{{
		Source: fmt.Sprintf("payment.refunded/%s/%d", p.GetPaymentId(), p.GetRefunded().GetMinorUnits()), Topic: "payment.refunded",
		Order: p.GetReference(), Reference: p.GetReference(), At: when(e.Meta),
		Facts: facts{"order_id": p.GetReference(), "amount": price(p.GetAmount()), "refunded": price(p.GetRefunded())},
	}}
}

func onReturned(e event.Of[*warehousev1.ReturnReceived]) []*news {
	r := e.Body
	goods := []any{}
	for _, l := range r.GetLines() {
		goods = append(goods, map[string]any{"sku": l.GetSku(), "quantity": l.GetQuantity()})
	}
	return []*news{{
		Source: "return.received/" + r.GetReturnId(), Topic: "return.received", Merchant: r.GetMerchantId(), Reference: r.GetReturnId(), At: when(e.Meta),
		Facts: facts{"return_id": r.GetReturnId(), "reference": r.GetReference(), "lines": goods},
	}}
}

func onReturnClosed(e event.Of[*warehousev1.ReturnClosed]) []*news {
	r := e.Body
	return []*news{{
		Source: "return.closed/" + r.GetReturnId(), Topic: "return.closed", Merchant: r.GetMerchantId(), Reference: r.GetReturnId(), At: when(e.Meta),
		Facts: facts{"return_id": r.GetReturnId(), "reference": r.GetReference()},
	}}
}

func onConsignment(e event.Of[*inspectionv1.ConsignmentReceived]) []*news {
	c := e.Body
	return []*news{{
		Source: "consignment.received/" + c.GetConsignmentId(), Topic: "consignment.received", Merchant: c.GetMerchantId(), Reference: c.GetConsignmentId(),
		At: when(e.Meta), Facts: facts{"consignment_id": c.GetConsignmentId(), "cases": len(c.GetCaseIds())},
	}}
}

// onVerdict tells of each verdict on a case: one that is appealed gets another.
func onVerdict(e event.Of[*inspectionv1.VerdictConfirmed]) []*news {
	v := e.Body
	verdict := word(v.GetVerdict(), "VERDICT_")
	return []*news{{
		Source: "inspection.verdict/" + v.GetCaseId() + "/" + verdict, Topic: "inspection.verdict", Merchant: v.GetMerchantId(), Reference: v.GetCaseId(),
		At: when(e.Meta), Facts: facts{
			"case_id": v.GetCaseId(), "sku": v.GetSku(), "lot": v.GetLot(), "quantity": v.GetQuantity(), "verdict": verdict, "reference": v.GetReference(),
		},
	}}
}

func onDestroyed(e event.Of[*inspectionv1.GoodsDestroyed]) []*news {
	d := e.Body
	return []*news{{
		Source: "goods.destroyed/" + d.GetDestructionId(), Topic: "goods.destroyed", Merchant: d.GetMerchantId(), Reference: d.GetCaseId(), At: when(e.Meta),
		Facts: facts{
			"destruction_id": d.GetDestructionId(), "case_id": d.GetCaseId(), "sku": d.GetSku(), "quantity": d.GetQuantity(),
			"ground": word(d.GetGround(), "GROUND_"),
		},
	}}
}

package main

import (
	"cmp"
	"context"
	"slices"
	"strings"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onEditProposed tells those whose answer a change waits for.
func onEditProposed(e event.Of[*orderv1.OrderEditProposed]) []*news {
	p := e.Body
	var all []*news
	for _, who := range p.GetAwaits() {
		n := &news{Order: p.GetOrderId(), Topic: "order.edit_proposed", Reference: p.GetEditId(), At: when(e.Meta)}
		if who != "consumer" {
			n.Topic = "sale.edit_proposed"
			n.toMerchant(who)
		}
		n.Source, n.Facts = n.Topic+"/"+p.GetEditId()+"/"+who, facts{"order_id": p.GetOrderId(), "edit_id": p.GetEditId()}
		all = append(all, n)
	}
	return all
}

// onEdited confirms what an order now is, as its placing was confirmed, and
// learns whose goods are in it and where it goes.
func (s *service) onEdited(ctx context.Context, tx *store.Tx, events []event.Of[*orderv1.OrderEdited]) error {
	var all []*news
	var ids, addresses, merchants []string
	for _, e := range events {
		o := e.Body
		names, by := byMerchant(o.GetLines())
		i := slices.Index(ids, o.GetOrderId())
		if i < 0 {
			i = len(ids)
			ids, addresses, merchants = append(ids, o.GetOrderId()), append(addresses, ""), append(merchants, "")
		}
		addresses[i], merchants[i] = cmp.Or(o.GetShipToRef(), addresses[i]), strings.TrimSpace(merchants[i]+" "+strings.Join(names, " "))
		goods, _ := lines(o.GetLines())
		all = append(all, &news{
			Source: "order.edited/" + o.GetEditId(), Topic: "order.edited", Order: o.GetOrderId(), Reference: o.GetOrderId(), At: when(e.Meta),
			Facts: facts{"order_id": o.GetOrderId(), "edit_id": o.GetEditId(), "total": price(o.GetTotal()), "difference": price(o.GetDifference()), "lines": goods},
		})
		for _, m := range names {
			own, total := lines(by[m])
			all = append(all, &news{
				Source: "sale.edited/" + o.GetEditId() + "/" + m, Topic: "sale.edited", Merchant: m, Market: o.GetMarket(), Reference: o.GetOrderId(), At: when(e.Meta),
				Facts: facts{"order_id": o.GetOrderId(), "edit_id": o.GetEditId(), "market": o.GetMarket(), "total": total, "lines": own},
			})
		}
	}
	// Merchants stay in an order whose goods are no longer: they had a part in it.
	if _, err := tx.Do(ctx, `UPDATE buyer b SET address_ref = coalesce(nullif(u.a, ''), b.address_ref),
		merchants = ARRAY(SELECT DISTINCT m FROM unnest(b.merchants || coalesce(string_to_array(nullif(u.m, ''), ' '), '{}')) m ORDER BY 1)
		FROM unnest($1::text[], $2::text[], $3::text[]) u(o, a, m) WHERE b.order_id = u.o`, ids, addresses, merchants); err != nil {
		return err
	}
	return s.file(ctx, tx, all)
}

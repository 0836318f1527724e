package main

import (
	"slices"
	"strings"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
)

const (
	inbox   = notificationv1.Channel_CHANNEL_INBOX
	mail    = notificationv1.Channel_CHANNEL_MAIL
	webhook = notificationv1.Channel_CHANNEL_WEBHOOK

	legal         = notificationv1.Category_CATEGORY_LEGAL
	transactional = notificationv1.Category_CATEGORY_TRANSACTIONAL
	offer         = notificationv1.Category_CATEGORY_OFFER
)

// topic is a kind of news.
type topic struct {
	name     string
	category notificationv1.Category
	// merchant: it is for merchants; else for consumers.
	merchant bool
	// inbox and mail tell whether it goes there unless the account says
	// otherwise. Endpoints choose topics themselves.
	inbox, mail bool
}

// catalogue is what the module has words for. Those that no event brings are
// for other plugins to notify: their facts are those of the topic's sample.
var catalogue = []topic{
	// Confirmations on a durable medium, and what is owed when a contract ends:
	// Directive 2011/83/EU, articles 8(7), 11(3) and 13(1).
	{name: "order.placed", category: legal, inbox: true, mail: true},
	{name: "order.edited", category: legal, inbox: true, mail: true},
	{name: "backorder.placed", category: legal, inbox: true, mail: true},
	{name: "backorder.cancelled", category: legal, inbox: true, mail: true},
	{name: "backorder.rescheduled", category: legal, inbox: true, mail: true},
	{name: "order.cancelled", category: legal, inbox: true, mail: true},
	{name: "payment.refunded", category: legal, inbox: true, mail: true},
	{name: "withdrawal.received", category: legal, inbox: true, mail: true},
	// The answer to PutContact: mailed to an address that nobody vouches for yet.
	{name: "contact.confirm", category: legal, mail: true},

	{name: "order.accepted", category: transactional, inbox: true},
	{name: "backorder.payment_refused", category: transactional, inbox: true, mail: true},
	{name: "order.edit_proposed", category: transactional, inbox: true, mail: true},
	{name: "shipment.handed_over", category: transactional, inbox: true, mail: true},
	{name: "shipment.out_for_delivery", category: transactional, inbox: true},
	{name: "shipment.ready_for_pickup", category: transactional, inbox: true, mail: true},
	{name: "shipment.delivered", category: transactional, inbox: true, mail: true},
	{name: "shipment.trouble", category: transactional, inbox: true, mail: true},
	{name: "stock.available", category: transactional, inbox: true, mail: true},
	{name: "case.received", category: transactional, inbox: true, mail: true},
	{name: "case.offered", category: transactional, inbox: true, mail: true},
	{name: "case.decided", category: transactional, inbox: true, mail: true},
	{name: "case.assessed", category: transactional, inbox: true, mail: true},
	{name: "case.settled", category: transactional, inbox: true, mail: true},
	{name: "message.posted", category: transactional, inbox: true, mail: true},
	// Analytics tells of it for accounts that said there that they want to be
	// told; to be mailed they say so here.
	{name: "recommendation.new", category: offer, inbox: true},

	{name: "sale.placed", category: transactional, merchant: true, inbox: true},
	{name: "sale.backordered", category: transactional, merchant: true, inbox: true},
	{name: "sale.edit_proposed", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "sale.edited", category: transactional, merchant: true, inbox: true},
	{name: "sale.cancelled", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "sale.delivered", category: transactional, merchant: true, inbox: true},
	{name: "sale.overdue", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "carriage.trouble", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "stock.low", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "stock.shortage", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "return.received", category: transactional, merchant: true, inbox: true},
	{name: "return.closed", category: transactional, merchant: true, inbox: true},
	{name: "consignment.received", category: transactional, merchant: true, inbox: true},
	{name: "inspection.verdict", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "goods.destroyed", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "case.opened", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "case.escalated", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "case.closed", category: transactional, merchant: true, inbox: true},
	{name: "case.message", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "case.overdue", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "payout.paid", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "payout.failed", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "dispute.opened", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "dispute.closed", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "sale.doubted", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "sale.cleared", category: transactional, merchant: true, inbox: true},
	{name: "endpoint.disabled", category: transactional, merchant: true, inbox: true, mail: true},
	{name: "endpoint.ping", category: transactional, merchant: true},
}

var topics = func() map[string]topic {
	out := make(map[string]topic, len(catalogue))
	for _, t := range catalogue {
		out[t.name] = t
	}
	return out
}()

// brought is a topic that came with its own words.
func brought(name string, category notificationv1.Category, merchant bool) topic {
	on := category != offer
	return topic{name: name, category: category, merchant: merchant, inbox: on, mail: on}
}

// byDefault tells whether a topic goes on a channel when nobody said anything.
func (t topic) byDefault(c notificationv1.Channel) bool {
	switch c {
	case inbox:
		return t.inbox
	case mail:
		return t.mail
	}
	return false
}

// fixed tells whether a channel of a topic cannot be chosen: what is owed, what
// goes to a merchant's inbox for all its members, what there is only one way
// for.
func (t topic) fixed(c notificationv1.Channel) bool {
	switch {
	case t.name == "contact.confirm", t.name == "endpoint.ping":
		return true
	case c == mail:
		return t.category == legal
	case c == inbox:
		return t.merchant
	}
	return true
}

// goes tells whether it goes on a channel to an account with these choices.
func (t topic) goes(c notificationv1.Channel, chosen map[choice]bool) bool {
	if t.fixed(c) {
		return t.byDefault(c)
	}
	if on, ok := chosen[choice{t.name, c}]; ok {
		return on
	}
	return t.byDefault(c)
}

// choice is what an account may choose of.
type choice struct {
	topic   string
	channel notificationv1.Channel
}

// languages are those to try, best first: the recipient's own, the market's,
// English; each also without its region.
func languages(own string, market []string) []string {
	var out []string
	for _, l := range append(append([]string{own}, market...), "en") {
		base, _, _ := strings.Cut(l, "-")
		for _, one := range []string{l, base} {
			if one != "" && !slices.Contains(out, one) {
				out = append(out, one)
			}
		}
	}
	return out
}

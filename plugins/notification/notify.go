package main

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// mostData bounds the facts of a notification, as JSON.
const mostData = 64 << 10

// Notify files one notification of another plugin.
func (s *service) Notify(ctx context.Context, req *notificationv1.NotifyRequest) (*notificationv1.NotifyResponse, error) {
	info := call.From(ctx)
	from := info.Caller
	if from == "" {
		from = info.Principal.Plugin
	}
	n := &news{
		Source: "notify/" + from + "/" + req.GetNotificationId(), Topic: req.GetTopic(), Order: req.GetAudience().GetOrderId(),
		Account: req.GetAudience().GetAccountId(), Merchant: req.GetAudience().GetMerchantId(), EmailRef: req.GetAudience().GetEmailRef(),
		Market: req.GetMarket(), Reference: req.GetReference(), Sealed: req.GetSealed(), Category: req.GetCategory(), At: time.Now(),
	}
	if n.Market == "" && n.Order == "" {
		n.Market = info.Market
	}
	if err := n.take(req); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.NotifyResponse, error) {
		return &notificationv1.NotifyResponse{NotificationId: n.id()}, s.file(ctx, tx, []*news{n})
	})
}

// take checks the facts and the words.
func (n *news) take(req *notificationv1.NotifyRequest) error {
	n.Facts = facts{}
	if req.GetData() != nil {
		doc, err := req.GetData().MarshalJSON()
		switch {
		case err != nil:
			return fault.Field("data", "is no JSON")
		case len(doc) > mostData:
			return fault.Field("data", "is larger than 64 KiB")
		case strings.Contains(string(doc), `\u0000`):
			return fault.Field("data", "holds a NUL")
		}
		if n.Facts, err = readFacts(doc); err != nil {
			return fault.Field("data", "is no JSON object")
		}
	}
	t, ours := topics[n.Topic]
	switch {
	case ours && n.Topic != "contact.confirm" && n.Topic != "endpoint.ping":
		if t.merchant != (n.Merchant != "") {
			return fault.Field("audience", "is not whom this topic is for")
		}
		n.Category = 0
		return nil
	case ours, len(req.GetWords()) == 0:
		return unknownTopic("topic", n.Topic)
	case n.Category == 0:
		return fault.Field("category", "say what a topic of your own is")
	}
	sample := make(facts, len(n.Facts)+len(n.Sealed))
	for k, v := range n.Facts {
		sample[k] = v
	}
	for k := range n.Sealed {
		sample[k] = ""
	}
	for _, w := range req.GetWords() {
		said := words{Language: w.GetLanguage(), Subject: w.GetSubject(), Text: w.GetText()}
		if _, err := said.render("", sample); err != nil {
			return broken("words", err)
		}
		n.Words = append(n.Words, said)
	}
	return nil
}

// broken tells what is wrong with words; the text is about the template.
func broken(field string, err error) error {
	return fault.New(connect.CodeInvalidArgument, "TEMPLATE_BROKEN", field+": "+clip(err.Error(), 300))
}

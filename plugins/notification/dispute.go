package main

import (
	"time"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/event"
)

// onDisputed tells each merchant what was taken of its own.
func onDisputed(e event.Of[*paymentv1.DisputeOpened]) []*news {
	d := e.Body
	var all []*news
	due := ""
	if d.GetEvidenceDueAt() != nil {
		due = d.GetEvidenceDueAt().AsTime().Format(time.RFC3339)
	}
	for _, share := range d.GetShares() {
		all = append(all, ofDispute(e.Meta, "dispute.opened", d.GetDisputeId(), share.GetMerchantId(), d.GetReference(), facts{
			"amount": price(&typev1.Money{CurrencyCode: d.GetAmount().GetCurrencyCode(), MinorUnits: share.GetMinorUnits()}),
			"reason": word(d.GetReason(), "REASON_"), "due": due,
		}))
	}
	return all
}

func onDisputeClosed(e event.Of[*paymentv1.DisputeClosed]) []*news {
	d := e.Body
	var all []*news
	for _, share := range d.GetShares() {
		all = append(all, ofDispute(e.Meta, "dispute.closed", d.GetDisputeId(), share.GetMerchantId(), d.GetReference(), facts{"outcome": word(d.GetState(), "STATE_")}))
	}
	return all
}

// ofDispute is news of a dispute, that begins and ends once.
func ofDispute(m event.Meta, topic, dispute, merchant, reference string, f facts) *news {
	f["dispute_id"], f["reference"] = dispute, reference
	return &news{Source: topic + "/" + dispute + "/" + merchant, Topic: topic, Merchant: merchant, Reference: dispute, At: when(m), Facts: f}
}

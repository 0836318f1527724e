package main

import (
	"context"
	"hash/maphash"
	"strings"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// disputeWords are the words for a dispute: "dispute lost 4.00 GBP".
func disputeWords(state string, minor int64, currency string) string {
	state = strings.TrimPrefix(strings.TrimPrefix(state, "STATUS_"), "STATE_")
	return clip("dispute "+strings.ToLower(state)+" "+money.Money{Currency: currency, Minor: minor}.String(), 200)
}

func (d *dispute) told() string {
	out := disputeWords(d.state.String(), d.amount, d.currency)
	switch {
	case d.payment == "":
		out += " of a payment that is not known"
	case d.posted < d.amount && d.state != won:
		out += ", of which " + money.Money{Currency: d.currency, Minor: d.posted}.String() + " is in the books"
	}
	return out
}

// differs names what a company tells otherwise of a dispute.
func (d *dispute) differs(t *providerv1.Dispute) difference {
	state := d.state
	if state == accepted {
		state = lost
	}
	switch {
	case d.payment == "":
		return unknownToUs
	case t.GetAmount().GetCurrencyCode() != d.currency:
		return currencyDiffers
	case t.GetAmount().GetMinorUnits() != d.amount || d.posted < d.amount && state != won:
		return amountDiffers
	case disputeState(t.GetStatus()) != state:
		return stateDiffers
	}
	return 0
}

// disputeKey keeps the numbers of disputes apart from the keys of operations.
func (c *comparison) disputeKey(reference string) string { return "dispute\x00" + reference }

// disputes looks at the disputes of one page of a report. What stands there
// and not here is remembered: it is taken in afterwards.
func (c *comparison) disputes(ctx context.Context, page []*providerv1.Dispute) error {
	if len(page) > 1000 || len(c.seen) > maxReport {
		return tooLarge()
	}
	references := make([]string, len(page))
	for i, t := range page {
		references[i] = clip(t.GetReference(), 200)
	}
	found, err := disputes(c.db.Rows(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE d.instance = $1 AND d.reference = ANY ($2)`, c.instance, references))
	if err != nil {
		return store.Wrap(err)
	}
	byReference := make(map[string]*dispute, len(found))
	for _, d := range found {
		byReference[d.reference] = d
	}
	for i, t := range page {
		theirs := disputeWords(t.GetStatus().String(), t.GetAmount().GetMinorUnits(), t.GetAmount().GetCurrencyCode())
		d, twice := byReference[references[i]], c.see(c.disputeKey(references[i]))
		known, subject, kind := "never heard of", "", unknownToUs
		if d != nil {
			known, subject, kind = d.told(), d.id, d.differs(t)
		}
		u := t.GetUpdatedAt()
		switch {
		case twice:
			c.differ(toldTwice, references[i], subject, known, theirs)
			continue
		case kind == 0 || u.IsValid() && u.AsTime().After(c.began.Add(-silence)):
			continue // what was told just now may still be on its way
		}
		c.differ(kind, references[i], subject, known, theirs)
		if sound(c.instance, t) == nil && len(c.news) < maxDifferences {
			c.news = append(c.news, t)
		}
	}
	return nil
}

// missingDisputes finds disputes that were told and are not in the report.
func (c *comparison) missingDisputes(ctx context.Context) error {
	for after := ""; ; {
		page, err := disputes(c.db.Rows(ctx, `SELECT `+disputeColumns+` FROM dispute d WHERE d.instance = $1 AND d.reference > $2 AND d.at < $3
			ORDER BY d.reference LIMIT 1000`, c.instance, after, c.began))
		if err != nil || len(page) == 0 {
			return store.Wrap(err)
		}
		for _, d := range page {
			if _, ok := c.seen[maphash.String(c.seed, c.disputeKey(d.reference))]; !ok {
				c.compared++
				c.differ(missingAtProvider, d.reference, d.id, d.told(), "not in the report")
			}
		}
		after = page[len(page)-1].reference
	}
}

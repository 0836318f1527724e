package shop

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
)

// cases: what consumers sent back against the cases that speak of it.
func (b *Books) cases() {
	back := b.Done.Returned
	if back == nil {
		back = &Returned{}
	}
	var all, settled int64
	for name, n := range b.Cases.GetCases() {
		all += n
		if strings.HasSuffix(name, "/settled") {
			settled += n
		}
	}
	b.check("cases", "applications", int64(len(back.cases)), "after-sale", all)
	b.check("cases settled", "applications", int64(len(back.cases)), "after-sale", settled)
	b.check("messages", "two a case", 2*int64(len(back.cases)), "after-sale", b.Cases.GetMessages())
}

// paidOut is what merchants were paid out by a company.
func (b *Books) paidOut(instance string) (n int64) {
	for _, one := range b.Balances {
		if one.GetInstance() == instance {
			n += one.GetPaidOutMinor()
		}
	}
	return n
}

// outcomes of disputes, as the payment module names them.
var outcomes = map[paymentv1.Dispute_State]string{
	paymentv1.Dispute_STATE_NEEDS_RESPONSE: "open", paymentv1.Dispute_STATE_UNDER_REVIEW: "open",
	paymentv1.Dispute_STATE_WON: "won", paymentv1.Dispute_STATE_LOST: "lost", paymentv1.Dispute_STATE_ACCEPTED: "lost",
}

// disputes: what consumers' banks took back, by the payment module, its
// merchants' shares, and each company's own books.
func (b *Books) disputes(ctx context.Context, client *connect.Client) error {
	stand, borne := map[string]map[string]int64{}, map[string]int64{}
	for instance := range b.Companies {
		stand[instance] = map[string]int64{}
	}
	b.Disputed = map[string]*Outcome{"opened": newOutcome(), "won": newOutcome(), "lost": newOutcome()}
	for token := ""; ; {
		res, err := paymentv1connect.NewDisputeServiceClient(client).ListDisputes(ctx, &paymentv1.ListDisputesRequest{PageSize: 200, PageToken: token})
		if err != nil {
			return fmt.Errorf("disputes: %w", err)
		}
		for _, d := range res.GetDisputes() {
			if stand[d.GetInstance()] == nil {
				return fmt.Errorf("dispute %s is of %s, which has no books", d.GetDisputeId(), d.GetInstance())
			}
			currency, minor := d.GetAmount().GetCurrencyCode(), d.GetAmount().GetMinorUnits()
			b.Disputed["opened"].add(currency, minor)
			how := outcomes[d.GetState()]
			stand[d.GetInstance()][how]++
			if ended := b.Disputed[how]; ended != nil {
				ended.add(currency, minor)
			}
			for _, share := range d.GetShares() {
				if how != "won" {
					borne[d.GetInstance()] += share.GetAmount().GetMinorUnits()
				}
			}
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	var denied int64
	for _, p := range b.Done.Replay.Placed() {
		denied += truth(p.Disputed)
	}
	b.check("disputes", "denied purchases", denied, "payment module", b.Disputed["opened"].Disputes)
	for _, s := range b.Payments.GetSums() {
		company := b.Companies[s.GetInstance()]
		for _, how := range []string{"open", "won", "lost"} {
			b.check("disputes "+how+" "+s.GetCurrencyCode(), "payment module", stand[s.GetInstance()][how], "books of "+s.GetInstance(), company.Disputes[how])
		}
		b.check("disputed "+s.GetCurrencyCode(), "payment ledger", s.GetDisputedMinor(), "books of "+s.GetInstance(), company.Disputed)
		b.check("disputed and borne "+s.GetCurrencyCode(), "merchants' shares", borne[s.GetInstance()], "books of "+s.GetInstance(), company.Disputed)
	}
	return nil
}

// Outcome is how many disputes ended so, and of how much money.
type Outcome struct {
	Disputes   int64            `json:"disputes"`
	MinorUnits map[string]int64 `json:"minor_units"`
}

func newOutcome() *Outcome { return &Outcome{MinorUnits: map[string]int64{}} }

func (o *Outcome) add(currency string, minor int64) {
	o.Disputes++
	o.MinorUnits[currency] += minor
}

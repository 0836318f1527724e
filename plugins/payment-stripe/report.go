package main

import (
	"context"
	"slices"
	"strings"
	"time"

	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
)

const (
	// page is how many Stripe lists at once, its most.
	page = 100
	// holdLives is the longest time from a hold to its capture or its end, and
	// disputeLives from the begin to the end of a dispute: Stripe lists by when
	// something was made, not by when it changed.
	holdLives    = 32 * 24 * time.Hour
	disputeLives = 200 * 24 * time.Hour
)

// fact is an operation as Stripe's books have it.
type fact struct {
	key       string
	operation providerv1.Operation
	*end
}

// facts are the operations of an intent. In a report, what was captured beside
// them is a fact too, under a key that nobody has asked for.
func facts(pi *stripe.PaymentIntent, all bool) ([]fact, error) {
	key := pi.Metadata[metaKey]
	if key == "" {
		key = "stripe/" + pi.ID
	}
	e, err := held(pi)
	if e == nil || err != nil {
		return nil, err
	}
	out := []fact{{key, authorize, e}}
	if e.Status == declinedEnd {
		return out, nil
	}
	left := pi.AmountReceived
	names := make([]string, 0, len(pi.Metadata))
	for name := range pi.Metadata {
		if strings.HasPrefix(name, metaCapture) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t, ok := parseTaken(pi.Metadata[name])
		if !ok || captureName(t.key) != name {
			continue
		}
		n, err := toStripe(t.minor, e.Currency)
		if err != nil || n > left {
			continue // Stripe has not captured this
		}
		left -= n
		out = append(out, fact{t.key, capture, &end{
			Status: succeeded, Currency: e.Currency, Minor: t.minor, Reference: chargeOf(pi), Payment: pi.ID, At: t.at,
		}})
	}
	if left > 0 && all {
		m, err := counted(&end{Status: succeeded, Reference: chargeOf(pi), Payment: pi.ID, At: pi.Created}, left, pi.Currency)
		if err != nil {
			return nil, err
		}
		out = append(out, fact{"stripe/" + chargeOf(pi), capture, m})
	}
	if by := pi.Metadata[metaVoid]; by != "" && rest(pi) > 0 {
		v, err := voided(pi)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out = append(out, fact{by, void, v})
		}
	}
	return out, nil
}

// ours tells whether something is this instance's to tell of: what another
// instance made in the same account is that one's.
func (a *adapter) ours(metadata map[string]string) bool {
	by := metadata[metaInstance]
	return by == "" || by == a.in.Name
}

// report streams pages as they fill.
type report struct {
	stream providerv1connect.PaymentProviderServiceReportServerStream
	since  int64
	page   *providerv1.ReportResponse
}

func (r *report) tell(f fact) error {
	if f.At < r.since {
		return nil
	}
	r.page.Outcomes = append(r.page.Outcomes, f.outcome(f.key, f.operation))
	return r.flush(page)
}

func (r *report) flush(most int) error {
	if n := len(r.page.GetOutcomes()) + len(r.page.GetDisputes()); n == 0 || n < most {
		return nil
	}
	err := r.stream.Send(r.page)
	r.page = &providerv1.ReportResponse{}
	return err
}

// Report implements the contract. Holds, captures and voids are told from
// intents, the rest from refunds, transfers and disputes: Stripe's balance
// transactions know of no hold, and count in the currency that it settles in.
// What others did in the account (in the Dashboard, say) is told too, under
// keys "stripe/<number>", so that a reconciliation names it.
func (a *adapter) Report(ctx context.Context, req *providerv1.ReportRequest, stream providerv1connect.PaymentProviderServiceReportServerStream) error {
	r := &report{stream: stream, page: &providerv1.ReportResponse{}}
	if req.GetSince() != nil {
		r.since = req.GetSince().GetSeconds()
	}
	for _, part := range []func(context.Context, *report) error{a.reportIntents, a.reportRefunds, a.reportTransfers, a.reportDisputes} {
		if err := part(ctx, r); err != nil {
			return err
		}
	}
	return r.flush(1)
}

// from bounds a list by when its things were made; nil for all.
func (r *report) from(lives time.Duration) *stripe.RangeQueryParams {
	if r.since == 0 {
		return nil
	}
	return &stripe.RangeQueryParams{GreaterThanOrEqual: max(0, r.since-int64(lives.Seconds()))}
}

func (a *adapter) reportIntents(ctx context.Context, r *report) error {
	p := &stripe.PaymentIntentListParams{CreatedRange: r.from(holdLives)}
	p.Limit = stripe.Int64(page)
	p.AddExpand("data.latest_charge")
	for pi, err := range a.stripe.V1PaymentIntents.List(ctx, p).All(ctx) {
		if err != nil {
			return unknown(err)
		}
		if !a.ours(pi.Metadata) {
			continue
		}
		all, err := facts(pi, true)
		if err != nil {
			return unknown(err)
		}
		for _, f := range all {
			if err := r.tell(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// named is the key that something was made with.
func named(metadata map[string]string, id string) string {
	if key := metadata[metaKey]; key != "" {
		return key
	}
	return "stripe/" + id
}

func (a *adapter) reportRefunds(ctx context.Context, r *report) error {
	p := &stripe.RefundListParams{CreatedRange: r.from(0)}
	p.Limit = stripe.Int64(page)
	for back, err := range a.stripe.V1Refunds.List(ctx, p).All(ctx) {
		if err != nil {
			return unknown(err)
		}
		if !a.ours(back.Metadata) {
			continue
		}
		e, err := returned(back)
		if err != nil {
			return unknown(err)
		}
		if err := r.tell(fact{named(back.Metadata, back.ID), refund, e}); err != nil {
			return err
		}
	}
	return nil
}

func (a *adapter) reportTransfers(ctx context.Context, r *report) error {
	p := &stripe.TransferListParams{CreatedRange: r.from(0)}
	p.Limit = stripe.Int64(page)
	for tr, err := range a.stripe.V1Transfers.List(ctx, p).All(ctx) {
		if err != nil {
			return unknown(err)
		}
		if !a.ours(tr.Metadata) {
			continue
		}
		e, err := transferred(tr)
		if err != nil {
			return unknown(err)
		}
		if err := r.tell(fact{named(tr.Metadata, tr.ID), payout, e}); err != nil {
			return err
		}
	}
	return nil
}

// reportDisputes tells of all that may have changed: Stripe does not say when
// one did.
func (a *adapter) reportDisputes(ctx context.Context, r *report) error {
	p := &stripe.DisputeListParams{CreatedRange: r.from(disputeLives)}
	p.Limit = stripe.Int64(page)
	for d, err := range a.stripe.V1Disputes.List(ctx, p).All(ctx) {
		if err != nil {
			return unknown(err)
		}
		told, err := dispute(d, 0)
		if err != nil {
			return unknown(err)
		}
		if told == nil {
			continue
		}
		r.page.Disputes = append(r.page.Disputes, told)
		if err := r.flush(page); err != nil {
			return err
		}
	}
	return nil
}

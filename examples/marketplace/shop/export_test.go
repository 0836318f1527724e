package shop

import (
	"context"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
)

// What the proof of sagas does one by one that the story does at volume.

// Until asks until something is so.
func Until(ctx context.Context, so func(context.Context) (bool, error)) error {
	return until(ctx, so)
}

// Place buys lines for a person.
func (r *Replay) Place(ctx context.Context, name string, p *Person, lines []*orderv1.LineInput) (*Placed, error) {
	return r.place(ctx, name, p, lines, false)
}

// Backorder buys what is not there yet.
func (r *Replay) Backorder(ctx context.Context, name string, p *Person, accepted *orderv1.AcceptedBackorder) (*Placed, error) {
	return r.checkout(ctx, name, p, []*orderv1.LineInput{{Sku: accepted.GetSku(), Quantity: accepted.GetQuantity()}},
		&orderv1.CheckoutRequest{Backorders: []*orderv1.AcceptedBackorder{accepted}})
}

// Cases makes so many applications known that were made beside the story.
func (r *Returned) Cases(n int) { r.cases = make([]*application, n) }

// LookAgain inspects what came back, and decides.
func (s *Shop) LookAgain(ctx context.Context, staff *Staff, caseID string, fake bool) error {
	return s.lookAgain(ctx, staff, caseID, fake)
}

// Evidence takes a photo for a case.
func (s *Shop) Evidence(ctx context.Context, who *Person, caseID string) (string, error) {
	return s.evidence(ctx, who, caseID)
}

// Scan is the post's sorting office.
func (s *Shop) Scan(items ...string) error { return s.sort(items...) }

// PlaceOf says where somebody is.
func (s *Shop) PlaceOf(ctx context.Context, who *Person, name string) error {
	return s.place(ctx, who, name, "Stock room")
}

package shop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/money"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// Dispute is one that a consumer's bank opened.
type Dispute struct {
	// ID is "dsp_...".
	ID     string
	Placed *Placed
	Owner  *Person
	// Amount is what the bank took.
	Amount money.Money

	since time.Time
}

// Spare has merchants bring one more of the first article of each kind than
// the real shop sold: for those whose banks will take their money back.
func Spare(articles []trade.Article) {
	for _, proven := range []bool{true, false} {
		for i := range articles {
			if a := &articles[i]; a.Sold > 0 && (a.Proof != trade.Unproven) == proven {
				a.Sold++
				break
			}
		}
	}
}

// Deny has a consumer buy one of something with a means of payment whose bank
// takes back whatever is captured, and the merchant take the order up. It
// answers when the merchant is told and the money is gone. With proven it is
// goods that passed inspection, where there are any. step is told when the
// money is about to be captured.
func (s *Shop) Deny(ctx context.Context, m *Market, r *Replay, articles []trade.Article, proven bool, step func(n int)) (*Dispute, error) {
	p := m.Consumers["GB"][0]
	l, err := s.disputable(ctx, p, m.Goods, articles, proven)
	if err != nil {
		return nil, err
	}
	d := &Dispute{since: time.Now().Add(-time.Minute)}
	r.mu.Lock()
	name := fmt.Sprintf("denied-%d", len(r.placed))
	r.mu.Unlock()
	d.Placed, err = r.checkout(ctx, name, p, []*orderv1.LineInput{{Sku: l.GetSku(), Quantity: 1}}, &orderv1.CheckoutRequest{PaymentMethodToken: "tok_disputed"})
	if err != nil {
		return nil, fmt.Errorf("a purchase that will be disputed: %w", err)
	}
	d.Placed.Disputed = true
	for _, o := range m.Owners {
		if o.Self.GetMerchantId() == l.GetMerchantId() {
			d.Owner = o
		}
	}
	bought := make(chan struct{})
	close(bought)
	step(1)
	if err := s.Accept(ctx, d.Owner, bought, func(int) {}); err != nil {
		return nil, err
	}
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		all, err := d.list(ctx)
		if err != nil || len(all) == 0 || len(all[0].GetShares()) == 0 {
			return false, err
		}
		d.ID = all[0].GetDisputeId()
		d.Amount, err = money.FromProto(all[0].GetShares()[0].GetAmount())
		return true, err
	}); err != nil {
		return nil, fmt.Errorf("the dispute of order %s was not told: %w", d.Placed.Order.GetOrderId(), err)
	}
	return d, d.moved(ctx, false)
}

// list is what the merchant's terminal shows of disputes of the order.
func (d *Dispute) list(ctx context.Context) ([]*paymentv1.Dispute, error) {
	res, err := Patient(ctx, func(ctx context.Context) (*paymentv1.ListDisputesResponse, error) {
		return paymentv1connect.NewDisputeServiceClient(d.Owner.Client()).ListDisputes(ctx, &paymentv1.ListDisputesRequest{PageSize: 200})
	})
	return slices.DeleteFunc(res.GetDisputes(), func(one *paymentv1.Dispute) bool { return one.GetReference() != d.Placed.Order.GetOrderId() }), err
}

// disputable is something of which there is one.
func (s *Shop) disputable(ctx context.Context, p *Person, goods *Goods, articles []trade.Article, proven bool) (*catalogv1.Listing, error) {
	c := catalogv1connect.NewStorefrontServiceClient(p.Client())
	for _, a := range articles {
		if a.Sold == 0 || (a.Proof != trade.Unproven) != proven {
			continue
		}
		res, err := Patient(ctx, func(ctx context.Context) (*catalogv1.GetListingResponse, error) {
			return c.GetListing(ctx, &catalogv1.GetListingRequest{Sku: goods.SKU(a.Code)})
		})
		if err != nil || res.GetListing().GetAvailable() > 0 {
			return res.GetListing(), err
		}
	}
	if proven {
		return s.disputable(ctx, p, goods, articles, false)
	}
	return nil, errors.New("there is nothing left that somebody could deny to have got")
}

// Answer has the merchant hand its evidence over: what it has to say, how the
// parcel went, and where goods passed inspection their certificate. The bank
// decides by the words, as banks to practise with do. It answers the ids of the
// certificates. step is told when the evidence is about to be handed over.
func (d *Dispute) Answer(ctx context.Context, win bool, step func(n int)) (certificates []string, err error) {
	parts, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ListFulfilmentsResponse, error) {
		return warehousev1connect.NewFulfilmentServiceClient(d.Owner.Client()).ListFulfilments(ctx, &warehousev1.ListFulfilmentsRequest{
			Reference: d.Placed.Order.GetOrderId(),
		})
	})
	if err != nil {
		return nil, err
	}
	words := "We sent it: winning_evidence."
	if !win {
		words = "We are sure of it: losing_evidence."
	}
	ask := &paymentv1.SubmitEvidenceRequest{
		DisputeId: d.ID, EvidenceId: id.New("evd"), Submit: true,
		Evidence: []*paymentv1.Evidence{{Kind: paymentv1.EvidenceKind_EVIDENCE_KIND_STATEMENT, Text: words}},
	}
	for _, part := range parts.GetFulfilments() {
		for _, parcel := range part.GetParcels() {
			if n := parcel.GetTrackingNumber(); n != "" {
				ask.Evidence = append(ask.Evidence, &paymentv1.Evidence{Kind: paymentv1.EvidenceKind_EVIDENCE_KIND_SHIPPING_TRACKING_NUMBER, Text: n})
			}
		}
		for _, l := range part.GetLines() {
			for _, unit := range l.GetUnitIds() {
				c, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.GetCertificateResponse, error) {
					return inspectionv1connect.NewCertificateServiceClient(d.Owner.Client()).GetCertificate(ctx, &inspectionv1.GetCertificateRequest{UnitId: unit})
				})
				if err != nil {
					return nil, fmt.Errorf("certificate of %s: %w", unit, err)
				}
				certificates = append(certificates, c.GetCertificateId())
				ask.Evidence = append(ask.Evidence, &paymentv1.Evidence{Kind: paymentv1.EvidenceKind_EVIDENCE_KIND_AUTHENTICITY, Text: string(c.GetCredential())})
			}
		}
	}
	step(1)
	res, err := Patient(ctx, func(ctx context.Context) (*paymentv1.SubmitEvidenceResponse, error) {
		return paymentv1connect.NewDisputeServiceClient(d.Owner.Client()).SubmitEvidence(ctx, ask)
	})
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	end := paymentv1.Dispute_STATE_WON
	if !win {
		end = paymentv1.Dispute_STATE_LOST
	}
	if got := res.GetDispute().GetState(); got != end {
		return nil, fmt.Errorf("dispute %s ended %s and not %s", d.ID, got, end)
	}
	return certificates, d.moved(ctx, win)
}

// moved fails unless there is one dispute of the order, and the merchant's own
// statement says that the bank took what it took, once, and gave it back or
// did not.
func (d *Dispute) moved(ctx context.Context, back bool) error {
	all, err := d.list(ctx)
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("order %s has %d disputes", d.Placed.Order.GetOrderId(), len(all))
	}
	res, err := Patient(ctx, func(ctx context.Context) (*paymentv1.GetStatementResponse, error) {
		return paymentv1connect.NewSettlementServiceClient(d.Owner.Client()).GetStatement(ctx, &paymentv1.GetStatementRequest{
			CurrencyCode: d.Amount.Currency, From: timestamppb.New(d.since), Until: timestamppb.New(time.Now().Add(time.Minute)),
		})
	})
	if err != nil {
		return err
	}
	var taken, left int64
	for _, l := range res.GetLines() {
		if l.GetReference() != d.Placed.Order.GetOrderId() || !strings.HasPrefix(l.GetKind(), "dispute_") {
			continue
		}
		left += l.GetMinorUnits()
		if l.GetKind() == "dispute_unshare" || l.GetKind() == "dispute_recover" {
			taken -= l.GetMinorUnits()
		}
	}
	if taken != d.Amount.Minor || back != (left == 0) {
		return fmt.Errorf("dispute %s took %d of %d by its merchant's statement, and %d are left", d.ID, taken, d.Amount.Minor, left)
	}
	return nil
}

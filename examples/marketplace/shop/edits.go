package shop

import (
	"context"
	"fmt"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

// Edits are the orders that consumers changed.
type Edits struct {
	Orders int
	// Held is what stays held of payments for goods that were taken out of an
	// order before it was captured, by currency: a hold is released as a whole.
	Held map[string]int64
}

// Edit has consumers change orders of theirs that no merchant has taken up yet:
// one more of something, or one less.
func (s *Shop) Edit(ctx context.Context, m *Market, r *Replay, most int, step func(n int)) (*Edits, error) {
	out := &Edits{Held: map[string]int64{}}
	people := m.Consumers["GB"]
	for i := range min(most, len(people)) {
		p := people[i]
		sku, err := s.plenty(ctx, p)
		if err != nil {
			return nil, err
		}
		placed, err := r.place(ctx, fmt.Sprintf("edit-%d", i), p, []*orderv1.LineInput{{Sku: sku, Quantity: 2}}, false)
		if err != nil {
			return nil, err
		}
		c := orderv1connect.NewOrderEditServiceClient(p.Client())
		edit := &orderv1.ProposeEditRequest{
			EditId: id.New("edt"), OrderId: placed.Order.GetOrderId(), CartSecret: placed.Secret,
			Lines: []*orderv1.LineInput{{Sku: sku, Quantity: int64(1 + 2*(i%2))}}, Reason: "counted again",
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*orderv1.ProposeEditResponse, error) { return c.ProposeEdit(ctx, edit) }); err != nil {
			return nil, fmt.Errorf("propose a change: %w", err)
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*orderv1.AcceptEditResponse, error) {
			return c.AcceptEdit(ctx, &orderv1.AcceptEditRequest{EditId: edit.GetEditId(), CartSecret: placed.Secret, PaymentMethodToken: "tok_ok"})
		}); err != nil {
			return nil, fmt.Errorf("accept a change: %w", err)
		}
		if err := until(ctx, func(ctx context.Context) (bool, error) {
			res, err := c.GetEdit(ctx, &orderv1.GetEditRequest{EditId: edit.GetEditId(), CartSecret: placed.Secret})
			return res.GetEdit().GetState() == orderv1.OrderEdit_STATE_APPLIED, err
		}); err != nil {
			return nil, fmt.Errorf("change of %s: %w", placed.Order.GetOrderId(), err)
		}
		// The order as it is now.
		res, err := Patient(ctx, func(ctx context.Context) (*orderv1.GetOrderResponse, error) {
			return orderv1connect.NewOrderServiceClient(p.Client()).GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: placed.Order.GetOrderId(), CartSecret: placed.Secret})
		})
		if err != nil {
			return nil, err
		}
		if less := placed.Order.GetTotal().GetMinorUnits() - res.GetOrder().GetTotal().GetMinorUnits(); less > 0 {
			out.Held[placed.Order.GetTotal().GetCurrencyCode()] += less
		}
		placed.Order = res.GetOrder()
		out.Orders++
		step(1)
	}
	return out, nil
}

// plenty is something ordinary of which there is a lot.
func (s *Shop) plenty(ctx context.Context, p *Person) (string, error) {
	found, err := Patient(ctx, func(ctx context.Context) (*catalogv1.SearchListingsResponse, error) {
		return catalogv1connect.NewStorefrontServiceClient(p.Client()).SearchListings(ctx, &catalogv1.SearchListingsRequest{Query: "mug", InStockOnly: true, PageSize: 50})
	})
	if err != nil {
		return "", err
	}
	for _, l := range found.GetListings() {
		if l.GetAvailable() >= 100 && !l.GetRequiresAuthentication() {
			return l.GetSku(), nil
		}
	}
	return "", fmt.Errorf("there is no plenty of anything in %s", p.Market)
}

// Short has a consumer want more than there is and ask to be told; the merchant
// sees it among what to order, and brings it. It answers how many units came.
func (s *Shop) Short(ctx context.Context, m *Market, r *Replay) (units int64, err error) {
	p := m.Consumers["GB"][0]
	sku, err := s.plenty(ctx, p)
	if err != nil {
		return 0, err
	}
	one, err := Patient(ctx, func(ctx context.Context) (*catalogv1.GetListingResponse, error) {
		return catalogv1connect.NewStorefrontServiceClient(p.Client()).GetListing(ctx, &catalogv1.GetListingRequest{Sku: sku})
	})
	if err != nil {
		return 0, err
	}
	_, err = r.place(ctx, "short", p, []*orderv1.LineInput{{Sku: sku, Quantity: one.GetListing().GetAvailable() + 10}}, true)
	if fault.Reason(err) != "OUT_OF_STOCK" {
		return 0, fmt.Errorf("more than there is was sold: %w", err)
	}
	for _, o := range m.Owners {
		if o.Self.GetMerchantId() != one.GetListing().GetMerchantId() {
			continue
		}
		short := orderv1connect.NewShortageServiceClient(o.Client())
		if err := until(ctx, func(ctx context.Context) (bool, error) {
			res, err := short.ListReplenishment(ctx, &orderv1.ListReplenishmentRequest{})
			return len(res.GetReplenishments()) > 0, err
		}); err != nil {
			return 0, fmt.Errorf("the shortage was not told: %w", err)
		}
		req := &warehousev1.ReceiveStockRequest{ReceiptId: "ASN-short", Lines: []*warehousev1.ReceiptLine{{Sku: sku, Quantity: 25}}}
		_, err := Patient(ctx, func(ctx context.Context) (*warehousev1.ReceiveStockResponse, error) {
			return warehousev1connect.NewStockServiceClient(o.Client()).ReceiveStock(ctx, req)
		})
		return 25, err
	}
	return 0, fmt.Errorf("nobody sells %s", sku)
}

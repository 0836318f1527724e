package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/fault"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// prices of every article of these tests, by market.
var prices = map[string]*typev1.Money{
	"GB": {CurrencyCode: "GBP", MinorUnits: 1250},
	"DE": {CurrencyCode: "EUR", MinorUnits: 1450},
	"JP": {CurrencyCode: "JPY", MinorUnits: 1990},
}

var articles atomic.Int64

// article lists a new article in every market, with so many units in stock.
func (w *world) article(t *testing.T, units int64) (sku string) {
	t.Helper()
	ctx := t.Context()
	n := articles.Add(1)
	c := catalogv1connect.NewCatalogServiceClient(w.owner.Client())
	put, err := c.PutProducts(ctx, &catalogv1.PutProductsRequest{Products: []*catalogv1.Product{{
		Titles:   []*typev1.LocalizedText{{Language: "en", Text: fmt.Sprintf("Lantern %d", n)}},
		Category: "home/lanterns", OriginCountry: "GB", HsCode: "940550",
		Variants: []*catalogv1.Variant{{MerchantSku: fmt.Sprintf("LANTERN-%d", n)}},
	}}})
	require.NoError(t, err)
	sku = put.GetProducts()[0].GetVariants()[0].GetSku()
	set, list := &catalogv1.SetPricesRequest{}, &catalogv1.SetListingsRequest{}
	for market, amount := range prices {
		set.Prices = append(set.Prices, &catalogv1.Price{Sku: sku, Market: market, Amount: amount})
		list.Listings = append(list.Listings, &catalogv1.ListingChange{Sku: sku, Market: market, Listed: true})
	}
	_, err = c.SetPrices(ctx, set)
	require.NoError(t, err)
	_, err = c.SetListings(ctx, list)
	require.NoError(t, err)
	if units > 0 {
		w.receive(t, sku, units, n)
	}
	return sku
}

// receive books goods that arrived. The warehouse hears of new articles by
// events: not to know one yet is an answer that time changes.
func (w *world) receive(t *testing.T, sku string, units, n int64) {
	t.Helper()
	stock := warehousev1connect.NewStockServiceClient(w.owner.Client())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := shop.Patient(ctx, func(ctx context.Context) (*warehousev1.ReceiveStockResponse, error) {
		res, err := stock.ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{
			ReceiptId: fmt.Sprintf("ASN-%d", n), Lines: []*warehousev1.ReceiptLine{{Sku: sku, Quantity: units}},
		})
		if fault.Reason(err) == "SKU_UNKNOWN" {
			return nil, connect.NewError(connect.CodeUnavailable, "not known yet").WithCause(err)
		}
		return res, err
	})
	require.NoError(t, err)
	w.received += units
}

// cart is one that somebody filled.
type cart struct {
	who        shop.Caller
	id, secret string
}

// fill makes a cart with one article in it.
func fill(ctx context.Context, who shop.Caller, sku string, quantity int64) (cart, error) {
	res, err := orderv1connect.NewCartServiceClient(who.Client()).CreateCart(shop.Keyed(ctx),
		&orderv1.CreateCartRequest{Lines: []*orderv1.LineInput{{Sku: sku, Quantity: quantity}}})
	return cart{who: who, id: res.GetCart().GetCartId(), secret: res.GetCartSecret()}, err
}

// home is where the buyers of these tests have parcels sent.
var home = &typev1.Address{Recipient: "Alex Sample", Lines: []string{"1 Placeholder Street"}, Locality: "Exampleton", PostalCode: "ZZ1 1ZZ", CountryCode: "GB"}

// checkout finishes a cart, once and without patience.
func (c cart) checkout(ctx context.Context) (*orderv1.Order, error) {
	res, err := orderv1connect.NewOrderServiceClient(c.who.Client()).Checkout(ctx, &orderv1.CheckoutRequest{
		CartId: c.id, CartSecret: c.secret, ShipTo: home, Email: "alex@buyer.example", PaymentMethodToken: "tok_ok",
	})
	return res.GetOrder(), err
}

// seen are the figures that only who placed the orders can compare.
var seen = []string{"accepted invoices", "cancelled invoices", "two a case"}

// books waits until nothing is under way and requires that every ledger
// agrees with every other, and with the payment companies' own.
func (w *world) books(t *testing.T) *shop.Books {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := w.Reconcile(ctx, &shop.Done{Received: w.received, Replay: w.NewReplay(nil, nil)})
	require.NoError(t, err)
	for _, c := range b.Checks {
		if !slices.Contains(seen, c.Left) {
			require.True(t, c.OK(), "%s: %s %d, %s %d", c.What, c.Left, c.Want, c.Right, c.Have)
		}
	}
	return b
}

// payments counts the payments that an instance holds money of.
func payments(b *shop.Books, instance string) (n int64) {
	for _, s := range b.Payments.GetSums() {
		if s.GetInstance() == instance {
			n += s.GetPayments()
		}
	}
	return n
}

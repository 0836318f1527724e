package main

import (
	"context"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// shop is a catalog under test.
type shop struct {
	*plugintest.Module
	one, two, staff catalogv1connect.CatalogServiceClient
	quotes          catalogv1connect.QuoteServiceClient
}

func open(t testing.TB) *shop {
	t.Helper()
	m := plugintest.Start(t, module())
	as := func(p call.Principal) catalogv1connect.CatalogServiceClient {
		return catalogv1connect.NewCatalogServiceClient(m.Client(plugintest.As(p, "GB")))
	}
	return &shop{
		Module: m,
		one:    as(call.Principal{Kind: call.Merchant, Merchant: "mrc_one", Permissions: []string{"*"}}),
		two:    as(call.Principal{Kind: call.Merchant, Merchant: "mrc_two", Permissions: []string{"*"}}),
		staff:  as(call.Principal{Kind: call.Staff, Account: "acc_staff"}),
		quotes: catalogv1connect.NewQuoteServiceClient(m.Client(plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "order"}, "GB"))),
	}
}

// front is the storefront of a market.
func (s *shop) front(market string) catalogv1connect.StorefrontServiceClient {
	return catalogv1connect.NewStorefrontServiceClient(s.Client(plugintest.As(call.Principal{}, market)))
}

// put makes products of a merchant and answers the skus by article number.
func (s *shop) put(t testing.TB, c catalogv1connect.CatalogServiceClient, products ...*catalogv1.Product) map[string]string {
	t.Helper()
	res, err := c.PutProducts(t.Context(), &catalogv1.PutProductsRequest{Products: products})
	require.NoError(t, err)
	skus := make(map[string]string)
	for _, p := range res.GetProducts() {
		for _, v := range p.GetVariants() {
			skus[v.GetMerchantSku()] = v.GetSku()
		}
	}
	return skus
}

// offer prices and lists a sku of mrc_one in a market.
func (s *shop) offer(t testing.TB, market, currency string, minor int64, skus ...string) {
	t.Helper()
	prices, listings := &catalogv1.SetPricesRequest{}, &catalogv1.SetListingsRequest{}
	for _, sku := range skus {
		prices.Prices = append(prices.Prices, price(sku, market, currency, minor))
		listings.Listings = append(listings.Listings, &catalogv1.ListingChange{Sku: sku, Market: market, Listed: true})
	}
	_, err := s.one.SetPrices(t.Context(), prices)
	require.NoError(t, err)
	_, err = s.one.SetListings(t.Context(), listings)
	require.NoError(t, err)
}

// stock lets the warehouse say what stands there.
func (s *shop) stock(t testing.TB, levels ...*warehousev1.StockLevel) {
	t.Helper()
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockReceived{ReceiptId: "mrc_one/1", Levels: levels}))
}

func (s *shop) search(t require.TestingT, market string, req *catalogv1.SearchListingsRequest) *catalogv1.SearchListingsResponse {
	res, err := s.front(market).SearchListings(context.Background(), req)
	require.NoError(t, err)
	return res
}

// announced are the listing changes that wait to be told, by market and sku.
func (s *shop) announced(t testing.TB) map[string]*catalogv1.ListingChanged {
	t.Helper()
	rows, err := s.Admin.Query(t.Context(), "SELECT payload FROM bus.timer WHERE topic = 'entrepot.catalog.v1.ListingChanged' AND due <= now()")
	require.NoError(t, err)
	defer rows.Close()
	out := make(map[string]*catalogv1.ListingChanged)
	for rows.Next() {
		var b []byte
		require.NoError(t, rows.Scan(&b))
		e := &catalogv1.ListingChanged{}
		require.NoError(t, proto.Unmarshal(b, e))
		out[e.GetMarket()+" "+e.GetSku()] = e
	}
	require.NoError(t, rows.Err())
	return out
}

func level(sku, site string, sellable, version int64) *warehousev1.StockLevel {
	return &warehousev1.StockLevel{Sku: sku, Site: site, Sellable: sellable, Version: version}
}

func price(sku, market, currency string, minor int64) *catalogv1.Price {
	return &catalogv1.Price{Sku: sku, Market: market, Amount: &typev1.Money{CurrencyCode: currency, MinorUnits: minor}}
}

func named(language, text string) *typev1.LocalizedText {
	return &typev1.LocalizedText{Language: language, Text: text}
}

// article is a product of one variant.
func article(number, title string) *catalogv1.Product {
	return &catalogv1.Product{
		Titles: []*typev1.LocalizedText{named("en", title)}, Brand: "Acme", Category: "home/candles", OriginCountry: "GB", HsCode: "340600",
		Variants: []*catalogv1.Variant{{MerchantSku: number, WeightGrams: 300}},
	}
}

func refused(t require.TestingT, code connect.Code, reason string, err error) {
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(err), "%v", err)
}

func titles(res *catalogv1.SearchListingsResponse) (out []string) {
	for _, l := range res.GetListings() {
		out = append(out, l.GetTitle())
	}
	return out
}

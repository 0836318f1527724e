package main

import (
	"fmt"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func lamp() *catalogv1.Product {
	return &catalogv1.Product{
		Titles:       []*typev1.LocalizedText{named("en", "Lamp"), named("de", "Lampe")},
		Descriptions: []*typev1.LocalizedText{named("en", "Gives light")},
		Brand:        "Lux", Category: "home/lamps", OriginCountry: "CN", HsCode: "940520",
		Variants: []*catalogv1.Variant{
			{MerchantSku: "L-1", Gtin: "4006381333931", Attributes: map[string]string{"colour": "red"}, WeightGrams: 900},
			{MerchantSku: "L-2", Attributes: map[string]string{"colour": "blue"}},
		},
	}
}

func TestPutProductsMakesReplacesAndLeavesAlone(t *testing.T) {
	t.Parallel()
	s := open(t)
	put := func(products ...*catalogv1.Product) *catalogv1.PutProductsResponse {
		res, err := s.one.PutProducts(t.Context(), &catalogv1.PutProductsRequest{Products: products})
		require.NoError(t, err)
		require.Len(t, res.GetProducts(), len(products), "in the order of the request")
		return res
	}
	first := put(lamp(), article("C-1", "Candle"))
	require.Equal(t, []int32{2, 0, 0}, []int32{first.GetCreated(), first.GetUpdated(), first.GetUnchanged()})
	got, err := s.one.GetProduct(t.Context(), &catalogv1.GetProductRequest{ProductId: first.GetProducts()[0].GetProductId()})
	require.NoError(t, err)
	require.True(t, proto.Equal(first.GetProducts()[0], got.GetProduct()), "%v\n%v", first.GetProducts()[0], got.GetProduct())

	again := put(lamp(), article("C-1", "Candle"))
	require.EqualValues(t, 2, again.GetUnchanged())
	require.True(t, proto.Equal(first.GetProducts()[0], again.GetProducts()[0]), "the same answer")
	require.Len(t, s.Published(t), 2, "what is unchanged is no news")

	other := lamp()
	other.Variants = []*catalogv1.Variant{{MerchantSku: "L-2", Gtin: "12345670"}, {MerchantSku: "L-3"}}
	third := put(article("C-1", "Candle"), other)
	require.Equal(t, []int32{0, 1, 1}, []int32{third.GetCreated(), third.GetUpdated(), third.GetUnchanged()})
	was, is := first.GetProducts()[0], third.GetProducts()[1]
	require.Equal(t, was.GetProductId(), is.GetProductId())
	require.Equal(t, was.GetVariants()[1].GetSku(), is.GetVariants()[0].GetSku(), "a variant keeps its sku")
	news := s.Published(t)[2].(*catalogv1.ProductChanged)
	require.Equal(t, []string{is.GetVariants()[0].GetSku(), is.GetVariants()[1].GetSku()}, news.GetSkus())
	require.Equal(t, "mrc_one", news.GetMerchantId())

	back := put(lamp())
	require.Equal(t, was.GetVariants()[0].GetSku(), back.GetProducts()[0].GetVariants()[0].GetSku(), "a retired variant comes back as itself")
}

func TestPutProductsRefusesAllOrNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.put(t, s.one, lamp(), article("C-1", "Candle"))
	with := func(change func(*catalogv1.Product)) *catalogv1.Product {
		p := article("N-1", "New")
		change(p)
		return p
	}
	cases := []struct {
		name   string
		second *catalogv1.Product
		code   connect.Code
	}{
		{"an article number twice", article("N-0", "Other"), connect.CodeInvalidArgument},
		{"a wrong check digit", with(func(p *catalogv1.Product) { p.Variants[0].Gtin = "4006381333932" }), connect.CodeInvalidArgument},
		{"a GTIN of thirteen letters", with(func(p *catalogv1.Product) { p.Variants[0].Gtin = "40063813339ab" }), connect.CodeInvalidArgument},
		{"a language twice", with(func(p *catalogv1.Product) { p.Titles = append(p.Titles, named("en", "Again")) }), connect.CodeInvalidArgument},
		{"no title", with(func(p *catalogv1.Product) { p.Titles = nil }), connect.CodeInvalidArgument},
		{"no variant", with(func(p *catalogv1.Product) { p.Variants = nil }), connect.CodeInvalidArgument},
		{"a country that is none", with(func(p *catalogv1.Product) { p.OriginCountry = "gb" }), connect.CodeInvalidArgument},
		{"an HS code of five digits", with(func(p *catalogv1.Product) { p.HsCode = "94052" }), connect.CodeInvalidArgument},
		{"a category that is no path", with(func(p *catalogv1.Product) { p.Category = "Home/Lamps" }), connect.CodeInvalidArgument},
		{"variants of two products", with(func(p *catalogv1.Product) {
			p.Variants = []*catalogv1.Variant{{MerchantSku: "L-1"}, {MerchantSku: "C-1"}}
		}), connect.CodeFailedPrecondition},
	}
	for _, c := range cases {
		_, err := s.one.PutProducts(t.Context(), &catalogv1.PutProductsRequest{Products: []*catalogv1.Product{article("N-0", "First"), c.second}})
		require.Equal(t, c.code, connect.CodeOf(err), "%s: %v", c.name, err)
	}
	split := []*catalogv1.Product{article("L-1", "Half"), article("L-2", "Other half")}
	_, err := s.one.PutProducts(t.Context(), &catalogv1.PutProductsRequest{Products: split})
	refused(t, connect.CodeFailedPrecondition, "VARIANT_ELSEWHERE", err)
	res, err := s.one.ListProducts(t.Context(), &catalogv1.ListProductsRequest{})
	require.NoError(t, err)
	require.Len(t, res.GetProducts(), 2, "nothing of the refused requests stayed")
}

func TestAMerchantSeesAndWritesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	s := open(t)
	mine := s.put(t, s.one, lamp())
	theirs := s.put(t, s.two, lamp())
	require.NotEqual(t, mine["L-1"], theirs["L-1"], "article numbers are unique within a merchant only")

	list, err := s.two.ListProducts(t.Context(), &catalogv1.ListProductsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetProducts(), 1)
	_, err = s.one.GetProduct(t.Context(), &catalogv1.GetProductRequest{ProductId: list.GetProducts()[0].GetProductId()})
	refused(t, connect.CodeNotFound, "PRODUCT_UNKNOWN", err)
	_, err = s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{
		price(mine["L-1"], "GB", "GBP", 100), price(theirs["L-1"], "GB", "GBP", 100), price("sku_none", "GB", "GBP", 100),
	}})
	refused(t, connect.CodeNotFound, "SKU_UNKNOWN", err)
	info, _ := fault.Info(err)
	require.Contains(t, info.GetMetadata()["skus"], theirs["L-1"])
	require.NotContains(t, info.GetMetadata()["skus"], mine["L-1"])
	_, err = s.one.SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{Sku: theirs["L-1"], Market: "GB"}}})
	refused(t, connect.CodeNotFound, "SKU_UNKNOWN", err)

	all, err := s.staff.ListProducts(t.Context(), &catalogv1.ListProductsRequest{})
	require.NoError(t, err)
	require.Len(t, all.GetProducts(), 2, "staff see everybody's")
	_, err = s.staff.PutProducts(t.Context(), &catalogv1.PutProductsRequest{Products: []*catalogv1.Product{lamp()}})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "and write nobody's")
}

func TestProductsPageAndNewOnesComeLast(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i := range 5 {
		s.put(t, s.one, article(fmt.Sprint(i), "x"))
	}
	var seen []string
	req := &catalogv1.ListProductsRequest{PageSize: 2}
	for i := 5; ; i++ {
		res, err := s.one.ListProducts(t.Context(), req)
		require.NoError(t, err)
		for _, p := range res.GetProducts() {
			seen = append(seen, p.GetVariants()[0].GetMerchantSku())
		}
		if i < 7 {
			s.put(t, s.one, article(fmt.Sprint(i), "x"))
		}
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6"}, seen)
	_, err := s.one.ListProducts(t.Context(), &catalogv1.ListProductsRequest{PageToken: "nonsense"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

func TestSearchFindsWhatHoldsEveryWord(t *testing.T) {
	t.Parallel()
	s := open(t)
	tee := article("A", "Red T-shirt, 100% cotton")
	tee.Brand, tee.Category = "O'Neill & Sons", "clothes/shirts"
	cat := article("B", "Lucky cat")
	cat.Titles = append(cat.Titles, named("ja", "幸運の招き猫セット"))
	cat.Descriptions = []*typev1.LocalizedText{named("en", "Brings red-hot luck; café edition \\ 'quoted'")}
	cat.Variants[0].Attributes = map[string]string{"colour": "Crimson"}
	cat.Variants[0].Gtin = "4006381333931"
	skus := s.put(t, s.one, tee, cat)
	s.offer(t, "GB", "GBP", 100, skus["A"], skus["B"])
	for query, want := range map[string][]string{
		"":                {"Lucky cat", "Red T-shirt, 100% cotton"},
		"!!! ' \\ & | :*": {"Lucky cat", "Red T-shirt, 100% cotton"},
		"shirt":           {"Red T-shirt, 100% cotton"},
		"T-SHIRT":         {"Red T-shirt, 100% cotton"},
		"cotton red":      {"Red T-shirt, 100% cotton"},
		"red cott":        {"Red T-shirt, 100% cotton"},
		"cott red":        nil,                                       // only the last word may be a beginning
		"red":             {"Red T-shirt, 100% cotton", "Lucky cat"}, // a title says more than a description
		"red blue":        nil,
		"o'neill":         {"Red T-shirt, 100% cotton"},
		"clothes":         {"Red T-shirt, 100% cotton"},
		"crimson":         {"Lucky cat"},
		"café":            {"Lucky cat"},
		"quoted":          {"Lucky cat"},
		"4006381333931":   {"Lucky cat"},
		"招き猫":             {"Lucky cat"},
		"猫":               {"Lucky cat"},
		"セット":             {"Lucky cat"},
		"ト":               {"Lucky cat"},
		"猫招き":             nil,
		"幸運 lucky":        {"Lucky cat"},
	} {
		require.Equal(t, want, titles(s.search(t, "GB", &catalogv1.SearchListingsRequest{Query: query})), "%q", query)
	}
	long := strings.Repeat("red ", 50)
	require.Len(t, s.search(t, "GB", &catalogv1.SearchListingsRequest{Query: long}).GetListings(), 2, "a long query is cut")
}

func TestAPageTokenBelongsToItsOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	skus := s.put(t, s.one, article("A", "a"), article("B", "b"))
	s.offer(t, "GB", "GBP", 100, skus["A"], skus["B"])
	next := s.search(t, "GB", &catalogv1.SearchListingsRequest{PageSize: 1}).GetNextPageToken()
	require.NotEmpty(t, next)
	for _, bad := range []string{"x", "AAAA", token{"a"}.encode(), token{"l.price+", "x", 1}.encode(), next} {
		_, err := s.front("GB").SearchListings(t.Context(), &catalogv1.SearchListingsRequest{
			PageToken: bad, Sort: catalogv1.SearchListingsRequest_SORT_PRICE_ASCENDING,
		})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), bad)
	}
}

// stocked is a shop with many listings and a plain list of them, by which
// what it answers is checked.
type stocked struct {
	*shop
	all  []*item
	made int
}

// item is a listing as the test knows it; n rises with the order of listing.
type item struct {
	n                           int
	sku, title, brand, category string
	price, available            int64
	words                       []string
}

var (
	someWords      = []string{"red", "blue", "tea", "pot", "teapot", "glass", "candle"}
	someBrands     = []string{"Acme", "Lux", "Zen", ""}
	someCategories = []string{"home", "home/tea", "home/tea/pots", "home-garden", "toys", ""}
)

func (s *stocked) add(t require.TestingT, rt *rapid.T, n int) {
	var products []*catalogv1.Product
	fresh := make(map[string]*item, n)
	for range n {
		s.made++
		it := &item{
			brand: rapid.SampledFrom(someBrands).Draw(rt, "brand"), category: rapid.SampledFrom(someCategories).Draw(rt, "category"),
			price: rapid.Int64Range(1, 6).Draw(rt, "price"), available: rapid.Int64Range(0, 2).Draw(rt, "available"),
			words: rapid.SliceOfN(rapid.SampledFrom(someWords), 1, 3).Draw(rt, "words"),
		}
		it.title = strings.Join(it.words, " ")
		p := article(fmt.Sprint(s.made), it.title)
		p.Brand, p.Category = it.brand, it.category
		products = append(products, p)
		fresh[p.GetVariants()[0].GetMerchantSku()] = it
	}
	res, err := s.one.PutProducts(context.Background(), &catalogv1.PutProductsRequest{Products: products})
	require.NoError(t, err)
	prices, received := &catalogv1.SetPricesRequest{}, &warehousev1.StockReceived{ReceiptId: "mrc_one/x"}
	for _, p := range res.GetProducts() {
		it := fresh[p.GetVariants()[0].GetMerchantSku()]
		it.sku = p.GetVariants()[0].GetSku()
		prices.Prices = append(prices.Prices, price(it.sku, "GB", "GBP", it.price))
		if it.available > 0 {
			received.Levels = append(received.Levels, level(it.sku, "main", it.available, 1))
		}
	}
	_, err = s.one.SetPrices(context.Background(), prices)
	require.NoError(t, err)
	require.NoError(t, s.Deliver(context.Background(), "stock", received))
	// One by one: the order of listing is what "newest" means.
	for _, p := range res.GetProducts() {
		it := fresh[p.GetVariants()[0].GetMerchantSku()]
		it.n = len(s.all)
		_, err = s.one.SetListings(context.Background(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{Sku: it.sku, Market: "GB", Listed: true}}})
		require.NoError(t, err)
		s.all = append(s.all, it)
	}
}

// matches tells by hand whether a search finds an item; without leaves one
// condition out, as its facet does.
func (it *item) matches(req *catalogv1.SearchListingsRequest, without string) bool {
	words := strings.Fields(req.GetQuery())
	for i, w := range words {
		if !slices.ContainsFunc(append(strings.FieldsFunc(it.category, func(r rune) bool { return r == '/' || r == '-' }), append(it.words, strings.ToLower(it.brand))...),
			func(have string) bool { return have == w || i == len(words)-1 && strings.HasPrefix(have, w) }) {
			return false
		}
	}
	in := func(name string, list []string, v string) bool {
		return without == name || len(list) == 0 || slices.Contains(list, v)
	}
	c := req.GetCategory()
	return (without == "category" || c == "" || it.category == c || strings.HasPrefix(it.category, c+"/")) &&
		in("brand", req.GetBrands(), it.brand) && in("merchant", req.GetMerchantIds(), "mrc_one") &&
		(req.GetMinPriceMinor() == 0 || it.price >= req.GetMinPriceMinor()) && (req.GetMaxPriceMinor() == 0 || it.price <= req.GetMaxPriceMinor()) &&
		(without == "in_stock" || !req.GetInStockOnly() || it.available > 0)
}

func (s *stocked) find(req *catalogv1.SearchListingsRequest) []string {
	var found []*item
	for _, it := range s.all {
		if it.matches(req, "") {
			found = append(found, it)
		}
	}
	slices.SortFunc(found, func(a, b *item) int {
		switch req.GetSort() {
		case catalogv1.SearchListingsRequest_SORT_PRICE_ASCENDING:
			return cmp.Or(cmp.Compare(a.price, b.price), cmp.Compare(a.n, b.n))
		case catalogv1.SearchListingsRequest_SORT_PRICE_DESCENDING:
			return -cmp.Or(cmp.Compare(a.price, b.price), cmp.Compare(a.n, b.n))
		case catalogv1.SearchListingsRequest_SORT_TITLE:
			return cmp.Or(cmp.Compare(a.title, b.title), cmp.Compare(a.n, b.n))
		}
		return -cmp.Compare(a.n, b.n)
	})
	out := make([]string, len(found))
	for i, it := range found {
		out[i] = it.sku
	}
	return out
}

func (s *stocked) counts(req *catalogv1.SearchListingsRequest) map[string]map[string]int64 {
	out := map[string]map[string]int64{"category": {}, "brand": {}, "merchant": {}, "in_stock": {}}
	for _, it := range s.all {
		for name, value := range map[string]string{"category": it.category, "brand": it.brand, "merchant": "mrc_one", "in_stock": fmt.Sprint(it.available > 0)} {
			if value != "" && it.matches(req, name) {
				out[name][value]++
			}
		}
	}
	return out
}

func drawSearch(rt *rapid.T) *catalogv1.SearchListingsRequest {
	maybe := func(name string, from []string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID[string]).Draw(rt, name)
	}
	return &catalogv1.SearchListingsRequest{
		Query:         strings.Join(maybe("query", append([]string{"te", "re", "home", "lux", "none"}, someWords...)), " "),
		Category:      rapid.SampledFrom(append([]string{"", "none"}, someCategories...)).Draw(rt, "category"),
		Brands:        maybe("brands", someBrands[:3]),
		MerchantIds:   maybe("merchants", []string{"mrc_one", "mrc_two"}),
		MinPriceMinor: rapid.Int64Range(0, 3).Draw(rt, "min"), MaxPriceMinor: rapid.Int64Range(0, 6).Draw(rt, "max"),
		InStockOnly: rapid.Bool().Draw(rt, "in stock"),
		Sort:        catalogv1.SearchListingsRequest_Sort(rapid.Int32Range(1, 4).Draw(rt, "sort")),
	}
}

// What is found, its order, its pages and its facets are what a loop over
// everything gives.
func TestSearchAgreesWithALoopOverEverything(t *testing.T) {
	t.Parallel()
	s := &stocked{shop: open(t)}
	rapid.Check(t, func(rt *rapid.T) {
		if s.made < 60 {
			s.add(t, rt, 20)
		}
		req := drawSearch(rt)
		want, counts := s.find(req), s.counts(req)
		req.WithFacets, req.PageSize = true, rapid.Int32Range(1, 20).Draw(rt, "page size")
		var got []string
		for {
			res := s.search(rt, "GB", req)
			for _, l := range res.GetListings() {
				got = append(got, l.GetSku())
			}
			for _, f := range res.GetFacets() {
				have := make(map[string]int64)
				for _, v := range f.GetValues() {
					have[v.GetValue()] = v.GetCount()
				}
				require.Equal(rt, counts[f.GetName()], have, "facet %s of %v", f.GetName(), req)
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				break
			}
			require.Len(rt, res.GetListings(), int(req.GetPageSize()))
		}
		require.Equal(rt, want, append([]string{}, got...), "%v", req)
	})
}

// Who pages while goods are added sees everything that was there once, in
// every order, best match too.
func TestAWalkOverPagesIsStableUnderInserts(t *testing.T) {
	t.Parallel()
	s := &stocked{shop: open(t)}
	rapid.Check(t, func(rt *rapid.T) {
		if s.made == 0 {
			s.add(t, rt, 25)
		}
		req := &catalogv1.SearchListingsRequest{
			Sort: catalogv1.SearchListingsRequest_Sort(rapid.Int32Range(0, 4).Draw(rt, "sort")), PageSize: rapid.Int32Range(3, 15).Draw(rt, "page size"),
			Query: rapid.SampledFrom([]string{"", "te", "red"}).Draw(rt, "query"),
		}
		before := s.find(req)
		seen := make(map[string]int)
		for pages := 0; ; pages++ {
			res := s.search(rt, "GB", req)
			for _, l := range res.GetListings() {
				seen[l.GetSku()]++
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				break
			}
			if pages < 2 && s.made < 100 {
				s.add(t, rt, 2)
			}
		}
		for _, sku := range before {
			require.Equal(rt, 1, seen[sku], "%s in %v", sku, req)
		}
		for sku, n := range seen {
			require.Equal(rt, 1, n, sku)
		}
	})
}

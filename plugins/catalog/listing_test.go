package main

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

func TestPricesAreInTheMarketsCurrency(t *testing.T) {
	t.Parallel()
	s := open(t)
	sku := s.put(t, s.one, article("A", "Candle"))["A"]
	cases := []struct {
		name  string
		price *catalogv1.Price
		ok    bool
	}{
		{"pounds in Great Britain", price(sku, "GB", "GBP", 1299), true},
		{"yen in Japan", price(sku, "JP", "JPY", 1299), true},
		{"euros in Great Britain", price(sku, "GB", "EUR", 1299), false},
		{"a market that is none", price(sku, "FR", "EUR", 1299), false},
		{"below zero", price(sku, "GB", "GBP", -1), false},
		{"the most", price(sku, "GB", "GBP", 9_000_000_000_000), true},
		{"more than the most", price(sku, "GB", "GBP", 9_000_000_000_001), false},
		{"no amount", &catalogv1.Price{Sku: sku, Market: "GB"}, false},
	}
	for _, c := range cases {
		_, err := s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{c.price}})
		if c.ok {
			require.NoError(t, err, c.name)
		} else {
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%s: %v", c.name, err)
		}
	}
	_, err := s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{cases[0].price, price(sku, "GB", "GBP", 1)}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "twice in one request")
	for _, sql := range []string{`UPDATE price SET amount = -1`, `UPDATE price SET amount = 9000000000001`, `UPDATE price SET currency = 'pounds'`} {
		_, err := s.DB.Do(t.Context(), sql)
		require.Equal(t, "23514", store.SQLState(err), "the database refuses too: %s", sql)
	}
}

func TestAListingNeedsAPriceAndFollowsIt(t *testing.T) {
	t.Parallel()
	s := open(t)
	skus := s.put(t, s.one, article("A", "Candle"), article("B", "Lamp"))
	list := func(sku string, listed, authentic bool) (*catalogv1.SetListingsResponse, error) {
		return s.one.SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{
			{Sku: sku, Market: "GB", Listed: listed, RequiresAuthentication: authentic},
		}})
	}
	changed := func(res *catalogv1.SetListingsResponse, err error) int32 {
		require.NoError(t, err)
		return res.GetChanged()
	}
	_, err := list(skus["A"], true, false)
	refused(t, connect.CodeFailedPrecondition, "NO_PRICE", err)
	info, _ := fault.Info(err)
	require.Equal(t, skus["A"], info.GetMetadata()["skus"])

	s.offer(t, "GB", "GBP", 500, skus["A"])
	require.Equal(t, []string{"Candle"}, titles(s.search(t, "GB", &catalogv1.SearchListingsRequest{})))
	require.Empty(t, titles(s.search(t, "DE", &catalogv1.SearchListingsRequest{})), "not in another market")
	require.EqualValues(t, 0, changed(list(skus["A"], true, false)), "again is nothing new")
	require.EqualValues(t, 1, changed(list(skus["A"], true, true)))
	require.True(t, s.search(t, "GB", &catalogv1.SearchListingsRequest{}).GetListings()[0].GetRequiresAuthentication())

	res, err := s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{price(skus["A"], "GB", "GBP", 450), price(skus["B"], "GB", "GBP", 9)}})
	require.NoError(t, err)
	require.EqualValues(t, 2, res.GetChanged())
	require.EqualValues(t, 450, s.search(t, "GB", &catalogv1.SearchListingsRequest{}).GetListings()[0].GetPrice().GetMinorUnits())
	require.True(t, proto.Equal(&catalogv1.ListingChanged{
		Sku: skus["A"], Market: "GB", Listed: true, Price: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 450}, RequiresAuthentication: true,
	}, s.announced(t)["GB "+skus["A"]]), "the last of several changes is told")
	require.Len(t, s.announced(t), 1, "a price of what is not shown is no news")

	require.EqualValues(t, 1, changed(list(skus["A"], false, false)))
	require.EqualValues(t, 0, changed(list(skus["A"], false, false)))
	require.Empty(t, titles(s.search(t, "GB", &catalogv1.SearchListingsRequest{})))
	require.False(t, s.announced(t)["GB "+skus["A"]].GetListed())
	_, err = s.front("GB").GetListing(t.Context(), &catalogv1.GetListingRequest{Sku: skus["A"]})
	refused(t, connect.CodeNotFound, "NOT_LISTED", err)

	_, err = s.DB.Do(t.Context(), `DELETE FROM price WHERE sku = $1`, skus["B"])
	require.NoError(t, err)
	s.offer(t, "GB", "GBP", 500, skus["A"])
	_, err = s.DB.Do(t.Context(), `DELETE FROM price WHERE sku = $1`, skus["A"])
	require.Equal(t, "23503", store.SQLState(err), "no listing without a price, says the database")
}

func TestAListingSaysWhetherMoreThanThereIsMayBeOrdered(t *testing.T) {
	t.Parallel()
	s := open(t)
	sku := s.put(t, s.one, article("A", "Candle"))["A"]
	s.offer(t, "GB", "GBP", 500, sku)
	day := func(n int) string { return time.Now().UTC().AddDate(0, 0, n).Format(time.DateOnly) }
	set := func(b *catalogv1.BackorderTerms) (*catalogv1.SetListingsResponse, error) {
		return s.one.SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{{Sku: sku, Market: "GB", Listed: true, Backorder: b}}})
	}
	for name, b := range map[string]*catalogv1.BackorderTerms{
		"yesterday":    {Limit: 1, ExpectedOn: day(-1)},
		"in ten years": {Limit: 1, ExpectedOn: day(3650)},
		"no day":       {Limit: 1, ExpectedOn: "2030-02-30"},
		"no date":      {Limit: 1},
		"none may":     {ExpectedOn: day(9)},
		"too many":     {Limit: 100_001, ExpectedOn: day(9)},
	} {
		_, err := set(b)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%s: %v", name, err)
	}
	said := func() []*catalogv1.BackorderTerms {
		q, err := s.quotes.QuotePrices(t.Context(), &catalogv1.QuotePricesRequest{Market: "GB", Skus: []string{sku}})
		require.NoError(t, err)
		return []*catalogv1.BackorderTerms{
			q.GetQuotes()[0].GetBackorder(), s.search(t, "GB", &catalogv1.SearchListingsRequest{}).GetListings()[0].GetBackorder(),
			s.announced(t)["GB "+sku].GetBackorder(),
		}
	}
	terms := &catalogv1.BackorderTerms{Limit: 40, ExpectedOn: day(9)}
	for i := range 2 {
		res, err := set(terms)
		require.NoError(t, err)
		require.EqualValues(t, 1-i, res.GetChanged(), "again is nothing new")
	}
	p := article("A", "Scented candle")
	s.put(t, s.one, p)
	_, err := s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{price(sku, "GB", "GBP", 480)}})
	require.NoError(t, err)
	for _, got := range said() {
		require.True(t, proto.Equal(terms, got), "the quote, the storefront and the event say it, after a change of product and price too: %v", got)
	}
	later := &catalogv1.BackorderTerms{Limit: 40, ExpectedOn: day(12)}
	res, err := set(later)
	require.NoError(t, err)
	require.EqualValues(t, 1, res.GetChanged())
	require.True(t, proto.Equal(later, said()[0]))
	_, err = set(nil)
	require.NoError(t, err)
	for _, got := range said() {
		require.Nil(t, got)
	}
	_, err = s.DB.Do(t.Context(), `UPDATE listing SET backorder_limit = 4`)
	require.Equal(t, "23514", store.SQLState(err), "no promise without a day, says the database")
}

func TestAListingFollowsItsProduct(t *testing.T) {
	t.Parallel()
	s := open(t)
	skus := s.put(t, s.one, lamp())
	s.offer(t, "GB", "GBP", 900, skus["L-1"], skus["L-2"])
	changed := lamp()
	changed.Titles[0].Text = "Reading lamp"
	changed.Variants = changed.Variants[:1]
	s.put(t, s.one, changed)
	require.Equal(t, []string{"Reading lamp"}, titles(s.search(t, "GB", &catalogv1.SearchListingsRequest{Query: "read"})))
	require.Len(t, s.search(t, "GB", &catalogv1.SearchListingsRequest{}).GetListings(), 1, "a retired variant is shown no more")
	require.False(t, s.announced(t)["GB "+skus["L-2"]].GetListed())
	_, err := s.one.SetPrices(t.Context(), &catalogv1.SetPricesRequest{Prices: []*catalogv1.Price{price(skus["L-2"], "GB", "GBP", 1)}})
	refused(t, connect.CodeNotFound, "SKU_UNKNOWN", err)
}

func TestAListingSpeaksTheAskedLanguageElseTheMarketsElseAny(t *testing.T) {
	t.Parallel()
	s := open(t)
	p := lamp()
	p.Descriptions = append(p.Descriptions, named("de", "Gibt Licht"))
	lamp := s.put(t, s.one, p)["L-1"]
	french := article("F", "")
	french.Titles = []*typev1.LocalizedText{named("fr", "Bougie"), named("en-GB", "Candle")}
	candle := s.put(t, s.one, french)["F"]
	s.offer(t, "DE", "EUR", 900, lamp, candle)
	for _, c := range []struct{ sku, language, title, description string }{
		{lamp, "", "Lampe", "Gibt Licht"},
		{lamp, "de-AT", "Lampe", "Gibt Licht"},
		{lamp, "en", "Lamp", "Gives light"},
		{lamp, "ja", "Lampe", "Gibt Licht"},
		{candle, "fr-CH", "Bougie", ""},
		{candle, "", "Bougie", ""},
		{candle, "en-GB", "Candle", ""},
	} {
		res, err := s.front("DE").GetListing(t.Context(), &catalogv1.GetListingRequest{Sku: c.sku, Language: c.language})
		require.NoError(t, err)
		require.Equal(t, c.title, res.GetListing().GetTitle(), "%+v", c)
		require.Equal(t, c.description, res.GetDescription(), "%+v", c)
		found := s.search(t, "DE", &catalogv1.SearchListingsRequest{Language: c.language})
		require.Contains(t, titles(found), c.title)
	}
}

func TestQuotesAreInTheOrderOfTheRequest(t *testing.T) {
	t.Parallel()
	s := open(t)
	skus := s.put(t, s.one, lamp(), article("C", "Candle"))
	s.offer(t, "DE", "EUR", 900, skus["L-1"])
	s.offer(t, "DE", "EUR", 250, skus["C"])
	for _, order := range [][]string{{"C", "L-1"}, {"L-1", "C"}} {
		res, err := s.quotes.QuotePrices(t.Context(), &catalogv1.QuotePricesRequest{Market: "DE", Skus: []string{skus[order[0]], skus[order[1]]}})
		require.NoError(t, err)
		for i, number := range order {
			require.Equal(t, skus[number], res.GetQuotes()[i].GetSku())
		}
		want := &catalogv1.Quote{
			Sku: skus["L-1"], MerchantId: "mrc_one", Title: "Lampe", Price: &typev1.Money{CurrencyCode: "EUR", MinorUnits: 900},
			WeightGrams: 900, HsCode: "940520", OriginCountry: "CN",
		}
		for _, q := range res.GetQuotes() {
			require.True(t, q.GetSku() != want.GetSku() || proto.Equal(want, q), "%v", q)
		}
	}
	_, err := s.quotes.QuotePrices(t.Context(), &catalogv1.QuotePricesRequest{Market: "DE", Skus: []string{skus["C"], skus["L-2"], "sku_none"}})
	refused(t, connect.CodeFailedPrecondition, "NOT_LISTED", err)
	info, _ := fault.Info(err)
	require.ElementsMatch(t, []string{skus["L-2"] + ",sku_none"}, []string{info.GetMetadata()["skus"]})
}

func TestAvailabilityIsTheNewestWordOfEverySite(t *testing.T) {
	t.Parallel()
	s := open(t)
	sku := s.put(t, s.one, article("A", "Candle"))["A"]
	s.offer(t, "GB", "GBP", 500, sku)
	available := func() int64 {
		return s.search(t, "GB", &catalogv1.SearchListingsRequest{}).GetListings()[0].GetAvailable()
	}
	require.EqualValues(t, 0, available())
	s.stock(t, level(sku, "main", 10, 1), level(sku, "east", 5, 1))
	require.EqualValues(t, 15, available())

	// What overtook it is older, within a batch and between batches.
	require.NoError(t, s.Deliver(t.Context(), "stock",
		&warehousev1.StockReserved{ReservationId: "rsv_2", Levels: []*warehousev1.StockLevel{level(sku, "main", 7, 3)}},
		&warehousev1.StockReserved{ReservationId: "rsv_1", Levels: []*warehousev1.StockLevel{level(sku, "main", 9, 2)}}))
	require.EqualValues(t, 12, available())
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockReserved{ReservationId: "rsv_1", Levels: []*warehousev1.StockLevel{level(sku, "main", 9, 2)}}))
	require.EqualValues(t, 12, available())
	require.NoError(t, s.Deliver(t.Context(), "stock",
		&warehousev1.ReservationReleased{ReservationId: "rsv_2", Levels: []*warehousev1.StockLevel{level(sku, "main", 9, 4)}},
		&warehousev1.StockAdjusted{Sku: sku, Delta: -5, Level: level(sku, "east", 0, 2)}))
	require.EqualValues(t, 9, available())
}

// A listing that wants authenticated goods counts those alone; what is expired
// is nobody's.
func TestAvailabilityIsOfWhatTheListingMayBeSoldFrom(t *testing.T) {
	t.Parallel()
	s := open(t)
	sku := s.put(t, s.one, article("A", "Candle"))["A"]
	s.offer(t, "GB", "GBP", 500, sku)
	plain, passed := level(sku, "main", 10, 1), level(sku, "main", 2, 1)
	passed.Authenticated = true
	fresh, stale := level(sku, "main", 3, 1), level(sku, "main", 100, 1)
	fresh.Lot, fresh.ExpiresOn = "L2", time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	stale.Lot, stale.ExpiresOn = "L1", time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	s.stock(t, plain, fresh, stale)
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockPutAway{PutAwayId: "1", Levels: []*warehousev1.StockLevel{passed}}))

	shown := func() (int64, string) {
		res := s.search(t, "GB", &catalogv1.SearchListingsRequest{WithFacets: true})
		for _, f := range res.GetFacets() {
			if f.GetName() == "in_stock" {
				return res.GetListings()[0].GetAvailable(), f.GetValues()[0].GetValue()
			}
		}
		return res.GetListings()[0].GetAvailable(), ""
	}
	available, inStock := shown()
	require.EqualValues(t, 15, available)
	require.Equal(t, "true", inStock)

	_, err := s.one.SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{
		{Sku: sku, Market: "GB", Listed: true, RequiresAuthentication: true},
	}})
	require.NoError(t, err)
	available, _ = shown()
	require.EqualValues(t, 2, available)
	gone := level(sku, "main", 0, 2)
	gone.Authenticated = true
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockMoved{MoveId: "1", Levels: []*warehousev1.StockLevel{gone}}))
	available, inStock = shown()
	require.EqualValues(t, 0, available)
	require.Equal(t, "false", inStock)
	require.Empty(t, s.search(t, "GB", &catalogv1.SearchListingsRequest{InStockOnly: true}).GetListings())
}

// One request may change more listings than a transaction may publish.
func TestTwoThousandListingsAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	var skus []string
	for part := range 2 {
		var products []*catalogv1.Product
		for i := range 500 {
			products = append(products, article(fmt.Sprint(part, "-", i), fmt.Sprint("Candle ", i)))
		}
		for _, sku := range s.put(t, s.one, products...) {
			skus = append(skus, sku)
		}
	}
	prices, listings := &catalogv1.SetPricesRequest{}, &catalogv1.SetListingsRequest{}
	for _, sku := range skus {
		for market, currency := range map[string]string{"GB": "GBP", "DE": "EUR"} {
			prices.Prices = append(prices.Prices, price(sku, market, currency, 100))
			listings.Listings = append(listings.Listings, &catalogv1.ListingChange{Sku: sku, Market: market, Listed: true})
		}
	}
	_, err := s.one.SetPrices(t.Context(), prices)
	require.NoError(t, err)
	res, err := s.one.SetListings(t.Context(), listings)
	require.NoError(t, err)
	require.EqualValues(t, 2000, res.GetChanged())
	require.Len(t, s.announced(t), 2000)
}

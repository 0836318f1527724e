package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// What each market is shown to be available is what the warehouse's newest words
// come to by the rule of its contract, in pages, by the filter, in the facet and
// on its own page: late, twice, and in any order.
func TestAvailabilityIsWhatTheMarketIsOffered(t *testing.T) {
	t.Parallel()
	s := open(t)
	skus := s.put(t, s.one, article("A", "Plain"), article("B", "Strict"))
	plain, strict := skus["A"], skus["B"]
	s.offer(t, "GB", "GBP", 500, plain, strict)
	s.offer(t, "DE", "EUR", 500, plain, strict)
	_, err := s.one.SetListings(t.Context(), &catalogv1.SetListingsRequest{Listings: []*catalogv1.ListingChange{
		{Sku: strict, Market: "GB", Listed: true, RequiresAuthentication: true}, {Sku: strict, Market: "DE", Listed: true, RequiresAuthentication: true},
	}})
	require.NoError(t, err)
	type place struct {
		sku, site, lot string
		authenticated  bool
	}
	levels, policies := make(map[place]*warehousev1.StockLevel), make(map[[2]string]*warehousev1.StockPolicy)
	today := time.Now().UTC()
	expiry := map[string]string{"OLD": today.AddDate(0, 0, -2).Format(time.DateOnly), "NEW": today.AddDate(0, 0, 2).Format(time.DateOnly)}
	sku, market := rapid.SampledFrom([]string{plain, strict}), rapid.SampledFrom([]string{"GB", "DE"})
	word := func(rt *rapid.T) (*warehousev1.StockLevel, *warehousev1.StockPolicy) {
		l := level(sku.Draw(rt, "sku"), rapid.SampledFrom([]string{"main", "east"}).Draw(rt, "site"), rapid.Int64Range(0, 6).Draw(rt, "sellable"), rapid.Int64Range(1, 40).Draw(rt, "version"))
		l.Lot, l.Authenticated = rapid.SampledFrom([]string{"", "OLD", "NEW"}).Draw(rt, "lot"), rapid.Bool().Draw(rt, "authenticated")
		l.ExpiresOn = expiry[l.GetLot()]
		at := place{l.GetSku(), l.GetSite(), l.GetLot(), l.GetAuthenticated()}
		if have := levels[at]; have == nil || have.GetVersion() < l.GetVersion() {
			levels[at] = l
		} else if have.GetVersion() == l.GetVersion() {
			l = have // one version is one word
		}
		p := &warehousev1.StockPolicy{Sku: sku.Draw(rt, "policy's"), Market: market.Draw(rt, "market"), SafetyStock: rapid.Int64Range(0, 8).Draw(rt, "safety"), Version: rapid.Int64Range(1, 40).Draw(rt, "its version")}
		if rapid.Bool().Draw(rt, "bounded") {
			p.OnShelf = proto.Int64(rapid.Int64Range(0, 9).Draw(rt, "shelf"))
		}
		if have := policies[[2]string{p.GetSku(), p.GetMarket()}]; have == nil || have.GetVersion() < p.GetVersion() {
			policies[[2]string{p.GetSku(), p.GetMarket()}] = p
		} else if have.GetVersion() == p.GetVersion() {
			p = have
		}
		return l, p
	}
	offered := func(sku, market string) (n int64) {
		for _, l := range levels {
			if l.GetSku() == sku && l.GetLot() != "OLD" && (l.GetAuthenticated() || sku == plain) {
				n += l.GetSellable()
			}
		}
		p := policies[[2]string{sku, market}]
		if n -= p.GetSafetyStock(); p != nil && p.OnShelf != nil {
			n = min(n, p.GetOnShelf())
		}
		return max(n, 0)
	}
	rapid.Check(t, func(rt *rapid.T) {
		var events []proto.Message
		for range rapid.IntRange(1, 4).Draw(rt, "words") {
			l, p := word(rt)
			one, of := []*warehousev1.StockLevel{l}, []*warehousev1.StockPolicy{p}
			switch rapid.IntRange(0, 3).Draw(rt, "event") {
			case 0:
				events = append(events, &warehousev1.StockReserved{ReservationId: "rsv_1", Levels: one, Policies: of})
			case 1:
				events = append(events, &warehousev1.ReservationReleased{ReservationId: "rsv_1", Levels: one, Policies: of})
			case 2:
				events = append(events, &warehousev1.StockPutAway{PutAwayId: "1", Levels: one}, &warehousev1.StockPoliciesSet{MerchantId: "mrc_one", Policies: of})
			case 3:
				events = append(events, &warehousev1.StockPoliciesSet{MerchantId: "mrc_one", Policies: of}, &warehousev1.StockAdjusted{Sku: l.GetSku(), Level: l})
			}
		}
		require.NoError(rt, s.Deliver(context.Background(), "stock", append(events, events[0])...))
		for _, market := range []string{"GB", "DE"} {
			want, there := make(map[string]int64), make(map[string]bool)
			for _, sku := range []string{plain, strict} {
				if want[sku] = offered(sku, market); want[sku] > 0 {
					there[sku] = true
				}
			}
			res := s.search(rt, market, &catalogv1.SearchListingsRequest{WithFacets: true})
			require.Len(rt, res.GetListings(), 2)
			for _, l := range res.GetListings() {
				require.Equal(rt, want[l.GetSku()], l.GetAvailable(), "%s in %s", l.GetTitle(), market)
			}
			var counted int64
			for _, f := range res.GetFacets() {
				for _, v := range f.GetValues() {
					if f.GetName() == "in_stock" && v.GetValue() == "true" {
						counted = v.GetCount()
					}
				}
			}
			require.EqualValues(rt, len(there), counted, "the facet in %s", market)
			found := make(map[string]bool)
			for _, l := range s.search(rt, market, &catalogv1.SearchListingsRequest{InStockOnly: true}).GetListings() {
				found[l.GetSku()] = true
			}
			require.Equal(rt, there, found, "the filter in %s", market)
			one, err := s.front(market).GetListing(context.Background(), &catalogv1.GetListingRequest{Sku: strict})
			require.NoError(rt, err)
			require.Equal(rt, want[strict], one.GetListing().GetAvailable())
		}
	})
}

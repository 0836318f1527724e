package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// wish is a variant to be shown in a market.
type wish struct {
	shown
	terms
}

// terms are what a merchant says of a listing.
type terms struct {
	authentic bool
	// Units that may wait, 0: none; and for which day they are expected.
	backorder  int64
	expectedOn string
}

func termsOf(l *catalogv1.ListingChange) terms {
	return terms{l.GetRequiresAuthentication(), l.GetBackorder().GetLimit(), l.GetBackorder().GetExpectedOn()}
}

func (t terms) backorderProto() *catalogv1.BackorderTerms {
	if t.backorder == 0 {
		return nil
	}
	return &catalogv1.BackorderTerms{Limit: t.backorder, ExpectedOn: t.expectedOn}
}

// checkExpected refuses a day that cannot be promised.
func checkExpected(field string, b *catalogv1.BackorderTerms) error {
	if b == nil {
		return nil
	}
	day, err := time.Parse(time.DateOnly, b.GetExpectedOn())
	today := time.Now().UTC().Truncate(24 * time.Hour)
	if err != nil || day.Before(today) || day.After(today.AddDate(2, 0, 0)) {
		return fault.Field(field+".backorder.expected_on", "a day from today (UTC) on, at most two years ahead")
	}
	return nil
}

// listings are what a merchant has listed of some skus.
type listings struct {
	known set // skus that are the merchant's and not retired
	shown map[shown]terms
}

func listed(ctx context.Context, tx *store.Tx, merchant string, skus []string) (*listings, error) {
	out := &listings{known: set{}, shown: make(map[shown]terms)}
	rows, err := tx.Rows(ctx, `SELECT v.sku, l.market, coalesce(l.requires_authentication, false), coalesce(l.backorder_limit, 0),
		coalesce(to_char(l.backorder_expected, 'YYYY-MM-DD'), '') FROM variant v LEFT JOIN listing l ON l.sku = v.sku
		WHERE v.merchant = $1 AND v.sku = ANY ($2) AND NOT v.retired`, merchant, skus)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		var sku string
		var market *string
		var t terms
		if err := rows.Scan(&sku, &market, &t.authentic, &t.backorder, &t.expectedOn); err != nil {
			return err
		}
		out.known[sku] = true
		if market != nil {
			out.shown[shown{sku, *market}] = t
		}
		return nil
	})
}

// SetListings shows variants or takes them away.
func (s *service) SetListings(ctx context.Context, req *catalogv1.SetListingsRequest) (*catalogv1.SetListingsResponse, error) {
	merchant, err := seller(ctx)
	if err != nil {
		return nil, err
	}
	skus, seen := set{}, make(map[shown]bool)
	for i, l := range req.GetListings() {
		key := shown{l.GetSku(), l.GetMarket()}
		switch {
		case s.markets[l.GetMarket()] == nil:
			return nil, fault.Field(fmt.Sprintf("listings[%d].market", i), "nothing is sold in "+l.GetMarket())
		case seen[key]:
			return nil, fault.Field(fmt.Sprintf("listings[%d]", i), "the sku stands twice for this market")
		}
		if err := checkExpected(fmt.Sprintf("listings[%d]", i), l.GetBackorder()); err != nil {
			return nil, err
		}
		skus[l.GetSku()], seen[key] = true, true
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*catalogv1.SetListingsResponse, error) {
		if err := alone(ctx, tx, merchant); err != nil {
			return nil, err
		}
		now, err := listed(ctx, tx, merchant, skus.sorted())
		if err != nil {
			return nil, err
		}
		strange := set{}
		var on []wish
		var off []shown
		for _, l := range req.GetListings() {
			key := shown{l.GetSku(), l.GetMarket()}
			have, is := now.shown[key]
			switch {
			case !now.known[key.sku]:
				strange[key.sku] = true
			case l.GetListed() && (!is || have != termsOf(l)):
				on = append(on, wish{key, termsOf(l)})
			case !l.GetListed() && is:
				off = append(off, key)
			}
		}
		if len(strange) > 0 {
			return nil, unknown(strange.sorted())
		}
		made, err := s.show(ctx, tx, merchant, on)
		if err != nil {
			return nil, err
		}
		gone, err := hide(ctx, tx, off)
		if err != nil {
			return nil, err
		}
		return &catalogv1.SetListingsResponse{Changed: int32(len(on) + len(off))}, announce(ctx, tx, append(made, gone...))
	})
}

// showAgain makes listings of changed products anew and takes those of
// retired variants away.
func (s *service) showAgain(ctx context.Context, tx *store.Tx, p *putting) error {
	if len(p.changed) > 0 {
		now, err := listed(ctx, tx, p.merchant, p.changed)
		if err != nil {
			return err
		}
		again := make([]wish, 0, len(now.shown))
		for k, t := range now.shown {
			again = append(again, wish{k, t})
		}
		if _, err := s.show(ctx, tx, p.merchant, again); err != nil {
			return err
		}
	}
	if len(p.retired) == 0 {
		return nil
	}
	var off []shown
	for _, sku := range p.retired {
		for market := range s.markets {
			off = append(off, shown{sku, market})
		}
	}
	gone, err := hide(ctx, tx, off)
	if err != nil {
		return err
	}
	return announce(ctx, tx, gone)
}

const readForShow = `SELECT u.sku, u.market, u.authentic, u.backorder, u.expected, v.product_id, v.gtin, v.attributes, v.weight_grams,
  p.titles, p.descriptions, p.brand, p.category, p.origin_country, p.hs_code, coalesce(r.amount, -1), coalesce(r.currency, '')
  FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[], $5::text[]) u(sku, market, authentic, backorder, expected) JOIN variant v ON v.sku = u.sku JOIN product p ON p.id = v.product_id
  LEFT JOIN price r ON r.sku = u.sku AND r.market = u.market ORDER BY u.market, v.product_id, v.n`

const writeShown = `INSERT INTO listing (market, sku, product_id, merchant, brand, category, price, title, titles, sort_title, requires_authentication,
  words, body, quote, backorder_limit, backorder_expected)
SELECT u.market, u.sku, u.product_id, $1, u.brand, u.category, u.price, u.title, u.titles::jsonb, u.sort_title, u.authentic, u.words::tsvector, u.body, u.quote,
    u.backorder, nullif(u.expected, '')::date
  FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::boolean[],
    $12::text[], $13::bytea[], $14::bytea[], $15::bigint[], $16::text[])
    u(market, sku, product_id, brand, category, price, title, titles, sort_title, authentic, words, body, quote, backorder, expected)
ON CONFLICT (market, sku) DO UPDATE SET brand = EXCLUDED.brand, category = EXCLUDED.category, price = EXCLUDED.price, title = EXCLUDED.title,
  titles = EXCLUDED.titles, sort_title = EXCLUDED.sort_title, requires_authentication = EXCLUDED.requires_authentication,
  words = EXCLUDED.words, body = EXCLUDED.body, quote = EXCLUDED.quote,
  backorder_limit = EXCLUDED.backorder_limit, backorder_expected = EXCLUDED.backorder_expected`

// columns are rows of listing, each column an array.
type columns struct {
	markets, skus, products, brands, categories, titles, allTitles, sortTitles, words []string
	prices                                                                            []int64
	authentic                                                                         []bool
	bodies, quotes                                                                    [][]byte
	backorders                                                                        []int64
	expected                                                                          []string
}

// show makes what consumers see of some variants, in two statements, and
// answers what there is to announce.
func (s *service) show(ctx context.Context, tx *store.Tx, merchant string, wishes []wish) ([]*catalogv1.ListingChanged, error) {
	if len(wishes) == 0 {
		return nil, nil
	}
	var skus, markets []string
	var authentic []bool
	var backorders []int64
	var expected []string
	for _, w := range wishes {
		skus, markets, authentic = append(skus, w.sku), append(markets, w.market), append(authentic, w.authentic)
		backorders, expected = append(backorders, w.backorder), append(expected, w.expectedOn)
	}
	var c columns
	var out []*catalogv1.ListingChanged
	priceless := set{}
	rows, err := tx.Rows(ctx, readForShow, skus, markets, authentic, backorders, expected)
	err = scan(rows, err, func(rows *sql.Rows) error {
		l := &catalogv1.Listing{MerchantId: merchant, Price: &typev1.Money{}}
		var p product
		var weight int32
		var t terms
		if err := rows.Scan(&l.Sku, &l.Market, &l.RequiresAuthentication, &t.backorder, &t.expectedOn, &l.ProductId, &l.Gtin, fromJSON{&l.Attributes}, &weight,
			fromJSON{&p.Titles}, fromJSON{&p.Descriptions}, &l.Brand, &l.Category, &l.OriginCountry, &p.HSCode, &l.Price.MinorUnits, &l.Price.CurrencyCode); err != nil {
			return err
		}
		if l.GetPrice().GetCurrencyCode() == "" {
			priceless[l.GetSku()] = true
			return nil
		}
		l.Backorder = t.backorderProto()
		out = append(out, &catalogv1.ListingChanged{
			Sku: l.GetSku(), Market: l.GetMarket(), Listed: true, Price: l.GetPrice(), RequiresAuthentication: l.GetRequiresAuthentication(),
			Backorder: l.GetBackorder(),
		})
		return c.add(l, &p, weight, s.firstLanguage(l.GetMarket()))
	})
	if err != nil {
		return nil, err
	}
	if len(priceless) > 0 {
		return nil, aboutSKUs(connect.CodeFailedPrecondition, "NO_PRICE", "these skus have no price in the market; set it first", priceless.sorted())
	}
	_, err = tx.Do(ctx, writeShown, merchant, c.markets, c.skus, c.products, c.brands, c.categories, c.prices, c.titles, c.allTitles, c.sortTitles,
		c.authentic, c.words, c.bodies, c.quotes, c.backorders, c.expected)
	return out, err
}

// add makes the row of one listing.
func (c *columns) add(l *catalogv1.Listing, p *product, weight int32, language string) error {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		return err
	}
	byLanguage := make(map[string]string, len(p.Titles))
	for _, t := range p.Titles {
		byLanguage[t.Language] = t.Text
	}
	all, err := json.Marshal(byLanguage)
	if err != nil {
		return err
	}
	title := pick(p.Titles, language)
	quote, err := proto.Marshal(&catalogv1.Quote{
		Sku: l.GetSku(), MerchantId: l.GetMerchantId(), Title: title, Price: l.GetPrice(), RequiresAuthentication: l.GetRequiresAuthentication(),
		WeightGrams: weight, HsCode: p.HSCode, OriginCountry: l.GetOriginCountry(),
		Backorder: l.GetBackorder(),
	})
	if err != nil {
		return err
	}
	c.markets, c.skus, c.products = append(c.markets, l.GetMarket()), append(c.skus, l.GetSku()), append(c.products, l.GetProductId())
	c.brands, c.categories, c.prices = append(c.brands, l.GetBrand()), append(c.categories, l.GetCategory()), append(c.prices, l.GetPrice().GetMinorUnits())
	c.titles, c.allTitles, c.sortTitles = append(c.titles, title), append(c.allTitles, string(all)), append(c.sortTitles, sortTitle(title))
	c.authentic, c.words = append(c.authentic, l.GetRequiresAuthentication()), append(c.words, document(l, p))
	c.bodies, c.quotes = append(c.bodies, body), append(c.quotes, quote)
	c.backorders, c.expected = append(c.backorders, l.GetBackorder().GetLimit()), append(c.expected, l.GetBackorder().GetExpectedOn())
	return nil
}

// pick is the text in the first of some languages that there is, with or
// without its region, else the first text.
func pick(in []text, languages ...string) string {
	for _, language := range languages {
		base, _, _ := strings.Cut(language, "-")
		for _, same := range []func(string) bool{
			func(l string) bool { return l == language },
			func(l string) bool { l, _, _ = strings.Cut(l, "-"); return l == base },
		} {
			if i := slices.IndexFunc(in, func(t text) bool { return same(t.Language) }); i >= 0 {
				return in[i].Text
			}
		}
	}
	if len(in) == 0 {
		return ""
	}
	return in[0].Text
}

// sortTitle orders titles: lower case, and short enough for an index and a
// page token.
func sortTitle(title string) string {
	s := strings.ToLower(title)
	if len(s) > 200 {
		s = s[:200]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}

// hide takes listings away and answers what there is to announce.
func hide(ctx context.Context, tx *store.Tx, off []shown) ([]*catalogv1.ListingChanged, error) {
	if len(off) == 0 {
		return nil, nil
	}
	var skus, markets []string
	for _, k := range off {
		skus, markets = append(skus, k.sku), append(markets, k.market)
	}
	var out []*catalogv1.ListingChanged
	rows, err := tx.Rows(ctx, `DELETE FROM listing l USING unnest($1::text[], $2::text[]) u(sku, market) WHERE l.sku = u.sku AND l.market = u.market
		RETURNING l.sku, l.market`, skus, markets)
	return out, scan(rows, err, func(rows *sql.Rows) error {
		e := &catalogv1.ListingChanged{}
		out = append(out, e)
		return rows.Scan(&e.Sku, &e.Market)
	})
}

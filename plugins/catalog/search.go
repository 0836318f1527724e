package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// listingsPage is a page of SearchListings when nobody says how long.
const listingsPage = 40

// title in the asked language, without its region, or as the row has it.
const title = `coalesce(l.titles ->> $2, l.titles ->> $3, l.title)`

// sold are the levels s that a listing l may be sold from: what is not expired
// and, where the listing says so, what passed an inspection.
const sold = `(s.authenticated OR NOT l.requires_authentication) AND ` + unexpired

const unexpired = `(s.expires_on IS NULL OR s.expires_on >= (now() AT TIME ZONE 'UTC')::date)`

// promised is what the warehouse would promise of a listing now, by the rule of
// entrepot.warehouse.v1.StockPolicy: over all sites, less what is held back in
// the market, and no more than stands on its shelf there.
const promised = `(SELECT greatest(least(t.n - coalesce(p.safety_stock, 0), p.on_shelf), 0)::bigint
  FROM (SELECT coalesce(sum(s.sellable), 0) AS n FROM stock_level s WHERE s.sku = l.sku AND ` + sold + `) t
  LEFT JOIN stock_policy p ON p.sku = l.sku AND p.market = l.market)`

const inStock = promised + " > 0"

// search is a SearchListings as SQL: conditions by name, so that a facet can
// leave out its own. Texts differ by shape only; values are parameters, so
// that plans are kept.
type search struct {
	args  []any
	where map[string]string
}

// Conditions in the order they are written: those that no facet counts, and
// those that have one.
var (
	plainConditions = []string{"market", "query", "min", "max"}
	facetConditions = []string{"category", "brand", "merchant", "in_stock"}
)

func (q *search) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

func newSearch(req *catalogv1.SearchListingsRequest, market, language string) *search {
	q := &search{where: make(map[string]string)}
	q.where["market"] = "l.market = " + q.arg(market)
	base, _, _ := strings.Cut(language, "-")
	q.arg(language)
	q.arg(base)
	if terms := tsquery(req.GetQuery()); terms != "" {
		q.where["query"] = "l.words @@ " + q.arg(terms) + "::text::tsquery"
	}
	if c := req.GetCategory(); c != "" {
		n := q.arg(c)
		q.where["category"] = "(l.category = " + n + " OR starts_with(l.category, " + n + " || '/'))"
	}
	if b := req.GetBrands(); len(b) > 0 {
		q.where["brand"] = "l.brand = ANY (" + q.arg(b) + "::text[])"
	}
	if m := req.GetMerchantIds(); len(m) > 0 {
		q.where["merchant"] = "l.merchant = ANY (" + q.arg(m) + "::text[])"
	}
	if p := req.GetMinPriceMinor(); p > 0 {
		q.where["min"] = "l.price >= " + q.arg(p)
	}
	if p := req.GetMaxPriceMinor(); p > 0 {
		q.where["max"] = "l.price <= " + q.arg(p)
	}
	if req.GetInStockOnly() {
		q.where["in_stock"] = inStock
	}
	return q
}

// order is how a search is sorted: by a key, then by position, which is
// unique, both in one direction.
type order struct {
	key  string
	cast string
	desc bool
}

func orderOf(req *catalogv1.SearchListingsRequest, q *search) order {
	switch req.GetSort() {
	case catalogv1.SearchListingsRequest_SORT_PRICE_ASCENDING:
		return order{"l.price", "bigint", false}
	case catalogv1.SearchListingsRequest_SORT_PRICE_DESCENDING:
		return order{"l.price", "bigint", true}
	case catalogv1.SearchListingsRequest_SORT_TITLE:
		return order{"l.sort_title", "text", false}
	case catalogv1.SearchListingsRequest_SORT_UNSPECIFIED:
		if match, ok := strings.CutPrefix(q.where["query"], "l.words @@ "); ok {
			return order{"(ts_rank(l.words, " + match + ") * 1000000)::bigint", "bigint", true}
		}
	}
	return order{"l.position", "bigint", true}
}

// page is the one statement of a page.
func (q *search) page(o order, pageToken string, size int) (string, error) {
	var key string
	var position int64
	var kind string
	if err := (token{&kind, &key, &position}).decode(pageToken); err != nil {
		return "", err
	}
	direction, compare := "ASC", ">"
	if o.desc {
		direction, compare = "DESC", "<"
	}
	after := ""
	if pageToken != "" {
		if _, err := strconv.ParseInt(key, 10, 64); kind != o.kind() || o.cast == "bigint" && err != nil {
			return "", fault.Field("page_token", "it belongs to another order of listings")
		}
		after = fmt.Sprintf(" AND (%s, l.position) %s (%s::text::%s, %s::bigint)", o.key, compare, q.arg(key), o.cast, q.arg(position))
	}
	return fmt.Sprintf("SELECT l.position, (%s)::text, l.body, %s, %s FROM listing l WHERE %s%s ORDER BY %s %s, l.position %s LIMIT %d",
		o.key, title, promised, q.all(slices.Concat(plainConditions, facetConditions)...), after, o.key, direction, direction, size+1), nil
}

// kind names an order in page tokens.
func (o order) kind() string {
	column, _, _ := strings.Cut(strings.TrimPrefix(o.key, "("), "(")
	return column + map[bool]string{true: "-", false: "+"}[o.desc]
}

// all joins some conditions; those that the request does not make are true.
func (q *search) all(names ...string) string {
	out := []string{"true"}
	for _, name := range names {
		if c := q.where[name]; c != "" {
			out = append(out, c)
		}
	}
	return strings.Join(out, " AND ")
}

// SearchListings answers a page with one statement, facets with a second.
func (s *service) SearchListings(ctx context.Context, req *catalogv1.SearchListingsRequest) (*catalogv1.SearchListingsResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = listingsPage
	}
	market := call.From(ctx).Market
	q := newSearch(req, market, s.language(req.GetLanguage(), market))
	o := orderOf(req, q)
	plain := len(q.args)
	statement, err := q.page(o, req.GetPageToken(), size)
	if err != nil {
		return nil, err
	}
	page := &wirePage{size: size, wire: make([]byte, 0, size*512)}
	err = raw(ctx, s.db, statement, q.args, page.add)
	res := &catalogv1.SearchListingsResponse{}
	if err == nil {
		err = proto.Unmarshal(page.wire, res)
	}
	if page.more {
		res.NextPageToken = token{o.kind(), page.key, page.position}.encode()
	}
	if err == nil && req.GetWithFacets() {
		q.args = q.args[:plain]
		res.Facets, err = s.facets(ctx, q)
	}
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

// language that a consumer is answered in: what was asked for, else the
// market's first.
func (s *service) language(asked, market string) string {
	if asked != "" {
		return asked
	}
	return s.firstLanguage(market)
}

const getListing = `SELECT l.body, ` + title + `, ` + promised + `, p.descriptions FROM listing l JOIN product p ON p.id = l.product_id
 WHERE l.market = $1 AND l.sku = $4`

// GetListing tells one listing with its description.
func (s *service) GetListing(ctx context.Context, req *catalogv1.GetListingRequest) (*catalogv1.GetListingResponse, error) {
	market := call.From(ctx).Market
	language := s.language(req.GetLanguage(), market)
	base, _, _ := strings.Cut(language, "-")
	l := &catalogv1.Listing{}
	var body []byte
	var descriptions []text
	var words string
	var available int64
	err := s.db.Row(ctx, getListing, market, language, base, req.GetSku()).Scan(&body, &words, &available, fromJSON{&descriptions})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fault.New(connect.CodeNotFound, "NOT_LISTED", "this is not sold here")
	case err != nil:
		return nil, store.Wrap(err)
	}
	if err := proto.Unmarshal(body, l); err != nil {
		return nil, err
	}
	l.Title, l.Available = words, available
	return &catalogv1.GetListingResponse{Listing: l, Description: pick(descriptions, language, s.firstLanguage(market))}, nil
}

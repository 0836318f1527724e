package main

import (
	"context"
	"database/sql"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// QuotePrices answers in the order of the request, with one statement, titles
// in the market's first language.
func (s *service) QuotePrices(ctx context.Context, req *catalogv1.QuotePricesRequest) (*catalogv1.QuotePricesResponse, error) {
	res := &catalogv1.QuotePricesResponse{Quotes: make([]*catalogv1.Quote, len(req.GetSkus()))}
	place := make(map[string]int, len(req.GetSkus()))
	for i, sku := range req.GetSkus() {
		place[sku] = i
	}
	rows, err := s.db.Rows(ctx, `SELECT l.title, l.weight_grams, l.hs_code, l.body FROM listing l WHERE l.market = $1 AND l.sku = ANY ($2)`,
		req.GetMarket(), req.GetSkus())
	err = scan(rows, err, func(rows *sql.Rows) error {
		q, l := &catalogv1.Quote{}, &catalogv1.Listing{}
		var body sql.RawBytes
		if err := rows.Scan(&q.Title, &q.WeightGrams, &q.HsCode, &body); err != nil {
			return err
		}
		if err := proto.Unmarshal(body, l); err != nil {
			return err
		}
		q.Sku, q.MerchantId, q.Price = l.GetSku(), l.GetMerchantId(), l.GetPrice()
		q.RequiresAuthentication, q.OriginCountry = l.GetRequiresAuthentication(), l.GetOriginCountry()
		res.Quotes[place[q.GetSku()]] = q
		return nil
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	missing := set{}
	for i, q := range res.GetQuotes() {
		if q == nil {
			missing[req.GetSkus()[i]] = true
		}
	}
	if len(missing) > 0 {
		return nil, aboutSKUs(connect.CodeFailedPrecondition, "NOT_LISTED", "these skus are not sold in the market", missing.sorted())
	}
	return res, nil
}

package main

import (
	"context"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// responseQuotes is the number of the field in entrepot.catalog.v1.
const responseQuotes = 1

// QuotePrices answers in the order of the request, with one statement, titles
// in the market's first language. Quotes lie ready made beside the listings.
func (s *service) QuotePrices(ctx context.Context, req *catalogv1.QuotePricesRequest) (*catalogv1.QuotePricesResponse, error) {
	found := make(map[string][]byte, len(req.GetSkus()))
	err := raw(ctx, s.db, `SELECT l.sku, l.quote FROM listing l WHERE l.market = $1 AND l.sku = ANY ($2)`, []any{req.GetMarket(), req.GetSkus()},
		func(row [][]byte) { found[string(row[0])] = append([]byte(nil), row[1]...) })
	if err != nil {
		return nil, store.Wrap(err)
	}
	var wire []byte
	missing := set{}
	for _, sku := range req.GetSkus() {
		quote, ok := found[sku]
		if !ok {
			missing[sku] = true
		}
		wire = protowire.AppendTag(wire, responseQuotes, protowire.BytesType)
		wire = protowire.AppendBytes(wire, quote)
	}
	if len(missing) > 0 {
		return nil, aboutSKUs(connect.CodeFailedPrecondition, "NOT_LISTED", "these skus are not sold in the market", missing.sorted())
	}
	res := &catalogv1.QuotePricesResponse{}
	return res, proto.Unmarshal(wire, res)
}

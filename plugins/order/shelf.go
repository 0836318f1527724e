package main

import (
	"context"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
)

// AdjustShelf corrects a count at the warehouse, which answers the caller's
// key once and knows whose goods they are.
func (s *service) AdjustShelf(ctx context.Context, req *orderv1.AdjustShelfRequest) (*orderv1.AdjustShelfResponse, error) {
	key := call.From(ctx).IdempotencyKey
	if key == "" {
		return nil, fault.New(connect.CodeInvalidArgument, fault.ReasonIdempotencyKeyRequired,
			"this method needs the header Idempotency-Key: a text of your own that is the same when you repeat the call")
	}
	res, err := s.stock.AdjustStock(host.WithIdempotencyKey(ctx, key), &warehousev1.AdjustStockRequest{
		Sku: req.GetSku(), Site: req.GetSite(), Delta: req.GetDelta(), Cause: req.GetCause(),
	})
	if err != nil {
		return nil, err
	}
	return &orderv1.AdjustShelfResponse{Sellable: res.GetLevel().GetSellable()}, nil
}

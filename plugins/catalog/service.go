package main

import (
	"context"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.catalog.v1. Safe for concurrent use.
type service struct {
	db      *store.DB
	markets map[string]*typev1.Market
}

func register(in *plugin.Instance) error {
	s := &service{db: in.DB, markets: in.Markets}
	catalogv1connect.RegisterCatalogServiceHandler(in.Server, s)
	catalogv1connect.RegisterStorefrontServiceHandler(in.Server, s)
	catalogv1connect.RegisterQuoteServiceHandler(in.Server, s)
	return in.Subscribe("stock",
		event.OnBatch(onLevels[*warehousev1.StockReceived]), event.OnBatch(onLevels[*warehousev1.StockReserved]),
		event.OnBatch(onLevels[*warehousev1.ReservationReleased]), event.OnBatch(onLevels[*warehousev1.StockPutAway]),
		event.OnBatch(onLevels[*warehousev1.StockMoved]), event.OnBatch(onAdjusted), event.OnBatch(onPolicies))
}

var (
	_ catalogv1connect.CatalogServiceHandler    = (*service)(nil)
	_ catalogv1connect.StorefrontServiceHandler = (*service)(nil)
	_ catalogv1connect.QuoteServiceHandler      = (*service)(nil)
)

// seller is the merchant whose goods the caller writes.
func seller(ctx context.Context) (string, error) {
	if p := call.From(ctx).Principal; p.Kind == call.Merchant && p.Merchant != "" {
		return p.Merchant, nil
	}
	return "", fault.New(connect.CodePermissionDenied, "NOT_A_MERCHANT", "only members of a merchant write its goods")
}

// reader is the merchant whose goods the caller reads; empty means
// everybody's, for staff, operators and plugins.
func reader(ctx context.Context) (string, error) {
	switch call.From(ctx).Principal.Kind {
	case call.Staff, call.Operator, call.Plugin:
		return "", nil
	}
	return seller(ctx)
}

// firstLanguage of a market; empty when the market is not known.
func (s *service) firstLanguage(market string) string {
	if l := s.markets[market].GetLanguages(); len(l) > 0 {
		return l[0]
	}
	return ""
}

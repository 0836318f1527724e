package main

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"

	giftwrapv1 "example.com/giftwrap/proto/example/giftwrap/v1"
	"example.com/giftwrap/proto/example/giftwrap/v1/giftwrapv1connect"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves example.giftwrap.v1. Safe for concurrent use.
type service struct {
	db     *store.DB
	host   *host.Host
	quotes catalogv1connect.QuoteServiceClient
	paper  string
}

func register(_ context.Context, in *plugin.Instance) error {
	var config struct {
		Paper string `json:"paper"`
	}
	if err := in.Config(&config); err != nil {
		return err
	}
	if config.Paper == "" {
		return errors.New("paper is empty; write the sku of the wrapping paper")
	}
	s := &service{db: in.DB, host: in.Host, quotes: catalogv1connect.NewQuoteServiceClient(in.Host.Client()), paper: config.Paper}
	giftwrapv1connect.RegisterWrapServiceHandler(in.Server, s)
	giftwrapv1connect.RegisterWrapStepServiceHandler(in.Server, s)
	return in.Subscribe("orders", event.OnBatch(s.onPlaced), event.On(s.onCancelled))
}

var (
	_ giftwrapv1connect.WrapServiceHandler     = (*service)(nil)
	_ giftwrapv1connect.WrapStepServiceHandler = (*service)(nil)
)

// RequestWrap has an order wrapped.
func (s *service) RequestWrap(ctx context.Context, req *giftwrapv1.RequestWrapRequest) (*giftwrapv1.RequestWrapResponse, error) {
	o, err := s.find(ctx, req.GetOrderId())
	if err != nil {
		return nil, err
	}
	// Is the paper offered where the order was placed? Asked before the
	// transaction: no other process is called inside one.
	_, err = s.quotes.QuotePrices(host.InMarket(ctx, o.Market), &catalogv1.QuotePricesRequest{Market: o.Market, Skus: []string{s.paper}})
	if err != nil {
		return nil, host.Relay(err)
	}
	o, started, err := s.open(ctx, o)
	if err != nil {
		return nil, err
	}
	if started != nil {
		err = s.host.RunSaga(ctx, started)
	} else {
		err = s.host.AwaitSaga(ctx, o.Saga)
	}
	if err != nil {
		return nil, err
	}
	if o, err = s.find(ctx, o.ID); err != nil {
		return nil, err
	}
	return &giftwrapv1.RequestWrapResponse{Wrap: o.proto()}, nil
}

// GetWrap tells how the wrap of an order stands.
func (s *service) GetWrap(ctx context.Context, req *giftwrapv1.GetWrapRequest) (*giftwrapv1.GetWrapResponse, error) {
	o, err := s.find(ctx, req.GetOrderId())
	if err != nil {
		return nil, err
	}
	return &giftwrapv1.GetWrapResponse{Wrap: o.proto()}, nil
}

// find reads an order of the caller. Somebody else's is as unknown as one that
// never was.
func (s *service) find(ctx context.Context, id string) (*order, error) {
	o, err := read(ctx, s.db.NewSelect(), id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	if account := call.From(ctx).Principal.Account; account == "" || account != o.Account {
		return nil, unknown(id)
	}
	return o, nil
}

func unknown(id string) error {
	return fault.New(connect.CodeNotFound, "ORDER_UNKNOWN", "you have no such order", "order", id)
}

package main

import (
	"context"
	"errors"

	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.order.v1. Safe for concurrent use.
type service struct {
	db      *store.DB
	host    *host.Host
	quotes  catalogv1connect.QuoteServiceClient
	cartKey []byte
}

func register(ctx context.Context, in *plugin.Instance) error {
	key, err := loadCartKey(ctx, in.DB)
	if err != nil {
		return err
	}
	s := &service{db: in.DB, host: in.Host, quotes: catalogv1connect.NewQuoteServiceClient(in.Host.Client()), cartKey: key}
	orderv1connect.RegisterCartServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderServiceHandler(in.Server, s)
	orderv1connect.RegisterProcessingServiceHandler(in.Server, s)
	orderv1connect.RegisterQueueServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderStepServiceHandler(in.Server, s)
	return errors.Join(
		in.Subscribe("payments",
			noted[*paymentv1.PaymentAuthorized]("payment.authorized"), noted[*paymentv1.PaymentCaptured]("payment.captured"),
			noted[*paymentv1.PaymentVoided]("payment.voided"), noted[*paymentv1.PaymentRefunded]("payment.refunded")),
		in.Subscribe("fulfilment",
			event.On(opened), event.On(split), event.On(packed), event.On(handedOver), event.On(delivered), event.On(cancelled)),
		in.Subscribe("shipments", event.On(booked), event.On(moved)),
		in.Subscribe("schedules", event.OnBatch(onTicks)))
}

var (
	_ orderv1connect.CartServiceHandler       = (*service)(nil)
	_ orderv1connect.OrderServiceHandler      = (*service)(nil)
	_ orderv1connect.ProcessingServiceHandler = (*service)(nil)
	_ orderv1connect.QueueServiceHandler      = (*service)(nil)
	_ orderv1connect.OrderStepServiceHandler  = (*service)(nil)
)

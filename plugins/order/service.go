package main

import (
	"context"
	"errors"

	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
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

	stock      warehousev1connect.StockServiceClient
	reductions warehousev1connect.ReservationStepServiceClient
	floor      warehousev1connect.FulfilmentStepServiceClient
	payments   paymentv1connect.PaymentServiceClient
}

func register(ctx context.Context, in *plugin.Instance) error {
	key, err := loadCartKey(ctx, in.DB)
	if err != nil {
		return err
	}
	c := in.Host.Client()
	s := &service{
		db: in.DB, host: in.Host, quotes: catalogv1connect.NewQuoteServiceClient(c), cartKey: key,
		stock: warehousev1connect.NewStockServiceClient(c), reductions: warehousev1connect.NewReservationStepServiceClient(c),
		floor: warehousev1connect.NewFulfilmentStepServiceClient(c), payments: paymentv1connect.NewPaymentServiceClient(c),
	}
	orderv1connect.RegisterCartServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderServiceHandler(in.Server, s)
	orderv1connect.RegisterProcessingServiceHandler(in.Server, s)
	orderv1connect.RegisterQueueServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderStepServiceHandler(in.Server, s)
	orderv1connect.RegisterShortageServiceHandler(in.Server, s)
	orderv1connect.RegisterBackorderServiceHandler(in.Server, s)
	orderv1connect.RegisterBackorderStepServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderInformationServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderEditServiceHandler(in.Server, s)
	orderv1connect.RegisterOrderEditStepServiceHandler(in.Server, s)
	return errors.Join(
		in.Subscribe("payments",
			noted[*paymentv1.PaymentAuthorized]("payment.authorized"), noted[*paymentv1.PaymentCaptured]("payment.captured"),
			noted[*paymentv1.PaymentVoided]("payment.voided"), noted[*paymentv1.PaymentRefunded]("payment.refunded")),
		in.Subscribe("fulfilment",
			event.On(opened), event.On(split), event.On(packed), event.On(handedOver), event.On(delivered), event.On(cancelled)),
		in.Subscribe("shipments", event.On(booked), event.On(moved)),
		in.Subscribe("stock", onLevels[*warehousev1.StockReceived](), onLevels[*warehousev1.StockPutAway](), onLevels[*warehousev1.StockMoved](),
			onLevels[*warehousev1.ReservationReleased](), event.On(onAdjusted)),
		in.Subscribe("listings", event.OnBatch(onListings)),
		in.Subscribe("timers", event.On(timedOut), event.On(dayDue)),
		in.Subscribe("schedules", event.OnBatch(onTicks)))
}

var (
	_ orderv1connect.CartServiceHandler       = (*service)(nil)
	_ orderv1connect.OrderServiceHandler      = (*service)(nil)
	_ orderv1connect.ProcessingServiceHandler = (*service)(nil)
	_ orderv1connect.QueueServiceHandler      = (*service)(nil)
	_ orderv1connect.OrderStepServiceHandler  = (*service)(nil)

	_ orderv1connect.OrderEditServiceHandler        = (*service)(nil)
	_ orderv1connect.OrderEditStepServiceHandler    = (*service)(nil)
	_ orderv1connect.ShortageServiceHandler         = (*service)(nil)
	_ orderv1connect.BackorderServiceHandler        = (*service)(nil)
	_ orderv1connect.BackorderStepServiceHandler    = (*service)(nil)
	_ orderv1connect.OrderInformationServiceHandler = (*service)(nil)
)

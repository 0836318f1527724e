package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.aftersale.v1. Safe for concurrent use.
type service struct {
	db   *store.DB
	host *host.Host
	log  *slog.Logger

	orders    orderv1connect.OrderServiceClient
	payments  paymentv1connect.PaymentServiceClient
	shipments logisticsv1connect.ShipmentServiceClient
	tracking  logisticsv1connect.TrackingServiceClient
	stock     warehousev1connect.StockServiceClient
	fulfil    warehousev1connect.FulfilmentStepServiceClient
	units     inspectionv1connect.UnitServiceClient

	bell *bell
	// base is the address under which passports stand.
	base string
}

func register(_ context.Context, in *plugin.Instance) error {
	c := in.Host.Client()
	s := &service{
		db: in.DB, host: in.Host, log: in.Log, bell: newBell(), base: in.PublicURL,
		orders: orderv1connect.NewOrderServiceClient(c), payments: paymentv1connect.NewPaymentServiceClient(c),
		shipments: logisticsv1connect.NewShipmentServiceClient(c), tracking: logisticsv1connect.NewTrackingServiceClient(c),
		stock: warehousev1connect.NewStockServiceClient(c), fulfil: warehousev1connect.NewFulfilmentStepServiceClient(c),
		units: inspectionv1connect.NewUnitServiceClient(c),
	}
	aftersalev1connect.RegisterApplicationServiceHandler(in.Server, s)
	aftersalev1connect.RegisterProcessingServiceHandler(in.Server, s)
	aftersalev1connect.RegisterPolicyServiceHandler(in.Server, s)
	aftersalev1connect.RegisterConversationServiceHandler(in.Server, s)
	aftersalev1connect.RegisterAftersaleStepServiceHandler(in.Server, s)
	return errors.Join(
		in.Subscribe("orders", event.On(onPlaced), event.On(onEdited), event.On(onPacked), event.On(onHandedOver), event.On(onDelivered)),
		in.Subscribe("payments", event.On(onCaptured), event.On(onRefunded)),
		in.Subscribe("shipments", event.On(onBooked), event.On(onMoved), event.On(onAnswered)),
		in.Subscribe("returns", event.On(onReturnReceived), event.On(onReturnGraded), event.On(onVerdict), event.On(onSighting)),
		in.Subscribe("products", event.OnBatch(onProducts)),
		in.Subscribe("deadlines", event.On(onDeadline)))
}

var (
	_ aftersalev1connect.ApplicationServiceHandler   = (*service)(nil)
	_ aftersalev1connect.ProcessingServiceHandler    = (*service)(nil)
	_ aftersalev1connect.PolicyServiceHandler        = (*service)(nil)
	_ aftersalev1connect.ConversationServiceHandler  = (*service)(nil)
	_ aftersalev1connect.AftersaleStepServiceHandler = (*service)(nil)
)

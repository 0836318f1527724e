package e2e_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	"github.com/entrepot/entrepot/proto/entrepot/catalog/v1/catalogv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// Every part that the marketplace is made of is wired to the others: what is
// done at one end of an edge stands as an event in the bus's log, and arrives at
// the other end, as the public API there tells. One order goes through all of
// it.
func TestEveryEdgeBetweenTerminalsAndServicesIsWired(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	super := open.superuser(t)
	// on requires that an event stands in the log.
	on := func(t *testing.T, topic, key string) {
		t.Helper()
		eventually(t, ctx, func(ctx context.Context) (heard bool, err error) {
			err = super.QueryRow(ctx, `SELECT EXISTS (SELECT FROM bus.log WHERE topic = $1 AND strpos(key, $2) > 0)`, topic, key).Scan(&heard)
			return heard, err
		})
	}
	if open.Staff == nil {
		_, err := open.Hire(ctx, func(int) {})
		require.NoError(t, err)
	}
	floor, err := open.NewFloor(ctx, open.Staff.Floor)
	require.NoError(t, err)
	consumer, err := open.Consumer(ctx, 77, "GB")
	require.NoError(t, err)
	told := func(t *testing.T, who shop.Caller, topic, reference string) {
		t.Helper()
		eventually(t, ctx, func(ctx context.Context) (bool, error) {
			res, err := notificationv1connect.NewInboxServiceClient(who.Client()).ListNotifications(ctx, &notificationv1.ListNotificationsRequest{Topics: []string{topic}})
			return slices.ContainsFunc(res.GetNotifications(), func(n *notificationv1.Notification) bool { return n.GetReference() == reference }), err
		})
	}
	orders := func(who shop.Caller) orderv1connect.OrderServiceClient {
		return orderv1connect.NewOrderServiceClient(who.Client())
	}
	talks := func(who shop.Caller) aftersalev1connect.ConversationServiceClient {
		return aftersalev1connect.NewConversationServiceClient(who.Client())
	}
	merchant := open.owner.Self.GetMerchantId()
	available := func(t *testing.T, sku string, units int64) {
		t.Helper()
		eventually(t, ctx, func(ctx context.Context) (bool, error) {
			res, err := catalogv1connect.NewStorefrontServiceClient(consumer.Client()).GetListing(ctx, &catalogv1.GetListingRequest{Sku: sku})
			return res.GetListing().GetAvailable() == units, err
		})
	}

	var sku, order, shipment string
	for _, edge := range []struct {
		name string
		act  func(*testing.T)
	}{
		{"commodity information to the bus and back", func(t *testing.T) {
			sku = open.article(t, 4) // the warehouse takes it: it has heard what it is
			one, err := catalogv1connect.NewStorefrontServiceClient(consumer.Client()).GetListing(ctx, &catalogv1.GetListingRequest{Sku: sku})
			require.NoError(t, err)
			on(t, "entrepot.catalog.v1.ProductChanged", one.GetListing().GetProductId())
			available(t, sku, 4) // and the catalogue hears what is there
		}},
		{"enterprise terminal to inventory", func(t *testing.T) {
			_, err := warehousev1connect.NewStockServiceClient(open.owner.Client()).ReceiveStock(ctx, &warehousev1.ReceiveStockRequest{
				ReceiptId: "ASN-" + sku, Lines: []*warehousev1.ReceiptLine{{Sku: sku, Quantity: 3}},
			})
			require.NoError(t, err)
			open.received += 3
			on(t, "entrepot.warehouse.v1.StockReceived", "ASN-"+sku)
			res, err := warehousev1connect.NewStockServiceClient(open.owner.Client()).GetStock(ctx, &warehousev1.GetStockRequest{Skus: []string{sku}})
			require.NoError(t, err)
			var units int64
			for _, l := range res.GetLevels() {
				units += l.GetSellable()
			}
			require.EqualValues(t, 7, units)
			available(t, sku, 7)
		}},
		{"user terminal to the bus and back", func(t *testing.T) {
			c, err := fill(ctx, consumer.Caller, sku, 2)
			require.NoError(t, err)
			o, err := c.checkout(ctx)
			require.NoError(t, err)
			order = o.GetOrderId()
			on(t, "entrepot.order.v1.OrderPlaced", order)
			told(t, consumer.Caller, "order.placed", order)
		}},
		{"enterprise terminal to the bus and back", func(t *testing.T) {
			told(t, open.owner.Caller, "sale.placed", order)
			_, err := orderv1connect.NewProcessingServiceClient(open.owner.Client()).AcceptOrders(ctx, &orderv1.AcceptOrdersRequest{OrderIds: []string{order}})
			require.NoError(t, err)
			on(t, "entrepot.order.v1.OrderAccepted", order)
			told(t, consumer.Caller, "order.accepted", order)
		}},
		{"order information to the bus and back", func(t *testing.T) {
			// After-sale knows of an order what it heard.
			eventually(t, ctx, func(ctx context.Context) (bool, error) {
				res, err := aftersalev1connect.NewApplicationServiceClient(consumer.Client()).CheckApplication(ctx, &aftersalev1.CheckApplicationRequest{OrderId: order})
				return len(res.GetLines()) == 1 && res.GetLines()[0].GetSku() == sku, err
			})
			// And the order of its goods.
			_, err := floor.Wave(ctx, 50)
			require.NoError(t, err)
			on(t, "entrepot.warehouse.v1.FulfilmentPacked", order)
			happened(t, ctx, orders(consumer.Caller), order, "fulfilment.packed")
		}},
		{"logistics to the bus and back", func(t *testing.T) {
			eventually(t, ctx, func(ctx context.Context) (bool, error) {
				all, err := floor.List(ctx, warehousev1.Fulfilment_STATE_READY)
				for _, f := range all {
					if f.GetReference() == order {
						shipment = f.GetShipmentId()
					}
				}
				return shipment != "", err
			})
			on(t, "entrepot.logistics.v1.ShipmentBooked", shipment)
			happened(t, ctx, orders(consumer.Caller), order, "shipment.booked")
		}},
		{"customer service to the bus and back", func(t *testing.T) {
			res, err := talks(consumer.Caller).PostMessage(ctx, &aftersalev1.PostMessageRequest{
				Topic: &aftersalev1.Topic{OrderId: order, MerchantId: merchant}, MessageKey: "where", Text: "When does it come?",
			})
			require.NoError(t, err)
			on(t, "entrepot.aftersale.v1.MessagePosted", res.GetMessage().GetConversationId())
			told(t, open.owner.Caller, "case.message", res.GetMessage().GetConversationId())
		}},
		{"customer service to the user terminal", func(t *testing.T) {
			wctx, end := context.WithCancel(ctx)
			defer end()
			stream, err := talks(consumer.Caller).WatchMessages(wctx, &aftersalev1.WatchMessagesRequest{})
			require.NoError(t, err)
			_, err = talks(open.owner.Caller).PostMessage(ctx, &aftersalev1.PostMessageRequest{Topic: &aftersalev1.Topic{OrderId: order}, MessageKey: "soon", Text: "Soon."})
			require.NoError(t, err)
			for _, text := range []string{"When does it come?", "Soon."} {
				m, err := stream.Receive()
				require.NoError(t, err)
				require.Equal(t, text, m.GetMessage().GetText())
			}
		}},
		{"customer service to logistics", func(t *testing.T) {
			topic := &aftersalev1.Topic{OrderId: order, MerchantId: merchant}
			asked, err := talks(consumer.Caller).RequestRedirect(ctx, &aftersalev1.RequestRedirectRequest{Topic: topic, RequestKey: "door", ShipmentId: shipment, Address: home})
			require.NoError(t, err)
			on(t, "entrepot.aftersale.v1.CarriageRequested", shipment)
			_, err = talks(open.owner.Caller).ResolveCarriageRequest(ctx, &aftersalev1.ResolveCarriageRequestRequest{
				CarriageRequestId: asked.GetRequest().GetCarriageRequestId(), Arranged: true,
			})
			require.NoError(t, err)
			// What only logistics knows is answered where the goods are talked of.
			all, err := floor.List(ctx, warehousev1.Fulfilment_STATE_READY)
			require.NoError(t, err)
			all = slices.DeleteFunc(all, func(f *warehousev1.Fulfilment) bool { return f.GetReference() != order })
			require.NoError(t, floor.Manifest(ctx, all[0].GetCarrierInstance(), all))
			known, err := logisticsv1connect.NewShipmentServiceClient(open.Staff.Floor.Client()).GetShipment(ctx, &logisticsv1.GetShipmentRequest{ShipmentId: shipment})
			require.NoError(t, err)
			eventually(t, ctx, func(ctx context.Context) (bool, error) {
				where, err := talks(consumer.Caller).GetWhereabouts(ctx, &aftersalev1.GetWhereaboutsRequest{Topic: topic})
				if err != nil || len(where.GetShipments()) == 0 || len(where.GetShipments()[0].GetSightings()) == 0 {
					return false, err
				}
				require.Equal(t, []string{known.GetShipment().GetParcels()[0].GetTrackingNumber()}, where.GetShipments()[0].GetTrackingNumbers())
				require.Equal(t, aftersalev1.CarriageRequest_STATE_ARRANGED, where.GetRequests()[0].GetState())
				return true, nil
			})
		}},
		{"logistics to enterprise terminal", func(t *testing.T) {
			on(t, "entrepot.logistics.v1.ShipmentMoved", shipment)
			eventually(t, ctx, func(ctx context.Context) (bool, error) {
				res, err := logisticsv1connect.NewShipmentServiceClient(open.owner.Client()).GetShipment(ctx, &logisticsv1.GetShipmentRequest{ShipmentId: shipment})
				return res.GetShipment().GetStatus() == logisticsv1.Status_STATUS_DELIVERED, err
			})
			told(t, open.owner.Caller, "sale.delivered", order)
		}},
	} {
		if !t.Run(edge.name, edge.act) {
			return // the next ones begin where it would have ended
		}
	}
}

// until asks until something is so.
func until(ctx context.Context, so func(context.Context) (bool, error)) error {
	for {
		ok, err := shop.Patient(ctx, so)
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// eventually waits for what comes by the bus.
func eventually(t *testing.T, ctx context.Context, so func(context.Context) (bool, error)) { //nolint:revive // the test comes first
	t.Helper()
	require.NoError(t, until(ctx, so))
}

// happened requires an entry in an order's timeline.
func happened(t *testing.T, ctx context.Context, c orderv1connect.OrderServiceClient, order, what string) { //nolint:revive // the test comes first
	t.Helper()
	eventually(t, ctx, func(ctx context.Context) (bool, error) {
		res, err := c.GetTimeline(ctx, &orderv1.GetTimelineRequest{OrderId: order})
		return slices.ContainsFunc(res.GetEntries(), func(e *orderv1.TimelineEntry) bool { return e.GetWhat() == what }), err
	})
}

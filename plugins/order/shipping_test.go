package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// accepted is an order of two merchants that both have accepted, with a
// fulfilment open for each.
func accepted(t *testing.T, s *shop) (o *orderv1.Order, secret string) {
	t.Helper()
	o, secret = s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	for _, m := range []string{"mrc_one", "mrc_two"} {
		_, err := s.processing(m).AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
		require.NoError(t, err)
	}
	for _, f := range [][2]string{{"ful_one", "mrc_one"}, {"ful_two", "mrc_two"}} {
		require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentOpened{FulfilmentId: f[0], Reference: o.GetOrderId(), MerchantId: f[1], Site: "main"}))
	}
	return o, secret
}

func (s *shop) pack(t *testing.T, o *orderv1.Order, fulfilment, merchant, sku string) {
	t.Helper()
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentPacked{
		FulfilmentId: fulfilment, Reference: o.GetOrderId(), MerchantId: merchant, Market: "DE", Site: "main",
		Parcels: []*warehousev1.Parcel{{ParcelId: id.New("pcl"), Sscc: "106141411234567897", WeightGrams: 700, Lines: []*warehousev1.ParcelLine{{Sku: sku, Quantity: 1}}}},
	}))
}

func (s *shop) order(t *testing.T, o *orderv1.Order) *orderv1.Order {
	t.Helper()
	res, err := s.orders(staff).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId()})
	require.NoError(t, err)
	return res.GetOrder()
}

// run drives sagas and answers the state of the one that is about key.
func (s *shop) run(t *testing.T, key string) kernelv1.SagaState {
	t.Helper()
	all, err := s.RunSagas(t.Context())
	require.NoError(t, err)
	require.Contains(t, all, key)
	return all[key].GetState()
}

func TestAcceptanceAsksTheWarehouseForTheMerchantsLines(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	require.Len(t, s.world.requested, 2)
	one := s.world.requested[id.Derive("frq", o.GetOrderId()+"/mrc_one")]
	require.Equal(t, o.GetReservationId(), one.GetReservationId())
	require.Len(t, one.GetLines(), 1)
	require.EqualValues(t, 2, one.GetLines()[0].GetQuantity())
}

func TestPackedGoodsAreBookedAndAssignedToTheirCarrier(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	shipment := s.order(t, o).GetConsignments()[0].GetShipmentIds()[0]
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_WAITING, s.run(t, shipment), "which carrier has it is not known yet")
	b := s.world.bookings[shipment]
	require.Equal(t, "warehouse/main", b.GetFrom().GetPlaceId())
	require.Equal(t, o.GetShipToRef(), b.GetTo().GetAddressRef())
	require.EqualValues(t, 1250, b.GetParcels()[0].GetItems()[0].GetValue().GetMinorUnits())

	require.NoError(t, s.Deliver(t.Context(), "shipments", &logisticsv1.ShipmentBooked{
		ShipmentId: shipment, Reference: "ful_one", OrderId: o.GetOrderId(), Instance: "post-de", TrackingNumbers: map[string]string{"pcl": "RR1"},
	}))
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_DONE, s.run(t, shipment))
	require.Equal(t, "post-de", s.world.assigned["ful_one"].GetCarrierInstance())
	require.Equal(t, map[string]string{"pcl": "RR1"}, s.world.assigned["ful_one"].GetTrackingNumbers())
	require.Equal(t, []string{"RR1"}, s.order(t, o).GetConsignments()[0].GetTrackingNumbers(), "whoever may see the order can follow its parcels")
}

func TestARefusedBookingHoldsTheGoodsUntilTheMerchantNamesACarrier(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	s.world.noCarriers = true
	_, err := s.processing("mrc_one").BookFulfilment(t.Context(), &orderv1.BookFulfilmentRequest{FulfilmentId: "ful_one"})
	requireReason(t, connect.CodeFailedPrecondition, "FULFILMENT_NOT_HELD", err)
	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	shipment := s.order(t, o).GetConsignments()[0].GetShipmentIds()[0]
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_COMPENSATED, s.run(t, shipment))
	require.Empty(t, s.order(t, o).GetConsignments()[0].GetShipmentIds())

	_, err = s.processing("mrc_two").BookFulfilment(t.Context(), &orderv1.BookFulfilmentRequest{FulfilmentId: "ful_one"})
	requireReason(t, connect.CodeNotFound, "FULFILMENT_UNKNOWN", err)
	var again [2]string
	for i := range again {
		res, err := s.processing("mrc_one").BookFulfilment(t.Context(), &orderv1.BookFulfilmentRequest{FulfilmentId: "ful_one", Instance: "sandbox-de"})
		require.NoError(t, err)
		again[i] = res.GetShipmentId()
	}
	require.Equal(t, again[0], again[1], "asking twice books once")
	require.NotEqual(t, shipment, again[0], "a booking of its own")
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_WAITING, s.run(t, again[0]))
	require.Equal(t, "sandbox-de", s.world.bookings[again[0]].GetRule().GetInstance())
}

func TestAnOrderIsHandedOverAndDeliveredWhenAllOfItIs(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	// A part of it goes later.
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentSplit{FulfilmentId: "ful_one", RestId: "ful_rest", Reference: o.GetOrderId()}))
	tell := func(delivered bool, fulfilment string) {
		t.Helper()
		if delivered {
			require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentDelivered{FulfilmentId: fulfilment, Reference: o.GetOrderId()}))
			return
		}
		require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentHandedOver{FulfilmentId: fulfilment, Reference: o.GetOrderId()}))
	}
	parts := func() (all []orderv1.Consignment_State) {
		for _, c := range s.order(t, o).GetConsignments() {
			all = append(all, c.GetState())
		}
		return all
	}
	tell(false, "ful_one")
	require.Equal(t, []orderv1.Consignment_State{orderv1.Consignment_STATE_ACCEPTED, orderv1.Consignment_STATE_ACCEPTED}, parts())
	tell(false, "ful_rest")
	require.Equal(t, []orderv1.Consignment_State{orderv1.Consignment_STATE_HANDED_OVER, orderv1.Consignment_STATE_ACCEPTED}, parts())
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, s.order(t, o).GetState())
	tell(false, "ful_two")
	require.Equal(t, orderv1.Order_STATE_HANDED_OVER, s.order(t, o).GetState())
	_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	requireReason(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
	for _, f := range []string{"ful_one", "ful_rest"} {
		tell(true, f)
	}
	require.Equal(t, []orderv1.Consignment_State{orderv1.Consignment_STATE_DELIVERED, orderv1.Consignment_STATE_HANDED_OVER}, parts())
	tell(true, "ful_two")
	require.Equal(t, orderv1.Order_STATE_DELIVERED, s.order(t, o).GetState())
	published := s.Published(t)
	require.Equal(t, o.GetOrderId(), published[len(published)-1].(*orderv1.OrderDelivered).GetOrderId())
	sums, err := s.orders(staff).SumOrders(t.Context(), &orderv1.SumOrdersRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, sums.GetOrders()["delivered"])
	require.EqualValues(t, 2, sums.GetUnits()["sku_tea"])
}

// travels tells that a fulfilment is handed over and delivered, after what is
// told first.
func (s *shop) travels(t *testing.T, o *orderv1.Order, fulfilment string, first ...proto.Message) error {
	for _, m := range append(first,
		&warehousev1.FulfilmentHandedOver{FulfilmentId: fulfilment, Reference: o.GetOrderId()},
		&warehousev1.FulfilmentDelivered{FulfilmentId: fulfilment, Reference: o.GetOrderId()},
	) {
		if err := s.Deliver(t.Context(), "fulfilment", m); err != nil {
			return err
		}
	}
	return nil
}

// The warehouse is asked before the acceptance is recorded. Goods that are
// with their consumer by then are seen there all the same.
func TestGoodsMayGoBeforeTheirAcceptanceEnds(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := s.place(t, guest, "sku_tea", 2)
	s.world.onRequest = func() error {
		return s.travels(t, o, "ful_one",
			&warehousev1.FulfilmentOpened{FulfilmentId: "ful_one", Reference: o.GetOrderId(), MerchantId: "mrc_one", Site: "main"})
	}
	_, err := s.processing("mrc_one").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	got := s.order(t, o)
	require.Equal(t, orderv1.Order_STATE_DELIVERED, got.GetState())
	require.Equal(t, orderv1.Consignment_STATE_DELIVERED, got.GetConsignments()[0].GetState())
	events := s.Published(t)
	require.Equal(t, o.GetOrderId(), events[len(events)-2].(*orderv1.OrderAccepted).GetOrderId())
	require.Equal(t, o.GetOrderId(), events[len(events)-1].(*orderv1.OrderDelivered).GetOrderId())
}

// What arrives while its cancellation is under way is told as soon as that is
// refused.
func TestGoodsMayArriveWhileTheirCancellationIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2)
	s.accept(t, o, "mrc_one")
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentOpened{FulfilmentId: "ful_one", Reference: o.GetOrderId(), MerchantId: "mrc_one", Site: "main"}))
	s.world.gone = map[string]bool{o.GetOrderId(): true}
	s.world.onCancel = func() error { return s.travels(t, o, "ful_one") }
	_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	requireReason(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
	require.Equal(t, orderv1.Order_STATE_DELIVERED, s.order(t, o).GetState())
	require.Len(t, published[*orderv1.OrderDelivered](t, s), 1)
}

// What is left of an order once the rest of it is cancelled may have arrived
// long since.
func TestAnOrderIsDeliveredWhenTheRestOfItIsCancelled(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentDelivered{FulfilmentId: "ful_one", Reference: o.GetOrderId()}))
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, s.order(t, o).GetState())
	_, err := s.processing("mrc_two").CancelConsignment(t.Context(), &orderv1.CancelConsignmentRequest{OrderId: o.GetOrderId(), Reason: "broken in the warehouse"})
	require.NoError(t, err)
	require.Equal(t, orderv1.Order_STATE_DELIVERED, s.order(t, o).GetState())
	require.Len(t, published[*orderv1.OrderDelivered](t, s), 1)
}

// What the warehouse refuses to stop leaves order, money and stock as they
// were; a later try may succeed.
func TestACancellationThatComesTooLateLeavesTheOrderAsItWas(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := accepted(t, s)
	s.world.gone = map[string]bool{o.GetOrderId(): true}
	cancel := func() error {
		_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
		return err
	}
	requireReason(t, connect.CodeFailedPrecondition, "HANDED_OVER", cancel())
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, s.order(t, o).GetState())
	require.NotEmpty(t, s.world.payments)
	require.EqualValues(t, 998, s.world.stock["sku_tea"])

	s.world.gone = nil
	require.NoError(t, cancel())
	require.Equal(t, orderv1.Order_STATE_CANCELLED, s.order(t, o).GetState())
	require.EqualValues(t, 1000, s.world.stock["sku_tea"])
	require.Empty(t, s.world.payments)
}

func TestTheCarrierOfGoodsThatAreNotSentIsCalledOff(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	shipment := s.order(t, o).GetConsignments()[0].GetShipmentIds()[0]
	s.run(t, shipment)
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentCancelled{FulfilmentId: "ful_one", Reference: o.GetOrderId()}))
	_, err := s.RunSagas(t.Context())
	require.NoError(t, err)
	require.Positive(t, s.world.cancelled[shipment])
	require.NoError(t, s.Deliver(t.Context(), "fulfilment", &warehousev1.FulfilmentCancelled{FulfilmentId: "ful_two", Reference: o.GetOrderId()}))
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, s.order(t, o).GetState(), "nothing of it goes; the merchant or the consumer says what next")
}

package main

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

func (s *shop) queue(merchant string) orderv1connect.QueueServiceClient {
	return orderv1connect.NewQueueServiceClient(s.Client(call.Info{Principal: member(merchant), Market: "DE"}))
}

func (s *shop) hold(t *testing.T, merchant string, orders ...string) []*orderv1.ConsignmentResult {
	t.Helper()
	res, err := s.queue(merchant).HoldConsignments(t.Context(), &orderv1.HoldConsignmentsRequest{
		OrderIds: orders, Reason: orderv1.Hold_REASON_ADDRESS, Note: "house number?",
	})
	require.NoError(t, err)
	return res.GetResults()
}

func (s *shop) release(t *testing.T, merchant string, orders ...string) []*orderv1.ConsignmentResult {
	t.Helper()
	res, err := s.queue(merchant).ReleaseConsignments(t.Context(), &orderv1.ReleaseConsignmentsRequest{OrderIds: orders})
	require.NoError(t, err)
	return res.GetResults()
}

func (s *shop) whats(t *testing.T, o *orderv1.Order) (all []string) {
	t.Helper()
	res, err := s.orders(staff).GetTimeline(t.Context(), &orderv1.GetTimelineRequest{OrderId: o.GetOrderId()})
	require.NoError(t, err)
	for _, e := range res.GetEntries() {
		all = append(all, e.GetWhat())
	}
	return all
}

// due makes consignments due so many hours from now.
func (s *shop) due(t *testing.T, o *orderv1.Order, hours int) {
	t.Helper()
	_, err := s.DB.ExecContext(t.Context(), "UPDATE consignment SET due_at = now() + ? * interval '1 hour' WHERE order_id = ?", hours, o.GetOrderId())
	require.NoError(t, err)
}

func TestTheQueueShowsTheNextDueFirst(t *testing.T) {
	t.Parallel()
	s := open(t)
	var want []string
	for i := range 5 {
		o, _ := s.place(t, guest, "sku_tea", 1, "sku_cup", 1)
		s.due(t, o, 10-4*i) // 10, 6, 2, -2, -6
		want = append([]string{o.GetOrderId()}, want...)
	}
	s.place(t, guest, "sku_cup", 1) // of another merchant
	list := func(req *orderv1.ListQueueRequest) (got []string) {
		for {
			res, err := s.queue("mrc_one").ListQueue(t.Context(), req)
			require.NoError(t, err)
			for _, o := range res.GetOrders() {
				got = append(got, o.GetOrderId())
				require.Len(t, o.GetConsignments(), 1, "its own part only")
				require.NotNil(t, o.GetConsignments()[0].GetDueBy())
			}
			if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
				return got
			}
		}
	}
	require.Equal(t, want, list(&orderv1.ListQueueRequest{PageSize: 2}))
	require.Equal(t, want[:2], list(&orderv1.ListQueueRequest{Overdue: true}))
	s.hold(t, "mrc_one", want[1])
	require.Equal(t, want[1:2], list(&orderv1.ListQueueRequest{Held: orderv1.ListQueueRequest_HELD_ONLY}))
	require.Len(t, list(&orderv1.ListQueueRequest{Held: orderv1.ListQueueRequest_HELD_NOT}), 4)
	require.Empty(t, list(&orderv1.ListQueueRequest{State: orderv1.Consignment_STATE_ACCEPTED}))
	_, err := s.queue("mrc_one").ListQueue(t.Context(), &orderv1.ListQueueRequest{PageToken: "b3JkXzE"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestTheClockRunsByTheMerchantsHandlingTime(t *testing.T) {
	t.Parallel()
	s := open(t)
	_, err := s.queue("mrc_one").SetHandlingTime(t.Context(), &orderv1.SetHandlingTimeRequest{Hours: 3})
	require.NoError(t, err)
	o, _ := s.place(t, guest, "sku_tea", 1, "sku_cup", 1)
	one, two := o.GetConsignments()[0], o.GetConsignments()[1]
	require.Equal(t, 45*time.Hour, two.GetDueBy().AsTime().Sub(one.GetDueBy().AsTime()), "48 hours while nobody said")
}

func TestWhatIsOverdueIsToldOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	late, _ := s.place(t, guest, "sku_tea", 1, "sku_cup", 1)
	held, _ := s.place(t, guest, "sku_tea", 1)
	gone, secret := s.place(t, guest, "sku_tea", 1)
	s.place(t, guest, "sku_tea", 1) // in time
	s.hold(t, "mrc_one", held.GetOrderId())
	_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: gone.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	for _, o := range []*orderv1.Order{late, held, gone} {
		s.due(t, o, -1)
	}
	told := func() (all []string) {
		require.NoError(t, s.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "order/clock"}))
		for _, m := range s.Published(t) {
			if e, ok := m.(*orderv1.ConsignmentOverdue); ok {
				all = append(all, e.GetOrderId()+"/"+e.GetMerchantId())
			}
		}
		return all
	}
	want := []string{late.GetOrderId() + "/mrc_one", late.GetOrderId() + "/mrc_two"}
	require.ElementsMatch(t, want, told())
	require.ElementsMatch(t, want, told())
	require.Contains(t, s.whats(t, late), "consignment.overdue")
	s.release(t, "mrc_one", held.GetOrderId())
	s.due(t, held, -1)
	require.ElementsMatch(t, append(want, held.GetOrderId()+"/mrc_one"), told(), "the clock goes on after the hold")
}

func TestAHoldStopsAcceptanceAndTheClock(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 1, "sku_cup", 1)
	unknown := id.New("ord")
	results := s.hold(t, "mrc_one", o.GetOrderId(), unknown)
	require.Empty(t, results[0].GetRefusal())
	require.Equal(t, "ORDER_UNKNOWN", results[1].GetRefusal())
	require.Empty(t, s.hold(t, "mrc_one", o.GetOrderId())[0].GetRefusal(), "held ones stay held")

	res, err := s.processing("mrc_one").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	require.Equal(t, "HELD", res.GetResults()[0].GetRefusal())
	require.Zero(t, s.world.captured[o.GetPaymentId()])
	res, err = s.processing("mrc_two").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	require.Empty(t, res.GetResults()[0].GetRefusal(), "the other merchant's part goes on")

	seen := s.order(t, o).GetConsignments()[0].GetHold()
	require.Equal(t, orderv1.Hold_REASON_ADDRESS, seen.GetReason())
	require.Equal(t, "house number?", seen.GetNote())
	got, err := s.orders(guest).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	hold := got.GetOrder().GetConsignments()[0].GetHold()
	require.NotNil(t, hold.GetSince())
	require.Zero(t, hold.GetReason(), "the consumer sees that it is held, not why")
	require.Empty(t, hold.GetNote()+hold.GetBy())

	before := s.order(t, o).GetConsignments()[0].GetDueBy().AsTime()
	_, err = s.DB.ExecContext(t.Context(), "UPDATE consignment SET held_at = held_at - interval '5 hours' WHERE held <> 0")
	require.NoError(t, err)
	released := s.release(t, "mrc_one", o.GetOrderId())[0]
	require.GreaterOrEqual(t, released.GetDueBy().AsTime().Sub(before), 5*time.Hour, "the time it was held is added")
	require.Equal(t, released.GetDueBy().AsTime(), s.release(t, "mrc_one", o.GetOrderId())[0].GetDueBy().AsTime(), "once")
	res, err = s.processing("mrc_one").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	require.Empty(t, res.GetResults()[0].GetRefusal())
	require.Subset(t, s.whats(t, o), []string{"consignment.held", "consignment.released"})
}

func TestGoodsPackedWhileHeldGetTheirCarrierAtTheRelease(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := accepted(t, s)
	require.Empty(t, s.hold(t, "mrc_one", o.GetOrderId())[0].GetRefusal())
	s.pack(t, o, "ful_one", "mrc_one", "sku_tea")
	s.pack(t, o, "ful_two", "mrc_two", "sku_cup")
	require.Empty(t, s.order(t, o).GetConsignments()[0].GetShipmentIds(), "nobody is asked to carry it")
	require.Len(t, s.order(t, o).GetConsignments()[1].GetShipmentIds(), 1)
	require.Equal(t, "SHIPPING_BEGUN", s.hold(t, "mrc_two", o.GetOrderId())[0].GetRefusal())
	_, err := s.processing("mrc_one").BookFulfilment(t.Context(), &orderv1.BookFulfilmentRequest{FulfilmentId: "ful_one"})
	requireReason(t, connect.CodeFailedPrecondition, "HELD", err)

	for range 2 {
		s.release(t, "mrc_one", o.GetOrderId())
	}
	shipments := s.order(t, o).GetConsignments()[0].GetShipmentIds()
	require.Len(t, shipments, 1)
	require.Equal(t, kernelv1.SagaState_SAGA_STATE_WAITING, s.run(t, shipments[0]))
	require.NotNil(t, s.world.bookings[shipments[0]])
}

func TestASplitPartIsAskedForByItself(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 5, "sku_pot", 2, "sku_cup", 1)
	split := func(merchant string, parts ...*orderv1.ConsignmentPart) error {
		_, err := s.queue(merchant).SplitConsignment(t.Context(), &orderv1.SplitConsignmentRequest{OrderId: o.GetOrderId(), Parts: parts})
		return err
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(split("mrc_one", &orderv1.ConsignmentPart{Lines: lines("sku_tea", 6)})))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(split("mrc_one", &orderv1.ConsignmentPart{Lines: lines("sku_cup", 1)})), "another merchant's")
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", split("mrc_three", &orderv1.ConsignmentPart{Lines: lines("sku_tea", 1)}))
	require.NoError(t, split("mrc_one", &orderv1.ConsignmentPart{Lines: lines("sku_tea", 2)}, &orderv1.ConsignmentPart{Lines: lines("sku_tea", 1, "sku_pot", 2)}))
	requireReason(t, connect.CodeFailedPrecondition, "SPLIT", split("mrc_one", &orderv1.ConsignmentPart{Lines: lines("sku_tea", 1)}))

	// An edit takes from what was split off last.
	e := s.propose(t, guest, o, secret, "sku_tea", 4)
	_, err := s.agree(t, guest, e, secret, "")
	require.NoError(t, err)
	s.accept(t, o, "mrc_one", "mrc_two")
	var asked []map[string]int64
	for _, r := range s.world.requested {
		one := map[string]int64{}
		for _, l := range r.GetLines() {
			one[l.GetSku()] += l.GetQuantity()
		}
		asked = append(asked, one)
	}
	require.ElementsMatch(t, []map[string]int64{{"sku_tea": 2}, {"sku_pot": 2}, {"sku_tea": 2}, {"sku_cup": 1}}, asked)
	requireReason(t, connect.CodeFailedPrecondition, "ACCEPTED", split("mrc_one", &orderv1.ConsignmentPart{Lines: lines("sku_tea", 1)}))
	s.reconcile(t, s.order(t, o))
}

func TestAMerchantCorrectsTheShelfOncePerKey(t *testing.T) {
	t.Parallel()
	s := open(t)
	adjust := func(key string) (*orderv1.AdjustShelfResponse, error) {
		c := orderv1connect.NewQueueServiceClient(s.Client(call.Info{Principal: member("mrc_one"), Market: "DE", IdempotencyKey: key}))
		return c.AdjustShelf(t.Context(), &orderv1.AdjustShelfRequest{Sku: "sku_tea", Delta: -3, Cause: "broken"})
	}
	for range 2 {
		res, err := adjust("k1")
		require.NoError(t, err)
		require.EqualValues(t, 997, res.GetSellable())
	}
	_, err := adjust("")
	requireReason(t, connect.CodeInvalidArgument, "IDEMPOTENCY_KEY_REQUIRED", err)
}

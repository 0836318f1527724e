package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
)

// expects says for which day cups are expected in Germany.
func (s *shop) expects(t *testing.T, days ...int) {
	t.Helper()
	for _, n := range days {
		require.NoError(t, s.Deliver(t.Context(), "listings", &catalogv1.ListingChanged{
			Sku: "sku_cup", Market: "DE", Listed: true, Backorder: &catalogv1.BackorderTerms{Limit: 10, ExpectedOn: inDays(n)},
		}))
	}
}

// moved are the days that were told since, as told before and now.
func (s *shop) moved(t *testing.T, orderID string) (days [][2]string) {
	t.Helper()
	for _, e := range published[*orderv1.BackorderRescheduled](t, s) {
		if e.GetOrderId() == orderID {
			days = append(days, [2]string{e.GetToldOn(), e.GetExpectedOn()})
		}
	}
	return days
}

func TestAnotherExpectedDayIsToldToWhoWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10) // in nine days
	first, _ := s.await(t, consumer, 2)
	second, _ := s.await(t, guest, 1)
	o := first.GetOrder()
	s.expects(t, 9)
	require.Empty(t, s.moved(t, o.GetOrderId()), "the same day is no news")
	require.NoError(t, s.Deliver(t.Context(), "listings",
		&catalogv1.ListingChanged{Sku: "sku_cup", Market: "DE", Listed: true}, &catalogv1.ListingChanged{Sku: "sku_cup", Market: "DE"},
		&catalogv1.ListingChanged{Sku: "sku_cup", Market: "GB", Listed: true, Backorder: &catalogv1.BackorderTerms{Limit: 1, ExpectedOn: inDays(30)}}))
	require.Empty(t, s.moved(t, o.GetOrderId()), "nor are terms that are taken away, or another market's")

	s.expects(t, 20, 20)
	require.Equal(t, [][2]string{{inDays(9), inDays(20)}}, s.moved(t, o.GetOrderId()))
	require.Equal(t, inDays(20), s.order(t, o).GetBackorder().GetExpectedOn())
	require.Contains(t, s.whats(t, o), "backorder.rescheduled")
	e := published[*orderv1.BackorderRescheduled](t, s)[0]
	require.Equal(t, []any{"DE", "mrc_two", "sku_cup", int64(2), consumer.Account},
		[]any{e.GetMarket(), e.GetMerchantId(), e.GetSku(), e.GetQuantity(), e.GetAccountId()})
	require.NotEmpty(t, e.GetEmailRef())
	queue, err := s.queue("mrc_two").ListQueue(t.Context(), &orderv1.ListQueueRequest{Backordered: true})
	require.NoError(t, err)
	require.Len(t, queue.GetOrders(), 2)
	due := queue.GetOrders()[0].GetConsignments()[0].GetDueBy().AsTime()
	require.Greater(t, due.Format("2006-01-02"), inDays(20), "the merchant's clock goes with it")

	s.expects(t, 15)
	require.Equal(t, [][2]string{{inDays(9), inDays(20)}, {inDays(20), inDays(15)}}, s.moved(t, o.GetOrderId()), "an earlier one is told too")
	_, err = s.DB.ExecContext(t.Context(), "UPDATE backlog SET listing = listing + 1000000")
	require.NoError(t, err)
	s.expects(t, 20)
	require.Len(t, s.moved(t, o.GetOrderId()), 2, "what a replay brings again is no news")
	_, err = s.DB.ExecContext(t.Context(), "UPDATE backlog SET listing = 0")
	require.NoError(t, err)

	s.arrive(t, t, "sku_cup", 2)
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, o).GetState())
	_, err = s.backorderService(member("mrc_two")).CancelBackorders(t.Context(), &orderv1.CancelBackordersRequest{
		OrderIds: []string{second.GetOrder().GetOrderId()}, Reason: "not made any more",
	})
	require.NoError(t, err)
	s.expects(t, 40)
	require.Len(t, s.moved(t, o.GetOrderId()), 2, "who waits no more is told no more")
	require.Len(t, s.moved(t, second.GetOrder().GetOrderId()), 2)
}

// A cart knows the day for half an hour, and the turn of an order lasts a
// while: what moved meanwhile is told after.
func TestADayThatMovedMeanwhileIsToldAfter(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	s.expects(t, 20) // and carts still say nine
	o, _ := s.await(t, consumer, 2)
	require.Equal(t, inDays(9), s.order(t, o.GetOrder()).GetBackorder().GetExpectedOn())
	var timers int
	require.NoError(t, s.Admin.QueryRow(t.Context(), "SELECT count(*) FROM bus.timer WHERE topic = 'entrepot.order.v1.BackorderDayDue'").Scan(&timers))
	require.Equal(t, 1, timers)
	for range 2 {
		require.NoError(t, s.Deliver(t.Context(), "timers", &orderv1.BackorderDayDue{Sku: "sku_cup"}))
	}
	require.Equal(t, [][2]string{{inDays(9), inDays(20)}}, s.moved(t, o.GetOrder().GetOrderId()))

	s.arrive(t, t, "sku_cup", 1) // too few: its turn has begun
	s.expects(t, 30)
	require.Len(t, s.moved(t, o.GetOrder().GetOrderId()), 1, "its goods may be there")
	s.settle(t, t)
	require.Equal(t, [][2]string{{inDays(9), inDays(20)}, {inDays(20), inDays(30)}}, s.moved(t, o.GetOrder().GetOrderId()))
}

func TestAnEditOvertakesNobodyWhoWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 1, "sku_cup", 1)
	before := s.propose(t, guest, o, secret, "sku_cup", 2)
	s.later("sku_cup", 0, 10)
	waits, _ := s.await(t, guest, 4)
	s.arrive(t, t, "sku_cup", 3)
	s.settle(t, t)
	behind := func(err error) {
		t.Helper()
		requireReason(t, connect.CodeFailedPrecondition, "EDIT_BEHIND_WAITING", err)
		info, _ := fault.Info(host.Relay(err))
		require.Equal(t, map[string]string{"sku_cup": "4"}, info.GetMetadata())
	}
	_, err := s.agree(t, guest, before, secret, "tok_ok")
	behind(err)
	_, err = s.edits(guest).ProposeEdit(t.Context(), &orderv1.ProposeEditRequest{
		EditId: id.New("edt"), OrderId: o.GetOrderId(), CartSecret: secret, Lines: lines("sku_cup", 3),
	})
	behind(err)
	require.EqualValues(t, 3, s.world.stock["sku_cup"], "what has come stays for who is first")

	// The same after a checkout by itself: it is behind, and the first is served
	// by what comes next.
	_, err = s.orders(guest).Checkout(t.Context(), checkoutOf(s.cart(t, guest, "sku_cup", 1)))
	requireReason(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	s.arrive(t, t, "sku_cup", 1)
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, waits.GetOrder()).GetState())
	s.arrive(t, t, "sku_cup", 1)
	_, err = s.agree(t, guest, before, secret, "tok_ok")
	require.NoError(t, err, "nobody waits any more")
	require.EqualValues(t, 2, quantities(s.order(t, o))["sku_cup"])
}

// Other changes of an order go on while somebody waits for one of its goods.
func TestAnEditThatAddsNothingIsNotHeldUpByWhoWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 1, "sku_cup", 3)
	s.later("sku_cup", 0, 10)
	waits, _ := s.await(t, guest, 2)
	_, err := s.agree(t, guest, s.propose(t, guest, o, secret, "sku_tea", 2, "sku_cup", 1), secret, "tok_ok")
	require.NoError(t, err)
	require.EqualValues(t, 2, s.world.stock["sku_cup"])
	s.arrive(t, t, "sku_cup", 0) // as the released goods are told
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, waits.GetOrder()).GetState(), "what was given up serves who waits")
}

func TestTheQueueShowsWhyEachOrderWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 20)
	var ids []string
	for _, n := range []int{5, 2, 1} {
		o, _ := s.await(t, guest, n)
		ids = append(ids, o.GetOrder().GetOrderId())
	}
	s.arrive(t, t, "sku_cup", 3) // enough for those behind, and it stays for the first
	s.settle(t, t)
	queue := func() map[string][2]int64 {
		res, err := s.queue("mrc_two").ListQueue(t.Context(), &orderv1.ListQueueRequest{Backordered: true})
		require.NoError(t, err)
		out := make(map[string][2]int64)
		for _, o := range res.GetOrders() {
			out[o.GetOrderId()] = [2]int64{o.GetBackorder().GetAhead(), o.GetBackorder().GetAvailable()}
		}
		return out
	}
	require.Equal(t, map[string][2]int64{ids[0]: {0, 3}, ids[1]: {5, 3}, ids[2]: {7, 3}}, queue())
	_, err := s.backorderService(member("mrc_two")).CancelBackorders(t.Context(), &orderv1.CancelBackordersRequest{OrderIds: ids[:1], Reason: "too many for us"})
	require.NoError(t, err)
	s.settle(t, t)
	require.Empty(t, queue(), "what held the others up is gone, and they are served")
	seen, err := s.orders(staff).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: ids[1]})
	require.NoError(t, err)
	require.Zero(t, seen.GetOrder().GetBackorder().GetAhead())
}

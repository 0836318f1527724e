package main

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

func inDays(n int) string { return time.Now().UTC().AddDate(0, 0, n).Format(time.DateOnly) }

// later lets so many of a sku wait, of which there are some now.
func (s *shop) later(sku string, stock, limit int64) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.stock[sku] = stock
	put(&s.world.terms, sku, &catalogv1.BackorderTerms{Limit: limit, ExpectedOn: inDays(9)})
}

// arrive brings some of a sku to the shelf and says so.
func (s *shop) arrive(t require.TestingT, tb testing.TB, sku string, n int64) {
	require.NoError(t, s.bring(tb, sku, n))
}

func (s *shop) bring(tb testing.TB, sku string, n int64) error {
	s.world.mu.Lock()
	s.world.stock[sku] += n
	sellable := s.world.stock[sku]
	s.world.mu.Unlock()
	return s.Deliver(tb.Context(), "stock", &warehousev1.StockReceived{ReceiptId: "mrc_two/1", Levels: []*warehousev1.StockLevel{{Sku: sku, Sellable: sellable}}})
}

// settle drives sagas until none is left: one that ends gives the next its
// turn.
func (s *shop) settle(t require.TestingT, tb testing.TB) {
	for range 1000 {
		all, err := s.RunSagas(tb.Context())
		require.NoError(t, err)
		var open int
		require.NoError(t, s.Admin.QueryRow(tb.Context(), "SELECT count(*) FROM p_order.backorder WHERE state = 3").Scan(&open))
		if open == 0 {
			return
		}
		require.NotEmpty(t, all)
	}
	require.Fail(t, "allotments go on for ever")
}

func (s *shop) backorderService(p call.Principal) orderv1connect.BackorderServiceClient {
	return orderv1connect.NewBackorderServiceClient(s.Client(call.Info{Principal: p, Market: "DE"}))
}

func accept(sku string, n int64) *orderv1.AcceptedBackorder {
	return &orderv1.AcceptedBackorder{Sku: sku, Quantity: n, ExpectedOn: inDays(9)}
}

// await checks out cups of which any number may wait.
func (s *shop) await(t *testing.T, p call.Principal, cups int) (*orderv1.CheckoutResponse, string) {
	t.Helper()
	c := s.cart(t, p, "sku_cup", cups)
	req := checkoutOf(c)
	req.Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", int64(cups))}
	res, err := s.orders(p).Checkout(t.Context(), req)
	require.NoError(t, err)
	return res, c.GetCartSecret()
}

func published[M any](t *testing.T, s *shop) (out []M) {
	t.Helper()
	for _, m := range s.Published(t) {
		if e, ok := m.(M); ok {
			out = append(out, e)
		}
	}
	return out
}

func TestWhatIsNotThereWaitsWhereListingAndConsumerAllowIt(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 3, 10)
	c := s.cart(t, consumer, "sku_tea", 1, "sku_cup", 5)
	told, err := s.carts(consumer, "").GetCartAvailability(t.Context(), &orderv1.GetCartAvailabilityRequest{CartId: c.GetCart().GetCartId()})
	require.NoError(t, err)
	require.EqualValues(t, 1, told.GetLines()[0].GetAvailable())
	cup := told.GetLines()[1]
	require.Equal(t, []any{int64(3), int64(2), int64(0), inDays(9)}, []any{cup.GetAvailable(), cup.GetBackordered(), cup.GetMissing(), cup.GetExpectedOn()})
	_, err = s.carts(stranger, "").GetCartAvailability(t.Context(), &orderv1.GetCartAvailabilityRequest{CartId: c.GetCart().GetCartId()})
	requireReason(t, connect.CodeNotFound, "CART_UNKNOWN", err)

	req := checkoutOf(c)
	for name, try := range map[string]struct {
		accepted []*orderv1.AcceptedBackorder
		reason   string
	}{
		"not accepted":   {nil, "OUT_OF_STOCK"},
		"another sku":    {[]*orderv1.AcceptedBackorder{accept("sku_tea", 2)}, "OUT_OF_STOCK"},
		"fewer accepted": {[]*orderv1.AcceptedBackorder{accept("sku_cup", 1)}, "BACKORDER_CHANGED"},
		"an earlier day": {[]*orderv1.AcceptedBackorder{{Sku: "sku_cup", Quantity: 2, ExpectedOn: inDays(8)}}, "BACKORDER_CHANGED"},
	} {
		req.Backorders = try.accepted
		_, err := s.orders(consumer).Checkout(t.Context(), req)
		require.Error(t, err, name)
		requireReason(t, connect.CodeFailedPrecondition, try.reason, err)
	}
	req.Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", 2), accept("sku_cup", 2)}
	_, err = s.orders(consumer).Checkout(t.Context(), req)
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))

	req.Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", 2)}
	var res *orderv1.CheckoutResponse
	for range 2 { // again is the same answer
		res, err = s.orders(consumer).Checkout(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, orderv1.Order_STATE_PLACED, res.GetOrder().GetState())
		require.EqualValues(t, 1250+3*499, res.GetOrder().GetTotal().GetMinorUnits(), "what is there now")
		require.Len(t, res.GetBackorders(), 1)
	}
	b := res.GetBackorders()[0]
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, b.GetState())
	require.EqualValues(t, 2*499, b.GetTotal().GetMinorUnits())
	require.Equal(t, res.GetOrder().GetOrderId(), b.GetBackorder().GetOfOrderId())
	require.Equal(t, inDays(9), b.GetBackorder().GetExpectedOn())
	require.Len(t, s.world.payments, 1, "nothing is held for what waits")
	placed := published[*orderv1.BackorderPlaced](t, s)
	require.Len(t, placed, 1)
	require.EqualValues(t, 2, placed[0].GetQuantity())
	require.Equal(t, "mrc_two", placed[0].GetMerchantId())

	queue := func(backordered bool) []*orderv1.Order {
		res, err := s.queue("mrc_two").ListQueue(t.Context(), &orderv1.ListQueueRequest{Backordered: backordered})
		require.NoError(t, err)
		return res.GetOrders()
	}
	require.Len(t, queue(true), 1)
	require.Equal(t, b.GetOrderId(), queue(true)[0].GetOrderId())
	require.Len(t, queue(false), 1, "only what there is something to do about")
	accepted, err := s.processing("mrc_two").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{b.GetOrderId()}})
	require.NoError(t, err)
	require.Equal(t, "ORDER_BACKORDERED", accepted.GetResults()[0].GetRefusal())
	list, err := s.shortages(member("mrc_two")).ListReplenishment(t.Context(), &orderv1.ListReplenishmentRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetReplenishments(), 1)
	require.EqualValues(t, 2, list.GetReplenishments()[0].GetBackordered())

	s.arrive(t, t, "sku_cup", 1)
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, s.order(t, b).GetState(), "one is not enough for two")
	s.arrive(t, t, "sku_cup", 1)
	s.settle(t, t)
	now := s.order(t, b)
	require.Equal(t, orderv1.Order_STATE_PLACED, now.GetState())
	require.EqualValues(t, 2*499, s.world.payments[now.GetPaymentId()], "authorised when allotted")
	require.Len(t, s.world.held[now.GetReservationId()], 1)
	require.Len(t, published[*orderv1.BackorderAllotted](t, s), 1)
	require.Len(t, published[*orderv1.OrderPlaced](t, s), 2)
	accepted, err = s.processing("mrc_two").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{b.GetOrderId()}})
	require.NoError(t, err)
	require.Equal(t, orderv1.Consignment_STATE_ACCEPTED, accepted.GetResults()[0].GetState(), "from then on an order as any other")
	line, err := s.orders(consumer).GetTimeline(t.Context(), &orderv1.GetTimelineRequest{OrderId: b.GetOrderId()})
	require.NoError(t, err)
	var whats []string
	for _, e := range line.GetEntries() {
		whats = append(whats, e.GetWhat())
	}
	require.Equal(t, []string{"checkout.started", "backorder.placed", "backorder.allotted", "order.placed", "order.accepted"}, whats)
}

func TestNobodyOvertakesWhoWaits(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	first, _ := s.await(t, guest, 4)
	require.Equal(t, first.GetOrder().GetOrderId(), first.GetBackorders()[0].GetOrderId(), "nothing was there: the order itself waits")
	second, _ := s.await(t, guest, 1)
	require.Empty(t, s.world.held)
	require.Empty(t, s.world.payments)

	s.arrive(t, t, "sku_cup", 3)
	s.settle(t, t)
	for _, o := range []*orderv1.CheckoutResponse{first, second} {
		require.Equal(t, orderv1.Order_STATE_BACKORDERED, s.order(t, o.GetOrder()).GetState(), "three are not enough for the first, and the second does not go before")
	}
	_, err := s.orders(guest).Checkout(t.Context(), checkoutOf(s.cart(t, guest, "sku_cup", 1)))
	requireReason(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
	third, _ := s.await(t, guest, 2)
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, third.GetOrder().GetState(), "it waits behind them")

	s.arrive(t, t, "sku_cup", 2)
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, first.GetOrder()).GetState())
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, second.GetOrder()).GetState(), "each that ends gives the next its turn")
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, s.order(t, third.GetOrder()).GetState())
}

func TestMoreDoNotWaitThanTheListingAllows(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 5)
	const many = 6
	requests := make([]*orderv1.CheckoutRequest, many)
	for i := range requests {
		requests[i] = checkoutOf(s.cart(t, guest, "sku_cup", 2))
		requests[i].Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", 2)}
	}
	errs := make([]error, many)
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() { _, errs[i] = s.orders(guest).Checkout(t.Context(), requests[i]) })
	}
	wg.Wait()
	placed := 0
	for _, err := range errs {
		if err == nil {
			placed++
			continue
		}
		requireReason(t, connect.CodeFailedPrecondition, "BACKORDER_CHANGED", err)
	}
	require.Equal(t, 2, placed, "two of two, and one more would be six")
	s.world.terms["sku_cup"].ExpectedOn = inDays(-1)
	req := checkoutOf(s.cart(t, guest, "sku_cup", 1))
	req.Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", 1)}
	_, err := s.orders(guest).Checkout(t.Context(), req)
	requireReason(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err) // nothing is promised for a day that is past
}

func TestTheWaitEndsForConsumerAndMerchant(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	a, _ := s.await(t, consumer, 3)
	b, secret := s.await(t, guest, 2)
	c, _ := s.await(t, guest, 1)
	_, err := s.orders(stranger).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: a.GetOrder().GetOrderId()})
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", err)
	cancel := func(merchant, orderID string) string {
		res, err := s.backorderService(member(merchant)).CancelBackorders(t.Context(), &orderv1.CancelBackordersRequest{OrderIds: []string{orderID}, Reason: "no longer made"})
		require.NoError(t, err)
		return res.GetResults()[0].GetRefusal()
	}
	require.Equal(t, "ORDER_UNKNOWN", cancel("mrc_one", c.GetOrder().GetOrderId()))

	s.arrive(t, t, "sku_cup", 2) // too few for the first
	s.settle(t, t)
	for range 2 {
		res, err := s.orders(consumer).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: a.GetOrder().GetOrderId(), Reason: "too long"})
		require.NoError(t, err)
		require.Equal(t, orderv1.Order_STATE_CANCELLED, res.GetOrder().GetState())
	}
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, b.GetOrder()).GetState(), "who is behind takes what is there")
	require.Equal(t, "NOT_BACKORDERED", cancel("mrc_two", b.GetOrder().GetOrderId()))
	_, err = s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: b.GetOrder().GetOrderId(), CartSecret: secret})
	require.NoError(t, err, "allotted, it is cancelled as any other")
	require.EqualValues(t, 2, s.world.stock["sku_cup"])
	require.Empty(t, s.world.payments)
	for range 2 {
		require.Empty(t, cancel("mrc_two", c.GetOrder().GetOrderId()))
	}
	ended := published[*orderv1.BackorderCancelled](t, s)
	require.Len(t, ended, 2)
	require.False(t, ended[0].GetByMerchant())
	require.True(t, ended[1].GetByMerchant())
	require.Equal(t, "no longer made", ended[1].GetReason())
	s.place(t, guest, "sku_cup", 2) // nobody waits: who comes is served
}

func TestARefusedMeansOfPaymentKeepsItsPlaceAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	first, secret := s.await(t, guest, 2)
	_, err := s.DB.ExecContext(t.Context(), "UPDATE backorder SET method_token = 'tok_declined'")
	require.NoError(t, err)
	second, _ := s.await(t, guest, 2)
	s.arrive(t, t, "sku_cup", 3)
	s.settle(t, t)
	o := s.order(t, first.GetOrder())
	require.Equal(t, orderv1.Backorder_STATE_PAYMENT_REFUSED, o.GetBackorder().GetState())
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, second.GetOrder()).GetState())
	require.EqualValues(t, 1, s.world.stock["sku_cup"], "what was reserved for it is free")
	require.Len(t, published[*orderv1.BackorderPaymentRefused](t, s), 1)
	s.place(t, guest, "sku_cup", 1) // and for sale

	third, _ := s.await(t, guest, 1)
	renew := &orderv1.RenewBackorderPaymentRequest{OrderId: o.GetOrderId(), CartSecret: secret, PaymentMethodToken: "tok_ok"}
	_, err = s.backorderService(stranger).RenewBackorderPayment(t.Context(), &orderv1.RenewBackorderPaymentRequest{OrderId: o.GetOrderId(), PaymentMethodToken: "tok_ok"})
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", err)
	_, err = s.backorderService(guest).RenewBackorderPayment(t.Context(), renew)
	require.NoError(t, err)
	s.settle(t, t) // there is nothing
	s.arrive(t, t, "sku_cup", 2)
	s.settle(t, t)
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, first.GetOrder()).GetState(), "its place is before who came later")
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, s.order(t, third.GetOrder()).GetState())
	_, err = s.backorderService(guest).RenewBackorderPayment(t.Context(), renew)
	requireReason(t, connect.CodeFailedPrecondition, "NOT_BACKORDERED", err)
}

func TestARefusedCheckoutLeavesNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 1, 10)
	c := s.cart(t, guest, "sku_cup", 3)
	req := checkoutOf(c)
	req.Backorders, req.PaymentMethodToken = []*orderv1.AcceptedBackorder{accept("sku_cup", 2)}, "tok_declined"
	_, err := s.orders(guest).Checkout(t.Context(), req)
	requireReason(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	require.Empty(t, published[*orderv1.BackorderPlaced](t, s))
	s.place(t, guest, "sku_cup", 1) // nobody is before it
	s.later("sku_cup", 1, 10)
	req.PaymentMethodToken = "tok_ok"
	res, err := s.orders(guest).Checkout(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, res.GetBackorders(), 1)
}

func TestAQueueThatHeardOfNoArrivalIsAskedAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	o, _ := s.await(t, guest, 2)
	s.world.stock["sku_cup"] = 2 // as when a merchant puts more on its shelf
	tick := func() {
		require.NoError(t, s.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "order/shortages"}))
		s.settle(t, t)
	}
	tick()
	require.Equal(t, orderv1.Order_STATE_BACKORDERED, s.order(t, o.GetOrder()).GetState(), "not at every tick")
	_, err := s.DB.ExecContext(t.Context(), "UPDATE backorder SET asked_at = now() - interval '11 minutes'")
	require.NoError(t, err)
	tick()
	require.Equal(t, orderv1.Order_STATE_PLACED, s.order(t, o.GetOrder()).GetState())
}

// Whatever comes, goes and is cancelled at the same time: what is allotted was
// there, and went in the order of the queue.
func TestStockIsAllottedFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	s := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		_, err := s.DB.ExecContext(t.Context(), "UPDATE backlog SET waiting = 0; UPDATE backorder SET state = 6 WHERE state IN (2, 4); UPDATE orders SET state = 5 WHERE state = 9")
		require.NoError(rt, err)
		s.later("sku_cup", 0, 1000)
		s.world.mu.Lock()
		clear(s.world.held)
		s.world.mu.Unlock()
		var since int64
		require.NoError(rt, s.Admin.QueryRow(t.Context(), "SELECT coalesce(max(n), 0) FROM p_order.backorder").Scan(&since))
		var ids []string
		var brought int64
		var mu sync.Mutex
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			var wg sync.WaitGroup
			for range rapid.IntRange(0, 3).Draw(rt, "buyers") {
				n := rapid.IntRange(1, 5).Draw(rt, "wanted")
				wg.Go(func() {
					c := s.cart(t, guest, "sku_cup", n)
					req := checkoutOf(c)
					req.Backorders = []*orderv1.AcceptedBackorder{accept("sku_cup", int64(n))}
					if res, err := s.orders(guest).Checkout(t.Context(), req); err == nil {
						mu.Lock()
						for _, b := range res.GetBackorders() {
							ids = append(ids, b.GetOrderId())
						}
						mu.Unlock()
					}
				})
			}
			n := rapid.Int64Range(0, 6).Draw(rt, "arrives")
			brought += n
			var errs [2]error
			wg.Go(func() { errs[0] = s.bring(t, "sku_cup", n) })
			if len(ids) > 0 && rapid.Bool().Draw(rt, "cancels") {
				gone := rapid.SampledFrom(slices.Clone(ids)).Draw(rt, "gone")
				wg.Go(func() {
					_, errs[1] = s.backorderService(member("mrc_two")).CancelBackorders(t.Context(), &orderv1.CancelBackordersRequest{OrderIds: []string{gone}, Reason: "changed"})
				})
			}
			wg.Wait()
			require.NoError(rt, errors.Join(errs[:]...))
			s.settle(rt, t)
		}
		s.arrive(rt, t, "sku_cup", 0) // whoever could be served by now is
		s.settle(rt, t)
		var held, overtaken, waiting, counted, first int64
		for _, lines := range s.world.held {
			held += lines[0].GetQuantity()
		}
		require.NoError(rt, s.Admin.QueryRow(t.Context(), `SELECT
			(SELECT count(*) FROM p_order.backorder a JOIN p_order.backorder b ON a.n < b.n AND a.n > $1 WHERE a.state = 2 AND b.state = 5),
			(SELECT coalesce(sum(quantity), 0)::bigint FROM p_order.backorder WHERE state = 2),
			(SELECT coalesce(sum(waiting), 0)::bigint FROM p_order.backlog),
			coalesce((SELECT quantity FROM p_order.backorder WHERE state = 2 ORDER BY n LIMIT 1), 0)`, since).Scan(&overtaken, &waiting, &counted, &first))
		require.Equal(rt, brought, held+s.world.stock["sku_cup"], "no more is sold than came")
		require.Zero(rt, overtaken, "who waits was not overtaken")
		require.Equal(rt, waiting, counted)
		require.True(rt, first == 0 || first > s.world.stock["sku_cup"], "who is first waits for what is not there: %d of %d", first, s.world.stock["sku_cup"])
	})
}

func TestAMerchantCancelsItsPartAndTheLastOneEndsTheOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	for _, m := range []string{"mrc_one", "mrc_two"} {
		_, err := s.processing(m).AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
		require.NoError(t, err)
	}
	cancel := func(merchant string) (*orderv1.CancelConsignmentResponse, error) {
		return s.processing(merchant).CancelConsignment(t.Context(), &orderv1.CancelConsignmentRequest{OrderId: o.GetOrderId(), Reason: "broken in the warehouse"})
	}
	_, err := cancel("mrc_three")
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", err)
	for range 2 {
		res, err := cancel("mrc_one")
		require.NoError(t, err)
		require.False(t, res.GetOrderCancelled())
	}
	now := s.order(t, o)
	require.Len(t, now.GetLines(), 1)
	require.EqualValues(t, 499, now.GetTotal().GetMinorUnits())
	require.EqualValues(t, 2500, s.world.refunded[o.GetPaymentId()])
	require.EqualValues(t, 1000, s.world.stock["sku_tea"])
	for range 2 {
		res, err := cancel("mrc_two")
		require.NoError(t, err)
		require.True(t, res.GetOrderCancelled())
	}
	require.Equal(t, orderv1.Order_STATE_CANCELLED, s.order(t, o).GetState())
	require.EqualValues(t, 1000, s.world.stock["sku_cup"])
	require.Empty(t, s.world.payments)
	told := published[*orderv1.OrderCancelled](t, s)
	require.Len(t, told, 1)
	require.Equal(t, "broken in the warehouse", told[0].GetReason())
	_, err = s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)

	s.later("sku_cup", 0, 5)
	waits, _ := s.await(t, guest, 1)
	_, err = s.processing("mrc_two").CancelConsignment(t.Context(), &orderv1.CancelConsignmentRequest{OrderId: waits.GetOrder().GetOrderId(), Reason: "gone"})
	requireReason(t, connect.CodeFailedPrecondition, "BACKORDERED", err)
}

func TestFulfilmentsOfNoOrderArePassedOver(t *testing.T) {
	t.Parallel()
	s := open(t)
	f, ref := "ful_repair", "cse_repair"
	require.NoError(t, s.Deliver(t.Context(), "fulfilment",
		&warehousev1.FulfilmentOpened{FulfilmentId: f, Reference: ref, MerchantId: "mrc_one", Site: "main"},
		&warehousev1.FulfilmentSplit{FulfilmentId: f, RestId: "ful_rest", Reference: ref},
		&warehousev1.FulfilmentPacked{FulfilmentId: f, Reference: ref, MerchantId: "mrc_one"},
		&warehousev1.FulfilmentHandedOver{FulfilmentId: f, Reference: ref},
		&warehousev1.FulfilmentDelivered{FulfilmentId: f, Reference: ref},
		&warehousev1.FulfilmentCancelled{FulfilmentId: f, Reference: ref}))
	var n int
	require.NoError(t, s.Admin.QueryRow(t.Context(), "SELECT count(*) FROM p_order.fulfilment").Scan(&n))
	require.Zero(t, n)
}

// As when a process dies between an effect and its record: the step is asked
// again and the answer is the same.
func TestAnAllotmentWhoseAnswersAreLostIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.later("sku_cup", 0, 10)
	first, _ := s.await(t, guest, 2)
	s.world.loses = true
	for range 2 { // told twice
		s.arrive(t, t, "sku_cup", 1)
	}
	s.settle(t, t)
	o := s.order(t, first.GetOrder())
	require.Equal(t, orderv1.Order_STATE_PLACED, o.GetState())
	require.True(t, s.world.lost[o.GetReservationId()])
	require.True(t, s.world.lost[o.GetPaymentId()])
	require.Zero(t, s.world.stock["sku_cup"])
	require.Len(t, s.world.payments, 1)
	require.Len(t, s.world.held, 1)
	require.Len(t, published[*orderv1.BackorderAllotted](t, s), 1)
}

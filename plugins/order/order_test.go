package main

import (
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestACartQuotesItsLinesInTheMarketsCurrency(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := s.cart(t, guest, "sku_tea", 2, "sku_cup", 1)
	require.Equal(t, "EUR", c.GetCart().GetTotal().GetCurrencyCode())
	require.EqualValues(t, 2*1250+499, c.GetCart().GetTotal().GetMinorUnits())
	require.NotEmpty(t, c.GetCartSecret(), "a guest gets the secret that opens the cart")
}

func TestACartIsMadeOncePerIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := open(t)
	make := func(key string, in ...any) (*orderv1.CreateCartResponse, error) {
		return s.carts(guest, key).CreateCart(t.Context(), &orderv1.CreateCartRequest{Lines: lines(in...)})
	}
	first, err := make("k1", "sku_tea", 1)
	require.NoError(t, err)
	again, err := make("k1", "sku_tea", 1)
	require.NoError(t, err)
	require.Equal(t, first.GetCart().GetCartId(), again.GetCart().GetCartId())
	require.Equal(t, first.GetCartSecret(), again.GetCartSecret())
	_, err = make("k1", "sku_tea", 2)
	requireReason(t, connect.CodeAlreadyExists, "IDEMPOTENCY_KEY_REUSED", err)
	_, err = make("", "sku_tea", 2)
	requireReason(t, connect.CodeInvalidArgument, "IDEMPOTENCY_KEY_REQUIRED", err)
}

func TestACartOpensToItsOwnerOnly(t *testing.T) {
	t.Parallel()
	s := open(t)
	guests, consumers := s.cart(t, guest, "sku_tea", 1), s.cart(t, consumer, "sku_tea", 1)
	for name, c := range map[string]struct {
		who    call.Principal
		cart   *orderv1.CreateCartResponse
		secret string
		ok     bool
	}{
		"guest with the secret":       {guest, guests, guests.GetCartSecret(), true},
		"guest without it":            {guest, guests, "", false},
		"guest with another secret":   {guest, guests, "AAAA", false},
		"consumer's own":              {consumer, consumers, "", true},
		"another consumer":            {stranger, consumers, "", false},
		"a guest at a consumer's":     {guest, consumers, guests.GetCartSecret(), false},
		"a consumer knows the secret": {consumer, guests, guests.GetCartSecret(), true},
	} {
		_, err := s.carts(c.who, "").GetCart(t.Context(), &orderv1.GetCartRequest{CartId: c.cart.GetCart().GetCartId(), CartSecret: c.secret})
		if c.ok {
			require.NoError(t, err, name)
		} else {
			requireReason(t, connect.CodeNotFound, "CART_UNKNOWN", err)
		}
	}
}

func TestSetCartLinesSetsQuantitiesAndZeroTakesALineOut(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := s.cart(t, guest, "sku_tea", 1, "sku_pot", 1)
	res, err := s.carts(guest, "").SetCartLines(t.Context(), &orderv1.SetCartLinesRequest{
		CartId: c.GetCart().GetCartId(), CartSecret: c.GetCartSecret(), Lines: lines("sku_tea", 0, "sku_cup", 3),
	})
	require.NoError(t, err)
	require.Len(t, res.GetCart().GetLines(), 2)
	require.EqualValues(t, 3000+3*499, res.GetCart().GetTotal().GetMinorUnits())
}

func TestCheckoutPlacesAnOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	require.Equal(t, orderv1.Order_STATE_PLACED, o.GetState())
	require.EqualValues(t, 2999, o.GetTotal().GetMinorUnits())
	require.Len(t, o.GetConsignments(), 2, "one part per merchant")

	got, err := s.orders(guest).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	require.True(t, proto.Equal(home, got.GetOrder().GetShipTo()), "the owner sees the address")
	by := orderv1connect.NewOrderServiceClient(s.Client(call.Info{Principal: guest, Market: "DE", Caller: "nosy"}))
	seen, err := by.GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	require.Nil(t, seen.GetOrder().GetShipTo(), "another plugin does not, though it serves the owner")
	got.Order.ShipTo = nil
	require.True(t, proto.Equal(o, got.GetOrder()), "what is stored is what checkout answered:\n%v\n%v", o, got.GetOrder())

	events := s.Published(t)
	require.Len(t, events, 1)
	placed := events[0].(*orderv1.OrderPlaced)
	require.Equal(t, o.GetOrderId(), placed.GetOrderId())
	require.Len(t, placed.GetLines(), 2)

	var found int
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT orders::text FROM p_order.orders UNION ALL SELECT input::text FROM bus.saga) x(doc) WHERE doc ILIKE '%mustermann%' OR doc ILIKE '%erika%'`).Scan(&found))
	require.Zero(t, found, "the order and its saga hold references, no person")
}

func TestOneCartFinishedTenTimesAtOnceIsOneOrderAndOneCharge(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := s.cart(t, guest, "sku_tea", 1)
	var wg sync.WaitGroup
	ids, errs := make([]string, 10), make([]error, 10)
	for i := range 10 {
		wg.Go(func() {
			res, err := s.orders(guest).Checkout(t.Context(), checkoutOf(c))
			ids[i], errs[i] = res.GetOrder().GetOrderId(), err
		})
	}
	wg.Wait()
	for i := range 10 {
		require.NoError(t, errs[i])
		require.Equal(t, ids[0], ids[i])
	}
	require.Len(t, s.world.payments, 1)
	require.Len(t, s.world.held, 1)
}

func TestARefusedCheckoutUndoesWhatItDidAndOpensTheCart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*world)
		token   string
		reason  string
	}{
		"no stock":   {func(w *world) { w.stock["sku_tea"] = 0 }, "tok_ok", "OUT_OF_STOCK"},
		"no payment": {func(*world) {}, "tok_declined", "PAYMENT_DECLINED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			c.prepare(s.world)
			before := s.world.stock["sku_tea"]
			made := s.cart(t, guest, "sku_tea", 1)
			req := checkoutOf(made)
			req.PaymentMethodToken = c.token
			_, err := s.orders(guest).Checkout(t.Context(), req)
			requireReason(t, connect.CodeFailedPrecondition, c.reason, err)
			require.Equal(t, before, s.world.stock["sku_tea"])
			require.Empty(t, s.world.payments)
			got, err := s.carts(guest, "").GetCart(t.Context(), &orderv1.GetCartRequest{CartId: req.GetCartId(), CartSecret: req.GetCartSecret()})
			require.NoError(t, err)
			require.Equal(t, orderv1.Cart_STATE_OPEN, got.GetCart().GetState())
			require.IsType(t, &orderv1.OrderRejected{}, s.Published(t)[0])

			// Mended, the same cart becomes an order.
			s.world.stock["sku_tea"] = 5
			req.PaymentMethodToken = "tok_ok"
			_, err = s.orders(guest).Checkout(t.Context(), req)
			require.NoError(t, err)
		})
	}
}

func TestCheckoutRefusesWhatCannotBeAnOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	full := func() *orderv1.CheckoutRequest { return checkoutOf(s.cart(t, guest, "sku_tea", 1)) }
	for name, c := range map[string]struct {
		who    call.Principal
		change func(*orderv1.CheckoutRequest)
		code   connect.Code
		reason string
	}{
		"an empty cart": {guest, func(r *orderv1.CheckoutRequest) {
			empty := s.cart(t, guest)
			r.CartId, r.CartSecret = empty.GetCart().GetCartId(), empty.GetCartSecret()
		}, connect.CodeFailedPrecondition, "CART_EMPTY"},
		"somebody else's cart":    {guest, func(r *orderv1.CheckoutRequest) { r.CartSecret = "x" }, connect.CodeNotFound, "CART_UNKNOWN"},
		"an unknown cart":         {guest, func(r *orderv1.CheckoutRequest) { r.CartId = id.New("crt") }, connect.CodeNotFound, "CART_UNKNOWN"},
		"a guest without mail":    {guest, func(r *orderv1.CheckoutRequest) { r.Email = "" }, connect.CodeInvalidArgument, ""},
		"a mail that is none":     {guest, func(r *orderv1.CheckoutRequest) { r.Email = "erika" }, connect.CodeInvalidArgument, ""},
		"no address":              {guest, func(r *orderv1.CheckoutRequest) { r.ShipTo = nil }, connect.CodeInvalidArgument, ""},
		"an address without name": {guest, func(r *orderv1.CheckoutRequest) { r.ShipTo = &typev1.Address{CountryCode: "DE"} }, connect.CodeInvalidArgument, ""},
		"a merchant":              {member("mrc_one"), func(*orderv1.CheckoutRequest) {}, connect.CodePermissionDenied, "NOT_A_BUYER"},
	} {
		req := full()
		c.change(req)
		_, err := s.orders(c.who).Checkout(t.Context(), req)
		require.Error(t, err, name)
		requireReason(t, c.code, c.reason, err)
	}
}

func TestAnOldQuoteIsRenewedAndAChangedPriceIsShownFirst(t *testing.T) {
	t.Parallel()
	s := open(t)
	age := func(c *orderv1.CreateCartResponse) {
		_, err := s.Admin.Exec(t.Context(), "UPDATE p_order.cart SET quoted_at = now() - interval '31 minutes' WHERE id = $1", c.GetCart().GetCartId())
		require.NoError(t, err)
	}
	same := s.cart(t, guest, "sku_tea", 1)
	age(same)
	_, err := s.orders(guest).Checkout(t.Context(), checkoutOf(same))
	require.NoError(t, err)

	dearer := s.cart(t, guest, "sku_pot", 1)
	age(dearer)
	s.world.prices["sku_pot"] = 3100
	_, err = s.orders(guest).Checkout(t.Context(), checkoutOf(dearer))
	requireReason(t, connect.CodeFailedPrecondition, "PRICE_CHANGED", err)
	res, err := s.orders(guest).Checkout(t.Context(), checkoutOf(dearer))
	require.NoError(t, err)
	require.EqualValues(t, 3100, res.GetOrder().GetTotal().GetMinorUnits())
}

func TestMerchantsSeeAndAcceptTheirPartOnly(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, _ := s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	one, err := s.processing("mrc_one").ListMerchantOrders(t.Context(), &orderv1.ListMerchantOrdersRequest{})
	require.NoError(t, err)
	require.Len(t, one.GetOrders(), 1)
	require.Len(t, one.GetOrders()[0].GetLines(), 1)
	require.EqualValues(t, 2500, one.GetOrders()[0].GetTotal().GetMinorUnits())
	require.Empty(t, one.GetOrders()[0].GetShipToRef())

	res, err := s.processing("mrc_one").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId(), id.New("ord")}})
	require.NoError(t, err)
	require.Equal(t, orderv1.Consignment_STATE_ACCEPTED, res.GetResults()[0].GetState())
	require.Equal(t, "ORDER_UNKNOWN", res.GetResults()[1].GetRefusal())
	require.EqualValues(t, 2500, s.world.captured[o.GetPaymentId()])

	_, err = s.processing("mrc_two").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	got, err := s.orders(staff).GetOrder(t.Context(), &orderv1.GetOrderRequest{OrderId: o.GetOrderId()})
	require.NoError(t, err)
	require.Equal(t, orderv1.Order_STATE_ACCEPTED, got.GetOrder().GetState())
	require.Nil(t, got.GetOrder().GetShipTo(), "staff sees no person")

	again, err := s.processing("mrc_two").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	require.Equal(t, orderv1.Consignment_STATE_ACCEPTED, again.GetResults()[0].GetState())
	require.EqualValues(t, 2999, s.world.captured[o.GetPaymentId()], "accepting twice captures once")
}

func TestCancellingGivesStockAndMoneyBackOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2)
	_, err := s.orders(stranger).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId()})
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", err)
	for range 2 {
		res, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret, Reason: "changed my mind"})
		require.NoError(t, err)
		require.Equal(t, orderv1.Order_STATE_CANCELLED, res.GetOrder().GetState())
	}
	require.EqualValues(t, 1000, s.world.stock["sku_tea"])
	require.Empty(t, s.world.payments)
	res, err := s.processing("mrc_one").AcceptOrders(t.Context(), &orderv1.AcceptOrdersRequest{OrderIds: []string{o.GetOrderId()}})
	require.NoError(t, err)
	require.Equal(t, "ORDER_CANCELLED", res.GetResults()[0].GetRefusal())
}

func TestTheTimelineTellsWhatHappened(t *testing.T) {
	t.Parallel()
	s := open(t)
	o, secret := s.place(t, guest, "sku_tea", 2)
	require.NoError(t, s.Deliver(t.Context(), "payments", &paymentv1.PaymentAuthorized{
		PaymentId: o.GetPaymentId(), Reference: o.GetOrderId(), Amount: o.GetTotal(), Instance: "psp-de",
	}))
	res, err := s.orders(guest).GetTimeline(t.Context(), &orderv1.GetTimelineRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	var whats []string
	for _, e := range res.GetEntries() {
		whats = append(whats, e.GetWhat())
	}
	require.ElementsMatch(t, []string{"checkout.started", "order.placed", "payment.authorized"}, whats)
	_, err = s.orders(stranger).GetTimeline(t.Context(), &orderv1.GetTimelineRequest{OrderId: o.GetOrderId()})
	requireReason(t, connect.CodeNotFound, "ORDER_UNKNOWN", err)
	_, err = s.DB.ExecContext(t.Context(), "UPDATE timeline SET what = 'x'")
	require.ErrorContains(t, err, "permission denied", "what happened cannot be changed")
}

func TestAConsumersOrdersPageNewestFirst(t *testing.T) {
	t.Parallel()
	s := open(t)
	var want []string
	for range 5 {
		o, _ := s.place(t, consumer, "sku_tea", 1)
		want = append([]string{o.GetOrderId()}, want...)
	}
	s.place(t, stranger, "sku_tea", 1)
	var got []string
	for token := ""; ; {
		res, err := s.orders(consumer).ListOrders(t.Context(), &orderv1.ListOrdersRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, o := range res.GetOrders() {
			got = append(got, o.GetOrderId())
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Equal(t, want, got)
	_, err := s.orders(consumer).ListOrders(t.Context(), &orderv1.ListOrdersRequest{PageToken: "!"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestSagaStepsAreRefusedOutsideOfASaga(t *testing.T) {
	t.Parallel()
	s := open(t)
	steps := orderv1connect.NewOrderStepServiceClient(s.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "evil"}}))
	_, err := steps.PlaceOrder(t.Context(), &orderv1.PlaceOrderRequest{OrderId: id.New("ord")})
	requireReason(t, connect.CodePermissionDenied, "SAGA_STEP_ONLY", err)
}

func TestSumsAddUp(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.place(t, guest, "sku_tea", 2, "sku_cup", 1)
	o, secret := s.place(t, guest, "sku_tea", 5)
	_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), CartSecret: secret})
	require.NoError(t, err)
	sums, err := s.orders(staff).SumOrders(t.Context(), &orderv1.SumOrdersRequest{})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"placed": 1, "cancelled": 1}, sums.GetOrders())
	require.Equal(t, map[string]int64{"sku_tea": 2, "sku_cup": 1}, sums.GetUnits())
	require.Equal(t, map[string]int64{"EUR": 2999}, sums.GetTotalMinor())
}

package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

func (s *shop) shortages(p call.Principal) orderv1connect.ShortageServiceClient {
	return orderv1connect.NewShortageServiceClient(s.Client(call.Info{Principal: p, Market: "DE"}))
}

// miss is a checkout of so many cups, of which there are fewer.
func (s *shop) miss(t *testing.T, p call.Principal, cups int, notify bool) {
	t.Helper()
	req := checkoutOf(s.cart(t, p, "sku_cup", cups))
	req.NotifyMe = notify
	_, err := s.orders(p).Checkout(t.Context(), req)
	requireReason(t, connect.CodeFailedPrecondition, "OUT_OF_STOCK", err)
}

func (s *shop) told(t *testing.T) (reminders []*orderv1.ShortageReminder, back []*orderv1.BackInStock) {
	t.Helper()
	for _, m := range s.Published(t) {
		switch e := m.(type) {
		case *orderv1.ShortageReminder:
			reminders = append(reminders, e)
		case *orderv1.BackInStock:
			back = append(back, e)
		}
	}
	return reminders, back
}

func TestShortagesAreSummedRemindedOfAndToldWhenTheyEnd(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.world.stock["sku_cup"] = 20
	s.place(t, guest, "sku_cup", 14)
	gone, secret := s.place(t, guest, "sku_cup", 3)
	_, err := s.orders(guest).CancelOrder(t.Context(), &orderv1.CancelOrderRequest{OrderId: gone.GetOrderId(), CartSecret: secret})
	require.NoError(t, err) // was not sold
	s.miss(t, guest, 8, true)
	s.miss(t, consumer, 9, true)
	s.miss(t, stranger, 7, false) // wants not to be told
	declined := checkoutOf(s.cart(t, guest, "sku_tea", 1))
	declined.PaymentMethodToken = "tok_declined"
	_, err = s.orders(guest).Checkout(t.Context(), declined)
	requireReason(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	_, err = s.shortages(stranger).WatchStock(t.Context(), &orderv1.WatchStockRequest{Sku: "sku_tea", Quantity: 1})
	require.NoError(t, err)

	list, err := s.shortages(member("mrc_two")).ListReplenishment(t.Context(), &orderv1.ListReplenishmentRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetReplenishments(), 1)
	r := list.GetReplenishments()[0]
	require.Equal(t, "sku_cup", r.GetSku())
	require.EqualValues(t, 3, r.GetAttempts())
	require.EqualValues(t, 2+3+1, r.GetMissing(), "there were 6")
	require.EqualValues(t, 1, r.GetWaiting(), "a guest is counted, and cannot be told")
	require.EqualValues(t, 14, r.GetSold_28Days())
	require.EqualValues(t, 6, r.GetAvailable())
	require.EqualValues(t, 5, r.GetIncoming())
	require.EqualValues(t, 21-6-5, r.GetSuggested(), "half a piece a day for 14 + 28 days, less what there is and comes")
	none, err := s.shortages(member("mrc_one")).ListReplenishment(t.Context(), &orderv1.ListReplenishmentRequest{})
	require.NoError(t, err)
	require.Empty(t, none.GetReplenishments())
	sums, err := s.shortages(staff).SumShortages(t.Context(), &orderv1.SumShortagesRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 3, sums.GetAttempts())
	require.EqualValues(t, 1, sums.GetShortNow())

	reminders, _ := s.told(t)
	require.Len(t, reminders, 1, "at once when it becomes short")
	tick := func() {
		require.NoError(t, s.Deliver(t.Context(), "schedules", &pluginv1.Tick{Schedule: "order/shortages"}))
	}
	tick()
	reminders, _ = s.told(t)
	require.Len(t, reminders, 1, "then each day")
	_, err = s.DB.ExecContext(t.Context(), "UPDATE gap SET remind_at = now()")
	require.NoError(t, err)
	tick()
	reminders, _ = s.told(t)
	require.Len(t, reminders, 2)
	require.EqualValues(t, 2, reminders[1].GetNumber())

	received := &warehousev1.StockReceived{ReceiptId: "mrc_two/1", Levels: []*warehousev1.StockLevel{{Sku: "sku_cup", Sellable: 60}, {Sku: "sku_tea"}}}
	for range 2 {
		require.NoError(t, s.Deliver(t.Context(), "stock", received))
		tick()
	}
	_, back := s.told(t)
	require.Len(t, back, 1, "each who waits for what is there, once")
	require.Equal(t, consumer.Account, back[0].GetAccountId())
	require.EqualValues(t, 9, back[0].GetQuantity())
	require.Equal(t, "sku_cup", back[0].GetTitle(), "as the cart had it")
	_, err = s.DB.ExecContext(t.Context(), "UPDATE gap SET remind_at = now()")
	require.NoError(t, err)
	tick()
	reminders, _ = s.told(t)
	require.Len(t, reminders, 2, "no more until it is short again")
	s.miss(t, guest, 8, false)
	reminders, _ = s.told(t)
	require.Len(t, reminders, 3)
}

func TestWhoTakesItBackIsNotTold(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, p := range []call.Principal{consumer, stranger} {
		_, err := s.shortages(p).WatchStock(t.Context(), &orderv1.WatchStockRequest{Sku: "sku_cup", Quantity: 2})
		require.NoError(t, err)
	}
	_, err := s.shortages(stranger).UnwatchStock(t.Context(), &orderv1.UnwatchStockRequest{Sku: "sku_cup"})
	require.NoError(t, err)
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockAdjusted{Sku: "sku_cup", Level: &warehousev1.StockLevel{Sku: "sku_cup", Sellable: 1}}))
	_, back := s.told(t)
	require.Len(t, back, 1)
	require.Equal(t, consumer.Account, back[0].GetAccountId())
	require.Equal(t, "sku_cup", back[0].GetTitle(), "as the catalog has it")

	// What the catalog does not show has no title, and is told all the same.
	_, err = s.shortages(consumer).WatchStock(t.Context(), &orderv1.WatchStockRequest{Sku: "sku_moon", Quantity: 1})
	require.NoError(t, err)
	require.NoError(t, s.Deliver(t.Context(), "stock", &warehousev1.StockAdjusted{Sku: "sku_moon", Level: &warehousev1.StockLevel{Sku: "sku_moon", Sellable: 1}}))
	_, back = s.told(t)
	require.Len(t, back, 2)
	require.Empty(t, back[1].GetTitle())
}

func TestASuggestionCoversWhatSellsAndWhatWasMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sold, missing, available, incoming, days, want int64
	}{
		"what sells":            {sold: 28, days: 42, want: 42},
		"a started piece":       {sold: 1, days: 1, want: 1},
		"what was missing":      {sold: 1, missing: 9, days: 28, want: 9},
		"less what there is":    {sold: 28, days: 28, available: 10, incoming: 5, want: 13},
		"never less than none":  {sold: 28, days: 28, available: 100, want: 0},
		"nothing sold, missing": {days: 42, want: 0},
	} {
		r := &orderv1.Replenishment{Sold_28Days: c.sold, Missing: c.missing, Available: c.available, Incoming: c.incoming}
		require.Equal(t, c.want, suggest(r, c.days), name)
	}
}

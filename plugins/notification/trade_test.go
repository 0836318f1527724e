package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

func TestAnOrderIsConfirmedToItsBuyerAndToldToItsMerchants(t *testing.T) {
	t.Parallel()
	s := openShop(t, map[string]any{"marketplace": "Albion"})
	o := s.places(t, "acc_ann", "DE")
	require.Equal(t, map[string]string{
		"inbox acc_ann order.placed": "DELIVERED", "mail acc_ann order.placed": "SENT",
		"inbox mrc_a sale.placed": "DELIVERED", "inbox mrc_b sale.placed": "DELIVERED",
	}, s.settles(t))

	mails := s.to(mailOf("buyer1"))
	require.Len(t, mails, 1)
	m := mails[0].GetMessage()
	require.Equal(t, "Ihre Bestellung "+o.GetOrderId(), m.GetSubject(), "in the market's language")
	require.Contains(t, m.GetText(), "2 x Tea pot: 99,90 EUR")
	require.Contains(t, m.GetText(), "Summe: 129,90 EUR")
	require.Contains(t, m.GetText(), "bei Albion")
	require.Contains(t, m.GetHtml(), "Cup &lt;b&gt;")
	require.Equal(t, "de", m.GetLanguage())

	got := s.reads(t, member("acc_m", "mrc_a"))
	require.Len(t, got, 1)
	require.Contains(t, got[0].GetBody(), "Tea pot")
	require.NotContains(t, got[0].GetBody(), "Cup", "another merchant's goods")
	require.Equal(t, o.GetOrderId(), got[0].GetReference())
}

func TestAGuestIsWrittenToAndHasNoInbox(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	o := s.places(t, "", "JP")
	require.Equal(t, "SENT", s.settles(t)["mail "+o.GetOrderId()+" order.placed"])
	require.NotContains(t, s.queue(t), "inbox  order.placed")
	require.Contains(t, s.to(mailOf("buyer1"))[0].GetMessage().GetText(), "JPY 12,990")
}

func TestAnAddressGivenForTheCarrierIsBetterThanNone(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	address, err := proto.Marshal(&typev1.Address{Recipient: "Ann", Email: "door@example.com"})
	require.NoError(t, err)
	s.places(t, "acc_ann", "GB", func(o *orderv1.OrderPlaced) { o.EmailRef, o.ShipToRef = "", s.seal(t, "address", string(address)) })
	s.places(t, "acc_bob", "GB", func(o *orderv1.OrderPlaced) { o.EmailRef, o.ShipToRef = "", s.seal(t, "address", "") })
	q := s.settles(t)
	require.Equal(t, "SENT", q["mail acc_ann order.placed"])
	require.Len(t, s.to("door@example.com"), 1)
	require.Equal(t, "FAILED NO_ADDRESS", q["mail acc_bob order.placed"], "what is owed and cannot be sent is seen")
}

func gbp(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "GBP", MinorUnits: minor} }

// story is every event that people are told of.
func story(o *orderv1.OrderPlaced) []proto.Message {
	order := o.GetOrderId()
	leg := logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER
	shipped := func(status logisticsv1.Status) proto.Message {
		return &logisticsv1.ShipmentMoved{ShipmentId: "shp_1", Leg: leg, Reference: "ful_1", OrderId: order, MerchantId: "mrc_a", Status: status, At: timestamppb.Now(), Reason: "X"}
	}
	return []proto.Message{
		&orderv1.OrderAccepted{OrderId: order, MerchantId: "mrc_a"}, &orderv1.OrderAccepted{OrderId: order, MerchantId: "mrc_b", Complete: true},
		&logisticsv1.ShipmentBooked{ShipmentId: "shp_1", Leg: leg, OrderId: order, MerchantId: "mrc_a", TrackingNumbers: map[string]string{"p2": "N2", "p1": "N1"}},
		shipped(logisticsv1.Status_STATUS_BOOKED), shipped(logisticsv1.Status_STATUS_IN_TRANSIT), shipped(logisticsv1.Status_STATUS_DELIVERY_FAILED),
		shipped(logisticsv1.Status_STATUS_OUT_FOR_DELIVERY), shipped(logisticsv1.Status_STATUS_READY_FOR_PICKUP), shipped(logisticsv1.Status_STATUS_OUT_FOR_DELIVERY),
		shipped(logisticsv1.Status_STATUS_DELIVERED), &orderv1.OrderDelivered{OrderId: order, Market: o.GetMarket()},
		&logisticsv1.ShipmentMoved{ShipmentId: "shp_2", Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, Reference: "con_1", MerchantId: "mrc_a", Status: logisticsv1.Status_STATUS_LOST},
		&paymentv1.PaymentRefunded{PaymentId: "pay_1", Reference: order, Amount: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 100}, Refunded: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 100}},
		&paymentv1.PaymentRefunded{PaymentId: "pay_1", Reference: order, Amount: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 100}, Refunded: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 200}},
		&orderv1.OrderCancelled{OrderId: order, Reason: "why not"},
		&warehousev1.StockLow{Sku: "sku_1", MerchantId: "mrc_a", Market: "GB", Sellable: 2, ReorderPoint: 5},
		&warehousev1.ReturnReceived{ReturnId: "rma_1", Reference: order, MerchantId: "mrc_a", Lines: []*warehousev1.ReturnLine{{Sku: "sku_1", Quantity: 1}}},
		&warehousev1.ReturnClosed{ReturnId: "rma_1", Reference: order, MerchantId: "mrc_a"},
		&inspectionv1.ConsignmentReceived{ConsignmentId: "con_1", MerchantId: "mrc_a", CaseIds: []string{"cas_1"}},
		&inspectionv1.VerdictConfirmed{CaseId: "cas_1", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 3, Verdict: inspectionv1.Verdict_VERDICT_COUNTERFEIT},
		&orderv1.OrderEditProposed{OrderId: order, EditId: "edt_1", ProposedBy: "mrc_b", Awaits: []string{"consumer", "mrc_a"}},
		&orderv1.OrderEdited{OrderId: order, EditId: "edt_1", Market: "GB", Total: gbp(70), Difference: gbp(-30), Lines: []*orderv1.Line{
			{Sku: "sku_1", MerchantId: "mrc_a", Title: "Tea pot", Quantity: 1, Total: gbp(50)}, {Sku: "sku_9", MerchantId: "mrc_c", Title: "Spoon", Quantity: 1, Total: gbp(20)},
		}},
		&orderv1.ConsignmentOverdue{OrderId: order, MerchantId: "mrc_a", DueBy: timestamppb.Now()},
		&aftersalev1.ApplicationOpened{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Kind: aftersalev1.Kind_KIND_RETURN, AccountId: "acc_ann"},
		&aftersalev1.ApplicationOpened{CaseId: "afs_2", OrderId: order, MerchantId: "mrc_a", Kind: aftersalev1.Kind_KIND_WITHDRAWAL, AccountId: "acc_ann"},
		&aftersalev1.CaseOffered{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Amount: gbp(5)},
		&aftersalev1.CaseDecided{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Outcome: aftersalev1.Decision_OUTCOME_REJECTED},
		&aftersalev1.CaseEscalated{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Reason: "ASKED"},
		&aftersalev1.CaseDecided{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Outcome: aftersalev1.Decision_OUTCOME_APPROVED, KeepGoods: true},
		&aftersalev1.CaseAssessed{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", Refund: gbp(90), Deduction: gbp(10)},
		&aftersalev1.CaseAssessed{CaseId: "afs_9", OrderId: order, MerchantId: "mrc_a"},
		&aftersalev1.CaseSettled{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_a", State: aftersalev1.Case_STATE_SETTLED, Refunded: gbp(90)},
		&aftersalev1.MessagePosted{ConversationId: "cnv_1", MessageId: "msg_1", OrderId: order, MerchantId: "mrc_a", Author: "consumer"},
		&aftersalev1.MessagePosted{ConversationId: "cnv_1", MessageId: "msg_2", OrderId: order, MerchantId: "mrc_a", Author: "merchant"},
		&aftersalev1.MessagePosted{ConversationId: "cnv_1", MessageId: "msg_3", OrderId: order, MerchantId: "mrc_a", CaseId: "afs_1", Author: "staff"},
		&aftersalev1.MessagePosted{ConversationId: "cnv_1", MessageId: "msg_4", OrderId: order, MerchantId: "mrc_a", Author: "merchant", Internal: true},
		&aftersalev1.ResponseOverdue{ConversationId: "cnv_1", OrderId: order, MerchantId: "mrc_a", WaitingSince: timestamppb.Now()},
		&orderv1.ShortageReminder{MerchantId: "mrc_a", Sku: "sku_1", Market: "GB", ShortSince: timestamppb.New(time.Unix(1_700_000_000, 0)), Number: 1},
		&orderv1.ShortageReminder{MerchantId: "mrc_a", Sku: "sku_1", Market: "GB", ShortSince: timestamppb.New(time.Unix(1_700_000_000, 0)), Number: 2},
		&paymentv1.PayoutPaid{MerchantId: "mrc_a", PayoutId: "pyo_1", Amount: gbp(90)},
		&paymentv1.PayoutFailed{MerchantId: "mrc_a", PayoutId: "pyo_2", Amount: gbp(90), Code: "ACCOUNT_CLOSED"},
		&paymentv1.DisputeOpened{PaymentId: "pay_1", DisputeId: "dsp_1", Reference: order, Amount: gbp(90), Reason: paymentv1.Dispute_REASON_NOT_RECEIVED, Shares: []*paymentv1.MerchantShare{
			{MerchantId: "mrc_a", MinorUnits: 60}, {MerchantId: "mrc_c", MinorUnits: 30},
		}},
		&paymentv1.DisputeClosed{PaymentId: "pay_1", DisputeId: "dsp_1", Reference: order, Amount: gbp(90), State: paymentv1.Dispute_STATE_WON, Shares: []*paymentv1.MerchantShare{{MerchantId: "mrc_a", MinorUnits: 60}}},
		&inspectionv1.SaleDoubted{MerchantId: "mrc_a", OrderId: order, CaseId: "cas_1", UnitId: "unt_1", Reason: "SIGHTED"},
		&inspectionv1.SaleDoubted{MerchantId: "mrc_a", OrderId: order, CaseId: "cas_2", UnitId: "unt_1", Reason: "RETURNED"},
		&inspectionv1.SaleCleared{MerchantId: "mrc_a", OrderId: order, CaseId: "cas_1", UnitId: "unt_1"},
		&inspectionv1.GoodsDestroyed{DestructionId: "des_1", CaseId: "cas_1", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 3, Ground: inspectionv1.Ground_GROUND_DAMAGED},
	}
}

func TestEveryEventOfTheStoryIsToldOnceHoweverOftenItIsHeard(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, member("acc_m", "mrc_a"), "main")
	o := s.places(t, "acc_ann", "GB")
	low := 0
	whole := story(o)
	for range 2 { // the second time is a replay
		for _, e := range whole {
			if _, ok := e.(*warehousev1.StockLow); ok {
				if low++; low > 1 {
					continue // a new position is a new reminder
				}
			}
			require.NoError(t, s.Deliver(t.Context(), "trade", e))
		}
		require.NoError(t, s.Deliver(t.Context(), "trade", o))
	}
	q := s.settles(t)
	for key, state := range q {
		require.Contains(t, []string{"SENT", "DELIVERED"}, state, key)
	}
	count := map[string]int{}
	for _, n := range s.reads(t, consumer("acc_ann")) {
		count[n.GetTopic()]++
	}
	require.Equal(t, map[string]int{
		"order.placed": 1, "order.accepted": 1, "shipment.handed_over": 1, "shipment.trouble": 1, "shipment.out_for_delivery": 1,
		"shipment.ready_for_pickup": 1, "shipment.delivered": 1, "payment.refunded": 2, "order.cancelled": 1, "case.received": 1, "withdrawal.received": 1,
		"order.edit_proposed": 1, "order.edited": 1, "case.offered": 1, "case.decided": 2, "case.assessed": 1, "case.settled": 1, "message.posted": 2,
	}, count)
	told := map[string]int{}
	for _, m := range s.to("https://main.example/hook") {
		var body struct {
			Type      string         `json:"type"`
			Timestamp time.Time      `json:"timestamp"`
			Data      map[string]any `json:"data"`
		}
		require.NoError(t, json.Unmarshal(m.GetMessage().GetData(), &body))
		require.NotEmpty(t, body.Data)
		require.NotZero(t, body.Timestamp)
		told[body.Type]++
	}
	require.Equal(t, map[string]int{
		"sale.placed": 1, "sale.cancelled": 1, "sale.delivered": 1, "carriage.trouble": 2, "stock.low": 1, "return.received": 1, "return.closed": 1,
		"consignment.received": 1, "inspection.verdict": 1, "goods.destroyed": 1, "sale.overdue": 1, "case.opened": 2, "case.escalated": 1, "case.closed": 1,
		"case.message": 2, "case.overdue": 1, "sale.edit_proposed": 1, "sale.edited": 1,
		"stock.shortage": 2, "payout.paid": 1, "payout.failed": 1, "dispute.opened": 1, "dispute.closed": 1, "sale.doubted": 1, "sale.cleared": 1,
	}, told)
	mails := ""
	for _, m := range s.to(mailOf("buyer1")) {
		mails += m.GetMessage().GetSubject() + "\n" + m.GetMessage().GetText()
	}
	require.Contains(t, mails, "N1\nN2", "tracking numbers are told")
	require.Equal(t, 2, strings.Count(mails, "We have refunded GBP 1.00"))
	require.Contains(t, mails, "Total: GBP 0.70\nDifference: GBP -0.30")
	var merchants []string
	for _, n := range s.reads(t, member("acc_c", "mrc_c")) {
		merchants = append(merchants, n.GetTopic())
	}
	require.Contains(t, merchants, "sale.edited", "whose goods came in by the change")
}

func TestNewsOfAnOrderThatIsNotKnownYetWaitForIt(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	o := &orderv1.OrderPlaced{OrderId: "ord_later", Market: "GB", AccountId: "acc_ann", EmailRef: s.seal(t, "email", "a@example.com"), Total: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 5}}
	early := &logisticsv1.ShipmentMoved{ShipmentId: "shp_1", Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, OrderId: "ord_later", Status: logisticsv1.Status_STATUS_DELIVERED}
	require.NoError(t, s.Deliver(t.Context(), "trade", early))
	require.Empty(t, s.settles(t))
	require.NoError(t, s.Deliver(t.Context(), "trade", o))
	require.Equal(t, "SENT", s.settles(t)["mail acc_ann shipment.delivered"])

	// Two deliveries at once can miss each other; the janitor finds what is left.
	_, err := s.Admin.Exec(t.Context(), `INSERT INTO p_notification.waiting (source, order_id, news) SELECT 'x', 'ord_later',
		jsonb_build_object('source', 'x', 'topic', 'order.accepted', 'order', 'ord_later', 'facts', jsonb_build_object('order_id', 'ord_later'), 'at', now())`)
	require.NoError(t, err)
	require.NoError(t, s.service.tidy(t.Context()))
	require.Equal(t, "DELIVERED", s.settles(t)["inbox acc_ann order.accepted"])
}

// log delivers an event as of a time.
func (s *shop) logs(t *testing.T, at time.Time, e proto.Message) {
	t.Helper()
	o, err := store.Encode(e)
	require.NoError(t, err)
	var sub int32
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT id FROM bus.subscription WHERE name = 'notification/trade'`).Scan(&sub))
	var head int64
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT pos FROM bus.cursor WHERE sub = $1 AND lane = 1`, sub).Scan(&head))
	_, err = pluginv1connect.NewEventServiceClient(s.Client(call.Info{})).Deliver(t.Context(), &pluginv1.DeliverRequest{
		Subscription: sub, Name: "trade", Lanes: []*pluginv1.LaneMove{{Lane: 1, Expected: head, Next: head + 1}},
		Events: []*pluginv1.Event{{Position: head + 1, EventId: o.Key, Topic: o.Topic, Key: o.Key, Payload: o.Payload, At: timestamppb.New(at)}},
	})
	require.NoError(t, err)
}

func TestWhatHappenedBeforeTheModuleIsNobodysNews(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	old := &orderv1.OrderPlaced{OrderId: "ord_old", Market: "GB", AccountId: "acc_ann", EmailRef: s.seal(t, "email", "a@example.com"), Total: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 5}}
	s.logs(t, time.Now().Add(-time.Hour), old)
	require.Empty(t, s.settles(t))
	// But whom the order's later news go to is known.
	s.logs(t, time.Now(), &orderv1.OrderCancelled{OrderId: "ord_old"})
	require.Equal(t, "SENT", s.settles(t)["mail acc_ann order.cancelled"])
}

func TestWhatIsForgottenIsNotToldAgainByAReplay(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	o := s.places(t, "acc_ann", "GB")
	s.settles(t)
	for _, table := range []string{"notification SET created_at", "buyer SET at", "horizon SET at"} {
		_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.`+table+` = now() - interval '500 days'`)
		require.NoError(t, err)
	}
	require.NoError(t, s.service.tidy(t.Context()))
	require.Empty(t, s.queue(t), "deliveries and inboxes go with their notification")
	require.Empty(t, s.reads(t, consumer("acc_ann")))
	s.logs(t, time.Now().Add(-500*24*time.Hour), o)
	require.Empty(t, s.settles(t))
	require.Len(t, s.to(mailOf("buyer1")), 1)
}

func TestRecommendationsAreToldWhileTheyAreFresh(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.horizon SET at = now() - interval '9 days'`)
	require.NoError(t, err)
	ready := &analyticsv1.RecommendationsReady{AccountId: "acc_ann", Market: "DE", Recommendations: []*analyticsv1.Recommendation{
		{Sku: "sku_1", MerchantId: "mrc_a", Price: gbp(5), Reason: &analyticsv1.Reason{Code: analyticsv1.Reason_CODE_TRENDING}},
	}}
	s.logs(t, time.Now().Add(-2*stale), ready)
	require.Empty(t, s.settles(t), "the goods may be sold by now")
	s.logs(t, time.Now(), ready)
	require.Equal(t, map[string]string{"inbox acc_ann recommendation.new": "DELIVERED"}, s.settles(t), "a mail is for who wants it by mail")
	got := s.reads(t, consumer("acc_ann"))[0]
	require.Equal(t, "Etwas für Sie", got.GetTitle())
	require.Contains(t, got.GetData().String(), "sku_1")
	require.Contains(t, got.GetData().String(), "TRENDING")
}

func TestWhoWaitedForGoodsIsToldEachTimeTheyAreThere(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	back := &orderv1.BackInStock{AccountId: "acc_ann", Sku: "sku_1", Market: "GB", Quantity: 3}
	s.logs(t, time.Now(), back)
	back.Title = "Tea pot"
	s.logs(t, time.Now(), back)
	require.Equal(t, map[string]string{"inbox acc_ann stock.available": "DELIVERED"}, s.settles(t))
	var told []string
	for _, n := range s.reads(t, consumer("acc_ann")) {
		told = append(told, n.GetTopic()+": "+n.GetTitle())
	}
	require.Equal(t, []string{"stock.available: Tea pot is here again", "stock.available: Article sku_1 is here again"}, told, "by its title where one is known")
}

func TestAnOrderThatWaitsForStockTellsOfItselfBeforeItIsPlaced(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	email := s.seal(t, "email", "guest@example.com")
	for range 2 { // the second time is a replay
		require.NoError(t, s.Deliver(t.Context(), "trade",
			&orderv1.BackorderPlaced{OrderId: "ord_1", Market: "DE", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 2, ExpectedOn: "2026-12-24", EmailRef: email},
			&orderv1.BackorderPlaced{OrderId: "ord_2", Market: "GB", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 1, AccountId: "acc_ann", EmailRef: email},
			&orderv1.BackorderCancelled{OrderId: "ord_1", Market: "DE", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 2, EmailRef: email, Reason: "zu spät"}))
	}
	require.NoError(t, s.Deliver(t.Context(), "trade",
		&orderv1.BackorderRescheduled{OrderId: "ord_2", Market: "GB", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 1, ToldOn: "2026-12-24", ExpectedOn: "2027-01-15"},
		&orderv1.BackorderPaymentRefused{OrderId: "ord_2", Market: "GB", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 1, AccountId: "acc_ann", EmailRef: email},
		&orderv1.BackorderRescheduled{OrderId: "ord_2", Market: "GB", MerchantId: "mrc_a", Sku: "sku_1", Quantity: 1, ToldOn: "2027-01-15", ExpectedOn: "2026-12-30"}))
	require.Equal(t, map[string]string{
		"inbox mrc_a sale.backordered": "DELIVERED", "mail ord_1 backorder.placed": "SENT", "mail ord_1 backorder.cancelled": "SENT",
		"inbox acc_ann backorder.placed": "DELIVERED", "mail acc_ann backorder.placed": "SENT",
		"inbox acc_ann backorder.payment_refused": "DELIVERED", "mail acc_ann backorder.payment_refused": "SENT",
		"inbox acc_ann backorder.rescheduled": "DELIVERED", "mail acc_ann backorder.rescheduled": "SENT",
	}, s.settles(t))
	mails := s.to("guest@example.com")
	require.Len(t, mails, 6)
	all := ""
	for _, m := range mails {
		all += m.GetMessage().GetText()
	}
	require.Contains(t, all, "wird für den 2026-12-24 erwartet")
	require.Contains(t, all, "Grund: zu spät")
	require.Contains(t, all, "are now expected on 2027-01-15, and not on 2026-12-24 as we told you.\n\nThat is later than agreed.")
	require.Equal(t, 1, strings.Count(all, "you may cancel the order at any time"), "an earlier day gives nobody a right")
}

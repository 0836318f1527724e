package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const annsMail = "mail acc_ann order.placed"

// goes has a guest's order whose confirmation goes as it is told, and answers
// its place in the queue.
func (s *shop) goes(t *testing.T, how string) (way string) {
	t.Helper()
	o := s.places(t, "", "GB", func(o *orderv1.OrderPlaced) {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		if s.of == nil {
			s.of = map[string][]string{}
		}
		s.of["Your order "+o.GetOrderId()] = []string{how}
	})
	return "mail " + o.GetOrderId() + " order.placed"
}

func TestATryInVainIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	for how, want := range map[string]string{
		"defer": "QUEUED 451", "timeout-before": "UNKNOWN OUTCOME_UNKNOWN", "timeout-after": "UNKNOWN OUTCOME_UNKNOWN", "other-key": "UNKNOWN OUTCOME_UNKNOWN",
	} {
		before, asked := len(s.Published(t)), s.lookups
		way := s.goes(t, how)
		require.Equal(t, want, s.settles(t)[way], how)
		require.Len(t, s.Published(t), before, "nothing is told of what has not ended")
		s.due(t)
		require.Equal(t, "SENT", s.settles(t)[way], how)
		require.Len(t, s.to(mailOf(fmt.Sprintf("buyer%d", s.n))), 1, "it left once")
		require.Equal(t, how != "defer", s.lookups > asked, "what may have left is asked for first")
		told := s.Published(t)
		require.Len(t, told, before+1)
		require.Equal(t, "smtp", told[before].(*notificationv1.NotificationSent).GetInstance())
	}
}

func TestWhatNobodyKnowsOfIsSentAgainUnderTheSameKey(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.does("timeout-after-and-forget")
	s.places(t, "acc_ann", "GB")
	s.settles(t)
	s.due(t)
	require.Equal(t, "SENT", s.settles(t)[annsMail])
	sent := s.to(mailOf("buyer1"))
	require.Len(t, sent, 2, "at least once")
	require.Equal(t, sent[0].GetKey(), sent[1].GetKey())
	require.Equal(t, sent[0].GetMessage().GetId(), sent[1].GetMessage().GetId(), "the recipient can tell")
}

func TestARefusalIsTheEnd(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	for how, code := range map[string]string{"refuse": "554", "gone": "550 5.1.1", "final": "CHANNEL_UNKNOWN"} {
		before := len(s.Published(t))
		way := s.goes(t, how)
		require.Equal(t, "FAILED "+code, s.settles(t)[way])
		failed := s.Published(t)[before].(*notificationv1.NotificationFailed)
		require.Equal(t, code, failed.GetCode())
		require.Equal(t, notificationv1.Category_CATEGORY_LEGAL, failed.GetCategory())
		require.Empty(t, s.to(mailOf(fmt.Sprintf("buyer%d", s.n))))
	}
}

func TestADeliveryIsGivenUpAfterItsTries(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	for range len(pauses) + 1 {
		s.does("defer")
	}
	s.places(t, "acc_ann", "GB")
	for range pauses {
		require.Equal(t, "QUEUED 451", s.settles(t)[annsMail])
		s.due(t)
	}
	require.Equal(t, "FAILED TRIES_EXHAUSTED", s.settles(t)[annsMail])

	// Staff may begin anew; the provider takes it for another delivery.
	all, err := s.deliveries(staff).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{State: notificationv1.Delivery_STATE_FAILED})
	require.NoError(t, err)
	require.Len(t, all.GetDeliveries(), 1)
	_, err = s.deliveries(staff).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: all.GetDeliveries()[0].GetDeliveryId()})
	require.NoError(t, err)
	require.Equal(t, "SENT", s.settles(t)[annsMail])
	require.Equal(t, all.GetDeliveries()[0].GetDeliveryId()+"/2", s.to(mailOf("buyer1"))[0].GetKey())
}

func TestAPauseIsAsLongAsTheOtherSideWants(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.does("defer")
	s.places(t, "acc_ann", "GB")
	s.settles(t)
	var d delivery
	require.NoError(t, s.Admin.QueryRow(t.Context(), `UPDATE p_notification.delivery SET state = 2, tries = 7 WHERE channel = 2 RETURNING id, tries`).Scan(&d.delivery, &d.tries))
	d.channel = mail
	require.NoError(t, s.service.settle(t.Context(), &d, &providerv1.Delivery{
		State: providerv1.Delivery_STATE_DEFERRED, Code: "421", RetryAfter: durationpb.New(20 * time.Hour),
	}, nil))
	var wait float64
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT extract(epoch FROM due_at - now()) / 3600 FROM p_notification.delivery WHERE channel = 2`).Scan(&wait))
	require.InDelta(t, 20, wait, 0.5)

	// Who was taken for dead writes nothing.
	d.tries = 3
	require.NoError(t, s.service.settle(t.Context(), &d, &providerv1.Delivery{State: providerv1.Delivery_STATE_ACCEPTED}, nil))
	require.Equal(t, "QUEUED 421", s.queue(t)[annsMail])
}

func TestPausesGrowAndEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, len(pauses)).Draw(t, "tries")
		d, more := pause(n)
		require.True(t, more)
		require.GreaterOrEqual(t, d, pauses[n-1])
		require.LessOrEqual(t, d, pauses[n-1]*11/10)
		if n > 1 {
			require.Greater(t, pauses[n-1], pauses[n-2])
		}
		_, more = pause(len(pauses) + n)
		require.False(t, more)
	})
}

func TestAProcessThatDiedWhileSendingIsFollowedByOneThatAsks(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.does("defer")
	s.places(t, "acc_ann", "GB")
	s.settles(t)
	// It died after the provider took it over, and before it wrote that down.
	var key string
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT id FROM p_notification.delivery WHERE channel = 2`).Scan(&key))
	s.mu.Lock()
	s.world.mu.Lock()
	s.ends[key] = &providerv1.Delivery{Key: key, State: providerv1.Delivery_STATE_ACCEPTED}
	s.world.mu.Unlock()
	s.mu.Unlock()
	_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.delivery SET state = 2, instance = 'smtp', due_at = now() WHERE channel = 2`)
	require.NoError(t, err)
	require.Equal(t, "SENT", s.settles(t)[annsMail])
	require.Empty(t, s.to(mailOf("buyer1")), "it is not sent again")
	require.Equal(t, 1, s.lookups)
}

func TestWithoutAProviderMailsWaitAndCostNoTries(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil, plugintest.Instances(contract, &kernelv1.Instance{Instance: "hooks", Ready: true, Capabilities: []string{"webhook"}},
		&kernelv1.Instance{Instance: "down", Capabilities: []string{"mail"}}))
	s.places(t, "acc_ann", "GB")
	require.Equal(t, "QUEUED NO_PROVIDER", s.settles(t)[annsMail])
	var tries int
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT tries FROM p_notification.delivery WHERE channel = 2`).Scan(&tries))
	require.Zero(t, tries)
	_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.delivery SET since = now() - interval '100 hours', due_at = now() WHERE channel = 2`)
	require.NoError(t, err)
	require.Equal(t, "FAILED NO_PROVIDER", s.settles(t)[annsMail])
}

func TestAPersonWhoWasErasedIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.places(t, "acc_ann", "GB", func(o *orderv1.OrderPlaced) { o.EmailRef = "vlt_00000000000000000000000000" })
	require.Equal(t, "FAILED NO_ADDRESS", s.settles(t)[annsMail], "the vault of tests knows nothing of erasure: what it does not have is empty")
	d := &delivery{addressRef: "vlt_x", channel: mail}
	p := &parcel{delivery: d}
	s.service.pack(t.Context(), p, map[string]*kernelv1.Revealed{"vlt_x": {Ref: "vlt_x", Erased: true}}, nil)
	require.Equal(t, "ERASED", p.end.GetCode())
}

func TestReceiptsOfTheInstanceThatSentItCount(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann := consumer("acc_ann")
	s.confirms(t, ann, "ann@example.com")
	_, err := s.steps("aftersale").Notify(t.Context(), &notificationv1.NotifyRequest{
		NotificationId: "1", Topic: "case.settled", Audience: &notificationv1.Audience{Who: &notificationv1.Audience_AccountId{AccountId: "acc_ann"}},
		Data: data(t, map[string]any{"case_id": "afs_1", "order_id": "ord_1", "outcome": "SETTLED", "refunded": map[string]any{"currency": "GBP", "minor": 1}}),
	})
	require.NoError(t, err)
	const way = "mail acc_ann case.settled"
	require.Equal(t, "SENT", s.settles(t)[way])
	var key string
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT d.id FROM p_notification.delivery d JOIN p_notification.notification n ON n.id = d.notification_id
		WHERE d.channel = 2 AND n.topic = 'case.settled'`).Scan(&key))
	heard := func(instance string, state providerv1.Delivery_State, gone bool) {
		require.NoError(t, s.Deliver(t.Context(), "receipts", &providerv1.DeliveryUpdated{
			Key: key, Instance: instance, Delivery: &providerv1.Delivery{Key: key, State: state, Code: "550 5.1.1", Gone: gone},
		}))
	}
	heard("another", providerv1.Delivery_STATE_REFUSED, true)
	heard("smtp", providerv1.Delivery_STATE_DEFERRED, false)
	require.Equal(t, "SENT", s.queue(t)[way])
	heard("smtp", providerv1.Delivery_STATE_DELIVERED, false)
	require.Equal(t, "DELIVERED 550 5.1.1", s.queue(t)[way])
	before := len(s.Published(t))
	heard("smtp", providerv1.Delivery_STATE_REFUSED, true)
	heard("smtp", providerv1.Delivery_STATE_REFUSED, true)
	require.Equal(t, "FAILED 550 5.1.1", s.queue(t)[way])
	require.Len(t, s.Published(t), before+1)
	got, err := s.preferences(ann).GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
	require.NoError(t, err)
	require.Equal(t, notificationv1.Contact_STATE_GONE, got.GetContact().GetState(), "nothing else is sent there")
}

func TestAnotherPluginNotifiesOnceForEachOfItsNames(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	o := s.places(t, "", "DE")
	ask := &notificationv1.NotifyRequest{
		NotificationId: "afs_1/decided", Topic: "case.decided", Audience: &notificationv1.Audience{Who: &notificationv1.Audience_OrderId{OrderId: o.GetOrderId()}},
		Data: data(t, map[string]any{"case_id": "afs_1", "order_id": o.GetOrderId(), "decision": "APPROVED", "keep_goods": false}), Reference: "afs_1",
	}
	first, err := s.steps("aftersale").Notify(t.Context(), ask)
	require.NoError(t, err)
	again, err := s.steps("aftersale").Notify(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, first.GetNotificationId(), again.GetNotificationId())
	other, err := s.steps("analytics").Notify(t.Context(), ask)
	require.NoError(t, err)
	require.NotEqual(t, first.GetNotificationId(), other.GetNotificationId(), "names are the caller's own")
	s.settles(t)
	mails := s.to(mailOf("buyer1"))
	require.Len(t, mails, 3)
	require.Contains(t, mails[0].GetMessage().GetText()+mails[1].GetMessage().GetText()+mails[2].GetMessage().GetText(), "Entscheidung: APPROVED")
}

func TestATopicOfAnotherPluginComesWithItsWords(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ask := func(change func(*notificationv1.NotifyRequest)) error {
		req := &notificationv1.NotifyRequest{
			NotificationId: "1", Topic: "giftwrap.ready", Audience: &notificationv1.Audience{
				Who: &notificationv1.Audience_AccountId{AccountId: "acc_ann"}, EmailRef: s.seal(t, "email", "ann@example.com"),
			},
			Category: transactional, Data: data(t, map[string]any{"colour": "blue"}), Sealed: map[string]string{"name": s.seal(t, "name", "Ann")},
			Words: []*notificationv1.Words{{Language: "en", Subject: "Wrapped in {{.colour}}", Text: "Dear {{.name}}, it is wrapped."}},
		}
		change(req)
		_, err := s.steps("giftwrap").Notify(t.Context(), req)
		return err
	}
	require.NoError(t, ask(func(*notificationv1.NotifyRequest) {}))
	s.settles(t)
	require.Equal(t, "Dear Ann, it is wrapped.", s.to("ann@example.com")[0].GetMessage().GetText())
	read := s.reads(t, consumer("acc_ann"))[0]
	require.Equal(t, "Dear , it is wrapped.", read.GetBody(), "what is sealed is for the mail alone")
	require.Equal(t, "Wrapped in blue", read.GetTitle())
	prefs, err := s.preferences(consumer("acc_ann")).GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(prefs.GetPreferences()), "giftwrap.ready", "and it can be switched off")

	for want, change := range map[string]func(*notificationv1.NotifyRequest){
		"TOPIC_UNKNOWN":   func(r *notificationv1.NotifyRequest) { r.Words = nil },
		"TEMPLATE_BROKEN": func(r *notificationv1.NotifyRequest) { r.Words[0].Text = "{{.size}}" },
		"category":        func(r *notificationv1.NotifyRequest) { r.Category = 0 },
		"not whom":        func(r *notificationv1.NotifyRequest) { r.Topic = "stock.low" },
		"topic contact":   func(r *notificationv1.NotifyRequest) { r.Topic = "contact.confirm" },
		"larger": func(r *notificationv1.NotifyRequest) {
			r.Data = data(t, map[string]any{"x": strings.Repeat("x", 70_000)})
		},
		"NUL":             func(r *notificationv1.NotifyRequest) { r.Data = data(t, map[string]any{"x": "\x00"}) },
		"notification_id": func(r *notificationv1.NotifyRequest) { r.NotificationId = "" },
		"owed":            func(r *notificationv1.NotifyRequest) { r.Category = legal },
		"email_ref":       func(r *notificationv1.NotifyRequest) { r.Audience.EmailRef = "ann@example.com" },
	} {
		err := ask(change)
		require.Error(t, err, want)
		if want == strings.ToUpper(want) && want != "NUL" {
			require.Equal(t, want, fault.Reason(err))
		}
	}
}

// TestWhateverProvidersDoEachMailEndsOnceAndIsTold: every way that four tries
// can go. What was acknowledged left, what was refused did not, what left twice
// did so under one key, and each end was told once, without an address.
func TestWhateverProvidersDoEachMailEndsOnceAndIsTold(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.of = map[string][]string{}
	ways := [][]string{{}}
	var all [][]string
	for range 3 {
		var longer [][]string
		for _, w := range ways {
			for _, how := range []string{"", "defer", "timeout-before", "timeout-after", "timeout-after-and-forget", "other-key", "refuse"} {
				longer = append(longer, append(slices.Clone(w), how))
			}
		}
		ways = longer
		all = append(all, longer...)
	}
	var orders []proto.Message
	ref := s.seal(t, "email", "all@example.com")
	for i, how := range all {
		o := &orderv1.OrderPlaced{OrderId: fmt.Sprintf("ord_%03d", i), Market: "GB", EmailRef: ref, Total: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 1}}
		s.of["Your order "+o.GetOrderId()] = slices.Clone(how)
		orders = append(orders, o)
	}
	require.NoError(t, s.Deliver(t.Context(), "trade", orders...))
	for range 5 {
		s.settles(t)
		s.due(t)
	}
	q := s.settles(t)
	left, keys := map[string]int{}, map[string]string{}
	for _, m := range s.to("all@example.com") {
		subject := m.GetMessage().GetSubject()
		if left[subject]++; keys[subject] != "" {
			require.Equal(t, keys[subject], m.GetKey())
		}
		keys[subject] = m.GetKey()
	}
	ends := map[string]int{}
	for _, e := range s.Published(t) {
		b, err := proto.Marshal(e)
		require.NoError(t, err)
		require.NotContains(t, string(b), "@")
		switch e := e.(type) {
		case *notificationv1.NotificationSent:
			ends[e.GetReference()+" SENT"]++
		case *notificationv1.NotificationFailed:
			ends[e.GetReference()+" FAILED "+e.GetCode()]++
		}
	}
	require.Len(t, ends, len(all))
	for i, how := range all {
		order := fmt.Sprintf("ord_%03d", i)
		state, n := q["mail "+order+" order.placed"], left["Your order "+order]
		require.Equal(t, 1, ends[order+" "+state], "%v", how)
		switch state {
		case "SENT":
			require.GreaterOrEqual(t, n, 1, "%v", how)
			require.LessOrEqual(t, n, 1+strings.Count(strings.Join(how, " "), "and-forget"), "%v", how)
		case "FAILED 554":
			require.Contains(t, how, "refuse")
			require.LessOrEqual(t, n, strings.Count(strings.Join(how, " "), "and-forget"), "%v", how)
		default:
			t.Errorf("%v ended as %q", how, state)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func (s *shop) set(p call.Principal, confirm bool, topic string, c notificationv1.Channel, on bool) error {
	_, err := s.preferences(p).SetPreferences(context.Background(), &notificationv1.SetPreferencesRequest{
		Changes: []*notificationv1.SetPreferencesRequest_Change{{Topic: topic, Channel: c, Enabled: on}}, ConfirmTransactional: confirm,
	})
	return err
}

func (s *shop) enabled(t testing.TB, p call.Principal, topic string, c notificationv1.Channel) bool {
	t.Helper()
	res, err := s.preferences(p).GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
	require.NoError(t, err)
	for _, one := range res.GetPreferences() {
		if one.GetTopic() == topic && one.GetChannel() == c {
			return one.GetEnabled()
		}
	}
	t.Fatalf("no preference %s %s", topic, c)
	return false
}

func TestWhatIsOwedIsAlwaysMailedAndWhatIsUnderWayUnlessItIsMeant(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann, bob := consumer("acc_ann"), member("acc_bob", "mrc_a")
	for name, c := range map[string]struct {
		who     call.Principal
		confirm bool
		topic   string
		channel notificationv1.Channel
		on      bool
		reason  string
	}{
		"a legal mail off":           {ann, true, "order.placed", mail, false, "LEGAL_ALWAYS"},
		"a legal mail on":            {ann, false, "order.placed", mail, true, ""},
		"a legal mail's inbox off":   {ann, false, "payment.refunded", inbox, false, ""},
		"transactional, by accident": {ann, false, "shipment.delivered", mail, false, "CONFIRM_TRANSACTIONAL"},
		"transactional, meant":       {ann, true, "shipment.delivered", mail, false, ""},
		"an offer on":                {ann, false, "recommendation.new", mail, true, ""},
		"an offer's inbox off":       {ann, false, "recommendation.new", inbox, false, ""},
		"a code":                     {ann, true, "contact.confirm", mail, false, "TOPIC_UNKNOWN"},
		"a merchant's topic":         {ann, true, "sale.placed", inbox, false, "TOPIC_UNKNOWN"},
		"nobody's topic":             {ann, true, "weather.rain", inbox, false, "TOPIC_UNKNOWN"},
		"webhooks":                   {ann, true, "order.placed", webhook, true, "CHANNEL_FIXED"},
		"a merchant's inbox":         {bob, true, "sale.placed", inbox, false, "CHANNEL_FIXED"},
		"a member's mail":            {bob, false, "sale.placed", mail, true, ""},
		"a consumer's topic":         {bob, true, "order.placed", inbox, false, "TOPIC_UNKNOWN"},
	} {
		require.Equal(t, c.reason, fault.Reason(s.set(c.who, c.confirm, c.topic, c.channel, c.on)), name)
		if c.reason == "" {
			require.Equal(t, c.on, s.enabled(t, c.who, c.topic, c.channel), name)
		}
	}
	s.places(t, "acc_ann", "GB")
	require.Equal(t, "SENT", s.settles(t)["mail acc_ann order.placed"])
}

func TestChangesAreMadeTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann := consumer("acc_ann")
	_, err := s.preferences(ann).SetPreferences(t.Context(), &notificationv1.SetPreferencesRequest{Language: "de", Changes: []*notificationv1.SetPreferencesRequest_Change{
		{Topic: "recommendation.new", Channel: mail, Enabled: true}, {Topic: "order.placed", Channel: mail, Enabled: false},
	}})
	require.Equal(t, "LEGAL_ALWAYS", fault.Reason(err))
	require.False(t, s.enabled(t, ann, "recommendation.new", mail))
}

func TestPreferencesDecideOnChannelsAndLanguage(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann := consumer("acc_ann")
	_, err := s.preferences(ann).SetPreferences(t.Context(), &notificationv1.SetPreferencesRequest{Language: "de-AT", Changes: []*notificationv1.SetPreferencesRequest_Change{
		{Topic: "order.placed", Channel: inbox, Enabled: false},
	}})
	require.NoError(t, err)
	o := s.places(t, "acc_ann", "JP")
	q := s.settles(t)
	require.NotContains(t, q, "inbox acc_ann order.placed")
	require.Equal(t, "Ihre Bestellung "+o.GetOrderId(), s.to(mailOf("buyer1"))[0].GetMessage().GetSubject(), "her own language goes before the market's")

	notify := func(n string) {
		_, err := s.steps("analytics").Notify(t.Context(), &notificationv1.NotifyRequest{
			NotificationId: n, Topic: "recommendation.new", Audience: &notificationv1.Audience{Who: &notificationv1.Audience_AccountId{AccountId: "acc_ann"}},
			Data: data(t, map[string]any{"count": 1, "items": []any{}}),
		})
		require.NoError(t, err)
	}
	require.NoError(t, s.set(ann, false, "recommendation.new", inbox, false))
	notify("1")
	require.NotContains(t, s.settles(t), "inbox acc_ann recommendation.new", "who does not want an offer says so once")
	require.NoError(t, s.set(ann, false, "recommendation.new", inbox, true))
	require.NoError(t, s.set(ann, false, "recommendation.new", mail, true))
	notify("2")
	require.Equal(t, "DELIVERED", s.settles(t)["inbox acc_ann recommendation.new"])
	require.NotContains(t, s.queue(t), "mail acc_ann recommendation.new", "there is no address that she vouched for")
	s.confirms(t, ann, "ann@example.com")
	notify("3")
	require.Equal(t, "SENT", s.settles(t)["mail acc_ann recommendation.new"])
}

func TestAnAddressIsWrittenToWhenItsCodeCameBack(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann, bob := consumer("acc_ann"), consumer("acc_bob")
	// What was owed and had nowhere to go.
	s.places(t, "acc_ann", "GB", func(o *orderv1.OrderPlaced) { o.EmailRef = "" })
	require.Equal(t, "FAILED NO_ADDRESS", s.settles(t)["mail acc_ann order.placed"])

	put, err := s.puts(t, ann, "ann@example.com")
	require.NoError(t, err)
	require.Equal(t, notificationv1.Contact_STATE_UNCONFIRMED, put.GetContact().GetState())
	_, err = s.puts(t, ann, "other@example.com")
	require.Equal(t, "CONTACT_TOO_OFTEN", fault.Reason(err), "nobody has strangers mailed")
	code := s.code(t, "ann@example.com")
	require.NotContains(t, fmt.Sprint(s.queue(t)), code)

	confirm := func(p call.Principal, code string) string {
		_, err := s.preferences(p).ConfirmContact(t.Context(), &notificationv1.ConfirmContactRequest{Code: code})
		return fault.Reason(err)
	}
	require.Equal(t, "CODE_EXPIRED", confirm(bob, code), "a code is one account's")
	wrong := "00000000"
	if code == wrong {
		wrong = "00000001"
	}
	for range codeTries - 1 {
		require.Equal(t, "CODE_WRONG", confirm(ann, wrong))
	}
	require.Equal(t, "FAILED NO_ADDRESS", s.settles(t)["mail acc_ann order.placed"])
	require.Empty(t, confirm(ann, code))
	require.Empty(t, confirm(ann, code), "a repetition is answered alike")
	require.Equal(t, "SENT", s.settles(t)["mail acc_ann order.placed"])
	require.Len(t, s.to("ann@example.com"), 2)
}

func TestACodeIsGuessedFiveTimes(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann := consumer("acc_ann")
	_, err := s.puts(t, ann, "ann@example.com")
	require.NoError(t, err)
	code := s.code(t, "ann@example.com")
	wrong := "99999999"
	if code == wrong {
		wrong = "99999998"
	}
	for range codeTries {
		_, err := s.preferences(ann).ConfirmContact(t.Context(), &notificationv1.ConfirmContactRequest{Code: wrong})
		require.Equal(t, "CODE_WRONG", fault.Reason(err))
	}
	_, err = s.preferences(ann).ConfirmContact(t.Context(), &notificationv1.ConfirmContactRequest{Code: code})
	require.Equal(t, "CODE_EXPIRED", fault.Reason(err))
	// Five a day, however long is waited between them.
	for range asksPerDay - 1 {
		_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.account SET asked_at = greatest(now() - interval '2 minutes', now()::date)`)
		require.NoError(t, err)
		if _, err = s.puts(t, ann, "ann@example.com"); err != nil {
			t.Skip("it is a minute past midnight") // the day began with these
		}
	}
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.account SET asked_at = greatest(now() - interval '2 minutes', now()::date)`)
	require.NoError(t, err)
	_, err = s.puts(t, ann, "ann@example.com")
	require.Equal(t, "CONTACT_TOO_OFTEN", fault.Reason(err))
}

func TestMembersAreMailedWhatTheyWantAndNoLongerThanTheyAre(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	bob, eve, other := member("acc_bob", "mrc_a"), member("acc_eve", "mrc_a"), member("acc_joe", "mrc_b")
	s.confirms(t, bob, "bob@example.com")
	s.confirms(t, eve, "eve@example.com")
	s.confirms(t, other, "joe@example.com")
	require.NoError(t, s.set(eve, false, "sale.placed", mail, true))
	s.places(t, "", "GB")
	q := s.settles(t)
	require.Equal(t, "SENT", q["mail acc_eve sale.placed"])
	require.NotContains(t, q, "mail acc_bob sale.placed", "orders fill the inbox; a mail for each is for who wants it")
	require.NotContains(t, q, "mail acc_joe sale.placed")

	list, err := s.preferences(bob).ListContacts(t.Context(), &notificationv1.ListContactsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetContacts(), 2)
	clerk := member("acc_bob", "mrc_a")
	clerk.Permissions = []string{"notification.read"}
	_, err = s.preferences(clerk).RemoveContact(t.Context(), &notificationv1.RemoveContactRequest{AccountId: "acc_eve"})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	for _, account := range []string{"acc_eve", "acc_joe"} {
		_, err = s.preferences(bob).RemoveContact(t.Context(), &notificationv1.RemoveContactRequest{AccountId: account})
		require.NoError(t, err)
	}
	list, err = s.preferences(other).ListContacts(t.Context(), &notificationv1.ListContactsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetContacts(), 1, "another merchant's stay")
	s.places(t, "", "GB")
	s.settles(t)
	require.Len(t, s.to("eve@example.com"), 2, "her code, and one sale")
}

func TestAnInboxIsReadInPagesAndByItsOwnerAlone(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann, bob := consumer("acc_ann"), consumer("acc_bob")
	for range 5 {
		s.places(t, "acc_ann", "GB")
	}
	s.settles(t)
	var ids []string
	token := ""
	for {
		res, err := s.inbox(ann).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		require.Equal(t, int32(5), res.GetUnread())
		for _, n := range res.GetNotifications() {
			ids = append(ids, n.GetNotificationId())
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Len(t, ids, 5)
	_, err := s.inbox(ann).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{PageToken: "x"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.Empty(t, s.reads(t, bob))
	read, err := s.inbox(bob).MarkRead(t.Context(), &notificationv1.MarkReadRequest{NotificationIds: ids, Through: 1 << 60})
	require.NoError(t, err)
	require.Zero(t, read.GetUnread())
	read, err = s.inbox(ann).MarkRead(t.Context(), &notificationv1.MarkReadRequest{NotificationIds: ids[:2]})
	require.NoError(t, err)
	require.Equal(t, int32(3), read.GetUnread(), "bob marked nothing of hers")
	only, err := s.inbox(ann).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{Unread: true, Topics: []string{"order.placed"}})
	require.NoError(t, err)
	require.Len(t, only.GetNotifications(), 3)
	read, err = s.inbox(ann).MarkRead(t.Context(), &notificationv1.MarkReadRequest{Through: only.GetNotifications()[0].GetSequence()})
	require.NoError(t, err)
	require.Zero(t, read.GetUnread())
	_, err = s.inbox(ann).MarkRead(t.Context(), &notificationv1.MarkReadRequest{})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = s.inbox(staff).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{})
	require.Equal(t, "NO_INBOX", fault.Reason(err))
}

func TestATerminalThatWatchesMissesNothing(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	ann := consumer("acc_ann")
	s.places(t, "acc_ann", "GB")
	s.settles(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch := func(after int64) notificationv1connect.InboxServiceWatchNotificationsClientStream {
		stream, err := s.inbox(ann).WatchNotifications(ctx, &notificationv1.WatchNotificationsRequest{After: after})
		require.NoError(t, err)
		return stream
	}
	next := func(stream notificationv1connect.InboxServiceWatchNotificationsClientStream) *notificationv1.WatchNotificationsResponse {
		res, err := stream.Receive()
		require.NoError(t, err)
		return res
	}
	stream := watch(0)
	first := next(stream)
	require.Empty(t, first.GetNotifications(), "what was there before is in the list")
	require.Equal(t, int32(1), first.GetUnread())
	seen := map[string]bool{}
	var last int64
	for range 3 {
		o := s.places(t, "acc_ann", "GB")
		for len(seen) == 0 || !seen[o.GetOrderId()] {
			for _, n := range next(stream).GetNotifications() {
				require.False(t, seen[n.GetReference()], "each once")
				require.Greater(t, n.GetSequence(), last)
				seen[n.GetReference()], last = true, n.GetSequence()
			}
		}
	}
	require.NoError(t, stream.Close())
	// It comes back with what it saw last, and is told what it missed.
	s.places(t, "acc_ann", "GB")
	s.places(t, "acc_bob", "GB")
	s.settles(t)
	missed := next(watch(last)).GetNotifications()
	require.Len(t, missed, 1)
	require.Greater(t, missed[0].GetSequence(), last)
}

func TestNumbersOfInboxesBecomeVisibleInTheirOrder(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	// While one transaction holds on to its numbers nobody else gives any out.
	tx, err := s.Admin.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(7204)`)
	require.NoError(t, err)
	s.places(t, "acc_ann", "GB")
	n, err := s.service.post(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, s.reads(t, consumer("acc_ann")))
	require.NoError(t, tx.Rollback(t.Context()))
	s.settles(t)
	require.Len(t, s.reads(t, consumer("acc_ann")), 1)
}

func (s *shop) templates(p call.Principal) notificationv1connect.TemplateServiceClient {
	return notificationv1connect.NewTemplateServiceClient(s.Client(plugintest.As(p, "GB")))
}

func TestTheMarketplacesWordsGoBeforeTheModules(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	words := &notificationv1.Template{Topic: "order.placed", Language: "fr", Subject: "Commande {{.order_id}}", Text: "Total: {{money .total}}", Html: "<b>{{money .total}}</b>"}
	_, err := s.templates(staff).PutTemplate(t.Context(), &notificationv1.PutTemplateRequest{Template: words})
	require.NoError(t, err)
	words.Language = "en"
	_, err = s.templates(staff).PutTemplate(t.Context(), &notificationv1.PutTemplateRequest{Template: words})
	require.NoError(t, err)
	o := s.places(t, "", "GB")
	s.settles(t)
	m := s.to(mailOf("buyer1"))[0].GetMessage()
	require.Equal(t, "Commande "+o.GetOrderId(), m.GetSubject())
	require.Equal(t, "<b>GBP 129.90</b>", m.GetHtml())

	all, err := s.templates(staff).ListTemplates(t.Context(), &notificationv1.ListTemplatesRequest{})
	require.NoError(t, err)
	require.Len(t, all.GetTopics(), len(catalogue))
	for _, topic := range all.GetTopics() {
		if topic.GetTopic() == "order.placed" {
			require.Len(t, topic.GetTemplates(), 4, "de, en, fr, ja")
			require.True(t, topic.GetTemplates()[0].GetBuiltIn())
			require.False(t, topic.GetTemplates()[1].GetBuiltIn())
		}
	}
	_, err = s.templates(staff).DeleteTemplate(t.Context(), &notificationv1.DeleteTemplateRequest{Topic: "order.placed", Language: "en"})
	require.NoError(t, err)
	s.places(t, "", "GB")
	s.settles(t)
	require.Contains(t, s.to(mailOf("buyer2"))[0].GetMessage().GetSubject(), "Your order")

	for reason, change := range map[string]func(*notificationv1.Template){
		"TOPIC_UNKNOWN":   func(w *notificationv1.Template) { w.Topic = "weather.rain" },
		"TEMPLATE_BROKEN": func(w *notificationv1.Template) { w.Text = "{{.nobody}}" },
	} {
		bad := &notificationv1.Template{Topic: "order.placed", Language: "en", Subject: "s", Text: "t"}
		change(bad)
		_, err := s.templates(staff).PutTemplate(t.Context(), &notificationv1.PutTemplateRequest{Template: bad})
		require.Equal(t, reason, fault.Reason(err))
		_, err = s.templates(staff).RenderTemplate(t.Context(), &notificationv1.RenderTemplateRequest{Template: bad})
		require.Equal(t, reason, fault.Reason(err))
	}
	shown, err := s.templates(staff).RenderTemplate(t.Context(), &notificationv1.RenderTemplateRequest{
		Template: &notificationv1.Template{Topic: "order.placed", Language: "de", Subject: "s", Text: "{{.x}}"}, Data: data(t, map[string]any{"x": "y"}),
	})
	require.NoError(t, err)
	require.Equal(t, "y", shown.GetText())
}

func TestAMistakeInTheMarketplacesWordsKeepsNoConfirmationBack(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	_, err := s.Admin.Exec(t.Context(), `INSERT INTO p_notification.template (topic, language, subject, body, html, changed_by)
		VALUES ('order.placed', 'en', '{{.gone}}', 'x', '', 'staff'), ('sale.placed', 'en', '{{', 'x', '', 'staff')`)
	require.NoError(t, err)
	s.places(t, "acc_ann", "GB")
	q := s.settles(t)
	require.Equal(t, "SENT", q["mail acc_ann order.placed"])
	require.Equal(t, "DELIVERED", q["inbox mrc_a sale.placed"])
}

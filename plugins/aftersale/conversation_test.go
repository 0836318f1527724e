package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func say(t testing.TB, c caller, topic *aftersalev1.Topic, words string, internal bool) *aftersalev1.Message {
	t.Helper()
	res, err := c.PostMessage(context.Background(), &aftersalev1.PostMessageRequest{Topic: topic, MessageKey: id.New("key"), Text: words, Language: "de", Internal: internal})
	require.NoError(t, err)
	return res.GetMessage()
}

func read(t testing.TB, c caller, topic *aftersalev1.Topic) (words []string) {
	t.Helper()
	res, err := c.ListMessages(context.Background(), &aftersalev1.ListMessagesRequest{Topic: topic})
	require.NoError(t, err)
	for _, m := range res.GetMessages() {
		words = append(words, m.GetText())
	}
	return words
}

func TestAConversationIsReadByItsPartiesAndNotesByTheDeskOnly(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	about := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	c := h.apply(t, application(order, returning, 0, "sku_tea", 1))
	ofCase := &aftersalev1.Topic{CaseId: c.GetCaseId()}

	req := &aftersalev1.PostMessageRequest{Topic: about, MessageKey: "k1", Text: "Wo ist der Tee?", Language: "de"}
	first, err := h.ann.PostMessage(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, "Wo ist der Tee?", first.GetMessage().GetText())
	req.Text = "another"
	again, err := h.ann.PostMessage(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, first.GetMessage().GetMessageId(), again.GetMessage().GetMessageId())
	require.Equal(t, "Wo ist der Tee?", again.GetMessage().GetText(), "what was posted first stands")

	say(t, h.seller, about, "she asked before", true)
	say(t, h.seller, &aftersalev1.Topic{OrderId: order}, "Unterwegs.", false)
	say(t, h.staff, about, "Wir helfen gern.", false)
	say(t, h.ann, ofCase, "Und die Kanne?", false)
	require.Equal(t, []string{"Wo ist der Tee?", "Unterwegs.", "Wir helfen gern."}, read(t, h.ann, about))
	require.Equal(t, []string{"Wo ist der Tee?", "she asked before", "Unterwegs.", "Wir helfen gern."}, read(t, h.seller, about))
	require.Equal(t, []string{"Und die Kanne?"}, read(t, h.staff, ofCase), "a case has a conversation of its own")

	for _, c := range []caller{h.eve, h.guest, h.other} {
		_, err := c.ListMessages(t.Context(), &aftersalev1.ListMessagesRequest{Topic: about})
		refusedAs(t, "ORDER_UNKNOWN", err)
		_, err = c.PostMessage(t.Context(), &aftersalev1.PostMessageRequest{Topic: ofCase, MessageKey: "x", Text: "me too"})
		refusedAs(t, "CASE_UNKNOWN", err)
	}
	for _, bad := range []*aftersalev1.PostMessageRequest{
		{Topic: about, MessageKey: "n", Text: "mine", Internal: true},
		{Topic: about, MessageKey: "n"},
		{Topic: &aftersalev1.Topic{OrderId: order}, MessageKey: "n", Text: "to whom?"},
		{Topic: &aftersalev1.Topic{}, MessageKey: "n", Text: "about what?"},
	} {
		_, err := h.ann.PostMessage(t.Context(), bad)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", bad)
	}

	// Translations stand beside, one for each language.
	for _, words := range []string{"Where is that tea?", "Where is the tea?"} {
		_, err = h.seller.PutTranslation(t.Context(), &aftersalev1.PutTranslationRequest{MessageId: first.GetMessage().GetMessageId(), Language: "en", Text: words})
		require.NoError(t, err)
	}
	_, err = h.other.PutTranslation(t.Context(), &aftersalev1.PutTranslationRequest{MessageId: first.GetMessage().GetMessageId(), Language: "fr", Text: "non"})
	refusedAs(t, "MESSAGE_UNKNOWN", err)
	list, err := h.ann.ListMessages(t.Context(), &aftersalev1.ListMessagesRequest{Topic: about, PageSize: 1})
	require.NoError(t, err)
	require.True(t, list.GetMore())
	require.Equal(t, "Wo ist der Tee?", list.GetMessages()[0].GetText())
	require.Len(t, list.GetMessages()[0].GetTranslations(), 1)
	require.Equal(t, "Where is the tea?", list.GetMessages()[0].GetTranslations()[0].GetText())

	// Read state goes forward only, and no further than what was said.
	for _, at := range []int64{99, 1} {
		res, err := h.ann.MarkRead(t.Context(), &aftersalev1.MarkReadRequest{ConversationId: list.GetConversation().GetConversationId(), Position: at})
		require.NoError(t, err)
		require.EqualValues(t, 4, res.GetConversation().GetReadByConsumer())
	}
	_, err = h.eve.MarkRead(t.Context(), &aftersalev1.MarkReadRequest{ConversationId: list.GetConversation().GetConversationId(), Position: 1})
	refusedAs(t, "CONVERSATION_UNKNOWN", err)

	// No text in any event, nor in the database.
	require.Len(t, published[*aftersalev1.MessagePosted](t, h), 5)
	var rows int
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_aftersale.message m WHERE m::text LIKE '%Tee%'`).Scan(&rows))
	require.Zero(t, rows)
}

func TestTheClockRunsFromTheFirstQuestionThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.seller.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{RespondHours: 3}})
	require.NoError(t, err)
	order := h.delivered(t, 1, 0, tea(1))
	about := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	state := func() *aftersalev1.Conversation {
		res, err := h.seller.ListConversations(t.Context(), &aftersalev1.ListConversationsRequest{})
		require.NoError(t, err)
		require.Len(t, res.GetConversations(), 1)
		return res.GetConversations()[0]
	}
	say(t, h.seller, about, "Danke für die Bestellung.", false)
	require.Nil(t, state().GetWaitingSince())
	say(t, h.ann, about, "Wann kommt sie?", false)
	since := state().GetWaitingSince()
	require.Equal(t, 3*time.Hour, state().GetRespondBy().AsTime().Sub(since.AsTime()))
	say(t, h.ann, about, "Hallo?", false)
	say(t, h.seller, about, "not before noon", true)
	require.Equal(t, since.AsTime(), state().GetWaitingSince().AsTime(), "a second question does not start it anew, a note does not stop it")

	v := state()
	late := &aftersalev1.DeadlineReached{SubjectId: v.GetConversationId(), What: deadlineRespond, Due: v.GetRespondBy()}
	require.NoError(t, h.Deliver(t.Context(), "deadlines", late, late, &aftersalev1.DeadlineReached{SubjectId: v.GetConversationId(), What: deadlineRespond, Due: timestamppb.Now()}))
	require.Len(t, published[*aftersalev1.ResponseOverdue](t, h), 1)
	waitingOnes, err := h.staff.ListConversations(t.Context(), &aftersalev1.ListConversationsRequest{Waiting: true})
	require.NoError(t, err)
	require.Len(t, waitingOnes.GetConversations(), 1)
	say(t, h.seller, about, "Morgen.", false)
	require.Nil(t, state().GetWaitingSince())
	require.EqualValues(t, 1, state().GetAnswers())
	require.NoError(t, h.Deliver(t.Context(), "deadlines", late))
	require.Len(t, published[*aftersalev1.ResponseOverdue](t, h), 1)
}

// A terminal hears everything once, in order, from wherever it begins: over
// all of a person's conversations, while several people write at once.
func TestATerminalReceivesEveryMessage(t *testing.T) {
	t.Parallel()
	h := open(t)
	const each = 12
	orders := []string{h.delivered(t, 1, 0, tea(1)), h.delivered(t, 1, 0, tea(1))}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	watch := func(c caller, after int64, n int) (got []*aftersalev1.WatchMessagesResponse, err error) {
		stream, err := c.WatchMessages(ctx, &aftersalev1.WatchMessagesRequest{After: after})
		for err == nil && len(got) < n {
			var m *aftersalev1.WatchMessagesResponse
			if m, err = stream.Receive(); err == nil {
				got = append(got, m)
			}
		}
		return got, err
	}
	say(t, h.ann, &aftersalev1.Topic{OrderId: orders[0], MerchantId: "mrc_one"}, "before", false)
	var anns, sellers []*aftersalev1.WatchMessagesResponse
	var readers, writers sync.WaitGroup
	var errs [2]error
	readers.Go(func() { anns, errs[0] = watch(h.ann, 0, 4*each+1) })
	readers.Go(func() { sellers, errs[1] = watch(h.seller, 0, 6*each+1) })
	for _, order := range orders {
		topic := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
		for i, c := range []caller{h.ann, h.seller, h.seller} {
			writers.Go(func() {
				for n := range each {
					_, err := c.PostMessage(ctx, &aftersalev1.PostMessageRequest{Topic: topic, MessageKey: fmt.Sprint(i, "-", n), Text: fmt.Sprint(n), Internal: i == 2})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	writers.Wait()
	readers.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	for name, all := range map[string][]*aftersalev1.WatchMessagesResponse{"consumer": anns, "merchant": sellers} {
		for i, m := range all {
			require.EqualValues(t, i+1, m.GetPosition(), name)
			require.False(t, name == "consumer" && m.GetMessage().GetInternal())
		}
	}
	rest, err := watch(h.ann, 40, 9)
	require.NoError(t, err)
	require.Equal(t, anns[40].GetMessage().GetMessageId(), rest[0].GetMessage().GetMessageId(), "it goes on where it was")

	// One conversation, by the desk.
	stream, err := h.staff.WatchMessages(ctx, &aftersalev1.WatchMessagesRequest{Topic: &aftersalev1.Topic{OrderId: orders[1], MerchantId: "mrc_one"}, After: 3*each - 1})
	require.NoError(t, err)
	m, err := stream.Receive()
	require.NoError(t, err)
	require.EqualValues(t, 3*each, m.GetPosition())
	everything, err := h.staff.WatchMessages(ctx, &aftersalev1.WatchMessagesRequest{})
	if err == nil {
		_, err = everything.Receive()
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestLogisticsIsReachedFromTheConversation(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.place(t, h.ann.principal.Account, "DE", time.Now(), 0, tea(2))
	_, shipment := h.send(t, order, id.New("frq"), tea(1))
	about := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	where, err := h.ann.GetWhereabouts(t.Context(), &aftersalev1.GetWhereaboutsRequest{Topic: about})
	require.NoError(t, err)
	require.Len(t, where.GetShipments(), 1)
	require.Equal(t, "out_for_delivery", where.GetShipments()[0].GetStatus(), "as logistics knows it now")
	require.Equal(t, "Köln", where.GetShipments()[0].GetSightings()[0].GetPlace())
	_, err = h.eve.GetWhereabouts(t.Context(), &aftersalev1.GetWhereaboutsRequest{Topic: about})
	refusedAs(t, "ORDER_UNKNOWN", err)

	elsewhere := &typev1.Address{Recipient: "Erika Mustermann", Lines: []string{"Am Dom 1"}, Locality: "Köln", PostalCode: "50667", CountryCode: "DE"}
	redirect := &aftersalev1.RequestRedirectRequest{Topic: about, RequestKey: "r1", ShipmentId: shipment, Address: elsewhere}
	for range 2 {
		res, err := h.ann.RequestRedirect(t.Context(), redirect)
		require.NoError(t, err)
		require.Equal(t, aftersalev1.CarriageRequest_STATE_ASKED, res.GetRequest().GetState())
	}
	told := published[*aftersalev1.CarriageRequested](t, h)
	require.Len(t, told, 1)
	require.Regexp(t, "^vlt_", told[0].GetAddressRef(), "where to is in the vault")
	_, err = h.other.ResolveCarriageRequest(t.Context(), &aftersalev1.ResolveCarriageRequestRequest{CarriageRequestId: told[0].GetCarriageRequestId()})
	refusedAs(t, "REQUEST_UNKNOWN", err)
	for range 2 {
		res, err := h.seller.ResolveCarriageRequest(t.Context(), &aftersalev1.ResolveCarriageRequestRequest{CarriageRequestId: told[0].GetCarriageRequestId(), Arranged: true})
		require.NoError(t, err)
		require.Equal(t, aftersalev1.CarriageRequest_STATE_ARRANGED, res.GetRequest().GetState())
	}
	_, err = h.seller.ResolveCarriageRequest(t.Context(), &aftersalev1.ResolveCarriageRequestRequest{CarriageRequestId: told[0].GetCarriageRequestId()})
	refusedAs(t, "RESOLVED", err)
	where, err = h.ann.GetWhereabouts(t.Context(), &aftersalev1.GetWhereaboutsRequest{Topic: about})
	require.NoError(t, err)
	require.Len(t, where.GetRequests(), 1)

	resolved := published[*aftersalev1.CarriageResolved](t, h)
	require.Len(t, resolved, 1, "logistics hears that it is done")
	require.True(t, resolved[0].GetArranged())

	// Or logistics answers: once, and not what was answered here.
	redirect.RequestKey = "r3"
	second, err := h.ann.RequestRedirect(t.Context(), redirect)
	require.NoError(t, err)
	for _, answer := range []*logisticsv1.CarriageAnswered{
		{ShipmentId: shipment, CarriageRequestId: second.GetRequest().GetCarriageRequestId()},
		{ShipmentId: shipment, CarriageRequestId: second.GetRequest().GetCarriageRequestId(), Arranged: true},
		{ShipmentId: shipment, CarriageRequestId: told[0].GetCarriageRequestId()},
		{ShipmentId: shipment, CarriageRequestId: "crq_of_another"},
	} {
		require.NoError(t, h.Deliver(t.Context(), "shipments", answer))
	}
	where, err = h.ann.GetWhereabouts(t.Context(), &aftersalev1.GetWhereaboutsRequest{Topic: about})
	require.NoError(t, err)
	require.Equal(t, aftersalev1.CarriageRequest_STATE_REFUSED, where.GetRequests()[0].GetState())
	require.Equal(t, aftersalev1.CarriageRequest_STATE_ARRANGED, where.GetRequests()[1].GetState())

	h.arrive(t, order, fulfilmentOf(t, h, shipment), shipment, time.Now())
	redirect.RequestKey = "r2"
	_, err = h.ann.RequestRedirect(t.Context(), redirect)
	refusedAs(t, "NOT_ON_THE_WAY", err)

	c := h.apply(t, application(order, withdrawal, 0, "sku_tea", 1))
	pickup := &aftersalev1.RequestPickupRequest{
		Topic: &aftersalev1.Topic{CaseId: c.GetCaseId()}, RequestKey: "p1", From: timestamppb.New(time.Now().Add(time.Hour)), Until: timestamppb.New(time.Now().Add(3 * time.Hour)),
	}
	_, err = h.ann.RequestPickup(t.Context(), pickup)
	refusedAs(t, "NOT_TO_BE_FETCHED", err)
	h.label(t, c)
	res, err := h.ann.RequestPickup(t.Context(), pickup)
	require.NoError(t, err)
	require.Equal(t, c.GetReturnShipmentId(), res.GetRequest().GetShipmentId())
	h.moved(t, order, c.GetReturnShipmentId(), logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, logisticsv1.Status_STATUS_IN_TRANSIT, time.Now())
	pickup.RequestKey = "p2"
	_, err = h.ann.RequestPickup(t.Context(), pickup)
	refusedAs(t, "NOT_TO_BE_FETCHED", err)
	pickup.From = timestamppb.New(time.Now().Add(-time.Hour))
	_, err = h.ann.RequestPickup(t.Context(), pickup)
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestAttachmentsAreForWhoMayReadTheMessage(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	about := &aftersalev1.Topic{OrderId: order, MerchantId: "mrc_one"}
	grant, err := h.seller.GrantUpload(t.Context(), &aftersalev1.GrantUploadRequest{OrderId: order})
	require.NoError(t, err)
	blob, err := h.Upload(grant.GetPath(), "image/png", []byte("\x89PNG\r\n\x1a\nleaf"))
	require.NoError(t, err)
	post := func(key string, internal bool) string {
		res, err := h.seller.PostMessage(t.Context(), &aftersalev1.PostMessageRequest{Topic: about, MessageKey: key, BlobIds: []string{blob}, Internal: internal})
		require.NoError(t, err)
		return res.GetMessage().GetMessageId()
	}
	shown, note := post("a", false), post("b", true)
	link, err := h.ann.GetAttachment(t.Context(), &aftersalev1.GetAttachmentRequest{MessageId: shown, BlobId: blob})
	require.NoError(t, err)
	_, content, ok := h.Download(link.GetPath())
	require.True(t, ok)
	require.Contains(t, string(content), "leaf")
	_, err = h.ann.GetAttachment(t.Context(), &aftersalev1.GetAttachmentRequest{MessageId: note, BlobId: blob})
	refusedAs(t, "MESSAGE_UNKNOWN", err)
	_, err = h.eve.GetAttachment(t.Context(), &aftersalev1.GetAttachmentRequest{MessageId: shown, BlobId: blob})
	refusedAs(t, "MESSAGE_UNKNOWN", err)
}

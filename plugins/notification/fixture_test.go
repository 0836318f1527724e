package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// world are providers, by instance, that do as they are told.
type world struct {
	providerv1connect.UnimplementedNotificationProviderServiceHandler

	mu sync.Mutex
	// behave is what happens next, in order; then all goes well.
	behave []string
	// of is what happens to messages with a subject, before that.
	of map[string][]string
	// sent are messages that left, in order; ends what is known of keys.
	sent    []*providerv1.SendRequest
	ends    map[string]*providerv1.Delivery
	lookups int
}

func (w *world) does(how ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behave = append(w.behave, how...)
}

func (w *world) Send(ctx context.Context, req *providerv1.SendRequest) (*providerv1.SendResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if end := w.ends[req.GetKey()]; end != nil {
		return &providerv1.SendResponse{Delivery: end}, nil
	}
	how := ""
	if of := w.of[req.GetMessage().GetSubject()]; len(of) > 0 {
		how, w.of[req.GetMessage().GetSubject()] = of[0], of[1:]
	} else if len(w.behave) > 0 {
		how, w.behave = w.behave[0], w.behave[1:]
	}
	end := &providerv1.Delivery{Key: req.GetKey(), State: providerv1.Delivery_STATE_ACCEPTED, Reference: "r"}
	silence := connect.NewError(connect.CodeUnavailable, "no answer")
	switch how {
	case "timeout-before":
		return nil, silence
	case "defer":
		end.State, end.Code = providerv1.Delivery_STATE_DEFERRED, "451"
		return &providerv1.SendResponse{Delivery: end}, nil
	case "refuse":
		end.State, end.Code = providerv1.Delivery_STATE_REFUSED, "554"
	case "gone":
		end.State, end.Code, end.Gone = providerv1.Delivery_STATE_REFUSED, "550 5.1.1", true
	case "other-key":
		end.Key = "another"
		return &providerv1.SendResponse{Delivery: end}, nil
	case "final":
		return nil, fault.New(connect.CodeInvalidArgument, "CHANNEL_UNKNOWN", "no")
	}
	w.ends[req.GetKey()] = end
	if end.GetState() == providerv1.Delivery_STATE_ACCEPTED {
		w.sent = append(w.sent, req)
	}
	switch how {
	case "timeout-after":
		return nil, silence
	case "timeout-after-and-forget":
		delete(w.ends, req.GetKey())
		return nil, silence
	}
	return &providerv1.SendResponse{Delivery: end}, nil
}

func (w *world) Lookup(_ context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups++
	if end := w.ends[req.GetKey()]; end != nil {
		return &providerv1.LookupResponse{Delivery: end}, nil
	}
	return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "never seen")
}

// to are the messages that left to a recipient.
func (w *world) to(recipient string) (out []*providerv1.SendRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sent {
		if s.GetRecipient().GetMail() == recipient || s.GetRecipient().GetWebhook().GetUrl() == recipient {
			out = append(out, s)
		}
	}
	return out
}

// shop is the module with its neighbours.
type shop struct {
	*plugintest.Module
	*world
	service *service
	host    *host.Host
	n       int
	mu      sync.Mutex
}

func openShop(t testing.TB, config map[string]any, opts ...plugintest.Option) *shop {
	t.Helper()
	s := &shop{world: &world{ends: map[string]*providerv1.Delivery{}}}
	m := module()
	m.New = func(_ context.Context, in *plugin.Instance) error {
		var err error
		if s.service, err = open(in); err != nil {
			return err
		}
		s.host = in.Host
		s.service.start()
		return nil
	}
	s.Module = plugintest.Start(t, m, append([]plugintest.Option{
		plugintest.Config(config),
		plugintest.Neighbours(func(server *connect.Server) {
			providerv1connect.RegisterNotificationProviderServiceHandler(server, s.world)
		}),
		plugintest.Instances(contract, &kernelv1.Instance{Instance: "smtp", Ready: true, Capabilities: []string{"mail"}},
			&kernelv1.Instance{Instance: "hooks", Ready: true, Capabilities: []string{"webhook"}}),
	}, opts...)...)
	return s
}

// seal keeps something in the vault and answers its reference.
func (s *shop) seal(t testing.TB, kind, plain string) string {
	t.Helper()
	res, err := s.host.Vault.Seal(t.Context(), &kernelv1.SealRequest{Items: []*kernelv1.SealItem{{Kind: kind, Plaintext: []byte(plain)}}})
	require.NoError(t, err)
	return res.GetItems()[0].GetRef()
}

// mailOf is the address of a name.
func mailOf(name string) string { return name + "@example.com" }

// places is an order of an account; no account: a guest's. The market decides
// on the language.
func (s *shop) places(t testing.TB, account, market string, change ...func(*orderv1.OrderPlaced)) *orderv1.OrderPlaced {
	t.Helper()
	s.mu.Lock()
	s.n++
	name := fmt.Sprintf("buyer%d", s.n)
	s.mu.Unlock()
	currency := map[string]string{"GB": "GBP", "DE": "EUR", "JP": "JPY"}[market]
	o := &orderv1.OrderPlaced{
		OrderId: id.New("ord"), Market: market, AccountId: account, EmailRef: s.seal(t, "email", mailOf(name)), Total: &typev1.Money{CurrencyCode: currency, MinorUnits: 12990},
		Lines: []*orderv1.Line{
			{Sku: "sku_1", MerchantId: "mrc_a", Title: "Tea pot", Quantity: 2, Total: &typev1.Money{CurrencyCode: currency, MinorUnits: 9990}},
			{Sku: "sku_2", MerchantId: "mrc_b", Title: "Cup <b>", Quantity: 1, Total: &typev1.Money{CurrencyCode: currency, MinorUnits: 3000}},
		},
	}
	for _, c := range change {
		c(o)
	}
	require.NoError(t, s.Deliver(t.Context(), "trade", o))
	return o
}

// settles waits until nothing is queued, being sent or due, and answers what
// the queue holds, by recipient and topic.
func (s *shop) settles(t testing.TB) map[string]string {
	t.Helper()
	open := 0
	require.Eventually(t, func() bool {
		s.service.poke()
		require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_notification.delivery WHERE state = 2 AND due_at > now() OR state IN (1, 2, 6) AND due_at <= now()
			AND NOT (channel = 3 AND EXISTS (SELECT FROM p_notification.endpoint e WHERE e.id = recipient AND e.blocked_until > now()))`).Scan(&open))
		return open == 0
	}, 30*time.Second, 30*time.Millisecond)
	return s.queue(t)
}

// queue is what stands in it: "channel recipient topic" and "STATE code".
func (s *shop) queue(t testing.TB) map[string]string {
	t.Helper()
	rows, err := s.Admin.Query(t.Context(), `SELECT d.channel, d.recipient, n.topic, d.state, d.code FROM p_notification.delivery d JOIN p_notification.notification n ON n.id = d.notification_id`)
	require.NoError(t, err)
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var channel, state int32
		var recipient, topic, code string
		require.NoError(t, rows.Scan(&channel, &recipient, &topic, &state, &code))
		key := strings.ToLower(strings.TrimPrefix(notificationv1.Channel(channel).String(), "CHANNEL_")) + " " + recipient + " " + topic
		out[key] = strings.TrimSpace(strings.TrimPrefix(notificationv1.Delivery_State(state).String(), "STATE_") + " " + code)
	}
	return out
}

// due has everything that waits tried now.
func (s *shop) due(t testing.TB) {
	t.Helper()
	_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.delivery SET due_at = now() WHERE state IN (1, 6); `)
	require.NoError(t, err)
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint SET blocked_until = '-infinity'`)
	require.NoError(t, err)
}

func consumer(account string) call.Principal {
	return call.Principal{Kind: call.Consumer, Account: account, Subject: "sub_00000000000000000000000000"}
}

func member(account, merchant string) call.Principal {
	return call.Principal{Kind: call.Merchant, Account: account, Merchant: merchant, Permissions: []string{"*"}}
}

var staff = call.Principal{Kind: call.Staff, Account: "acc_staff", Permissions: []string{"*"}}

func (s *shop) inbox(p call.Principal) notificationv1connect.InboxServiceClient {
	return notificationv1connect.NewInboxServiceClient(s.Client(plugintest.As(p, "GB")))
}

func (s *shop) preferences(p call.Principal) notificationv1connect.PreferenceServiceClient {
	return notificationv1connect.NewPreferenceServiceClient(s.Client(plugintest.As(p, "GB")))
}

func (s *shop) webhooks(p call.Principal) notificationv1connect.WebhookServiceClient {
	return notificationv1connect.NewWebhookServiceClient(s.Client(plugintest.As(p, "GB")))
}

func (s *shop) deliveries(p call.Principal) notificationv1connect.DeliveryServiceClient {
	return notificationv1connect.NewDeliveryServiceClient(s.Client(plugintest.As(p, "GB")))
}

func (s *shop) steps(name string) notificationv1connect.NotificationStepServiceClient {
	return notificationv1connect.NewNotificationStepServiceClient(s.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: name}, Caller: name, Market: "GB"}))
}

// reads is what an inbox shows, newest first.
func (s *shop) reads(t testing.TB, p call.Principal) []*notificationv1.Notification {
	t.Helper()
	res, err := s.inbox(p).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{})
	require.NoError(t, err)
	return res.GetNotifications()
}

// put makes an endpoint and answers its secret.
func (s *shop) put(t testing.TB, p call.Principal, name string, topics ...string) string {
	t.Helper()
	res, err := s.webhooks(p).PutEndpoint(t.Context(), &notificationv1.PutEndpointRequest{EndpointId: name, Url: "https://" + name + ".example/hook", Topics: topics})
	require.NoError(t, err)
	return res.GetSecret()
}

// puts an address, as a call of its own.
func (s *shop) puts(t testing.TB, p call.Principal, address string) (*notificationv1.PutContactResponse, error) {
	t.Helper()
	as := plugintest.As(p, "GB")
	as.IdempotencyKey = id.New("key")
	return notificationv1connect.NewPreferenceServiceClient(s.Client(as)).PutContact(t.Context(), &notificationv1.PutContactRequest{Email: address})
}

// confirms gives an account a contact.
func (s *shop) confirms(t testing.TB, p call.Principal, address string) {
	t.Helper()
	_, err := s.puts(t, p, address)
	require.NoError(t, err)
	_, err = s.preferences(p).ConfirmContact(t.Context(), &notificationv1.ConfirmContactRequest{Code: s.code(t, address)})
	require.NoError(t, err)
}

// code is the one that was mailed last.
func (s *shop) code(t testing.TB, address string) string {
	t.Helper()
	s.settles(t)
	mails := s.to(address)
	require.NotEmpty(t, mails)
	subject := mails[len(mails)-1].GetMessage().GetSubject()
	return subject[len(subject)-8:]
}

func data(t testing.TB, f map[string]any) *structpb.Struct {
	t.Helper()
	d, err := structpb.NewStruct(f)
	require.NoError(t, err)
	return d
}

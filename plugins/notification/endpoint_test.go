package main

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

var boss = member("acc_boss", "mrc_a")

const hook = "https://main.example/hook"

func (s *shop) endpoint(t testing.TB, name string) *notificationv1.Endpoint {
	t.Helper()
	res, err := s.webhooks(boss).ListEndpoints(t.Context(), &notificationv1.ListEndpointsRequest{})
	require.NoError(t, err)
	for _, e := range res.GetEndpoints() {
		if e.GetEndpointId() == name {
			return e
		}
	}
	return nil
}

func TestASecretIsToldOnceAndStandsNowhere(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	secret := s.put(t, boss, "main")
	require.Regexp(t, `^whsec_[A-Za-z0-9+/]{32}$`, secret)
	require.Empty(t, s.put(t, boss, "main", "sale.placed"), "changing it tells nothing")
	var found int
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_notification.endpoint e, p_notification.endpoint_secret x, p_notification.idempotency i
		WHERE e::text LIKE '%whsec%' OR x::text LIKE '%whsec%'`).Scan(&found))
	require.Zero(t, found)

	s.places(t, "", "GB")
	s.settles(t)
	sent := s.to(hook)
	require.Len(t, sent, 1)
	require.Equal(t, []string{secret}, sent[0].GetRecipient().GetWebhook().GetSecrets())
	newer, err := s.webhooks(boss).RotateSecret(t.Context(), &notificationv1.RotateSecretRequest{EndpointId: "main"})
	require.NoError(t, err)
	s.places(t, "", "GB")
	s.settles(t)
	require.Equal(t, []string{newer.GetSecret(), secret}, s.to(hook)[1].GetRecipient().GetWebhook().GetSecrets(), "for a day both sign")
	for range 5 {
		_, err := s.webhooks(boss).RotateSecret(t.Context(), &notificationv1.RotateSecretRequest{EndpointId: "main"})
		require.NoError(t, err)
	}
	s.places(t, "", "GB")
	s.settles(t)
	signing := s.to(hook)[2].GetRecipient().GetWebhook().GetSecrets()
	require.Len(t, signing, 4)
	require.Contains(t, signing, secret, "who lost answers is still heard by who knows the first")
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint_secret SET until = now() WHERE until <> 'infinity'`)
	require.NoError(t, err)
	s.places(t, "", "GB")
	s.settles(t)
	require.Len(t, s.to(hook)[3].GetRecipient().GetWebhook().GetSecrets(), 1)
}

func TestAnEndpointIsToldWhatItsMerchantAskedFor(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, boss, "all")
	s.put(t, boss, "stock", "stock.low")
	s.put(t, member("acc_x", "mrc_z"), "foreign")
	s.places(t, "", "GB")
	s.settles(t)
	require.Len(t, s.to("https://all.example/hook"), 1)
	require.Empty(t, s.to("https://stock.example/hook"))
	require.Empty(t, s.to("https://foreign.example/hook"))
	for _, topic := range []string{"order.placed", "weather.rain"} {
		_, err := s.webhooks(boss).PutEndpoint(t.Context(), &notificationv1.PutEndpointRequest{EndpointId: "x", Url: hook, Topics: []string{topic}})
		require.Equal(t, "TOPIC_UNKNOWN", fault.Reason(err), "a consumer's news are not a merchant's")
	}
	ping, err := s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "stock", PingId: "1"})
	require.NoError(t, err)
	again, err := s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "stock", PingId: "1"})
	require.NoError(t, err)
	require.Equal(t, ping.GetNotificationId(), again.GetNotificationId())
	s.settles(t)
	require.Len(t, s.to("https://stock.example/hook"), 1)
	require.Len(t, s.to("https://all.example/hook"), 1)
	_, err = s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "foreign", PingId: "1"})
	require.Equal(t, "ENDPOINT_UNKNOWN", fault.Reason(err))
}

func TestOnlyPlacesOnThePublicInternetAreTaken(t *testing.T) {
	t.Parallel()
	s, dev := openShop(t, nil), openShop(t, map[string]any{"loopback_endpoints": true})
	put := func(s *shop, url string) string {
		_, err := s.webhooks(boss).PutEndpoint(t.Context(), &notificationv1.PutEndpointRequest{EndpointId: "main", Url: url})
		return fault.Reason(err)
	}
	for _, url := range []string{
		"http://shop.example/", "ftp://shop.example/", "https://127.0.0.1/", "https://localhost/", "https://10.1.2.3/", "https://[::1]/", "https://[fe80::1]/",
		"https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "https://printer/", "https://printer.local/", "https://a.internal./", "https://u:p@shop.example/",
		"https://shop.example/#x", "https:shop", "://", "https://0.0.0.0/",
	} {
		require.Equal(t, "URL_FORBIDDEN", put(s, url), url)
	}
	for _, url := range []string{"https://shop.example/hooks?a=b", "https://8.8.8.8:8443/", "https://shop.example./"} {
		require.Empty(t, put(s, url), url)
	}
	for _, url := range []string{"http://127.0.0.1:9/", "http://localhost:9/", "https://shop.example/"} {
		require.Empty(t, put(dev, url), url)
	}
	require.Equal(t, "URL_FORBIDDEN", put(dev, "http://10.0.0.1/"))
}

func TestAMerchantHasTwentyEndpointsAtMost(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	for i := range mostEndpoints {
		s.put(t, boss, fmt.Sprintf("e%d", i))
	}
	_, err := s.webhooks(boss).PutEndpoint(t.Context(), &notificationv1.PutEndpointRequest{EndpointId: "more", Url: hook})
	require.Equal(t, "TOO_MANY_ENDPOINTS", fault.Reason(err))
	s.put(t, boss, "e3")
}

func TestAnEndpointThatFailsForDaysIsDisabledAndItsMerchantTold(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, boss, "main", "sale.placed", "stock.low")
	for range failuresBefore {
		s.does("defer")
	}
	_, err := s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "main", PingId: "1"})
	require.NoError(t, err)
	for i := range failuresBefore - 1 {
		s.settles(t)
		require.Equal(t, notificationv1.Endpoint_STATE_ENABLED, s.endpoint(t, "main").GetState(), "after %d", i)
		require.NotNil(t, s.endpoint(t, "main").GetFailingSince())
		s.due(t)
	}
	s.settles(t)
	// It has failed often, and not for long.
	require.Equal(t, notificationv1.Endpoint_STATE_ENABLED, s.endpoint(t, "main").GetState())
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint SET failing_since = now() - interval '6 days'`)
	require.NoError(t, err)
	s.does("defer")
	s.due(t)
	q := s.settles(t)
	e := s.endpoint(t, "main")
	require.Equal(t, notificationv1.Endpoint_STATE_DISABLED, e.GetState())
	require.Equal(t, "FAILED_LONG", e.GetReason())
	require.Equal(t, "DELIVERED", q["inbox mrc_a endpoint.disabled"])
	require.Contains(t, fmt.Sprint(s.Published(t)), `reason:"FAILED_LONG"`)

	list, err := s.deliveries(boss).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{EndpointId: "main"})
	require.NoError(t, err)
	require.Len(t, list.GetDeliveries(), 1)
	lost := list.GetDeliveries()[0]
	require.Equal(t, "TRIES_EXHAUSTED", lost.GetCode())
	_, err = s.deliveries(boss).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: lost.GetDeliveryId()})
	require.Equal(t, "ENDPOINT_DISABLED", fault.Reason(err))
	s.places(t, "", "GB")
	s.settles(t)
	require.Empty(t, s.to(hook), "it is told nothing")

	s.put(t, boss, "main")
	_, err = s.deliveries(boss).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: lost.GetDeliveryId()})
	require.NoError(t, err)
	s.settles(t)
	require.Len(t, s.to(hook), 1, "what was missed is delivered again")
	require.Nil(t, s.endpoint(t, "main").GetFailingSince())
}

func TestAnEndpointThatIsGoneIsDisabledAtOnce(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, boss, "main")
	ping := func(n string) {
		_, err := s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "main", PingId: n})
		require.NoError(t, err)
		s.settles(t)
	}
	s.does("defer")
	ping("1")
	_, err := s.Admin.Exec(t.Context(), `UPDATE p_notification.delivery SET due_at = now() + interval '1 hour'`)
	require.NoError(t, err)
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint SET blocked_until = '-infinity'`)
	require.NoError(t, err)
	s.does("gone")
	ping("2")
	require.Equal(t, "GONE", s.endpoint(t, "main").GetReason())
	list, err := s.deliveries(boss).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{EndpointId: "main"})
	require.NoError(t, err)
	require.Equal(t, "550 5.1.1 ENDPOINT_DISABLED", list.GetDeliveries()[0].GetCode()+" "+list.GetDeliveries()[1].GetCode(), "what waited for it is given up")
}

func TestASlowEndpointRestsAndHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, boss, "main")
	s.does("defer")
	_, err := s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "main", PingId: "1"})
	require.NoError(t, err)
	s.settles(t)
	_, err = s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "main", PingId: "2"})
	require.NoError(t, err)
	s.settles(t)
	require.Empty(t, s.to(hook), "it rests, with all that is meant for it")
	s.put(t, boss, "other")
	_, err = s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "other", PingId: "1"})
	require.NoError(t, err)
	s.settles(t)
	require.Len(t, s.to("https://other.example/hook"), 1)
	s.due(t)
	s.settles(t)
	require.Len(t, s.to(hook), 2)

	// At most so many at once.
	for i := range abreastOfOne + 3 {
		_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint SET blocked_until = now() + interval '1 hour'`)
		require.NoError(t, err)
		_, err = s.webhooks(boss).PingEndpoint(t.Context(), &notificationv1.PingEndpointRequest{EndpointId: "main", PingId: fmt.Sprint("n", i)})
		require.NoError(t, err)
	}
	s.service.stop() // nobody else claims
	s.service.work.Wait()
	_, err = s.Admin.Exec(t.Context(), `UPDATE p_notification.endpoint SET blocked_until = '-infinity'`)
	require.NoError(t, err)
	taken, err := s.service.claim(t.Context(), webhook, 16)
	require.NoError(t, err)
	more, err := s.service.claim(t.Context(), webhook, 16)
	require.NoError(t, err)
	require.Equal(t, abreastOfOne, len(taken)+len(more))
}

func TestDeliveriesAreSeenByThoseTheyAreOf(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.put(t, boss, "main")
	s.put(t, member("acc_y", "mrc_b"), "theirs")
	for range 3 {
		s.places(t, "acc_ann", "GB")
	}
	s.settles(t)
	own, err := s.deliveries(boss).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{PageSize: 2})
	require.NoError(t, err)
	require.Len(t, own.GetDeliveries(), 2)
	rest, err := s.deliveries(boss).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{PageToken: own.GetNextPageToken()})
	require.NoError(t, err)
	require.Len(t, rest.GetDeliveries(), 1)
	require.Equal(t, "main", rest.GetDeliveries()[0].GetRecipient())
	all, err := s.deliveries(staff).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{PageSize: 200})
	require.NoError(t, err)
	require.Len(t, all.GetDeliveries(), 3*(2+2+2), "inbox and mail of ann, two inboxes, two endpoints")
	for _, d := range all.GetDeliveries() {
		if d.GetRecipient() == "theirs" {
			_, err := s.deliveries(boss).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: d.GetDeliveryId()})
			require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
		}
		require.NotContains(t, d.String(), "@")
	}
	before := len(s.to(hook))
	id := own.GetDeliveries()[0].GetDeliveryId()
	_, err = s.deliveries(boss).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: id})
	require.NoError(t, err)
	s.settles(t)
	sent := s.to(hook)
	require.Len(t, sent, before+1)
	ids, keys := map[string]int{}, map[string]int{}
	for _, m := range sent {
		ids[m.GetMessage().GetId()]++
		keys[m.GetKey()]++
	}
	require.Len(t, ids, before, "the merchant can tell what it has seen")
	require.Len(t, keys, before+1)

	_, err = s.webhooks(boss).DeleteEndpoint(t.Context(), &notificationv1.DeleteEndpointRequest{EndpointId: "main"})
	require.NoError(t, err)
	_, err = s.webhooks(boss).DeleteEndpoint(t.Context(), &notificationv1.DeleteEndpointRequest{EndpointId: "main"})
	require.NoError(t, err)
	_, err = s.deliveries(boss).Redeliver(t.Context(), &notificationv1.RedeliverRequest{DeliveryId: id})
	require.Equal(t, "ENDPOINT_DELETED", fault.Reason(err))
	gone, err := s.deliveries(boss).ListDeliveries(t.Context(), &notificationv1.ListDeliveriesRequest{})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(gone.GetDeliveries()[0].GetRecipient(), "whk_"))
}

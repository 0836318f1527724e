package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func open(t testing.TB, config map[string]any) providerv1connect.NotificationProviderServiceClient {
	t.Helper()
	m := plugintest.Start(t, provider(), plugintest.Config(config))
	return providerv1connect.NewNotificationProviderServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "notification"}}))
}

var loopback = map[string]any{"allow": []string{"127.0.0.0/8"}, "timeout": "2s"}

func asked(key, url string) *providerv1.SendRequest {
	return &providerv1.SendRequest{
		Key: key, Channel: providerv1.Channel_CHANNEL_WEBHOOK,
		Recipient: &providerv1.Recipient{To: &providerv1.Recipient_Webhook{Webhook: &providerv1.WebhookEndpoint{Url: url, Secrets: []string{secret}}}},
		Message:   &providerv1.Message{Id: "ntf_" + key, Data: []byte(`{"type":"sale.placed","timestamp":"2026-11-23T09:00:00Z","data":{}}`)},
	}
}

// merchant is a server that answers as it is told and keeps what it got.
type merchant struct {
	*httptest.Server
	mu      sync.Mutex
	answer  func(http.ResponseWriter)
	bodies  []string
	headers []http.Header
}

func openMerchant(t testing.TB, answer func(http.ResponseWriter)) *merchant {
	t.Helper()
	m := &merchant{answer: answer}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.bodies, m.headers = append(m.bodies, string(b)), append(m.headers, r.Header.Clone())
		m.answer(w)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *merchant) got() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bodies)
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func TestAWebhookIsSignedSoThatItsMerchantBelievesIt(t *testing.T) {
	t.Parallel()
	p, m := open(t, loopback), openMerchant(t, status(http.StatusNoContent))
	req := asked("k1", m.URL)
	older := "whsec_" + strings.Repeat("AAAA", 8)
	req.Recipient.GetWebhook().Secrets = append(req.Recipient.GetWebhook().Secrets, older)
	res, err := p.Send(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, providerv1.Delivery_STATE_DELIVERED, res.GetDelivery().GetState())
	for _, s := range []string{secret, older} {
		wh, err := standardwebhooks.NewWebhook(s)
		require.NoError(t, err)
		require.NoError(t, wh.Verify([]byte(m.bodies[0]), m.headers[0]), "while a secret is replaced both hold")
	}
	require.Equal(t, "ntf_k1", m.headers[0].Get("webhook-id"))
	require.Equal(t, "application/json", m.headers[0].Get("Content-Type"))

	// The same key is not sent again, and its end is known.
	again, err := p.Send(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, providerv1.Delivery_STATE_DELIVERED, again.GetDelivery().GetState())
	require.Equal(t, 1, m.got())
	found, err := p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.NoError(t, err)
	require.Equal(t, "204", found.GetDelivery().GetCode())
	_, err = p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k2"})
	require.Equal(t, "KEY_UNKNOWN", fault.Reason(err))
}

func TestAnAnswerSaysWhetherThereIsAnotherTry(t *testing.T) {
	t.Parallel()
	redirected := openMerchant(t, status(http.StatusOK))
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		state  providerv1.Delivery_State
		code   string
		gone   bool
		wait   time.Duration
	}{
		"taken":     {status(200), providerv1.Delivery_STATE_DELIVERED, "200", false, 0},
		"gone":      {status(410), providerv1.Delivery_STATE_REFUSED, "410", true, 0},
		"not found": {status(404), providerv1.Delivery_STATE_DEFERRED, "404", false, 0},
		"broken":    {status(500), providerv1.Delivery_STATE_DEFERRED, "500", false, 0},
		"a redirect": {func(w http.ResponseWriter) {
			w.Header().Set("Location", redirected.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, providerv1.Delivery_STATE_DEFERRED, "307", false, 0},
		"too much": {func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusTooManyRequests)
		}, providerv1.Delivery_STATE_DEFERRED, "429", false, 90 * time.Second},
		"for a year": {func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "31536000")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, providerv1.Delivery_STATE_DEFERRED, "503", false, mostRetryAfter},
		"a hang-up":   {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, providerv1.Delivery_STATE_DEFERRED, "UNREACHABLE", false, 0},
		"much to say": {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 1<<20)) }, providerv1.Delivery_STATE_DELIVERED, "200", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, m := open(t, loopback), openMerchant(t, c.answer)
			res, err := p.Send(t.Context(), asked("k", m.URL))
			require.NoError(t, err)
			d := res.GetDelivery()
			require.Equal(t, c.state, d.GetState())
			require.Equal(t, c.code, d.GetCode())
			require.Equal(t, c.gone, d.GetGone())
			require.Equal(t, c.wait, d.GetRetryAfter().AsDuration())
			_, err = p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k"})
			require.Equal(t, c.state == providerv1.Delivery_STATE_DEFERRED, connect.CodeOf(err) == connect.CodeNotFound, "what is deferred has not ended")
		})
	}
	t.Cleanup(func() { require.Zero(t, redirected.got(), "redirects are not followed") })
}

func TestAServerThatDoesNotAnswerIsLeft(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	t.Cleanup(func() { close(hold); slow.Close() })
	p := open(t, map[string]any{"allow": []string{"127.0.0.0/8"}, "timeout": "1s"})
	res, err := p.Send(t.Context(), asked("k", slow.URL))
	require.NoError(t, err)
	require.Equal(t, "TIMEOUT", res.GetDelivery().GetCode())
}

func TestOnlyThePublicInternetIsReached(t *testing.T) {
	t.Parallel()
	m := openMerchant(t, status(http.StatusOK))
	tls := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	t.Cleanup(tls.Close)
	p := open(t, nil)
	port := m.URL[strings.LastIndex(m.URL, ":"):]
	for url, code := range map[string]string{
		m.URL: "URL_FORBIDDEN", "http://example.com/": "URL_FORBIDDEN", "ftp://example.com/": "URL_FORBIDDEN", "https://u:p@example.com/": "URL_FORBIDDEN",
		"file:///etc/passwd": "URL_FORBIDDEN", "http://localhost" + port: "URL_FORBIDDEN", "://": "URL_FORBIDDEN",
		tls.URL: "ADDRESS_FORBIDDEN", "https://localhost" + port: "ADDRESS_FORBIDDEN", "https://[::1]" + port: "ADDRESS_FORBIDDEN",
		"https://10.0.0.1/": "ADDRESS_FORBIDDEN", "https://169.254.169.254/latest": "ADDRESS_FORBIDDEN", "https://[::ffff:127.0.0.1]" + port: "ADDRESS_FORBIDDEN",
		"https://[64:ff9b::7f00:1]/": "ADDRESS_FORBIDDEN", "https://100.64.0.1/": "ADDRESS_FORBIDDEN", "https://[fe80::1]/": "ADDRESS_FORBIDDEN",
	} {
		res, err := p.Send(t.Context(), asked(url, url))
		require.NoError(t, err, url)
		if code != "" {
			require.Equal(t, code, res.GetDelivery().GetCode(), url)
		}
		require.NotEqual(t, providerv1.Delivery_STATE_DELIVERED, res.GetDelivery().GetState(), url)
	}
	require.Zero(t, m.got())
}

// A certificate that nobody vouches for is no server of the merchant's.
func TestACertificateIsLookedAt(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	t.Cleanup(s.Close)
	res, err := open(t, loopback).Send(t.Context(), asked("k", s.URL))
	require.NoError(t, err)
	require.Equal(t, "TLS_FAILED", res.GetDelivery().GetCode())
}

func TestNoAddressThatIsSomebodysOwnIsPublic(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"8.8.8.8", "193.99.144.80", "2606:4700::1111", "2a00:1450:4001::1"} {
		require.True(t, public(netip.MustParseAddr(a)), a)
	}
	own := []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4", "100.64.0.0/10", "0.0.0.0/8", "255.255.255.255/32"}
	rapid.Check(t, func(t *rapid.T) {
		n := netip.MustParsePrefix(rapid.SampledFrom(own).Draw(t, "network"))
		raw := n.Addr().As4()
		noise := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "host")
		for i := range raw {
			mask := byte(0xff >> min(max(n.Bits()-8*i, 0), 8))
			raw[i] |= noise[i] & mask
		}
		a := netip.AddrFrom4(raw)
		require.True(t, n.Contains(a))
		require.False(t, public(a), a)
		require.False(t, public(netip.AddrFrom16(a.As16())), "as IPv6")
		for _, prefix := range []string{"64:ff9b::", "2002::", "::"} {
			b := netip.MustParseAddr(prefix).As16()
			at := 12
			if prefix == "2002::" {
				at = 2
			}
			copy(b[at:], raw[:])
			require.False(t, public(netip.AddrFrom16(b)), "hidden in IPv6")
		}
	})
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	t.Parallel()
	p := open(t, loopback)
	for want, change := range map[string]func(*providerv1.SendRequest){
		"CHANNEL_UNKNOWN": func(r *providerv1.SendRequest) {
			r.Channel, r.Recipient = providerv1.Channel_CHANNEL_MAIL, &providerv1.Recipient{To: &providerv1.Recipient_Mail{Mail: "a@example.com"}}
		},
		"SECRET_INVALID": func(r *providerv1.SendRequest) { r.Recipient.GetWebhook().Secrets = []string{"whsec_%%%%%%"} },
		"":               func(r *providerv1.SendRequest) { r.Message.Data = []byte("{") },
	} {
		req := asked("k", "https://example.com")
		change(req)
		_, err := p.Send(context.WithoutCancel(t.Context()), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.Equal(t, want, fault.Reason(err))
		require.NotContains(t, err.Error(), "%%%", "a secret is not repeated")
	}
}

func TestAConfigurationIsLookedAt(t *testing.T) {
	t.Parallel()
	require.Empty(t, validate([]byte(`{"timeout": "2s", "allow": ["127.0.0.0/8", "::1/128"]}`)))
	require.Len(t, validate([]byte(`{"timeout": "1h", "allow": ["localhost"]}`)), 2)
}

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	stripe "github.com/stripe/stripe-go/v85"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

func TestSettingsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for config, field := range map[string]string{
		`{}`: "", `{"url": "https://stripe.example:8443/"}`: "", `{"url": "http://127.0.0.1:12111"}`: "", `{"url": "http://[::1]:1"}`: "", `{"url": "http://localhost"}`: "",
		`{"merchants": ["mer_1=acct_1", "mer_2=acct_1"], "timeout": "30s", "webhook_tolerance": "1h"}`: "",
		`{"url": "http://api.stripe.com"}`: "url", `{"url": "http://127.0.0.1.example.com"}`: "url", `{"url": "ftp://127.0.0.1"}`: "url", `{"url": "https://a:b@x.com"}`: "url",
		`{"url": "https://x.com/v1"}`: "url", `{"url": "x"}`: "url", `{"timeout": "31s"}`: "timeout", `{"timeout": "soon"}`: "timeout", `{"webhook_tolerance": "24h"}`: "webhook_tolerance",
		`{"merchants": ["mer_1"]}`: "merchants", `{"merchants": ["mer_1=x"]}`: "merchants", `{"merchants": ["m=acct_1", "m=acct_2"]}`: "merchants",
	} {
		found := validate(json.RawMessage(config))
		if field == "" {
			require.Empty(t, found, config)
			continue
		}
		require.Len(t, found, 1, config)
		require.Equal(t, field, found[0].GetField())
	}
	for _, key := range []string{"", "pk_test_1", "sk_1", "sk_test_", "sk_test_a b", "whsec_1"} {
		_, _, err := settings{}.client(key)
		require.Error(t, err)
		if key != "" {
			require.NotContains(t, err.Error(), key)
		}
	}
	for _, key := range []string{"sk_test_1", "sk_live_1", "rk_test_1", "rk_live_1"} {
		_, _, err := settings{}.client(key)
		require.NoError(t, err)
	}
}

// What is not Stripe does not fill the memory, and leads nowhere else.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the key went elsewhere") }))
	t.Cleanup(other.Close)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/pi_1") {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		_, _ = io.WriteString(w, `{"id": "`)
		for line := strings.Repeat("x", 1<<20); ; {
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	c, _, err := settings{URL: srv.URL}.client(testKey)
	require.NoError(t, err)
	_, err = c.V1Balance.Retrieve(t.Context(), nil)
	require.ErrorContains(t, err, "too long")
	_, err = c.V1PaymentIntents.Retrieve(t.Context(), "pi_1", &stripe.PaymentIntentRetrieveParams{})
	require.ErrorContains(t, err, "redirection")
}

func TestACheckTellsHowStripeIs(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	life := pluginv1connect.NewPluginServiceClient(b.Client(call.Info{}))
	for _, c := range []struct {
		how    mishap
		want   pluginv1.CheckResponse_Status
		reason string
	}{
		{"", pluginv1.CheckResponse_STATUS_OK, ""},
		{refusedKey, pluginv1.CheckResponse_STATUS_DEGRADED, "CREDENTIALS_REFUSED"},
		{lostBefore, pluginv1.CheckResponse_STATUS_DEGRADED, "STRIPE_UNREACHABLE"},
	} {
		b.fake.fail("balance", c.how)
		res, err := life.Check(t.Context(), &pluginv1.CheckRequest{Instance: "payment-stripe"})
		require.NoError(t, err)
		require.Equal(t, c.want, res.GetStatus())
		require.Equal(t, c.reason, res.GetReason())
	}
}

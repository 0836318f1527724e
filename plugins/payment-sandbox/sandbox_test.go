package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/webhook"
)

type bank struct {
	*plugintest.Module
	providerv1connect.PaymentProviderServiceClient
}

func open(t testing.TB, opts ...plugintest.Option) bank {
	t.Helper()
	m := plugintest.Start(t, provider(), opts...)
	return bank{m, providerv1connect.NewPaymentProviderServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "payment"}}))}
}

func gbp(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "GBP", MinorUnits: minor} }

func (b bank) hold(t testing.TB, key string, minor int64, token string) *providerv1.Outcome {
	t.Helper()
	res, err := b.Authorize(t.Context(), &providerv1.AuthorizeRequest{Key: key, Amount: gbp(minor), MethodToken: token})
	require.NoError(t, err)
	return res.GetOutcome()
}

func TestMoneyIsHeldTakenAndReturned(t *testing.T) {
	t.Parallel()
	b := open(t)
	held := b.hold(t, "k1", 1000, "tok_ok")
	require.Equal(t, providerv1.Outcome_STATUS_SUCCEEDED, held.GetStatus())
	pay := held.GetPaymentReference()
	for i, c := range []struct {
		call func(key string) (*providerv1.Outcome, error)
		want string
	}{
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Capture(t.Context(), &providerv1.CaptureRequest{Key: k, PaymentReference: pay, Amount: gbp(600)})
			return r.GetOutcome(), err
		}, ""},
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Capture(t.Context(), &providerv1.CaptureRequest{Key: k, PaymentReference: pay, Amount: gbp(401)})
			return r.GetOutcome(), err
		}, "amount_exceeds_authorization"},
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Refund(t.Context(), &providerv1.RefundRequest{Key: k, PaymentReference: pay, Amount: gbp(601)})
			return r.GetOutcome(), err
		}, "amount_exceeds_capture"},
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Refund(t.Context(), &providerv1.RefundRequest{Key: k, PaymentReference: pay, Amount: gbp(100)})
			return r.GetOutcome(), err
		}, ""},
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Void(t.Context(), &providerv1.VoidRequest{Key: k, PaymentReference: pay})
			return r.GetOutcome(), err
		}, ""},
		{func(k string) (*providerv1.Outcome, error) {
			r, err := b.Void(t.Context(), &providerv1.VoidRequest{Key: k, PaymentReference: pay})
			return r.GetOutcome(), err
		}, "nothing_left"},
	} {
		out, err := c.call("step" + strconv.Itoa(i))
		require.NoError(t, err)
		require.Equal(t, c.want, out.GetCode(), "step %d", i)
	}
}

func TestACurrencyThatNobodyHasIsRefused(t *testing.T) {
	t.Parallel()
	for config, refused := range map[string]bool{`{}`: false, `{"currency": "JPY"}`: false, `{"currency": "YEN"}`: true, `{"currency": "jpy"}`: true} {
		found := provider().Validate([]byte(config))
		require.Equal(t, refused, len(found) == 1, config)
		for _, d := range found {
			require.Equal(t, "currency", d.GetField())
		}
	}
}

func TestAKeyIsHonouredForEver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, plugintest.DataDir(dir))
	first := b.hold(t, "k1", 1000, "tok_ok")
	require.Equal(t, first.GetReference(), b.hold(t, "k1", 1000, "tok_ok").GetReference())
	_, err := b.Authorize(t.Context(), &providerv1.AuthorizeRequest{Key: "k1", Amount: gbp(2000), MethodToken: "tok_ok"})
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))

	var wg sync.WaitGroup
	refs := make([]string, 20)
	for i := range refs {
		wg.Go(func() { refs[i] = b.hold(t, "k2", 5, "tok_ok").GetReference() })
	}
	wg.Wait()
	for _, r := range refs {
		require.Equal(t, refs[0], r)
	}
	got, err := b.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k2"})
	require.NoError(t, err)
	require.Equal(t, refs[0], got.GetOutcome().GetReference())
	_, err = b.Lookup(t.Context(), &providerv1.LookupRequest{Key: "never"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestACompanyThatDoesNotAnswerMayHaveActed(t *testing.T) {
	t.Parallel()
	b := open(t)
	for token, acted := range map[string]bool{"tok_timeout_after": true, "tok_timeout_before": false} {
		_, err := b.Authorize(t.Context(), &providerv1.AuthorizeRequest{Key: token, Amount: gbp(10), MethodToken: token})
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
		require.True(t, fault.IsDownstream(err), "it is the company that does not answer, not the plugin")
		_, err = b.Lookup(t.Context(), &providerv1.LookupRequest{Key: token})
		require.Equal(t, acted, err == nil)
	}
}

func TestTokensBehave(t *testing.T) {
	t.Parallel()
	b := open(t)
	require.Equal(t, "card_declined", b.hold(t, "a", 10, "tok_declined").GetCode())
	require.EqualValues(t, 9, b.hold(t, "b", 10, "tok_wrong_amount").GetAmount().GetMinorUnits())
	require.Equal(t, providerv1.Outcome_STATUS_SUCCEEDED, b.hold(t, "c", 1091, "tok_ok").GetStatus(), "amounts are just amounts unless asked")
	m := open(t, plugintest.Config(map[string]any{"magic_amounts": true, "currency": "GBP"}))
	require.Equal(t, "card_declined", m.hold(t, "a", 1091, "tok_ok").GetCode())
	res, err := m.Authorize(t.Context(), &providerv1.AuthorizeRequest{Key: "e", Amount: &typev1.Money{CurrencyCode: "EUR", MinorUnits: 5}, MethodToken: "tok_ok"})
	require.NoError(t, err)
	require.Equal(t, "currency_not_supported", res.GetOutcome().GetCode())
}

// The vector of the Standard Webhooks specification.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestWebhooksAreSignedAfterStandardWebhooks(t *testing.T) {
	t.Parallel()
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	got, err := wh.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	require.NoError(t, err)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)
}

func TestAPendingPaymentIsToldOnceItEnds(t *testing.T) {
	t.Parallel()
	b := open(t, plugintest.Secrets(map[string]string{"webhook_secret": secret}))
	hooks := pluginv1connect.NewWebhookServiceClient(b.Client(call.Info{}))
	dir := t.TempDir()
	taken := make(chan struct{}, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		_, _ = r.Body.Read(body)
		req := &pluginv1.HandleWebhookRequest{Instance: "payment-sandbox", Method: r.Method, Body: body, Headers: map[string]string{}}
		for k := range r.Header {
			req.Headers[k] = r.Header.Get(k)
		}
		forged := &pluginv1.HandleWebhookRequest{Instance: "payment-sandbox", Body: append([]byte(" "), body...), Headers: req.GetHeaders()}
		res, err := hooks.HandleWebhook(context.Background(), forged)
		if err != nil || res.GetStatus() != http.StatusUnauthorized {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if _, err := hooks.HandleWebhook(context.Background(), req); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		taken <- struct{}{}
	}))
	t.Cleanup(srv.Close)
	c := books(t, dir)
	s, err := webhook.New(dir, srv.URL, secret, slog.Default())
	require.NoError(t, err)
	s.Start(t.Context(), c)
	_, err = c.do(asked{key: "k", operation: authorize, currency: "GBP", minor: 5, tell: 2})
	require.NoError(t, err)
	<-taken
	<-taken
	events := b.Published(t)
	require.Len(t, events, 1, "told twice, it is published once")
	require.Equal(t, "k", events[0].(*providerv1.TransactionUpdated).GetKey())
	s.Close()
}

func books(t *testing.T, dir string) *company {
	t.Helper()
	j, all, err := journal.Open(filepath.Join(dir, "journal.jsonl"), number, nil)
	require.NoError(t, err)
	t.Cleanup(j.Close)
	return openCompany(j, all, true)
}

func TestNoWebhookIsLostOrOvertakesAnother(t *testing.T) {
	t.Parallel()
	const operations = 60
	var mu sync.Mutex
	var heard []int64
	all := make(chan struct{})
	end := sync.OnceFunc(func() { close(all) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v record
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if len(heard)%7 == 3 && heard[len(heard)-1] != -v.N {
			heard = append(heard, -v.N) // refused, and tried again
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		heard = append(heard, v.N)
		if v.N == operations {
			end()
		}
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	c := books(t, dir)
	var wg sync.WaitGroup
	for i := range operations {
		wg.Go(func() {
			_, err := c.do(asked{key: strconv.Itoa(i), operation: authorize, currency: "GBP", minor: 1, tell: 1})
			require.NoError(t, err)
		})
	}
	// The first sender ends somewhere in the middle; the next goes on from the
	// books, as after a crash.
	first, err := webhook.New(dir, srv.URL, secret, slog.Default())
	require.NoError(t, err)
	first.Start(t.Context(), c)
	wg.Wait()
	first.Close()
	c.journal.Close()
	again := books(t, dir)
	second, err := webhook.New(dir, srv.URL, secret, slog.Default())
	require.NoError(t, err)
	second.Start(t.Context(), again)
	<-all
	second.Close()
	last := int64(0)
	for _, n := range heard {
		if n > 0 {
			require.Contains(t, []int64{last, last + 1}, n, "in order, none left out")
			last = n
		}
	}
	require.EqualValues(t, operations, last)
	require.Nil(t, again.Next(operations), "what is told is forgotten")
}

func TestAPendingPaymentSettles(t *testing.T) {
	t.Parallel()
	b := open(t)
	require.Equal(t, providerv1.Outcome_STATUS_PENDING, b.hold(t, "p", 10, "tok_pending").GetStatus())
	require.Eventually(t, func() bool {
		res, err := b.Lookup(t.Context(), &providerv1.LookupRequest{Key: "p"})
		return err == nil && res.GetOutcome().GetStatus() == providerv1.Outcome_STATUS_SUCCEEDED
	}, 5*time.Second, 5*time.Millisecond)
}

func TestADisputeIsOpenedAnsweredAndRememberedByTheBooks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, plugintest.DataDir(dir), plugintest.Config(map[string]any{"dispute_fee": 1500}))
	report := func() (out []*providerv1.Dispute) {
		stream, err := b.Report(t.Context(), &providerv1.ReportRequest{})
		require.NoError(t, err)
		for {
			page, err := stream.Receive()
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				return out
			}
			out = append(out, page.GetDisputes()...)
		}
	}
	for i, c := range []struct {
		text   string
		submit bool
		want   providerv1.Dispute_Status
		fee    int64
	}{
		{"nothing yet", false, providerv1.Dispute_STATUS_NEEDS_RESPONSE, 1500},
		{"here is winning_evidence", true, providerv1.Dispute_STATUS_WON, 0},
		{"losing_evidence", true, providerv1.Dispute_STATUS_LOST, 1500},
		{"look at it", true, providerv1.Dispute_STATUS_UNDER_REVIEW, 1500},
	} {
		n := strconv.Itoa(i)
		pay := b.hold(t, "a"+n, 1000, "tok_disputed").GetPaymentReference()
		_, err := b.Capture(t.Context(), &providerv1.CaptureRequest{Key: "c" + n, PaymentReference: pay, Amount: gbp(600)})
		require.NoError(t, err)
		all := report()
		require.Len(t, all, i+1)
		d := all[i]
		require.Equal(t, pay, d.GetPaymentReference())
		require.Equal(t, providerv1.Dispute_STATUS_NEEDS_RESPONSE, d.GetStatus())
		require.EqualValues(t, 600, d.GetAmount().GetMinorUnits())
		back, err := b.Refund(t.Context(), &providerv1.RefundRequest{Key: "r" + n, PaymentReference: pay, Amount: gbp(1)})
		require.NoError(t, err)
		require.Equal(t, "charge_disputed", back.GetOutcome().GetCode())
		evidence := &providerv1.SubmitEvidenceRequest{
			Key: "e" + n, DisputeReference: d.GetReference(), Submit: c.submit,
			Evidence: []*providerv1.Evidence{{Kind: providerv1.Evidence_KIND_STATEMENT, Text: c.text}},
		}
		for range 2 {
			res, err := b.SubmitEvidence(t.Context(), evidence)
			require.NoError(t, err)
			require.Equal(t, c.want, res.GetDispute().GetStatus(), c.text)
			require.Equal(t, c.fee, res.GetDispute().GetFee().GetMinorUnits())
		}
		if c.submit {
			evidence.Key = "late" + n
			_, err := b.SubmitEvidence(t.Context(), evidence)
			require.Equal(t, "DISPUTE_NOT_OPEN", fault.Reason(err))
		}
		back, err = b.Refund(t.Context(), &providerv1.RefundRequest{Key: "rr" + n, PaymentReference: pay, Amount: gbp(1)})
		require.NoError(t, err)
		require.Equal(t, c.want == providerv1.Dispute_STATUS_WON, back.GetOutcome().GetCode() == "")
	}
	first := report()[0].GetReference()
	b.Stop()

	b = open(t, plugintest.DataDir(dir))
	all := report()
	require.Len(t, all, 4)
	require.Equal(t, providerv1.Dispute_STATUS_WON, all[1].GetStatus())
	for range 2 {
		res, err := b.AcceptDispute(t.Context(), &providerv1.AcceptDisputeRequest{Key: "give-up", DisputeReference: first})
		require.NoError(t, err)
		require.Equal(t, providerv1.Dispute_STATUS_LOST, res.GetDispute().GetStatus())
	}
	got, err := b.GetDispute(t.Context(), &providerv1.GetDisputeRequest{DisputeReference: first})
	require.NoError(t, err)
	require.Equal(t, providerv1.Dispute_STATUS_LOST, got.GetDispute().GetStatus())
	_, err = b.GetDispute(t.Context(), &providerv1.GetDisputeRequest{DisputeReference: "dp_none"})
	require.Equal(t, "DISPUTE_UNKNOWN", fault.Reason(err))
}

func TestADisputeIsToldByWebhook(t *testing.T) {
	t.Parallel()
	b := open(t, plugintest.Secrets(map[string]string{"webhook_secret": secret}))
	hooks := pluginv1connect.NewWebhookServiceClient(b.Client(call.Info{}))
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	c := books(t, t.TempDir())
	held, err := c.do(asked{key: "a", operation: authorize, currency: "GBP", minor: 5, disputed: true})
	require.NoError(t, err)
	_, err = c.do(asked{key: "c", operation: capture, payment: held.Payment, minor: 5})
	require.NoError(t, err)
	m := c.Next(0)
	now := time.Now()
	sign, err := wh.Sign(m.ID, now, m.Body)
	require.NoError(t, err)
	_, err = hooks.HandleWebhook(t.Context(), &pluginv1.HandleWebhookRequest{Instance: "payment-sandbox", Body: m.Body, Headers: map[string]string{
		standardwebhooks.HeaderWebhookID: m.ID, standardwebhooks.HeaderWebhookTimestamp: strconv.FormatInt(now.Unix(), 10), standardwebhooks.HeaderWebhookSignature: sign,
	}})
	require.NoError(t, err)
	events := b.Published(t)
	require.Len(t, events, 1)
	told := events[0].(*providerv1.DisputeUpdated)
	require.Equal(t, held.Payment, told.GetDispute().GetPaymentReference())
	require.Equal(t, told.GetReference(), told.GetDispute().GetReference())
}

package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const testKey = "sk_test_fake1"

// bank is the provider under test and the Stripe that it speaks to.
type bank struct {
	*plugintest.Module
	providerv1connect.PaymentProviderServiceClient
	fake *fake
}

func open(t testing.TB, config map[string]any) bank {
	t.Helper()
	f := newFake(t)
	all := map[string]any{"url": f.at.URL, "merchants": []string{"mer_1=acct_1"}}
	for k, v := range config {
		all[k] = v
	}
	m := plugintest.Start(t, provider(), plugintest.Config(all),
		plugintest.Secrets(map[string]string{"secret_key": testKey, "webhook_secrets": oldSecret + " " + newSecret}))
	info := call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "payment"}}
	return bank{m, providerv1connect.NewPaymentProviderServiceClient(m.Client(info)), f}
}

func gbp(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "GBP", MinorUnits: minor} }

func (b bank) authorize(t testing.TB, key string, minor int64, token string) (*providerv1.Outcome, error) {
	t.Helper()
	res, err := b.Authorize(t.Context(), &providerv1.AuthorizeRequest{Key: key, Amount: gbp(minor), MethodToken: token, MerchantReference: "pay_1"})
	return res.GetOutcome(), err
}

// hold is an authorisation that goes well, and its payment's number.
func (b bank) hold(t testing.TB, key string, minor int64, token string) string {
	t.Helper()
	o, err := b.authorize(t, key, minor, token)
	require.NoError(t, err)
	require.Equal(t, succeeded, o.GetStatus(), o.GetCode())
	return o.GetPaymentReference()
}

// move is a capture, a void, a refund or a payout.
func (b bank) move(t testing.TB, op providerv1.Operation, key, payment string, minor int64) (*providerv1.Outcome, error) {
	t.Helper()
	var answer interface{ GetOutcome() *providerv1.Outcome }
	var err error
	switch op {
	case authorize:
		return b.authorize(t, key, minor, "pm_card_visa")
	case capture:
		answer, err = b.Capture(t.Context(), &providerv1.CaptureRequest{Key: key, PaymentReference: payment, Amount: gbp(minor)})
	case void:
		answer, err = b.Void(t.Context(), &providerv1.VoidRequest{Key: key, PaymentReference: payment})
	case refund:
		answer, err = b.Refund(t.Context(), &providerv1.RefundRequest{Key: key, PaymentReference: payment, Amount: gbp(minor)})
	case payout:
		answer, err = b.Payout(t.Context(), &providerv1.PayoutRequest{Key: key, MerchantId: "mer_1", Amount: gbp(minor)})
	}
	return answer.GetOutcome(), err
}

func (b bank) must(t testing.TB, op providerv1.Operation, key, payment string, minor int64) *providerv1.Outcome {
	t.Helper()
	o, err := b.move(t, op, key, payment, minor)
	require.NoError(t, err)
	require.Equal(t, succeeded, o.GetStatus(), "%s: %s", o.GetCode(), o.GetMessage())
	require.Equal(t, key, o.GetKey())
	require.Equal(t, op, o.GetOperation())
	return o
}

func (b bank) lookup(t testing.TB, key string) (*providerv1.Outcome, error) {
	t.Helper()
	res, err := b.Lookup(t.Context(), &providerv1.LookupRequest{Key: key})
	return res.GetOutcome(), err
}

func (b bank) report(t testing.TB, req *providerv1.ReportRequest) (all []*providerv1.Outcome, disputes []*providerv1.Dispute) {
	t.Helper()
	stream, err := b.Report(t.Context(), req)
	require.NoError(t, err)
	for {
		page, err := stream.Receive()
		if err == io.EOF { //nolint:errorlint // as the stream has it
			return all, disputes
		}
		require.NoError(t, err)
		all, disputes = append(all, page.GetOutcomes()...), append(disputes, page.GetDisputes()...)
	}
}

func TestTheLibrarySpeaksTheVersionThatThisWasWrittenFor(t *testing.T) {
	t.Parallel()
	require.Equal(t, apiVersion, stripe.APIVersion, "read Stripe's changelog before taking another")
}

func TestMoneyIsHeldTakenAndReturned(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	for _, c := range []struct {
		op    providerv1.Operation
		key   string
		minor int64
		want  int64
		code  string
	}{
		{capture, "c0", 1001, 1001, "amount_too_large"},
		{capture, "c1", 600, 600, ""},
		{capture, "c2", 100, 100, "payment_intent_unexpected_state"},
		{void, "v1", 0, 400, ""}, // released with the capture of a part
		{void, "v2", 0, 0, "nothing_left"},
		{refund, "r1", 601, 601, "invalid_request_error"},
		{refund, "r2", 250, 250, ""},
		{refund, "r3", 350, 350, ""},
		{refund, "r4", 1, 1, "invalid_request_error"},
		{payout, "p1", 500, 500, ""},
		{payout, "p2", 2_000_000, 2_000_000, "balance_insufficient"},
	} {
		for range 2 { // whatever is asked again is answered alike
			o, err := b.move(t, c.op, c.key, pay, c.minor)
			require.NoError(t, err, c.key)
			require.Equal(t, c.code, o.GetCode(), c.key)
			require.Equal(t, c.code == "", o.GetStatus() == succeeded, c.key)
			require.Equal(t, c.want, o.GetAmount().GetMinorUnits(), c.key)
			told, err := b.lookup(t, c.key)
			require.NoError(t, err)
			require.Equal(t, o.String(), told.String())
		}
	}
	require.EqualValues(t, 600, b.fake.total("captured"))
	require.EqualValues(t, 600, b.fake.total("refunded"))
	require.EqualValues(t, 500, b.fake.total("transferred"))
}

func TestAHoldIsVoided(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "ctoken_1")
	require.EqualValues(t, 1000, b.must(t, void, "v1", pay, 0).GetAmount().GetMinorUnits())
	require.EqualValues(t, 1000, b.fake.total("cancelled"))
	o, err := b.move(t, void, "v2", pay, 0)
	require.NoError(t, err)
	require.Equal(t, "nothing_left", o.GetCode(), "one hold is given up once")

	// One that expired was given up by Stripe.
	pay = b.hold(t, "a2", 700, "pm_card_visa")
	b.fake.change("payment_intents", pay, func(o object) { o["status"], o["amount_capturable"] = "canceled", int64(0) })
	require.EqualValues(t, 700, b.must(t, void, "v3", pay, 0).GetAmount().GetMinorUnits())
}

func TestAHoldIsCapturedInPartsWhereTheCardHasIt(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]any{"multicapture": true})
	pay := b.hold(t, "a1", 1000, "pm_card_multi")
	b.must(t, capture, "c1", pay, 300)
	b.must(t, capture, "c2", pay, 300)
	require.EqualValues(t, 400, b.must(t, void, "v1", pay, 0).GetAmount().GetMinorUnits())
	require.EqualValues(t, 400, b.fake.total("cancelled"))

	single := b.hold(t, "a2", 1000, "pm_card_visa")
	b.must(t, capture, "c3", single, 300)
	o, err := b.move(t, capture, "c4", single, 300)
	require.NoError(t, err)
	require.Equal(t, declinedEnd, o.GetStatus(), "where the card has it not, the first capture is the last")

	all := b.hold(t, "a3", 1000, "pm_card_multi")
	b.must(t, capture, "c5", all, 1000)
	keys := map[string]int64{}
	outcomes, _ := b.report(t, &providerv1.ReportRequest{})
	for _, o := range outcomes {
		keys[o.GetKey()] += o.GetAmount().GetMinorUnits()
	}
	require.Equal(t, map[string]int64{"a1": 1000, "c1": 300, "c2": 300, "v1": 400, "a2": 1000, "c3": 300, "a3": 1000, "c5": 1000}, keys)
}

func TestDeclinesAreFinalAndTellNoMoreThanTheyShould(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for token, code := range map[string]string{
		"pm_card_declined": "generic_decline", "pm_card_insufficient": "insufficient_funds", "pm_card_expired": "expired_card",
		"pm_card_asks": "authentication_required", "pm_card_stolen": "card_declined", "pm_missing": "resource_missing",
	} {
		for range 2 {
			o, err := b.authorize(t, token, 1000, token)
			require.NoError(t, err)
			require.Equal(t, declinedEnd, o.GetStatus())
			require.Equal(t, code, o.GetCode())
			require.Contains(t, o.GetMessage(), "[req_", "operators find it at Stripe")
			require.NotContains(t, o.GetMessage(), "pi_secret")
			require.NotContains(t, o.GetMessage(), "stolen")
		}
	}
	require.EqualValues(t, 5, b.fake.total("declined"), "each card was tried once")
	for name, req := range map[string]*providerv1.AuthorizeRequest{
		"METHOD_TOKEN_UNKNOWN":   {Key: "x", Amount: gbp(1), MethodToken: "tok_visa"},
		"AMOUNT_INVALID":         {Key: "x", Amount: &typev1.Money{CurrencyCode: "KWD", MinorUnits: 1001}, MethodToken: "pm_1"},
		"CURRENCY_NOT_SUPPORTED": {Key: "x", Amount: &typev1.Money{CurrencyCode: "UGX", MinorUnits: 5}, MethodToken: "pm_1"},
	} {
		_, err := b.Authorize(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.Equal(t, name, fault.Reason(err))
	}
	_, err := b.Payout(t.Context(), &providerv1.PayoutRequest{Key: "x", MerchantId: "mer_2", Amount: gbp(1)})
	require.Equal(t, "MERCHANT_ACCOUNT_UNKNOWN", fault.Reason(err))
	_, err = b.move(t, capture, "x", "../refunds", 1)
	require.Equal(t, "PAYMENT_UNKNOWN", fault.Reason(err))
	_, err = b.lookup(t, "x")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestAKeyIsOfOneRequest(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "k", 1000, "pm_card_visa")
	_, err := b.authorize(t, "k", 2000, "pm_card_visa")
	require.Equal(t, "KEY_REUSED", fault.Reason(err))
	_, err = b.move(t, capture, "k", pay, 1000)
	require.Equal(t, "KEY_REUSED", fault.Reason(err))
	require.EqualValues(t, 1000, b.fake.total("held"))
}

// Whatever goes wrong on the way, an operation is done once, and what it is
// answered in the end is what was done.
func TestWhateverGoesWrongItIsDoneOnce(t *testing.T) {
	t.Parallel()
	steps := []struct {
		op    providerv1.Operation
		calls []string
		what  string
	}{
		{authorize, []string{"POST /v1/payment_intents", "/confirm"}, "held"},
		{capture, []string{"/capture"}, "captured"},
		{void, []string{"GET /v1/payment_intents", "POST /v1/payment_intents/", "/cancel"}, "cancelled"},
		{refund, []string{"/v1/refunds"}, "refunded"},
		{payout, []string{"/v1/transfers"}, "transferred"},
	}
	for _, how := range []mishap{lostBefore, lostAfter, failBefore, failAfter, limited, refusedKey} {
		for _, s := range steps {
			for _, at := range s.calls {
				t.Run(strings.Join([]string{s.op.String(), at, string(how)}, " "), func(t *testing.T) {
					t.Parallel()
					b := open(t, nil)
					pay := ""
					if s.op != authorize && s.op != payout {
						pay = b.hold(t, "hold", 1000, "pm_card_visa")
					}
					if s.op == refund {
						b.must(t, capture, "cap", pay, 1000)
					}
					before := b.fake.total(s.what)
					b.fake.fail(at, how)
					_, err := b.move(t, s.op, "op", pay, 1000)
					require.Error(t, err)
					require.Contains(t, []connect.Code{connect.CodeUnavailable, connect.CodeDeadlineExceeded}, connect.CodeOf(err), "not known is not refused: %v", err)
					require.True(t, fault.IsDownstream(err))
					require.NotContains(t, err.Error(), "sk_test")
					if told, err := b.lookup(t, "op"); err == nil {
						require.Equal(t, succeeded, told.GetStatus())
						require.EqualValues(t, 1000, b.fake.total(s.what)-before, "what is told was done")
					} else if connect.CodeOf(err) == connect.CodeNotFound {
						require.Equal(t, before, b.fake.total(s.what), "what is not there was not done")
					} else {
						require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
					}
					o := b.must(t, s.op, "op", pay, 1000)
					require.EqualValues(t, 1000, o.GetAmount().GetMinorUnits())
					require.EqualValues(t, 1000, b.fake.total(s.what)-before, "once")
					told, err := b.lookup(t, "op")
					require.NoError(t, err)
					require.Equal(t, o.String(), told.String())
				})
			}
		}
	}
}

func TestWhatEndsLaterIsLookedUp(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	o, err := b.authorize(t, "a1", 1000, "pm_card_slow")
	require.NoError(t, err)
	require.Equal(t, pending, o.GetStatus())
	b.fake.change("payment_intents", o.GetPaymentReference(), func(o object) { o["status"], o["amount_capturable"] = "requires_capture", o["amount"] })
	o, err = b.lookup(t, "a1")
	require.NoError(t, err)
	require.Equal(t, succeeded, o.GetStatus())
	b.must(t, capture, "c1", o.GetPaymentReference(), 1000)
	o, err = b.move(t, refund, "r1", o.GetPaymentReference(), 77)
	require.NoError(t, err)
	require.Equal(t, pending, o.GetStatus())
	b.fake.change("refunds", o.GetReference(), func(o object) { o["status"], o["failure_reason"] = "failed", "lost_or_stolen_card" })
	o, err = b.lookup(t, "r1")
	require.NoError(t, err)
	require.Equal(t, declinedEnd, o.GetStatus())
	require.Equal(t, "lost_or_stolen_card", o.GetCode())
}

func TestWhatOperationsCost(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "a1", 1000, "pm_card_visa")
	require.Equal(t, 2, b.fake.took(), "the intent is made, then confirmed")
	for _, c := range []struct {
		op       providerv1.Operation
		requests int
	}{{authorize, 0}, {capture, 1}, {void, 2}, {refund, 1}, {payout, 1}} {
		key, minor := c.op.String(), int64(600)
		if c.op == authorize {
			key, minor = "a1", 1000
		}
		b.must(t, c.op, key, pay, minor)
		require.Equal(t, c.requests, b.fake.took(), c.op.String())
	}
	for _, key := range []string{"a1", "never"} {
		_, _ = b.lookup(t, key)
		require.Zero(t, b.fake.took(), "what is known is not asked")
	}
}

func TestOneKeyAtTheSameTimeIsOneOperation(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "hold", 1000, "pm_card_visa")
	b.must(t, capture, "cap", pay, 1000)
	for what, op := range map[string]providerv1.Operation{"held": authorize, "refunded": refund, "transferred": payout} {
		before := b.fake.total(what)
		// Of those who come together one meets a failure of Stripe's.
		b.fake.fail(map[string]string{"held": "/confirm", "refunded": "/v1/refunds", "transferred": "/v1/transfers"}[what], failAfter)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				o, err := b.move(t, op, what, pay, 100)
				if err == nil && o.GetStatus() != succeeded || err != nil && connect.CodeOf(err) != connect.CodeUnavailable {
					t.Errorf("%s: %v, %v", what, o, err)
				}
			})
		}
		wg.Wait()
		b.must(t, op, what, pay, 100)
		require.EqualValues(t, 100, b.fake.total(what)-before, what)
	}
}

// While one looks for a refund at Stripe, another makes it and meets a failure:
// that nothing was found then is no leave to make it again.
func TestAFailureMeanwhileIsSearchedAgain(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "hold", 1000, "pm_card_visa")
	b.must(t, capture, "cap", pay, 1000)
	b.fake.fail("POST /v1/refunds", lostBefore)
	_, err := b.move(t, refund, "op", pay, 100)
	require.Error(t, err)
	b.fake.fail("POST /v1/refunds", failAfter)
	var other error
	var once sync.Once
	b.fake.meanwhile = func(call string) {
		if call == "GET /v1/refunds" {
			once.Do(func() {
				b.fake.meanwhile = nil
				_, other = b.move(t, refund, "op", pay, 100)
			})
		}
	}
	_, err = b.move(t, refund, "op", pay, 100)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(other))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "it is not sent under another idempotency key")
	b.must(t, refund, "op", pay, 100)
	require.EqualValues(t, 100, b.fake.total("refunded"))
}

// What was sent and not answered may arrive for a while yet: until then that
// nothing is there tells nothing.
func TestSilenceIsNoAnswer(t *testing.T) {
	t.Parallel()
	now := time.Now()
	sent := record{Sent: now.UnixMilli()}
	require.Positive(t, sent.underway(now))
	require.Positive(t, sent.underway(now.Add(silence-time.Second)))
	require.Zero(t, sent.underway(now.Add(silence+time.Second)))
	sent.Failed = true
	require.Zero(t, sent.underway(now), "a failure is an answer")
}

func TestAnIntentThatOthersChangedMeanwhileIsSeenAgain(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "hold", 1000, "pm_card_visa")
	b.fake.meanwhile = func(call string) {
		if call == "POST /v1/payment_intents/"+pay { // the key is written, and it is not cancelled yet
			b.fake.change("payment_intents", pay, func(o object) { o["status"], o["amount_capturable"] = "canceled", int64(0) })
		}
	}
	_, err := b.move(t, void, "op", pay, 0)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "it is not known who gave it up")
	require.EqualValues(t, 1000, b.must(t, void, "op", pay, 0).GetAmount().GetMinorUnits())
}

// A refusal leaves no trace but under its idempotency key.
func TestARefusalOfWhichTheAnswerIsLostIsLearned(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "hold", 1000, "pm_card_visa")
	for op, at := range map[providerv1.Operation]string{capture: "/capture", refund: "/v1/refunds"} {
		b.fake.fail("POST /v1", lostAfter)
		_, err := b.move(t, op, at, pay, 2000)
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
		o, err := b.move(t, op, at, pay, 2000)
		require.NoError(t, err)
		require.Equal(t, declinedEnd, o.GetStatus())
	}
}

// An answer that is none is not taken for money.
func TestAnEmptyAnswerIsNoCapture(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	pay := b.hold(t, "hold", 1000, "pm_card_visa")
	real := b.fake.at.Config.Handler
	b.fake.at.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	for key, op := range map[string]providerv1.Operation{"a": authorize, "c": capture, "v": void, "r": refund, "p": payout} {
		o, err := b.move(t, op, key, pay, 100)
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v: %v", op, o)
	}
	_, err := b.GetDispute(t.Context(), &providerv1.GetDisputeRequest{DisputeReference: "du_1"})
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	b.fake.at.Config.Handler = real
}

package main

import (
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestAnAuthorizationHoldsMoneyAtTheInstanceOfTheMarket(t *testing.T) {
	t.Parallel()
	p := open(t)
	for market, c := range map[string]struct{ currency, instance string }{
		"GB": {"GBP", "bank-gb"}, "DE": {"EUR", "bank-de"}, "JP": {"JPY", "bank-jp"},
	} {
		req := authorization(1200)
		req.Market, req.Amount.CurrencyCode = market, c.currency
		res, err := p.plain.AuthorizePayment(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, c.instance, res.GetPayment().GetInstance())
		require.Equal(t, paymentv1.Payment_STATE_AUTHORIZED, res.GetPayment().GetState())
		require.EqualValues(t, 1200, p.account(t, "consumer:"+req.GetPaymentId()))
		require.EqualValues(t, -1200, p.account(t, "provider:"+c.instance+":authorized"))
	}
	require.Equal(t, []string{"PaymentAuthorized", "PaymentAuthorized", "PaymentAuthorized"}, p.kinds(t))
	require.Equal(t, p.bank.total(), p.balanced(t))
}

func TestAStepOfAuthorizationIsRecordedOnceHoweverOftenItIsCalled(t *testing.T) {
	t.Parallel()
	p := open(t)
	step, req := p.saga(t), authorization(500)
	first, err := step(1, false).AuthorizePayment(t.Context(), req)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			again, err := step(1, false).AuthorizePayment(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, first.GetPayment().GetProviderReference(), again.GetPayment().GetProviderReference())
		})
	}
	wg.Wait()
	require.EqualValues(t, 500, p.bank.total().authorized)
	require.Equal(t, []string{"PaymentAuthorized"}, p.kinds(t))
}

func TestTheSamePaymentAskedForManyTimesAtOnceIsHeldOnce(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := authorization(700)
	step := p.saga(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := step(1, false).AuthorizePayment(t.Context(), req)
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.EqualValues(t, 700, p.bank.total().authorized)
	require.EqualValues(t, 700, p.balanced(t).authorized)
}

func TestAnUnknownOutcomeIsAskedAboutAndNeverChargedTwice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fates []fate
		calls int // until the end, those that fail included
		sent  int // calls that reached the bank as an authorisation
	}{
		"the bank acted and the answer was lost":             {[]fate{actsThenFails}, 2, 1},
		"the bank did not act and the answer was lost":       {[]fate{failsBefore}, 2, 2},
		"it did not act twice":                               {[]fate{failsBefore, failsBefore}, 3, 3},
		"it did not act, then acted and the answer was lost": {[]fate{failsBefore, actsThenFails}, 3, 2},
		"it answered for another key":                        {[]fate{babbles}, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.bank.will(c.fates...)
			req, step := authorization(900), p.saga(t)
			for n := 1; n < c.calls; n++ {
				_, err := step(1, false).AuthorizePayment(t.Context(), req)
				refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
				got := p.get(t, req.GetPaymentId())
				require.Equal(t, paymentv1.Payment_STATE_PENDING, got.GetPayment().GetState())
				require.Equal(t, unknown, got.GetAttempts()[0].GetState())
				require.Equal(t, "bank-gb", got.GetPayment().GetInstance(), "the intent names who may have acted")
			}
			// Meanwhile the market is bound elsewhere: the payment is not.
			p.bank.mu.Lock()
			p.bank.bound["GB"] = "bank-de"
			p.bank.mu.Unlock()
			res, err := step(1, false).AuthorizePayment(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, "bank-gb", res.GetPayment().GetInstance())
			require.EqualValues(t, 900, p.bank.total().authorized)
			attempts := p.get(t, req.GetPaymentId()).GetAttempts()
			require.Len(t, attempts, 1)
			require.Equal(t, c.sent, p.bank.calls[attempts[0].GetKey()])
			require.Equal(t, p.bank.total(), p.balanced(t))
		})
	}
}

func TestADeclineIsRecordedAsARefusalAndStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fate fate
		code string
	}{"as an outcome": {declines, "insufficient_funds"}, "as an error": {refuses, "CARD_EXPIRED"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.bank.will(c.fate)
			req, step := authorization(900), p.saga(t)
			for range 2 {
				_, err := step(1, false).AuthorizePayment(t.Context(), req)
				refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
			}
			_, err := p.plain.AuthorizePayment(t.Context(), req)
			refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
			got := p.get(t, req.GetPaymentId())
			require.Equal(t, paymentv1.Payment_STATE_DECLINED, got.GetPayment().GetState())
			require.Equal(t, c.code, got.GetAttempts()[0].GetCode())
			require.Equal(t, []string{"PaymentDeclined"}, p.kinds(t))
			require.Zero(t, p.balanced(t))
		})
	}
}

func TestAnotherAmountThanAskedIsAConflictAndIsGivenBackBeforeItIsRefused(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fate{"another amount": otherAmount, "another currency": otherCurrency} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.bank.will(f, actsThenFails) // the void's answer is lost
			req, step := authorization(900), p.saga(t)
			_, err := step(1, false).AuthorizePayment(t.Context(), req)
			refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
			for range 2 {
				_, err = step(1, false).AuthorizePayment(t.Context(), req)
				refused(t, connect.CodeFailedPrecondition, "AMOUNT_CONFLICT", err)
			}
			total := p.bank.total()
			require.Equal(t, total.authorized, total.voided, "nothing is held any more")
			require.Equal(t, paymentv1.Payment_STATE_CONFLICTED, p.get(t, req.GetPaymentId()).GetPayment().GetState())
			p.balanced(t)
			_, err = p.plain.CapturePayment(t.Context(), captureOf(&paymentv1.Payment{PaymentId: req.GetPaymentId(), Authorized: gbp(1)}, 1))
			refused(t, connect.CodeFailedPrecondition, "AMOUNT_CONFLICT", err)
		})
	}
}

func TestAPaymentIsMadeWithOneRequest(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := authorization(100)
	_, err := p.plain.AuthorizePayment(t.Context(), req)
	require.NoError(t, err)
	for what, change := range map[string]func(*paymentv1.AuthorizePaymentRequest){
		"amount": func(r *paymentv1.AuthorizePaymentRequest) { r.Amount = gbp(101) },
		"currency": func(r *paymentv1.AuthorizePaymentRequest) {
			r.Amount = &typev1.Money{CurrencyCode: "EUR", MinorUnits: 100}
		},
		"reference": func(r *paymentv1.AuthorizePaymentRequest) { r.Reference = "ord_2" },
		"market":    func(r *paymentv1.AuthorizePaymentRequest) { r.Market = "DE" },
	} {
		other := authorization(100)
		other.PaymentId = req.GetPaymentId()
		change(other)
		_, err := p.plain.AuthorizePayment(t.Context(), other)
		require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err), "another %s", what)
		refused(t, connect.CodeAlreadyExists, "PAYMENT_DIFFERS", err)
	}
}

func TestBadAmountsAreRefusedBeforeAnybodyIsAsked(t *testing.T) {
	t.Parallel()
	p := open(t)
	for name, m := range map[string]*typev1.Money{
		"zero":        gbp(0),
		"negative":    gbp(-5),
		"no currency": {CurrencyCode: "ABC", MinorUnits: 5},
		"overflowing": gbp(9_000_000_000_001),
		"missing":     nil,
	} {
		req := authorization(1)
		req.Amount = m
		_, err := p.saga(t)(1, false).AuthorizePayment(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	require.Zero(t, p.bank.lookup)
}

func TestWithoutAProviderNothingIsWritten(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := authorization(100)
	req.Market = "FR"
	_, err := p.plain.AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "PROVIDER_UNAVAILABLE", err)
	_, err = p.plain.GetPayment(t.Context(), &paymentv1.GetPaymentRequest{PaymentId: req.GetPaymentId()})
	refused(t, connect.CodeNotFound, "PAYMENT_UNKNOWN", err)
}

func TestAnUnknownPaymentIsNotFound(t *testing.T) {
	t.Parallel()
	p := open(t)
	none := &paymentv1.Payment{PaymentId: id.New("pay"), Authorized: gbp(1)}
	_, err := p.plain.CapturePayment(t.Context(), captureOf(none, 1))
	refused(t, connect.CodeNotFound, "PAYMENT_UNKNOWN", err)
	_, err = p.plain.RefundPayment(t.Context(), refundOf(none, 0))
	refused(t, connect.CodeNotFound, "PAYMENT_UNKNOWN", err)
}

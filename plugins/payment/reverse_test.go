package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
)

func reversal(id string) *paymentv1.ReversePaymentRequest {
	return &paymentv1.ReversePaymentRequest{PaymentId: id, Reason: "test"}
}

func TestUndoBeforeDoLeavesNothingToDo(t *testing.T) {
	t.Parallel()
	p := open(t)
	req, step := authorization(100), p.saga(t)
	res, err := step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
	require.NoError(t, err)
	require.Nil(t, res.GetPayment())
	_, err = step(1, false).AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "UNDONE", err)
	require.Zero(t, p.bank.total())
}

func TestAPaymentThatIsReversedBeforeItIsMadeIsNeverMade(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := authorization(100)
	res, err := p.plain.ReversePayment(t.Context(), reversal(req.GetPaymentId()))
	require.NoError(t, err)
	require.Nil(t, res.GetPayment())
	_, err = p.plain.AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "PAYMENT_REVERSED", err)
	_, err = p.plain.GetPayment(t.Context(), &paymentv1.GetPaymentRequest{PaymentId: req.GetPaymentId()})
	refused(t, connect.CodeNotFound, "PAYMENT_UNKNOWN", err)
	require.Zero(t, p.bank.total())
}

func TestUndoVoidsWhatIsHeldOnceHoweverOftenItIsCalled(t *testing.T) {
	t.Parallel()
	p := open(t)
	req, step := authorization(100), p.saga(t)
	_, err := step(1, false).AuthorizePayment(t.Context(), req)
	require.NoError(t, err)
	p.bank.will(actsThenFails)
	_, err = step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	for range 3 {
		res, err := step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
		require.NoError(t, err)
		require.Equal(t, paymentv1.Payment_STATE_VOIDED, res.GetPayment().GetState())
	}
	require.Equal(t, account{authorized: 100, voided: 100}, p.bank.total())
	require.Equal(t, p.bank.total(), p.balanced(t))
	require.Equal(t, []string{"PaymentAuthorized", "PaymentVoided"}, p.kinds(t))
}

func TestUndoOfAnUnknownAuthorizationAsksFirst(t *testing.T) {
	t.Parallel()
	t.Run("it had happened: it is voided", func(t *testing.T) {
		t.Parallel()
		p := open(t)
		p.bank.will(actsThenFails)
		req, step := authorization(100), p.saga(t)
		_, err := step(1, false).AuthorizePayment(t.Context(), req)
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		_, err = step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
		require.NoError(t, err)
		require.Equal(t, account{authorized: 100, voided: 100}, p.bank.total())
		require.Equal(t, p.bank.total(), p.balanced(t))
	})
	t.Run("it was never seen: only time makes that certain", func(t *testing.T) {
		t.Parallel()
		p := open(t)
		p.bank.will(failsBefore)
		req, step := authorization(100), p.saga(t)
		_, err := step(1, false).AuthorizePayment(t.Context(), req)
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		_, err = step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		// From here on the step sends no more, whoever repeats it.
		_, err = step(1, false).AuthorizePayment(t.Context(), req)
		refused(t, connect.CodeAborted, "PAYMENT_BUSY", err)
		p.age(t)
		res, err := step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
		require.NoError(t, err)
		require.Nil(t, res.GetPayment(), "there was nothing to reverse")
		require.Equal(t, paymentv1.Payment_STATE_VOIDED, p.get(t, req.GetPaymentId()).GetPayment().GetState())
		require.Zero(t, p.bank.total())
	})
	t.Run("nobody can be asked: nothing is assumed", func(t *testing.T) {
		t.Parallel()
		p := open(t)
		p.bank.will(actsThenFails)
		req, step := authorization(100), p.saga(t)
		_, err := step(1, false).AuthorizePayment(t.Context(), req)
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		_, err = p.Admin.Exec(t.Context(), `ALTER TABLE p_payment.payment DISABLE TRIGGER payment_amounts_rise;
			ALTER TABLE p_payment.attempt DISABLE TRIGGER attempt_stays_what_it_is;
			UPDATE p_payment.payment SET instance = 'gone'; UPDATE p_payment.attempt SET instance = 'gone', sent_at = sent_at - interval '1 hour'`)
		require.NoError(t, err)
		_, err = step(1, true).ReversePayment(t.Context(), reversal(req.GetPaymentId()))
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		require.Equal(t, paymentv1.Payment_STATE_PENDING, p.get(t, req.GetPaymentId()).GetPayment().GetState())
	})
}

func TestReversalResolvesCapturesThatAreUnderWay(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	p.bank.will(actsThenFails, failsBefore)
	for range 2 {
		_, err := p.plain.CapturePayment(t.Context(), captureOf(pay, 300))
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	}
	step := p.saga(t)
	_, err := step(1, false).ReversePayment(t.Context(), reversal(pay.GetPaymentId()))
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	p.age(t)
	res, err := step(1, false).ReversePayment(t.Context(), reversal(pay.GetPaymentId()))
	require.NoError(t, err)
	require.Equal(t, paymentv1.Payment_STATE_REFUNDED, res.GetPayment().GetState())
	require.Equal(t, account{authorized: 1000, captured: 300, voided: 700, refunded: 300}, p.bank.total())
	require.Equal(t, p.bank.total(), p.balanced(t))
}

func TestAVoidThatIsDeclinedIsMadeAnewUnderAnotherKey(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay, step := p.hold(t, 100), p.saga(t)
	p.bank.will(declines)
	_, err := step(1, false).ReversePayment(t.Context(), reversal(pay.GetPaymentId()))
	refused(t, connect.CodeUnavailable, "REVERSAL_DECLINED", err)
	_, err = step(1, false).ReversePayment(t.Context(), reversal(pay.GetPaymentId()))
	require.NoError(t, err)
	require.Equal(t, account{authorized: 100, voided: 100}, p.bank.total())
}

func TestReversingWhatWasDeclinedReversesNothing(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.bank.will(declines)
	req := authorization(100)
	_, err := p.plain.AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	res, err := p.plain.ReversePayment(t.Context(), reversal(req.GetPaymentId()))
	require.NoError(t, err)
	require.Nil(t, res.GetPayment())
	require.Equal(t, paymentv1.Payment_STATE_DECLINED, p.get(t, req.GetPaymentId()).GetPayment().GetState())
}

package main

import (
	"context"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
)

func TestTheStateOfAPaymentFollowsWhatHappened(t *testing.T) {
	t.Parallel()
	p := open(t)
	cap := func(minor int64) func(*paymentv1.Payment) (*paymentv1.Payment, error) {
		return func(pay *paymentv1.Payment) (*paymentv1.Payment, error) {
			res, err := p.plain.CapturePayment(t.Context(), captureOf(pay, minor))
			return res.GetPayment(), err
		}
	}
	back := func(minor int64) func(*paymentv1.Payment) (*paymentv1.Payment, error) {
		return func(pay *paymentv1.Payment) (*paymentv1.Payment, error) {
			res, err := p.plain.RefundPayment(t.Context(), refundOf(pay, minor))
			return res.GetPayment(), err
		}
	}
	all := func(pay *paymentv1.Payment) (*paymentv1.Payment, error) {
		res, err := p.plain.ReversePayment(t.Context(), &paymentv1.ReversePaymentRequest{PaymentId: pay.GetPaymentId()})
		return res.GetPayment(), err
	}
	type step struct {
		do     func(*paymentv1.Payment) (*paymentv1.Payment, error)
		state  paymentv1.Payment_State
		reason string
	}
	const (
		authorized  = paymentv1.Payment_STATE_AUTHORIZED
		partly      = paymentv1.Payment_STATE_PARTIALLY_CAPTURED
		captured    = paymentv1.Payment_STATE_CAPTURED
		voided      = paymentv1.Payment_STATE_VOIDED
		partlyBack  = paymentv1.Payment_STATE_PARTIALLY_REFUNDED
		refundedAll = paymentv1.Payment_STATE_REFUNDED
	)
	for name, steps := range map[string][]step{
		"captured at once":              {{cap(1000), captured, ""}, {cap(1), 0, "CAPTURE_EXCEEDS_AUTHORIZATION"}},
		"captured in parts":             {{cap(400), partly, ""}, {cap(601), 0, "CAPTURE_EXCEEDS_AUTHORIZATION"}, {cap(600), captured, ""}},
		"all that is left is captured":  {{cap(400), partly, ""}, {cap(0), captured, ""}, {cap(0), 0, "CAPTURE_EXCEEDS_AUTHORIZATION"}},
		"nothing to refund":             {{back(1), 0, "REFUND_EXCEEDS_CAPTURE"}},
		"refunded in parts":             {{cap(1000), captured, ""}, {back(300), partlyBack, ""}, {back(701), 0, "REFUND_EXCEEDS_CAPTURE"}, {back(0), refundedAll, ""}, {back(0), 0, "REFUND_EXCEEDS_CAPTURE"}},
		"reversed while held":           {{all, voided, ""}, {cap(1), 0, "PAYMENT_REVERSED"}, {all, voided, ""}},
		"reversed when captured":        {{cap(1000), captured, ""}, {all, refundedAll, ""}, {back(1), 0, "PAYMENT_REVERSED"}},
		"reversed when partly captured": {{cap(400), partly, ""}, {back(100), partlyBack, ""}, {all, refundedAll, ""}, {all, refundedAll, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			pay := p.hold(t, 1000)
			require.Equal(t, authorized, pay.GetState())
			for i, s := range steps {
				next, err := s.do(pay)
				if s.reason != "" {
					refused(t, connect.CodeFailedPrecondition, s.reason, err)
					continue
				}
				require.NoError(t, err, "step %d", i)
				require.Equal(t, s.state, next.GetState(), "step %d", i)
			}
		})
	}
	require.Equal(t, p.bank.total(), p.balanced(t))
}

func TestAMovementIsMadeOncePerOperationAndWithOneRequest(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	req := captureOf(pay, 400, &paymentv1.MerchantShare{MerchantId: "mrc_one", MinorUnits: 400})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			res, err := p.plain.CapturePayment(context.Background(), req)
			for fault.Reason(err) == "PAYMENT_BUSY" { // as callers do: it says when
				res, err = p.plain.CapturePayment(context.Background(), req)
			}
			if err != nil {
				t.Error(err)
				return
			}
			assert.EqualValues(t, 400, res.GetPayment().GetCaptured().GetMinorUnits())
		})
	}
	wg.Wait()
	require.EqualValues(t, 400, p.bank.total().captured)
	require.EqualValues(t, 400, p.account(t, "merchant:mrc_one:pending"))
	other := captureOf(pay, 401)
	other.OperationId = req.GetOperationId()
	_, err := p.plain.CapturePayment(t.Context(), other)
	refused(t, connect.CodeAlreadyExists, "OPERATION_DIFFERS", err)
	_, err = p.plain.CapturePayment(t.Context(), &paymentv1.CapturePaymentRequest{PaymentId: pay.GetPaymentId(), OperationId: id.New("cap"), Amount: eur(1)})
	refused(t, connect.CodeFailedPrecondition, "CURRENCY_MISMATCH", err)
}

func TestSharesAreCreditedWithTheCaptureAndTakenBackWithTheLastRefund(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	one, two := &paymentv1.MerchantShare{MerchantId: "mrc_one", MinorUnits: 300}, &paymentv1.MerchantShare{MerchantId: "mrc_two", MinorUnits: 400}
	for name, req := range map[string]*paymentv1.CapturePaymentRequest{
		"less than the amount": captureOf(pay, 1000, one, two),
		"more than the amount": captureOf(pay, 600, one, two),
		"without an amount":    captureOf(pay, 0, one),
		"an id that is none":   captureOf(pay, 5, &paymentv1.MerchantShare{MerchantId: "a:pending", MinorUnits: 5}),
	} {
		_, err := p.plain.CapturePayment(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	_, err := p.plain.CapturePayment(t.Context(), captureOf(pay, 700, one, two))
	require.NoError(t, err)
	_, err = p.plain.CapturePayment(t.Context(), captureOf(pay, 300))
	require.NoError(t, err)
	require.EqualValues(t, 300, p.account(t, "merchant:mrc_one:pending"))
	require.EqualValues(t, 400, p.account(t, "merchant:mrc_two:pending"))
	require.EqualValues(t, 300, p.account(t, "platform:unallocated"))
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 250))
	require.NoError(t, err)
	require.EqualValues(t, 300, p.account(t, "merchant:mrc_one:pending"), "a part names no merchant")
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	for _, a := range []string{"merchant:mrc_one:pending", "merchant:mrc_two:pending", "platform:unallocated", "provider:bank-gb:clearing", "provider:bank-gb:authorized", "consumer:" + pay.GetPaymentId()} {
		require.Zero(t, p.account(t, a), a)
	}
	p.balanced(t)
}

func TestAMovementThatIsUnderWayCountsAsMoved(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	p.bank.will(actsThenFails)
	req := captureOf(pay, 600)
	_, err := p.plain.CapturePayment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	_, err = p.plain.CapturePayment(t.Context(), captureOf(pay, 500))
	refused(t, connect.CodeFailedPrecondition, "CAPTURE_EXCEEDS_AUTHORIZATION", err)
	res, err := p.plain.CapturePayment(t.Context(), req)
	require.NoError(t, err)
	require.EqualValues(t, 600, res.GetPayment().GetCaptured().GetMinorUnits())
	require.Equal(t, p.bank.total(), p.balanced(t))
}

func TestADeclinedCaptureFreesItsAmount(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay, step := p.hold(t, 1000), p.saga(t)
	p.bank.will(declines)
	req := captureOf(pay, 1000)
	for range 2 {
		_, err := step(1, false).CapturePayment(t.Context(), req)
		refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	}
	_, err := step(2, false).CapturePayment(t.Context(), captureOf(pay, 1000))
	require.NoError(t, err)
	require.Equal(t, p.bank.total(), p.balanced(t))
}

func TestACaptureOfAnotherAmountIsForPeople(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	p.bank.will(otherAmount)
	_, err := p.plain.CapturePayment(t.Context(), captureOf(pay, 500))
	refused(t, connect.CodeFailedPrecondition, "AMOUNT_CONFLICT", err)
	require.Equal(t, paymentv1.Payment_STATE_CONFLICTED, p.get(t, pay.GetPaymentId()).GetPayment().GetState())
	_, err = p.plain.ReversePayment(t.Context(), &paymentv1.ReversePaymentRequest{PaymentId: pay.GetPaymentId()})
	refused(t, connect.CodeUnavailable, "PAYMENT_CONFLICTED", err)
	p.balanced(t)
}

// M3 and M2: captured never exceeds authorised nor refunded captured, whatever
// runs at once and however it ends; the ledger balances and is the bank's.
func TestConcurrentMovementsNeverExceedWhatIsThere(t *testing.T) {
	t.Parallel()
	p := open(t)
	rapid.Check(t, func(rt *rapid.T) {
		total := rapid.Int64Range(1, 1000).Draw(rt, "authorized")
		pay := p.hold(rt, total)
		type try struct {
			capture bool
			minor   int64
		}
		draw := func(name string, c bool) []try {
			var out []try
			for _, m := range rapid.SliceOfN(rapid.Int64Range(1, 600), 1, 6).Draw(rt, name) {
				out = append(out, try{c, m})
			}
			return out
		}
		rounds := [][]try{draw("captures", true), append(draw("more captures", true), draw("refunds", false)...)}
		p.bank.will(rapid.SliceOfN(rapid.SampledFrom([]fate{fine, fine, declines, actsThenFails, failsBefore}), 0, 8).Draw(rt, "fates")...)
		for _, round := range rounds {
			var wg sync.WaitGroup
			for _, x := range round {
				wg.Go(func() { p.try(context.Background(), pay, x.capture, x.minor) })
			}
			wg.Wait()
		}
		p.bank.mu.Lock()
		p.bank.fates = nil
		p.bank.mu.Unlock()
		res, err := p.plain.GetPayment(context.Background(), &paymentv1.GetPaymentRequest{PaymentId: pay.GetPaymentId()})
		require.NoError(rt, err)
		got := res.GetPayment()
		require.LessOrEqual(rt, got.GetCaptured().GetMinorUnits(), total)
		require.LessOrEqual(rt, got.GetRefunded().GetMinorUnits(), got.GetCaptured().GetMinorUnits())
		require.Equal(rt, p.bank.total(), p.balanced(rt))
	})
}

// try moves an amount and repeats until its end is known.
func (p *till) try(ctx context.Context, pay *paymentv1.Payment, capture bool, minor int64) {
	c, r := captureOf(pay, minor), refundOf(pay, minor)
	for range 20 {
		var err error
		if capture {
			_, err = p.plain.CapturePayment(ctx, c)
		} else {
			_, err = p.plain.RefundPayment(ctx, r)
		}
		if code := connect.CodeOf(err); err == nil || code != connect.CodeUnavailable && code != connect.CodeAborted {
			return
		}
	}
}

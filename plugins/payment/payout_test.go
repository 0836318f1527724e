package main

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

func payoutOf(minor int64) *paymentv1.RequestPayoutRequest {
	return &paymentv1.RequestPayoutRequest{PayoutId: id.New("pot"), Instance: "bank-gb", Amount: gbp(minor)}
}

// earns makes an amount available to mrc_one.
func (p *till) earns(t require.TestingT, minor int64) *paymentv1.Payment {
	order, pay := p.sold(t, minor)
	p.sends(t, order, "ful_"+order)
	p.brings(t, order, "ful_"+order)
	p.passes(t, order)
	return pay
}

func TestAPayoutIsPaidOnceWhateverTheAnswer(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.earns(t, 1000)
	payouts := p.settlement(one)
	p.bank.will(actsThenFails)
	req := payoutOf(600)
	_, err := payouts.RequestPayout(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	require.EqualValues(t, 600, p.has(t).GetInPayoutMinor())
	for range 2 {
		_, err = payouts.RequestPayout(t.Context(), req)
		require.NoError(t, err)
	}
	require.Equal(t, 1, p.bank.calls[req.GetPayoutId()])
	p.bank.will(declines)
	_, err = payouts.RequestPayout(t.Context(), payoutOf(400))
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_DECLINED", err)
	_, err = payouts.RequestPayout(t.Context(), payoutOf(401))
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_EXCEEDS_BALANCE", err)
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	b := p.has(t)
	require.EqualValues(t, -600, b.GetAvailableMinor(), "it is owed")
	require.EqualValues(t, 600, b.GetPaidOutMinor())
	require.Zero(t, b.GetInPayoutMinor())
	res, err := p.plain.ReconcilePayments(t.Context(), &paymentv1.ReconcilePaymentsRequest{Instance: "bank-gb"})
	require.NoError(t, err)
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())
	p.earns(t, 700)
	_, err = payouts.RequestPayout(t.Context(), payoutOf(101))
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_EXCEEDS_BALANCE", err)
	_, err = payouts.RequestPayout(t.Context(), payoutOf(100))
	require.NoError(t, err)
	p.balanced(t)
}

func TestPayoutsAtOnceStayWithinWhatIsAvailable(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	var paid atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := p.settlement(one).RequestPayout(context.Background(), payoutOf(300)); err == nil {
				paid.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 3, paid.Load())
	require.EqualValues(t, 100, p.has(t).GetAvailableMinor())
	require.EqualValues(t, 900, p.has(t).GetPaidOutMinor())
	p.balanced(t)
}

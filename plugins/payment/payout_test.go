package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/call"
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

// A payout whose caller is gone comes to its end by asking, and is never made
// again.
func TestAPayoutOfUnknownOutcomeIsAskedForUntilItIsKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fate  fate
		state paymentv1.Payout_State
		code  string
		event string
	}{
		"it was paid":                {actsThenFails, payoutPaid, "", "PayoutPaid"},
		"it never arrived":           {failsBefore, payoutDeclined, neverSeen, "PayoutFailed"},
		"it was for another, unsaid": {babbles, payoutDeclined, neverSeen, "PayoutFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.earns(t, 1000)
			p.bank.will(c.fate)
			req := payoutOf(600)
			_, err := p.settlement(one).RequestPayout(t.Context(), req)
			refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
			require.EqualValues(t, 1, p.opened(t))

			require.NoError(t, p.own.tidy(t.Context()))
			require.Zero(t, p.bank.lookup-1, "it may still arrive: nobody is asked") // one to find the market's instance
			p.age(t)
			p.bank.down["bank-gb"] = true
			require.NoError(t, p.own.tidy(t.Context()))
			require.EqualValues(t, 1, p.opened(t), "nobody says")
			p.bank.down["bank-gb"] = false
			p.age(t)
			for range 2 {
				require.NoError(t, p.own.tidy(t.Context()))
			}
			require.Zero(t, p.opened(t))
			require.Equal(t, 1, p.bank.calls[req.GetPayoutId()])
			got := p.payouts(t, one, &paymentv1.ListPayoutsRequest{})
			require.Len(t, got, 1)
			require.Equal(t, c.state, got[0].GetState())
			require.Equal(t, c.code, got[0].GetCode())
			kinds := p.kinds(t)
			require.Equal(t, c.event, kinds[len(kinds)-1])
			_, err = p.settlement(one).RequestPayout(t.Context(), req)
			require.Equal(t, c.state == payoutPaid, err == nil)
			require.Equal(t, 1, p.bank.calls[req.GetPayoutId()], "what has ended is not sent again")
			p.balanced(t)
		})
	}
}

// What is sent again while the janitor asks is not ended by its question.
func TestAPayoutThatIsSentAgainIsNotEndedByAnOlderQuestion(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	p.bank.will(failsBefore)
	req := payoutOf(600)
	_, err := p.settlement(one).RequestPayout(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	p.age(t)
	due, err := payouts(p.DB.Rows(t.Context(), claimPayouts, payoutBatch))
	require.NoError(t, err)
	require.Len(t, due, 1)
	p.bank.will(failsBefore)
	_, err = p.settlement(one).RequestPayout(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	require.NoError(t, p.own.askPayout(t.Context(), due[0]))
	require.EqualValues(t, 1, p.opened(t))
	_, err = p.settlement(one).RequestPayout(t.Context(), req)
	require.NoError(t, err)
	require.EqualValues(t, 600, p.has(t).GetPaidOutMinor())
	p.balanced(t)
}

func TestAPendingPayoutIsEndedByWebhook(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	p.bank.will(pends)
	req := payoutOf(600)
	_, err := p.settlement(one).RequestPayout(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	p.age(t)
	require.NoError(t, p.own.tidy(t.Context()))
	require.EqualValues(t, 1, p.opened(t), "the company is at it")
	end := p.bank.end(req.GetPayoutId(), gbp(600))
	require.NoError(t, p.Deliver(t.Context(), "providers", end, end))
	require.NoError(t, p.Deliver(t.Context(), "providers", end))
	require.EqualValues(t, 600, p.has(t).GetPaidOutMinor())
	require.Zero(t, p.opened(t))
	p.balanced(t)
}

func TestPayoutsAreListedNewestFirstToWhoMaySeeThem(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	var made []string
	for range 5 {
		req := payoutOf(100)
		_, err := p.settlement(one).RequestPayout(t.Context(), req)
		require.NoError(t, err)
		made = append(made, req.GetPayoutId())
	}
	slices.Reverse(made)
	operator := call.Principal{Kind: call.Operator, Account: "acc_o"}
	other := call.Principal{Kind: call.Merchant, Account: "acc_2", Merchant: "mrc_two", Permissions: []string{"*"}}
	for _, c := range []struct {
		who  call.Principal
		of   string
		want []string
	}{{one, "", made}, {staff, "", made}, {operator, "mrc_one", made}, {other, "", nil}, {staff, "mrc_two", nil}} {
		var got []string
		for _, o := range p.payouts(t, c.who, &paymentv1.ListPayoutsRequest{MerchantId: c.of, PageSize: 2}) {
			got = append(got, o.GetPayoutId())
			require.Equal(t, "mrc_one", o.GetMerchantId())
			require.NotNil(t, o.GetEndedAt())
		}
		require.Equal(t, c.want, got)
	}
	_, err := p.settlement(other).ListPayouts(t.Context(), &paymentv1.ListPayoutsRequest{MerchantId: "mrc_one"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "another merchant's")
	for _, token := range []string{"x", "MSBwYXlf", "LTEgcG90Xw", "OTk5OTk5OTk5OTk5OTk5OTk5OSBwb3Rf"} {
		_, err = p.settlement(one).ListPayouts(t.Context(), &paymentv1.ListPayoutsRequest{PageToken: token})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), token)
	}
}

// payouts lists page by page.
func (p *till) payouts(t testing.TB, who call.Principal, req *paymentv1.ListPayoutsRequest) (out []*paymentv1.Payout) {
	t.Helper()
	for {
		res, err := p.settlement(who).ListPayouts(t.Context(), req)
		require.NoError(t, err)
		out = append(out, res.GetPayouts()...)
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			return out
		}
	}
}

// opened is how much is open, as the sum tells it.
func (p *till) opened(t testing.TB) int64 {
	t.Helper()
	res, err := p.plain.SumPayments(t.Context(), &paymentv1.SumPaymentsRequest{})
	require.NoError(t, err)
	return res.GetOpen()
}

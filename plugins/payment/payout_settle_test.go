package main

import (
	"context"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// conflicts asks for a payout of 300 that the bank pays in another amount or
// currency.
func (p *till) conflicts(t require.TestingT, how fate) *paymentv1.RequestPayoutRequest {
	req := payoutOf(300)
	p.bank.will(how)
	_, err := p.settlement(one).RequestPayout(context.Background(), req)
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_CONFLICTED", err)
	return req
}

func (p *till) settles(payout string, paid *typev1.Money, note string) (*paymentv1.Payout, error) {
	res, err := p.settlement(staff).SettlePayout(context.Background(), &paymentv1.SettlePayoutRequest{PayoutId: payout, Paid: paid, Note: note})
	return res.GetPayout(), err
}

func TestAPayoutInConflictIsSettledAsItWas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		how  fate
		paid int64
		// told is what the company's report says afterwards; nil: as before.
		told func(b *bank, key string)
		// available is what is left of 1000.
		available, paidOut int64
		differences        int64
		event              proto.Message
		again              string
	}{
		"less was paid":                     {how: otherAmount, paid: 299, available: 701, paidOut: 299, event: &paymentv1.PayoutPaid{Amount: gbp(299)}, again: "PAYOUT_SETTLED"},
		"the company's word was wrong":      {how: otherAmount, paid: 300, available: 700, paidOut: 300, differences: 1, event: &paymentv1.PayoutPaid{Amount: gbp(300)}},
		"it was, and now it says so":        {how: otherAmount, paid: 300, told: says(300), available: 700, paidOut: 300, event: &paymentv1.PayoutPaid{Amount: gbp(300)}},
		"more was paid":                     {how: otherAmount, paid: 450, told: says(450), available: 550, paidOut: 450, event: &paymentv1.PayoutPaid{Amount: gbp(450)}, again: "PAYOUT_SETTLED"},
		"more was paid than there is":       {how: otherAmount, paid: 1200, told: says(1200), available: -200, paidOut: 1200, event: &paymentv1.PayoutPaid{Amount: gbp(1200)}, again: "PAYOUT_SETTLED"},
		"nothing was paid, it is not told":  {how: otherAmount, told: (*bank).forgets, available: 1000, event: &paymentv1.PayoutFailed{Amount: gbp(300), Code: notPaid}, again: "PAYOUT_SETTLED"},
		"nothing was paid, they say it was": {how: otherAmount, available: 1000, differences: 1, event: &paymentv1.PayoutFailed{Amount: gbp(300), Code: notPaid}, again: "PAYOUT_SETTLED"},
		"another currency":                  {how: otherCurrency, paid: 240, available: 760, paidOut: 240, event: &paymentv1.PayoutPaid{Amount: gbp(240)}, again: "PAYOUT_SETTLED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.earns(t, 1000)
			req := p.conflicts(t, c.how)
			res, by := p.reconcile(t)
			require.EqualValues(t, 1, res.GetTotal(), "a conflict is a difference")
			require.Equal(t, "payout asked 3.00 GBP", by[req.GetPayoutId()].GetOurs())
			clearing := p.account(t, "provider:bank-gb:clearing")

			got, err := p.settles(req.GetPayoutId(), gbp(c.paid), "as the bank's letter of today says")
			require.NoError(t, err)
			require.Equal(t, payoutSettled, got.GetState())
			require.True(t, proto.Equal(gbp(c.paid), got.GetProcessed()))
			require.Contains(t, got.GetSettledBy(), "acc_s")
			b := p.has(t)
			require.Equal(t, c.available, b.GetAvailableMinor())
			require.Equal(t, c.paidOut, b.GetPaidOutMinor())
			require.Zero(t, b.GetInPayoutMinor())
			require.Equal(t, clearing+c.paid, p.account(t, "provider:bank-gb:clearing"), "it lost what was paid")
			p.balanced(t)

			events := p.Published(t)
			last := events[len(events)-1]
			switch want := c.event.(type) {
			case *paymentv1.PayoutPaid:
				want.MerchantId, want.PayoutId, want.Instance = "mrc_one", req.GetPayoutId(), "bank-gb"
			case *paymentv1.PayoutFailed:
				want.MerchantId, want.PayoutId, want.Instance = "mrc_one", req.GetPayoutId(), "bank-gb"
			}
			require.True(t, proto.Equal(c.event, last), "%v", last)

			if c.told != nil {
				p.bank.lies(func(b *bank) { c.told(b, req.GetPayoutId()) })
			}
			res, _ = p.reconcile(t)
			require.Equal(t, c.differences, res.GetTotal(), "%v", res.GetDifferences())

			_, err = p.settlement(one).RequestPayout(t.Context(), req)
			if c.again == "" {
				require.NoError(t, err, "it was paid as it was asked")
			} else {
				refused(t, connect.CodeFailedPrecondition, c.again, err)
			}
			require.Equal(t, 1, p.bank.calls[req.GetPayoutId()])
			list := p.payouts(t, one, &paymentv1.ListPayoutsRequest{States: []paymentv1.Payout_State{payoutSettled}})
			require.Len(t, list, 1)
			require.True(t, proto.Equal(got, list[0]), "%v", list[0])
		})
	}
}

func says(minor int64) func(b *bank, key string) {
	return func(b *bank, key string) { b.ops[key].Amount = gbp(minor) }
}

func TestAPayoutIsSettledOnceByStaff(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	paid := payoutOf(100)
	_, err := p.settlement(one).RequestPayout(t.Context(), paid)
	require.NoError(t, err)
	_, err = p.settles(paid.GetPayoutId(), gbp(100), "why")
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_NOT_CONFLICTED", err)
	p.bank.will(declines)
	declined := payoutOf(100)
	_, err = p.settlement(one).RequestPayout(t.Context(), declined)
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_DECLINED", err)
	_, err = p.settles(declined.GetPayoutId(), gbp(100), "why")
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_NOT_CONFLICTED", err)
	p.bank.will(actsThenFails)
	open := payoutOf(100)
	_, err = p.settlement(one).RequestPayout(t.Context(), open)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	_, err = p.settles(open.GetPayoutId(), gbp(100), "why")
	refused(t, connect.CodeFailedPrecondition, "PAYOUT_NOT_CONFLICTED", err)
	_, err = p.settles(id.New("pot"), gbp(100), "why")
	refused(t, connect.CodeNotFound, "PAYOUT_UNKNOWN", err)

	req := p.conflicts(t, otherAmount)
	for name, bad := range map[string]*paymentv1.SettlePayoutRequest{
		"another currency": {PayoutId: req.GetPayoutId(), Paid: eur(299), Note: "why"},
		"below zero":       {PayoutId: req.GetPayoutId(), Paid: gbp(-1), Note: "why"},
		"no reason":        {PayoutId: req.GetPayoutId(), Paid: gbp(299)},
		"no amount":        {PayoutId: req.GetPayoutId(), Note: "why"},
	} {
		_, err = p.settlement(staff).SettlePayout(t.Context(), bad)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%s: %v", name, err)
	}
	require.EqualValues(t, 400, p.has(t).GetInPayoutMinor(), "nothing has happened")

	// Two settle it at once, and each of them twice.
	var mu sync.Mutex
	var wg sync.WaitGroup
	ends := map[string]int{}
	for i := range 4 {
		wg.Go(func() {
			paid, note := gbp(299), "the letter"
			if i%2 == 1 {
				paid, note = gbp(0), "the telephone"
			}
			_, err := p.settles(req.GetPayoutId(), paid, note)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				ends["settled "+note]++
			case connect.CodeOf(err) == connect.CodeAlreadyExists:
				ends["differs "+note]++
			default:
				ends[err.Error()]++
			}
		})
	}
	wg.Wait()
	require.Len(t, ends, 2, "%v", ends)
	require.Equal(t, 4, ends["settled the letter"]+ends["differs the telephone"]+ends["settled the telephone"]+ends["differs the letter"])
	require.NotEqual(t, ends["settled the letter"], ends["settled the telephone"])
	settled := p.payouts(t, staff, &paymentv1.ListPayoutsRequest{States: []paymentv1.Payout_State{payoutSettled}})
	require.Len(t, settled, 1)
	_, err = p.settles(req.GetPayoutId(), settled[0].GetProcessed(), "another reason")
	refused(t, connect.CodeAlreadyExists, "PAYOUT_DIFFERS", err)
	n := len(p.Published(t))
	_, err = p.settles(req.GetPayoutId(), settled[0].GetProcessed(), settled[0].GetNote())
	require.NoError(t, err)
	require.Len(t, p.Published(t), n, "it is told once")
	p.balanced(t)
}

func TestTheDatabaseSettlesOnlyWhatIsInConflict(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	req := p.conflicts(t, otherAmount)
	settle := func(more string) string {
		return `UPDATE payout SET state = 5, paid = 299, settled_by = 'x', note = 'y'` + more + ` WHERE id = '` + req.GetPayoutId() + `'`
	}
	for _, statement := range []string{
		`UPDATE payout SET state = 2`, `UPDATE payout SET state = 1, ended_at = NULL`, `UPDATE payout SET state = 5`, `UPDATE payout SET note = 'x'`,
		settle(`, processed = 300`), settle(`, amount = 299`), settle(`, ended_at = now()`), settle(`, code = 'x'`), settle(`, scheduled_on = '2096-01-01'`),
		`UPDATE payout SET state = 5, paid = 299, settled_by = '', note = 'y'`, `UPDATE payout SET state = 5, paid = -1, settled_by = 'x', note = 'y'`,
	} {
		_, err := p.DB.ExecContext(t.Context(), statement)
		require.Error(t, err, statement)
	}
	_, err := p.DB.ExecContext(t.Context(), settle(""))
	require.NoError(t, err)
	for _, statement := range []string{settle(""), `UPDATE payout SET paid = 300`, `UPDATE payout SET state = 4, paid = NULL, settled_by = '', note = ''`} {
		_, err := p.DB.ExecContext(t.Context(), statement)
		require.ErrorContains(t, err, "ends once", statement)
	}
	p.bank.will(failsBefore)
	open := payoutOf(100)
	_, err = p.settlement(one).RequestPayout(t.Context(), open)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	_, err = p.DB.ExecContext(t.Context(), `UPDATE payout SET state = 5, ended_at = now(), paid = 1, settled_by = 'x', note = 'y' WHERE state = 1`)
	require.ErrorContains(t, err, "ends once", "an open one is no conflict")
}

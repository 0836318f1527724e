package main

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

func (p *till) reserves(t require.TestingT, basisPoints, days int32, merchant, market string) {
	_, err := p.settlement(staff).PutReserveRule(context.Background(), &paymentv1.PutReserveRuleRequest{Rule: &paymentv1.ReserveRule{
		MerchantId: merchant, Market: market, BasisPoints: basisPoints, Days: days, ValidFrom: timestamppb.New(time.Unix(0, 0)),
	}})
	require.NoError(t, err)
}

// ages lets the day come at which the oldest so many of what is kept back are
// due.
func (p *till) ages(t require.TestingT, oldest int) {
	_, err := p.Admin.Exec(context.Background(), `BEGIN; SET LOCAL session_replication_role = replica;
		UPDATE p_payment.reserve_hold h SET due = now() FROM (SELECT payment, merchant, n FROM p_payment.reserve_hold WHERE kept > 0 AND due > now() ORDER BY due, payment, n LIMIT `+
		strconv.Itoa(oldest)+`) o WHERE (h.payment, h.merchant, h.n) = (o.payment, o.merchant, o.n); COMMIT`)
	require.NoError(t, err)
}

// dawns lets it come, and the janitor see it.
func (p *till) dawns(t require.TestingT, oldest int) {
	p.ages(t, oldest)
	require.NoError(t, p.own.tendReserves(context.Background()))
}

func TestAPartOfWhatIsReleasedIsKeptBackForSomeDays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  func(p *till)
		want int64
	}{
		"none":                        {func(*till) {}, 0},
		"all":                         {func(p *till) { p.reserves(t, 1000, 90, "", "") }, 90}, // 904 after the commission
		"the market's":                {func(p *till) { p.reserves(t, 1000, 90, "", ""); p.reserves(t, 500, 30, "", "GB") }, 45},
		"the merchant's":              {func(p *till) { p.reserves(t, 1000, 90, "", "GB"); p.reserves(t, 10000, 30, "mrc_one", "") }, 904},
		"a merchant who is trusted":   {func(p *till) { p.reserves(t, 1000, 90, "", ""); p.reserves(t, 0, 1, "mrc_one", "") }, 0},
		"another's, another market's": {func(p *till) { p.reserves(t, 1000, 90, "mrc_two", ""); p.reserves(t, 1000, 90, "", "DE") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.keeps(t, 1000, 0, "", "")
			c.set(p)
			p.earns(t, 1005)
			b := p.has(t)
			require.Equal(t, []int64{904 - c.want, c.want}, []int64{b.GetAvailableMinor(), b.GetReservedMinor()})
			p.dawns(t, 0)
			require.Equal(t, c.want, p.has(t).GetReservedMinor(), "its time has not come")
			p.dawns(t, 1)
			p.dawns(t, 1)
			require.EqualValues(t, 904, p.has(t).GetAvailableMinor())
			require.Zero(t, p.has(t).GetReservedMinor())
			p.balanced(t)
		})
	}
}

func TestWhatIsKeptBackPaysWhatIsOwed(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.reserves(t, 2000, 90, "", "")
	first := p.earns(t, 1000)
	p.earns(t, 1000)
	_, err := p.settlement(one).RequestPayout(t.Context(), payoutOf(1600))
	require.NoError(t, err)
	_, err = p.settlement(one).RequestPayout(t.Context(), payoutOf(1))
	require.Error(t, err, "what is kept back is paid out to nobody")
	_, err = p.plain.RefundPayment(t.Context(), refundOf(first, 250))
	require.NoError(t, err)
	require.EqualValues(t, -250, p.has(t).GetAvailableMinor())
	require.NoError(t, p.own.tidy(t.Context()))
	b := p.has(t)
	require.Zero(t, b.GetAvailableMinor())
	require.EqualValues(t, 150, b.GetReservedMinor())
	p.dawns(t, 1)
	require.EqualValues(t, 150, p.has(t).GetAvailableMinor(), "the older went whole: what is due now is of the younger")
	require.Zero(t, p.has(t).GetReservedMinor())

	from, until := timestamppb.New(time.Unix(0, 0)), timestamppb.New(time.Now().Add(time.Hour))
	res, err := p.settlement(one).GetStatement(t.Context(), &paymentv1.GetStatementRequest{CurrencyCode: "GBP", From: from, Until: until})
	require.NoError(t, err)
	var sum, available int64
	kinds := map[string]int64{}
	for _, l := range res.GetLines() {
		sum, available = sum+l.GetMinorUnits(), available+l.GetAvailableMinor()
		kinds[l.GetKind()] += l.GetAvailableMinor()
	}
	require.EqualValues(t, 150, sum, "2000 less 250 and 1600")
	require.EqualValues(t, 150, available)
	require.Equal(t, []int64{-400, 250, 150}, []int64{kinds["reserve"], kinds["reserve_cover"], kinds["reserve_release"]})

	e := p.Published(t)
	var kept int64
	for _, m := range e {
		if m, ok := m.(*paymentv1.BalanceReleased); ok {
			kept += m.GetReserved().GetMinorUnits()
			require.WithinDuration(t, time.Now().AddDate(0, 0, 90), m.GetReservedUntil().AsTime(), 25*time.Hour)
		}
	}
	require.EqualValues(t, 400, kept)
	p.balanced(t)
}

func TestNobodyTakesMoreFromAReserveThanIsThere(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.reserves(t, 1000, 90, "", "")
	p.earns(t, 1000)
	for _, statement := range []string{
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) VALUES ('reserve_release', 'k', 'merchant:mrc_one:reserve', 'merchant:mrc_one:available', 'GBP', 101, 'bank-gb', 'rsv_1')`,
		`UPDATE reserve_hold SET kept = 101`, `UPDATE reserve_hold SET due = now()`, `DELETE FROM reserve_hold`, `DELETE FROM reserve_rule`,
	} {
		_, err := p.DB.ExecContext(t.Context(), statement)
		require.Error(t, err, statement)
		require.NotEqual(t, "42P01", store.SQLState(err), statement)
	}
	p.balanced(t)
}

func TestReserveRulesArePutAndTold(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.reserves(t, 500, 30, "mrc_one", "")
	p.reserves(t, 1000, 90, "", "GB")
	p.reserves(t, 800, 60, "", "GB")
	res, err := p.settlement(staff).ListReserveRules(t.Context(), &paymentv1.ListReserveRulesRequest{})
	require.NoError(t, err)
	require.Len(t, res.GetRules(), 2)
	require.EqualValues(t, 800, res.GetRules()[0].GetBasisPoints())
	require.EqualValues(t, 60, res.GetRules()[0].GetDays())
	require.Equal(t, "mrc_one", res.GetRules()[1].GetMerchantId())
}

// Whatever is released, refunded, paid out and due at once, nothing of a
// reserve is lost or given twice: it is what its holds say, it pays what is
// owed, and in the end the merchant has all of it.
func TestAReserveIsNeitherLostNorGivenTwice(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.reserves(t, 3000, 90, "", "")
	p.taxed(t, 700, "")
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		pays := []*paymentv1.Payment{p.earns(t, 700), p.earns(t, 300)}
		p.ages(t, rapid.IntRange(0, 3).Draw(t, "due"))
		var wg sync.WaitGroup
		for _, amount := range rapid.SliceOfN(rapid.Int64Range(1, 300), 0, 3).Draw(t, "refunds") {
			wg.Go(func() { _, _ = p.plain.RefundPayment(ctx, refundOf(pays[amount%2], amount)) })
		}
		for _, amount := range rapid.SliceOfN(rapid.Int64Range(1, 600), 0, 2).Draw(t, "payouts") {
			wg.Go(func() { _, _ = p.settlement(one).RequestPayout(ctx, payoutOf(amount)) })
		}
		errs := make(chan error, 3)
		for range cap(errs) {
			wg.Go(func() { errs <- p.own.tendReserves(ctx) })
		}
		wg.Wait()
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
		p.balanced(t)
		require.NoError(t, p.own.tendReserves(ctx))
		b := p.has(t)
		require.True(t, b.GetAvailableMinor() >= 0 || b.GetReservedMinor() == 0)
		sum := p.balanced(t)
		has := func(b *paymentv1.Balance) int64 {
			return b.GetAvailableMinor() + b.GetReservedMinor() + b.GetInPayoutMinor() + b.GetPaidOutMinor()
		}
		require.Equal(t, sum.captured-sum.refunded-p.account(t, "tax:GB"), has(b))
		p.dawns(t, 100)
		require.Zero(t, p.has(t).GetReservedMinor())
		require.Equal(t, has(b), has(p.has(t)))
		p.balanced(t)
	})
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	manual  = paymentv1.PayoutSchedule_INTERVAL_MANUAL
	daily   = paymentv1.PayoutSchedule_INTERVAL_DAILY
	weekly  = paymentv1.PayoutSchedule_INTERVAL_WEEKLY
	monthly = paymentv1.PayoutSchedule_INTERVAL_MONTHLY
)

// plans puts a schedule; days of 2096 and later are after it.
func (p *till) plans(t require.TestingT, merchant string, interval paymentv1.PayoutSchedule_Interval, day int32, minimum *typev1.Money) {
	_, err := p.settlement(staff).PutPayoutSchedule(context.Background(), &paymentv1.PutPayoutScheduleRequest{
		Schedule: &paymentv1.PayoutSchedule{MerchantId: merchant, Interval: interval, Day: day, Minimum: minimum},
	})
	require.NoError(t, err)
}

// earnEach makes an amount available to each of several merchants, in the
// currency of a market.
func (p *till) earnEach(t require.TestingT, market string, amount *typev1.Money, merchants ...string) {
	ctx := context.Background()
	req := authorization(amount.GetMinorUnits() * int64(len(merchants)))
	req.Reference, req.Market, req.Amount.CurrencyCode = id.New("ord"), market, amount.GetCurrencyCode()
	res, err := p.plain.AuthorizePayment(ctx, req)
	require.NoError(t, err)
	var parts []*paymentv1.MerchantShare
	var arrived, due []proto.Message
	for _, m := range merchants {
		parts = append(parts, &paymentv1.MerchantShare{MerchantId: m, MinorUnits: amount.GetMinorUnits()})
		arrived = append(arrived, &warehousev1.FulfilmentDelivered{FulfilmentId: id.New("ful"), Reference: req.GetReference(), MerchantId: m})
		due = append(due, &paymentv1.ReleaseDue{OrderId: req.GetReference(), MerchantId: m})
	}
	_, err = p.plain.CapturePayment(ctx, captureOf(res.GetPayment(), req.GetAmount().GetMinorUnits(), parts...))
	require.NoError(t, err)
	require.NoError(t, p.Deliver(ctx, "deliveries", arrived...))
	_, err = p.Admin.Exec(ctx, `UPDATE p_payment.delivery SET due = now() WHERE reference = $1`, req.GetReference())
	require.NoError(t, err)
	require.NoError(t, p.Deliver(ctx, "timers", due...))
}

// past changes what has ended, as no process can: time passes.
func (p *till) past(t require.TestingT, change string) {
	_, err := p.Admin.Exec(context.Background(), `BEGIN; SET LOCAL session_replication_role = replica; `+change+`; COMMIT`)
	require.NoError(t, err)
}

// waits lets ten minutes pass since payouts ended.
func (p *till) waits(t require.TestingT) {
	p.past(t, `UPDATE p_payment.payout SET ended_at = ended_at - interval '11 min'`)
}

// silent lets open payouts be so old that what the bank has not seen did not
// happen.
func (p *till) silent(t require.TestingT) {
	_, err := p.Admin.Exec(context.Background(), `UPDATE p_payment.payout SET sent_at = sent_at - interval '1 minute', next_try = now() WHERE state = 1`)
	require.NoError(t, err)
	require.NoError(t, p.own.askPayouts(context.Background()))
}

// scheduled are the payouts of schedules, as "day amount", the oldest first.
func (p *till) scheduled(t testing.TB) (out []string) {
	t.Helper()
	list := p.payouts(t, staff, &paymentv1.ListPayoutsRequest{PageSize: 200})
	for i := range list {
		o := list[len(list)-1-i]
		if o.GetScheduledOn() != "" {
			out = append(out, fmt.Sprintf("%s %d", o.GetScheduledOn(), o.GetAmount().GetMinorUnits()))
		}
	}
	return out
}

// dueOn are the merchants that would be paid on a day; nothing stays of it.
func (p *till) dueOn(t testing.TB, day string) map[string]bool {
	t.Helper()
	out, undo := map[string]bool{}, errors.New("undo")
	ids := make([]string, payoutBatch)
	for i := range ids {
		ids[i] = id.New("pot")
	}
	err := p.own.db.Run(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		made, err := payouts(tx.Rows(ctx, payoutsDue, day, ids, int64(maxMinor)))
		for _, o := range made {
			out[o.merchant] = true
		}
		return errors.Join(err, undo)
	})
	require.ErrorIs(t, err, undo)
	require.NotErrorIs(t, err, sql.ErrConnDone)
	return out
}

func TestASchedulesDaysAreNamedByTheCalendar(t *testing.T) {
	t.Parallel()
	p := open(t)
	type schedule struct {
		interval paymentv1.PayoutSchedule_Interval
		day      int32
		// on are days of the first quarters of 2096, a leap year that begins
		// on a Sunday, and of 2097; n how many there are in both.
		on map[string]bool
		n  int
	}
	all := map[string]schedule{
		"mrc_manual": {manual, 0, nil, 0},
		"mrc_daily":  {daily, 0, map[string]bool{"2096-01-01": true, "2096-02-29": true, "2096-03-31": true, "2097-02-28": true}, 91 + 90},
		"mrc_monday": {weekly, 1, map[string]bool{"2096-01-01": false, "2096-01-02": true, "2096-02-27": true, "2096-03-05": true}, 13 + 12},
		"mrc_sunday": {weekly, 7, map[string]bool{"2096-01-01": true, "2096-01-02": false, "2096-02-26": true, "2096-03-04": true}, 13 + 13},
		"mrc_first":  {monthly, 1, map[string]bool{"2096-01-01": true, "2096-02-01": true, "2096-03-01": true, "2096-02-29": false}, 6},
		"mrc_28th":   {monthly, 28, map[string]bool{"2096-01-28": true, "2096-02-28": true, "2096-02-29": false, "2096-03-28": true, "2097-02-28": true, "2097-03-01": false}, 6},
	}
	for merchant, c := range all {
		p.plans(t, merchant, c.interval, c.day, gbp(1))
		_, err := p.Admin.Exec(t.Context(), `INSERT INTO p_payment.transfer (kind, key, debit, credit, currency, amount, instance, payment)
			VALUES ('release', $1, 'merchant:' || $1 || ':pending', 'merchant:' || $1 || ':available', 'GBP', 1, 'bank-gb', 'pay_x')`, merchant)
		require.NoError(t, err)
	}
	n := map[string]int{}
	for _, year := range []int{2096, 2097} {
		for day := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); day.Month() < 4; day = day.AddDate(0, 0, 1) {
			due := p.dueOn(t, day.Format(time.DateOnly))
			for merchant, c := range all {
				if due[merchant] {
					n[merchant]++
				}
				if want, ok := c.on[day.Format(time.DateOnly)]; ok {
					require.Equal(t, want, due[merchant], "%s %s", merchant, day)
				}
			}
		}
	}
	for merchant, c := range all {
		require.Equal(t, c.n, n[merchant], merchant)
	}
	require.Empty(t, p.dueOn(t, "2025-01-06"), "no day before it was set")
}

func TestASchedulePaysAllThatIsAvailableOnceADay(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.plans(t, "", daily, 0, gbp(500))
	pay := p.earns(t, 499)
	for _, day := range []string{"2096-01-01", "2096-01-02"} {
		require.NoError(t, p.own.payDue(t.Context(), day))
	}
	require.Empty(t, p.scheduled(t), "less than the minimum")
	p.earns(t, 1)
	for range 2 {
		require.NoError(t, p.own.payDue(t.Context(), "2096-01-02"))
	}
	p.earns(t, 700)
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-02"))
	require.Equal(t, []string{"2096-01-02 500"}, p.scheduled(t), "once")
	_, err := p.settlement(one).RequestPayout(t.Context(), payoutOf(100))
	require.NoError(t, err, "whoever asks is paid besides")
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-03"))
	require.Equal(t, []string{"2096-01-02 500", "2096-01-03 600"}, p.scheduled(t))
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	p.plans(t, "", daily, 0, gbp(0))
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-04"))
	require.EqualValues(t, -499, p.has(t).GetAvailableMinor(), "who owes is paid nothing")
	require.Len(t, p.scheduled(t), 2)
	p.earns(t, 499)
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-05"))
	require.Len(t, p.scheduled(t), 2, "there is nothing")
	p.earns(t, 1)
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-06"))
	require.Equal(t, "2096-01-06 1", p.scheduled(t)[2])
	require.Equal(t, "PayoutPaid", p.kinds(t)[len(p.kinds(t))-1])
	p.balanced(t)
	res, _ := p.reconcile(t)
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())
}

func TestAMerchantsOwnScheduleGoesBeforeTheOneOfAll(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.plans(t, "", daily, 0, gbp(1000))
	p.plans(t, "", daily, 0, eur(1))
	p.plans(t, "mrc_own", weekly, 2, gbp(10)) // 3 January 2096
	p.plans(t, "mrc_manual", manual, 0, gbp(0))
	p.earnEach(t, "GB", gbp(1000), "mrc_all", "mrc_own", "mrc_manual")
	p.earnEach(t, "GB", gbp(900), "mrc_small")
	p.earnEach(t, "DE", eur(50), "mrc_manual")
	p.earnEach(t, "JP", &typev1.Money{CurrencyCode: "JPY", MinorUnits: 5000}, "mrc_all")
	paid := func() (out []string) {
		for _, o := range p.payouts(t, staff, &paymentv1.ListPayoutsRequest{}) {
			out = append(out, fmt.Sprint(o.GetScheduledOn(), " ", o.GetMerchantId(), " ", o.GetInstance(), " ", o.GetAmount().GetMinorUnits()))
		}
		return out
	}
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-02"))
	require.ElementsMatch(t, []string{"2096-01-02 mrc_all bank-gb 1000", "2096-01-02 mrc_manual bank-de 50"}, paid())
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-03"))
	require.ElementsMatch(t, []string{"2096-01-02 mrc_all bank-gb 1000", "2096-01-02 mrc_manual bank-de 50", "2096-01-03 mrc_own bank-gb 1000"}, paid())
}

// What is set at noon ends what was, and holds from midnight on.
func TestAScheduleThatIsChangedHoldsFromTheNextDay(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 100)
	p.plans(t, "", daily, 0, gbp(1))
	var yesterday, today, tomorrow string
	require.NoError(t, p.Admin.QueryRow(t.Context(), `SELECT (first_day - 2)::text, (first_day - 1)::text, first_day::text FROM p_payment.payout_schedule`).Scan(&yesterday, &today, &tomorrow))
	require.Empty(t, p.dueOn(t, today))
	require.Len(t, p.dueOn(t, tomorrow), 1)
	p.past(t, `UPDATE p_payment.payout_schedule SET first_day = first_day - 2`)
	require.Len(t, p.dueOn(t, today), 1, "set the day before yesterday")
	p.plans(t, "", daily, 0, gbp(1))
	require.Len(t, p.dueOn(t, today), 1, "put again as it is")
	p.plans(t, "mrc_one", daily, 0, gbp(2))
	require.Empty(t, p.dueOn(t, today), "changed at noon")
	require.Len(t, p.dueOn(t, tomorrow), 1)
	p.plans(t, "mrc_one", manual, 0, gbp(2))
	require.Empty(t, p.dueOn(t, tomorrow))
	require.NoError(t, p.own.tidy(t.Context()))
	require.Empty(t, p.scheduled(t))

	p.past(t, `UPDATE p_payment.payout_schedule SET first_day = first_day - 2, every = 2`)
	require.NoError(t, p.own.tidy(t.Context()))
	require.Len(t, p.scheduled(t), 1, "the janitor pays on the database's day")
}

func TestSchedulesArePutAndToldToWhomTheyAreOf(t *testing.T) {
	t.Parallel()
	p := open(t)
	two := call.Principal{Kind: call.Merchant, Account: "acc_2", Merchant: "mrc_two", Permissions: []string{"*"}}
	for name, c := range map[string]struct {
		who call.Principal
		is  *paymentv1.PayoutSchedule
	}{
		"another's":          {one, &paymentv1.PayoutSchedule{MerchantId: "mrc_two", Interval: daily, Minimum: gbp(1)}},
		"no interval":        {one, &paymentv1.PayoutSchedule{Minimum: gbp(1)}},
		"no minimum":         {one, &paymentv1.PayoutSchedule{Interval: daily}},
		"below zero":         {one, &paymentv1.PayoutSchedule{Interval: daily, Minimum: gbp(-1)}},
		"no currency":        {one, &paymentv1.PayoutSchedule{Interval: daily, Minimum: &typev1.Money{CurrencyCode: "QQQ"}}},
		"a day of every day": {one, &paymentv1.PayoutSchedule{Interval: daily, Day: 1, Minimum: gbp(1)}},
		"an eighth weekday":  {one, &paymentv1.PayoutSchedule{Interval: weekly, Day: 8, Minimum: gbp(1)}},
		"no weekday":         {one, &paymentv1.PayoutSchedule{Interval: weekly, Minimum: gbp(1)}},
		"no day of a month":  {one, &paymentv1.PayoutSchedule{Interval: monthly, Minimum: gbp(1)}},
		"29 February":        {one, &paymentv1.PayoutSchedule{Interval: monthly, Day: 29, Minimum: gbp(1)}},
		"an account":         {staff, &paymentv1.PayoutSchedule{MerchantId: "a:b", Interval: daily, Minimum: gbp(1)}},
		"what is no text":    {staff, &paymentv1.PayoutSchedule{MerchantId: "a\x00", Interval: daily, Minimum: gbp(1)}},
	} {
		_, err := p.settlement(c.who).PutPayoutSchedule(t.Context(), &paymentv1.PutPayoutScheduleRequest{Schedule: c.is})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%s: %v", name, err)
	}
	p.plans(t, "", daily, 0, gbp(100))
	for _, day := range []int32{1, 28} {
		_, err := p.settlement(one).PutPayoutSchedule(t.Context(), &paymentv1.PutPayoutScheduleRequest{Schedule: &paymentv1.PayoutSchedule{Interval: monthly, Day: day, Minimum: gbp(7)}})
		require.NoError(t, err)
	}
	p.plans(t, "mrc_two", weekly, 3, eur(9))
	told := func(who call.Principal, merchant string) (out []string) {
		res, err := p.settlement(who).ListPayoutSchedules(t.Context(), &paymentv1.ListPayoutSchedulesRequest{MerchantId: merchant})
		require.NoError(t, err)
		for _, s := range res.GetSchedules() {
			require.NotEmpty(t, s.GetFirstDay())
			out = append(out, fmt.Sprintf("%s %s %d %s %d", s.GetMerchantId(), s.GetInterval(), s.GetDay(), s.GetMinimum().GetCurrencyCode(), s.GetMinimum().GetMinorUnits()))
		}
		return out
	}
	every, first, second := " INTERVAL_DAILY 0 GBP 100", "mrc_one INTERVAL_MONTHLY 28 GBP 7", "mrc_two INTERVAL_WEEKLY 3 EUR 9"
	require.Equal(t, []string{every, first}, told(one, ""))
	require.Equal(t, []string{every, second}, told(two, ""))
	require.Equal(t, []string{every, first, second}, told(staff, ""))
	require.Equal(t, []string{every, second}, told(staff, "mrc_two"))
	_, err := p.settlement(one).ListPayoutSchedules(t.Context(), &paymentv1.ListPayoutSchedulesRequest{MerchantId: "mrc_two"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

// A process that dies before it sends leaves the day to the next, which pays
// once; what the company declined waits for the next day.
func TestADayIsNeitherPaidTwiceNorLost(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.plans(t, "", monthly, 28, gbp(1))
	p.earns(t, 100)
	made, err := p.own.writeDue(t.Context(), "2096-01-28")
	require.NoError(t, err)
	require.Len(t, made, 1)
	require.EqualValues(t, 100, p.has(t).GetInPayoutMinor(), "and here it dies")
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-28"))
	require.Len(t, p.scheduled(t), 1)
	p.silent(t)
	require.EqualValues(t, 100, p.has(t).GetAvailableMinor())
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-28"))
	require.Len(t, p.scheduled(t), 1, "not at once")
	p.waits(t)
	p.bank.will(declines)
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-29"))
	require.Equal(t, []string{"2096-01-28 100", "2096-01-28 100"}, p.scheduled(t), "the day is over, and made up for")
	p.waits(t)
	for _, day := range []string{"2096-01-29", "2096-01-30", "2096-02-27"} {
		require.NoError(t, p.own.payDue(t.Context(), day))
	}
	require.Len(t, p.scheduled(t), 2, "declined is declined")
	p.bank.will(actsThenFails)
	require.NoError(t, p.own.payDue(t.Context(), "2096-02-28"))
	require.EqualValues(t, 1, p.opened(t))
	p.earns(t, 50)
	require.NoError(t, p.own.payDue(t.Context(), "2096-02-28"))
	p.silent(t)
	p.waits(t)
	require.NoError(t, p.own.payDue(t.Context(), "2096-02-28"))
	require.Equal(t, []string{"2096-01-28 100", "2096-01-28 100", "2096-02-28 100"}, p.scheduled(t))
	require.EqualValues(t, 100, p.has(t).GetPaidOutMinor())
	require.EqualValues(t, 50, p.has(t).GetAvailableMinor())
	p.balanced(t)
	for day, free := range map[string]bool{"2096-01-28": false, "2096-02-28": false, "2096-03-28": true} {
		_, err := p.DB.ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO payout (id, merchant, instance, currency, amount, scheduled_on) VALUES ('pot_%[1]s', 'mrc_one', 'bank-gb', 'GBP', 1, '%[1]s')`, day))
		require.Equal(t, free, err == nil, "the database knows that a day is paid once: %s: %v", day, err)
	}
}

// A company that gets nothing is not asked for ever.
func TestADayIsTriedSixTimes(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.plans(t, "", daily, 0, gbp(1))
	p.earns(t, 100)
	for range 8 {
		p.bank.will(failsBefore)
		require.NoError(t, p.own.payDue(t.Context(), "2096-01-01"))
		p.silent(t)
		p.waits(t)
	}
	require.Len(t, p.scheduled(t), 6)
	p.bank.mu.Lock()
	p.bank.fates = nil
	p.bank.mu.Unlock()
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-02"))
	require.Equal(t, "2096-01-02 100", p.scheduled(t)[6])
	p.balanced(t)
}

// Whoever is first: each merchant is paid once, with merchants who ask
// themselves at the same time, and more of them than one round takes.
func TestJanitorsAtOncePayOnce(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.plans(t, "", daily, 0, gbp(1))
	merchants := make([]string, payoutBatch+5)
	for i := range merchants {
		merchants[i] = fmt.Sprintf("mrc_%02d", i)
	}
	p.earnEach(t, "GB", gbp(10), merchants...)
	p.earns(t, 1000)
	errs := make(chan error, 3)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { errs <- p.own.payDue(context.Background(), "2096-01-01") })
	}
	wg.Go(func() { _, _ = p.settlement(one).RequestPayout(context.Background(), payoutOf(400)) })
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, p.own.payDue(t.Context(), "2096-01-01"))
	p.LogStatements(t)
	for range 10 {
		p.has(t)
	}
	require.Len(t, p.Statements(t, func() { require.NoError(t, p.own.payDue(t.Context(), "2096-01-01")) }), 1, "however many merchants there are")
	n := map[string]int{}
	for _, o := range p.payouts(t, staff, &paymentv1.ListPayoutsRequest{PageSize: 200}) {
		require.Equal(t, payoutPaid, o.GetState())
		require.Equal(t, 1, p.bank.calls[o.GetPayoutId()])
		if o.GetScheduledOn() != "" {
			n[o.GetMerchantId()]++
		}
	}
	require.Len(t, n, len(merchants)+1)
	for merchant, times := range n {
		require.Equal(t, 1, times, merchant)
	}
	require.Zero(t, p.has(t).GetAvailableMinor())
	p.balanced(t)
	res, _ := p.reconcile(t)
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())
}

// endsAll brings every payout to its end: what is pending is paid, and what is
// in conflict settled as the bank has it.
func (p *till) endsAll(t require.TestingT) {
	ctx := context.Background()
	list := func(state paymentv1.Payout_State) []*paymentv1.Payout {
		res, err := p.settlement(staff).ListPayouts(ctx, &paymentv1.ListPayoutsRequest{States: []paymentv1.Payout_State{state}, PageSize: 200})
		require.NoError(t, err)
		require.Empty(t, res.GetNextPageToken())
		return res.GetPayouts()
	}
	for _, o := range list(payoutOpen) {
		p.bank.mu.Lock()
		op := p.bank.ops[o.GetPayoutId()]
		p.bank.mu.Unlock()
		if op.GetStatus() == providerv1.Outcome_STATUS_PENDING {
			require.NoError(t, p.Deliver(ctx, "providers", p.bank.end(o.GetPayoutId(), o.GetAmount())))
		}
	}
	p.silent(t)
	require.Empty(t, list(payoutOpen))
	for _, o := range list(payoutConflicted) {
		_, err := p.settles(o.GetPayoutId(), gbp(o.GetProcessed().GetMinorUnits()), "as the bank says")
		require.NoError(t, err)
	}
	p.balanced(t)
	res, _ := p.reconcile(t)
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())
}

// paidByDay is what the bank has paid in all, of each scheduled day once.
func (p *till) paidByDay(t require.TestingT) (sum int64) {
	rows, err := p.Admin.Query(context.Background(), `SELECT id, coalesce(scheduled_on::text, '') FROM p_payment.payout`)
	require.NoError(t, err)
	defer rows.Close()
	p.bank.mu.Lock()
	defer p.bank.mu.Unlock()
	days := map[string]string{}
	for rows.Next() {
		var payout, day string
		require.NoError(t, rows.Scan(&payout, &day))
		op := p.bank.ops[payout]
		if op.GetStatus() != providerv1.Outcome_STATUS_SUCCEEDED {
			continue
		}
		sum += op.GetAmount().GetMinorUnits()
		require.Empty(t, days[day], "%s was paid twice", day)
		if day != "" {
			days[day] = payout
		}
	}
	require.NoError(t, rows.Err())
	return sum
}

func (p *till) available(t require.TestingT) (n int64) {
	require.NoError(t, p.Admin.QueryRow(context.Background(), `SELECT coalesce(sum(amount), 0)::bigint FROM p_payment.balance`).Scan(&n))
	require.GreaterOrEqual(t, n, int64(0), "nobody was paid what was not there")
	return n
}

// Whatever happens to processes and at the company, no day is paid twice, and
// what was paid is never more than what there was; in the end ledger and
// company agree to the unit.
func TestNoDayIsPaidTwice(t *testing.T) {
	t.Parallel()
	p := open(t)
	ctx := context.Background()
	p.plans(t, "", daily, 0, gbp(5))
	today := time.Date(2096, 1, 1, 0, 0, 0, 0, time.UTC)
	var earned int64
	_, pay := p.sold(t, 1_000_000) // released bit by bit
	rapid.Check(t, func(t *rapid.T) {
		fates := rapid.SliceOfN(rapid.SampledFrom([]fate{fine, declines, refuses, actsThenFails, failsBefore, pends, otherAmount, otherCurrency, babbles}), 0, 4)
		for _, step := range rapid.SliceOfN(rapid.SampledFrom([]string{"earn", "earn", "pay", "pay", "race", "die", "silence", "wait", "day", "ask", "weekly"}), 4, 14).Draw(t, "steps") {
			day := today.Format(time.DateOnly)
			switch step {
			case "earn":
				amount := rapid.Int64Range(2, 300).Draw(t, "amount")
				earned += amount
				_, err := p.Admin.Exec(ctx, `INSERT INTO p_payment.transfer (kind, key, debit, credit, currency, amount, instance, payment)
					VALUES ('release', $1, 'merchant:mrc_one:pending', 'merchant:mrc_one:available', 'GBP', $2, 'bank-gb', $3)`, id.New("rel"), amount, pay.GetPaymentId())
				require.NoError(t, err)
			case "pay":
				p.bank.will(fates.Draw(t, "fates")...)
				require.NoError(t, p.own.payDue(ctx, day))
			case "race":
				p.bank.will(fates.Draw(t, "fates")...)
				errs := make(chan error, 3)
				for range 2 {
					go func() { errs <- p.own.payDue(ctx, day) }()
				}
				go func() { errs <- p.own.askPayouts(ctx) }()
				for range 3 {
					require.NoError(t, <-errs)
				}
			case "die":
				_, err := p.own.writeDue(ctx, day)
				require.NoError(t, err)
			case "silence":
				p.silent(t)
			case "wait":
				p.waits(t)
			case "day":
				today = today.AddDate(0, 0, 1)
			case "ask":
				p.bank.will(fates.Draw(t, "fates")...)
				_, _ = p.settlement(one).RequestPayout(ctx, payoutOf(rapid.Int64Range(2, 200).Draw(t, "asked")))
			case "weekly":
				p.plans(t, "mrc_one", weekly, rapid.Int32Range(1, 7).Draw(t, "weekday"), gbp(7))
			}
		}
		today = today.AddDate(0, 0, 1)
		p.plans(t, "mrc_one", daily, 0, gbp(5))
		p.endsAll(t)
		require.Equal(t, earned, p.paidByDay(t)+p.available(t), "what was not paid is there")
	})
}

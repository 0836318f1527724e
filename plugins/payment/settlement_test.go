package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func (p *till) settlement(k call.Principal) paymentv1connect.SettlementServiceClient {
	return paymentv1connect.NewSettlementServiceClient(p.Client(plugintest.As(k, "GB")))
}

var (
	staff = call.Principal{Kind: call.Staff, Account: "acc_s", Permissions: []string{"*"}}
	one   = call.Principal{Kind: call.Merchant, Account: "acc_1", Merchant: "mrc_one", Permissions: []string{"*"}}
)

func all(minor int64) *paymentv1.MerchantShare {
	return &paymentv1.MerchantShare{MerchantId: "mrc_one", MinorUnits: minor}
}

// sold makes an order of mrc_one that is paid and captured.
func (p *till) sold(t require.TestingT, minor int64) (order string, pay *paymentv1.Payment) {
	order = id.New("ord")
	req := authorization(minor)
	req.Reference = order
	res, err := p.plain.AuthorizePayment(context.Background(), req)
	require.NoError(t, err)
	_, err = p.plain.CapturePayment(context.Background(), captureOf(res.GetPayment(), minor, all(minor)))
	require.NoError(t, err)
	return order, res.GetPayment()
}

func (p *till) sends(t require.TestingT, order, fulfilment string) {
	require.NoError(t, p.Deliver(context.Background(), "deliveries", &warehousev1.FulfilmentOpened{FulfilmentId: fulfilment, Reference: order, MerchantId: "mrc_one"}))
}

func (p *till) brings(t require.TestingT, order, fulfilment string) {
	require.NoError(t, p.Deliver(context.Background(), "deliveries", &warehousev1.FulfilmentDelivered{FulfilmentId: fulfilment, Reference: order, MerchantId: "mrc_one"}))
}

// passes lets the holding period of an order be over.
func (p *till) passes(t require.TestingT, order string) {
	_, err := p.Admin.Exec(context.Background(), `UPDATE p_payment.delivery SET due = now() WHERE reference = $1`, order)
	require.NoError(t, err)
	require.NoError(t, p.Deliver(context.Background(), "timers", &paymentv1.ReleaseDue{OrderId: order, MerchantId: "mrc_one"}))
}

func (p *till) has(t require.TestingT) *paymentv1.Balance {
	res, err := p.settlement(one).ListBalances(context.Background(), &paymentv1.ListBalancesRequest{})
	require.NoError(t, err)
	require.Len(t, res.GetBalances(), 1)
	return res.GetBalances()[0]
}

func (p *till) keeps(t require.TestingT, basisPoints int32, fixed int64, merchant, market string) {
	r := &paymentv1.CommissionRule{BasisPoints: basisPoints, MerchantId: merchant, Market: market, ValidFrom: timestamppb.New(time.Unix(0, 0))}
	if fixed > 0 {
		r.Fixed = gbp(fixed)
	}
	_, err := p.settlement(staff).PutCommissionRule(context.Background(), &paymentv1.PutCommissionRuleRequest{Rule: r})
	require.NoError(t, err)
}

func TestAShareIsReleasedWhenEverythingIsDeliveredAndTheHoldingPeriodIsOver(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 1000, 0, "", "")
	order, pay := p.sold(t, 1005)
	p.sends(t, order, "ful_1")
	require.NoError(t, p.Deliver(t.Context(), "deliveries", &warehousev1.FulfilmentSplit{FulfilmentId: "ful_1", RestId: "ful_2", Reference: order}))
	p.passes(t, order)
	p.brings(t, order, "ful_1")
	p.passes(t, order)
	require.EqualValues(t, 1005, p.has(t).GetPendingMinor(), "a part is on its way")
	p.brings(t, order, "ful_2")
	require.NoError(t, p.Deliver(t.Context(), "timers", &paymentv1.ReleaseDue{OrderId: order, MerchantId: "mrc_one"}))
	require.EqualValues(t, 1005, p.has(t).GetPendingMinor(), "the holding period is not over")
	p.passes(t, order)
	p.passes(t, order)
	require.Zero(t, p.has(t).GetPendingMinor())
	require.EqualValues(t, 904, p.has(t).GetAvailableMinor(), "half a penny is rounded up")
	require.EqualValues(t, 101, p.account(t, "platform:fees"))
	require.Equal(t, []string{"PaymentAuthorized", "PaymentCaptured", "BalanceReleased"}, p.kinds(t))

	_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 201))
	require.NoError(t, err)
	require.EqualValues(t, 81, p.account(t, "platform:fees"), "the commission goes back in proportion")
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	require.Zero(t, p.has(t).GetAvailableMinor())
	require.Zero(t, p.account(t, "platform:fees"))
	require.Zero(t, p.account(t, "platform:unallocated"))
	p.balanced(t)
}

func TestAnOpenCaseHoldsTheMoney(t *testing.T) {
	t.Parallel()
	p := open(t)
	order, pay := p.sold(t, 1000)
	p.sends(t, order, "ful_1")
	p.brings(t, order, "ful_1")
	c := &aftersalev1.ApplicationOpened{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_one"}
	require.NoError(t, p.Deliver(t.Context(), "cases", c))
	p.passes(t, order)
	require.EqualValues(t, 1000, p.has(t).GetPendingMinor())
	_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 300))
	require.NoError(t, err)
	end := &aftersalev1.CaseSettled{CaseId: "afs_1", OrderId: order, MerchantId: "mrc_one"}
	require.NoError(t, p.Deliver(t.Context(), "cases", end, c))
	require.NoError(t, p.Deliver(t.Context(), "cases", end))
	require.EqualValues(t, 700, p.has(t).GetAvailableMinor())
	require.Zero(t, p.has(t).GetPendingMinor())
	p.balanced(t)
}

func TestTheMostSpecificCommissionOfTheDayHolds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  func(p *till)
		want int64
	}{
		"none":                  {func(*till) {}, 0},
		"all":                   {func(p *till) { p.keeps(t, 500, 0, "", "") }, 50},
		"the market's":          {func(p *till) { p.keeps(t, 500, 0, "", ""); p.keeps(t, 300, 0, "", "GB") }, 30},
		"the merchant's":        {func(p *till) { p.keeps(t, 300, 0, "", "GB"); p.keeps(t, 200, 5, "mrc_one", "") }, 25},
		"another's":             {func(p *till) { p.keeps(t, 500, 0, "mrc_two", ""); p.keeps(t, 500, 0, "", "DE") }, 0},
		"never more than it is": {func(p *till) { p.keeps(t, 500, 5000, "", "") }, 1000},
		"one that holds later":  {func(p *till) { p.keepsLater(t) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			c.set(p)
			order, _ := p.sold(t, 1000)
			p.sends(t, order, "ful_1")
			p.brings(t, order, "ful_1")
			p.passes(t, order)
			require.Equal(t, c.want, p.account(t, "platform:fees"))
			require.Equal(t, 1000-c.want, p.has(t).GetAvailableMinor())
			p.balanced(t)
		})
	}
}

func (p *till) keepsLater(t require.TestingT) {
	_, err := p.settlement(staff).PutCommissionRule(context.Background(), &paymentv1.PutCommissionRuleRequest{
		Rule: &paymentv1.CommissionRule{BasisPoints: 900, ValidFrom: timestamppb.New(time.Now().Add(time.Hour))},
	})
	require.NoError(t, err)
}

func TestARefundThatNamesAMerchantTakesFromItAlone(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 700)
	_, err := p.plain.CapturePayment(t.Context(), captureOf(pay, 700, all(300), &paymentv1.MerchantShare{MerchantId: "mrc_two", MinorUnits: 400}))
	require.NoError(t, err)
	req := refundOf(pay, 350)
	req.Shares = []*paymentv1.MerchantShare{all(350)}
	_, err = p.plain.RefundPayment(t.Context(), req)
	require.NoError(t, err)
	require.Zero(t, p.account(t, "merchant:mrc_one:pending"), "no more than it has")
	require.EqualValues(t, 400, p.account(t, "merchant:mrc_two:pending"))
	require.EqualValues(t, -50, p.account(t, "platform:unallocated"))
	p.balanced(t)
}

func TestTheDatabaseKeepsTheBalances(t *testing.T) {
	t.Parallel()
	p := open(t)
	order, _ := p.sold(t, 1000)
	p.sends(t, order, "ful_1")
	p.brings(t, order, "ful_1")
	p.passes(t, order)
	for _, statement := range []string{
		`UPDATE balance SET amount = 1`, `DELETE FROM balance`, `TRUNCATE balance`, `INSERT INTO balance VALUES ('merchant:x:available', 'GBP', 'bank-gb', 1)`,
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) VALUES ('payout', 'k', 'merchant:mrc_one:available', 'merchant:mrc_one:payout', 'GBP', 1001, 'bank-gb', 'pot_1')`,
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) VALUES ('payout', 'k', 'merchant:mrc_one:available', 'merchant:mrc_one:payout', 'EUR', 1, 'bank-gb', 'pot_1')`,
	} {
		_, err := p.DB.ExecContext(t.Context(), statement)
		require.Error(t, err, statement)
	}
	p.balanced(t)
}

func TestAStatementOpensAndCloses(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 1000, 0, "", "")
	order, pay := p.sold(t, 1000)
	between := time.Now()
	p.sends(t, order, "ful_1")
	p.brings(t, order, "ful_1")
	p.passes(t, order)
	_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 500))
	require.NoError(t, err)
	tell := func(from, until time.Time) *paymentv1.GetStatementResponse {
		res, err := p.settlement(one).GetStatement(t.Context(), &paymentv1.GetStatementRequest{CurrencyCode: "GBP", From: timestamppb.New(from), Until: timestamppb.New(until)})
		require.NoError(t, err)
		sum := res.GetOpeningMinor()
		for _, l := range res.GetLines() {
			sum += l.GetMinorUnits()
			require.Equal(t, order, l.GetReference())
		}
		require.Equal(t, res.GetClosingMinor(), sum)
		return res
	}
	far := between.Add(time.Hour)
	whole, first, second := tell(time.Unix(0, 0), far), tell(time.Unix(0, 0), between), tell(between, far)
	require.Zero(t, whole.GetOpeningMinor())
	require.EqualValues(t, 450, whole.GetClosingMinor())
	require.Equal(t, first.GetClosingMinor(), second.GetOpeningMinor())
	require.Len(t, whole.GetLines(), len(first.GetLines())+len(second.GetLines()))
	_, err = p.settlement(one).GetStatement(t.Context(), &paymentv1.GetStatementRequest{MerchantId: "mrc_two", CurrencyCode: "GBP", From: timestamppb.New(between), Until: timestamppb.New(far)})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "another merchant's")
}

func (p *till) export(t testing.TB, who call.Principal, req *paymentv1.ExportStatementRequest) (text string, last *paymentv1.ExportStatementResponse) {
	t.Helper()
	stream, err := p.settlement(who).ExportStatement(t.Context(), req)
	require.NoError(t, err)
	for {
		piece, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return text, last
		}
		require.NoError(t, err)
		text, last = text+string(piece.GetData()), piece
	}
}

func TestAStatementIsExportedHoweverLongItIs(t *testing.T) {
	t.Parallel()
	p := open(t)
	req := &paymentv1.ExportStatementRequest{
		CurrencyCode: "GBP", From: timestamppb.New(time.Unix(0, 0)), Until: timestamppb.New(time.Now().Add(time.Hour)), Format: paymentv1.ExportStatementRequest_FORMAT_CSV,
	}
	text, last := p.export(t, one, req)
	require.Equal(t, "at,kind,subject_id,reference,instance,currency,minor_units,available_minor,balance_minor\r\n", text, "a merchant without postings")
	require.Zero(t, last.GetTotal())
	pay := p.earns(t, 1000)
	_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 400))
	require.NoError(t, err)
	// Twelve hundred lines that were made at one moment, and one of another.
	_, err = p.Admin.Exec(t.Context(), `INSERT INTO p_payment.transfer (kind, key, debit, credit, currency, amount, instance, payment)
		SELECT 'share', 'k' || n, 'platform:unallocated', 'merchant:mrc_one:pending', 'GBP', 1, '=bank', 'pay_x' FROM generate_series(1, 1200) n
		UNION ALL SELECT 'share', 'other', 'platform:unallocated', 'merchant:mrc_two:pending', 'GBP', 1, 'bank-gb', 'pay_x'`)
	require.NoError(t, err)
	text, last = p.export(t, one, req)
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+3+1200)
	require.EqualValues(t, 1203, last.GetDone())
	require.EqualValues(t, 1203, last.GetTotal())
	require.Equal(t, "1800", rows[len(rows)-1][8], "1000 less 400, and 1200")
	require.Equal(t, "'=bank", rows[len(rows)-1][4])
	require.Equal(t, []string{"recover", "-400", "-400", "600"}, []string{rows[3][1], rows[3][6], rows[3][7], rows[3][8]})
	req.Format = paymentv1.ExportStatementRequest_FORMAT_JSON_LINES
	text, _ = p.export(t, staffOf(req, "mrc_two"), req)
	line := &paymentv1.StatementLine{}
	require.NoError(t, protojson.Unmarshal([]byte(text), line))
	require.EqualValues(t, 1, line.GetMinorUnits())
	stream, err := p.settlement(one).ExportStatement(t.Context(), req)
	if err == nil {
		_, err = stream.Receive()
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "another merchant's")
}

// staffOf asks for a merchant's statement as staff does.
func staffOf(req *paymentv1.ExportStatementRequest, merchant string) call.Principal {
	req.MerchantId = merchant
	return staff
}

// M2, M3: whatever captures, refunds, deliveries, timers and cases come at
// once, the books balance, refunds stay within captures, and once everything
// is delivered a merchant has what was captured less what was refunded less
// what the marketplace kept, collected, and keeps back.
func TestTheBooksBalanceUnderConcurrency(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 700, 3, "", "")
	p.taxed(t, 1900, "")
	p.reserves(t, 900, 90, "", "")
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "orders")
		refunds := rapid.SliceOfN(rapid.Int64Range(1, 700), 1, 6).Draw(t, "refunds")
		var orders []string
		var pays []*paymentv1.Payment
		for range n {
			order, pay := p.sold(t, 1000)
			p.sends(t, order, "ful_"+order)
			orders, pays = append(orders, order), append(pays, pay)
		}
		var wg sync.WaitGroup
		for i, amount := range refunds {
			wg.Go(func() { _, _ = p.plain.RefundPayment(context.Background(), refundOf(pays[i%n], amount)) })
		}
		// The bus delivers a subscription's events one after the other.
		errs := make(chan error, 2*n)
		wg.Go(func() {
			for _, order := range orders {
				errs <- p.Deliver(context.Background(), "deliveries", &warehousev1.FulfilmentDelivered{FulfilmentId: "ful_" + order, Reference: order, MerchantId: "mrc_one"})
			}
		})
		wg.Go(func() {
			for _, order := range orders {
				_, err := p.Admin.Exec(context.Background(), `UPDATE p_payment.delivery SET due = now() WHERE reference = $1`, order)
				errs <- errors.Join(err, p.Deliver(context.Background(), "timers", &paymentv1.ReleaseDue{OrderId: order, MerchantId: "mrc_one"}))
			}
		})
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		for _, order := range orders {
			p.passes(t, order)
		}
		sum := p.balanced(t)
		b := p.has(t)
		require.Zero(t, b.GetPendingMinor())
		require.Equal(t, sum.captured-sum.refunded-p.account(t, platformFees)-p.account(t, "tax:GB"), b.GetAvailableMinor()+b.GetReservedMinor())
		require.LessOrEqual(t, sum.refunded, sum.captured)
		require.Zero(t, p.account(t, unallocated), fmt.Sprint(refunds))
		p.dawns(t, rapid.IntRange(0, 2*n).Draw(t, "reserves due"))
		b = p.has(t)
		require.True(t, b.GetAvailableMinor() >= 0 || b.GetReservedMinor() == 0, "what is kept back pays what is owed")
		p.balanced(t)
	})
}

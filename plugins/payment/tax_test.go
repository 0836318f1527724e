package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func (p *till) office() paymentv1connect.TaxServiceClient {
	return paymentv1connect.NewTaxServiceClient(p.Client(plugintest.As(staff, "GB")))
}

// taxed has a tax collected of what is sold in GB, by a merchant or by all.
func (p *till) taxed(t require.TestingT, basisPoints int32, merchant string) {
	p.taxedFrom(t, time.Unix(0, 0), basisPoints, merchant)
}

func (p *till) taxedFrom(t require.TestingT, from time.Time, basisPoints int32, merchant string) {
	_, err := p.office().PutTaxRule(context.Background(), &paymentv1.PutTaxRuleRequest{Rule: &paymentv1.TaxRule{
		MerchantId: merchant, Market: "GB", BasisPoints: basisPoints, ValidFrom: timestamppb.New(from), Source: "VAT Act 1994, s. 2",
	}})
	require.NoError(t, err)
}

func (p *till) remits(minor int64, remittance string) (*paymentv1.RecordTaxRemittanceResponse, error) {
	return p.office().RecordTaxRemittance(context.Background(), &paymentv1.RecordTaxRemittanceRequest{
		RemittanceId: remittance, Market: "GB", Instance: "bank-gb", Amount: gbp(minor), Reference: "HMRC 4711",
	})
}

// taxes are the sums of GB over a period.
func (p *till) taxes(t require.TestingT, from, until time.Time) *paymentv1.TaxSum {
	res, err := p.office().SumTaxes(context.Background(), &paymentv1.SumTaxesRequest{Market: "GB", From: timestamppb.New(from), Until: timestamppb.New(until)})
	require.NoError(t, err)
	require.Len(t, res.GetSums(), 1)
	return res.GetSums()[0]
}

func TestATaxIsCollectedOfEachShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set   func(p *till)
		share int64
		want  int64
	}{
		"none":                              {func(*till) {}, 1200, 0},
		"the market's, of what includes it": {func(p *till) { p.taxed(t, 2000, "") }, 1200, 200},
		"rounded down below a half":         {func(p *till) { p.taxed(t, 1900, "") }, 1000, 160}, // 159.66
		"and up from it":                    {func(p *till) { p.taxed(t, 2500, "") }, 1002, 200}, // 200.4
		"half a penny is rounded up":        {func(p *till) { p.taxed(t, 10000, "") }, 1001, 501},
		"of next to nothing, nothing":       {func(p *till) { p.taxed(t, 500, "") }, 5, 0},
		"the merchant's goes before":        {func(p *till) { p.taxed(t, 2000, ""); p.taxed(t, 500, "mrc_one") }, 1050, 50},
		"one who remits it itself":          {func(p *till) { p.taxed(t, 2000, ""); p.taxed(t, 0, "mrc_one") }, 1200, 0},
		"another's":                         {func(p *till) { p.taxed(t, 2000, "mrc_two") }, 1200, 0},
		"the latest of equals":              {func(p *till) { p.taxed(t, 1000, ""); p.taxedFrom(t, time.Unix(1, 0), 2000, "") }, 1200, 200},
		"one that holds later":              {func(p *till) { p.taxedFrom(t, time.Now().Add(time.Hour), 2000, "") }, 1200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			c.set(p)
			p.sold(t, c.share)
			require.Equal(t, c.want, p.account(t, "tax:GB"))
			require.Equal(t, c.share-c.want, p.has(t).GetPendingMinor())
			p.balanced(t)
		})
	}
}

func TestATaxComesBackWithRefundsWhereverTheShareIs(t *testing.T) {
	t.Parallel()
	for _, released := range []bool{false, true} {
		t.Run(fmt.Sprint("released: ", released), func(t *testing.T) {
			t.Parallel()
			p := open(t)
			p.taxed(t, 2000, "")
			p.keeps(t, 1000, 0, "", "")
			order, pay := p.sold(t, 1200)
			if released {
				p.sends(t, order, "ful_1")
				p.brings(t, order, "ful_1")
				p.passes(t, order)
				require.EqualValues(t, 900, p.has(t).GetAvailableMinor(), "the commission is on what is left after the tax")
			}
			left := func() int64 { b := p.has(t); return b.GetPendingMinor() + b.GetAvailableMinor() }
			before := left()
			_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 300))
			require.NoError(t, err)
			require.EqualValues(t, 150, p.account(t, "tax:GB"))
			require.Equal(t, before*3/4, left(), "the merchant bears what it had of it")
			_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
			require.NoError(t, err)
			require.Empty(t, p.accounts(t, pay))
			s := p.taxes(t, time.Unix(0, 0), time.Now().Add(time.Hour))
			require.Equal(t, []int64{0, 200, 200, 0, 0}, []int64{s.GetOpeningMinor(), s.GetCollectedMinor(), s.GetReturnedMinor(), s.GetRemittedMinor(), s.GetClosingMinor()})
			p.balanced(t)
		})
	}
}

func TestATaxComesBackWithADisputeAndIsOwedAgainWhenItIsWon(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.taxed(t, 2000, "")
	pay := p.earns(t, 1200)
	p.disputed(t, pay, 600, nil)
	require.EqualValues(t, 100, p.account(t, "tax:GB"))
	require.EqualValues(t, 500, p.has(t).GetAvailableMinor())
	p.hears(t, p.bank.decides("dp-1", providerv1.Dispute_STATUS_WON))
	require.EqualValues(t, 200, p.account(t, "tax:GB"))
	require.EqualValues(t, 1000, p.has(t).GetAvailableMinor())
	require.Zero(t, p.has(t).GetPendingMinor())
	s := p.taxes(t, time.Unix(0, 0), time.Now().Add(time.Hour))
	require.Zero(t, s.GetReturnedMinor())
	p.balanced(t)
}

func TestATaxIsRemittedOnceAndNoMoreThanWasCollected(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.taxed(t, 2000, "")
	_, pay := p.sold(t, 1200)
	_, err := p.remits(201, id.New("rmt"))
	refused(t, connect.CodeFailedPrecondition, "TAX_EXCEEDS_BALANCE", err)

	// Of many at once as many are made as there is money for.
	ids := make([]string, 8)
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = id.New("rmt")
		wg.Go(func() { _, errs[i] = p.remits(60, ids[i]) })
	}
	wg.Wait()
	made := ""
	for i, err := range errs {
		if err == nil {
			made = ids[i]
		} else {
			refused(t, connect.CodeFailedPrecondition, "TAX_EXCEEDS_BALANCE", err)
		}
	}
	require.EqualValues(t, 20, p.account(t, "tax:GB"))
	require.EqualValues(t, 180, p.account(t, "platform:bank"))
	_, err = p.remits(60, made)
	require.NoError(t, err, "a repetition is answered")
	_, err = p.remits(10, made)
	refused(t, connect.CodeAlreadyExists, "REMITTANCE_DIFFERS", err)
	require.EqualValues(t, 20, p.account(t, "tax:GB"))

	between := time.Now()
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
	require.NoError(t, err)
	s := p.taxes(t, between, time.Now().Add(time.Hour))
	require.Equal(t, []int64{20, 0, 200, 0, -180}, []int64{s.GetOpeningMinor(), s.GetCollectedMinor(), s.GetReturnedMinor(), s.GetRemittedMinor(), s.GetClosingMinor()})
	_, err = p.remits(1, id.New("rmt"))
	refused(t, connect.CodeFailedPrecondition, "TAX_EXCEEDS_BALANCE", err)
	p.balanced(t)
}

func TestOneIdIsOneRemittanceInAllMarkets(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.taxed(t, 2000, "")
	p.sold(t, 1200)
	remittance := id.New("rmt")
	// Another market's is being written, and ends first.
	other, err := p.Admin.Begin(t.Context())
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), `INSERT INTO p_payment.tax_remittance (id, market, instance, currency, amount, reference, left_over, made_by)
		VALUES ($1, 'DE', 'bank-de', 'EUR', 1, 'DE', 0, 'staff/acc_s')`, remittance)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := p.remits(60, remittance)
		ended <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := p.Admin.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	}, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, other.Commit(t.Context()))
	refused(t, connect.CodeAlreadyExists, "REMITTANCE_DIFFERS", <-ended)
	require.EqualValues(t, 200, p.account(t, "tax:GB"))
	p.balanced(t)
}

func TestTaxRulesArePutAndTold(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.taxed(t, 500, "mrc_one")
	p.taxed(t, 1900, "")
	p.taxed(t, 2000, "")
	res, err := p.office().ListTaxRules(t.Context(), &paymentv1.ListTaxRulesRequest{})
	require.NoError(t, err)
	require.Len(t, res.GetRules(), 2, "a rule that is put again is another rate")
	require.EqualValues(t, 2000, res.GetRules()[0].GetBasisPoints())
	require.Equal(t, "mrc_one", res.GetRules()[1].GetMerchantId())
	require.Equal(t, "VAT Act 1994, s. 2", res.GetRules()[1].GetSource())
}

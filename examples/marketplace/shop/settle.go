package shop

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// Commission says what the marketplace keeps: 10 of 100.
func (s *Shop) Commission(ctx context.Context, desk *Person) error {
	_, err := Patient(ctx, func(ctx context.Context) (*paymentv1.PutCommissionRuleResponse, error) {
		return paymentv1connect.NewSettlementServiceClient(desk.Client()).PutCommissionRule(ctx, &paymentv1.PutCommissionRuleRequest{
			Rule: &paymentv1.CommissionRule{BasisPoints: 1000, ValidFrom: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))},
		})
	})
	return err
}

// rates are the markets' standard rates of tax on sales, in basis points, and
// where they are written.
var rates = map[string]struct {
	basisPoints int32
	source      string
}{
	"GB": {2000, "Value Added Tax Act 1994, s. 2"},
	"DE": {1900, "Umsatzsteuergesetz, § 12 Abs. 1"},
	"JP": {1000, "消費税法 29条, 地方税法 72条の83"},
}

// Collect has the marketplace collect each market's tax, and keep 5 of 100 back
// for 30 days for refunds and disputes to come.
func (s *Shop) Collect(ctx context.Context, desk *Person) error {
	since := timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for market, rate := range rates {
		rule := &paymentv1.TaxRule{Market: market, BasisPoints: rate.basisPoints, ValidFrom: since, Source: rate.source}
		if _, err := Patient(ctx, func(ctx context.Context) (*paymentv1.PutTaxRuleResponse, error) {
			return paymentv1connect.NewTaxServiceClient(desk.Client()).PutTaxRule(ctx, &paymentv1.PutTaxRuleRequest{Rule: rule})
		}); err != nil {
			return fmt.Errorf("tax of %s: %w", market, err)
		}
	}
	_, err := Patient(ctx, func(ctx context.Context) (*paymentv1.PutReserveRuleResponse, error) {
		return paymentv1connect.NewSettlementServiceClient(desk.Client()).PutReserveRule(ctx, &paymentv1.PutReserveRuleRequest{
			Rule: &paymentv1.ReserveRule{BasisPoints: 500, Days: 30, ValidFrom: since},
		})
	})
	return err
}

// Remit has the marketplace pay each authority what it collected, and answers
// how much by currency.
func (s *Shop) Remit(ctx context.Context, desk *Person) (map[string]int64, error) {
	c := paymentv1connect.NewTaxServiceClient(desk.Client())
	sums, err := Patient(ctx, func(ctx context.Context) (*paymentv1.SumTaxesResponse, error) {
		return c.SumTaxes(ctx, &paymentv1.SumTaxesRequest{From: timestamppb.New(time.Unix(0, 0)), Until: timestamppb.New(time.Now().Add(time.Minute))})
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64)
	for _, t := range sums.GetSums() {
		if t.GetClosingMinor() <= 0 {
			continue
		}
		req := &paymentv1.RecordTaxRemittanceRequest{
			RemittanceId: id.New("rmt"), Market: t.GetMarket(), Instance: t.GetInstance(), Reference: "return of " + t.GetMarket(),
			Amount: &typev1.Money{CurrencyCode: t.GetCurrencyCode(), MinorUnits: t.GetClosingMinor()},
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*paymentv1.RecordTaxRemittanceResponse, error) {
			return c.RecordTaxRemittance(ctx, req)
		}); err != nil {
			return nil, fmt.Errorf("tax of %s: %w", t.GetMarket(), err)
		}
		out[t.GetCurrencyCode()] += t.GetClosingMinor()
	}
	return out, nil
}

// PayOut has each merchant take half of what it may have, in each currency. It
// answers how many payouts were made.
func (s *Shop) PayOut(ctx context.Context, m *Market) (n int, err error) {
	for _, o := range m.Owners {
		c := paymentv1connect.NewSettlementServiceClient(o.Client())
		res, err := Patient(ctx, func(ctx context.Context) (*paymentv1.ListBalancesResponse, error) {
			return c.ListBalances(ctx, &paymentv1.ListBalancesRequest{})
		})
		if err != nil {
			return n, err
		}
		for _, b := range res.GetBalances() {
			if b.GetAvailableMinor() < 2 {
				continue
			}
			req := &paymentv1.RequestPayoutRequest{
				PayoutId: id.New("pot"), Instance: b.GetInstance(), Amount: &typev1.Money{CurrencyCode: b.GetCurrencyCode(), MinorUnits: b.GetAvailableMinor() / 2},
			}
			if _, err := Patient(ctx, func(ctx context.Context) (*paymentv1.RequestPayoutResponse, error) { return c.RequestPayout(ctx, req) }); err != nil {
				return n, fmt.Errorf("payout of %s %d: %w", b.GetCurrencyCode(), req.GetAmount().GetMinorUnits(), err)
			}
			n++
		}
	}
	return n, nil
}

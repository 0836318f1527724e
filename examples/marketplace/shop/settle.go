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

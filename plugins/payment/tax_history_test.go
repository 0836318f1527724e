package main

import (
	"context"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// taxedShare is what became of a merchant's share of one payment: base is what
// was not taken back of it, has what the merchant's accounts have, fee the
// commission.
type taxedShare struct {
	merchant                                     string
	shared, base, collected, returned, has, fees int64
}

// taxedShares adds the postings of a payment up, apart from the module's own
// queries.
func (p *till) taxedShares(t require.TestingT, pay *paymentv1.Payment) (out []taxedShare) {
	rows, err := p.Admin.Query(context.Background(), `SELECT merchant, sum(shared)::bigint, sum(base)::bigint, sum(collected)::bigint, sum(returned)::bigint, sum(has)::bigint, sum(fees)::bigint
		FROM (SELECT split_part(own, ':', 2) AS merchant, CASE WHEN kind = 'share' THEN amount ELSE 0 END AS shared,
		    CASE WHEN other = 'platform:unallocated' THEN sign * amount ELSE 0 END AS base,
		    CASE WHEN kind = 'tax' THEN amount ELSE 0 END AS collected, CASE WHEN other = 'tax:GB' AND kind <> 'tax' THEN sign * amount ELSE 0 END AS returned,
		    sign * amount AS has, CASE WHEN other = 'platform:fees' THEN -sign * amount ELSE 0 END AS fees
		  FROM (SELECT kind, amount, credit AS own, debit AS other, 1 AS sign FROM p_payment.transfer WHERE payment = $1 AND credit LIKE 'merchant:%'
		    UNION ALL SELECT kind, amount, debit, credit, -1 FROM p_payment.transfer WHERE payment = $1 AND debit LIKE 'merchant:%') x) y
		GROUP BY 1 ORDER BY 1`, pay.GetPaymentId())
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var s taxedShare
		require.NoError(t, rows.Scan(&s.merchant, &s.shared, &s.base, &s.collected, &s.returned, &s.has, &s.fees))
		out = append(out, s)
	}
	require.NoError(t, rows.Err())
	return out
}

// inProportion requires that the tax which is left of a share of one capture is
// what it was of what is left of it, to half a minor unit; each dispute that was
// won may have been taken of another rest.
func (s taxedShare) inProportion(t require.TestingT, wins int) {
	off := (s.collected-s.returned)*s.shared - s.collected*s.base
	require.LessOrEqual(t, 2*max(off, -off), s.shared*int64(1+2*wins), "%+v", s)
}

func TestATaxComesBackInProportionHoweverSmallTheParts(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.taxed(t, 1900, "")
	_, refunded := p.sold(t, 1000)
	for range 20 {
		_, err := p.plain.RefundPayment(t.Context(), refundOf(refunded, 1))
		require.NoError(t, err)
	}
	_, disputed := p.sold(t, 1000)
	for range 5 {
		p.disputed(t, disputed, 4, nil)
	}
	for _, pay := range []*paymentv1.Payment{refunded, disputed} {
		s := p.taxedShares(t, pay)[0]
		require.EqualValues(t, 980, s.base)
		require.EqualValues(t, 157, s.collected-s.returned, "160 of 1000")
		s.inProportion(t, 0)
	}
	p.balanced(t)
}

func TestACommissionComesBackInProportionHoweverSmallTheParts(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 700, 0, "", "")
	refunded := p.earns(t, 1000)
	for range 20 {
		_, err := p.plain.RefundPayment(t.Context(), refundOf(refunded, 1))
		require.NoError(t, err)
	}
	require.EqualValues(t, 69, p.account(t, platformFees), "68.6 of 980")
	disputed := p.earns(t, 1000)
	for range 5 {
		p.disputed(t, disputed, 4, nil)
	}
	require.EqualValues(t, 69+69, p.account(t, platformFees))
	for _, pay := range []*paymentv1.Payment{refunded, disputed} {
		_, err := p.plain.RefundPayment(t.Context(), refundOf(pay, 0))
		require.NoError(t, err)
	}
	require.Zero(t, p.account(t, platformFees))
	p.balanced(t)
}

// M2: whatever captures, refunds, reversals, disputes lost and won, releases and
// remittances a payment goes through, of each share no more tax comes back
// than was collected, all of it once nothing is left of the share, and else
// what is in proportion; the merchant bears the rest; the account is what was
// collected less what came back and was remitted; and statements close.
func TestTaxesOfAnyHistoryAddUp(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.keeps(t, 700, 3, "", "")
	p.taxed(t, 1900, "")
	p.taxed(t, 550, "mrc_two")
	p.reserves(t, 900, 90, "", "")
	p.sold(t, 1200) // each history has one before it
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		// What the database refuses, it refuses whole.
		may := func(err error) bool {
			if err != nil {
				require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "%v", err)
			}
			return err == nil
		}
		part := func(least, most int64, of string) *paymentv1.MerchantShare {
			return &paymentv1.MerchantShare{MerchantId: of, MinorUnits: rapid.Int64Range(least, most).Draw(t, of)}
		}
		began := time.Now()
		order := id.New("ord")
		req := authorization(1000)
		req.Reference = order
		res, err := p.plain.AuthorizePayment(ctx, req)
		require.NoError(t, err)
		pay := res.GetPayment()
		p.sends(t, order, "ful_"+order)
		captures, wins := 0, 0
		capture := func(least int64) {
			a, b := part(least, 500, "mrc_one"), part(least, 300, "mrc_two")
			if _, err := p.plain.CapturePayment(ctx, captureOf(pay, a.GetMinorUnits()+b.GetMinorUnits(), a, b)); may(err) {
				captures++
			}
		}
		var open []string
		dispute := func(least int64) {
			w := p.bank.opens(pay.GetProviderReference(), gbp(rapid.Int64Range(least, 300).Draw(t, "disputed")), nil)
			p.hears(t, w)
			open = append(open, w.GetReference())
		}
		end := func() {
			won := rapid.Bool().Draw(t, "won")
			how := map[bool]providerv1.Dispute_Status{true: providerv1.Dispute_STATUS_WON, false: providerv1.Dispute_STATUS_LOST}[won]
			p.hears(t, p.bank.decides(open[0], how))
			if open = open[1:]; won {
				wins++
			}
		}
		// Each has a dispute that ends, whatever else it has before and between.
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"capture", "refund", "refund", "name", "rest", "reverse", "dispute", "end", "release", "remit"}), 0, 6).Draw(t, "steps")
		at := rapid.IntRange(0, len(steps)).Draw(t, "first dispute")
		steps = slices.Concat([]string{"first capture"}, steps[:at], []string{"first dispute"}, steps[at:], []string{"end"})
		for _, step := range steps {
			switch step {
			case "first capture":
				capture(100)
			case "capture":
				capture(1)
			case "first dispute":
				dispute(50)
			case "dispute":
				dispute(1)
			case "end":
				if len(open) > 0 {
					end()
				}
			case "refund":
				_, err := p.plain.RefundPayment(ctx, refundOf(pay, rapid.Int64Range(1, 200).Draw(t, "refund")))
				may(err)
			case "name":
				of := part(1, 200, rapid.SampledFrom([]string{"mrc_one", "mrc_two"}).Draw(t, "of"))
				req := refundOf(pay, of.GetMinorUnits())
				req.Shares = []*paymentv1.MerchantShare{of}
				_, err := p.plain.RefundPayment(ctx, req)
				may(err)
			case "rest", "reverse":
				// The company declines both where a dispute was of more than was left
				// then, and more was captured since.
				var err error
				if step == "rest" {
					_, err = p.plain.RefundPayment(ctx, refundOf(pay, 0))
					may(err)
				} else if _, err = p.plain.ReversePayment(ctx, &paymentv1.ReversePaymentRequest{PaymentId: pay.GetPaymentId()}); err != nil {
					refused(t, connect.CodeUnavailable, "REVERSAL_DECLINED", err)
				}
				for _, s := range p.taxedShares(t, pay) {
					require.True(t, err != nil || s.base == 0, "%+v", s)
				}
			case "release":
				p.brings(t, order, "ful_"+order)
				p.passes(t, order)
			case "remit":
				_, err := p.remits(rapid.Int64Range(1, 60).Draw(t, "remitted"), id.New("rmt"))
				may(err)
			}
		}

		p.balanced(t)
		for _, s := range p.taxedShares(t, pay) {
			left := s.collected - s.returned
			require.True(t, 0 <= left && left <= s.collected && left <= s.base, "%+v", s)
			require.Equal(t, s.base-left-s.fees, s.has, "a merchant bears the net")
			if captures == 1 { // each rounds by itself
				s.inProportion(t, wins)
			}
		}
		far := time.Now().Add(time.Hour)
		whole, before, since := p.taxes(t, time.Unix(0, 0), far), p.taxes(t, time.Unix(0, 0), began), p.taxes(t, began, far)
		require.Equal(t, p.account(t, "tax:GB"), whole.GetClosingMinor())
		require.Equal(t, p.account(t, "platform:bank"), whole.GetRemittedMinor())
		require.Equal(t, before.GetClosingMinor(), since.GetOpeningMinor())
		require.Equal(t, whole.GetClosingMinor(), since.GetClosingMinor())
		require.Equal(t, since.GetClosingMinor(), since.GetOpeningMinor()+since.GetCollectedMinor()-since.GetReturnedMinor()-since.GetRemittedMinor())

		told, err := p.settlement(one).GetStatement(ctx, &paymentv1.GetStatementRequest{CurrencyCode: "GBP", From: timestamppb.New(began), Until: timestamppb.New(far)})
		require.NoError(t, err)
		sum := told.GetOpeningMinor()
		for _, l := range told.GetLines() {
			sum += l.GetMinorUnits()
		}
		b := p.has(t)
		require.Equal(t, told.GetClosingMinor(), sum)
		require.Equal(t, told.GetClosingMinor(), b.GetPendingMinor()+b.GetAvailableMinor()+b.GetReservedMinor())
	})
}

package main

import (
	"context"
	"maps"
	"slices"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
)

// reconcile compares with bank-gb. Differences are told by their key.
func (p *till) reconcile(t require.TestingT) (*paymentv1.ReconcilePaymentsResponse, map[string]*paymentv1.Difference) {
	res, err := p.plain.ReconcilePayments(context.Background(), &paymentv1.ReconcilePaymentsRequest{Instance: "bank-gb"})
	require.NoError(t, err)
	by := map[string]*paymentv1.Difference{}
	for _, d := range res.GetDifferences() {
		by[d.GetKey()] = d
	}
	return res, by
}

// agrees requires that ledger and bank tell the same of so many lines.
func (p *till) agrees(t require.TestingT, compared int64) {
	res, _ := p.reconcile(t)
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())
	require.Equal(t, compared, res.GetCompared())
}

// lies changes what the bank tells, not what it did.
func (b *bank) lies(change func(b *bank)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

func (b *bank) forgets(key string) {
	b.order = slices.DeleteFunc(b.order, func(k string) bool { return k == key })
}

func TestReconciliationNamesEveryDifference(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.earns(t, 100)
	capture, refund, payout := captureOf(p.hold(t, 1000), 400), refundOf(pay, 0), payoutOf(50)
	_, err := p.plain.CapturePayment(t.Context(), capture)
	require.NoError(t, err)
	_, err = p.settlement(one).RequestPayout(t.Context(), payout)
	require.NoError(t, err)
	_, err = p.plain.RefundPayment(t.Context(), refund)
	require.NoError(t, err)
	p.bank.will(declines)
	_, err = p.plain.AuthorizePayment(t.Context(), authorization(5))
	refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	p.agrees(t, 7)
	type fact struct {
		kind         paymentv1.Difference_Kind
		ours, theirs string
	}
	for name, c := range map[string]struct {
		// key of what is changed: the capture's, the refund's or the payout's.
		key  func(capture, refund, payout string) string
		lie  func(b *bank, key string)
		want fact
	}{
		"a capture of another amount": {
			func(c, _, _ string) string { return c }, func(b *bank, k string) { b.ops[k].Amount = gbp(401) },
			fact{amountDiffers, "capture succeeded 4.00 GBP", "capture succeeded 4.01 GBP"},
		},
		"a capture in another currency": {
			func(c, _, _ string) string { return c }, func(b *bank, k string) { b.ops[k].Amount = eur(400) },
			fact{currencyDiffers, "capture succeeded 4.00 GBP", "capture succeeded 4.00 EUR"},
		},
		"a refund that is not told": {
			func(_, r, _ string) string { return r }, (*bank).forgets,
			fact{missingAtProvider, "refund succeeded 1.00 GBP", "not in the report"},
		},
		"a refund that was declined": {
			func(_, r, _ string) string { return r }, func(b *bank, k string) { b.ops[k].Status = providerv1.Outcome_STATUS_DECLINED },
			fact{stateDiffers, "refund succeeded 1.00 GBP", "refund declined"},
		},
		"a refund that is told as a void": {
			func(_, r, _ string) string { return r }, func(b *bank, k string) { b.ops[k].Operation = providerv1.Operation_OPERATION_VOID },
			fact{operationDiffers, "refund succeeded 1.00 GBP", "void succeeded 1.00 GBP"},
		},
		"a refund that is told twice": {
			func(_, r, _ string) string { return r }, func(b *bank, k string) { b.order = append(b.order, k) },
			fact{toldTwice, "refund succeeded 1.00 GBP", "refund succeeded 1.00 GBP"},
		},
		"what nobody asked for": {
			func(_, _, _ string) string { return "invented" }, func(b *bank, k string) {
				b.keep("bank-gb", &providerv1.Outcome{Key: k, Operation: providerv1.Operation_OPERATION_AUTHORIZE, Status: providerv1.Outcome_STATUS_SUCCEEDED, Amount: gbp(1)})
			},
			fact{unknownToUs, "never asked", "authorize succeeded 0.01 GBP"},
		},
		"a payout that is not told": {
			func(_, _, o string) string { return o }, (*bank).forgets,
			fact{missingAtProvider, "payout succeeded 0.50 GBP", "not in the report"},
		},
		"a payout that is told twice": {
			func(_, _, o string) string { return o }, func(b *bank, k string) { b.order = append(b.order, k) },
			fact{toldTwice, "payout succeeded 0.50 GBP", "payout succeeded 0.50 GBP"},
		},
		"a payout of another amount": {
			func(_, _, o string) string { return o }, func(b *bank, k string) { b.ops[k].Amount = gbp(51) },
			fact{amountDiffers, "payout succeeded 0.50 GBP", "payout succeeded 0.51 GBP"},
		},
		"a payout that was declined": {
			func(_, _, o string) string { return o }, func(b *bank, k string) { b.ops[k].Status = providerv1.Outcome_STATUS_DECLINED },
			fact{stateDiffers, "payout succeeded 0.50 GBP", "payout declined"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			books, order := p.bank.ops, slices.Clone(p.bank.order)
			defer p.bank.lies(func(b *bank) { b.ops, b.order = books, order })
			key := c.key(capture.GetOperationId(), refund.GetOperationId(), payout.GetPayoutId())
			p.bank.lies(func(b *bank) {
				b.ops = maps.Clone(b.ops)
				if b.ops[key] != nil {
					b.ops[key] = proto.CloneOf(b.ops[key])
				}
				c.lie(b, key)
			})
			res, by := p.reconcile(t)
			require.EqualValues(t, 1, res.GetTotal(), "%v", res.GetDifferences())
			d := by[key]
			require.Equal(t, c.want, fact{d.GetKind(), d.GetOurs(), d.GetTheirs()})
			require.Equal(t, c.want.kind == unknownToUs, d.GetSubjectId() == "")
		})
	}
	p.agrees(t, 7)
}

// What a company moved in another amount than was asked is not in the books,
// so the reconciliation goes on telling of it.
func TestWhatMovedInAnotherAmountIsADifference(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	capture, payout := captureOf(p.hold(t, 1000), 400), payoutOf(300)
	p.bank.will(otherAmount, otherAmount)
	_, err := p.plain.CapturePayment(t.Context(), capture)
	refused(t, connect.CodeFailedPrecondition, "AMOUNT_CONFLICT", err)
	for range 2 {
		_, err = p.settlement(one).RequestPayout(t.Context(), payout)
		refused(t, connect.CodeFailedPrecondition, "PAYOUT_CONFLICTED", err)
	}
	require.EqualValues(t, 300, p.has(t).GetInPayoutMinor(), "it is neither paid nor available")
	res, by := p.reconcile(t)
	require.EqualValues(t, 2, res.GetTotal(), "%v", res.GetDifferences())
	require.Equal(t, "capture asked 4.00 GBP", by[capture.GetOperationId()].GetOurs())
	require.Equal(t, "payout asked 3.00 GBP", by[payout.GetPayoutId()].GetOurs())
	require.Equal(t, "payout succeeded 2.99 GBP", by[payout.GetPayoutId()].GetTheirs())
	list, err := p.settlement(staff).ListPayouts(t.Context(), &paymentv1.ListPayoutsRequest{States: []paymentv1.Payout_State{payoutConflicted}})
	require.NoError(t, err)
	require.Len(t, list.GetPayouts(), 1)
	require.True(t, proto.Equal(gbp(299), list.GetPayouts()[0].GetProcessed()))
	p.balanced(t)
}

// What ended at the company and is not known here is a difference, once it is
// no longer on its way.
func TestWhatEndedThereAndNotHereIsADifference(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.earns(t, 1000)
	capture, payout := captureOf(p.hold(t, 1000), 400), payoutOf(300)
	p.bank.will(actsThenFails, actsThenFails)
	_, err := p.plain.CapturePayment(t.Context(), capture)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	_, err = p.settlement(one).RequestPayout(t.Context(), payout)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	p.agrees(t, 5)
	p.age(t)
	res, by := p.reconcile(t)
	require.EqualValues(t, 2, res.GetTotal(), "%v", res.GetDifferences())
	require.Equal(t, stateDiffers, by[capture.GetOperationId()].GetKind())
	require.Equal(t, stateDiffers, by[payout.GetPayoutId()].GetKind())
}

package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
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

func (p *till) books(k call.Principal) paymentv1connect.ReconciliationServiceClient {
	return paymentv1connect.NewReconciliationServiceClient(p.Client(plugintest.As(k, "GB")))
}

func (p *till) runs(t testing.TB) (out []*paymentv1.Reconciliation) {
	t.Helper()
	req := &paymentv1.ListReconciliationsRequest{PageSize: 1}
	for {
		res, err := p.books(staff).ListReconciliations(t.Context(), req)
		require.NoError(t, err)
		out = append(out, res.GetReconciliations()...)
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			return out
		}
	}
}

func TestAReconciliationIsKeptWithItsDifferences(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.hold(t, 1000)
	p.bank.lies(func(b *bank) {
		for _, key := range []string{"x1", "x2", "x3"} {
			b.keep("bank-gb", &providerv1.Outcome{Key: key, Operation: providerv1.Operation_OPERATION_AUTHORIZE, Status: providerv1.Outcome_STATUS_SUCCEEDED, Amount: gbp(1)})
		}
		b.order = append(b.order, "x1")
		b.down["bank-gb"] = true
	})
	req := &paymentv1.ReconcilePaymentsRequest{Instance: "bank-gb", ReconciliationId: id.New("rec")}
	_, err := p.plain.ReconcilePayments(t.Context(), req)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	failed := p.runs(t)[0]
	require.Equal(t, reconciliationFailed, failed.GetState())
	require.Equal(t, "PLUGIN_UNAVAILABLE", failed.GetCode())
	p.bank.lies(func(b *bank) { b.down["bank-gb"] = false })
	first, err := p.plain.ReconcilePayments(t.Context(), req)
	require.NoError(t, err)
	require.EqualValues(t, 4, first.GetTotal())
	p.bank.lies(func(b *bank) { b.forgets("x2") })
	again, err := p.plain.ReconcilePayments(t.Context(), req)
	require.NoError(t, err)
	require.True(t, proto.Equal(first, again), "it is told as it was")
	other := &paymentv1.ReconcilePaymentsRequest{Instance: "bank-de", ReconciliationId: req.GetReconciliationId()}
	_, err = p.plain.ReconcilePayments(t.Context(), other)
	refused(t, connect.CodeAlreadyExists, "RECONCILIATION_DIFFERS", err)

	counts := []*paymentv1.DifferenceCount{{Kind: unknownToUs, Count: 3}, {Kind: toldTwice, Count: 1}}
	get := &paymentv1.GetReconciliationRequest{ReconciliationId: req.GetReconciliationId(), PageSize: 3}
	var found []*paymentv1.Difference
	for {
		res, err := p.books(staff).GetReconciliation(t.Context(), get)
		require.NoError(t, err)
		require.Equal(t, reconciled, res.GetReconciliation().GetState())
		require.Empty(t, cmp.Diff(counts, res.GetReconciliation().GetCounts(), protocmp.Transform()))
		found = append(found, res.GetDifferences()...)
		if get.PageToken = res.GetNextPageToken(); get.GetPageToken() == "" {
			break
		}
	}
	require.Empty(t, cmp.Diff(first.GetDifferences(), found, protocmp.Transform()))
	events := p.Published(t)
	ended := events[len(events)-1].(*paymentv1.ReconciliationEnded)
	require.Empty(t, cmp.Diff(&paymentv1.ReconciliationEnded{
		Instance: "bank-gb", ReconciliationId: req.GetReconciliationId(), Compared: 5, Total: 4, Counts: counts,
	}, ended, protocmp.Transform()))
	_, err = p.books(staff).GetReconciliation(t.Context(), &paymentv1.GetReconciliationRequest{ReconciliationId: id.New("rec")})
	refused(t, connect.CodeNotFound, "RECONCILIATION_UNKNOWN", err)
	_, err = p.DB.ExecContext(t.Context(), `UPDATE reconciliation SET total = 0`)
	require.Error(t, err, "what was found stays")
	_, err = p.DB.ExecContext(t.Context(), `DELETE FROM reconciliation_difference`)
	require.Error(t, err)
}

func TestEachInstanceIsReconciledOnceADay(t *testing.T) {
	t.Parallel()
	p := open(t, plugintest.Config(map[string]any{}))
	require.NoError(t, p.own.tidy(t.Context()))
	require.Empty(t, p.runs(t), "there is nothing to compare")
	p.hold(t, 1000)
	german := authorization(500)
	german.Market, german.Amount = "DE", eur(500)
	_, err := p.plain.AuthorizePayment(t.Context(), german)
	require.NoError(t, err)
	p.bank.lies(func(b *bank) { b.down["bank-de"] = true })
	for range 2 {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = p.own.tidy(context.Background()) })
		}
		wg.Wait()
	}
	states := func() map[string]paymentv1.Reconciliation_State {
		out := map[string]paymentv1.Reconciliation_State{}
		for _, r := range p.runs(t) {
			require.True(t, r.GetScheduled())
			require.NotContains(t, out, r.GetInstance(), "once")
			out[r.GetInstance()] = r.GetState()
		}
		return out
	}
	require.Equal(t, map[string]paymentv1.Reconciliation_State{"bank-gb": reconciled, "bank-de": reconciliationFailed}, states())
	p.bank.lies(func(b *bank) { b.down["bank-de"] = false })
	require.NoError(t, p.own.tidy(t.Context()))
	require.Equal(t, reconciliationFailed, states()["bank-de"], "not at once")
	_, err = p.Admin.Exec(t.Context(), `UPDATE p_payment.reconciliation SET ended_at = ended_at - interval '11 min' WHERE state = 3`)
	require.NoError(t, err)
	require.NoError(t, p.own.tidy(t.Context()))
	require.Equal(t, map[string]paymentv1.Reconciliation_State{"bank-gb": reconciled, "bank-de": reconciled}, states())
	_, err = p.Admin.Exec(t.Context(), `ALTER TABLE p_payment.reconciliation DISABLE TRIGGER ALL; UPDATE p_payment.reconciliation SET day = day - 1`)
	require.NoError(t, err)
	require.NoError(t, p.own.tidy(t.Context()))
	require.Len(t, p.runs(t), 4, "the next day")
}

// A webhook that never came is found, named and made up for.
func TestAReconciliationFindsDisputesThatWereNotHeardOf(t *testing.T) {
	t.Parallel()
	p := open(t)
	_, pay := p.sold(t, 1000)
	p.bank.opens(pay.GetProviderReference(), gbp(300), nil)
	res, by := p.reconcile(t)
	require.EqualValues(t, 1, res.GetTotal())
	require.Equal(t, unknownToUs, by["dp-1"].GetKind())
	require.Equal(t, "dispute needs_response 3.00 GBP", by["dp-1"].GetTheirs())
	require.EqualValues(t, 700, p.has(t).GetPendingMinor(), "it is taken in")
	p.agrees(t, 3)

	p.bank.decides("dp-1", providerv1.Dispute_STATUS_WON)
	_, by = p.reconcile(t)
	require.Equal(t, stateDiffers, by["dp-1"].GetKind())
	require.EqualValues(t, 1000, p.has(t).GetPendingMinor())
	p.agrees(t, 3)

	p.bank.lies(func(b *bank) { b.disputes["dp-1"].Amount = gbp(301) })
	_, by = p.reconcile(t)
	require.Equal(t, amountDiffers, by["dp-1"].GetKind())
	p.bank.lies(func(b *bank) { b.disputes["dp-1"].Amount = eur(300) })
	_, by = p.reconcile(t)
	require.Equal(t, currencyDiffers, by["dp-1"].GetKind())
	p.bank.lies(func(b *bank) { b.disputes["dp-1"].Amount = gbp(300); b.disputes["again"] = b.disputes["dp-1"] })
	_, by = p.reconcile(t)
	require.Equal(t, toldTwice, by["dp-1"].GetKind())
	p.bank.lies(func(b *bank) { b.disputes = map[string]*providerv1.Dispute{} })
	_, by = p.reconcile(t)
	require.Equal(t, missingAtProvider, by["dp-1"].GetKind())
	require.Contains(t, by["dp-1"].GetSubjectId(), "dsp_")

	p.bank.lies(func(b *bank) { b.disputes = map[string]*providerv1.Dispute{} })
	over := p.bank.opens(pay.GetProviderReference(), gbp(1001), nil)
	over.Dispute.Reference, over.Reference = "dp-9", "dp-9"
	p.bank.lies(func(b *bank) { b.disputes = map[string]*providerv1.Dispute{"dp-9": over.GetDispute()} })
	p.hears(t, over)
	_, by = p.reconcile(t)
	require.Equal(t, amountDiffers, by["dp-9"].GetKind(), "more was taken than there was")
	require.Equal(t, "dispute needs_response 10.01 GBP, of which 10.00 GBP is in the books", by["dp-9"].GetOurs())
	p.balanced(t)
}

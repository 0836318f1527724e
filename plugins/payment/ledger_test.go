package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
)

func TestTheDatabaseRefusesToChangeWhatHappened(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	_, err := p.plain.CapturePayment(t.Context(), captureOf(pay, 400))
	require.NoError(t, err)
	for _, statement := range []string{
		`UPDATE transfer SET amount = 1`, `DELETE FROM transfer`, `TRUNCATE transfer`,
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) VALUES ('capture', 'k', 'a', 'a', 'GBP', 1, 'i', 'p')`,
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) VALUES ('capture', 'k', 'a', 'b', 'GBP', -1, 'i', 'p')`,
		`INSERT INTO transfer (kind, key, debit, credit, currency, amount, instance, payment) SELECT kind, key, debit, credit, currency, amount, instance, payment FROM transfer`,
		`UPDATE payment SET captured = 1001`, `UPDATE payment SET captured = 0`, `UPDATE payment SET capturing = 601`, `UPDATE payment SET refunded = 401`,
		`UPDATE payment SET voided = 601`, `UPDATE payment SET captured = -1`, `UPDATE payment SET instance = 'another'`, `UPDATE payment SET state = 6`,
		`DELETE FROM payment`, `TRUNCATE payment CASCADE`, `DELETE FROM attempt`,
		`UPDATE attempt SET state = 1, ended_at = NULL`, `UPDATE attempt SET amount = amount + 1`,
		`ALTER TABLE transfer DISABLE TRIGGER ALL`, `DROP TABLE transfer`,
	} {
		_, err := p.DB.ExecContext(t.Context(), statement)
		require.Error(t, err, statement)
	}
	_, err = p.Admin.Exec(t.Context(), `UPDATE p_payment.transfer SET amount = 1`)
	require.ErrorContains(t, err, "never changed", "the owner cannot either")
	p.balanced(t)
}

func TestAnEntryThatIsMissingIsNoticed(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.hold(t, 1000)
	_, err := p.Admin.Exec(t.Context(), `ALTER TABLE p_payment.transfer DISABLE TRIGGER ALL; UPDATE p_payment.transfer SET amount = 999`)
	require.NoError(t, err)
	res, err := p.plain.SumPayments(t.Context(), &paymentv1.SumPaymentsRequest{})
	require.NoError(t, err)
	require.False(t, res.GetBalanced())
}

func TestAWebhookEndsWhatIsOpenOnceAndIsIgnoredForWhatIsKnown(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.bank.will(pends)
	req, step := authorization(100), p.saga(t)
	_, err := step(1, false).AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	a := p.get(t, req.GetPaymentId()).GetAttempts()[0]
	require.Equal(t, pending, a.GetState())

	updated := p.bank.end(a.GetKey(), gbp(100))
	foreign := proto.CloneOf(updated)
	foreign.Instance = "bank-de"
	stray := proto.CloneOf(updated)
	stray.Key, stray.Outcome.Key = "never-asked", "never-asked"
	nonsense := proto.CloneOf(updated)
	nonsense.Outcome.Amount = nil
	require.NoError(t, p.Deliver(t.Context(), "providers", foreign, stray, nonsense))
	require.Equal(t, paymentv1.Payment_STATE_PENDING, p.get(t, req.GetPaymentId()).GetPayment().GetState())

	require.NoError(t, p.Deliver(t.Context(), "providers", updated, updated))
	require.NoError(t, p.Deliver(t.Context(), "providers", updated))
	require.Equal(t, []string{"PaymentAuthorized"}, p.kinds(t))
	require.EqualValues(t, 100, p.balanced(t).authorized)

	lies := proto.CloneOf(updated)
	lies.Outcome.Amount = gbp(1)
	require.NoError(t, p.Deliver(t.Context(), "providers", lies))
	require.Equal(t, paymentv1.Payment_STATE_AUTHORIZED, p.get(t, req.GetPaymentId()).GetPayment().GetState())

	res, err := step(1, false).AuthorizePayment(t.Context(), req)
	require.NoError(t, err, "the repeated step finds what the webhook told")
	require.Equal(t, paymentv1.Payment_STATE_AUTHORIZED, res.GetPayment().GetState())
}

func TestAWebhookOfAnotherAmountIsAConflict(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.bank.will(pends)
	req, step := authorization(100), p.saga(t)
	_, err := step(1, false).AuthorizePayment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	require.NoError(t, p.Deliver(t.Context(), "providers", p.bank.end(p.get(t, req.GetPaymentId()).GetAttempts()[0].GetKey(), gbp(90))))
	require.Equal(t, paymentv1.Payment_STATE_CONFLICTED, p.get(t, req.GetPaymentId()).GetPayment().GetState())
	require.Empty(t, p.kinds(t), "a conflict is no success")
}

func TestReconciliationNamesEveryDifference(t *testing.T) {
	t.Parallel()
	p := open(t)
	pay := p.hold(t, 1000)
	req := captureOf(pay, 400)
	_, err := p.plain.CapturePayment(t.Context(), req)
	require.NoError(t, err)
	_, err = p.plain.RefundPayment(t.Context(), refundOf(pay, 100))
	require.NoError(t, err)
	p.bank.will(declines)
	_, err = p.plain.AuthorizePayment(t.Context(), authorization(5))
	refused(t, connect.CodeFailedPrecondition, "PAYMENT_DECLINED", err)
	reconcile := func() *paymentv1.ReconcilePaymentsResponse {
		res, err := p.plain.ReconcilePayments(t.Context(), &paymentv1.ReconcilePaymentsRequest{Instance: "bank-gb"})
		require.NoError(t, err)
		return res
	}
	res := reconcile()
	require.EqualValues(t, 4, res.GetCompared())
	require.Zero(t, res.GetTotal(), "%v", res.GetDifferences())

	// The bank tells a capture otherwise, forgets the refund, invents a payment.
	p.bank.mu.Lock()
	p.bank.ops[req.GetOperationId()].Amount = gbp(401)
	p.bank.order = p.bank.order[:2]
	p.bank.keep("bank-gb", &providerv1.Outcome{Key: "invented", Operation: providerv1.Operation_OPERATION_AUTHORIZE, Status: providerv1.Outcome_STATUS_SUCCEEDED, Amount: gbp(1)})
	p.bank.mu.Unlock()
	res = reconcile()
	require.EqualValues(t, 3, res.GetTotal())
	got := map[string][2]string{}
	for _, d := range res.GetDifferences() {
		got[d.GetKey()] = [2]string{d.GetOurs(), d.GetTheirs()}
	}
	require.Equal(t, [2]string{"capture succeeded 4.00 GBP", "capture succeeded 4.01 GBP"}, got[req.GetOperationId()])
	require.Equal(t, [2]string{"never asked", "authorize succeeded 0.01 GBP"}, got["invented"])
	require.Contains(t, res.GetDifferences()[2].GetTheirs(), "not in the report")
}

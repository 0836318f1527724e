package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

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

package main

import (
	"context"
	"flag"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) {
	// A history of purchases costs a tenth of a second and more: these many in
	// every run, more by -rapid.checks.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	plugintest.Main(m)
}

// till is the payment module with a bank behind it.
type till struct {
	*plugintest.Module
	bank *bank
	// own is the instance, for what its janitor does.
	own *service
	// plain calls outside of sagas.
	plain paymentv1connect.PaymentServiceClient
}

func open(t testing.TB, opts ...plugintest.Option) *till {
	t.Helper()
	p := &till{bank: newBank()}
	m := module()
	m.New = func(_ context.Context, in *plugin.Instance) (err error) {
		p.own, err = register(in)
		return err
	}
	opts = append([]plugintest.Option{plugintest.Config(map[string]any{"reconcile_at": "never"})}, opts...)
	p.Module = plugintest.Start(t, m, append(opts, plugintest.Neighbours(func(s *connect.Server) {
		providerv1connect.RegisterPaymentProviderServiceHandler(s, p.bank)
	}))...)
	p.plain = client(p.Module, nil)
	return p
}

func client(m *plugintest.Module, step *call.Step) paymentv1connect.PaymentServiceClient {
	info := plugintest.As(call.Principal{Kind: call.Plugin, Plugin: "order"}, "GB")
	info.Step = step
	return paymentv1connect.NewPaymentServiceClient(m.Client(info))
}

// saga makes a running saga whose three steps are this module's, and returns
// what calls its steps.
func (p *till) saga(t testing.TB) func(n int, undo bool) paymentv1connect.PaymentServiceClient {
	t.Helper()
	sid := uuid.NewString()
	_, err := p.Admin.Exec(t.Context(), `INSERT INTO bus.saga_def VALUES ('order/test', 1, 'p_payment', '',
		array_fill('entrepot.payment.v1'::text, '{3}'), array_fill('entrepot.payment.v1'::text, '{3}')) ON CONFLICT DO NOTHING`)
	require.NoError(t, err)
	_, err = p.Admin.Exec(t.Context(), `INSERT INTO bus.saga (id, def, ver, key, input) VALUES ($1, 'order/test', 1, $2, '')`, sid, sid)
	require.NoError(t, err)
	return func(n int, undo bool) paymentv1connect.PaymentServiceClient {
		return client(p.Module, &call.Step{Saga: sid, N: n, Undo: undo, Epoch: 1})
	}
}

func gbp(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "GBP", MinorUnits: minor} }

func authorization(minor int64) *paymentv1.AuthorizePaymentRequest {
	return &paymentv1.AuthorizePaymentRequest{PaymentId: id.New("pay"), Reference: "ord_1", Amount: gbp(minor), MethodToken: "tok_ok", Market: "GB"}
}

// hold authorises a payment outside of a saga.
func (p *till) hold(t require.TestingT, minor int64) *paymentv1.Payment {
	res, err := p.plain.AuthorizePayment(context.Background(), authorization(minor))
	require.NoError(t, err)
	return res.GetPayment()
}

func captureOf(p *paymentv1.Payment, minor int64, parts ...*paymentv1.MerchantShare) *paymentv1.CapturePaymentRequest {
	req := &paymentv1.CapturePaymentRequest{PaymentId: p.GetPaymentId(), OperationId: id.New("cap"), Shares: parts}
	if minor > 0 {
		req.Amount = &typev1.Money{CurrencyCode: p.GetAuthorized().GetCurrencyCode(), MinorUnits: minor}
	}
	return req
}

func refundOf(p *paymentv1.Payment, minor int64) *paymentv1.RefundPaymentRequest {
	req := &paymentv1.RefundPaymentRequest{PaymentId: p.GetPaymentId(), OperationId: id.New("rfd")}
	if minor > 0 {
		req.Amount = &typev1.Money{CurrencyCode: p.GetAuthorized().GetCurrencyCode(), MinorUnits: minor}
	}
	return req
}

func (p *till) get(t testing.TB, payment string) *paymentv1.GetPaymentResponse {
	t.Helper()
	res, err := p.plain.GetPayment(t.Context(), &paymentv1.GetPaymentRequest{PaymentId: payment})
	require.NoError(t, err)
	return res
}

// age makes every open attempt and payout old enough that what the bank never
// saw did not happen.
func (p *till) age(t testing.TB) {
	t.Helper()
	_, err := p.Admin.Exec(t.Context(), `UPDATE p_payment.attempt SET sent_at = sent_at - interval '1 minute' WHERE state IN (1, 4, 5)`)
	require.NoError(t, err)
	_, err = p.Admin.Exec(t.Context(), `UPDATE p_payment.payout SET sent_at = sent_at - interval '1 minute', next_try = now() WHERE state = 1`)
	require.NoError(t, err)
}

// balanced requires that the ledger balances, agrees with the payments (M2)
// and, where no amount was in conflict, with the bank to the minor unit.
func (p *till) balanced(t require.TestingT) account {
	res, err := p.plain.SumPayments(context.Background(), &paymentv1.SumPaymentsRequest{})
	require.NoError(t, err)
	require.True(t, res.GetBalanced(), "the ledger disagrees with the payments")
	all := map[string]int64{}
	for _, a := range res.GetAccounts() {
		all[a.GetCurrencyCode()+" "+a.GetInstance()] += a.GetMinorUnits()
		require.NotContains(t, a.GetAccount(), "mrc_")
	}
	for where, n := range all {
		require.Zero(t, n, where)
	}
	var sum account
	for _, s := range res.GetSums() {
		sum.authorized += s.GetAuthorizedMinor()
		sum.captured += s.GetCapturedMinor()
		sum.voided += s.GetVoidedMinor()
		sum.refunded += s.GetRefundedMinor()
		sum.disputed += s.GetDisputedMinor()
	}
	return sum
}

func (p *till) account(t require.TestingT, account string) int64 {
	var n int64
	require.NoError(t, p.Admin.QueryRow(context.Background(), `SELECT coalesce(sum(CASE WHEN credit = $1 THEN amount ELSE -amount END), 0)::bigint
		FROM p_payment.transfer WHERE $1 IN (debit, credit)`, account).Scan(&n))
	return n
}

func refused(t require.TestingT, code connect.Code, reason string, err error) {
	require.Error(t, err)
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(host.Relay(err)), "%v", err)
}

// kinds are the names of published events, in order.
func (p *till) kinds(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, e := range p.Published(t) {
		out = append(out, string(e.ProtoReflect().Descriptor().Name()))
	}
	return out
}

func eur(minor int64) *typev1.Money { return &typev1.Money{CurrencyCode: "EUR", MinorUnits: minor} }

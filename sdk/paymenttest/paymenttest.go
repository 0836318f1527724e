// Package paymenttest is the conformance kit of payment companies: it holds an
// adapter of entrepot.payment.provider.v1 to its contract, each capability that
// the manifest declares by itself. What is not declared is not called, by the
// kit as by the router.
package paymenttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/manifest"
)

// Company is an adapter under test.
type Company struct {
	// Client calls it as the payment module does.
	Client providerv1connect.PaymentProviderServiceClient
	// Capabilities are those of the manifest.
	Capabilities []string
	// Currency is one that it takes.
	Currency string
	// Good is a means of payment with enough money, Bad one that is declined.
	Good, Bad string
	// Merchant is one whom it can pay out; of the capability "payout".
	Merchant string
	// OneCapture says that the first capture of a part releases the rest: then
	// there is no second one. A capture of a part and a void of the rest are
	// the same to everybody.
	OneCapture bool
	// Disputed makes a payment that the consumer's bank disputes, and answers its
	// number, the dispute's and how much is disputed; of the capability "dispute".
	Disputed func(ctx context.Context) (paymentReference, reference string, amount *typev1.Money, err error)
}

// Declared are the capabilities for payment companies in a plugin's manifest.
func Declared(t testing.TB, text string) []string {
	t.Helper()
	m, err := manifest.Parse([]byte(text), "plugin.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range m.GetServes() {
		if s.GetContract() == contract {
			return s.GetCapabilities()
		}
	}
	t.Fatal("the manifest does not serve " + contract)
	return nil
}

const contract = "entrepot.payment.provider.v1"

// minimum is what a company cannot be without.
var minimum = []string{"authorize", "capture", "void", "refund", "lookup"}

// known are the capabilities of the contract.
var known = append(slices.Clone(minimum), "partial-capture", "partial-refund", "report", "webhook", "payout", "dispute")

// check is one demand of the contract, on those that declare its capability.
type check struct {
	capability, name string
	holds            func(ctx context.Context, k *kit) error
}

// Run tests an adapter: a test for each demand on what it declares.
func Run(t *testing.T, c Company) {
	t.Helper()
	k := &kit{Company: c}
	for _, one := range slices.Concat(payments, disputes) {
		if one.capability != "" && !k.can(one.capability) || one.capability == "dispute" && c.Disputed == nil {
			continue
		}
		t.Run(strings.TrimPrefix(one.capability+": "+one.name, ": "), func(t *testing.T) {
			t.Parallel()
			if err := one.holds(t.Context(), k); err != nil {
				t.Error(err)
			}
		})
	}
}

// kit makes requests that differ.
type kit struct {
	Company
	n atomic.Int64
}

func (k *kit) can(capability string) bool { return slices.Contains(k.Capabilities, capability) }

func (k *kit) key() string { return fmt.Sprintf("kit-%d", k.n.Add(1)) }

func (k *kit) money(minor int64) *typev1.Money {
	return &typev1.Money{CurrencyCode: k.Currency, MinorUnits: minor}
}

// The contract's words, shorter.
const (
	authorize = providerv1.Operation_OPERATION_AUTHORIZE
	capture   = providerv1.Operation_OPERATION_CAPTURE
	void      = providerv1.Operation_OPERATION_VOID
	refund    = providerv1.Operation_OPERATION_REFUND
	payout    = providerv1.Operation_OPERATION_PAYOUT

	succeeded = providerv1.Outcome_STATUS_SUCCEEDED
	declined  = providerv1.Outcome_STATUS_DECLINED
)

// ask carries an operation out, and looks at the answer as the module does. of
// is the payment, the merchant, or for an authorisation the means of payment.
func (k *kit) ask(ctx context.Context, op providerv1.Operation, key, of string, minor int64) (*providerv1.Outcome, error) {
	var answer interface{ GetOutcome() *providerv1.Outcome }
	var err error
	switch op {
	case authorize:
		answer, err = k.Client.Authorize(ctx, &providerv1.AuthorizeRequest{Key: key, Amount: k.money(minor), MethodToken: of, MerchantReference: "pay_kit"})
	case capture:
		answer, err = k.Client.Capture(ctx, &providerv1.CaptureRequest{Key: key, PaymentReference: of, Amount: k.money(minor)})
	case void:
		answer, err = k.Client.Void(ctx, &providerv1.VoidRequest{Key: key, PaymentReference: of})
	case refund:
		answer, err = k.Client.Refund(ctx, &providerv1.RefundRequest{Key: key, PaymentReference: of, Amount: k.money(minor)})
	case payout:
		answer, err = k.Client.Payout(ctx, &providerv1.PayoutRequest{Key: key, MerchantId: of, Amount: k.money(minor)})
	default:
		return nil, fmt.Errorf("no operation %v", op)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	o := answer.GetOutcome()
	switch {
	case o.GetKey() != key || o.GetOperation() != op:
		return nil, fmt.Errorf("%v of key %q answers %v of key %q", op, key, o.GetOperation(), o.GetKey())
	case o.GetStatus() == declined && o.GetCode() == "":
		return nil, fmt.Errorf("%v is declined and no code says why", op)
	case o.GetStatus() == succeeded && (o.GetAmount().GetCurrencyCode() != k.Currency || o.GetAmount().GetMinorUnits() <= 0):
		return nil, fmt.Errorf("%v succeeded with %v", op, o.GetAmount())
	}
	return o, nil
}

// must is an operation that succeeds, with exactly an amount.
func (k *kit) must(ctx context.Context, op providerv1.Operation, of string, minor int64) (*providerv1.Outcome, error) {
	o, err := k.ask(ctx, op, k.key(), of, minor)
	switch {
	case err != nil:
		return nil, err
	case o.GetStatus() != succeeded:
		return nil, fmt.Errorf("%v of %d is %v: %s %s", op, minor, o.GetStatus(), o.GetCode(), o.GetMessage())
	case o.GetAmount().GetMinorUnits() != minor:
		return nil, fmt.Errorf("%v of %d answers %v", op, minor, o.GetAmount())
	}
	return o, nil
}

// mustNot is one that the company declines.
func (k *kit) mustNot(ctx context.Context, op providerv1.Operation, of string, minor int64) error {
	o, err := k.ask(ctx, op, k.key(), of, minor)
	switch {
	case refusal(err):
		return nil
	case err != nil:
		return err
	case o.GetStatus() != declined:
		return fmt.Errorf("%v of %d is %v", op, minor, o.GetStatus())
	}
	return nil
}

// refusal tells whether an error is a no for good, as the module takes it.
func refusal(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeNotFound:
		return err != nil
	}
	return false
}

// held is a payment with so much held.
func (k *kit) held(ctx context.Context, minor int64) (string, error) {
	o, err := k.must(ctx, authorize, k.Good, minor)
	if err == nil && o.GetPaymentReference() == "" {
		err = fmt.Errorf("an authorisation has no payment reference")
	}
	return o.GetPaymentReference(), err
}

// taken is a payment with so much captured.
func (k *kit) taken(ctx context.Context, minor int64) (string, error) {
	pay, err := k.held(ctx, minor)
	if err == nil {
		_, err = k.must(ctx, capture, pay, minor)
	}
	return pay, err
}

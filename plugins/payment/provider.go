package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
)

const (
	// patience is the longest a provider may take. What has not answered by
	// then may have happened.
	patience = 8 * time.Second
	// silence is the time after which a call that left can no longer arrive:
	// the kernel ends it shortly after patience, the rest is margin. Only then
	// does "never seen" mean that it will never happen.
	silence = 15 * time.Second
	// pinned is how long a market's instance is taken from memory. A binding
	// that is changed takes effect for new payments after this time.
	pinned = time.Second
)

// providers are the instances at which money moves. Safe for concurrent use.
type providers struct {
	client providerv1connect.PaymentProviderServiceClient

	mu       sync.Mutex
	byMarket map[string]pin
}

type pin struct {
	instance string
	until    time.Time
}

// of resolves the instance that the market is bound to, before it is asked to
// do anything: the intent names it, so that after a crash the one that may
// have acted is asked and no other. It looks up a key that nobody has used;
// whatever the answer, the kernel says who gave it.
func (p *providers) of(ctx context.Context, market, key string) (string, error) {
	p.mu.Lock()
	known := p.byMarket[market]
	p.mu.Unlock()
	if time.Now().Before(known.until) {
		return known.instance, nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	cctx, info := connect.NewClientContext(host.InMarket(ctx, market))
	_, err := p.client.Lookup(cctx, &providerv1.LookupRequest{Key: key})
	instance := info.ResponseHeader().Get(call.HeaderInstance)
	if instance == "" {
		return "", fault.Retry(fault.New(connect.CodeUnavailable, "PROVIDER_UNAVAILABLE", "no payment provider can be reached for this market", "market", market).WithCause(err), time.Second)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byMarket[market] = pin{instance, time.Now().Add(pinned)}
	return instance, nil
}

// forget drops what is known of an instance that did not answer, so that the
// next payment asks who serves its market.
func (p *providers) forget(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for market, k := range p.byMarket {
		if k.instance == instance {
			delete(p.byMarket, market)
		}
	}
}

// bounded leaves time to write down what a call's end was.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	d := patience
	if at, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(at)*4/5)
	}
	return context.WithTimeout(ctx, d)
}

// send makes an attempt's call. The outcome is of this very operation, or
// there is an error and it is not known what happened.
func (p *providers) send(ctx context.Context, a *attempt, token string) (*providerv1.Outcome, error) {
	ctx, cancel := bounded(host.ToInstance(ctx, a.instance))
	defer cancel()
	amount := &typev1.Money{CurrencyCode: a.currency, MinorUnits: a.amount}
	var answer interface{ GetOutcome() *providerv1.Outcome }
	var err error
	switch a.operation {
	case authorize:
		answer, err = p.client.Authorize(ctx, &providerv1.AuthorizeRequest{Key: a.key, Amount: amount, MethodToken: token, MerchantReference: a.payment})
	case capture:
		answer, err = p.client.Capture(ctx, &providerv1.CaptureRequest{Key: a.key, PaymentReference: a.holdReference, Amount: amount})
	case void:
		answer, err = p.client.Void(ctx, &providerv1.VoidRequest{Key: a.key, PaymentReference: a.holdReference})
	case refund:
		answer, err = p.client.Refund(ctx, &providerv1.RefundRequest{Key: a.key, PaymentReference: a.holdReference, Amount: amount})
	case operationPayout:
		answer, err = p.client.Payout(ctx, &providerv1.PayoutRequest{Key: a.key, Amount: amount, MerchantId: a.payment})
	default:
		return nil, fmt.Errorf("attempt %s: no operation %v", a.key, a.operation)
	}
	if err == nil {
		return a.check(answer.GetOutcome())
	}
	if code, ok := refusedBy(err); ok {
		return &providerv1.Outcome{Key: a.key, Status: providerv1.Outcome_STATUS_DECLINED, Code: code}, nil
	}
	p.forget(a.instance)
	return nil, err
}

// lookup asks what became of an attempt; nil without an error: the company
// has never seen it.
func (p *providers) lookup(ctx context.Context, a *attempt) (*providerv1.Outcome, error) {
	ctx, cancel := bounded(host.ToInstance(ctx, a.instance))
	defer cancel()
	res, err := p.client.Lookup(ctx, &providerv1.LookupRequest{Key: a.key})
	switch {
	case err == nil:
		return a.check(res.GetOutcome())
	case connect.CodeOf(err) == connect.CodeNotFound && byProvider(err):
		return nil, nil
	}
	p.forget(a.instance)
	return nil, err
}

// byProvider tells whether an error is the provider's own word: on the way to
// it, not_found means that there is no such instance.
func byProvider(err error) bool {
	if s, ok := fault.Detail[*typev1.ErrorSource](err); ok && s.GetSource() == typev1.ErrorSource_SOURCE_KERNEL {
		return false
	}
	var ce *connect.Error
	return errors.As(err, &ce) && ce.IsRemote() && fault.Reason(err) != "INSTANCE_UNKNOWN"
}

// refusedBy tells whether an error is a provider's final no, and its code.
// Anything else may have happened.
func refusedBy(err error) (string, bool) {
	code := connect.CodeOf(err)
	switch code {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeNotFound:
	default:
		return "", false
	}
	if !byProvider(err) {
		return "", false
	}
	if reason := fault.Reason(err); reason != "" {
		return clip(reason, 100), true
	}
	return code.String(), true
}

// maxMinor bounds an amount as the contract does.
const maxMinor = 9_000_000_000_000

// check takes a provider's word only when it is about the operation that was
// asked for and makes sense; a provider that answers nonsense has told
// nothing.
func (a *attempt) check(o *providerv1.Outcome) (*providerv1.Outcome, error) {
	nonsense := func(what string) (*providerv1.Outcome, error) {
		return nil, fmt.Errorf("instance %s answered for %s: %s", a.instance, a.key, what)
	}
	switch {
	case o == nil:
		return nonsense("no outcome")
	case o.GetKey() != a.key || o.GetOperation() != providerv1.Operation(a.operation):
		return nonsense("another operation")
	}
	switch o.GetStatus() {
	case providerv1.Outcome_STATUS_DECLINED, providerv1.Outcome_STATUS_PENDING:
		return o, nil
	case providerv1.Outcome_STATUS_SUCCEEDED:
	default:
		return nonsense("no status")
	}
	m := o.GetAmount()
	switch {
	case m.GetMinorUnits() <= 0 || m.GetMinorUnits() > maxMinor || !currencyCode(m.GetCurrencyCode()):
		return nonsense("no amount")
	case a.operation == authorize && o.GetPaymentReference() == "":
		return nonsense("no payment reference")
	}
	return o, nil
}

func currencyCode(s string) bool {
	for _, r := range s {
		if r < 'A' || r > 'Z' {
			return false
		}
	}
	return len(s) == 3
}

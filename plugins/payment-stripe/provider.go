package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	stripe "github.com/stripe/stripe-go/v85"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
)

// adapter is the provider of one instance. Safe for concurrent use.
type adapter struct {
	in       *plugin.Instance
	cfg      settings
	stripe   *stripe.Client
	memory   memory
	accounts map[string]string
	secrets  []string
	// tolerance is how far a webhook's time may be from ours.
	tolerance time.Duration
	// disputing: evidence is read, added to and written.
	disputing sync.Mutex
}

func register(_ context.Context, in *plugin.Instance) error {
	a := &adapter{in: in, memory: remember(in), secrets: strings.Fields(in.Secrets["webhook_secrets"])}
	if err := in.Config(&a.cfg); err != nil {
		return err
	}
	var err error
	if a.accounts, err = a.cfg.accounts(); err != nil {
		return err
	}
	if a.tolerance, err = a.cfg.tolerance(); err != nil {
		return err
	}
	for _, s := range a.secrets {
		if !strings.HasPrefix(s, "whsec_") {
			return fmt.Errorf("webhook_secrets: every one begins with whsec_")
		}
	}
	var web *http.Client
	if a.stripe, web, err = a.cfg.client(in.Secrets["secret_key"]); err != nil {
		return err
	}
	providerv1connect.RegisterPaymentProviderServiceHandler(in.Server, a)
	in.Webhook = a.webhook
	in.Check = a.check
	in.Close = func(context.Context) { web.CloseIdleConnections() }
	return nil
}

var _ providerv1connect.PaymentProviderServiceHandler = (*adapter)(nil)

// checking bounds how long a check waits: shorter than the kernel does.
const checking = 2500 * time.Millisecond

// check asks for the account's balance: the cheapest that needs the key.
func (a *adapter) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checking)
	defer cancel()
	_, err := a.stripe.V1Balance.Retrieve(ctx, nil)
	if err == nil {
		return nil
	}
	if err = unknown(err); fault.Reason(err) != fault.ReasonOutcomeUnknown {
		return err
	}
	return fault.Downstream(fault.New(connect.CodeUnavailable, "STRIPE_UNREACHABLE", "Stripe does not answer as it should"))
}

// action is how an operation is sent, and how it is found again afterwards.
type action func(ctx context.Context, key string, r record) (*end, error)

// do carries an operation out once. What is not known to have ended is looked
// for at Stripe before it is sent again.
func (a *adapter) do(ctx context.Context, key string, r record, send action) (*providerv1.Outcome, error) {
	r, fresh, err := a.memory.begin(ctx, key, r)
	if err != nil {
		return nil, err
	}
	if r.End != nil {
		return r.End.outcome(key, r.Operation), nil
	}
	if !fresh {
		e, err := a.find(ctx, key, r)
		if err != nil {
			return nil, a.lost(ctx, key, r, err)
		}
		if e != nil {
			return a.keep(ctx, key, r, e), nil
		}
		if r, err = a.memory.again(ctx, key, r); err != nil {
			return nil, err
		}
	}
	e, err := send(ctx, key, r)
	if e == nil && err == nil {
		err = errNothing
	}
	if err != nil {
		if e = declined(err); e == nil {
			return nil, a.lost(ctx, key, r, err)
		}
		e.Currency, e.Minor, e.Payment = r.Currency, r.Minor, r.Intent
	}
	return a.keep(ctx, key, r, e), nil
}

// errNothing is of an answer that is none.
var errNothing = errors.New("answered, and nothing happened")

// writing bounds what is written down after Stripe has answered, whether
// whoever asked is still there or not.
const writing = 2 * time.Second

// keep writes the end down. Where that fails it is found at Stripe again.
func (a *adapter) keep(ctx context.Context, key string, r record, e *end) *providerv1.Outcome {
	if e.Status != pending {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writing)
		defer cancel()
		e.Message = clip(e.Message, 200)
		if _, err := a.memory.change(ctx, key, func(r *record) { r.End = e }); err != nil {
			a.in.Log.WarnContext(ctx, "an end is not written down", "key", key, "error", err)
		}
	}
	return e.outcome(key, r.Operation)
}

// lost is the answer when it is not known what happened. An error that Stripe
// would repeat is noted, so that the next try goes under another idempotency
// key, once nothing was found.
func (a *adapter) lost(ctx context.Context, key string, r record, err error) error {
	said := unknown(err)
	a.in.Log.WarnContext(ctx, "outcome unknown", "key", key, "operation", r.Operation.String(), "error", said)
	if replayed(err) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writing)
		defer cancel()
		if _, err := a.memory.change(ctx, key, func(r *record) { r.Failed = true }); err != nil {
			a.in.Log.WarnContext(ctx, "a failure is not written down", "key", key, "error", err)
		}
	}
	return said
}

// find looks at Stripe for what became of an operation; nil: there is no trace
// of it. Nothing here relies on Stripe's search, which lags behind.
func (a *adapter) find(ctx context.Context, key string, r record) (*end, error) {
	switch r.Operation {
	case authorize:
		return a.findHold(ctx, r)
	case capture:
		return a.findCapture(ctx, key, r)
	case void:
		return a.findVoid(ctx, key, r)
	case refund:
		return a.findRefund(ctx, key, r)
	case payout:
		return a.findTransfer(ctx, key, r)
	}
	return nil, fmt.Errorf("no operation %v", r.Operation)
}

// Lookup implements the contract. What was never written down was never sent.
func (a *adapter) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	key := req.GetKey()
	r, known, err := a.memory.get(ctx, key)
	if err != nil {
		return nil, err
	}
	never := fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "Stripe never saw this key")
	if !known || r.Operation == authorize && r.Intent == "" {
		return nil, never
	}
	if r.End != nil {
		return &providerv1.LookupResponse{Outcome: r.End.outcome(key, r.Operation)}, nil
	}
	e, err := a.find(ctx, key, r)
	if err != nil {
		return nil, unknown(err)
	}
	if e != nil {
		return &providerv1.LookupResponse{Outcome: a.keep(ctx, key, r, e)}, nil
	}
	if left := r.underway(time.Now()); left > 0 {
		return nil, fault.Downstream(fault.Retry(fault.New(connect.CodeUnavailable, fault.ReasonOutcomeUnknown, "it may still arrive at Stripe"), left))
	}
	return nil, never
}

// fingerprint tells whether a key was used for the same.
func fingerprint(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:12])
}

// idempotency is the key under which Stripe does a step of an operation once.
// Stripe's keys are the account's, so the instance's name is part of it.
func (a *adapter) idempotency(key, step string, r record) *string {
	k := "entrepot-" + step + "-" + fingerprint(a.in.Name, key, step, fmt.Sprint(r.Tries))
	return &k
}

// asked begins the record of an operation with an amount.
func asked(op providerv1.Operation, amount *typev1.Money, more ...string) (record, int64, error) {
	r := record{Operation: op, Currency: amount.GetCurrencyCode(), Minor: amount.GetMinorUnits()}
	r.Print = fingerprint(append([]string{op.String(), r.Currency, fmt.Sprint(r.Minor)}, more...)...)
	n, err := toStripe(r.Minor, r.Currency)
	switch {
	case err == nil:
		return r, n, nil
	case errors.Is(err, errCurrency):
		return r, 0, fault.New(connect.CodeInvalidArgument, "CURRENCY_NOT_SUPPORTED", "Stripe does not take this currency", "currency", r.Currency)
	}
	return r, 0, fault.New(connect.CodeInvalidArgument, "AMOUNT_INVALID", "Stripe does not take such an amount of this currency", "currency", r.Currency)
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/webhook"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Currency     string `json:"currency"`
	Latency      string `json:"latency"`
	DeclineEvery int64  `json:"decline_every"`
	TimeoutEvery int64  `json:"timeout_every"`
	Webhooks     bool   `json:"webhooks"`
	MagicAmounts bool   `json:"magic_amounts"`
	DisputeFee   int64  `json:"dispute_fee"`
}

// validate looks at what a field's type does not say. A company with a
// currency that nobody has would decline every payment, and no word why.
func validate(config json.RawMessage) []*pluginv1.Diagnostic {
	var s settings
	_ = json.Unmarshal(config, &s) // the types of the fields were looked at
	if _, known := money.Lookup(s.Currency); known || s.Currency == "" {
		return nil
	}
	return []*pluginv1.Diagnostic{{
		Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: "currency",
		Message: fmt.Sprintf("%q is no currency; write its three capital letters (ISO 4217), like \"EUR\"", s.Currency),
	}}
}

// settleAfter is how long the end of a pending operation takes.
const settleAfter = 200 * time.Millisecond

// adapter is the provider of one instance: it speaks the contract and turns to
// the company. The company opens when nobody else has its books any
// more: a process that is being replaced keeps them until it has drained.
type adapter struct {
	in      *plugin.Instance
	cfg     settings
	latency time.Duration
	secret  string
	wh      *standardwebhooks.Webhook

	opening sync.Mutex
	company *company
	sender  *webhook.Sender
	later   sync.WaitGroup
	ended   chan struct{}

	authorizations, operations atomic.Int64
}

func register(_ context.Context, in *plugin.Instance) error {
	_, err := adapt(in)
	return err
}

func adapt(in *plugin.Instance) (*adapter, error) {
	a := &adapter{in: in, secret: in.Secrets["webhook_secret"], ended: make(chan struct{})}
	if err := in.Config(&a.cfg); err != nil {
		return nil, err
	}
	if in.DataDir == "" {
		return nil, errors.New("the company needs a folder for its books")
	}
	if a.cfg.Latency != "" {
		d, err := time.ParseDuration(a.cfg.Latency)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("latency %q is no duration", a.cfg.Latency)
		}
		a.latency = d
	}
	if a.secret != "" {
		wh, err := standardwebhooks.NewWebhook(a.secret)
		if err != nil {
			return nil, errors.New("webhook_secret is no secret of Standard Webhooks: want whsec_ and base64")
		}
		a.wh = wh
	}
	providerv1connect.RegisterPaymentProviderServiceHandler(in.Server, a)
	in.Webhook = a.webhook
	in.Close = a.close
	a.later.Go(func() { journal.TakeOver(a.ended, in.Log, a.open) })
	return a, nil
}

// open reads the books, once.
func (a *adapter) open(ctx context.Context) (*company, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.company != nil {
		return a.company, nil
	}
	j, all, err := journal.Open(filepath.Join(a.in.DataDir, "journal.jsonl"), number, ctx.Done())
	if errors.Is(err, journal.ErrTorn) {
		a.in.Log.WarnContext(ctx, "journal", "error", err)
	} else if err != nil {
		return nil, fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company cannot open its books").WithCause(err))
	}
	if a.secret != "" {
		if a.sender, err = webhook.New(a.in.DataDir, a.in.PublicURL+"/webhooks/"+a.in.Name, a.secret, a.in.Log); err != nil {
			j.Close()
			return nil, err
		}
	}
	a.company = openCompany(j, all, a.sender != nil)
	a.company.disputeFee = max(a.cfg.DisputeFee, 0)
	if a.sender != nil {
		a.sender.Start(ctx, a.company)
	}
	for _, key := range a.company.unsettled() {
		a.settle(key)
	}
	return a.company, nil
}

func (a *adapter) close(context.Context) {
	close(a.ended)
	a.later.Wait()
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.company == nil {
		return
	}
	if a.sender != nil {
		a.sender.Close()
	}
	a.company.journal.Close()
}

// settle ends a pending operation a little later.
func (a *adapter) settle(key string) {
	a.later.Go(func() {
		select {
		case <-a.ended:
			return // the next start settles it
		case <-time.After(settleAfter):
		}
		if _, err := a.company.settle(key); err != nil && !errors.Is(err, errUnknown) {
			a.in.Log.Error("settling", "key", key, "error", err)
		}
	})
}

// Authorize implements the contract.
func (a *adapter) Authorize(ctx context.Context, req *providerv1.AuthorizeRequest) (*providerv1.AuthorizeResponse, error) {
	q := asked{
		key: req.GetKey(), operation: authorize, currency: req.GetAmount().GetCurrencyCode(), minor: req.GetAmount().GetMinorUnits(),
		merchant: req.GetMerchantReference(),
	}
	m := a.behaviour(req.GetMethodToken(), q.minor)
	switch {
	case q.minor <= 0:
		q.code = "amount_invalid"
	case a.cfg.Currency != "" && q.currency != a.cfg.Currency:
		q.code = "currency_not_supported"
	case a.cfg.DeclineEvery > 0 && a.authorizations.Add(1)%a.cfg.DeclineEvery == 0:
		q.code = "card_declined"
	}
	out, err := a.do(ctx, q, m, fingerprint(authorize, q.currency, q.minor, req.GetMethodToken()))
	return &providerv1.AuthorizeResponse{Outcome: out}, err
}

// Capture implements the contract.
func (a *adapter) Capture(ctx context.Context, req *providerv1.CaptureRequest) (*providerv1.CaptureResponse, error) {
	out, err := a.follow(ctx, capture, req.GetKey(), req.GetPaymentReference(), req.GetAmount())
	return &providerv1.CaptureResponse{Outcome: out}, err
}

// Void implements the contract.
func (a *adapter) Void(ctx context.Context, req *providerv1.VoidRequest) (*providerv1.VoidResponse, error) {
	out, err := a.follow(ctx, void, req.GetKey(), req.GetPaymentReference(), nil)
	return &providerv1.VoidResponse{Outcome: out}, err
}

// Refund implements the contract.
func (a *adapter) Refund(ctx context.Context, req *providerv1.RefundRequest) (*providerv1.RefundResponse, error) {
	out, err := a.follow(ctx, refund, req.GetKey(), req.GetPaymentReference(), req.GetAmount())
	return &providerv1.RefundResponse{Outcome: out}, err
}

// Payout implements the contract.
func (a *adapter) Payout(ctx context.Context, req *providerv1.PayoutRequest) (*providerv1.PayoutResponse, error) {
	q := asked{key: req.GetKey(), operation: payout, currency: req.GetAmount().GetCurrencyCode(), minor: req.GetAmount().GetMinorUnits(), merchant: req.GetMerchantId()}
	if q.minor <= 0 {
		return nil, fault.Field("amount", "must be more than nothing")
	}
	out, err := a.do(ctx, q, a.behaviour("", q.minor), fingerprint(payout, q.currency, q.minor, q.merchant))
	return &providerv1.PayoutResponse{Outcome: out}, err
}

// follow is an operation on a payment that is there.
func (a *adapter) follow(ctx context.Context, operation, key, payment string, amount *typev1.Money) (*providerv1.Outcome, error) {
	q := asked{key: key, operation: operation, currency: amount.GetCurrencyCode(), minor: amount.GetMinorUnits(), payment: payment}
	if amount != nil && q.minor <= 0 {
		return nil, fault.Field("amount", "must be more than nothing")
	}
	return a.do(ctx, q, a.behaviour("", q.minor), fingerprint(operation, q.currency, q.minor, payment))
}

// do carries an operation out as the behaviour has it.
func (a *adapter) do(ctx context.Context, q asked, m behaviour, print string) (*providerv1.Outcome, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	if m.silentBefore {
		return nil, silence()
	}
	if err := sleep(ctx, max(a.latency, m.slow)); err != nil {
		return nil, err
	}
	q.fingerprint = print
	q.pending, q.disputed, q.off, q.tell = m.pending, m.disputed, m.off, m.tell
	if q.code == "" {
		q.code = m.code
	}
	v, err := c.do(q)
	switch {
	case errors.Is(err, errKeyReused):
		return nil, fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "this key was used for another operation")
	case err != nil:
		return nil, fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company cannot write its books").WithCause(err))
	}
	if v.Status == pending {
		a.settle(v.Key)
	}
	if m.silentAfter || a.cfg.TimeoutEvery > 0 && a.operations.Add(1)%a.cfg.TimeoutEvery == 0 {
		return nil, silence()
	}
	return outcome(v), nil
}

// silence is a company that does not answer.
func silence() error {
	return fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company did not answer"))
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Lookup implements the contract.
func (a *adapter) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.lookup(req.GetKey())
	if errors.Is(err, errUnknown) {
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "the company never saw this key")
	}
	if err != nil {
		return nil, silence()
	}
	return &providerv1.LookupResponse{Outcome: outcome(v)}, nil
}

// Report implements the contract.
func (a *adapter) Report(ctx context.Context, req *providerv1.ReportRequest, stream providerv1connect.PaymentProviderServiceReportServerStream) error {
	c, err := a.open(ctx)
	if err != nil {
		return err
	}
	var since time.Time
	if req.GetSince() != nil {
		since = req.GetSince().AsTime()
	}
	page := &providerv1.ReportResponse{}
	for _, v := range c.report(since) {
		if page.Outcomes = append(page.Outcomes, outcome(v)); len(page.GetOutcomes()) == 500 {
			if err := stream.Send(page); err != nil {
				return err
			}
			page = &providerv1.ReportResponse{}
		}
	}
	for _, v := range c.disputesSince(since) {
		if page.Disputes = append(page.Disputes, disputeOf(v)); len(page.GetDisputes()) == 500 {
			if err := stream.Send(page); err != nil {
				return err
			}
			page = &providerv1.ReportResponse{}
		}
	}
	if len(page.GetOutcomes()) == 0 && len(page.GetDisputes()) == 0 {
		return nil
	}
	return stream.Send(page)
}

// webhook takes what the company sent to the public port: the signature is
// checked before anything is read.
func (a *adapter) webhook(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
	if a.wh == nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusNotFound}, nil
	}
	header := make(http.Header, len(req.GetHeaders()))
	for k, v := range req.GetHeaders() {
		header.Set(k, v)
	}
	if err := a.wh.Verify(req.GetBody(), header); err != nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusUnauthorized}, nil //nolint:nilerr // the sender is answered, the kernel is not at fault
	}
	var v record
	if err := json.Unmarshal(req.GetBody(), &v); err != nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusBadRequest}, nil //nolint:nilerr // likewise
	}
	var event proto.Message = &providerv1.TransactionUpdated{Key: v.Key, Instance: a.in.Name, Outcome: outcome(v)}
	if v.Operation == dispute {
		event = &providerv1.DisputeUpdated{Reference: v.Reference, Instance: a.in.Name, Dispute: disputeOf(v)}
	}
	if err := a.in.Host.Publish(ctx, a.in.Name, event, header.Get(standardwebhooks.HeaderWebhookID)); err != nil {
		return nil, err
	}
	return &pluginv1.HandleWebhookResponse{}, nil
}

var (
	operations = map[string]providerv1.Operation{
		authorize: providerv1.Operation_OPERATION_AUTHORIZE, capture: providerv1.Operation_OPERATION_CAPTURE,
		void: providerv1.Operation_OPERATION_VOID, refund: providerv1.Operation_OPERATION_REFUND,
		payout: providerv1.Operation_OPERATION_PAYOUT,
	}
	statuses = map[string]providerv1.Outcome_Status{
		succeeded: providerv1.Outcome_STATUS_SUCCEEDED, declined: providerv1.Outcome_STATUS_DECLINED, pending: providerv1.Outcome_STATUS_PENDING,
	}
)

// outcome is a record as the contract has it.
func outcome(v record) *providerv1.Outcome {
	return &providerv1.Outcome{
		Key: v.Key, Operation: operations[v.Operation], Status: statuses[v.Status],
		Amount: &typev1.Money{CurrencyCode: v.Currency, MinorUnits: v.Minor}, Reference: v.Reference, PaymentReference: v.Payment,
		Code: v.Code, Message: strings.ReplaceAll(v.Code, "_", " "), At: timestamppb.New(v.At),
	}
}

func fingerprint(operation, currency string, minor int64, rest string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", operation, currency, minor, rest))
	return hex.EncodeToString(h[:])
}

var _ providerv1connect.PaymentProviderServiceHandler = (*adapter)(nil)

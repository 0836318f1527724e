package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// fate is how the next operation at a bank ends.
type fate int

const (
	fine          fate = iota
	declines           // final no
	refuses            // final no, as an error
	actsThenFails      // the money moves, the answer is lost
	failsBefore        // nothing happens, the answer is lost
	pends              // told later
	otherAmount        // processes one unit less
	otherCurrency
	babbles // answers for another key
)

// bank is a payment company with an instance for each market. It keeps keys
// for ever and enforces what a bank does.
type bank struct {
	providerv1connect.UnimplementedPaymentProviderServiceHandler

	mu     sync.Mutex
	bound  map[string]string // market -> instance
	down   map[string]bool
	fates  []fate
	books  map[string]*account // by payment reference
	ops    map[string]*providerv1.Outcome
	by     map[string]string // key -> instance
	order  []string
	calls  map[string]int // by key, those that would move money
	lookup int

	disputes map[string]*providerv1.Dispute
	heard    map[string]*providerv1.SubmitEvidenceRequest // by key
	clock    time.Time
}

// account is what one payment has at the bank.
type account struct{ authorized, captured, voided, refunded, disputed int64 }

func newBank() *bank {
	return &bank{
		bound: map[string]string{"GB": "bank-gb", "DE": "bank-de", "JP": "bank-jp"}, down: map[string]bool{},
		books: map[string]*account{}, ops: map[string]*providerv1.Outcome{}, by: map[string]string{}, calls: map[string]int{},
		disputes: map[string]*providerv1.Dispute{}, heard: map[string]*providerv1.SubmitEvidenceRequest{}, clock: time.Now().Add(-time.Hour),
	}
}

// will sets the fates of the operations that come next.
func (b *bank) will(f ...fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fates = append(b.fates, f...)
}

// route does what the kernel does: it resolves the instance and names it.
func (b *bank) route(ctx context.Context) (string, error) {
	info := call.From(ctx)
	instance := info.Instance
	if instance == "" {
		instance = b.bound[info.Market]
	}
	if ci, ok := connect.CallInfoForServerContext(ctx); ok && instance != "" {
		ci.ResponseHeader().Set(call.HeaderInstance, instance)
	}
	switch {
	case instance == "":
		return "", fault.New(connect.CodeFailedPrecondition, "NO_ROUTE", "nothing is bound")
	case b.down[instance]:
		return "", fault.New(connect.CodeUnavailable, "PLUGIN_UNAVAILABLE", "down")
	case instance == "gone":
		return "", fault.New(connect.CodeNotFound, "INSTANCE_UNKNOWN", "no instance of that name")
	}
	return instance, nil
}

// do is one operation: known keys get their answer, others their fate.
func (b *bank) do(ctx context.Context, op providerv1.Operation, key, reference string, asked *typev1.Money) (*providerv1.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	instance, err := b.route(ctx)
	if err != nil {
		return nil, err
	}
	if o := b.ops[key]; o != nil {
		return o, nil
	}
	b.calls[key]++
	next := fine
	if len(b.fates) > 0 {
		next, b.fates = b.fates[0], b.fates[1:]
	}
	o := &providerv1.Outcome{Key: key, Operation: op, Status: providerv1.Outcome_STATUS_SUCCEEDED, PaymentReference: reference, Reference: "op-" + key}
	if asked != nil {
		o.Amount = &typev1.Money{CurrencyCode: asked.GetCurrencyCode(), MinorUnits: asked.GetMinorUnits()}
	}
	switch next {
	case declines:
		o.Status, o.Code = providerv1.Outcome_STATUS_DECLINED, "insufficient_funds"
		return b.keep(instance, o), nil
	case refuses:
		return nil, fault.New(connect.CodeFailedPrecondition, "CARD_EXPIRED", "the card has expired")
	case failsBefore:
		return nil, fault.New(connect.CodeUnavailable, "LINE_DOWN", "no answer")
	case otherAmount:
		o.Amount.MinorUnits--
	case otherCurrency:
		o.Amount.CurrencyCode = "USD"
	case babbles:
		o.Key = "another"
		return o, nil
	}
	if op == providerv1.Operation_OPERATION_PAYOUT {
		o.PaymentReference = ""
	} else if err := b.book(op, o); err != nil {
		o.Status, o.Code = providerv1.Outcome_STATUS_DECLINED, err.Error()
	}
	if next == pends {
		p := &providerv1.Outcome{Key: key, Operation: op, Status: providerv1.Outcome_STATUS_PENDING, PaymentReference: o.GetPaymentReference()}
		return b.keep(instance, p), nil
	}
	b.keep(instance, o)
	if next == actsThenFails {
		return nil, fault.New(connect.CodeDeadlineExceeded, "SLOW", "no answer in time")
	}
	return o, nil
}

func (b *bank) keep(instance string, o *providerv1.Outcome) *providerv1.Outcome {
	b.ops[o.GetKey()], b.by[o.GetKey()] = o, instance
	b.order = append(b.order, o.GetKey())
	return o
}

// book moves money as a bank would, or says why not.
func (b *bank) book(op providerv1.Operation, o *providerv1.Outcome) error {
	if op == providerv1.Operation_OPERATION_AUTHORIZE {
		o.PaymentReference = "ch-" + o.GetKey()
		b.books[o.GetPaymentReference()] = &account{authorized: o.GetAmount().GetMinorUnits()}
		return nil
	}
	acc := b.books[o.GetPaymentReference()]
	if acc == nil {
		return fmt.Errorf("unknown_payment")
	}
	n := o.GetAmount().GetMinorUnits()
	switch op {
	case providerv1.Operation_OPERATION_CAPTURE:
		if acc.captured+acc.voided+n > acc.authorized {
			return fmt.Errorf("too_much")
		}
		acc.captured += n
	case providerv1.Operation_OPERATION_VOID:
		rest := acc.authorized - acc.captured - acc.voided
		acc.voided += rest
		o.Amount = &typev1.Money{CurrencyCode: b.currency(o.GetPaymentReference()), MinorUnits: rest}
	case providerv1.Operation_OPERATION_REFUND:
		if acc.refunded+acc.disputed+n > acc.captured {
			return fmt.Errorf("too_much")
		}
		acc.refunded += n
	}
	return nil
}

func (b *bank) currency(reference string) string {
	for _, o := range b.ops {
		if o.GetPaymentReference() == reference && o.GetOperation() == providerv1.Operation_OPERATION_AUTHORIZE {
			return o.GetAmount().GetCurrencyCode()
		}
	}
	return ""
}

func (b *bank) Authorize(ctx context.Context, req *providerv1.AuthorizeRequest) (*providerv1.AuthorizeResponse, error) {
	o, err := b.do(ctx, providerv1.Operation_OPERATION_AUTHORIZE, req.GetKey(), "", req.GetAmount())
	return &providerv1.AuthorizeResponse{Outcome: o}, err
}

func (b *bank) Capture(ctx context.Context, req *providerv1.CaptureRequest) (*providerv1.CaptureResponse, error) {
	o, err := b.do(ctx, providerv1.Operation_OPERATION_CAPTURE, req.GetKey(), req.GetPaymentReference(), req.GetAmount())
	return &providerv1.CaptureResponse{Outcome: o}, err
}

func (b *bank) Void(ctx context.Context, req *providerv1.VoidRequest) (*providerv1.VoidResponse, error) {
	o, err := b.do(ctx, providerv1.Operation_OPERATION_VOID, req.GetKey(), req.GetPaymentReference(), nil)
	return &providerv1.VoidResponse{Outcome: o}, err
}

func (b *bank) Refund(ctx context.Context, req *providerv1.RefundRequest) (*providerv1.RefundResponse, error) {
	o, err := b.do(ctx, providerv1.Operation_OPERATION_REFUND, req.GetKey(), req.GetPaymentReference(), req.GetAmount())
	return &providerv1.RefundResponse{Outcome: o}, err
}

func (b *bank) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lookup++
	if _, err := b.route(ctx); err != nil {
		return nil, err
	}
	o := b.ops[req.GetKey()]
	if o == nil {
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "never seen")
	}
	return &providerv1.LookupResponse{Outcome: o}, nil
}

func (b *bank) Report(ctx context.Context, _ *providerv1.ReportRequest, stream providerv1connect.PaymentProviderServiceReportServerStream) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	instance, err := b.route(ctx)
	if err != nil {
		return err
	}
	for _, key := range b.order {
		if b.by[key] == instance {
			if err := stream.Send(&providerv1.ReportResponse{Outcomes: []*providerv1.Outcome{b.ops[key]}}); err != nil {
				return err
			}
		}
	}
	page := &providerv1.ReportResponse{}
	for _, reference := range slices.Sorted(maps.Keys(b.disputes)) {
		page.Disputes = append(page.Disputes, b.disputes[reference])
	}
	return stream.Send(page)
}

// total sums the bank's books.
func (b *bank) total() account {
	b.mu.Lock()
	defer b.mu.Unlock()
	var t account
	for _, a := range b.books {
		t.authorized, t.captured, t.voided, t.refunded = t.authorized+a.authorized, t.captured+a.captured, t.voided+a.voided, t.refunded+a.refunded
	}
	return t
}

// end makes a pending operation succeed and returns what the webhook says.
func (b *bank) end(key string, amount *typev1.Money) *providerv1.TransactionUpdated {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.ops[key]
	o.Status, o.Amount = providerv1.Outcome_STATUS_SUCCEEDED, amount
	return &providerv1.TransactionUpdated{Key: key, Instance: b.by[key], Outcome: o}
}

func (b *bank) Payout(ctx context.Context, req *providerv1.PayoutRequest) (*providerv1.PayoutResponse, error) {
	o, err := b.do(ctx, providerv1.Operation_OPERATION_PAYOUT, req.GetKey(), "", req.GetAmount())
	return &providerv1.PayoutResponse{Outcome: o}, err
}

// opens takes captured money back, as a consumer's bank does, and returns what
// the webhook says.
func (b *bank) opens(payment string, amount, fee *typev1.Money) *providerv1.DisputeUpdated {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	d := &providerv1.Dispute{
		Reference: fmt.Sprintf("dp-%d", len(b.disputes)+1), PaymentReference: payment, Status: providerv1.Dispute_STATUS_NEEDS_RESPONSE, Amount: amount, Fee: fee,
		Reason: providerv1.DisputeReason_DISPUTE_REASON_NOT_RECEIVED, Code: "13.1", OpenedAt: timestamppb.New(b.clock), UpdatedAt: timestamppb.New(b.clock),
		EvidenceDueAt: timestamppb.New(time.Now().Add(7 * 24 * time.Hour)),
	}
	b.disputes[d.GetReference()] = d
	if acc := b.books[payment]; acc != nil {
		acc.disputed += amount.GetMinorUnits()
	}
	return b.tells(d)
}

func (b *bank) tick() { b.clock = b.clock.Add(time.Second) }

func (b *bank) tells(d *providerv1.Dispute) *providerv1.DisputeUpdated {
	return &providerv1.DisputeUpdated{Reference: d.GetReference(), Instance: "bank-gb", Dispute: proto.CloneOf(d)}
}

// decides moves a dispute on and returns what the webhook says.
func (b *bank) decides(reference string, status providerv1.Dispute_Status) *providerv1.DisputeUpdated {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	d := b.disputes[reference]
	d.Status, d.UpdatedAt = status, timestamppb.New(b.clock)
	if acc := b.books[d.GetPaymentReference()]; acc != nil && status == providerv1.Dispute_STATUS_WON {
		acc.disputed -= d.GetAmount().GetMinorUnits()
	}
	return b.tells(d)
}

// respond is what a company does with a response to a dispute.
func (b *bank) respond(ctx context.Context, key, reference string, act func(d *providerv1.Dispute) error) (*providerv1.Dispute, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.route(ctx); err != nil {
		return nil, err
	}
	d := b.disputes[reference]
	if d == nil {
		return nil, fault.New(connect.CodeNotFound, "DISPUTE_UNKNOWN", "none of that number")
	}
	next := fine
	if key != "" && len(b.fates) > 0 {
		next, b.fates = b.fates[0], b.fates[1:]
	}
	switch next {
	case refuses:
		return nil, fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "too late")
	case failsBefore:
		return nil, fault.New(connect.CodeUnavailable, "LINE_DOWN", "no answer")
	}
	if key != "" && b.calls[key] == 0 {
		b.calls[key]++
		if err := act(d); err != nil {
			return nil, err
		}
		b.tick()
		d.UpdatedAt = timestamppb.New(b.clock)
	}
	if next == actsThenFails {
		return nil, fault.New(connect.CodeDeadlineExceeded, "SLOW", "no answer in time")
	}
	return proto.CloneOf(d), nil
}

func (b *bank) SubmitEvidence(ctx context.Context, req *providerv1.SubmitEvidenceRequest) (*providerv1.SubmitEvidenceResponse, error) {
	d, err := b.respond(ctx, req.GetKey(), req.GetDisputeReference(), func(d *providerv1.Dispute) error {
		b.heard[req.GetKey()] = req
		if req.GetSubmit() {
			d.Status = providerv1.Dispute_STATUS_UNDER_REVIEW
		}
		return nil
	})
	return &providerv1.SubmitEvidenceResponse{Dispute: d}, err
}

func (b *bank) AcceptDispute(ctx context.Context, req *providerv1.AcceptDisputeRequest) (*providerv1.AcceptDisputeResponse, error) {
	d, err := b.respond(ctx, req.GetKey(), req.GetDisputeReference(), func(d *providerv1.Dispute) error {
		if d.GetStatus() == providerv1.Dispute_STATUS_NEEDS_RESPONSE {
			d.Status = providerv1.Dispute_STATUS_LOST
		}
		return nil
	})
	return &providerv1.AcceptDisputeResponse{Dispute: d}, err
}

func (b *bank) GetDispute(ctx context.Context, req *providerv1.GetDisputeRequest) (*providerv1.GetDisputeResponse, error) {
	d, err := b.respond(ctx, "", req.GetDisputeReference(), nil)
	return &providerv1.GetDisputeResponse{Dispute: d}, err
}

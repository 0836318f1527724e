package paymenttest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// company is an adapter as the contract wants it, but for one fault.
type company struct {
	providerv1connect.UnimplementedPaymentProviderServiceHandler
	fault string

	mu       sync.Mutex
	done     map[string]*providerv1.Outcome
	asked    map[string]string
	order    []string
	books    map[string]*[4]int64 // held, taken, given up, returned
	disputes map[string]*providerv1.Dispute
	sent     map[string]bool
}

func (c *company) do(op providerv1.Operation, key, of string, amount *typev1.Money) (*providerv1.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := fmt.Sprint(op, of, amount.GetMinorUnits())
	if was := c.done[key]; was != nil && c.fault != "forgets keys" {
		if c.asked[key] != asked && c.fault != "takes a key for anything" {
			return nil, fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "used")
		}
		return was, nil
	}
	o := &providerv1.Outcome{
		Key: key, Operation: op, Status: succeeded, Amount: &typev1.Money{CurrencyCode: "GBP", MinorUnits: amount.GetMinorUnits()},
		Reference: fmt.Sprint("op_", len(c.order)), PaymentReference: of, At: timestamppb.Now(),
	}
	no := func(fits bool) {
		if !fits {
			o.Status, o.Code = declined, "no"
		}
	}
	b := c.books[of]
	if b == nil {
		b = &[4]int64{}
	}
	n := amount.GetMinorUnits()
	switch op {
	case authorize:
		no(of != "bad" || c.fault == "takes bad cards")
		o.PaymentReference = fmt.Sprint("pay_", len(c.order))
		if c.books[o.GetPaymentReference()] = b; o.GetStatus() == succeeded {
			b[0] = n
		}
	case capture:
		if no(b[1]+b[2]+n <= b[0] || c.fault == "takes too much"); o.GetStatus() == succeeded {
			b[1] += n
		}
	case void:
		o.Amount.MinorUnits = b[0] - b[1] - b[2]
		if c.fault == "voids without an amount" {
			o.Amount.MinorUnits = 0
		}
		if no(b[0]-b[1]-b[2] > 0 || c.fault == "voids twice"); o.GetStatus() == succeeded {
			b[2] = b[0] - b[1]
		}
	case refund:
		if no(b[3]+n <= b[1] || c.fault == "returns too much"); o.GetStatus() == succeeded {
			b[3] += n
		}
	}
	if c.done[key] == nil {
		c.order = append(c.order, key)
	}
	c.done[key], c.asked[key] = o, asked
	return o, nil
}

func (c *company) Authorize(_ context.Context, r *providerv1.AuthorizeRequest) (*providerv1.AuthorizeResponse, error) {
	o, err := c.do(authorize, r.GetKey(), r.GetMethodToken(), r.GetAmount())
	return &providerv1.AuthorizeResponse{Outcome: o}, err
}

func (c *company) Capture(_ context.Context, r *providerv1.CaptureRequest) (*providerv1.CaptureResponse, error) {
	o, err := c.do(capture, r.GetKey(), r.GetPaymentReference(), r.GetAmount())
	return &providerv1.CaptureResponse{Outcome: o}, err
}

func (c *company) Void(_ context.Context, r *providerv1.VoidRequest) (*providerv1.VoidResponse, error) {
	o, err := c.do(void, r.GetKey(), r.GetPaymentReference(), nil)
	return &providerv1.VoidResponse{Outcome: o}, err
}

func (c *company) Refund(_ context.Context, r *providerv1.RefundRequest) (*providerv1.RefundResponse, error) {
	o, err := c.do(refund, r.GetKey(), r.GetPaymentReference(), r.GetAmount())
	return &providerv1.RefundResponse{Outcome: o}, err
}

func (c *company) Payout(_ context.Context, r *providerv1.PayoutRequest) (*providerv1.PayoutResponse, error) {
	o, err := c.do(payout, r.GetKey(), r.GetMerchantId(), r.GetAmount())
	return &providerv1.PayoutResponse{Outcome: o}, err
}

func (c *company) Lookup(_ context.Context, r *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.done[r.GetKey()]
	if o == nil {
		if c.fault == "knows every key" {
			return &providerv1.LookupResponse{Outcome: &providerv1.Outcome{Key: r.GetKey(), Status: declined}}, nil
		}
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "never")
	}
	if c.fault == "looks up something else" {
		o = proto.CloneOf(o)
		o.Amount.MinorUnits++
	}
	return &providerv1.LookupResponse{Outcome: o}, nil
}

func (c *company) Report(_ context.Context, r *providerv1.ReportRequest, s providerv1connect.PaymentProviderServiceReportServerStream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	page := &providerv1.ReportResponse{}
	for _, key := range c.order {
		o := c.done[key]
		if o.GetAt().AsTime().Before(r.GetSince().AsTime()) && r.GetSince() != nil && c.fault != "reports the past" ||
			o.GetOperation() == void && c.fault == "reports no voids" {
			continue
		}
		page.Outcomes = append(page.Outcomes, o)
	}
	if c.fault == "reports twice" {
		page.Outcomes = append(page.Outcomes, page.GetOutcomes()...)
	}
	return s.Send(page)
}

func (c *company) open(context.Context) (string, string, *typev1.Money, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, payment, amount := fmt.Sprint("dsp_", len(c.disputes)), "pay_1", &typev1.Money{CurrencyCode: "GBP", MinorUnits: 600}
	c.disputes[id] = &providerv1.Dispute{
		Reference: id, PaymentReference: payment, Amount: amount, Status: providerv1.Dispute_STATUS_NEEDS_RESPONSE,
		OpenedAt: timestamppb.New(time.Now()), UpdatedAt: timestamppb.Now(),
	}
	return payment, id, amount, nil
}

func (c *company) dispute(id string) (*providerv1.Dispute, error) {
	if d := c.disputes[id]; d != nil {
		return d, nil
	}
	return nil, fault.New(connect.CodeNotFound, "DISPUTE_UNKNOWN", "none")
}

func (c *company) GetDispute(_ context.Context, r *providerv1.GetDisputeRequest) (*providerv1.GetDisputeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dispute(r.GetDisputeReference())
	return &providerv1.GetDisputeResponse{Dispute: d}, err
}

func (c *company) SubmitEvidence(_ context.Context, r *providerv1.SubmitEvidenceRequest) (*providerv1.SubmitEvidenceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dispute(r.GetDisputeReference())
	if err == nil && d.GetStatus() != providerv1.Dispute_STATUS_NEEDS_RESPONSE && !c.sent[r.GetKey()] && c.fault != "takes evidence for ever" {
		err = fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "sent")
	}
	if err == nil && (r.GetSubmit() || c.fault == "sends evidence at once") {
		d.Status, c.sent[r.GetKey()] = providerv1.Dispute_STATUS_UNDER_REVIEW, true
	}
	return &providerv1.SubmitEvidenceResponse{Dispute: d}, err
}

func (c *company) AcceptDispute(_ context.Context, r *providerv1.AcceptDisputeRequest) (*providerv1.AcceptDisputeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dispute(r.GetDisputeReference())
	if err == nil {
		if d.GetStatus() == providerv1.Dispute_STATUS_LOST && c.fault == "accepts once" {
			return nil, fault.New(connect.CodeFailedPrecondition, "CLOSED", "closed")
		}
		d.Status = providerv1.Dispute_STATUS_LOST
	}
	return &providerv1.AcceptDisputeResponse{Dispute: d}, err
}

func (c *company) start() Company {
	c.done, c.asked, c.books = map[string]*providerv1.Outcome{}, map[string]string{}, map[string]*[4]int64{}
	c.disputes, c.sent = map[string]*providerv1.Dispute{}, map[string]bool{}
	srv := connect.NewServer()
	providerv1connect.RegisterPaymentProviderServiceHandler(srv, c)
	return Company{
		Client:       providerv1connect.NewPaymentProviderServiceClient(connect.NewClient(connectinprocess.New(srv))),
		Capabilities: known, Currency: "GBP", Good: "good", Bad: "bad", Merchant: "mer_1", Disputed: c.open,
	}
}

func TestACompanyAsItShouldBePasses(t *testing.T) {
	t.Parallel()
	Run(t, (&company{}).start())
}

// Each fault is seen by at least one demand.
func TestEveryFaultIsSeen(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{
		"forgets keys", "takes a key for anything", "takes bad cards", "takes too much", "voids without an amount", "voids twice", "returns too much",
		"knows every key", "looks up something else", "reports the past", "reports no voids", "reports twice", "takes evidence for ever", "sends evidence at once", "accepts once",
	} {
		k := &kit{Company: (&company{fault: fault}).start()}
		seen := 0
		for _, one := range append(payments, disputes...) {
			if one.holds(t.Context(), k) != nil {
				seen++
			}
		}
		require.Positive(t, seen, fault)
	}
	for _, wrong := range [][]string{nil, {"authorize", "capture", "void", "refund"}, append(minimum, "teleport"), append(minimum, "void")} {
		require.Error(t, declares(t.Context(), &kit{Company: Company{Capabilities: wrong}}))
	}
}

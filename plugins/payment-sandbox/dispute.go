package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// How a dispute stands.
const (
	needsResponse = "needs_response"
	underReview   = "under_review"
	won           = "won"
	lost          = "lost"
)

// respondWithin is how long evidence is heard.
const respondWithin = 7 * 24 * time.Hour

var errNotOpen = errors.New("the dispute no longer waits for a response")

// bookDispute enters how a dispute stands into the books in memory.
func (c *company) bookDispute(e *entry) {
	before := c.disputes[e.Reference]
	if before == nil {
		c.disputed = append(c.disputed, e.Reference)
	}
	c.disputes[e.Reference] = e
	if e.Key != "" {
		c.responses[e.Key] = e
	}
	a := c.accounts[e.Payment]
	switch {
	case a == nil:
	case before == nil && e.Status != won:
		a.disputed += e.Minor
	case before != nil && before.Status != won && e.Status == won:
		a.disputed -= e.Minor
	}
}

// openDispute has the consumer's bank take back what was just captured, where
// the means of payment was one that does. It is called with the lock held.
func (c *company) openDispute(v record) {
	if v.Operation == capture && v.Status == succeeded && c.accounts[v.Payment].willDispute {
		c.charge(v.Payment, v.Currency, v.Minor)
	}
}

// charge has the consumer's bank take money back, with the lock held.
func (c *company) charge(payment, currency string, minor int64) *entry {
	now := time.Now().UTC()
	return c.enter(record{
		N: c.last + 1, At: now, Operation: dispute, Status: needsResponse, Currency: currency, Minor: minor, Payment: payment,
		Reference: fmt.Sprintf("dp_%08d", c.last+1), Code: "product_not_received", Opened: now, Fee: c.disputeFee, Tell: 1,
	})
}

// respond moves a dispute on; a response that was given before is answered as
// the dispute then stands.
func (c *company) respond(key, reference string, next func(status string) (string, error)) (record, error) {
	c.mu.Lock()
	e := c.disputes[reference]
	if e == nil {
		c.mu.Unlock()
		return record{}, errUnknown
	}
	if given := c.responses[key]; given != nil {
		c.mu.Unlock()
		if given.Reference != reference {
			return record{}, errKeyReused
		}
		return e.record, e.wait()
	}
	v := e.record
	status, err := next(v.Status)
	if err != nil {
		c.mu.Unlock()
		return record{}, err
	}
	v.N, v.At, v.Key, v.Tell = c.last+1, time.Now().UTC(), key, 0
	if status != v.Status {
		v.Status, v.Tell = status, 1
	}
	if status == won {
		v.Fee = 0
	}
	e = c.enter(v)
	c.mu.Unlock()
	return v, e.wait()
}

// disputesSince lists how disputes stand that changed at or after a time.
func (c *company) disputesSince(since time.Time) []record {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []record
	for _, reference := range c.disputed {
		if e := c.disputes[reference]; !e.At.Before(since) {
			out = append(out, e.record)
		}
	}
	return out
}

// SubmitEvidence implements the contract. Evidence that is sent decides, where
// it says so: winning_evidence and losing_evidence.
func (a *adapter) SubmitEvidence(ctx context.Context, req *providerv1.SubmitEvidenceRequest) (*providerv1.SubmitEvidenceResponse, error) {
	var text strings.Builder
	for _, e := range req.GetEvidence() {
		_, _ = text.WriteString(e.GetText() + "\n")
	}
	d, err := a.respond(ctx, req.GetKey(), req.GetDisputeReference(), func(status string) (string, error) {
		switch {
		case status != needsResponse:
			return "", errNotOpen
		case !req.GetSubmit():
			return status, nil
		case strings.Contains(text.String(), "winning_evidence"):
			return won, nil
		case strings.Contains(text.String(), "losing_evidence"):
			return lost, nil
		}
		return underReview, nil
	})
	return &providerv1.SubmitEvidenceResponse{Dispute: d}, err
}

// AcceptDispute implements the contract.
func (a *adapter) AcceptDispute(ctx context.Context, req *providerv1.AcceptDisputeRequest) (*providerv1.AcceptDisputeResponse, error) {
	d, err := a.respond(ctx, req.GetKey(), req.GetDisputeReference(), func(status string) (string, error) {
		if status == won {
			return won, nil
		}
		return lost, nil
	})
	return &providerv1.AcceptDisputeResponse{Dispute: d}, err
}

func (a *adapter) respond(ctx context.Context, key, reference string, next func(status string) (string, error)) (*providerv1.Dispute, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.respond(key, reference, next)
	switch {
	case errors.Is(err, errUnknown):
		return nil, unknownDispute()
	case errors.Is(err, errNotOpen):
		return nil, fault.New(connect.CodeFailedPrecondition, "DISPUTE_NOT_OPEN", "the bank no longer waits for a response")
	case errors.Is(err, errKeyReused):
		return nil, fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "this key was used for another dispute")
	case err != nil:
		return nil, silence()
	}
	return disputeOf(v), nil
}

// GetDispute implements the contract.
func (a *adapter) GetDispute(ctx context.Context, req *providerv1.GetDisputeRequest) (*providerv1.GetDisputeResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	e := c.disputes[req.GetDisputeReference()]
	c.mu.Unlock()
	if e == nil {
		return nil, unknownDispute()
	}
	return &providerv1.GetDisputeResponse{Dispute: disputeOf(e.record)}, nil
}

func unknownDispute() error {
	return fault.New(connect.CodeNotFound, "DISPUTE_UNKNOWN", "the company has no dispute of this number")
}

var disputeStatuses = map[string]providerv1.Dispute_Status{
	needsResponse: providerv1.Dispute_STATUS_NEEDS_RESPONSE, underReview: providerv1.Dispute_STATUS_UNDER_REVIEW,
	won: providerv1.Dispute_STATUS_WON, lost: providerv1.Dispute_STATUS_LOST,
}

// disputeOf is a record as the contract has it.
func disputeOf(v record) *providerv1.Dispute {
	d := &providerv1.Dispute{
		Reference: v.Reference, PaymentReference: v.Payment, Status: disputeStatuses[v.Status],
		Amount: &typev1.Money{CurrencyCode: v.Currency, MinorUnits: v.Minor}, Reason: providerv1.DisputeReason_DISPUTE_REASON_NOT_RECEIVED, Code: v.Code,
		EvidenceDueAt: timestamppb.New(v.Opened.Add(respondWithin)), OpenedAt: timestamppb.New(v.Opened), UpdatedAt: timestamppb.New(v.At),
	}
	if v.Fee > 0 {
		d.Fee = &typev1.Money{CurrencyCode: v.Currency, MinorUnits: v.Fee}
	}
	return d
}

package main

import (
	"context"
	"errors"
	"io"
	"time"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// listed is how many differences an answer names.
const listed = 100

// ReconcilePayments compares what was asked of a provider with its own report,
// key by key. What was sent since the report began is left for the next one.
func (s *service) ReconcilePayments(ctx context.Context, req *paymentv1.ReconcilePaymentsRequest) (*paymentv1.ReconcilePaymentsResponse, error) {
	var began time.Time
	if err := s.db.Row(ctx, `SELECT now()`).Scan(&began); err != nil {
		return nil, store.Wrap(err)
	}
	c := newComparison(s.db, req.GetInstance(), began)
	stream, err := s.providers.client.Report(host.ToInstance(ctx, req.GetInstance()), &providerv1.ReportRequest{})
	if err != nil {
		return nil, host.Relay(err)
	}
	for {
		page, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, host.Relay(err)
		}
		if err := c.operations(ctx, page.GetOutcomes()); err != nil {
			return nil, err
		}
	}
	if err := c.missing(ctx); err != nil {
		return nil, err
	}
	return &paymentv1.ReconcilePaymentsResponse{Compared: c.compared, Total: c.total, Differences: c.differences[:min(len(c.differences), listed)]}, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1/providerv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// service serves entrepot.payment.v1. Safe for concurrent use.
type service struct {
	db        *store.DB
	providers *providers
	log       *slog.Logger
	// holding is the time from delivery until a share may be released.
	holding time.Duration
	// merchantsBearFees of disputes that are lost; else the marketplace does.
	merchantsBearFees bool
	// reconcileAt is when the day's reconciliations are made, after midnight
	// UTC; below zero: never.
	reconcileAt time.Duration
	janitor     *janitor
}

func register(in *plugin.Instance) (*service, error) {
	s := &service{
		db: in.DB, log: in.Log,
		providers: &providers{client: providerv1connect.NewPaymentProviderServiceClient(in.Host.Client()), byMarket: make(map[string]pin)},
	}
	if err := s.configure(in); err != nil {
		return nil, err
	}
	paymentv1connect.RegisterPaymentServiceHandler(in.Server, s)
	paymentv1connect.RegisterSettlementServiceHandler(in.Server, s)
	paymentv1connect.RegisterTaxServiceHandler(in.Server, s)
	paymentv1connect.RegisterDisputeServiceHandler(in.Server, s)
	paymentv1connect.RegisterReconciliationServiceHandler(in.Server, s)
	if err := errors.Join(
		in.Subscribe("schedules", event.OnBatch(s.onTick)),
		in.Subscribe("providers", event.OnBatch(s.onTransactionUpdated)),
		in.Subscribe("disputes", event.OnBatch(s.onDisputeUpdated)),
		in.Subscribe("deliveries", event.On(opened), event.On(split), event.On(s.delivered), event.On(s.cancelled)),
		in.Subscribe("cases", event.On(caseOpened), event.On(caseSettled)),
		in.Subscribe("inspections", event.On(saleDoubted), event.On(saleCleared)),
		in.Subscribe("timers", event.On(releaseDue))); err != nil {
		return nil, err
	}
	s.work(in)
	return s, nil
}

// configure takes the instance's configuration.
func (s *service) configure(in *plugin.Instance) error {
	var config struct {
		Holding    string `json:"holding_period"`
		DisputeFee string `json:"dispute_fee"`
		Reconcile  string `json:"reconcile_at"`
	}
	if err := in.Config(&config); err != nil {
		return err
	}
	switch config.DisputeFee {
	case "", "merchant", "marketplace":
		s.merchantsBearFees = config.DisputeFee != "marketplace"
	default:
		return fmt.Errorf("dispute_fee %q: write merchant or marketplace, who bears it", config.DisputeFee)
	}
	switch at, err := time.Parse("15:04", config.Reconcile); {
	case config.Reconcile == "":
		s.reconcileAt = 3 * time.Hour
	case config.Reconcile == "never":
		s.reconcileAt = -1
	case err != nil:
		return fmt.Errorf("reconcile_at %q: write an hour of the day, UTC, like 03:00, or never", config.Reconcile)
	default:
		s.reconcileAt = time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
	}
	s.holding = 14 * 24 * time.Hour
	if config.Holding == "" {
		return nil
	}
	d, err := time.ParseDuration(config.Holding)
	if err != nil || d < 0 {
		return fmt.Errorf("holding_period %q is no duration", config.Holding)
	}
	s.holding = d
	return nil
}

var (
	_ paymentv1connect.PaymentServiceHandler        = (*service)(nil)
	_ paymentv1connect.SettlementServiceHandler     = (*service)(nil)
	_ paymentv1connect.TaxServiceHandler            = (*service)(nil)
	_ paymentv1connect.DisputeServiceHandler        = (*service)(nil)
	_ paymentv1connect.ReconciliationServiceHandler = (*service)(nil)
)

// GetPayment tells a payment with every call that was made for it.
func (s *service) GetPayment(ctx context.Context, req *paymentv1.GetPaymentRequest) (*paymentv1.GetPaymentResponse, error) {
	p, err := load(ctx, s.db, req.GetPaymentId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if p == nil || p.tombstone() {
		return nil, unknownPayment()
	}
	all, err := loadAttempts(ctx, s.db, p.id)
	if err != nil {
		return nil, store.Wrap(err)
	}
	res := &paymentv1.GetPaymentResponse{Payment: p.proto()}
	for _, a := range all {
		res.Attempts = append(res.Attempts, a.proto())
	}
	return res, nil
}

// refuse answers a refusal and, in a saga, records it as the step's end.
func refuse[Res proto.Message](ctx context.Context, s *service, req proto.Message, refusal error) (Res, error) {
	return store.Mutate(ctx, s.db, req, func(context.Context, *store.Tx) (Res, error) {
		var none Res
		return none, refusal
	})
}

// outcomeUnknown is the answer while it is not known what happened: the caller
// repeats, and the provider is asked by key.
func outcomeUnknown(cause error, wait time.Duration) error {
	err := fault.New(connect.CodeUnavailable, fault.ReasonOutcomeUnknown, "the payment provider has not told the outcome; try again")
	return fault.Retry(fault.Downstream(err), wait).WithCause(cause)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// contract is what carries messages out.
const contract = "entrepot.notification.provider.v1"

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Marketplace       string `json:"marketplace"`
	KeepDays          int    `json:"keep_days"`
	EndpointPatience  string `json:"endpoint_patience"`
	LoopbackEndpoints bool   `json:"loopback_endpoints"`
}

// patience is how long an endpoint may take nothing.
func (c settings) patience() (time.Duration, error) {
	if c.EndpointPatience == "" {
		return 120 * time.Hour, nil
	}
	d, err := time.ParseDuration(c.EndpointPatience)
	if err != nil || d < time.Minute || d > 60*24*time.Hour {
		return 0, fmt.Errorf("%q; write between \"1m\" and \"1440h\"", c.EndpointPatience)
	}
	return d, nil
}

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var c settings
	_ = json.Unmarshal(config, &c) // the types of the fields were looked at
	wrong := func(field, message string) {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: message})
	}
	if c.KeepDays != 0 && (c.KeepDays < 30 || c.KeepDays > 3650) {
		wrong("keep_days", fmt.Sprintf("%d; write between 30 and 3650", c.KeepDays))
	}
	if len(c.Marketplace) > 100 {
		wrong("marketplace", "is longer than 100 bytes")
	}
	if _, err := c.patience(); err != nil {
		wrong("endpoint_patience", err.Error())
	}
	return found
}

// service serves entrepot.notification.v1. Safe for concurrent use.
type service struct {
	in        *plugin.Instance
	db        *store.DB
	host      *host.Host
	providers providerv1connect.NotificationProviderServiceClient
	cfg       settings
	patience  time.Duration

	// horizon is before what nothing is told; nil until it is read.
	horizon atomic.Pointer[time.Time]
	// choices are the instances of each market, for a moment.
	choices choices
	inboxes *board
	// tries bounds what is being sent at once, by channel.
	mails, webhooks chan struct{}

	stop   context.CancelFunc
	cut    context.CancelFunc
	work   sync.WaitGroup
	poked  chan struct{}
	inWork context.Context // of what is being sent
}

func register(_ context.Context, in *plugin.Instance) error {
	s, err := open(in)
	if err != nil {
		return err
	}
	s.start()
	return nil
}

// open makes the service; its work begins with start.
func open(in *plugin.Instance) (*service, error) {
	s := &service{
		in: in, db: in.DB, host: in.Host, providers: providerv1connect.NewNotificationProviderServiceClient(in.Host.Client()),
		inboxes: newBoard(), mails: make(chan struct{}, 8), webhooks: make(chan struct{}, 16), poked: make(chan struct{}, 1),
	}
	if err := in.Config(&s.cfg); err != nil {
		return nil, err
	}
	if s.cfg.Marketplace == "" {
		s.cfg.Marketplace = "Entrepot"
	}
	if s.cfg.KeepDays == 0 {
		s.cfg.KeepDays = 400
	}
	var err error
	if s.patience, err = s.cfg.patience(); err != nil {
		return nil, err
	}
	notificationv1connect.RegisterInboxServiceHandler(in.Server, s)
	notificationv1connect.RegisterNotificationStepServiceHandler(in.Server, s)
	notificationv1connect.RegisterDeliveryServiceHandler(in.Server, s)
	notificationv1connect.RegisterPreferenceServiceHandler(in.Server, s)
	notificationv1connect.RegisterWebhookServiceHandler(in.Server, s)
	notificationv1connect.RegisterTemplateServiceHandler(in.Server, s)
	if err := in.Subscribe("trade",
		event.OnBatch(s.onPlaced), told(s, onAccepted), event.OnBatch(s.onDelivered), event.OnBatch(s.onCancelled), told(s, onRefunded),
		event.OnBatch(s.onBooked), event.OnBatch(s.onMoved), told(s, onLow), told(s, onShort), told(s, onBack), told(s, onPaidOut), told(s, onNotPaidOut),
		told(s, onDisputed), told(s, onDisputeClosed),
		told(s, onDoubted), told(s, onCleared),
		event.OnBatch(s.onBackordered), told(s, onRescheduled), told(s, onPaymentRefused), told(s, onBackorderCancelled), told(s, onReturned), told(s, onReturnClosed),
		told(s, onConsignment), told(s, onVerdict), told(s, onDestroyed), told(s, onOverdue),
		told(s, onEditProposed), event.OnBatch(s.onEdited),
		told(s, onApplication), told(s, onOffer), told(s, onDecision), told(s, onEscalation), told(s, onAssessment),
		told(s, onSettlement), told(s, onMessage), told(s, onUnanswered), told(s, onRecommendations),
	); err != nil {
		return nil, err
	}
	return s, in.Subscribe("receipts", event.On(s.onReceipt))
}

var (
	_ notificationv1connect.InboxServiceHandler            = (*service)(nil)
	_ notificationv1connect.NotificationStepServiceHandler = (*service)(nil)
	_ notificationv1connect.DeliveryServiceHandler         = (*service)(nil)
	_ notificationv1connect.PreferenceServiceHandler       = (*service)(nil)
	_ notificationv1connect.WebhookServiceHandler          = (*service)(nil)
	_ notificationv1connect.TemplateServiceHandler         = (*service)(nil)
)

// own is the inbox of the caller: the consumer's, or the merchant's.
func own(ctx context.Context) (string, error) {
	switch p := call.From(ctx).Principal; p.Kind {
	case call.Consumer:
		return p.Account, nil
	case call.Merchant:
		return p.Merchant, nil
	}
	return "", fault.New(connect.CodePermissionDenied, "NO_INBOX", "inboxes are of consumers and merchants")
}

// asPlugin is the context of the module's own work in a market.
func asPlugin(ctx context.Context, market string) context.Context {
	return call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "notification"}, Market: market})
}

package plugin

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// events serves entrepot.plugin.v1.EventService.
type events struct{ *Server }

func (e events) Deliver(ctx context.Context, req *pluginv1.DeliverRequest) (*pluginv1.DeliverResponse, error) {
	if len(req.GetEvents()) == 0 {
		return nil, fault.Field("events", "at least one")
	}
	in, release, err := e.acquire(headerInstance(ctx))
	if err != nil {
		return nil, err
	}
	defer release()
	if in.DB == nil {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_DATABASE", "a provider receives no events")
	}
	handlers := in.handlers[req.GetName()]
	ctx = call.With(ctx, call.Info{
		Principal: call.Principal{Kind: call.Plugin, Plugin: in.plugin.GetName()}, Market: in.DefaultMarket,
		Traceparent: req.GetEvents()[0].GetTraceparent(),
	})
	failed := 0
	err = in.DB.Deliver(ctx, req, func(ctx context.Context, tx *store.Tx) error {
		var err error
		failed, err = handle(ctx, tx, handlers, req.GetEvents())
		return err
	})
	if err == nil {
		return &pluginv1.DeliverResponse{}, nil
	}
	return nil, e.failure(ctx, in, req, failed, err)
}

// handle gives runs of events of one topic to its handler, in order.
func handle(ctx context.Context, tx *store.Tx, handlers map[string]event.Handler, all []*pluginv1.Event) (failed int, err error) {
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[to].GetTopic() == all[from].GetTopic() {
			to++
		}
		if h, ok := handlers[all[from].GetTopic()]; ok {
			if i, err := h.Handle(ctx, tx, all[from:to]); err != nil {
				return from + i, err
			}
		}
		from = to
	}
	return 0, nil
}

// failure answers what the kernel acts on: codes of transport and contention
// pass, everything else names the event that its handler could not take.
func (e events) failure(ctx context.Context, in *Instance, req *pluginv1.DeliverRequest, failed int, err error) error {
	var ce *connect.Error
	if errors.As(err, &ce) {
		switch ce.Code() {
		case connect.CodeAborted, connect.CodeUnavailable, connect.CodeResourceExhausted, connect.CodeDeadlineExceeded, connect.CodeCanceled:
			return err
		}
	}
	ev := req.GetEvents()[failed]
	in.Log.WarnContext(ctx, "event handler failed", "subscription", req.GetName(), "topic", ev.GetTopic(), "key", ev.GetKey(),
		"position", ev.GetPosition(), "error", err)
	out := connect.NewError(connect.CodeInternal, "the handler failed")
	d, derr := connectproto.NewErrorDetail(&pluginv1.DeliveryFailure{Index: int32(failed), Message: clip(err.Error(), 500)})
	if derr == nil {
		out = out.WithDetail(d)
	}
	return out
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func headerInstance(ctx context.Context) string {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		return info.RequestHeader().Get(call.HeaderInstance)
	}
	return ""
}

// webhooks passes entrepot.plugin.v1.WebhookService to the instance that
// registered it.
type webhooks struct{ *Server }

func (w webhooks) HandleWebhook(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
	in, release, err := w.acquire(req.GetInstance())
	if err != nil {
		return nil, err
	}
	defer release()
	if in.Webhook == nil {
		return nil, fault.New(connect.CodeUnimplemented, "NO_WEBHOOK", "this instance takes no webhooks")
	}
	return in.Webhook(ctx, req)
}

var _ pluginv1connect.WebhookServiceHandler = webhooks{}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/sent"
)

// maxAnswer is how much of an answer is read: it is thrown away.
const maxAnswer = 64 << 10

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Timeout string   `json:"timeout"`
	Allow   []string `json:"allow"`
}

func (c settings) timeout() (time.Duration, error) {
	if c.Timeout == "" {
		return 15 * time.Second, nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d < time.Second || d > 30*time.Second {
		return 0, fmt.Errorf("%q; write between \"1s\" and \"30s\"", c.Timeout)
	}
	return d, nil
}

func (c settings) allow() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, a := range c.Allow {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return nil, fmt.Errorf("%q is no network; write one like \"127.0.0.0/8\"", a)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var c settings
	_ = json.Unmarshal(config, &c) // the types of the fields were looked at
	_, timeout := c.timeout()
	_, allow := c.allow()
	for field, err := range map[string]error{"timeout": timeout, "allow": allow} {
		if err != nil {
			found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: err.Error()})
		}
	}
	return found
}

// adapter is the provider of one instance. Safe for concurrent use.
type adapter struct {
	in     *plugin.Instance
	client *http.Client
	places places
	memory sent.Memory
}

func register(_ context.Context, in *plugin.Instance) error {
	var c settings
	if err := in.Config(&c); err != nil {
		return err
	}
	timeout, err := c.timeout()
	if err != nil {
		return err
	}
	allowed, err := c.allow()
	if err != nil {
		return err
	}
	a := &adapter{in: in, places: places{allowed}, memory: sent.Of(in)}
	a.client = a.places.client(timeout)
	providerv1connect.RegisterNotificationProviderServiceHandler(in.Server, a)
	in.Close = func(context.Context) { a.client.CloseIdleConnections() }
	return nil
}

var _ providerv1connect.NotificationProviderServiceHandler = (*adapter)(nil)

// Lookup implements the contract: what was taken, or refused for good, is known.
func (a *adapter) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	end, err := a.memory.End(ctx, req.GetKey())
	if err != nil {
		return nil, err
	}
	if end == nil {
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "no end of this key is known here")
	}
	return &providerv1.LookupResponse{Delivery: end}, nil
}

// Send implements the contract: one request, and no second one whatever comes.
func (a *adapter) Send(ctx context.Context, req *providerv1.SendRequest) (*providerv1.SendResponse, error) {
	to := req.GetRecipient().GetWebhook()
	if req.GetChannel() != providerv1.Channel_CHANNEL_WEBHOOK || to == nil {
		return nil, fault.New(connect.CodeInvalidArgument, "CHANNEL_UNKNOWN", "this instance carries webhooks")
	}
	if !json.Valid(req.GetMessage().GetData()) {
		return nil, fault.Field("message.data", "is no JSON")
	}
	end, err := a.memory.End(ctx, req.GetKey())
	if err != nil {
		return nil, err
	}
	if end != nil {
		return &providerv1.SendResponse{Delivery: end}, nil
	}
	end, err = a.post(ctx, to, req.GetMessage())
	if err != nil {
		return nil, err
	}
	end.Key, end.At = req.GetKey(), timestamppb.Now()
	// What is not written down is at worst sent again, under the same id.
	if err := a.memory.Keep(context.WithoutCancel(ctx), end); err != nil {
		a.in.Log.WarnContext(ctx, "an end is not written down", "key", req.GetKey(), "error", err)
	}
	return &providerv1.SendResponse{Delivery: end}, nil
}

// post makes the request. An answer that does not come may mean that the
// webhook was taken; it is worth another try all the same: recipients know a
// repetition by webhook-id, as Standard Webhooks has it.
func (a *adapter) post(ctx context.Context, to *providerv1.WebhookEndpoint, m *providerv1.Message) (*providerv1.Delivery, error) {
	now := time.Now()
	signatures := make([]string, 0, len(to.GetSecrets()))
	for _, secret := range to.GetSecrets() {
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			// The cause would repeat the secret.
			return nil, fault.New(connect.CodeInvalidArgument, "SECRET_INVALID", "a secret is none of Standard Webhooks: want whsec_ and base64")
		}
		s, err := wh.Sign(m.GetId(), now, m.GetData())
		if err != nil {
			return nil, fault.New(connect.CodeInvalidArgument, "SECRET_INVALID", "this secret does not sign")
		}
		signatures = append(signatures, s)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.GetUrl(), bytes.NewReader(m.GetData()))
	if err != nil || a.places.refuse(req.URL) {
		return refused("URL_FORBIDDEN"), nil // the cause would repeat the URL
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Entrepot-Webhooks/1")
	req.Header.Set(standardwebhooks.HeaderWebhookID, m.GetId())
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	res, err := a.client.Do(req)
	if err != nil {
		return unreached(ctx, err), nil
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	return answered(res), nil
}

func refused(code string) *providerv1.Delivery {
	return &providerv1.Delivery{State: providerv1.Delivery_STATE_REFUSED, Code: code}
}

func deferred(code string) *providerv1.Delivery {
	return &providerv1.Delivery{State: providerv1.Delivery_STATE_DEFERRED, Code: code}
}

// unreached says in a word why there was no answer. A name may resolve to
// another place tomorrow, so a forbidden one is worth another try too: an
// endpoint that stays so is disabled by the module.
func unreached(ctx context.Context, err error) *providerv1.Delivery {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errForbidden):
		return deferred("ADDRESS_FORBIDDEN")
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return deferred("TIMEOUT")
	case isTLS(err):
		return deferred("TLS_FAILED")
	}
	return deferred("UNREACHABLE")
}

// answered is an answer's meaning: 2xx is taken, 410 is gone, everything else,
// redirects too, is another try.
func answered(res *http.Response) *providerv1.Delivery {
	code := strconv.Itoa(res.StatusCode)
	switch {
	case res.StatusCode/100 == 2:
		return &providerv1.Delivery{State: providerv1.Delivery_STATE_DELIVERED, Code: code}
	case res.StatusCode == http.StatusGone:
		return &providerv1.Delivery{State: providerv1.Delivery_STATE_REFUSED, Code: code, Gone: true}
	}
	end := deferred(code)
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		end.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return end
}

// mostRetryAfter bounds how long a server may put off.
const mostRetryAfter = 24 * time.Hour

// retryAfter reads RFC 9110's header: seconds, or a time. Nil: nothing useful.
func retryAfter(text string, now time.Time) *durationpb.Duration {
	var d time.Duration
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	if d <= 0 {
		return nil
	}
	return durationpb.New(min(d, mostRetryAfter))
}

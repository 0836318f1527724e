package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/core/router"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

// capabilityWebhook is what a provider declares to be sent webhooks.
const capabilityWebhook = "webhook"

const (
	maxWebhookBody    = 1 << 20
	maxWebhookHeaders = 64
	maxWebhookAnswer  = 64 << 10
)

// serveWebhook hands a request to /webhooks/<instance>/... to that instance,
// bytes as they came. Nobody is authenticated: the provider verifies the
// sender's signature. Any trouble is a status that makes senders try again.
func (g *Gateway) serveWebhook(w http.ResponseWriter, r *http.Request, info call.Info) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/webhooks/"), "/")
	if !g.takesWebhooks(name) {
		g.notFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, min(g.cfg.MaxBody, maxWebhookBody)))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		w.WriteHeader(status)
		return
	}
	req, err := proto.Marshal(&pluginv1.HandleWebhookRequest{
		Instance: name, Method: r.Method, Path: "/" + rest, Query: strings.ToValidUTF8(r.URL.RawQuery, ""),
		Headers: webhookHeaders(r.Header), Body: body,
	})
	if err != nil {
		// A path that is not UTF-8.
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	info.Instance = name
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.CallTimeout)
	defer cancel()
	raw, _, err := g.caller.Unary(ctx, pluginv1connect.WebhookServiceHandleWebhookProcedure, info, req)
	res := &pluginv1.HandleWebhookResponse{}
	if err == nil {
		err = proto.Unmarshal(raw, res)
	}
	if err != nil {
		g.log.WarnContext(ctx, "a webhook was not handled", "instance", name, "request", info.RequestID, "error", err)
		w.WriteHeader(webhookStatus(err))
		return
	}
	answerWebhook(w, res)
}

// takesWebhooks tells whether there is an instance of that name whose plugin
// declares that it takes webhooks.
func (g *Gateway) takesWebhooks(name string) bool {
	in := g.router.Snapshot().Instances[name]
	return in != nil && slices.ContainsFunc(in.Plugin.Manifest.GetServes(), func(s *pluginv1.ServedContract) bool {
		return slices.Contains(s.GetCapabilities(), capabilityWebhook)
	})
}

// webhookHeaders are the headers that a provider gets, under their canonical
// names ("Webhook-Signature"): the message's own and those that senders add.
// Nothing of the way it came, and nothing that only the kernel writes.
func webhookHeaders(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if len(out) == maxWebhookHeaders {
			break
		}
		if webhookHeader(name) {
			out[name] = strings.ToValidUTF8(strings.Join(values, ", "), "")
		}
	}
	return out
}

func webhookHeader(name string) bool {
	switch name {
	case "Authorization", "Content-Type", "Content-Encoding", "Content-Digest", "Date", "Digest",
		"Signature", "Signature-Input", "User-Agent":
		return true
	case "X-Real-Ip":
		return false
	}
	return strings.HasPrefix(name, "Webhook-") || strings.HasSuffix(name, "-Signature") && !strings.HasPrefix(name, call.Prefix) ||
		strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-Forwarded-")
}

func webhookStatus(err error) int {
	switch code := connect.CodeOf(err); {
	case errors.Is(err, router.ErrNotSent), code == connect.CodeUnavailable, code == connect.CodeResourceExhausted:
		return http.StatusServiceUnavailable
	case code == connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	case code == connect.CodeInvalidArgument:
		return http.StatusBadRequest
	case code == connect.CodeUnauthenticated, code == connect.CodePermissionDenied:
		return http.StatusForbidden
	default:
		return http.StatusInternalServerError
	}
}

func answerWebhook(w http.ResponseWriter, res *pluginv1.HandleWebhookResponse) {
	status := int(res.GetStatus())
	switch {
	case status == 0:
		status = http.StatusOK
	case status < 200 || status > 599, len(res.GetBody()) > maxWebhookAnswer:
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	kind := res.GetContentType()
	if kind == "" || !printable(kind) {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	// What a provider answers is for the sender and never for a browser.
	w.Header().Set("Content-Security-Policy", "sandbox; default-src 'none'")
	w.WriteHeader(status)
	_, _ = w.Write(res.GetBody())
}

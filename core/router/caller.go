package router

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/sdk/call"
)

// maxAnswer is the most bytes of an answer to the kernel's own calls.
const maxAnswer = 8 << 20

// Caller makes the kernel's own calls to plugins: saga steps, deliveries,
// webhooks. Safe for concurrent use.
type Caller struct{ router *Router }

// NewCaller makes a caller over a router.
func NewCaller(r *Router) *Caller { return &Caller{router: r} }

// Unary calls a unary method with a serialised request and gives back the
// serialised answer and the answer's headers; the headers are there with an
// error too when a plugin answered it. info.Instance names the instance, or
// is empty for the one bound to the market of info. The deadline of ctx goes
// along; without one the call may take DefaultTimeout. It does not keep req.
//
// A plugin's own error is a *connect.Error with IsRemote. An error that wraps
// ErrNotSent had no effect for certain. Every other error leaves the outcome
// open.
func (c *Caller) Unary(ctx context.Context, procedure string, info call.Info, req []byte) (res []byte, header http.Header, err error) {
	x := &exchange{
		procedure: procedure, info: info, body: req, method: http.MethodPost,
		header: http.Header{
			headerContentType:          {"application/proto"},
			"Connect-Protocol-Version": {"1"},
			"Accept-Encoding":          {connect.CompressionNameIdentity},
			"User-Agent":               {"entrepot"},
		},
	}
	if m := c.router.Snapshot().Methods[procedure]; m != nil {
		x.contract, x.capability, x.repeatable = m.Contract, m.Capability, m.NoSideEffects
	} else if Lifecycle(procedure) {
		x.contract = lifecycle
	} else {
		return nil, nil, notSent(c.router.Missing(procedure), nil)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	x.ctx = ctx
	answer, h, err := c.router.roundTrip(x)
	if err != nil {
		return nil, nil, err
	}
	defer c.router.leave(h)
	defer func() { _ = answer.Body.Close() }()
	c.router.noteEvents(h, answer.Header)
	var buf bytes.Buffer
	if answer.ContentLength > 0 {
		buf.Grow(int(min(answer.ContentLength, 64<<10)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, answer.Header, x.failure(h.instance.Name, err, false)
	}
	if n > maxAnswer {
		return nil, answer.Header, Fault(connect.CodeResourceExhausted, ReasonPluginAnswer, "the service's answer is too large")
	}
	if answer.StatusCode != http.StatusOK {
		return nil, answer.Header, decodeError(answer.StatusCode, buf.Bytes())
	}
	if t := answer.Header.Get(headerContentType); !strings.HasPrefix(t, "application/proto") {
		return nil, answer.Header, Fault(connect.CodeInternal, ReasonPluginAnswer, "the service gave an answer that is none")
	}
	return buf.Bytes(), answer.Header, nil
}

package router

import (
	"context"
	"net/http"

	"github.com/entrepot/entrepot/sdk/call"
)

// Caller makes the kernel's own calls to plugins: saga steps, deliveries,
// webhooks. Safe for concurrent use.
type Caller struct {
	unary func(ctx context.Context, procedure string, info call.Info, req []byte) ([]byte, http.Header, error)
}

// Unary calls a unary method with a serialised request and gives back the
// serialised answer and the answer's headers; the headers are there with an
// error too when a plugin answered it. info.Instance names the instance, or
// is empty for the one bound to the market of info. The deadline of ctx goes
// along; without one the call may take DefaultTimeout.
//
// A plugin's own error is a *connect.Error with IsRemote. An error that wraps
// ErrNotSent had no effect for certain. Every other error leaves the outcome
// open.
func (c *Caller) Unary(ctx context.Context, procedure string, info call.Info, req []byte) (res []byte, header http.Header, err error) {
	return c.unary(ctx, procedure, info, req)
}

package shop

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/entrepot/entrepot/sdk/fault"
)

// transport keeps connections for everybody who trades side by side.
var transport = &http.Transport{
	DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConns: 512, MaxIdleConnsPerHost: 512, IdleConnTimeout: time.Minute,
}

// Caller is somebody who uses the public API.
type Caller struct {
	shop   *Shop
	Market string
	// token is shared by copies, so that a new login reaches all of them.
	token *atomic.Pointer[string]
}

// Guest is nobody in particular, in a market.
func (s *Shop) Guest(market string) Caller { return Caller{shop: s, Market: market} }

// with gives a caller a token.
func (c Caller) with(token string) Caller {
	c.token = new(atomic.Pointer[string])
	c.token.Store(&token)
	return c
}

// Client is for generated clients.
func (c Caller) Client() *connect.Client {
	return connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: transport}, c.shop.URL), func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				if c.token != nil {
					info.RequestHeader().Set("Authorization", "Bearer "+*c.token.Load())
				}
				if c.Market != "" {
					info.RequestHeader().Set("Entrepot-Market", c.Market)
				}
				if key, ok := ctx.Value(keyed{}).(string); ok {
					info.RequestHeader().Set("Idempotency-Key", key)
				}
			}
			return next(ctx, spec)
		}
	})
}

type keyed struct{}

// Keyed gives calls with the context one idempotency key, so that repeating
// them is safe.
func Keyed(ctx context.Context) context.Context {
	b := make([]byte, 16)
	_, _ = crand.Read(b) // never fails, see crypto/rand
	return context.WithValue(ctx, keyed{}, hex.EncodeToString(b))
}

// Patient repeats a call while the answer is one that time can change, as a
// good client does: every call of the demo is safe to repeat.
func Patient[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		res, err := call(ctx)
		if err == nil || !passing(err) {
			return res, err
		}
		wait := pause/2 + rand.N(pause)
		if r, ok := fault.Detail[*errdetails.RetryInfo](err); ok {
			wait = max(wait, r.GetRetryDelay().AsDuration())
		}
		select {
		case <-ctx.Done():
			return res, errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func passing(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeAborted, connect.CodeResourceExhausted, connect.CodeDeadlineExceeded:
		return true
	case connect.CodeUnknown, connect.CodeInternal, connect.CodeCanceled:
		// A connection that broke under the call.
		var ce *connect.Error
		return errors.As(err, &ce) && !ce.IsRemote()
	}
	return false
}

package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/router"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Reasons of refusals at the edge.
const (
	ReasonTokenInvalid    = "TOKEN_INVALID"
	ReasonMarketUnknown   = "MARKET_UNKNOWN"
	ReasonHeaderInvalid   = "HEADER_INVALID"
	ReasonTooManyRequests = "TOO_MANY_REQUESTS"
)

const (
	maxBearer         = 8 << 10
	maxIdempotencyKey = 200
)

// identify makes the facts of a call out of what a client sent.
func (g *Gateway) identify(r *http.Request, id string, address netip.Addr) (call.Info, error) {
	info := call.Info{RequestID: id, Market: g.cfg.DefaultMarket, Traceparent: trace(r.Header.Get(call.HeaderTraceparent))}
	principal, market, err := g.authenticate(r)
	if err != nil {
		// Guessing tokens costs the guesser's allowance.
		if limited := g.rates.take(clientOf(call.Principal{}, address)); limited != nil {
			return info, limited
		}
		return info, err
	}
	info.Principal = principal
	if err := g.rates.take(clientOf(principal, address)); err != nil {
		return info, err
	}
	if slices.Contains(g.cfg.Markets, market) {
		info.Market = market
	}
	if asked := r.Header.Get(call.HeaderMarket); asked != "" {
		if !slices.Contains(g.cfg.Markets, asked) {
			return info, router.Fault(connect.CodeInvalidArgument, ReasonMarketUnknown,
				"the header "+call.HeaderMarket+" names no market of this deployment; they are "+strings.Join(g.cfg.Markets, ", "))
		}
		info.Market = asked
	}
	info.IdempotencyKey = r.Header.Get(call.HeaderIdempotencyKey)
	if !printable(info.IdempotencyKey) || len(info.IdempotencyKey) > maxIdempotencyKey {
		return info, router.Fault(connect.CodeInvalidArgument, ReasonHeaderInvalid,
			"the header "+call.HeaderIdempotencyKey+" is at most 200 printable ASCII characters")
	}
	return info, nil
}

// anonymous makes the facts of a call that nobody is to authenticate.
func (g *Gateway) anonymous(r *http.Request, id string, address netip.Addr) (call.Info, error) {
	info := call.Info{RequestID: id, Market: g.cfg.DefaultMarket, Traceparent: trace(r.Header.Get(call.HeaderTraceparent))}
	return info, g.rates.take(clientOf(call.Principal{}, address))
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// authenticate finds out who calls. No token is nobody; a bad one is refused.
func (g *Gateway) authenticate(r *http.Request) (call.Principal, string, error) {
	token, err := bearer(r.Header)
	if err != nil || token == "" {
		return call.Principal{}, "", err
	}
	p, market, err := g.auth.Authenticate(r.Context(), token)
	var authored *connect.Error
	switch {
	case err == nil && p.Kind != call.Nobody && p.Kind != call.Plugin:
		return p, market, nil
	case errors.As(err, &authored) && !authored.IsRemote():
		return call.Principal{}, "", authored
	default:
		return call.Principal{}, "", tokenInvalid(err)
	}
}

func tokenInvalid(cause error) error {
	return router.Fault(connect.CodeUnauthenticated, ReasonTokenInvalid, "the token is not valid, or no longer").WithCause(cause)
}

// bearer reads the token of the header Authorization (RFC 6750 section 2.1);
// empty without one.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxBearer || !printable(token) {
		return "", tokenInvalid(nil)
	}
	return token, nil
}

// traceparent is version 00 of W3C Trace Context, and no id of only zeros.
var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$`)

// trace continues a client's trace, or begins one that is not sampled.
func trace(said string) string {
	if m := traceparent.FindStringSubmatch(said); m != nil && strings.Trim(m[1], "0") != "" && strings.Trim(m[2], "0") != "" {
		return said
	}
	var id [24]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-00"
}

type addressKey struct{}

// ClientAddress returns the network address a public call came from; the zero
// Addr outside of one.
func ClientAddress(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(addressKey{}).(netip.Addr)
	return a
}

// clientAddress is where a request came from: its connection's address, or
// the last of X-Forwarded-For that no trusted proxy wrote about itself.
func (g *Gateway) clientAddress(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address, _ := netip.ParseAddr(host)
	address = address.Unmap()
	if !g.trusts(address) {
		return address
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		a, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return address
		}
		if address = a.Unmap().WithZone(""); !g.trusts(address) {
			return address
		}
	}
	return address
}

func (g *Gateway) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// clientOf is whose allowance a call uses: the account's, or that of the
// address. A /64 is one IPv6 subscriber.
func clientOf(p call.Principal, a netip.Addr) string {
	if p.Account != "" {
		return p.Account
	}
	if a.Is6() {
		if prefix, err := a.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return a.String()
}

func overloaded(after time.Duration, message string) *connect.Error {
	return fault.Retry(router.Fault(connect.CodeResourceExhausted, ReasonTooManyRequests, message), after)
}

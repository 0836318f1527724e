package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Config is how the public port listens and what it bounds. The zero value of
// every field is its default.
type Config struct {
	// Address to listen on, host and port. Default "127.0.0.1:8080".
	Address string
	// Markets are the countries of the deployment, ISO 3166-1 alpha-2, and
	// DefaultMarket the one of a caller who names none and has none. At least
	// one is required, and the default is one of them; an empty default is
	// the first.
	Markets       []string
	DefaultMarket string
	// MaxBody is the most bytes of a request with one message, and of a
	// webhook. Default 1 MiB.
	MaxBody int64
	// MaxStreamBody is the most bytes of a request with many. Default 64 MiB.
	MaxStreamBody int64
	// CallTimeout is the longest a call may take; a client may ask for less.
	// Default 30 s.
	CallTimeout time.Duration
	// StreamTimeout is the longest a stream may last. Default 10 minutes.
	StreamTimeout time.Duration
	// MaxInFlight is how many calls are served at once. One more is refused
	// with resource_exhausted. Default 1024.
	MaxInFlight int
	// RatePerSecond and RateBurst bound the calls of one client: an account,
	// or an address (IPv6: a /64) where nobody is logged in. Defaults 100 and
	// 200; a negative rate does not bound.
	RatePerSecond float64
	RateBurst     int
	// RateClients is how many clients are remembered, the most recent ones.
	// Default 65536.
	RateClients int
	// AllowedOrigins are the web origins whose scripts may call, for example
	// "https://shop.example"; "*" is every one. Default none.
	AllowedOrigins []string
	// TrustedProxies are the load balancers whose X-Forwarded-For is
	// believed. Default none.
	TrustedProxies []netip.Prefix
	// Metrics serves Prometheus metrics at /metrics. Default off.
	Metrics bool
}

var marketCode = regexp.MustCompile(`^[A-Z]{2}$`)

// Validate tells everything that is wrong with a configuration, one line a
// finding.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gateway: "+format, args...)) }
	if _, _, err := net.SplitHostPort(c.Address); c.Address != "" && err != nil {
		wrong("Address %q is not host:port", c.Address)
	}
	if len(c.Markets) == 0 {
		wrong("Markets is empty: name at least one country")
	}
	for _, m := range c.Markets {
		if !marketCode.MatchString(m) {
			wrong("market %q is not two capital letters (ISO 3166-1 alpha-2)", m)
		}
	}
	if c.DefaultMarket != "" && !slices.Contains(c.Markets, c.DefaultMarket) {
		wrong("DefaultMarket %q is none of Markets", c.DefaultMarket)
	}
	for _, f := range []struct {
		name     string
		negative bool
	}{
		{"MaxBody", c.MaxBody < 0}, {"MaxStreamBody", c.MaxStreamBody < 0},
		{"CallTimeout", c.CallTimeout < 0}, {"StreamTimeout", c.StreamTimeout < 0},
		{"MaxInFlight", c.MaxInFlight < 0}, {"RateBurst", c.RateBurst < 0}, {"RateClients", c.RateClients < 0},
	} {
		if f.negative {
			wrong("%s is negative", f.name)
		}
	}
	for _, o := range c.AllowedOrigins {
		u, err := url.Parse(o)
		if o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o) {
			wrong("origin %q is not scheme://host[:port]", o)
		}
	}
	return errors.Join(errs...)
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	or64 := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Address == "" {
		c.Address = "127.0.0.1:8080"
	}
	if c.DefaultMarket == "" {
		c.DefaultMarket = c.Markets[0]
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 30 * time.Second
	}
	if c.StreamTimeout == 0 {
		c.StreamTimeout = 10 * time.Minute
	}
	if c.RatePerSecond == 0 {
		c.RatePerSecond = 100
	}
	or64(&c.MaxBody, 1<<20)
	or64(&c.MaxStreamBody, 64<<20)
	orInt(&c.MaxInFlight, 1024)
	orInt(&c.RateBurst, 200)
	orInt(&c.RateClients, 65536)
	return c
}

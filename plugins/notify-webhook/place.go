package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// errForbidden is what a connection to a place that is not allowed ends with.
var errForbidden = errors.New("the address is not on the public internet")

// special are networks that are global by their form and not by their use: the
// IANA special-purpose registries (RFC 6890 and what followed), and ways by
// which an IPv4 address hides in an IPv6 one.
var special = func() (out []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}()

// places are where webhooks may go: the public internet, and what the operator
// allows beside it.
type places struct{ allow []netip.Prefix }

func (p places) allowed(a netip.Addr) bool {
	a = a.Unmap()
	for _, n := range p.allow {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// public tells whether an address is anybody's to reach.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Zone() != "" {
		return false
	}
	for _, n := range special {
		if n.Contains(a) {
			return false
		}
	}
	return true
}

// refuse tells whether a URL is no place to try: without TLS only what the
// operator allows by its address.
func (p places) refuse(u *url.URL) bool {
	if u.Hostname() == "" || u.User != nil {
		return true
	}
	switch u.Scheme {
	case "https":
		return false
	case "http":
		a, err := netip.ParseAddr(u.Hostname())
		return !(err == nil && p.allowed(a)) && !(u.Hostname() == "localhost" && len(p.allow) > 0)
	}
	return true
}

// client connects to allowed addresses only, whatever a name resolves to at the
// moment of connecting; it knows no proxy, follows no redirect and keeps no
// cookie.
func (p places) client(timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !public(at.Addr()) && !p.allowed(at.Addr()) {
			return errForbidden
		}
		return nil
	}}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns: 64, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func isTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &certificate) || errors.As(err, &authority) || errors.As(err, &record) || errors.As(err, &alert)
}

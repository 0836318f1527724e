package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	stripe "github.com/stripe/stripe-go/v85"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	WebhookTolerance string   `json:"webhook_tolerance"`
	Merchants        []string `json:"merchants"`
	Multicapture     bool     `json:"multicapture"`
	Timeout          string   `json:"timeout"`
	URL              string   `json:"url"`
}

// apiVersion is the version of Stripe's API that this code was written for. It
// is the library's own; another one is looked at before it is taken.
const apiVersion = "2026-03-25.dahlia"

const (
	// maxAnswer bounds what is read of an answer: a page of a hundred intents
	// with their charges is well below one MiB.
	maxAnswer = 16 << 20
	// maxConnections bounds calls that are under way at once.
	maxConnections = 100
)

// wrong is what is wrong with a field.
type wrong struct{ field, message string }

// check looks at what a field's type does not say.
func (c settings) check() (found []wrong) {
	for _, f := range []struct {
		field string
		err   error
	}{
		{"timeout", second(c.timeout())},
		{"webhook_tolerance", second(c.tolerance())},
		{"merchants", second(c.accounts())},
		{"url", second(c.base())},
	} {
		if f.err != nil {
			found = append(found, wrong{f.field, f.err.Error()})
		}
	}
	return found
}

func second[T any](_ T, err error) error { return err }

func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var c settings
	_ = json.Unmarshal(config, &c) // the types of the fields were looked at
	for _, w := range c.check() {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: w.field, Message: w.message})
	}
	return found
}

func (c settings) timeout() (time.Duration, error) {
	return between(c.Timeout, 7*time.Second, time.Second, 30*time.Second)
}

func (c settings) tolerance() (time.Duration, error) {
	return between(c.WebhookTolerance, 5*time.Minute, 10*time.Second, time.Hour)
}

func between(text string, without, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return without, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("%q; write between %q and %q", text, least, most)
	}
	return d, nil
}

var account = regexp.MustCompile(`^acct_[A-Za-z0-9]{1,100}$`)

// accounts are the merchants' connected accounts.
func (c settings) accounts() (map[string]string, error) {
	out := make(map[string]string, len(c.Merchants))
	for _, m := range c.Merchants {
		merchant, at, _ := strings.Cut(m, "=")
		if merchant == "" || !account.MatchString(at) {
			return nil, fmt.Errorf("%q; write a merchant and its connected account, like \"mer_1=acct_1\"", m)
		}
		if out[merchant] != "" {
			return nil, fmt.Errorf("%s stands twice", merchant)
		}
		out[merchant] = at
	}
	return out, nil
}

// base is where the API is. Without TLS it may only be on this machine: the
// key rides on every call.
func (c settings) base() (string, error) {
	if c.URL == "" {
		return stripe.APIURL, nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", errors.New("is no address; write one like \"https://api.stripe.com\"")
	}
	if u.Scheme == "https" || u.Scheme == "http" && here(u.Hostname()) {
		return strings.TrimSuffix(c.URL, "/"), nil
	}
	return "", errors.New("the secret key would be read on the way; write https, or an address of this machine")
}

// here tells whether a host is this machine.
func here(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

var secretKey = regexp.MustCompile(`^(sk|rk)_(test|live)_[A-Za-z0-9_]{1,250}$`)

// client is the way to Stripe. The library sends once and tells nothing: what
// is tried again, and what is logged, is decided here. Its log would have what
// Stripe answered, with the secrets of intents.
func (c settings) client(key string) (*stripe.Client, *http.Client, error) {
	if !secretKey.MatchString(key) {
		return nil, nil, errors.New("secret_key is no secret key of Stripe's: write one that begins with sk_ or rk_")
	}
	timeout, err := c.timeout()
	if err != nil {
		return nil, nil, err
	}
	base, err := c.base()
	if err != nil {
		return nil, nil, err
	}
	web := &http.Client{
		Timeout: timeout,
		Transport: bounded{&http.Transport{
			DialContext: (&net.Dialer{Timeout: timeout}).DialContext, TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout,
			MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return stripe.NewClient(key, stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		EnableTelemetry: stripe.Bool(false), MaxNetworkRetries: stripe.Int64(0), HTTPClient: web, URL: &base,
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	}))), web, nil
}

// bounded reads no more of an answer than it should have.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	// The library takes all below 400 for an answer.
	if res.StatusCode >= http.StatusMultipleChoices && res.StatusCode < http.StatusBadRequest {
		_ = res.Body.Close()
		return nil, errors.New("the answer is a redirection")
	}
	res.Body = &answer{res.Body, maxAnswer}
	return res, nil
}

type answer struct {
	io.ReadCloser
	left int64
}

func (a *answer) Read(p []byte) (int, error) {
	if a.left <= 0 {
		return 0, errors.New("the answer is too long")
	}
	n, err := a.ReadCloser.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	return n, err
}

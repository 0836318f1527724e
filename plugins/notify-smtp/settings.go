package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Security string `json:"security"`
	CAFile   string `json:"ca_file"`
	Username string `json:"username"`
	From     string `json:"from"`
	ReplyTo  string `json:"reply_to"`
	BounceTo string `json:"bounce_to"`
	Hello    string `json:"hello"`
	Timeout  string `json:"timeout"`
}

const (
	startTLS = "starttls"
	allTLS   = "tls"
	noTLS    = "none"
)

// wrong is what is wrong with a field.
type wrong struct{ field, message string }

// check looks at what a field's type does not say.
func (c settings) check() (found []wrong) {
	bad := func(field, format string, args ...any) {
		found = append(found, wrong{field, fmt.Sprintf(format, args...)})
	}
	if c.Host == "" || strings.ContainsAny(c.Host, ":/ ") && !strings.HasPrefix(c.Host, "[") && !literal(c.Host) {
		bad("host", "%q is no name of a server; the port stands apart", c.Host)
	}
	if c.Port < 0 || c.Port > 65535 {
		bad("port", "%d; write between 1 and 65535", c.Port)
	}
	switch c.Security {
	case "", startTLS, allTLS:
	case noTLS:
		if !here(c.Host) {
			bad("security", "\"none\" is for a mail server on this machine: what is sent would be read on the way")
		}
		if c.Username != "" {
			bad("username", "a password is not sent without TLS")
		}
	default:
		bad("security", "%q; write \"starttls\", \"tls\" or \"none\"", c.Security)
	}
	for field, address := range map[string]string{"from": c.From, "reply_to": c.ReplyTo, "bounce_to": c.BounceTo} {
		if address == "" && field != "from" {
			continue
		}
		if _, err := netmail.ParseAddress(address); err != nil {
			bad(field, "%q is no mail address", address)
		}
	}
	if _, err := c.timeout(); err != nil {
		bad("timeout", "%v", err)
	}
	return found
}

func literal(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// here tells whether a host is this machine.
func here(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (c settings) timeout() (time.Duration, error) {
	if c.Timeout == "" {
		return 10 * time.Second, nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d < time.Second || d > 30*time.Second {
		return 0, fmt.Errorf("%q; write between \"1s\" and \"30s\"", c.Timeout)
	}
	return d, nil
}

func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var c settings
	_ = json.Unmarshal(config, &c) // the types of the fields were looked at
	for _, w := range c.check() {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: w.field, Message: w.message})
	}
	return found
}

// client is how the server is spoken to.
func (c settings) client(password string) (*mail.Client, error) {
	timeout, err := c.timeout()
	if err != nil {
		return nil, err
	}
	trust := &tls.Config{ServerName: strings.Trim(c.Host, "[]"), MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		if trust.RootCAs, err = x509.SystemCertPool(); err != nil {
			trust.RootCAs = x509.NewCertPool()
		}
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file: holds no certificate")
		}
	}
	options := []mail.Option{mail.WithTimeout(timeout), mail.WithTLSConfig(trust)}
	port := c.Port
	switch c.Security {
	case allTLS:
		options = append(options, mail.WithSSL())
		if port == 0 {
			port = 465
		}
	case noTLS:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if port == 0 {
		port = 587
	}
	options = append(options, mail.WithPort(port))
	if c.Username != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(c.Username), mail.WithPassword(password))
	}
	if c.Hello != "" {
		options = append(options, mail.WithHELO(c.Hello))
	}
	return mail.NewClient(c.Host, options...)
}

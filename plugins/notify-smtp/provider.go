package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/wneessen/go-mail"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/sent"
)

// adapter is the provider of one instance. Safe for concurrent use.
type adapter struct {
	in       *plugin.Instance
	cfg      settings
	from     *netmail.Address
	line     *line
	memory   sent.Memory
	troubled atomic.Pointer[trouble]
}

// trouble is the last that was heard of a server that cannot be used.
type trouble struct {
	code string
	at   time.Time
}

// troubleLasts is how long it makes the instance degraded: one that nobody
// sends by is tried again.
const troubleLasts = time.Minute

func register(_ context.Context, in *plugin.Instance) error {
	a := &adapter{in: in, memory: sent.Of(in)}
	if err := in.Config(&a.cfg); err != nil {
		return err
	}
	if found := a.cfg.check(); len(found) > 0 {
		return fmt.Errorf("%s: %s", found[0].field, found[0].message)
	}
	var err error
	if a.from, err = netmail.ParseAddress(a.cfg.From); err != nil {
		return err
	}
	client, err := a.cfg.client(in.Secrets["password"])
	if err != nil {
		return err
	}
	a.line = newLine(client)
	providerv1connect.RegisterNotificationProviderServiceHandler(in.Server, a)
	in.Check = a.check
	in.Close = func(context.Context) { a.line.close() }
	return nil
}

var _ providerv1connect.NotificationProviderServiceHandler = (*adapter)(nil)

func (a *adapter) check(context.Context) error {
	if t := a.troubled.Load(); t != nil && time.Since(t.at) < troubleLasts {
		return fault.Downstream(fault.New(connect.CodeUnavailable, t.code, "the mail server takes no mails"))
	}
	return nil
}

// Lookup implements the contract.
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

// Send implements the contract. The end is written down after the server's
// word: what is lost between the two is sent again, with the same Message-ID.
func (a *adapter) Send(ctx context.Context, req *providerv1.SendRequest) (*providerv1.SendResponse, error) {
	to := req.GetRecipient().GetMail()
	if req.GetChannel() != providerv1.Channel_CHANNEL_MAIL || to == "" {
		return nil, fault.New(connect.CodeInvalidArgument, "CHANNEL_UNKNOWN", "this instance carries mails")
	}
	end, err := a.memory.End(ctx, req.GetKey())
	if err != nil {
		return nil, err
	}
	if end != nil {
		return &providerv1.SendResponse{Delivery: end}, nil
	}
	m, err := a.compose(req)
	if err != nil {
		// The cause would repeat the address.
		end = refused("ADDRESS_INVALID")
	} else if end, err = a.hand(ctx, m); err != nil {
		return nil, err
	}
	end.Key, end.At = req.GetKey(), timestamppb.Now()
	if err := a.memory.Keep(context.WithoutCancel(ctx), end); err != nil {
		a.in.Log.WarnContext(ctx, "an end is not written down", "key", req.GetKey(), "error", err)
	}
	return &providerv1.SendResponse{Delivery: end}, nil
}

// messageID follows from the key, so that who gets a mail twice can tell.
func (a *adapter) messageID(key string) string {
	sum := sha256.Sum256([]byte(key))
	_, domain, _ := strings.Cut(a.from.Address, "@")
	return hex.EncodeToString(sum[:16]) + "@" + domain
}

// compose writes the mail: text, and HTML beside it.
func (a *adapter) compose(req *providerv1.SendRequest) (*mail.Msg, error) {
	in := req.GetMessage()
	m := mail.NewMsg()
	m.FromMailAddress(a.from)
	if err := m.To(req.GetRecipient().GetMail()); err != nil {
		return nil, err
	}
	if a.cfg.ReplyTo != "" {
		if err := m.ReplyTo(a.cfg.ReplyTo); err != nil {
			return nil, err
		}
	}
	if a.cfg.BounceTo != "" {
		if err := m.EnvelopeFrom(a.cfg.BounceTo); err != nil {
			return nil, err
		}
	}
	m.Subject(in.GetSubject())
	m.SetMessageIDWithValue(a.messageID(req.GetKey()))
	m.SetDate()
	m.SetUserAgent("Entrepot")
	if in.GetAutomatic() {
		m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no absence notices
	}
	if in.GetLanguage() != "" {
		m.SetGenHeader("Content-Language", in.GetLanguage())
	}
	m.SetBodyString(mail.TypeTextPlain, in.GetText())
	if in.GetHtml() != "" {
		m.AddAlternativeString(mail.TypeTextHTML, in.GetHtml())
	}
	return m, nil
}

func refused(code string) *providerv1.Delivery {
	return &providerv1.Delivery{State: providerv1.Delivery_STATE_REFUSED, Code: code}
}

func deferred(code string) *providerv1.Delivery {
	return &providerv1.Delivery{State: providerv1.Delivery_STATE_DEFERRED, Code: code}
}

// hand gives a mail to the server. An error: nobody knows whether it has it.
func (a *adapter) hand(ctx context.Context, m *mail.Msg) (*providerv1.Delivery, error) {
	err := a.line.send(ctx, m)
	switch {
	case err == nil || m.IsDelivered():
		a.troubled.Store(nil)
		return &providerv1.Delivery{State: providerv1.Delivery_STATE_ACCEPTED}, nil
	case errors.Is(err, errNoServer):
		code := unreachable(err)
		a.in.Log.WarnContext(ctx, "the mail server cannot be used", "code", code)
		a.troubled.Store(&trouble{code, time.Now()})
		return deferred(code), nil
	}
	var said *mail.SendError
	if !errors.As(err, &said) {
		return nil, unknown()
	}
	return judge(said)
}

func unknown() error {
	return fault.Downstream(fault.New(connect.CodeUnavailable, "OUTCOME_UNKNOWN", "the mail server's answer did not come"))
}

// unreachable says in a word why there is no server. The library's words would
// name the server and, at worst, the account.
func unreachable(err error) string {
	var reply *textproto.Error
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &reply) && reply.Code/100 == 5 && (reply.Code == 535 || reply.Code == 534 || reply.Code == 530):
		return "AUTH_FAILED"
	case errors.As(err, &reply):
		return strconv.Itoa(reply.Code)
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &host), strings.Contains(err.Error(), "STARTTLS"):
		return "TLS_FAILED"
	}
	return "UNREACHABLE"
}

// noMailbox are enhanced codes (RFC 3463) by which an address is no more.
var noMailbox = map[string]bool{"5.1.1": true, "5.1.2": true, "5.1.6": true, "5.1.10": true, "5.2.1": true}

// judge tells what a server's no means.
func judge(said *mail.SendError) (*providerv1.Delivery, error) {
	code := strings.TrimSpace(strconv.Itoa(said.ErrorCode()) + " " + said.EnhancedStatusCode())
	switch {
	case said.ErrorCode() == 0 && said.Reason == mail.ErrSMTPDataClose:
		// The whole mail was sent, and the word that it is taken did not come.
		return nil, unknown()
	case said.ErrorCode() == 0:
		// The mail was not sent whole: a server drops what has no end.
		return deferred("CONNECTION_LOST"), nil
	case said.ErrorCode()/100 != 5:
		return deferred(code), nil
	case said.Reason == mail.ErrSMTPMailFrom && said.ErrorCode() != 552:
		// The server does not want us as a sender: no fault of this mail's, and
		// an operator can mend it.
		return deferred(code), nil
	}
	end := refused(code)
	end.Gone = said.Reason == mail.ErrSMTPRcptTo && noMailbox[said.EnhancedStatusCode()]
	return end, nil
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"mime"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1/providerv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const password = "open sesame"

// post is a mail server that answers as it is told and keeps what it took.
type post struct {
	port   int
	caFile string

	mu    sync.Mutex
	mails []letter
	conns int
	// says is the next answer at a stage: "mail", "rcpt", "data", "end"; "hangup"
	// ends the connection after the whole mail is there.
	says map[string]*smtp.SMTPError
	hang bool
}

type letter struct {
	from, to, text string
	secure         bool
}

func (p *post) NewSession(c *smtp.Conn) (smtp.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns++
	return &session{post: p, conn: c}, nil
}

type session struct {
	post     *post
	conn     *smtp.Conn
	from, to string
	known    bool
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "shop" || pass != password {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no"}
		}
		s.known = true
		return nil
	}), nil
}

func (s *session) answer(stage string) error {
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	if e := s.post.says[stage]; e != nil {
		delete(s.post.says, stage)
		return e
	}
	return nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	if _, tls := s.conn.TLSConnectionState(); tls && !s.known {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "who are you"}
	}
	return s.answer("mail")
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	return s.answer("rcpt")
}

func (s *session) Data(r io.Reader) error {
	if err := s.answer("data"); err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := s.answer("end"); err != nil {
		return err
	}
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	_, secure := s.conn.TLSConnectionState()
	s.post.mails = append(s.post.mails, letter{s.from, s.to, string(b), secure})
	if s.post.hang {
		s.post.hang = false
		_ = s.conn.Conn().Close()
	}
	return nil
}

func (s *session) Reset() {}

func (s *session) Logout() error { return nil }

// openPost starts a server; how is the client's security.
func openPost(t testing.TB, how string) *post {
	t.Helper()
	p := &post{says: map[string]*smtp.SMTPError{}}
	server := smtp.NewServer(p)
	server.Domain, server.AllowInsecureAuth, server.ErrorLog = "localhost", true, silent{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.port = listener.Addr().(*net.TCPAddr).Port
	if how != noTLS {
		server.TLSConfig, p.caFile = certificate(t)
	}
	if how == allTLS {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Close
	}()
	t.Cleanup(func() {
		_ = listener.Close() // the server may not know it yet
		_ = server.Close()
		<-done
	})
	return p
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

func certificate(t testing.TB) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, file
}

func (p *post) got() []letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]letter(nil), p.mails...)
}

type provided struct {
	*plugintest.Module
	providerv1connect.NotificationProviderServiceClient
}

func open(t testing.TB, p *post, how string, change map[string]any) provided {
	t.Helper()
	c := map[string]any{
		"host": "127.0.0.1", "port": p.port, "security": how, "from": "Albion Gifts <shop@albion.example>", "reply_to": "help@albion.example",
		"bounce_to": "bounces@albion.example", "hello": "shop.albion.example", "timeout": "5s",
	}
	if how != noTLS {
		c["ca_file"], c["username"] = p.caFile, "shop"
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	m := plugintest.Start(t, provider(), plugintest.Config(c), plugintest.Secrets(map[string]string{"password": password}))
	return provided{m, providerv1connect.NewNotificationProviderServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "notification"}}))}
}

const ann = "ann@example.com"

func asked(key string) *providerv1.SendRequest {
	return &providerv1.SendRequest{
		Key: key, Channel: providerv1.Channel_CHANNEL_MAIL, Recipient: &providerv1.Recipient{To: &providerv1.Recipient_Mail{Mail: ann}},
		Message: &providerv1.Message{
			Id: "ntf_1", Subject: "Ihre Bestellung für 東京", Text: "Grüße\n.\nvon uns\n", Html: "<p>Grüße</p>", Language: "de", Automatic: true,
		},
	}
}

func (p provided) send(t testing.TB, req *providerv1.SendRequest) *providerv1.Delivery {
	t.Helper()
	res, err := p.Send(t.Context(), req)
	require.NoError(t, err)
	return res.GetDelivery()
}

func TestAMailGoesByTLSAndIsWhatWasSaid(t *testing.T) {
	t.Parallel()
	for _, how := range []string{startTLS, allTLS, noTLS} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := openPost(t, how)
			p := open(t, s, how, nil)
			require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, p.send(t, asked("k1")).GetState())
			require.Len(t, s.got(), 1)
			m := s.got()[0]
			require.Equal(t, how != noTLS, m.secure)
			require.Equal(t, "bounces@albion.example "+ann, m.from+" "+m.to)
			parsed, err := netmail.ReadMessage(strings.NewReader(m.text))
			require.NoError(t, err)
			subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
			require.NoError(t, err)
			require.Equal(t, "Ihre Bestellung für 東京", subject)
			require.Equal(t, "auto-generated", parsed.Header.Get("Auto-Submitted"))
			require.Equal(t, "de", parsed.Header.Get("Content-Language"))
			require.Contains(t, parsed.Header.Get("From"), "shop@albion.example")
			require.Contains(t, parsed.Header.Get("Reply-To"), "help@albion.example")
			require.Regexp(t, `^<[0-9a-f]{32}@albion\.example>$`, parsed.Header.Get("Message-Id"))
			require.Contains(t, parsed.Header.Get("Content-Type"), "multipart/alternative")
		})
	}
}

func TestAKeyIsSentOnceAndItsEndIsKnown(t *testing.T) {
	t.Parallel()
	s := openPost(t, noTLS)
	p := open(t, s, noTLS, nil)
	_, err := p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.Equal(t, "KEY_UNKNOWN", fault.Reason(err))
	for range 3 {
		require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, p.send(t, asked("k1")).GetState())
	}
	require.Len(t, s.got(), 1)
	found, err := p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.NoError(t, err)
	require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, found.GetDelivery().GetState())
	p.send(t, asked("k2"))
	require.Len(t, s.got(), 2)
	require.Equal(t, 1, s.conns, "a connection serves the next mail")
}

func TestAServersNoSaysWhetherThereIsAnotherTry(t *testing.T) {
	t.Parallel()
	no := func(code int, a, b, c int) *smtp.SMTPError {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{a, b, c}, Message: "not <" + ann + ">"}
	}
	for name, c := range map[string]struct {
		stage string
		says  *smtp.SMTPError
		state providerv1.Delivery_State
		code  string
		gone  bool
	}{
		"greylisted":           {"rcpt", no(451, 4, 7, 1), providerv1.Delivery_STATE_DEFERRED, "451 4.7.1", false},
		"no such mailbox":      {"rcpt", no(550, 5, 1, 1), providerv1.Delivery_STATE_REFUSED, "550 5.1.1", true},
		"not wanted":           {"rcpt", no(550, 5, 7, 1), providerv1.Delivery_STATE_REFUSED, "550 5.7.1", false},
		"not wanted as sender": {"mail", no(553, 5, 1, 8), providerv1.Delivery_STATE_DEFERRED, "553 5.1.8", false},
		"too large":            {"mail", no(552, 5, 3, 4), providerv1.Delivery_STATE_REFUSED, "552 5.3.4", false},
		"busy":                 {"data", no(421, 4, 3, 2), providerv1.Delivery_STATE_DEFERRED, "421 4.3.2", false},
		"spam":                 {"end", no(554, 5, 7, 1), providerv1.Delivery_STATE_REFUSED, "554 5.7.1", false},
		"full":                 {"end", no(452, 4, 2, 2), providerv1.Delivery_STATE_DEFERRED, "452 4.2.2", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openPost(t, noTLS)
			s.says[c.stage] = c.says
			p := open(t, s, noTLS, nil)
			d := p.send(t, asked("k"))
			require.Equal(t, c.state, d.GetState())
			require.Equal(t, c.code, d.GetCode(), "a code, and no words: they repeat addresses")
			require.Equal(t, c.gone, d.GetGone())
			require.Empty(t, s.got())
			// The server has changed its mind; a refusal is the end all the same.
			again := p.send(t, asked("k"))
			if c.state == providerv1.Delivery_STATE_REFUSED {
				require.Equal(t, c.code, again.GetCode())
				require.Empty(t, s.got())
				return
			}
			require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, again.GetState())
			require.Len(t, s.got(), 1)
		})
	}
}

func TestAWordThatDoesNotComeLeavesItOpenAndARepetitionCanBeTold(t *testing.T) {
	t.Parallel()
	s := openPost(t, noTLS)
	s.hang = true
	p := open(t, s, noTLS, nil)
	_, err := p.Send(t.Context(), asked("k"))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.Equal(t, "OUTCOME_UNKNOWN", fault.Reason(err))
	require.NotContains(t, err.Error(), "@")
	_, err = p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k"})
	require.Equal(t, "KEY_UNKNOWN", fault.Reason(err))
	require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, p.send(t, asked("k")).GetState())
	got := s.got()
	require.Len(t, got, 2, "at least once")
	ids := make([]string, 2)
	for i, m := range got {
		parsed, err := netmail.ReadMessage(strings.NewReader(m.text))
		require.NoError(t, err)
		ids[i] = parsed.Header.Get("Message-Id")
	}
	require.Equal(t, ids[0], ids[1])
}

func TestAConnectionThatTheServerEndedIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := openPost(t, noTLS)
	p := open(t, s, noTLS, nil)
	p.send(t, asked("k1"))
	s.mu.Lock()
	s.hang = true // after this one, at once
	s.mu.Unlock()
	_, err := p.Send(t.Context(), asked("k2"))
	require.Error(t, err)
	require.Equal(t, providerv1.Delivery_STATE_ACCEPTED, p.send(t, asked("k3")).GetState())
	require.Equal(t, 2, s.conns)
}

func TestAServerThatCannotBeUsedIsNobodysMail(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := closed.Addr().(*net.TCPAddr).Port
	require.NoError(t, closed.Close())
	secure, plain := openPost(t, startTLS), openPost(t, noTLS)
	_, stranger := certificate(t)
	for name, c := range map[string]struct {
		post   *post
		how    string
		change map[string]any
		code   string
	}{
		"nobody listens":        {plain, noTLS, map[string]any{"port": port}, "UNREACHABLE"},
		"another's certificate": {secure, startTLS, map[string]any{"ca_file": stranger}, "TLS_FAILED"},
		"nobody's certificate":  {secure, startTLS, map[string]any{"ca_file": nil}, "TLS_FAILED"},
		"no STARTTLS":           {plain, startTLS, map[string]any{"ca_file": nil, "username": nil}, "TLS_FAILED"},
		"another's account":     {secure, startTLS, map[string]any{"username": "mallory"}, "AUTH_FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t, c.post, c.how, c.change)
			d := p.send(t, asked("k"))
			require.Equal(t, providerv1.Delivery_STATE_DEFERRED, d.GetState())
			require.Equal(t, c.code, d.GetCode())
			life := pluginv1connect.NewPluginServiceClient(p.Client(call.Info{}))
			health, err := life.Check(t.Context(), &pluginv1.CheckRequest{Instance: "notify-smtp"})
			require.NoError(t, err)
			require.Equal(t, pluginv1.CheckResponse_STATUS_DEGRADED, health.GetStatus(), "calls go elsewhere")
			require.Equal(t, c.code, health.GetReason())
		})
	}
	require.Empty(t, plain.got(), "nothing goes in the clear that was to be secret")
}

func TestWhatIsNoMailIsRefused(t *testing.T) {
	t.Parallel()
	s := openPost(t, noTLS)
	p := open(t, s, noTLS, nil)
	req := asked("k")
	req.Recipient = &providerv1.Recipient{To: &providerv1.Recipient_Mail{Mail: "ann@example.com\r\nBcc: x@example.com"}}
	require.Equal(t, "ADDRESS_INVALID", p.send(t, req).GetCode())
	req = asked("k2")
	req.Channel = providerv1.Channel_CHANNEL_WEBHOOK
	_, err := p.Send(t.Context(), req)
	require.Equal(t, "CHANNEL_UNKNOWN", fault.Reason(err))
	req = asked("k3")
	req.Message.Subject = "a\r\nBcc: x@example.com"
	_, err = p.Send(t.Context(), req)
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.Empty(t, s.got())
}

func TestAConfigurationIsLookedAt(t *testing.T) {
	t.Parallel()
	require.Empty(t, validate([]byte(`{"host": "mail.example", "from": "a@example.com", "username": "a", "security": "tls", "timeout": "3s"}`)))
	for field, config := range map[string]string{
		"host":     `{"host": "mail.example:25", "from": "a@example.com"}`,
		"port":     `{"host": "mail.example", "port": 70000, "from": "a@example.com"}`,
		"security": `{"host": "mail.example", "security": "none", "from": "a@example.com"}`,
		"username": `{"host": "localhost", "security": "none", "username": "a", "from": "a@example.com"}`,
		"from":     `{"host": "mail.example", "from": "nobody"}`,
		"timeout":  `{"host": "mail.example", "from": "a@example.com", "timeout": "1h"}`,
		"reply_to": `{"host": "mail.example", "from": "a@example.com", "reply_to": "x"}`,
	} {
		found := validate([]byte(config))
		require.Len(t, found, 1, field)
		require.Equal(t, field, found[0].GetField())
	}
}

// TestLogsHoldNoAddress: whatever goes wrong, who was written to stays out of
// the log.
func TestLogsHoldNoAddress(t *testing.T) {
	var b strings.Builder
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer slog.SetDefault(old)
	s := openPost(t, noTLS)
	p := open(t, s, noTLS, nil)
	s.says["rcpt"] = &smtp.SMTPError{Code: 550, Message: ann}
	p.send(t, asked("k1"))
	s.hang = true
	_, err := p.Send(t.Context(), asked("k2"))
	require.Error(t, err)
	var ce *connect.Error
	require.ErrorAs(t, err, &ce)
	require.NotContains(t, b.String()+ce.Error(), ann)
}

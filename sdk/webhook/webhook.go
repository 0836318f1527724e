// Package webhook tells somebody of what happened by signed webhooks (Standard
// Webhooks), in order and from a journal, however often the process dies. It is
// for companies to practise with, and calls nobody but this machine.
package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// sendTimeout bounds one try, giveUpAfter how long one webhook is tried,
	// slowest the pause between two tries: who is told is on this machine, and
	// all that comes after waits for the one that is tried.
	sendTimeout = 5 * time.Second
	giveUpAfter = 24 * time.Hour
	slowest     = 2 * time.Second
)

// Message is what is told of one line of the journal.
type Message struct {
	// N is the line, ID the webhook's own id: the same for every repetition.
	N    int64
	ID   string
	Body []byte
	// Times is how often it is sent, on purpose.
	Times int
	// Wait tells when the line is on disk: what is not is not told. Nil means
	// that it is.
	Wait func() error
}

// Source is what is to be told. Safe for concurrent use.
type Source interface {
	// Next is the first message after a line; nil when there is none yet. Those
	// up to the line are told and may be forgotten.
	Next(after int64) *Message
	// News tells that there may be more.
	News() <-chan struct{}
}

// Sender tells of a source's messages in their order. How far it is stands in
// a file, so that a crash loses none; one may be sent twice.
type Sender struct {
	url    string
	cursor string
	wh     *standardwebhooks.Webhook
	log    *slog.Logger
	client *http.Client
	// at is the last line of the journal that is told.
	at     int64
	cancel context.CancelFunc
	done   chan struct{}
}

// New makes a sender that goes on where the one before was: dir holds how far
// that is. secret is one of Standard Webhooks, "whsec_" and base64.
func New(dir, url, secret string, log *slog.Logger) (*Sender, error) {
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, errors.New("the secret is none of Standard Webhooks: want whsec_ and base64")
	}
	s := &Sender{url: url, cursor: filepath.Join(dir, "webhooks.sent"), wh: wh, log: log, client: toThisMachine(), done: make(chan struct{})}
	b, err := os.ReadFile(s.cursor)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if s.at, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
		return nil, fmt.Errorf("%s: %w", s.cursor, err)
	}
	return s, nil
}

// toThisMachine is a client that connects to loopback addresses only, whatever
// a name resolves to, and follows no redirect.
func toThisMachine() *http.Client {
	dialer := &net.Dialer{Timeout: sendTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("%s is not this machine: the sandbox tells nobody else", address)
		}
		return nil
	}}
	return &http.Client{
		Timeout:       sendTimeout,
		Transport:     &http.Transport{DialContext: dialer.DialContext, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Start begins to send, until Close; that ctx ends does not matter.
func (s *Sender) Start(ctx context.Context, from Source) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.run(ctx, from)
}

func (s *Sender) run(ctx context.Context, from Source) {
	defer close(s.done)
	for {
		m := from.Next(s.at)
		if m == nil {
			select {
			case <-ctx.Done():
				return
			case <-from.News():
			}
			continue
		}
		if m.Wait != nil {
			if err := m.Wait(); err != nil {
				// Neither this nor what comes after it is on disk.
				s.log.Error("webhooks end with the books", "error", err)
				return
			}
		}
		for range m.Times {
			if !s.deliver(ctx, m) {
				return
			}
		}
		s.at = m.N
		if err := s.sent(); err != nil {
			s.log.Error("webhook cursor", "error", err)
		}
	}
}

// deliver tries until it is taken, given up, or the process ends.
func (s *Sender) deliver(ctx context.Context, m *Message) bool {
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, slowest) {
		err := s.post(ctx, m)
		if err == nil {
			return true
		}
		if time.Since(began) > giveUpAfter {
			s.log.Error("webhook given up", "webhook", m.ID, "error", err)
			return true
		}
		s.log.Debug("webhook not taken", "webhook", m.ID, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (s *Sender) post(ctx context.Context, m *Message) error {
	now := time.Now()
	signature, err := s.wh.Sign(m.ID, now, m.Body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(m.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(standardwebhooks.HeaderWebhookID, m.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

// sent writes down how far it is. What a crash of the machine loses of it is
// told again.
func (s *Sender) sent() error {
	tmp := s.cursor + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.FormatInt(s.at, 10)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.cursor)
}

// Close ends it. What is not told yet is told by the next one.
func (s *Sender) Close() {
	s.cancel()
	<-s.done
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	// sendTimeout bounds one try, giveUpAfter how long one webhook is tried.
	sendTimeout = 5 * time.Second
	giveUpAfter = 24 * time.Hour
	slowest     = 30 * time.Second
)

// sender tells the marketplace of operations by webhook, signed after Standard
// Webhooks, in the order of the journal and from it. How far it is stands in a
// file, so that a crash loses none; one may be sent twice. It calls nobody but
// this machine.
type sender struct {
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

// newSender makes a sender that goes on where the one before was.
func newSender(dir, url, secret string, log *slog.Logger) (*sender, error) {
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, errors.New("webhook_secret is no secret of Standard Webhooks: want whsec_ and base64")
	}
	s := &sender{url: url, cursor: filepath.Join(dir, "webhooks.sent"), wh: wh, log: log, client: toThisMachine(), done: make(chan struct{})}
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

// start begins to send what the company has to tell, until close; that ctx
// ends does not matter.
func (s *sender) start(ctx context.Context, c *company) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.run(ctx, c)
}

func (s *sender) run(ctx context.Context, c *company) {
	defer close(s.done)
	for {
		e := c.next(s.at)
		if e == nil {
			select {
			case <-ctx.Done():
				return
			case <-c.news:
			}
			continue
		}
		if err := e.wait(); err != nil {
			// Neither this nor what comes after it is on disk.
			s.log.Error("webhooks end with the books", "error", err)
			return
		}
		for range e.Tell {
			if !s.deliver(ctx, e.record) {
				return
			}
		}
		s.at = e.N
		if err := s.sent(); err != nil {
			s.log.Error("webhook cursor", "error", err)
		}
	}
}

// deliver tries until it is taken, given up, or the process ends.
func (s *sender) deliver(ctx context.Context, v record) bool {
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, slowest) {
		err := s.post(ctx, v)
		if err == nil {
			return true
		}
		if time.Since(began) > giveUpAfter {
			s.log.Error("webhook given up", "operation", v.Reference, "error", err)
			return true
		}
		s.log.Debug("webhook not taken", "operation", v.Reference, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (s *sender) post(ctx context.Context, v record) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	id, now := "msg_"+v.Reference+"_"+strconv.FormatInt(v.N, 10), time.Now()
	signature, err := s.wh.Sign(id, now, body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
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
func (s *sender) sent() error {
	tmp := s.cursor + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.FormatInt(s.at, 10)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.cursor)
}

func (s *sender) close() {
	s.cancel()
	<-s.done
}

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
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// sendTimeout bounds one try, giveUpAfter how long one webhook is tried.
	sendTimeout = 5 * time.Second
	giveUpAfter = 24 * time.Hour
	slowest     = 30 * time.Second
	// maxTold bounds webhooks that wait to be sent.
	maxTold = 4096
)

// sender tells the marketplace of operations by webhook, signed after Standard
// Webhooks, in the order of the journal. How far it is stands in a file, so
// that a crash loses none; one may be sent twice.
type sender struct {
	url    string
	cursor string
	wh     *standardwebhooks.Webhook
	log    *slog.Logger
	client *http.Client
	queue  chan record
	cancel context.CancelFunc
	done   chan struct{}
}

// newSender makes a sender and says how far it was.
func newSender(dir, url, secret string, log *slog.Logger) (*sender, int64, error) {
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, 0, errors.New("webhook_secret is no secret of Standard Webhooks: want whsec_ and base64")
	}
	s := &sender{
		url: url, cursor: filepath.Join(dir, "webhooks.sent"), wh: wh, log: log, client: &http.Client{Timeout: sendTimeout},
		queue: make(chan record, maxTold), done: make(chan struct{}),
	}
	b, err := os.ReadFile(s.cursor)
	if errors.Is(err, fs.ErrNotExist) {
		return s, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return s, n, err
}

// start begins to send.
func (s *sender) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.run(ctx)
}

// tell queues a record. When too many wait it is left to the next start, which
// reads the journal.
func (s *sender) tell(v record) {
	select {
	case s.queue <- v:
	default:
		s.log.Warn("webhooks are not taken; the rest is sent after the next start")
	}
}

func (s *sender) run(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-s.queue:
			for range v.Tell {
				if !s.deliver(ctx, v) {
					return
				}
			}
			if err := s.sent(v.N); err != nil {
				s.log.Error("webhook cursor", "error", err)
			}
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

// sent moves the cursor: written whole or not at all.
func (s *sender) sent(n int64) error {
	tmp := s.cursor + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.FormatInt(n, 10)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.cursor)
}

func (s *sender) close() {
	s.cancel()
	<-s.done
}

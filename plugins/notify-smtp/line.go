package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

// errNoServer is wrapped where nothing was said to a server yet.
var errNoServer = errors.New("no server")

const (
	// mostIdle connections are kept for the next mails, each for idleFor: less
	// than servers do.
	mostIdle = 4
	idleFor  = 20 * time.Second
)

// line is the connections to the server. Safe for concurrent use.
type line struct {
	client *mail.Client

	mu     sync.Mutex
	idle   []idle
	closed bool
}

type idle struct {
	conn  *smtp.Client
	since time.Time
}

func newLine(c *mail.Client) *line { return &line{client: c} }

// take is a connection that rests, or nil.
func (l *line) take() *smtp.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.idle) > 0 {
		last := l.idle[len(l.idle)-1]
		l.idle = l.idle[:len(l.idle)-1]
		if time.Since(last.since) < idleFor {
			return last.conn
		}
		_ = last.conn.Close()
	}
	return nil
}

// rest keeps a connection on which all went well.
func (l *line) rest(c *smtp.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.idle) == mostIdle {
		_ = l.client.CloseWithSMTPClient(c)
		return
	}
	l.idle = append(l.idle, idle{c, time.Now()})
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, i := range l.idle {
		_ = l.client.CloseWithSMTPClient(i.conn)
	}
	l.idle = nil
}

// send hands a mail over. A connection that the server has closed meanwhile is
// noticed before anything of the mail is said, and another is made.
func (l *line) send(ctx context.Context, m *mail.Msg) error {
	if c := l.take(); c != nil {
		err := l.say(ctx, c, m)
		var said *mail.SendError
		if err == nil || !errors.As(err, &said) || said.Reason != mail.ErrConnCheck {
			return err
		}
	}
	c, err := l.client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoServer, err)
	}
	return l.say(ctx, c, m)
}

// say sends one mail on a connection, and keeps or closes it. When ctx ends the
// connection does: nobody waits for a server longer than the caller.
func (l *line) say(ctx context.Context, c *smtp.Client, m *mail.Msg) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err := l.client.SendWithSMTPClient(c, m)
	if alive := stop(); err != nil || !alive {
		_ = c.Close()
		return err
	}
	l.rest(c)
	return nil
}

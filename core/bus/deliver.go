package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect/v2"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// outcome is what became of a delivery.
type outcome string

const (
	handled outcome = "handled"
	// stale: the position was elsewhere.
	stale outcome = "stale"
	// later: the plugin was not reached, or was busy. It says nothing about
	// the events.
	later outcome = "later"
	// failed: the handler could not take an event.
	failed outcome = "failed"
)

// judge tells the outcome by the error. Only what the plugin itself answered
// can say anything about an event; all else is a matter of the way there.
func judge(err error) outcome {
	if err == nil {
		return handled
	}
	var ce *connect.Error
	if !errors.As(err, &ce) || !ce.IsRemote() {
		return later
	}
	switch ce.Code() {
	case connect.CodeAborted:
		return stale
	case connect.CodeUnavailable, connect.CodeResourceExhausted, connect.CodeDeadlineExceeded, connect.CodeCanceled,
		// These come from a process that is not the plugin, or not yet.
		connect.CodeUnimplemented, connect.CodeUnauthenticated:
		return later
	default:
		return failed
	}
}

// advance moves a lane one delivery onward. It answers how long the lane is
// to rest, and whether there may be more to do.
func (s *subscription) advance(ctx context.Context, l int) (rest time.Duration, again bool) {
	ln := &s.state[l]
	if s.refresh(l) {
		if err := s.load(ctx, l); err != nil {
			s.bus.trouble(ctx, "reading a lane", err)
			s.reread(1 << l)
			return s.backoff(ln), true
		}
	}
	events, err := s.pending(ctx, l)
	switch {
	case err != nil:
		s.bus.trouble(ctx, "reading the log", err)
		return s.backoff(ln), true
	case len(events) == 0:
		return 0, false
	}
	if ln.parked[events[0].event.GetKey()] {
		return s.behind(ctx, l, events)
	}
	n := 1
	for n < len(events) && !ln.parked[events[n].event.GetKey()] {
		n++
	}
	if ln.single > 0 {
		n = 1
	}
	return s.deliver(ctx, l, events[:n])
}

// pending is what the lane has to deliver next, at most a batch.
func (s *subscription) pending(ctx context.Context, l int) ([]*entry, error) {
	ln := &s.state[l]
	from := max(ln.cursor, ln.seen)
	events, through, ok := s.bus.tail.after(l, from, ln.limit, s.takes())
	if !ok {
		var err error
		if events, through, err = s.bus.lagging(ctx, s, l, from, ln.limit); err != nil {
			return nil, err
		}
	}
	if len(events) == 0 {
		ln.seen = through
	}
	return events, nil
}

func (s *subscription) deliver(ctx context.Context, l int, batch []*entry) (rest time.Duration, again bool) {
	ln := &s.state[l]
	req := &pluginv1.DeliverRequest{
		Subscription: int32(s.id), Lane: int32(l), Expected: ln.cursor, Next: batch[len(batch)-1].pos(),
		Events: make([]*pluginv1.Event, len(batch)),
	}
	for i, e := range batch {
		req.Events[i] = e.event
	}
	err := s.send(ctx, req)
	how := judge(err)
	s.bus.metrics.delivery(s, how, len(batch))
	switch how {
	case handled:
		ln.cursor, ln.failures = req.GetNext(), 0
		ln.single = max(0, ln.single-1)
		ln.limit = min(2*ln.limit, s.bus.c.Batch)
		return 0, true
	case stale:
		s.reread(1 << l)
		return s.backoff(ln), true
	case later:
		// A batch that was too much in the time is not too much for ever.
		ln.limit = max(1, len(batch)/2)
		return s.backoff(ln), true
	default:
		if len(batch) > 1 {
			ln.single = len(batch)
			return 0, true
		}
		return s.fail(ctx, l, batch[0], err)
	}
}

// send makes one call, bounded in time.
func (s *subscription) send(ctx context.Context, req *pluginv1.DeliverRequest) error {
	s.mu.Lock()
	req.Name = s.name
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.bus.c.DeliverTimeout)
	defer cancel()
	return s.bus.c.Deliverer.Deliver(ctx, s.plugin, req)
}

// backoff is the pause after one more failure of the lane: exponential, half
// of it random.
func (s *subscription) backoff(ln *lane) time.Duration {
	ln.failures++
	d := min(s.bus.c.Backoff<<min(ln.failures-1, 10), 100*s.bus.c.Backoff)
	return d/2 + rand.N(d/2+1)
}

// reason is the text that is kept of a failure: the plugin's own words, made
// fit for the database.
func reason(err error) string {
	text := err.Error()
	var ce *connect.Error
	if errors.As(err, &ce) {
		text = ce.Code().String() + ": " + ce.Message()
	}
	if f, ok := fault.Detail[*pluginv1.DeliveryFailure](err); ok && f.GetMessage() != "" {
		text = f.GetMessage()
	}
	return clip(strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?"), 500)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

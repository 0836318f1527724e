package bus

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
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

// part is what one lane has in a delivery.
type part struct {
	lane   int
	events []*entry
}

// advance moves a lane, and others that have work meanwhile, one delivery
// onward: one transaction for what would be many. A lane whose last delivery
// was not handled goes alone, so that it holds up nobody else's.
func (s *subscription) advance(ctx context.Context, l int) {
	var parts []part
	events, bytes := 0, 0
	for more := true; more; l, more = s.join() {
		found, rest, again := s.next(ctx, l)
		if len(found) == 0 {
			s.end(l, rest, again)
			continue
		}
		parts = append(parts, part{l, found})
		events += len(found)
		for _, e := range found {
			bytes += len(e.event.GetPayload())
		}
		// Each lane brings a batch at most: the next might not fit.
		if events+s.bus.c.Batch > maxEvents || events >= s.bus.c.Batch || bytes >= batchBytes || s.isolated(parts[0].lane) {
			break
		}
	}
	if len(parts) > 0 {
		s.deliver(ctx, parts)
	}
}

// end gives a lane back that needs no more of this worker.
func (s *subscription) end(l int, rest time.Duration, again bool) {
	if rest > 0 {
		s.rest(l, rest)
	}
	s.release(l, again)
}

// next is what the lane has to deliver. Where there is nothing it answers how
// long the lane is to rest, and whether there may be more to do.
func (s *subscription) next(ctx context.Context, l int) (events []*entry, rest time.Duration, again bool) {
	ln := &s.state[l]
	if s.refresh(l) {
		if err := s.load(ctx, l); err != nil {
			s.bus.trouble(ctx, "reading a lane", err)
			s.reread(1 << l)
			return nil, s.backoff(ln), true
		}
	}
	events, err := s.pending(ctx, l)
	switch {
	case err != nil:
		s.bus.trouble(ctx, "reading the log", err)
		return nil, s.backoff(ln), true
	case len(events) == 0:
		return nil, 0, false
	}
	if ln.parked[events[0].event.GetKey()] {
		rest, again = s.behind(ctx, l, events)
		return nil, rest, again
	}
	n := 1
	for n < len(events) && !ln.parked[events[n].event.GetKey()] {
		n++
	}
	if ln.single > 0 {
		n = 1
	}
	return events[:n], 0, false
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

// deliver makes one call of the parts and gives their lanes back.
func (s *subscription) deliver(ctx context.Context, parts []part) {
	slices.SortFunc(parts, func(a, b part) int { return a.lane - b.lane })
	req := &pluginv1.DeliverRequest{Subscription: int32(s.id)}
	var all []*entry
	for _, p := range parts {
		all = append(all, p.events...)
		req.Lanes = append(req.Lanes, &pluginv1.LaneMove{
			Lane: int32(p.lane), Expected: s.state[p.lane].cursor, Next: p.events[len(p.events)-1].pos(),
		})
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.pos(), b.pos()) })
	for _, e := range all {
		req.Events = append(req.Events, e.event)
	}
	s.pace(len(all))
	err := s.send(ctx, req)
	how := judge(err)
	s.bus.metrics.delivery(s, how, len(all))
	guilty := -1
	if how == failed && len(parts) > 1 {
		guilty = blame(err, all)
	}
	for _, p := range parts {
		rest, again := s.outcome(ctx, p, how, err, len(parts), guilty)
		s.end(p.lane, rest, again)
	}
}

// blame is the lane of the event that the handler says it could not take; -1
// when it does not say.
func blame(err error, all []*entry) int {
	f, ok := fault.Detail[*pluginv1.DeliveryFailure](err)
	if i := int(f.GetIndex()); ok && i >= 0 && i < len(all) {
		return all[i].lane
	}
	return -1
}

// outcome is what a delivery means for one of its lanes, as next answers.
func (s *subscription) outcome(ctx context.Context, p part, how outcome, err error, parts, guilty int) (rest time.Duration, again bool) {
	ln := &s.state[p.lane]
	switch how {
	case handled:
		ln.cursor, ln.failures = p.events[len(p.events)-1].pos(), 0
		ln.single = max(0, ln.single-1)
		ln.limit = min(2*ln.limit, s.bus.c.Batch)
		if ln.single == 0 {
			s.isolate(p.lane, false)
		}
		return 0, true
	case stale:
		s.isolate(p.lane, true)
		s.reread(1 << p.lane)
		return s.backoff(ln), true
	case later:
		// A batch that was too much in the time is not too much for ever.
		ln.limit = max(1, len(p.events)/2)
		s.isolate(p.lane, true)
		return s.backoff(ln), true
	}
	if guilty >= 0 && guilty != p.lane {
		return 0, true // another's failure
	}
	s.isolate(p.lane, true)
	if len(p.events) > 1 || parts > 1 {
		ln.single = len(p.events)
		return 0, true
	}
	return s.fail(ctx, p.lane, p.events[0], err)
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

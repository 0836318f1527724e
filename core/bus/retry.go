package bus

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

const (
	// retryPoll is how often set-aside events are looked at without a poke.
	retryPoll = time.Second
	// retryInFlight bounds the events of one subscription that are tried again
	// at once: a plugin that hangs holds up nobody else's.
	retryInFlight = 4
)

// aside is a set-aside event that is the first of its key.
type aside struct {
	sub     *subscription
	attempt int
	*entry
}

type asideID struct {
	sub int16
	pos int64
}

func (a aside) id() asideID { return asideID{a.sub.id, a.pos()} }

// retrying is what is known of events that are tried again.
type retrying struct {
	mu     sync.Mutex
	flying map[asideID]bool
	// handled are those whose plugin said to have handled them. Its
	// transaction removes the row: one that is still there was not handled.
	handled map[asideID]bool
}

// retry tries set-aside events again when they are due, the first of each
// key, until ctx ends.
func (b *Bus) retry(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	r := &retrying{flying: map[asideID]bool{}, handled: map[asideID]bool{}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.pokeRetry:
		case <-timer.C:
		}
		// As of before the query: what flies during it may or may not be in it.
		r.mu.Lock()
		flying, handled := maps.Clone(r.flying), r.handled
		r.handled = map[asideID]bool{}
		r.mu.Unlock()
		heads, next, err := b.heads(ctx, flying)
		if err != nil {
			b.trouble(ctx, "looking for events set aside", err)
		}
		for _, h := range heads {
			if !b.begin() {
				return
			}
			r.mu.Lock()
			r.flying[h.id()] = true
			r.mu.Unlock()
			go func() {
				defer b.work.Done()
				ok := b.again(b.base, h, handled[h.id()])
				r.mu.Lock()
				delete(r.flying, h.id())
				if ok {
					r.handled[h.id()] = true
				}
				r.mu.Unlock()
				signal(b.pokeRetry)
			}()
		}
		timer.Reset(next)
	}
}

// heads finds due events that are the first of their keys, of lanes that this
// node has, besides those that fly; and how long it is until the next is due.
// It steps from key to key along the index: a key with a long queue behind it
// costs one step.
func (b *Bus) heads(ctx context.Context, flying map[asideID]bool) ([]aside, time.Duration, error) {
	ids, subs, room := []int16{}, map[int16]*subscription{}, map[int16]int{}
	b.each(func(s *subscription) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.on && !s.retired {
			ids, subs[s.id], room[s.id] = append(ids, s.id), s, retryInFlight
		}
	})
	for f := range flying {
		room[f.sub]--
	}
	if len(ids) == 0 {
		return nil, retryPoll, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := b.c.Pool.Query(ctx, `WITH RECURSIVE k AS (
		  (SELECT p.sub, p.key FROM bus.parked p ORDER BY p.sub, p.key LIMIT 1)
		  UNION ALL
		  SELECT n.sub, n.key FROM k, LATERAL (SELECT p.sub, p.key FROM bus.parked p WHERE (p.sub, p.key) > (k.sub, k.key) ORDER BY p.sub, p.key LIMIT 1) n),
		h AS (SELECT f.*, row_number() OVER (PARTITION BY f.sub ORDER BY f.due) AS turn FROM k JOIN bus.subscription s ON s.id = k.sub,
		  LATERAL (SELECT p.* FROM bus.parked p WHERE p.sub = k.sub AND p.key = k.key AND (NOT p.dead OR s.on_dead = 'block_key') ORDER BY p.pos LIMIT 1) f
		  WHERE k.sub = ANY ($1) AND NOT f.dead)
		SELECT h.sub, h.attempt, (extract(epoch FROM h.due - now()) * 1000)::bigint, h.pos, h.lane FROM h WHERE h.turn <= 100 ORDER BY h.due`, ids)
	if err != nil {
		return nil, retryPoll, err
	}
	next, heads, at := retryPoll, []aside{}, []int64{}
	var sub, attempt, lane int16
	var wait, pos int64
	_, err = pgx.ForEachRow(rows, []any{&sub, &attempt, &wait, &pos, &lane}, func() error {
		s := subs[sub]
		switch {
		case flying[asideID{sub, pos}] || !b.owns(s.plugin, s.id, int(lane)):
		case wait > 0:
			next = min(next, time.Duration(wait)*time.Millisecond)
		case room[sub] > 0:
			room[sub]--
			heads, at = append(heads, aside{sub: s, attempt: int(attempt), entry: &entry{event: &pluginv1.Event{Position: pos}}}), append(at, pos)
		}
		return nil
	})
	if err != nil || len(heads) == 0 {
		return nil, next, err
	}
	heads, err = b.fill(ctx, heads, at)
	return heads, next, err
}

// fill reads the events of heads from the log. What does not fit in one read
// is found again next time.
func (b *Bus) fill(ctx context.Context, heads []aside, at []int64) ([]aside, error) {
	entries, _, err := b.read(ctx, `SELECT `+columns+` FROM bus.log WHERE pos > $1 AND pos = ANY ($3) ORDER BY pos LIMIT $2`, 0, len(at), at)
	if err != nil {
		return nil, err
	}
	by := make(map[int64]*entry, len(entries))
	for _, e := range entries {
		by[e.pos()] = e
	}
	full := heads[:0]
	for _, h := range heads {
		if e := by[h.pos()]; e != nil {
			full = append(full, aside{sub: h.sub, attempt: h.attempt, entry: e})
		}
	}
	return full, nil
}

// again delivers one set-aside event. True: it is handled, and the next of
// its key may go.
func (b *Bus) again(ctx context.Context, h aside, lied bool) bool {
	req := &pluginv1.DeliverRequest{Subscription: int32(h.sub.id), Parked: true, Events: []*pluginv1.Event{h.event}}
	err := h.sub.send(ctx, req)
	how := judge(err)
	b.metrics.delivery(h.sub, how, 1)
	switch {
	case how == handled && !lied:
		return true
	case how == handled:
		b.failedAgain(ctx, h, "the plugin answers that the event is handled, and has not taken it")
	case how == failed:
		b.failedAgain(ctx, h, reason(err))
	case how == later:
		b.putOff(ctx, h, 100*b.c.Backoff)
	case how == stale:
		// Another delivery won, and the row is gone; or the plugin errs.
		b.putOff(ctx, h, retryPoll)
	}
	return false
}

// failedAgain counts an attempt; the last one makes the event dead.
func (b *Bus) failedAgain(ctx context.Context, h aside, why string) {
	attempt := h.attempt + 1
	h.sub.mu.Lock()
	dead := attempt >= h.sub.maxAttempts
	h.sub.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	_, err := b.c.Pool.Exec(ctx, `UPDATE bus.parked SET attempt = $3, due = now() + $4 * interval '1 microsecond', dead = $5, error = $6
		WHERE sub = $1 AND pos = $2`, h.sub.id, h.pos(), int16(attempt), b.retryPause(attempt).Microseconds(), dead, why)
	if err != nil {
		b.trouble(ctx, "counting an attempt", err)
		return
	}
	if dead {
		b.metrics.dead.WithLabelValues(h.sub.label()).Inc()
		b.log.ErrorContext(ctx, "bus: an event is dead; the operator retries or discards it", "subscription", h.sub.label(),
			"topic", h.event.GetTopic(), "key", h.event.GetKey(), "position", h.pos(), "attempts", attempt, "error", why)
	}
}

func (b *Bus) putOff(ctx context.Context, h aside, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	_, err := b.c.Pool.Exec(ctx, `UPDATE bus.parked SET due = now() + $3 * interval '1 microsecond' WHERE sub = $1 AND pos = $2`,
		h.sub.id, h.pos(), d.Microseconds())
	if err != nil {
		b.trouble(ctx, "putting an event off", err)
	}
}

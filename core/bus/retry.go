package bus

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

const (
	// retryPoll is how often set-aside events are looked at without a poke.
	retryPoll = time.Second
	// retryBatch and retryInFlight bound one round of trying again.
	retryBatch    = 64
	retryInFlight = 8
)

// aside is a set-aside event that is the first of its key.
type aside struct {
	sub     *subscription
	attempt int
	*entry
}

// retry tries set-aside events again when they are due, the first of each
// key, until ctx ends.
func (b *Bus) retry(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	// What a plugin said to have handled in the last round. Its transaction
	// removes the row; one that is still there was not handled.
	done := map[[2]int64]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.pokeRetry:
		case <-timer.C:
		}
		heads, next, err := b.heads(ctx)
		if err != nil {
			b.trouble(ctx, "looking for events set aside", err)
			timer.Reset(retryPoll)
			continue
		}
		if !b.begin() {
			return
		}
		last := done
		done = make(map[[2]int64]bool, len(heads))
		ok := make([]bool, len(heads))
		g := errgroup.Group{}
		g.SetLimit(retryInFlight)
		for i, h := range heads {
			lied := last[h.id()]
			g.Go(func() error { ok[i] = b.again(b.base, h, lied); return nil })
		}
		_ = g.Wait()
		b.work.Done()
		for i, h := range heads {
			if ok[i] {
				done[h.id()], next = true, 0
			}
		}
		timer.Reset(min(max(next, time.Millisecond), retryPoll))
	}
}

func (a aside) id() [2]int64 { return [2]int64{int64(a.sub.id), a.pos()} }

// heads finds due events that are the first of their keys, of lanes that this
// node has; and how long it is until the next is due. It steps from key to key
// along the index: a key with a long queue behind it costs one step.
func (b *Bus) heads(ctx context.Context) ([]aside, time.Duration, error) {
	ids, subs := []int16{}, map[int16]*subscription{}
	b.each(func(s *subscription) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.on && !s.retired {
			ids, subs[s.id] = append(ids, s.id), s
		}
	})
	if len(ids) == 0 {
		return nil, retryPoll, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := b.c.Pool.Query(ctx, `WITH RECURSIVE k AS (
		  (SELECT p.sub, p.key FROM bus.parked p ORDER BY p.sub, p.key LIMIT 1)
		  UNION ALL
		  SELECT n.sub, n.key FROM k, LATERAL (SELECT p.sub, p.key FROM bus.parked p WHERE (p.sub, p.key) > (k.sub, k.key) ORDER BY p.sub, p.key LIMIT 1) n),
		h AS (SELECT f.* FROM k JOIN bus.subscription s ON s.id = k.sub,
		  LATERAL (SELECT p.* FROM bus.parked p WHERE p.sub = k.sub AND p.key = k.key AND (NOT p.dead OR s.on_dead = 'block_key') ORDER BY p.pos LIMIT 1) f
		  WHERE k.sub = ANY ($1) AND NOT f.dead)
		SELECT h.sub, h.attempt, (extract(epoch FROM h.due - now()) * 1000)::bigint, h.pos, h.lane
		  FROM h ORDER BY h.due LIMIT $2`, ids, 4*retryBatch)
	if err != nil {
		return nil, 0, err
	}
	type found struct {
		sub, attempt, lane int16
		wait, pos          int64
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f found, err error) {
		err = row.Scan(&f.sub, &f.attempt, &f.wait, &f.pos, &f.lane)
		return f, err
	})
	if err != nil {
		return nil, 0, err
	}
	next, heads, at := retryPoll, []aside{}, []int64{}
	for _, f := range all {
		s := subs[f.sub]
		switch {
		case !b.owns(s.plugin, s.id, int(f.lane)):
		case f.wait > 0:
			next = min(next, time.Duration(f.wait)*time.Millisecond)
		case len(heads) < retryBatch:
			heads, at = append(heads, aside{sub: s, attempt: int(f.attempt), entry: &entry{event: &pluginv1.Event{Position: f.pos}}}), append(at, f.pos)
		default:
			next = 0
		}
	}
	if len(heads) == 0 {
		return nil, next, nil
	}
	return b.fill(ctx, heads, at, next)
}

// fill reads the events of heads from the log.
func (b *Bus) fill(ctx context.Context, heads []aside, at []int64, next time.Duration) ([]aside, time.Duration, error) {
	entries, all, err := b.read(ctx, `SELECT `+columns+` FROM bus.log WHERE pos > $1 AND pos = ANY ($3) ORDER BY pos LIMIT $2`, 0, retryBatch+1, at)
	if err != nil {
		return nil, 0, err
	}
	if !all {
		next = 0
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
	return full, next, nil
}

// again delivers one set-aside event. True: it is handled, and the next of
// its key may go.
func (b *Bus) again(ctx context.Context, h aside, lied bool) bool {
	req := &pluginv1.DeliverRequest{Subscription: int32(h.sub.id), Lane: int32(h.lane), Parked: true, Events: []*pluginv1.Event{h.event}}
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

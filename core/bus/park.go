package bus

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// load reads where a lane is and which of its keys have events set aside, as
// of one moment.
func (s *subscription) load(ctx context.Context, l int) error {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	var keys []string
	ln := &s.state[l]
	// A dead event of a subscription that skips blocks nothing.
	err := s.bus.c.Pool.QueryRow(ctx, `SELECT c.pos, ARRAY(SELECT DISTINCT p.key FROM bus.parked p
		   WHERE p.sub = c.sub AND p.lane = c.lane AND (NOT p.dead OR s.on_dead = 'block_key'))
		  FROM bus.cursor c JOIN bus.subscription s ON s.id = c.sub WHERE c.sub = $1 AND c.lane = $2`, s.id, int16(l)).Scan(&ln.cursor, &keys)
	if err != nil {
		return err
	}
	ln.seen, ln.parked = ln.cursor, make(map[string]bool, len(keys))
	for _, k := range keys {
		ln.parked[k] = true
	}
	return nil
}

// fail sets an event aside that its handler could not take, in the statement
// that moves the cursor over it.
func (s *subscription) fail(ctx context.Context, l int, e *entry, cause error) (rest time.Duration, again bool) {
	why := reason(cause)
	s.mu.Lock()
	dead := s.maxAttempts <= 1
	s.mu.Unlock()
	moved, err := s.park(ctx, l, []*entry{e}, 1, s.bus.retryPause(1), dead, why)
	if err == nil && moved {
		s.bus.log.WarnContext(ctx, "bus: an event was set aside", "subscription", s.label(),
			"topic", e.event.GetTopic(), "key", e.event.GetKey(), "position", e.pos(), "error", why)
		s.bus.metrics.parked(s, dead)
	}
	return s.parking(ctx, l, moved, err)
}

// behind sets the events aside that begin the list and whose keys have others
// set aside, unless those are handled by now.
func (s *subscription) behind(ctx context.Context, l int, events []*entry) (rest time.Duration, again bool) {
	ln := &s.state[l]
	n := 1
	for n < len(events) && ln.parked[events[n].event.GetKey()] {
		n++
	}
	still, err := s.blocked(ctx, events[:n])
	if err != nil {
		return s.parking(ctx, l, false, err)
	}
	for i, e := range events[:n] {
		if !still[e.event.GetKey()] {
			delete(ln.parked, e.event.GetKey())
			n = min(n, i)
		}
	}
	if n == 0 {
		return 0, true
	}
	moved, err := s.park(ctx, l, events[:n], 0, 0, false, "")
	return s.parking(ctx, l, moved, err)
}

// blocked tells which keys have events set aside that later ones wait for. A
// key without any can be delivered: the last one's removal was the commit of
// its effect, and a new one would move the cursor.
func (s *subscription) blocked(ctx context.Context, events []*entry) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	keys := make([]string, len(events))
	for i, e := range events {
		keys[i] = e.event.GetKey()
	}
	rows, err := s.bus.c.Pool.Query(ctx, `SELECT k FROM unnest($2::text[]) k WHERE EXISTS (
		SELECT 1 FROM bus.parked p JOIN bus.subscription s ON s.id = p.sub
		 WHERE p.sub = $1 AND p.key = k AND (NOT p.dead OR s.on_dead = 'block_key'))`, s.id, keys)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	set := make(map[string]bool, len(found))
	for _, k := range found {
		set[k] = true
	}
	return set, nil
}

// park moves the cursor over events and sets them aside, in one statement.
// False means that the cursor was elsewhere.
func (s *subscription) park(ctx context.Context, l int, events []*entry, attempt int, pause time.Duration, dead bool, why string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	ln := &s.state[l]
	at, keys := make([]int64, len(events)), make([]string, len(events))
	for i, e := range events {
		at[i], keys[i] = e.pos(), e.event.GetKey()
	}
	next := at[len(at)-1]
	tag, err := s.bus.c.Pool.Exec(ctx, `WITH c AS (UPDATE bus.cursor SET pos = $4 WHERE sub = $1 AND lane = $2 AND pos = $3 RETURNING sub, lane)
		INSERT INTO bus.parked (sub, pos, lane, key, attempt, due, dead, error)
		SELECT c.sub, e.pos, c.lane, e.key, $7, now() + $8 * interval '1 microsecond', $9, nullif($10, '')
		  FROM c, unnest($5::bigint[], $6::text[]) e(pos, key)`,
		s.id, int16(l), ln.cursor, next, at, keys, int16(attempt), pause.Microseconds(), dead, why)
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	ln.cursor = next
	for _, k := range keys {
		ln.parked[k] = true
	}
	return true, nil
}

// parking tells how a lane goes on after setting aside.
func (s *subscription) parking(ctx context.Context, l int, moved bool, err error) (rest time.Duration, again bool) {
	ln := &s.state[l]
	ln.single = max(0, ln.single-1)
	signal(s.bus.pokeRetry)
	switch {
	case err != nil:
		// It may have been committed all the same.
		s.bus.trouble(ctx, "setting an event aside", err)
		s.reread(1 << l)
		return s.backoff(ln), true
	case !moved:
		s.reread(1 << l)
		return s.backoff(ln), true
	}
	ln.failures = 0
	return 0, true
}

// retryPause is the pause before an event is tried again: exponential with
// full jitter, so that what failed together does not come back together.
func (b *Bus) retryPause(attempt int) time.Duration {
	d := b.c.RetryMax
	if shift := attempt - 1; shift < 30 && b.c.RetryBase<<shift < d {
		d = b.c.RetryBase << shift
	}
	return rand.N(d) + time.Millisecond
}

package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/sdk/busdb"
)

const (
	// settle is how often positions move over events that nobody here wants,
	// and how often subscriptions are read anew.
	settle = 5 * time.Second
	// sweep is how often old rows and partitions are looked at.
	sweep = time.Minute
	// partitionSize is the number of positions in a partition of the log.
	partitionSize = 5_000_000
	// toldDays is how long a provider's own id of a fact is known.
	toldDays = 30
	// sweepLock makes one node sweep at a time.
	sweepLock = 7204
)

// housekeep does what nobody waits for, until ctx ends.
func (b *Bus) housekeep(ctx context.Context) {
	look := time.NewTicker(heartbeat)
	defer look.Stop()
	var settled, swept time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if err := b.review(ctx); err != nil {
			b.trouble(ctx, "reading the subscriptions", err)
		}
		if time.Since(settled) >= settle {
			settled = time.Now()
			if err := b.settle(ctx); err != nil {
				b.trouble(ctx, "moving idle lanes", err)
			}
		}
		if time.Since(swept) >= sweep {
			swept = time.Now()
			if err := b.partitions(ctx); err != nil {
				b.trouble(ctx, "making a partition of the log", err)
			}
			if err := b.forget(ctx); err != nil {
				b.trouble(ctx, "dropping what is old", err)
			}
		}
	}
}

const readSettings = `SELECT id, split_part(name, '/', 2), topics, max_attempts, gather_ms, state = 'on', rev FROM bus.subscription`

func scanSettings(row pgx.CollectableRow) (id int16, c settings, err error) {
	var attempts int16
	var gather int64
	err = row.Scan(&id, &c.name, &c.topics, &attempts, &gather, &c.on, &c.rev)
	c.maxAttempts, c.gather = int(attempts), time.Duration(gather)*time.Millisecond
	return id, c, err
}

// review takes over what an operator or another node changed, and which lanes
// are this node's now.
func (b *Bus) review(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	b.mu.Lock()
	ids := make([]int16, 0, len(b.subs))
	for id := range b.subs {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	rows, err := b.c.Pool.Query(ctx, readSettings+` WHERE id = ANY ($1)`, ids)
	if err != nil {
		return err
	}
	found := map[int16]settings{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		id, c, err := scanSettings(row)
		found[id] = c
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.apply(found)
	b.mu.Unlock()
	b.each(func(s *subscription) {
		s.own()
		s.pump()
	})
	return nil
}

// apply takes settings over. b.mu is held throughout: what pass reads of the
// index is either before this, and then the lanes are looked at again, or
// knows the new topics.
func (b *Bus) apply(found map[int16]settings) {
	for id, c := range found {
		if s := b.subs[id]; s != nil {
			s.set(c)
		}
	}
	b.index()
}

// settle moves the cursors of idle lanes over events that the subscription
// does not want: all of them in one statement.
func (b *Bus) settle(ctx context.Context) error {
	type move struct {
		sub *subscription
		at  int
	}
	var moves []move
	var subs, at []int16
	var from, to []int64
	// Not the tail's end: there, lanes may not have been told yet.
	end := b.passed.Load()
	b.each(func(s *subscription) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for l := range busdb.Lanes {
			ln, bit := &s.state[l], lanes(1)<<l
			// Looked at, and nothing has come since.
			if !s.on || s.retired || (s.ready|s.waiting|s.busy|s.resting|s.stale)&bit != 0 || s.owned&bit == 0 || ln.seen < ln.cursor || end <= ln.cursor {
				continue
			}
			s.busy |= bit
			moves = append(moves, move{s, l})
			subs, at = append(subs, s.id), append(at, int16(l))
			from, to = append(from, ln.cursor), append(to, end)
		}
	})
	if len(moves) == 0 {
		return nil
	}
	moved, err := b.settleAt(ctx, subs, at, from, to)
	for i, m := range moves {
		ln := &m.sub.state[m.at]
		switch {
		case moved[[2]int16{subs[i], at[i]}]:
			ln.cursor, ln.seen = to[i], to[i]
		default:
			m.sub.reread(1 << m.at)
		}
		m.sub.mu.Lock()
		m.sub.busy &^= 1 << m.at
		m.sub.mu.Unlock()
	}
	b.each(func(s *subscription) { s.pump() })
	return err
}

func (b *Bus) settleAt(ctx context.Context, subs, at []int16, from, to []int64) (map[[2]int16]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := b.c.Pool.Query(ctx, `UPDATE bus.cursor c SET pos = m.next FROM unnest($1::int2[], $2::int2[], $3::int8[], $4::int8[]) m(sub, lane, pos, next)
		WHERE c.sub = m.sub AND c.lane = m.lane AND c.pos = m.pos RETURNING c.sub, c.lane`, subs, at, from, to)
	if err != nil {
		return nil, err
	}
	moved := map[[2]int16]bool{}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var k [2]int16
		err := row.Scan(&k[0], &k[1])
		moved[k] = true
		return struct{}{}, err
	})
	return moved, err
}

// partitions makes the log's next partition ahead of need. ATTACH does not
// hold up readers and writers, as CREATE TABLE ... PARTITION OF would.
func (b *Bus) partitions(ctx context.Context) error {
	return b.alone(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var head int64
		if err := tx.QueryRow(ctx, `SELECT last_value FROM bus.log_pos`).Scan(&head); err != nil {
			return err
		}
		for n := head / partitionSize; n <= (head+partitionSize/2)/partitionSize; n++ {
			name := fmt.Sprintf("log_p%d", n)
			var there bool
			if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, "bus."+name).Scan(&there); err != nil {
				return err
			}
			if there {
				continue
			}
			_, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE bus.%[1]s (LIKE bus.log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
				ALTER TABLE bus.log ATTACH PARTITION bus.%[1]s FOR VALUES FROM (%[2]d) TO (%[3]d)`, name, n*partitionSize, (n+1)*partitionSize))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// forget drops what providers told long ago and, where the operator limits the
// log, partitions that every subscription is past.
func (b *Bus) forget(ctx context.Context) error {
	_, err := b.exec(ctx, `DELETE FROM bus.told WHERE (plugin, dedupe_id) IN
		(SELECT plugin, dedupe_id FROM bus.told WHERE at < now() - make_interval(days => $1) LIMIT 10000)`, toldDays)
	if err != nil || b.c.KeepDays == 0 {
		return err
	}
	return b.alone(ctx, func(ctx context.Context, tx pgx.Tx) error {
		// A subscription that no plugin declares any more holds nothing back.
		var need, head int64
		err := tx.QueryRow(ctx, `SELECT l.last_value, least(l.last_value,
			   (SELECT min(c.pos) + 1 FROM bus.cursor c JOIN bus.subscription s ON s.id = c.sub WHERE s.state <> 'off'),
			   (SELECT min(p.pos) FROM bus.parked p JOIN bus.subscription s ON s.id = p.sub WHERE s.state <> 'off'))
			  FROM bus.log_pos l`).Scan(&head, &need)
		if err != nil {
			return err
		}
		for n := range need / partitionSize {
			if err := b.dropPartition(ctx, tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropPartition drops a partition whose last event is old enough.
func (b *Bus) dropPartition(ctx context.Context, tx pgx.Tx, n int64) error {
	name := fmt.Sprintf("bus.log_p%d", n)
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there); err != nil || !there {
		return err
	}
	var old bool
	err := tx.QueryRow(ctx, `SELECT coalesce((SELECT at < now() - make_interval(days => $1) FROM `+name+` ORDER BY pos DESC LIMIT 1), true)`,
		b.c.KeepDays).Scan(&old)
	if err != nil || !old {
		return err
	}
	// In one transaction with the lock, so DETACH CONCURRENTLY is out; the
	// lock that this takes is held for the blink of a catalogue change.
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'; ALTER TABLE bus.log DETACH PARTITION `+name+`; DROP TABLE `+name); err != nil {
		return err
	}
	b.log.InfoContext(ctx, "bus: a partition of the log was dropped", "partition", name, "keep_days", b.c.KeepDays)
	return nil
}

// alone runs fn in a transaction as the one node at such work.
func (b *Bus) alone(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*statement)
	defer cancel()
	return pgx.BeginFunc(ctx, b.c.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, sweepLock); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

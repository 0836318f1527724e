package bus

import (
	"context"
	"time"
)

// sequence gives committed events their positions and passes them on, until
// ctx ends. It looks at the outbox when poked and else every Poll, growing
// tenfold while nothing comes. After a batch it gathers for a moment: under
// load many events share a batch and a delivery, alone one goes at once.
func (b *Bus) sequence(ctx context.Context) {
	idle := b.c.Poll
	timer := time.NewTimer(0)
	defer timer.Stop()
	var mark lowWater
	var fed, took, server time.Time
	broken := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.poke:
			idle = b.c.Poll
			if pause := b.c.Gather - time.Since(took); pause > 0 {
				timer.Reset(pause)
				continue
			}
		case <-timer.C:
		}
		moved, since, err := b.move(ctx, &mark)
		if err != nil {
			b.trouble(ctx, "sequencing", err)
			broken = true
		}
		// A database that broke down may have come back as another: a replica,
		// or without the last moments where it does not wait for its disk. What
		// is remembered of it is then worth nothing.
		if err == nil && (broken || !since.Equal(server)) {
			if err = b.rewind(ctx); err == nil {
				mark, server, broken = lowWater{}, since, false
			}
		}
		// Another node's batch, or one of ours whose answer was lost, is found
		// by looking.
		if moved != 0 || err != nil || !b.c.Node.alone() || time.Since(fed) >= 10*b.c.Poll {
			n, ferr := b.pass(ctx)
			if ferr != nil {
				b.trouble(ctx, "reading the log", ferr)
				err, broken = ferr, true
			}
			fed = time.Now()
			moved = max(moved, int64(n))
		}
		switch {
		case err != nil:
			idle = 10 * b.c.Poll
		case moved > 0:
			idle, took = b.c.Poll, time.Now()
		default:
			idle = min(idle+idle/4, 10*b.c.Poll)
		}
		if moved >= sequenceBatch {
			took = time.Time{}
			signal(b.poke) // more stands behind it
		}
		timer.Reset(idle)
	}
}

// sequenceBatch is the most events that one transaction of the sequencer
// moves.
const sequenceBatch = 1000

// lowWater is what sequence_batch wants to be given back: see it.
type lowWater struct {
	low int64
	s   *int64
	x   *string
}

// move runs one batch of the sequencer. -1: another node is at it. since is
// when the database server started.
func (b *Bus) move(ctx context.Context, mark *lowWater) (moved int64, since time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	var next lowWater
	err = b.c.Pool.QueryRow(ctx, `SELECT moved, low, s, x::text, pg_postmaster_start_time() FROM bus.sequence_batch($1, $2, $3, $4::text::xid8)`,
		sequenceBatch, mark.low, mark.s, mark.x).Scan(&moved, &next.low, &next.s, &next.x, &since)
	if err != nil {
		return 0, time.Time{}, err
	}
	if moved >= 0 {
		*mark = next
		b.metrics.sequenced.Add(float64(moved))
	}
	return moved, since, nil
}

// pass reads what the log has gained into the tail and tells the
// subscriptions that want it. It answers how much that was.
func (b *Bus) pass(ctx context.Context) (int, error) {
	total := 0
	for {
		entries, err := b.feed(ctx)
		total += len(entries)
		if err != nil || len(entries) == 0 {
			return total, err
		}
		b.mu.Lock()
		by := b.byTopic
		b.mu.Unlock()
		arrived := map[*subscription]lanes{}
		for _, e := range entries {
			for _, s := range by[e.event.GetTopic()] {
				arrived[s] |= 1 << e.lane
			}
		}
		for s, l := range arrived {
			s.arrived(l)
		}
		b.passed.Store(entries[len(entries)-1].pos())
	}
}

package bus

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

const (
	// tick is how late a timer or schedule may be.
	tick = 250 * time.Millisecond
	// fireBatch bounds the timers that one transaction fires.
	fireBatch = 500
	// kernelSource is the source that ticks are stamped with.
	kernelSource = "kernel"
)

// clock publishes timers and ticks when they are due, until ctx ends. Any
// number of nodes may: each timer and each period is taken once.
func (b *Bus) clock(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		timers, err := b.fire(ctx)
		if err != nil {
			b.trouble(ctx, "firing timers", err)
		}
		ticks, err := b.tick(ctx)
		if err != nil {
			b.trouble(ctx, "ticking schedules", err)
		}
		if timers+ticks > 0 {
			b.Poke()
		}
	}
}

// fire publishes the timers that are due.
func (b *Bus) fire(ctx context.Context) (fired int, err error) {
	for {
		var n int
		if err := b.row(ctx, `SELECT bus.timers_fire($1)`, fireBatch).Scan(&n); err != nil {
			return fired, err
		}
		if fired += n; n < fireBatch {
			return fired, nil
		}
	}
}

// tick publishes one Tick for each schedule that is due. Periods that were
// missed are one: the next is the first that lies ahead.
func (b *Bus) tick(ctx context.Context) (int, error) {
	var due bool
	if err := b.row(ctx, `SELECT EXISTS (SELECT 1 FROM bus.schedule WHERE declared AND next_due <= now())`).Scan(&due); err != nil || !due {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	n := 0
	return n, pgx.BeginFunc(ctx, b.c.Pool, func(tx pgx.Tx) error {
		// By name, which is the events' key: the order in which publish locks.
		rows, err := tx.Query(ctx, `UPDATE bus.schedule s
			   SET next_due = d.next_due + s.every_seconds * interval '1 second' * (1 + floor(extract(epoch FROM now() - d.next_due) / s.every_seconds))
			  FROM (SELECT name, next_due FROM bus.schedule WHERE declared AND next_due <= now() ORDER BY name FOR UPDATE SKIP LOCKED) d
			 WHERE s.name = d.name RETURNING s.name, d.next_due`)
		if err != nil {
			return err
		}
		type one struct {
			Name string
			Due  time.Time
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[one])
		if err != nil {
			return err
		}
		for _, s := range all {
			payload, err := proto.Marshal(&pluginv1.Tick{Schedule: s.Name, Due: timestamppb.New(s.Due)})
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SELECT bus.publish_for($1, $2, $3, $4)`, kernelSource, topicTick, s.Name, payload); err != nil {
				return err
			}
		}
		n = len(all)
		return nil
	})
}

// timedRow is a row of a statement that is bounded in time.
type timedRow struct {
	row    pgx.Row
	cancel context.CancelFunc
}

func (r timedRow) Scan(dest ...any) error {
	defer r.cancel()
	return r.row.Scan(dest...)
}

// row runs a statement that answers one row, bounded in time.
func (b *Bus) row(ctx context.Context, query string, args ...any) pgx.Row {
	ctx, cancel := context.WithTimeout(ctx, statement)
	return timedRow{b.c.Pool.QueryRow(ctx, query, args...), cancel}
}

// exec runs a statement that answers nothing, bounded in time.
func (b *Bus) exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	tag, err := b.c.Pool.Exec(ctx, query, args...)
	return tag.RowsAffected(), err
}

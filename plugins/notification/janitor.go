package main

import (
	"context"
	"time"

	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// tidyEvery is how often the module looks after what nobody asks about.
	tidyEvery = time.Minute
	// waitingKept is how long news wait for an order that never comes.
	waitingKept = 30 * 24 * time.Hour
)

// janitor tidies until ctx ends.
func (s *service) janitor(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.tidy(ctx); err != nil && ctx.Err() == nil {
			s.in.Log.WarnContext(ctx, "tidying", "error", err)
		}
	}
}

// tidy files what waited for orders that have come, and forgets what is old.
// Two deliveries of events at once may miss each other: the one does not see
// the order yet, the other not the news that wait for it.
func (s *service) tidy(ctx context.Context) error {
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		all, err := unpark(ctx, tx, nil)
		if err != nil || len(all) == 0 {
			return err
		}
		return s.file(ctx, tx, all)
	}); err != nil {
		return err
	}
	// The horizon moves before anything is forgotten: what is not remembered to
	// have been told is not told again. A thousand rows at a time hold up nobody.
	var horizon time.Time
	if err := s.db.Row(ctx, `UPDATE horizon SET at = greatest(at, now() - $1 * interval '1 day') RETURNING at`, s.cfg.KeepDays).Scan(&horizon); err != nil {
		return store.Wrap(err)
	}
	s.horizon.Store(&horizon)
	for _, statement := range []string{
		`DELETE FROM notification WHERE id IN (SELECT id FROM notification WHERE created_at < now() - ($1 + 1) * interval '1 day' LIMIT 1000)`,
		`DELETE FROM buyer WHERE order_id IN (SELECT order_id FROM buyer WHERE at < now() - ($1 + 1) * interval '1 day' LIMIT 1000)`,
		`DELETE FROM shipment WHERE id IN (SELECT id FROM shipment WHERE at < now() - ($1 + 1) * interval '1 day' LIMIT 1000)`,
	} {
		if _, err := s.db.Do(ctx, statement, s.cfg.KeepDays); err != nil {
			return store.Wrap(err)
		}
	}
	_, err := s.db.Do(ctx, `DELETE FROM waiting WHERE at < now() - $1 * interval '1 microsecond'`, waitingKept.Microseconds())
	return store.Wrap(err)
}

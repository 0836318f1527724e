package main

import (
	"context"
	"time"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// errands are what is asked and told outside of calls: checks that were not
// answered, fates that authenticators are to know. Both stand in tables until
// they are done; a clock and whoever adds to them wake the one worker of this
// process. Several processes share the work by leases.
type errands struct {
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

// errandBatch is how many rows one round takes.
const errandBatch = 64

// work runs errands until the instance is closed.
func (s *service) work(in *plugin.Instance) {
	ctx, stop := context.WithCancel(call.With(context.Background(), call.Info{
		Principal: call.Principal{Kind: call.Plugin, Plugin: in.Name}, Market: in.DefaultMarket,
	}))
	e := &errands{wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	s.errands = e
	in.Close = func(ctx context.Context) {
		stop()
		select {
		case <-e.done:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(e.done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-e.wake:
			}
			if err := s.run(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "errands wait for the next tick", "error", err)
			}
		}
	}()
}

// nudge wakes the worker, which may be at work already.
func (s *service) nudge() {
	select {
	case s.errands.wake <- struct{}{}:
	default:
	}
}

// onTick is the clock.
func (s *service) onTick(context.Context, *store.Tx, []event.Of[*pluginv1.Tick]) error {
	s.nudge()
	return nil
}

// run does what is due.
func (s *service) run(ctx context.Context) error {
	for {
		asked, err := s.askDue(ctx)
		if err != nil {
			return err
		}
		told, err := s.tellDue(ctx)
		if err != nil {
			return err
		}
		if asked < errandBatch && told < errandBatch {
			return nil
		}
	}
}

// claimChecks takes questions that are due, for as long as asking them may
// last: after that another process may take them.
const claimChecks = `WITH due AS (SELECT id FROM check_made WHERE result = 4 AND next_try <= now() ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE check_made k SET tries = k.tries + 1, next_try = now() + interval '60 s' FROM due, case_file c
 WHERE k.id = due.id AND c.id = k.case_id RETURNING ` + questionColumns + `, k.asked_at < $2`

// askDue asks again what was not answered, and gives up what was not answered
// for too long.
func (s *service) askDue(ctx context.Context) (int, error) {
	var again []question
	var over []answer
	rows, err := s.db.Rows(ctx, claimChecks, errandBatch, time.Now().Add(-s.patience))
	if err := each(rows, err, func(r row) error {
		q, late := question{}, false
		if err := q.scan(alsoScan{r, &late}); err != nil {
			return err
		}
		if late {
			over = append(over, answer{question: q, result: pending}.undecided(notAnswered))
		} else {
			again = append(again, q)
		}
		return nil
	}); err != nil {
		return 0, store.Wrap(err)
	}
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.record(ctx, tx, over) }); err != nil {
		return 0, err
	}
	return len(again) + len(over), s.askAll(ctx, again)
}

// alsoScan scans one more column than asked for.
type alsoScan struct {
	row
	last any
}

func (a alsoScan) Scan(dest ...any) error { return a.row.Scan(append(dest, a.last)...) }

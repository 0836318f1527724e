package main

import (
	"context"
	"errors"
	"time"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/payment/provider/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// janitor does outside of calls what nobody waits for: it asks what became of
// payouts whose caller is gone, makes those of a schedule, ends reserves, and
// asks how disputes stand and what companies report. What is due stands in
// tables; a clock wakes the one worker of this process, and several processes
// share the work by leases and locks.
type janitor struct {
	wake chan struct{}
	done chan struct{}
}

// work runs the janitor until the instance is closed.
func (s *service) work(in *plugin.Instance) {
	ctx, stop := context.WithCancel(call.With(context.Background(), call.Info{
		Principal: call.Principal{Kind: call.Plugin, Plugin: in.Name}, Market: in.DefaultMarket,
	}))
	j := &janitor{wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.janitor = j
	in.Close = func(ctx context.Context) {
		stop()
		select {
		case <-j.done:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(j.done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-j.wake:
			}
			if err := s.tidy(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "what is left waits for the next tick", "error", err)
			}
		}
	}()
}

// onTick wakes the worker, which may be at work already.
func (s *service) onTick(context.Context, *store.Tx, []event.Of[*pluginv1.Tick]) error {
	select {
	case s.janitor.wake <- struct{}{}:
	default:
	}
	return nil
}

// tidy does what is due.
func (s *service) tidy(ctx context.Context) error {
	return errors.Join(s.askPayouts(ctx), s.payDue(ctx, ""), s.tendReserves(ctx), s.tendDisputes(ctx), s.reconcileDue(ctx))
}

const (
	// payoutBatch is how many payouts one round asks about.
	payoutBatch = 50
	// claimPayouts takes open payouts that are due to be asked about, for
	// longer than asking may last, and longer each time: 40 seconds up to an
	// hour.
	claimPayouts = `WITH due AS (SELECT id FROM payout WHERE state = 1 AND next_try <= now() ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE payout o SET tries = o.tries + 1, next_try = now() + make_interval(secs => least(20 * 2 ^ least(o.tries + 1, 8), 3600))
 FROM due WHERE o.id = due.id RETURNING ` + payoutColumns
)

// askPayouts asks companies what became of payouts of which it is not known.
// It never sends one: what the company has not seen long after it was sent did
// not happen, and its money is available again.
func (s *service) askPayouts(ctx context.Context) error {
	for {
		due, err := payouts(s.db.Rows(ctx, claimPayouts, payoutBatch))
		if err != nil {
			return store.Wrap(err)
		}
		for _, p := range due {
			if err := s.askPayout(ctx, p); err != nil {
				s.log.WarnContext(ctx, "a payout is not answered", "payout", p.id, "instance", p.instance, "error", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(due) < payoutBatch {
			return nil
		}
	}
}

func (s *service) askPayout(ctx context.Context, p *payout) error {
	var sent time.Time
	o, err := s.providers.lookup(ctx, p.attempt())
	switch {
	case err != nil:
		return err
	case o == nil:
		// It is due only when it can no longer arrive. Whoever sends it again
		// meanwhile writes that down first.
		o, sent = &providerv1.Outcome{Status: providerv1.Outcome_STATUS_DECLINED, Code: neverSeen}, p.sentAt
	case o.GetStatus() == providerv1.Outcome_STATUS_PENDING:
		return nil
	}
	return store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error { return s.endPayout(ctx, tx, p, o, sent) }))
}

// claimDisputes takes disputes that are due to be looked at, for longer each
// time: 40 seconds up to six hours.
const claimDisputes = `WITH due AS (SELECT id FROM dispute WHERE next_try <= now() ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE dispute d SET tries = d.tries + 1, next_try = now() + make_interval(secs => least(20 * 2 ^ least(d.tries + 1, 11), 21600))
 FROM due WHERE d.id = due.id RETURNING ` + disputeColumns

// tendDisputes looks at disputes whose payment was not known, or of which more
// can be posted by now, and asks companies about those that are open.
func (s *service) tendDisputes(ctx context.Context) error {
	for {
		due, err := disputes(s.db.Rows(ctx, claimDisputes, payoutBatch))
		if err != nil {
			return store.Wrap(err)
		}
		for _, d := range due {
			if err := s.tendDispute(ctx, d); err != nil {
				s.log.WarnContext(ctx, "a dispute waits", "dispute", d.id, "instance", d.instance, "error", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(due) < payoutBatch {
			return nil
		}
	}
}

func (s *service) tendDispute(ctx context.Context, d *dispute) error {
	var told *providerv1.Dispute
	if !closed(d.state) {
		cctx, cancel := bounded(host.ToInstance(ctx, d.instance))
		defer cancel()
		res, err := s.providers.client.GetDispute(cctx, &providerv1.GetDisputeRequest{DisputeReference: d.reference})
		if err == nil {
			told, err = s.itself(d, res.GetDispute())
		}
		if err != nil {
			s.log.WarnContext(ctx, "a dispute is not answered", "dispute", d.id, "instance", d.instance, "error", err)
		}
	}
	if told != nil && d.accepting && told.GetStatus() == providerv1.Dispute_STATUS_NEEDS_RESPONSE {
		// It was given up here, and the company does not know.
		return s.giveUp(ctx, d)
	}
	return store.Wrap(s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		return s.hearDispute(ctx, tx, d.instance, d.reference, d.paymentReference, told)
	}))
}

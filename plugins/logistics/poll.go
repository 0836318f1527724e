package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// pollBatch is how many shipments are asked about at a time, pollWidth how
	// many at once.
	pollBatch = 50
	pollWidth = 4
	// pollLast is the longest pause: the longer a carrier is silent, the more
	// seldom it is asked. After pollFor nobody asks any more; the task stays.
	pollLast = 24 * time.Hour
	pollFor  = 60 * 24 * time.Hour
	// pollAgain is when a question that got no answer is asked again.
	pollAgain = 5 * time.Minute
)

// cadence is how long an instance may be silent about a shipment before it is
// asked, in seconds: long for one that tells on its own account, whose webhook
// may have been lost; 0 for one that cannot be asked.
func (s *service) cadence(ctx context.Context, market, instance string) int {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	can, known, err := s.capabilities(ctx, market, instance)
	switch {
	case err != nil || !known:
		// One that the market lists no longer may still be asked: the router
		// knows. And what is booked is written down, whoever else is away.
		return max(1, int(s.pollEvery.Seconds()))
	case !slices.Contains(can, "track"):
		return 0
	case slices.Contains(can, "webhook"):
		return max(1, int(s.pollAfter.Seconds()))
	}
	return max(1, int(s.pollEvery.Seconds()))
}

// capabilities are what an instance declares; known is false for one that is
// bound no more.
func (s *service) capabilities(ctx context.Context, market, instance string) (can []string, known bool, err error) {
	listed, err := s.host.Instances.ListInstances(ctx, &kernelv1.ListInstancesRequest{Contract: contract, Market: market})
	if err != nil {
		return nil, false, host.Relay(err)
	}
	for _, i := range listed.GetInstances() {
		if i.GetInstance() == instance {
			return i.GetCapabilities(), true, nil
		}
	}
	return nil, false, nil
}

// lacks tells whether an instance is known not to declare a capability: what
// is not declared is not called.
func (s *service) lacks(ctx context.Context, market, instance, capability string) (bool, error) {
	can, known, err := s.capabilities(ctx, market, instance)
	return known && !slices.Contains(can, capability), err
}

// incapable tells that the router knows an instance without the capability.
func incapable(err error) bool {
	return connect.CodeOf(err) == connect.CodeUnimplemented && fault.Reason(err) == "CAPABILITY_MISSING"
}

// due takes shipments whose carrier is to be asked, each by one process, and
// says when it is looked at next. One that was heard of meanwhile is not asked.
const due = `WITH d AS (SELECT id FROM shipment WHERE next_poll <= now() ORDER BY next_poll LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED),
  h AS (SELECT s.id, greatest(s.booked_at, (SELECT max(f.heard_at) FROM fact f WHERE f.shipment_id = s.id)) AS heard FROM shipment s JOIN d USING (id))
UPDATE shipment s SET next_poll = CASE WHEN s.booked_at < now() - $2 * interval '1 microsecond' THEN NULL
    WHEN now() - h.heard < s.poll_every * interval '1 second' THEN h.heard + s.poll_every * interval '1 second'
    ELSE now() + least(greatest(now() - h.heard, s.poll_every * interval '1 second'), $3 * interval '1 microsecond') END
  FROM h WHERE s.id = h.id RETURNING s.id, now() - h.heard >= s.poll_every * interval '1 second', s.status > 2 AND now() - h.heard > $4 * interval '1 microsecond'`

// poll asks carriers about shipments that they have been silent about, and
// answers how many it looked at.
func (s *service) poll(ctx context.Context) (looked int, err error) {
	var ask []string
	stale := map[string]bool{}
	rows, err := s.db.Rows(ctx, due, pollBatch, pollFor.Microseconds(), pollLast.Microseconds(), s.staleAfter.Microseconds())
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var id string
		var silent, old bool
		if err := rows.Scan(&id, &silent, &old); err != nil {
			return err
		}
		looked++
		if stale[id] = old; silent {
			ask = append(ask, id)
		}
		return nil
	}); err != nil {
		return 0, store.Wrap(err)
	}
	if len(ask) == 0 {
		return looked, nil
	}
	all, err := readShipments(ctx, s.db, `WHERE s.id = ANY ($1)`, ask)
	if err != nil {
		return looked, store.Wrap(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var silent []string
	var tasks jobs
	slots := make(chan struct{}, pollWidth)
	for _, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx := asMarket(ctx, one.market)
			fresh, err := s.track(ctx, one)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, one.id)
				s.in.Log.WarnContext(ctx, "a carrier does not say where a shipment is", "shipment", one.id, "instance", one.instance, "error", err)
			}
			if fresh == 0 && stale[one.id] {
				tasks.add(one, "STALE", "")
			}
		})
	}
	wg.Wait()
	if len(silent) > 0 {
		_, err = s.db.Do(ctx, `UPDATE shipment SET next_poll = least(next_poll, now() + $2 * interval '1 microsecond') WHERE id = ANY ($1) AND next_poll IS NOT NULL`,
			silent, pollAgain.Microseconds())
	}
	if len(tasks.ids) > 0 {
		err = errors.Join(err, s.db.Run(ctx, tasks.open))
	}
	return looked, store.Wrap(err)
}

// track asks a shipment's carrier and keeps what it says.
func (s *service) track(ctx context.Context, one *shipment) (fresh int, err error) {
	cctx, cancel := s.bounded(host.ToInstance(ctx, one.instance))
	defer cancel()
	res, err := s.carriers.Track(cctx, &providerv1.TrackRequest{Reference: one.carrierRef})
	if incapable(err) {
		_, err := s.db.Do(ctx, `UPDATE shipment SET next_poll = NULL, poll_every = 0 WHERE id = $1`, one.id)
		return 0, store.Wrap(err)
	}
	if err != nil {
		return 0, err
	}
	var t told
	for _, f := range res.GetFacts()[:min(len(res.GetFacts()), maxFacts)] {
		t.add(one.instance, one.carrierRef, f)
	}
	return fresh, s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		fresh, err = t.keep(ctx, tx)
		return err
	})
}

// maxFacts is how many of one answer are believed.
const maxFacts = 1000

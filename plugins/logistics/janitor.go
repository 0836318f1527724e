package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// cleanEvery is how often the janitor looks for what nobody asks about any
	// more, leftAlone how long it must have rested.
	cleanEvery = 10 * time.Second
	leftAlone  = 30 * time.Second
	// worrying is how many tries in vain make a task for a person.
	worrying = 5
	// What is swept: facts of bookings that never were, movements that whoever
	// watches has seen.
	keepStrays, keepMovements = 30 * 24 * time.Hour, time.Hour
)

// janitor settles bookings and manifests whose caller is gone, and asks
// carriers that are silent, until stop is closed.
func (s *service) janitor(stop <-chan struct{}) {
	// Silence is looked for as often as the shortest that counts asks for.
	pollTick := time.NewTicker(min(cleanEvery, max(s.pollEvery/4, 100*time.Millisecond), max(s.pollAfter/4, 100*time.Millisecond)))
	defer pollTick.Stop()
	cleanTick := time.NewTicker(cleanEvery)
	defer cleanTick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		var work func(context.Context) error
		select {
		case <-stop:
			return
		case <-pollTick.C:
			work = s.pollAll
		case <-cleanTick.C:
			work = func(ctx context.Context) error {
				return errors.Join(s.clean(ctx, leftAlone), s.cleanManifests(ctx, leftAlone), s.sweep(ctx))
			}
		}
		ctx, done := context.WithTimeout(ctx, time.Minute)
		if err := work(ctx); err != nil && ctx.Err() == nil {
			s.in.Log.WarnContext(ctx, "what was left behind", "error", err)
		}
		done()
	}
}

// pollAll asks until nothing is due.
func (s *service) pollAll(ctx context.Context) error {
	for {
		n, err := s.poll(ctx)
		if err != nil || n < pollBatch {
			return err
		}
	}
}

// asMarket is the module's own account in a market.
func asMarket(ctx context.Context, market string) context.Context {
	return call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "logistics"}, Market: market})
}

// clean settles what has rested for so long: each is asked for at the carrier
// that may have booked it, by the same key.
func (s *service) clean(ctx context.Context, rested time.Duration) error {
	all, err := readShipments(ctx, s.db, `WHERE s.booking IN (1, 4) AND coalesce(s.sent_at, s.created_at) < now() - $1 * interval '1 microsecond'
		ORDER BY s.sent_at NULLS FIRST LIMIT 50`, rested.Microseconds())
	if err != nil {
		return store.Wrap(err)
	}
	for _, one := range all {
		if err := s.settle(asMarket(ctx, one.market), one); err == nil || one.tries+1 < worrying {
			continue
		}
		var j jobs
		j.add(one, "BOOKING_UNKNOWN", "")
		if err := s.db.Run(ctx, j.open); err != nil {
			return err
		}
	}
	return nil
}

// cleanManifests tells carriers again of manifests that they have not answered
// and that nobody repeats: what is on one would wait for ever, since it is on
// no other.
func (s *service) cleanManifests(ctx context.Context, rested time.Duration) error {
	type left struct {
		m      *logisticsv1.Manifest
		market string
	}
	var all []left
	rows, err := s.db.Rows(ctx, `SELECT m.id, m.instance, m.place, coalesce((SELECT max(s.market) FROM shipment s WHERE s.manifest_id = m.id), '')
		FROM manifest m WHERE NOT m.told AND m.created_at < now() - $1 * interval '1 microsecond' ORDER BY m.created_at LIMIT 20`, rested.Microseconds())
	if err := scan(rows, err, func(rows *sql.Rows) error {
		l := left{m: &logisticsv1.Manifest{}}
		all = append(all, l)
		return rows.Scan(&l.m.ManifestId, &l.m.Instance, &l.m.PlaceId, &all[len(all)-1].market)
	}); err != nil {
		return store.Wrap(err)
	}
	for _, l := range all {
		on, err := readShipments(ctx, s.db, `WHERE s.manifest_id = $1 ORDER BY s.id`, l.m.GetManifestId())
		if err != nil {
			return store.Wrap(err)
		}
		if _, err := s.tellManifest(asMarket(ctx, l.market), l.m, l.market, on); err != nil {
			s.in.Log.WarnContext(ctx, "a manifest is not answered", "manifest", l.m.GetManifestId(), "instance", l.m.GetInstance(), "error", err)
		}
	}
	return nil
}

// sweep drops what nobody needs any more.
func (s *service) sweep(ctx context.Context) error {
	_, err := s.db.Do(ctx, `WITH s AS (DELETE FROM stray_fact WHERE heard_at < now() - $1 * interval '1 microsecond')
		DELETE FROM movement WHERE seq < (SELECT min(seq) FROM movement WHERE at > now() - $2 * interval '1 microsecond')`,
		keepStrays.Microseconds(), keepMovements.Microseconds())
	return store.Wrap(err)
}

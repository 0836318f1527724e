package main

import (
	"context"
	"time"

	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// cleanEvery is how often bookings are looked for that nobody asks about any
	// more, leftAlone how long one must have rested.
	cleanEvery = 10 * time.Second
	leftAlone  = 30 * time.Second
	// worrying is how many tries in vain make a task for a person.
	worrying = 5
)

// janitor settles bookings whose caller is gone, until stop is closed.
func (s *service) janitor(stop <-chan struct{}) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := s.clean(ctx, leftAlone); err != nil {
			s.in.Log.WarnContext(ctx, "bookings left behind", "error", err)
		}
		cancel()
	}
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
		ctx := call.With(ctx, call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "logistics"}, Market: one.market})
		if err := s.settle(ctx, one); err == nil || one.tries+1 < worrying {
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

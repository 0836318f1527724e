package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/entrepot/entrepot/plugins/analytics/recommend"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// refreshAt is how many goods' neighbours are counted anew at a time.
	refreshAt = 200
	// followTimeout bounds one look at what is new; the first reads everything.
	followTimeout = 5 * time.Minute
)

// follower keeps a model in memory as the tables say, which events feed: a
// process that starts reads all, then what changed.
type follower struct {
	db    *store.DB
	model *recommend.Model
	log   *slog.Logger
	stop  context.CancelFunc
	done  chan struct{}

	// last is the change that the model knows of.
	last int64

	mu    sync.Mutex
	news  chan struct{} // closed when the model has changed
	ready bool
	seen  time.Time // when it looked last and could
}

func follow(db *store.DB, model *recommend.Model, log *slog.Logger, every time.Duration) *follower {
	ctx, stop := context.WithCancel(context.Background())
	f := &follower{db: db, model: model, log: log, stop: stop, done: make(chan struct{}), news: make(chan struct{})}
	go f.run(ctx, every)
	return f
}

func (f *follower) close(ctx context.Context) {
	f.stop()
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

func (f *follower) run(ctx context.Context, every time.Duration) {
	defer close(f.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "what is new could not be read; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look takes up what changed since the last look.
func (f *follower) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	var upto int64
	if err := f.db.Row(ctx, "SELECT n FROM change").Scan(&upto); err != nil {
		return err
	}
	changed := upto != f.last
	if changed {
		for _, read := range []func(context.Context, int64, int64) error{f.offers, f.purchases, f.views, f.departed} {
			if err := read(ctx, f.last, upto); err != nil {
				return err
			}
		}
		f.last = upto
	}
	// Everything at the start; then a part of it at each look.
	f.mu.Lock()
	first := !f.ready
	f.mu.Unlock()
	counted := f.model.Refresh(refreshAt)
	for first && counted > 0 && ctx.Err() == nil {
		counted = f.model.Refresh(refreshAt)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if changed || first {
		close(f.news)
		f.news = make(chan struct{})
	}
	f.ready, f.seen = true, time.Now()
	return nil
}

// check tells whether the model follows the tables.
func (f *follower) check(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready && time.Since(f.seen) > followTimeout+time.Minute {
		return fmt.Errorf("recommendations have not followed the tables since %s", f.seen.UTC().Format(time.RFC3339))
	}
	return nil
}

// changes is closed when the model has changed.
func (f *follower) changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news
}

// Whatever may have changed what can be sold: the listing itself, the stock of
// its good, or what a market is offered of it.
const changedOffers = `SELECT l.market, l.sku, l.position, EXISTS (SELECT FROM offer o WHERE o.market = l.market AND o.sku = l.sku) FROM listing l
 WHERE l.sku IN (SELECT sku FROM listing WHERE changed > $1 AND changed <= $2 UNION SELECT sku FROM stock_level WHERE changed > $1 AND changed <= $2
   UNION SELECT sku FROM stock_policy WHERE changed > $1 AND changed <= $2)`

func (f *follower) offers(ctx context.Context, after, upto int64) error {
	rows, err := f.db.Rows(ctx, changedOffers, after, upto)
	return scan(rows, err, func(rows *sql.Rows) error {
		var market, sku string
		var position int64
		var can bool
		err := rows.Scan(&market, &sku, &position, &can)
		f.model.Offer(market, sku, can, position)
		return err
	})
}

func (f *follower) purchases(ctx context.Context, after, upto int64) error {
	type basket struct {
		order, person, market string
		at                    time.Time
		skus, dropped         []string
	}
	var b basket
	flush := func() {
		if b.order != "" {
			f.model.Buy(b.order, b.person, b.market, b.at, b.skus...)
			f.model.Drop(b.order, b.dropped...)
		}
	}
	rows, err := f.db.Rows(ctx, `SELECT order_id, person, market, at, sku, cancelled FROM purchase WHERE changed > $1 AND changed <= $2 ORDER BY at, order_id, sku`, after, upto)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var next basket
		var sku string
		var cancelled bool
		if err := rows.Scan(&next.order, &next.person, &next.market, &next.at, &sku, &cancelled); err != nil {
			return err
		}
		if next.order != b.order {
			flush()
			b = next
		}
		if cancelled {
			b.dropped = append(b.dropped, sku)
		} else {
			b.skus = append(b.skus, sku)
		}
		return nil
	})
	if err == nil {
		flush()
	}
	return err
}

func (f *follower) views(ctx context.Context, after, upto int64) error {
	// A look at a good's page, one that goes to the cart, and one that follows
	// a recommendation; of one batch once for each good, however often it says
	// so.
	rows, err := f.db.Rows(ctx, `SELECT person, market, sku, max(at) FROM view WHERE changed > $1 AND changed <= $2 AND sku <> '' AND kind IN (2, 3, 5)
		GROUP BY batch, person, market, sku ORDER BY max(at)`, after, upto)
	return scan(rows, err, func(rows *sql.Rows) error {
		var person, market, sku string
		var at time.Time
		err := rows.Scan(&person, &market, &sku, &at)
		f.model.Look(person, market, sku, at)
		return err
	})
}

func (f *follower) departed(ctx context.Context, after, upto int64) error {
	rows, err := f.db.Rows(ctx, `SELECT person FROM departed WHERE changed > $1 AND changed <= $2`, after, upto)
	return scan(rows, err, func(rows *sql.Rows) error {
		var person string
		err := rows.Scan(&person)
		f.model.Forget(person)
		return err
	})
}

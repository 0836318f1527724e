package main

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/proto/entrepot/notification/v1/notificationv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// mostWatchers bounds streams, watchersOfOne those of one inbox.
	mostWatchers  = 1000
	watchersOfOne = 8
	// watchBatch is what one answer of a stream holds at most.
	watchBatch = 100
)

// board knows who watches which inbox, and wakes them. One look at the database
// serves all of them.
type board struct {
	mu       sync.Mutex
	watchers map[string]map[chan struct{}]bool
	n        int
	// seen is up to where inboxes were looked at; negative: not yet.
	seen int64
}

func newBoard() *board { return &board{watchers: make(map[string]map[chan struct{}]bool), seen: -1} }

// watch tells of news in an inbox, until it is left.
func (b *board) watch(recipient string) (news <-chan struct{}, leave func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n >= mostWatchers || len(b.watchers[recipient]) >= watchersOfOne {
		return nil, nil, false
	}
	c := make(chan struct{}, 1)
	if b.watchers[recipient] == nil {
		b.watchers[recipient] = make(map[chan struct{}]bool)
	}
	b.watchers[recipient][c] = true
	b.n++
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers[recipient], c)
		if len(b.watchers[recipient]) == 0 {
			delete(b.watchers, recipient)
		}
		b.n--
	}, true
}

func (b *board) wake(recipients []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range recipients {
		for c := range b.watchers[r] {
			select {
			case c <- struct{}{}:
			default: // it is awake
			}
		}
	}
}

// idle tells whether nobody watches.
func (b *board) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n == 0
}

// look wakes those in whose inboxes something new is, whichever process put it
// there. It is called by one goroutine.
func (s *service) look(ctx context.Context) error {
	b := s.inboxes
	if b.idle() {
		b.seen = -1
		return nil
	}
	if b.seen < 0 {
		// Whoever watches has looked after it registered.
		return store.Wrap(s.db.Row(ctx, `SELECT coalesce(max(seq), 0) FROM inbox`).Scan(&b.seen))
	}
	var recipients []string
	rows, err := s.db.Rows(ctx, `SELECT seq, recipient FROM inbox WHERE seq > $1 ORDER BY seq LIMIT 5000`, b.seen)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var r string
		if err := rows.Scan(&b.seen, &r); err != nil {
			return err
		}
		recipients = append(recipients, r)
		return nil
	}); err != nil {
		return store.Wrap(err)
	}
	b.wake(recipients)
	return nil
}

// lookAgain is how often a watcher looks by itself: what the board missed
// between two of its looks at an idle hour.
const lookAgain = 5 * time.Second

// WatchNotifications streams an inbox.
func (s *service) WatchNotifications(
	ctx context.Context, req *notificationv1.WatchNotificationsRequest, stream notificationv1connect.InboxServiceWatchNotificationsServerStream,
) error {
	me, err := own(ctx)
	if err != nil {
		return err
	}
	fresh, leave, ok := s.inboxes.watch(me)
	if !ok {
		return fault.Retry(fault.New(connect.CodeResourceExhausted, "TOO_MANY_WATCH", "too many watch at this moment; come back"), 5*time.Second)
	}
	defer leave()
	after := req.GetAfter()
	if after == 0 {
		if err := s.db.Row(ctx, `SELECT coalesce(max(seq), 0) FROM inbox WHERE recipient = $1`, me).Scan(&after); err != nil {
			return store.Wrap(err)
		}
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	// The first answer comes at once.
	for first := true; ; {
		for more := true; more; first = false {
			res, err := s.page(ctx, me, after)
			if err != nil {
				return err
			}
			if len(res.GetNotifications()) > 0 || first {
				if err := stream.Send(res); err != nil {
					return store.Wrap(err)
				}
			}
			after, more = res.GetSequence(), len(res.GetNotifications()) == watchBatch
		}
		select {
		case <-ctx.Done():
			return store.Wrap(ctx.Err())
		case <-s.inWork.Done():
			return fault.Retry(fault.New(connect.CodeUnavailable, "DRAINING", "the process is ending; come back"), time.Second)
		case <-fresh:
		case <-tick.C:
		}
	}
}

// page is what an inbox has after a number.
func (s *service) page(ctx context.Context, me string, after int64) (*notificationv1.WatchNotificationsResponse, error) {
	res := &notificationv1.WatchNotificationsResponse{Sequence: after}
	rows, err := s.db.Rows(ctx, `SELECT `+shownColumns+` FROM inbox i JOIN notification n ON n.id = i.notification_id
		WHERE i.recipient = $1 AND i.seq > $2 ORDER BY i.seq LIMIT $3`, me, after, watchBatch)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		n, err := readShown(rows)
		if err == nil {
			res.Notifications, res.Sequence = append(res.Notifications, n), n.GetSequence()
		}
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	res.Unread, err = unread(ctx, s.db, me)
	return res, store.Wrap(err)
}

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	queuedState  = int16(notificationv1.Delivery_STATE_QUEUED)
	failedState  = int16(notificationv1.Delivery_STATE_FAILED)
	unknownState = int16(notificationv1.Delivery_STATE_UNKNOWN)
	sendingState = int16(notificationv1.Delivery_STATE_SENDING)

	// lookEvery is how often the queue is looked at: events are committed by
	// others, and nobody is told when.
	lookEvery = 300 * time.Millisecond
	// lease is how long a delivery that is being sent is left to who does.
	// Whatever it is then, somebody else finds out by asking for its key.
	lease = 2 * time.Minute
	// abreastOfOne bounds what is sent to one endpoint at once.
	abreastOfOne = 4
)

// pauses follow a try in vain; those of Standard Webhooks' recommendation. What
// has had them all is given up: after three days.
var pauses = []time.Duration{
	5 * time.Second, 30 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// pause before the next try, and whether there is one. Not all wait as long.
func pause(tries int) (time.Duration, bool) {
	if tries > len(pauses) {
		return 0, false
	}
	d := pauses[max(tries, 1)-1]
	return d + rand.N(d/10+1), true
}

// delivery is one that is due, with what it tells.
type delivery struct {
	notice
	delivery, recipient, owner, addressRef, instance string
	channel                                          notificationv1.Channel
	round, tries                                     int
	// since is when this round began.
	since time.Time
	// was is the state it was found in: what may have left is asked for first.
	was int16
	// url and secrets of an endpoint; secrets are vault references.
	url     string
	secrets []string
}

// key is the same for every try of a round.
func (d *delivery) key() string {
	if d.round == 1 {
		return d.delivery
	}
	return d.delivery + "/" + strconv.Itoa(d.round)
}

const claimedColumns = `u.id, u.channel, u.recipient, u.merchant, u.address_ref, u.instance, u.round, u.tries, u.since, c.state, ` + noticeColumns

// claim takes due mails.
const claimMails = `WITH c AS (SELECT id, state FROM delivery WHERE channel = 2 AND state IN (1, 2, 6) AND due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED),
  u AS (UPDATE delivery d SET state = 2, tries = d.tries + 1, due_at = now() + $2 * interval '1 microsecond' FROM c WHERE d.id = c.id RETURNING d.*)
SELECT ` + claimedColumns + `, '', '[]' FROM u JOIN c ON c.id = u.id JOIN notification n ON n.id = u.notification_id ORDER BY n.at, u.id`

// claimWebhooks takes due webhooks of endpoints that are not resting, few of
// each: one that is slow keeps nobody else waiting.
const claimWebhooks = `WITH c AS (
  SELECT d.id, d.state, e.url, (SELECT coalesce(json_agg(x.ref ORDER BY x.created_at DESC), '[]') FROM endpoint_secret x WHERE x.endpoint = e.id AND x.until > now()) AS secrets
    FROM endpoint e CROSS JOIN LATERAL (
      SELECT q.id, q.state FROM delivery q WHERE q.recipient = e.id AND q.channel = 3 AND q.state IN (1, 2, 6) AND q.due_at <= now()
       ORDER BY q.due_at LIMIT greatest(0, $3 - (SELECT count(*) FROM delivery o WHERE o.recipient = e.id AND o.channel = 3 AND o.state = 2 AND o.due_at > now()))
       FOR UPDATE SKIP LOCKED) d
   WHERE e.state = 1 AND e.blocked_until <= now() AND EXISTS (SELECT FROM delivery x WHERE x.channel = 3 AND x.state IN (1, 2, 6) AND x.due_at <= now()) LIMIT $1),
  u AS (UPDATE delivery d SET state = 2, tries = d.tries + 1, due_at = now() + $2 * interval '1 microsecond' FROM c WHERE d.id = c.id RETURNING d.*)
SELECT ` + claimedColumns + `, c.url, c.secrets FROM u JOIN c ON c.id = u.id JOIN notification n ON n.id = u.notification_id ORDER BY n.at, u.id`

func (s *service) claim(ctx context.Context, channel notificationv1.Channel, most int) ([]*delivery, error) {
	statement, args := claimMails, []any{most, lease.Microseconds()}
	if channel == webhook {
		statement, args = claimWebhooks, append(args, abreastOfOne)
	}
	var out []*delivery
	rows, err := s.db.Rows(ctx, statement, args...)
	return out, store.Wrap(scan(rows, err, func(rows *sql.Rows) error {
		d := &delivery{}
		var way int32
		var secrets []byte
		to, done := d.targets()
		head := []any{&d.delivery, &way, &d.recipient, &d.owner, &d.addressRef, &d.instance, &d.round, &d.tries, &d.since, &d.was}
		if err := rows.Scan(append(append(head, to...), &d.url, &secrets)...); err != nil {
			return err
		}
		d.channel = notificationv1.Channel(way)
		out = append(out, d)
		if err := json.Unmarshal(secrets, &d.secrets); err != nil {
			return err
		}
		return done()
	}))
}

// start sets the work going, until Close.
func (s *service) start() {
	var loops context.Context
	loops, s.stop = context.WithCancel(context.Background())
	s.inWork, s.cut = context.WithCancel(context.Background())
	s.work.Go(func() { s.carry(loops) })
	s.work.Go(func() { s.janitor(loops) })
	s.in.Close = func(ctx context.Context) {
		s.stop()
		// What is being sent may end well; what does not is looked up later.
		ended := make(chan struct{})
		go func() {
			s.work.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(closing):
		case <-ctx.Done():
		}
		s.cut()
		<-ended
	}
}

// closing is how long what is being sent is waited for.
const closing = 5 * time.Second

// poke has the queue looked at soon.
func (s *service) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// carry looks after inboxes and the queue.
func (s *service) carry(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.round(ctx); err != nil && ctx.Err() == nil {
			s.in.Log.WarnContext(ctx, "notifications wait", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.poked:
		}
	}
}

// round posts what waits, and hands what is due to as many as are free.
func (s *service) round(ctx context.Context) error {
	for {
		n, err := s.post(ctx)
		if err != nil {
			return err
		}
		if n < inboxBatch {
			break
		}
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	for channel, slots := range map[notificationv1.Channel]chan struct{}{mail: s.mails, webhook: s.webhooks} {
		free := cap(slots) - len(slots) // only this goroutine takes any
		if free == 0 {
			continue
		}
		due, err := s.claim(ctx, channel, free)
		if err != nil {
			return err
		}
		for range due {
			slots <- struct{}{}
		}
		// A vault that is slow holds up no inbox.
		s.work.Go(func() { s.hand(due, slots) })
	}
	return nil
}

// hand prepares what is due and tries each by itself.
func (s *service) hand(due []*delivery, slots <-chan struct{}) {
	for _, p := range s.prepare(s.inWork, due) {
		s.work.Go(func() {
			defer func() {
				<-slots
				s.poke()
			}()
			s.try(asPlugin(s.inWork, s.marketOf(p.delivery)), p)
		})
	}
}

// marketOf is the market whose bindings carry a delivery: its own, while the
// deployment has it.
func (s *service) marketOf(d *delivery) string {
	if s.in.Markets[d.market] == nil {
		return s.in.DefaultMarket
	}
	return d.market
}

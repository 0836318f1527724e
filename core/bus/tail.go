package bus

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// Bounds of the tail, of one read of the log, and of one delivery.
const (
	tailEntries = 50_000
	tailBytes   = 64 << 20
	readEntries = 1000
	readBytes   = 8 << 20
	batchBytes  = 1 << 20
	maxEvents   = 1000 // of a delivery, as its contract says
)

// entry is an event as it stands in the log. It is shared by all
// subscriptions and never changed.
type entry struct {
	lane  int
	event *pluginv1.Event
}

func (e *entry) pos() int64 { return e.event.GetPosition() }

// tail is the end of the log in memory. One query feeds it and it feeds every
// subscription, so that reading costs the same however many there are. What
// lags behind it reads from the database. Safe for concurrent use.
type tail struct {
	mu    sync.RWMutex
	lanes [busdb.Lanes][]*entry
	order []*entry // all of them, oldest first
	bytes int
	// floor is the highest position that may be missing; last the highest
	// that was read. All of the log in (floor, last] is here.
	floor, last int64
}

func newTail() *tail { return &tail{} }

// start empties the tail: everything up to head is to be read from the
// database.
func (t *tail) start(head int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lanes, t.order, t.bytes = [busdb.Lanes][]*entry{}, nil, 0
	t.floor, t.last = head, head
}

func (t *tail) end() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.last
}

func (t *tail) add(entries []*entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range entries {
		t.lanes[e.lane] = append(t.lanes[e.lane], e)
		t.order = append(t.order, e)
		t.bytes += len(e.event.GetPayload())
		t.last = e.pos()
	}
	for len(t.order) > tailEntries || t.bytes > tailBytes {
		old := t.order[0]
		t.order[0], t.lanes[old.lane][0] = nil, nil
		t.order, t.lanes[old.lane] = t.order[1:], t.lanes[old.lane][1:]
		t.bytes -= len(old.event.GetPayload())
		t.floor = old.pos()
	}
}

// after returns what the lane has beyond a position that the filter takes, up
// to a limit, and the position through which that is all. ok is false when
// the position lies before the tail.
func (t *tail) after(lane int, pos int64, limit int, takes func(*pluginv1.Event) bool) (found []*entry, through int64, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if pos < t.floor {
		return nil, 0, false
	}
	all := t.lanes[lane]
	bytes := 0
	for _, e := range all[sort.Search(len(all), func(i int) bool { return all[i].pos() > pos }):] {
		if !takes(e.event) {
			continue
		}
		if bytes += len(e.event.GetPayload()); len(found) > 0 && bytes > batchBytes {
			return found, found[len(found)-1].pos(), true
		}
		if found = append(found, e); len(found) == limit {
			return found, e.pos(), true
		}
	}
	return found, max(pos, t.last), true
}

const columns = `pos, event_id::text, source, topic, key, lane, at, coalesce(traceparent, ''), payload`

// feed reads what the log has gained. It answers what it read.
func (b *Bus) feed(ctx context.Context) ([]*entry, error) {
	entries, _, err := b.read(ctx, `SELECT `+columns+` FROM bus.log WHERE pos > $1 ORDER BY pos LIMIT $2`, b.tail.end(), readEntries)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	b.tail.add(entries)
	return entries, nil
}

// lagging reads a lane from the database, up to the tail's end.
func (b *Bus) lagging(ctx context.Context, s *subscription, lane int, pos int64, limit int) (found []*entry, through int64, err error) {
	last := b.tail.end()
	if pos >= last {
		return nil, pos, nil
	}
	topics, plugin := s.wants()
	found, all, err := b.read(ctx, `SELECT `+columns+` FROM bus.log WHERE lane = $3 AND pos > $1 AND pos <= $4 AND topic = ANY ($5)
		AND (topic <> '`+topicTick+`' OR starts_with(key, $6)) ORDER BY pos LIMIT $2`, pos, limit, int16(lane), last, topics, plugin+"/")
	if err != nil {
		return nil, 0, err
	}
	if through = last; !all {
		through = found[len(found)-1].pos()
	}
	bytes := 0
	for i, e := range found {
		if bytes += len(e.event.GetPayload()); i > 0 && bytes > batchBytes {
			return found[:i], found[i-1].pos(), nil
		}
	}
	return found, through, nil
}

// read runs a query whose $1 is a position and $2 a limit. So that hostile
// payloads cannot fill the memory, it stops at readBytes: the rest is read by
// the next call. all tells that there is none.
func (b *Bus) read(ctx context.Context, query string, pos int64, limit int, args ...any) (found []*entry, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := b.c.Pool.Query(ctx, query, append([]any{pos, limit}, args...)...)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for bytes := 0; bytes < readBytes; {
		if !rows.Next() {
			return found, len(found) < limit, rows.Err()
		}
		e, err := scan(rows)
		if err != nil {
			return nil, false, err
		}
		bytes += len(e.event.GetPayload())
		found = append(found, e)
	}
	return found, false, nil
}

func scan(rows pgx.Rows) (*entry, error) {
	e := &pluginv1.Event{}
	var lane int16
	var at time.Time
	if err := rows.Scan(&e.Position, &e.EventId, &e.Source, &e.Topic, &e.Key, &lane, &at, &e.Traceparent, &e.Payload); err != nil {
		return nil, err
	}
	e.At = timestamppb.New(at)
	return &entry{lane: int(lane), event: e}, nil
}

package bus

import (
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// topicTick is the event of schedules; a plugin gets those of its own.
const topicTick = "entrepot.plugin.v1.Tick"

// lanes is a set of lanes.
type lanes uint64

const everyLane = ^lanes(0)

// subscription is a module's standing wish for some topics, and how far each
// of its lanes is. What a lane is doing is one bit in a few sets, so that an
// event costs a subscription that does not want it nothing.
type subscription struct {
	bus    *Bus
	id     int16
	plugin string

	mu          sync.Mutex
	name        string // as in the manifest
	topics      map[string]bool
	maxAttempts int
	gather      time.Duration
	rev         int32
	on          bool
	retired     bool
	inFlight    int
	turn        int       // where the search for the next lane begins
	due         time.Time // before then what comes waits for company
	waiting     lanes     // have events that do
	ready       lanes     // have events, or may have
	busy        lanes     // a worker has them
	resting     lanes     // pause after a failure
	lone        lanes     // share no delivery with others: their last one was not handled
	stale       lanes     // to be read from the database before anything else
	owned       lanes     // are this node's

	// Each belongs to the worker that has the lane's busy bit.
	state [busdb.Lanes]lane
}

// lane is one ordered stripe of the log, as one subscription sees it.
type lane struct {
	// cursor is the position in the database as far as known; nothing of the
	// subscription's lies in (cursor, seen].
	cursor, seen int64
	// parked are the keys that have events set aside. A key may stand here
	// though it has none left; never the other way: what sets an event aside
	// moves the cursor, and who does not know of it fails to.
	parked map[string]bool
	// failures in a row of the whole lane, for its backoff.
	failures int
	// single is how many events are to be delivered one by one, because a
	// batch of them failed.
	single int
	// limit is the size of a batch, halved when one was not done in time.
	limit int
}

// settings are what the database says of a subscription.
type settings struct {
	name        string
	topics      []string
	maxAttempts int
	gather      time.Duration
	on          bool
	rev         int32
}

func newSubscription(b *Bus, id int16, plugin string) *subscription {
	s := &subscription{bus: b, id: id, plugin: plugin, ready: everyLane, stale: everyLane}
	for i := range s.state {
		s.state[i].limit = b.c.Batch
	}
	return s
}

// set takes settings over. A new revision makes every lane look again.
func (s *subscription) set(c settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rev != c.rev || s.topics == nil {
		s.stale, s.ready = everyLane, everyLane
	}
	s.name, s.maxAttempts, s.gather, s.on, s.rev = c.name, c.maxAttempts, c.gather, c.on, c.rev
	s.topics = make(map[string]bool, len(c.topics))
	for _, t := range c.topics {
		s.topics[t] = true
	}
}

// own finds out which lanes are this node's. One that becomes so is read from
// the database first: another node was at it.
func (s *subscription) own() {
	var now lanes
	for l := range busdb.Lanes {
		if s.bus.owns(s.plugin, s.id, l) {
			now |= 1 << l
		}
	}
	s.mu.Lock()
	gained := now &^ s.owned
	s.owned = now
	s.stale |= gained
	s.ready |= gained
	s.mu.Unlock()
}

// label is the subscription's name among all, "<plugin>/<name>".
func (s *subscription) label() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plugin + "/" + s.name
}

func (s *subscription) wants() (topics []string, plugin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.topics {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	return topics, s.plugin
}

// takes is the filter of the subscription's events as it stands now.
func (s *subscription) takes() func(*pluginv1.Event) bool {
	s.mu.Lock()
	topics, prefix := s.topics, s.plugin+"/"
	s.mu.Unlock()
	return func(e *pluginv1.Event) bool {
		return topics[e.GetTopic()] && (e.GetTopic() != topicTick || strings.HasPrefix(e.GetKey(), prefix))
	}
}

// arrived marks lanes that have new events. Shortly after a delivery they wait
// for the next.
func (s *subscription) arrived(l lanes) {
	s.mu.Lock()
	if wait := time.Until(s.due); wait > 0 {
		if s.waiting == 0 {
			time.AfterFunc(wait, s.gathered)
		}
		s.waiting |= l
		s.mu.Unlock()
		return
	}
	s.ready |= l
	s.mu.Unlock()
	s.pump()
}

// gathered lets go what waits for company: to one worker, who begins others if
// he cannot take it all; to many if some lane must go alone.
func (s *subscription) gathered() {
	s.mu.Lock()
	s.ready |= s.waiting
	s.waiting = 0
	alone := s.lone != 0
	s.mu.Unlock()
	if s.work() && alone {
		s.pump()
	}
}

// pace notes that a delivery of so many events begins. One that is nearly full
// has company enough: there is more behind it.
func (s *subscription) pace(events int) {
	s.mu.Lock()
	full := 2*events >= s.bus.c.Batch
	s.due = time.Time{}
	if s.gather > 0 && !full {
		s.due = time.Now().Add(s.gather)
	}
	s.mu.Unlock()
	if full {
		s.gathered()
	}
}

func (s *subscription) wake() {
	s.mu.Lock()
	s.resting = 0
	s.mu.Unlock()
	s.pump()
}

// reread makes lanes be read from the database before anything else.
func (s *subscription) reread(l lanes) {
	s.mu.Lock()
	s.stale |= l
	s.ready |= l
	s.mu.Unlock()
}

func (s *subscription) retire() {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
}

// pump starts workers while lanes have work and the bound allows. A
// subscription without work costs no goroutine.
func (s *subscription) pump() {
	for s.work() {
	}
}

// work starts a worker if a lane has work and the bound allows.
func (s *subscription) work() bool {
	l, ok := s.take()
	if !ok {
		return false
	}
	if !s.bus.begin() {
		s.release(l, true)
		s.leave()
		return false
	}
	go func() {
		defer s.bus.work.Done()
		s.advance(s.bus.base, l)
		s.leave()
		s.pump()
	}()
	return true
}

// take picks a lane with work for a worker of its own.
func (s *subscription) take() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight >= s.bus.c.InFlight {
		return 0, false
	}
	l, ok := s.pick(0)
	if ok {
		s.inFlight++
	}
	return l, ok
}

// join picks a lane with work for a worker that has one.
func (s *subscription) join() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pick(s.lone)
}

// pick chooses a lane with work, in turn, and marks it busy and looked at:
// what arrives from here on marks it again. The caller holds mu.
func (s *subscription) pick(not lanes) (int, bool) {
	able := s.ready & s.owned &^ s.busy &^ s.resting &^ not
	if !s.on || s.retired || able == 0 {
		return 0, false
	}
	l := bits.TrailingZeros64(uint64(able))
	if later := able >> s.turn << s.turn; later != 0 {
		l = bits.TrailingZeros64(uint64(later))
	}
	s.turn = (l + 1) % busdb.Lanes
	s.busy |= 1 << l
	s.ready &^= 1 << l
	return l, true
}

// release gives a lane back.
func (s *subscription) release(l int, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy &^= 1 << l
	if again {
		s.ready |= 1 << l
	}
}

// leave ends a worker.
func (s *subscription) leave() {
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
}

// isolate keeps a lane out of deliveries with others, or lets it in again.
func (s *subscription) isolate(l int, alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if alone {
		s.lone |= 1 << l
	} else {
		s.lone &^= 1 << l
	}
}

func (s *subscription) isolated(l int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lone&(1<<l) != 0
}

// rest keeps a lane from being taken for a while.
func (s *subscription) rest(l int, d time.Duration) {
	s.mu.Lock()
	s.resting |= 1 << l
	s.mu.Unlock()
	time.AfterFunc(d, func() {
		s.mu.Lock()
		s.resting &^= 1 << l
		s.mu.Unlock()
		s.pump()
	})
}

// refresh tells whether the lane must be read from the database, and notes that
// it will be.
func (s *subscription) refresh(l int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.stale&(1<<l) != 0
	s.stale &^= 1 << l
	return was
}

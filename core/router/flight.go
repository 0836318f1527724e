package router

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/entrepot/entrepot/sdk/call"
)

// MaxHops is how many plugins one call may pass through. A plugin that calls
// itself by way of others is stopped there.
const MaxHops = 8

// NewRequestID makes the id of a call that enters the kernel. The ids of the
// calls it causes are made of it: "<id>.1", "<id>.2.1". So an id is unique to
// one call into one plugin, and tells its depth.
func NewRequestID() string { return rand.Text() }

// hops is the depth of a request id.
func hops(id string) int { return strings.Count(id, ".") }

// flights are the calls that are inside of plugins now, by request id. The
// principal and market of what a plugin calls in turn are taken from here and
// never from what the plugin says. Safe for concurrent use.
type flights struct {
	shards [16]struct {
		sync.RWMutex
		calls map[string]*flight
	}
	next atomic.Uint64
}

type flight struct {
	plugin string
	info   call.Info
}

func newFlights() *flights {
	f := &flights{}
	for i := range f.shards {
		f.shards[i].calls = map[string]*flight{}
	}
	return f
}

// child makes the id of a call that parent causes; parent may be empty.
func (f *flights) child(parent string) string {
	if parent == "" {
		return NewRequestID()
	}
	return parent + "." + strconv.FormatUint(f.next.Add(1), 36)
}

func shard(id string) int {
	var h uint8
	for i := range len(id) {
		h = h*31 + id[i]
	}
	return int(h % 16)
}

// enter notes that a call is inside of a plugin. Its RequestID is unique.
func (f *flights) enter(plugin string, info call.Info) {
	s := &f.shards[shard(info.RequestID)]
	s.Lock()
	s.calls[info.RequestID] = &flight{plugin: plugin, info: info}
	s.Unlock()
}

func (f *flights) leave(id string) {
	s := &f.shards[shard(id)]
	s.Lock()
	delete(s.calls, id)
	s.Unlock()
}

// find returns the call with an id, if it is inside of that plugin now.
func (f *flights) find(plugin, id string) (call.Info, bool) {
	s := &f.shards[shard(id)]
	s.RLock()
	c := s.calls[id]
	s.RUnlock()
	if c == nil || c.plugin != plugin {
		return call.Info{}, false
	}
	return c.info, true
}

package blob

import (
	"maps"
	"sync"
	"time"
)

const (
	// maxUploads is how many contents are taken in at once: each is held in
	// memory until it is known to be what it claims to be.
	maxUploads = 32
	// maxPaths bounds how many paths in use are remembered.
	maxPaths = 1 << 16
)

// uploads knows which paths are in use, and what was sent to each of those
// that have not ended: a path takes one content, any number of times. A
// restart forgets. Safe for concurrent use.
type uploads struct {
	mu    sync.Mutex
	now   int
	paths map[string]*path
}

type path struct {
	until time.Time
	busy  bool
	// id is what was stored; empty before.
	id string
}

func newUploads() *uploads { return &uploads{paths: map[string]*path{}} }

// begin takes a path, unless it is taken, or too many are. done gives it back
// with the id of what was stored, empty when nothing was.
func (u *uploads) begin(g grant, at time.Time) (done func(id string), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.paths[g.nonce]
	if u.now >= maxUploads || p != nil && p.busy {
		return nil, false
	}
	if p == nil {
		if len(u.paths) >= maxPaths {
			maps.DeleteFunc(u.paths, func(_ string, p *path) bool { return !p.busy && !at.Before(p.until) })
		}
		if len(u.paths) >= maxPaths {
			return nil, false
		}
		p = &path{until: g.until}
		u.paths[g.nonce] = p
	}
	p.busy = true
	u.now++
	return func(id string) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.now--
		p.busy = false
		if id != "" {
			p.id = id
		} else if p.id == "" {
			delete(u.paths, g.nonce)
		}
	}, true
}

// fits tells whether a path that is taken takes a content.
func (u *uploads) fits(g grant, id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.paths[g.nonce].id
	return was == "" || was == id
}

package identity

import "sync"

// recent is a bounded map that forgets by generations: what nobody asked for
// during a whole generation is gone. It is safe for concurrent use.
type recent[K comparable, V any] struct {
	// size bounds each of the two generations.
	size     int
	mu       sync.Mutex
	now, old map[K]V
}

// lookup returns what is remembered, and remembers it anew.
func (r *recent[K, V]) lookup(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find(k)
}

// keep remembers v, unless something is remembered already: that is returned.
func (r *recent[K, V]) keep(k K, v V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.find(k); ok {
		return before
	}
	r.put(k, v)
	return v
}

func (r *recent[K, V]) find(k K) (V, bool) {
	if v, ok := r.now[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if r.now == nil || len(r.now) >= r.size {
		r.now, r.old = make(map[K]V), r.now
	}
	r.now[k] = v
}

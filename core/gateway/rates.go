package gateway

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rates holds a token bucket per client, for the most recent clients. One
// that is forgotten begins with a full bucket again. Safe for concurrent use.
type rates struct {
	limit rate.Limit
	burst int
	most  int

	mu      sync.Mutex
	clients map[string]*list.Element
	recent  list.List // of *bucket, the most recent first
}

type bucket struct {
	client  string
	limiter *rate.Limiter
}

// newRates makes buckets; a negative rate does not bound.
func newRates(perSecond float64, burst, most int) *rates {
	return &rates{limit: rate.Limit(perSecond), burst: burst, most: most, clients: map[string]*list.Element{}}
}

// take takes one token of a client, or tells when there will be one.
func (r *rates) take(client string) error {
	if r.limit < 0 {
		return nil
	}
	now := time.Now()
	reservation := r.limiter(client).ReserveN(now, 1)
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return overloaded(wait, "too many calls; wait a little")
	}
	return nil
}

func (r *rates) limiter(client string) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.clients[client]; ok {
		r.recent.MoveToFront(e)
		return e.Value.(*bucket).limiter //nolint:forcetypeassert // the list holds buckets only
	}
	if r.recent.Len() >= r.most {
		oldest := r.recent.Back()
		delete(r.clients, r.recent.Remove(oldest).(*bucket).client) //nolint:forcetypeassert // as above
	}
	b := &bucket{client: client, limiter: rate.NewLimiter(r.limit, r.burst)}
	r.clients[client] = r.recent.PushFront(b)
	return b.limiter
}

package supervisor

import (
	"errors"
	"math/rand/v2"
	"time"
)

const (
	backoffFirst      = 250 * time.Millisecond
	backoffMost       = 30 * time.Second
	healthyAfter      = 5 * time.Minute
	quarantineCrashes = 5
	quarantineWindow  = 10 * time.Minute
)

// crash marks an end that the process itself is the cause of. What the kernel
// could not do for it, because the database is away or the configuration is
// refused, is tried again without limit instead: it may be well tomorrow
// without the plugin being touched.
type crash struct{ error }

func (c crash) Unwrap() error { return c.error }

// history counts failures: pauses grow from a quarter second to thirty with
// full jitter, five minutes of health forget them, and five crashes within ten
// minutes end in quarantine.
type history struct {
	row     int
	crashes []time.Time
}

// add records a failure after up of service.
func (h *history) add(now time.Time, up time.Duration, cause error) (wait time.Duration, quarantined bool) {
	if up >= healthyAfter {
		h.row = 0
	}
	h.row++
	if errors.As(cause, new(crash)) {
		h.crashes = append(h.crashes, now)
		if len(h.crashes) > quarantineCrashes {
			h.crashes = h.crashes[1:]
		}
		quarantined = len(h.crashes) == quarantineCrashes && now.Sub(h.crashes[0]) <= quarantineWindow
	}
	return rand.N(h.limit()) + time.Millisecond, quarantined
}

// limit is the longest pause now.
func (h *history) limit() time.Duration {
	d := backoffFirst
	for range h.row - 1 {
		if d *= 2; d >= backoffMost {
			return backoffMost
		}
	}
	return d
}

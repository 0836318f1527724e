package supervisor

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	errAway    = errors.New("the database is away")
	errCrashed = fmt.Errorf("once more: %w", crash{errors.New("exit status 2")})
)

func TestFiveCrashesWithinTenMinutesAreQuarantined(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	for name, c := range map[string]struct {
		every time.Duration
		cause error
		want  bool
	}{
		"in a row":                 {time.Second, errCrashed, true},
		"just within ten minutes":  {150 * time.Second, errCrashed, true},
		"over a longer time":       {151 * time.Second, errCrashed, false},
		"what is no crash, ever":   {time.Second, errAway, false},
		"a stop for other reasons": {time.Second, ErrStopped, false},
	} {
		var h history
		quarantined := false
		for i := range quarantineCrashes {
			require.False(t, quarantined, name)
			_, quarantined = h.add(start.Add(time.Duration(i)*c.every), 0, c.cause)
		}
		require.Equal(t, c.want, quarantined, name)
	}
}

func TestPausesGrowUntilHealth(t *testing.T) {
	var h history
	var limits []time.Duration
	for range 9 {
		h.add(time.Now(), healthyAfter-1, errAway)
		limits = append(limits, h.limit())
	}
	require.Equal(t, []time.Duration{
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second,
		30 * time.Second, 30 * time.Second,
	}, limits)
	h.add(time.Now(), healthyAfter, errAway)
	require.Equal(t, backoffFirst, h.limit())
}

func TestEveryPauseIsWithinItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h history
		for range rapid.IntRange(1, 100_000).Draw(t, "failures") % 200 {
			wait, _ := h.add(time.Now(), time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "up")), errAway)
			require.Positive(t, wait)
			require.LessOrEqual(t, wait, backoffMost+time.Millisecond)
			require.LessOrEqual(t, len(h.crashes), quarantineCrashes)
		}
	})
}

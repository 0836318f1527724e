package recommend

import (
	"math"
	"time"
)

// market is what trends and what can be sold in one country, by good.
type market struct {
	trends    []float64
	can       []bool
	positions []int64
}

func (k *market) grow(good int32) {
	for int(good) >= len(k.trends) {
		k.trends, k.can, k.positions = append(k.trends, 0), append(k.can, false), append(k.positions, 0)
	}
}

// epoch is what trends are counted from. A trend is not aged: what comes later
// weighs more instead, so that an event changes one number. With a half-life
// of a day the numbers hold for 2.8 years from the epoch, with a week for 19.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (k *market) trend(good int32, weight float64, at time.Time, halfLife time.Duration) {
	k.grow(good)
	k.trends[good] += weight * math.Exp2(at.Sub(epoch).Hours()/halfLife.Hours())
}

func (k *market) offer(good int32, can bool, position int64) {
	k.grow(good)
	k.can[good], k.positions[good] = can, position
}

func (k *market) offers(good int32) bool { return int(good) < len(k.can) && k.can[good] }

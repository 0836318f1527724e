package identity

import (
	"context"
	"net/netip"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/time/rate"

	"github.com/entrepot/entrepot/sdk/fault"
)

// Rate is a token bucket: Burst at once, then one per Every.
type Rate struct {
	Burst int
	Every time.Duration
}

// Limits bound how often the doors may be tried. A zero Rate takes the
// default named beside it.
type Limits struct {
	// Client bounds registrations, logins and tokens per client address (an
	// IPv6 /64 counts as one). Default 60, then one a second.
	Client Rate
	// Login bounds logins and password changes per mail address. Default 10,
	// then one in 30 s.
	Login Rate
	// Enrol bounds mails to one address: registrations and invitations.
	// Default 4, then one in 15 min.
	Enrol Rate
}

func (l Limits) withDefaults() Limits {
	put := func(r *Rate, burst int, every time.Duration) {
		if *r == (Rate{}) {
			*r = Rate{Burst: burst, Every: every}
		}
	}
	put(&l.Client, 60, time.Second)
	put(&l.Login, 10, 30*time.Second)
	put(&l.Enrol, 4, 15*time.Minute)
	return l
}

// bucketsKept bounds each of two generations of buckets. Durable failure
// counts stand behind those that are forgotten.
const bucketsKept = 1 << 15

// buckets are token buckets of one rate, by key.
type buckets struct {
	rate  Rate
	known recent[string, *rate.Limiter]
}

func newBuckets(r Rate) *buckets {
	return &buckets{rate: r, known: recent[string, *rate.Limiter]{size: bucketsKept}}
}

// take takes one token, or tells how long to wait for it.
func (b *buckets) take(key string, now time.Time) error {
	l, ok := b.known.lookup(key)
	if !ok {
		l = b.known.keep(key, rate.NewLimiter(rate.Every(b.rate.Every), b.rate.Burst))
	}
	r := l.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return errThrottled(wait)
	}
	return nil
}

func errThrottled(wait time.Duration) error {
	return fault.Retry(fault.New(connect.CodeResourceExhausted, ReasonThrottled, "too many tries; wait before the next"), wait)
}

// knock counts a try at one of the public doors, by client first.
func (s *Service) knock(ctx context.Context, door *buckets, mailHash []byte) error {
	now := s.now()
	if addr := s.clientAddr(ctx); addr.IsValid() {
		if err := s.perClient.take(client(addr), now); err != nil {
			return err
		}
	}
	if door == nil {
		return nil
	}
	return door.take(string(mailHash), now)
}

// PeerAddr is the network address that the call's connection came from; the
// zero Addr without a network peer.
func PeerAddr(ctx context.Context) netip.Addr {
	info, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	peer, _ := netip.ParseAddrPort(info.PeerAddr)
	return peer.Addr()
}

// client names whose allowance an address uses: of IPv6 the /64, which is one
// subscriber's.
func client(a netip.Addr) string {
	a = a.Unmap()
	if !a.Is6() {
		return a.String()
	}
	prefix, _ := a.Prefix(64) // never fails: an IPv6 address has 64 bits
	return prefix.String()
}

// Wrong passwords in a row that cost nothing, and the longest wait after
// more: it doubles from a second.
const (
	freeFailures = 10
	longestWait  = 15 * time.Minute
)

// waitAfter is how long an address waits after so many failures in a row.
func waitAfter(failures int) time.Duration {
	if failures < freeFailures {
		return 0
	}
	// Shifts past the longest wait are not made.
	return min(time.Second<<min(failures-freeFailures, 20), longestWait)
}

package identity

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"pgregory.net/rapid"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

func (h *house) tryLogin(email, password string) error {
	_, err := h.people.Login(context.Background(), &identityv1.LoginRequest{Email: email, Password: password})
	return err
}

// requireThrottled takes the hint how long to wait.
func requireThrottled(t *testing.T, err error) time.Duration {
	t.Helper()
	requireFault(t, err, connect.CodeResourceExhausted, ReasonThrottled)
	hint, ok := fault.Detail[*errdetails.RetryInfo](err)
	require.True(t, ok)
	require.Positive(t, hint.GetRetryDelay().AsDuration())
	return hint.GetRetryDelay().AsDuration()
}

func TestLoginsToOneAddressAreBoundedWhetherItHasAnAccountOrNot(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.Limits.Login = Rate{Burst: 3, Every: time.Minute} })
	h.joinConsumer(t, "known@example.com")
	for _, email := range []string{"known@example.com", "unknown@example.com"} {
		for range 3 {
			requireFault(t, h.tryLogin(email, "wrong"), connect.CodeUnauthenticated, ReasonInvalidCredentials)
		}
		hashes := h.passwords.done.Load()
		require.Equal(t, time.Minute, requireThrottled(t, h.tryLogin(email, password)))
		requireThrottled(t, h.tryLogin(" "+email, password))
		require.Equal(t, hashes, h.passwords.done.Load(), "a refused try costs no hash")
	}
	h.later(time.Minute)
	require.NoError(t, h.tryLogin("known@example.com", password))
}

func TestFailuresAreCountedBeyondARestartWhetherThereIsAnAccountOrNot(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "known@example.com")
	for _, email := range []string{"known@example.com", "unknown@example.com"} {
		for range freeFailures + 2 {
			requireFault(t, h.tryLogin(email, "wrong"), connect.CodeUnauthenticated, ReasonInvalidCredentials)
			h.later(waitAfter(freeFailures + 2))
		}
		requireFault(t, h.tryLogin(email, "wrong"), connect.CodeUnauthenticated, ReasonInvalidCredentials)
		h.restart(t)
		require.Equal(t, waitAfter(freeFailures+3), requireThrottled(t, h.tryLogin(email, password)))
	}
	h.later(waitAfter(freeFailures + 3))
	require.NoError(t, h.tryLogin("known@example.com", password))
	requireFault(t, h.tryLogin("known@example.com", "wrong"), connect.CodeUnauthenticated, ReasonInvalidCredentials)
	require.NoError(t, h.tryLogin("known@example.com", password), "a good login ends the count")
}

func TestTheWaitGrowsAndHasABound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<30).Draw(t, "failures")
		require.LessOrEqual(t, waitAfter(n), waitAfter(n+1))
		require.LessOrEqual(t, waitAfter(n), longestWait)
		if n < freeFailures {
			require.Zero(t, waitAfter(n))
		}
	})
	require.Equal(t, time.Second, waitAfter(freeFailures))
}

func TestAClientIsBoundedOverAllDoors(t *testing.T) {
	t.Parallel()
	var from netip.Addr
	h := open(t, func(o *Options) {
		o.Limits.Client = Rate{Burst: 2, Every: time.Second}
		o.ClientAddr = func(context.Context) netip.Addr { return from }
	})
	doors := []func() error{
		func() error { return h.tryLogin("a@example.com", "wrong") },
		func() error { _, err := h.people.RegisterConsumer(t.Context(), consumer("a@example.com")); return err },
		func() error { _, err := h.refresh("x"); return err },
		func() error {
			_, err := h.people.Logout(t.Context(), &identityv1.LogoutRequest{RefreshToken: "x"})
			return err
		},
		func() error {
			_, err := h.people.ConfirmRegistration(t.Context(), &identityv1.ConfirmRegistrationRequest{Token: "x"})
			return err
		},
		func() error {
			_, err := h.members.AcceptInvitation(t.Context(), &identityv1.AcceptInvitationRequest{Token: "x", Password: password, Name: "E"})
			return err
		},
	}
	for i := range doors {
		from = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		for range 2 {
			require.NotEqual(t, connect.CodeResourceExhausted, connect.CodeOf(doors[i]()))
		}
		for _, door := range doors {
			requireThrottled(t, door())
		}
	}
	from = netip.MustParseAddr("192.0.2.99")
	require.NotEqual(t, connect.CodeResourceExhausted, connect.CodeOf(doors[0]()), "another client is not concerned")
}

func TestMailsToOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.Limits.Enrol = Rate{Burst: 2, Every: time.Hour} })
	for range 2 {
		_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
		require.NoError(t, err)
	}
	_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
	requireThrottled(t, err)
	_, err = h.staff.CreateStaff(bearer(t, h.LocalOperatorToken()), &identityv1.CreateStaffRequest{
		Email: "ADA@example.com", Kind: identityv1.AccountKind_ACCOUNT_KIND_STAFF,
	})
	requireThrottled(t, err)
}

func TestBucketsAreBoundedAndKeepThoseInUse(t *testing.T) {
	t.Parallel()
	b, now := newBuckets(Rate{Burst: 1, Every: time.Hour}), time.Now()
	require.NoError(t, b.take("mine", now))
	for i := range 3 * bucketsKept {
		require.NoError(t, b.take(fmt.Sprint(i), now))
		require.LessOrEqual(t, len(b.known.now)+len(b.known.old), 2*bucketsKept)
		if i%1000 == 0 {
			require.Error(t, b.take("mine", now))
		}
	}
}

func TestHashesAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	p, err := newPasswords(8, 1)
	require.NoError(t, err)
	for range cap(p.queue) {
		p.queue <- struct{}{}
	}
	_, err = p.hash(t.Context(), password)
	requireThrottled(t, err)
	_, err = p.matches(t.Context(), password, "")
	requireThrottled(t, err)
	require.Zero(t, p.done.Load())
	for range cap(p.queue) {
		<-p.queue
	}
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	ctx, cancel := testContext(t)
	cancel()
	_, err = p.hash(ctx, password)
	require.ErrorIs(t, err, context.Canceled)
}

func TestTheDefaultCostIsTheRecommendedOne(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *Options) { o.Argon2MemoryKiB, o.Argon2Iterations = 0, 0 })
	require.Contains(t, h.passwords.dummy, "$argon2id$v=19$m=19456,t=2,p=1$")
}

func TestAClientIsItsAddressOrItsNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		require.Equal(t, want, client(netip.MustParseAddr(addr)), addr)
	}
	require.False(t, PeerAddr(t.Context()).IsValid(), "no call, no peer")
}

package identity

import (
	"context"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
)

func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

func TestARefreshTokenWorksOnceAndItsReuseEndsTheSession(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	first, other := h.login(t, "ada@example.com"), h.login(t, "ada@example.com")
	second, err := h.refresh(first.GetRefreshToken())
	require.NoError(t, err)
	require.NotEqual(t, first.GetRefreshToken(), second.GetRefreshToken())
	third, err := h.refresh(second.GetRefreshToken())
	require.NoError(t, err)

	_, err = h.refresh(first.GetRefreshToken())
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
	_, err = h.refresh(third.GetRefreshToken())
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
	_, err = h.refresh(other.GetRefreshToken())
	require.NoError(t, err, "another session goes on")
}

// Thief and owner use one token at the same moment, in any number: one gets
// new tokens at most, and they are worth nothing.
func TestReuseEndsTheWholeSessionUnderConcurrency(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	rapid.Check(t, func(rt *rapid.T) {
		tokens := h.login(t, "ada@example.com")
		all := []string{tokens.GetRefreshToken()}
		for range rapid.IntRange(0, 3).Draw(rt, "rotations") {
			next, err := h.refresh(all[len(all)-1])
			require.NoError(rt, err)
			all = append(all, next.GetRefreshToken())
		}
		uses := rapid.IntRange(2, 8).Draw(rt, "uses")
		got := make([]*identityv1.Tokens, uses)
		errs := make([]error, uses)
		var wg sync.WaitGroup
		for i := range uses {
			wg.Go(func() { got[i], errs[i] = h.refresh(all[len(all)-1]) })
		}
		wg.Wait()
		good := 0
		for i, err := range errs {
			if err == nil {
				good++
				all = append(all, got[i].GetRefreshToken())
				continue
			}
			requireFault(rt, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
		}
		require.Equal(rt, 1, good)
		for _, token := range all {
			_, err := h.refresh(token)
			requireFault(rt, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
		}
	})
}

func TestASessionEnds(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	for name, end := range map[string]func(*identityv1.Tokens){
		"by logout": func(tokens *identityv1.Tokens) {
			for range 2 { // a repeat is content
				_, err := h.people.Logout(t.Context(), &identityv1.LogoutRequest{RefreshToken: tokens.GetRefreshToken()})
				require.NoError(t, err)
			}
		},
		"30 days after its last use": func(*identityv1.Tokens) { h.later(RefreshLife) },
	} {
		tokens := h.login(t, "ada@example.com")
		end(tokens)
		_, err := h.refresh(tokens.GetRefreshToken())
		requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
		require.NotNil(t, tokens, name)
	}
	_, err := h.people.Logout(t.Context(), &identityv1.LogoutRequest{RefreshToken: "unknown"})
	require.NoError(t, err, "an unknown token is answered alike")
	_, err = h.refresh("unknown")
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
}

func TestUseKeepsASessionAlive(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	tokens := h.login(t, "ada@example.com")
	for range 3 {
		h.later(RefreshLife - time.Minute)
		var err error
		tokens, err = h.refresh(tokens.GetRefreshToken())
		require.NoError(t, err)
	}
}

func TestAChangedPasswordEndsEveryOtherSession(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	mine, other := h.login(t, "ada@example.com"), h.login(t, "ada@example.com")
	change := func(old, new string) error {
		_, err := h.people.ChangePassword(bearer(t, mine.GetAccessToken()), &identityv1.ChangePasswordRequest{OldPassword: old, NewPassword: new})
		return err
	}
	requireFault(t, change("wrong", "another password"), connect.CodeUnauthenticated, ReasonInvalidCredentials)
	require.NoError(t, change(password, "another password"))
	require.NoError(t, change(password, "another password"), "a repeat finds it done")

	_, err := h.refresh(other.GetRefreshToken())
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
	_, err = h.refresh(mine.GetRefreshToken())
	require.NoError(t, err)
	_, err = h.people.Login(t.Context(), &identityv1.LoginRequest{Email: "ada@example.com", Password: password})
	requireFault(t, err, connect.CodeUnauthenticated, ReasonInvalidCredentials)
	_, err = h.people.Login(t.Context(), &identityv1.LoginRequest{Email: "ada@example.com", Password: "another password"})
	require.NoError(t, err)
}

func TestAPasswordIsTheSameFromEveryKeyboard(t *testing.T) {
	t.Parallel()
	h := open(t)
	req := consumer("ada@example.com")
	req.Password = "caf\u00e9 au lait" // one letter
	_, err := h.people.RegisterConsumer(t.Context(), req)
	require.NoError(t, err)
	h.confirm(t, tokenIn(h.mailTo(t, "ada@example.com")))
	_, err = h.people.Login(t.Context(), &identityv1.LoginRequest{Email: "ada@example.com", Password: "cafe\u0301 au lait"}) // letter and accent
	require.NoError(t, err)
}

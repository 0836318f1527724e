package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

func TestAnAccessTokenThatThisKernelDidNotSignIsRefused(t *testing.T) {
	t.Parallel()
	h := open(t)
	public := h.tokens.known[h.tokens.kid]
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	stranger := ed25519.NewKeyFromSeed(random(ed25519.SeedSize))
	good := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: "acc_1", IssuedAt: jwt.NewNumericDate(h.now()), ExpiresAt: jwt.NewNumericDate(h.now().Add(time.Minute)),
		}, Kind: call.Operator, Permissions: []string{everything},
	}
	with := func(change func(*claims)) claims {
		c := good
		change(&c)
		return c
	}
	make := func(method jwt.SigningMethod, key any, kid string, c claims) string {
		token := jwt.NewWithClaims(method, c)
		token.Header["kid"] = kid
		s, err := token.SignedString(key)
		require.NoError(t, err)
		return s
	}
	eddsa := jwt.SigningMethodEdDSA
	valid := make(eddsa, h.tokens.key, h.tokens.kid, good)
	_, _, err = h.Authenticate(t.Context(), valid)
	require.NoError(t, err, "the table differs from a good token in one thing each")
	parts := strings.Split(valid, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	forged := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(body), "acc_1", "acc_2", 1))) + "." + parts[2]

	for name, token := range map[string]string{
		"empty":                          "",
		"no token at all":                "hello",
		"too long":                       valid + strings.Repeat("A", maxBearer),
		"alg none":                       make(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, h.tokens.kid, good),
		"HMAC under the public key":      make(jwt.SigningMethodHS256, []byte(public), h.tokens.kid, good),
		"HMAC under its encoding":        make(jwt.SigningMethodHS256, der, h.tokens.kid, good),
		"signed by a stranger":           make(eddsa, stranger, h.tokens.kid, good),
		"an unknown kid":                 make(eddsa, h.tokens.key, "unknown", good),
		"claims changed":                 forged,
		"signature cut off":              parts[0] + "." + parts[1] + ".",
		"expired":                        make(eddsa, h.tokens.key, h.tokens.kid, with(func(c *claims) { c.ExpiresAt = jwt.NewNumericDate(h.now().Add(-time.Second)) })),
		"without expiry":                 make(eddsa, h.tokens.key, h.tokens.kid, with(func(c *claims) { c.ExpiresAt = nil })),
		"issued in the future":           make(eddsa, h.tokens.key, h.tokens.kid, with(func(c *claims) { c.IssuedAt = jwt.NewNumericDate(h.now().Add(time.Hour)) })),
		"of another issuer":              make(eddsa, h.tokens.key, h.tokens.kid, with(func(c *claims) { c.Issuer = "another" })),
		"the local operator's of before": localOfBefore(t, h),
	} {
		who, _, err := h.Authenticate(t.Context(), token)
		requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
		require.Zero(t, who, name)
	}
}

// localOfBefore takes the local operator's token of a process that ended.
func localOfBefore(t *testing.T, h *house) string {
	before, err := newSigner(h.keys.Signing, h.now)
	require.NoError(t, err)
	return before.local
}

func TestAuthenticationAsksNoDatabase(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	token := h.login(t, "ada@example.com").GetAccessToken()
	before := h.statements.Load()
	_, _, err := h.Authenticate(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, before, h.statements.Load())
	h.later(AccessLife)
	_, _, err = h.Authenticate(t.Context(), token)
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
}

func TestTheLocalOperatorHasATokenAndNoPassword(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.later(365 * 24 * time.Hour)
	who, _, err := h.Authenticate(t.Context(), h.LocalOperatorToken())
	require.NoError(t, err)
	require.Equal(t, call.Principal{Kind: call.Operator, Account: LocalOperator, Permissions: []string{"*"}}, who)
	res, err := h.people.GetSelf(bearer(t, h.LocalOperatorToken()), &identityv1.GetSelfRequest{})
	require.NoError(t, err)
	require.Equal(t, identityv1.AccountKind_ACCOUNT_KIND_OPERATOR, res.GetSelf().GetKind())
	_, err = h.people.ChangePassword(bearer(t, h.LocalOperatorToken()), &identityv1.ChangePasswordRequest{OldPassword: "x", NewPassword: password})
	requireFault(t, err, connect.CodeUnauthenticated, ReasonNoAccount)
	_, err = h.people.GetSelf(t.Context(), &identityv1.GetSelfRequest{})
	requireFault(t, err, connect.CodeUnauthenticated, ReasonNoAccount)
}

func TestARotatedSigningKeyStillVerifiesAndNoLongerSigns(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	old := h.login(t, "ada@example.com").GetAccessToken()
	kid := h.tokens.kid
	require.NoError(t, RotateSigningKey(h.options.KeyFile))
	h.restart(t)
	require.NotEqual(t, kid, h.tokens.kid)
	for _, token := range []string{old, h.login(t, "ada@example.com").GetAccessToken()} {
		_, _, err := h.Authenticate(t.Context(), token)
		require.NoError(t, err)
	}
	for range keptSigningKeys {
		require.NoError(t, RotateSigningKey(h.options.KeyFile))
	}
	h.restart(t)
	_, _, err := h.Authenticate(t.Context(), old)
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
}

func TestAStartWithoutTheRightKeysRefusesAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	h := open(t)
	file := h.options.KeyFile
	reopen := func() error {
		_, err := New(t.Context(), h.options)
		return err
	}
	require.NoError(t, os.Remove(file))
	require.NoError(t, reopen(), "without accounts nothing is lost, and new keys are made")
	h.restart(t)
	h.joinConsumer(t, "ada@example.com")
	belongs, err := os.ReadFile(file)
	require.NoError(t, err)

	require.NoError(t, os.Remove(file))
	require.ErrorContains(t, reopen(), "are missing: restore them from the backup")
	require.NoFileExists(t, file)
	other := keyFile{Signing: []signingKey{newSigningKey()}, Mail: random(32), Enrolment: random(32)}
	require.NoError(t, other.write(file, os.Rename))
	require.ErrorContains(t, reopen(), "do not belong to this database")
	for _, broken := range []string{"", "{}", `{"signing":[{"kid":"a","seed":"AA=="}]}`} {
		require.NoError(t, os.WriteFile(file, []byte(broken), 0o600))
		require.ErrorContains(t, reopen(), "does not hold the keys")
	}
	require.NoError(t, os.WriteFile(file, belongs, 0o600))
	require.NoError(t, os.Chmod(file, 0o640))
	require.ErrorContains(t, reopen(), "chmod 600")
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, reopen())
}

// Whatever comes as a bearer token is refused, or was signed here.
func FuzzAuthenticate(f *testing.F) {
	s, err := newSigner([]signingKey{newSigningKey()}, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add("a.b.c")
	f.Add(s.local + "x")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := s.verify(token); err == nil && token != s.local {
			// Base64 has spare bits: another spelling of the same token is it.
			if c.Subject != LocalOperator {
				t.Fatalf("%q was taken for %v", token, c)
			}
		}
	})
}

// What a request with a token costs the gateway.
func BenchmarkAuthenticate(b *testing.B) {
	s, err := newSigner([]signingKey{newSigningKey()}, time.Now)
	require.NoError(b, err)
	token, _, err := s.mint(&account{id: LocalOperator, kind: call.Consumer, subject: "sub_00000000000000000000000000"}, "s", time.Now())
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.verify(token); err != nil {
			b.Fatal(err)
		}
	}
}

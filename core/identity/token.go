package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

const (
	// AccessLife is how long an access token holds. A session that ended
	// stops within it.
	AccessLife = 15 * time.Minute
	// LocalOperator is the account id of the operator that every deployment
	// has from the first start. It has no row and no password.
	LocalOperator = "acc_00000000000000000000000000"

	issuer = "entrepot"
	// maxBearer bounds what is parsed at all.
	maxBearer = 16 << 10
	// verifiedKept bounds each of two generations of verified tokens.
	verifiedKept = 4096
)

// claims are what an access token says.
type claims struct {
	jwt.RegisteredClaims
	Kind        call.Kind `json:"knd"`
	VaultID     string    `json:"sbj,omitempty"`
	Merchant    string    `json:"mrc,omitempty"`
	Permissions []string  `json:"prm,omitempty"`
	Market      string    `json:"mkt,omitempty"`
	Session     string    `json:"sid,omitempty"`
}

// signer makes and verifies access tokens.
type signer struct {
	kid    string
	key    ed25519.PrivateKey
	known  map[string]ed25519.PublicKey
	local  string
	parser *jwt.Parser
	now    func() time.Time
	// verified saves the signature's cost for a token that comes again, as it
	// does with each call: a look instead of some 100 us. By the token's hash.
	verified recent[[sha256.Size]byte, *claims]
}

func newSigner(keys []signingKey, now func() time.Time) (*signer, error) {
	s := &signer{known: make(map[string]ed25519.PublicKey, len(keys)+1), now: now}
	s.verified.size = verifiedKept
	for i, k := range keys {
		key := ed25519.NewKeyFromSeed(k.Seed)
		s.known[k.ID] = key.Public().(ed25519.PublicKey)
		if i == 0 {
			s.kid, s.key = k.ID, key
		}
	}
	s.parser = jwt.NewParser(
		// Nothing else, "none" above all.
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(now))
	var err error
	s.local, err = s.mintLocal(now())
	return s, err
}

// mintLocal signs the local operator's token with a key that lives in this
// process alone: with the process the token ends.
func (s *signer) mintLocal(now time.Time) (string, error) {
	k := newSigningKey()
	key := ed25519.NewKeyFromSeed(k.Seed)
	s.known[k.ID] = key.Public().(ed25519.PublicKey)
	return sign(key, k.ID, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: LocalOperator,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.AddDate(10, 0, 0)),
		},
		Kind: call.Operator, Permissions: []string{everything},
	})
}

// mint signs an access token for a session of an account.
func (s *signer) mint(a *account, session string, now time.Time) (token string, expires time.Time, err error) {
	expires = now.Add(AccessLife)
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: a.id, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Kind: a.kind, Merchant: a.merchant, Permissions: a.permissions, Market: a.market, Session: session,
	}
	if a.kind == call.Consumer {
		c.VaultID = a.subject
	}
	token, err = sign(s.key, s.kid, c)
	return token, expires, err
}

func sign(key ed25519.PrivateKey, kid string, c claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = kid
	token, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("identity: sign access token: %w", err)
	}
	return token, nil
}

// verify returns what a good token says. The claims are shared: nobody
// changes them.
func (s *signer) verify(token string) (*claims, error) {
	if len(token) > maxBearer {
		return nil, errToken(connect.CodeUnauthenticated)
	}
	hash := sha256.Sum256([]byte(token))
	if c, ok := s.verified.lookup(hash); ok && s.now().Before(c.ExpiresAt.Time) {
		return c, nil
	}
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		key, ok := s.known[kid]
		if !ok {
			return nil, jwt.ErrTokenUnverifiable
		}
		return key, nil
	})
	if err != nil {
		return nil, errToken(connect.CodeUnauthenticated).WithCause(err)
	}
	return s.verified.keep(hash, &c), nil
}

// errToken says that a token is not, or no longer, good: not why.
func errToken(code connect.Code) *connect.Error {
	return fault.New(code, ReasonTokenInvalid, "the token is not valid, or not any more")
}

// Authenticate tells who holds an access token, and the market it was given
// for. It asks no database; the error is unauthenticated with reason
// TOKEN_INVALID.
func (s *Service) Authenticate(_ context.Context, bearer string) (call.Principal, string, error) {
	c, err := s.tokens.verify(bearer)
	if err != nil {
		return call.Principal{}, "", err
	}
	return call.Principal{
		Kind: c.Kind, Account: c.Subject, Subject: c.VaultID, Merchant: c.Merchant, Permissions: c.Permissions,
	}, c.Market, nil
}

// LocalOperatorToken is an access token of the local operator that holds as
// long as this process: for a file that only the owner of the data directory
// reads.
func (s *Service) LocalOperatorToken() string { return s.tokens.local }

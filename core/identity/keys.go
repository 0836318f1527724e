package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// keptSigningKeys bounds the signing keys in the file: the newest signs, the
// others still verify. An access token outlives its key's turn by minutes.
const keptSigningKeys = 3

// keyFile is "<data>/keys/identity.json", mode 0600.
type keyFile struct {
	// Signing is newest first.
	Signing []signingKey `json:"signing"`
	// Mail keys the hash of mail addresses, Enrolment the tokens in mails.
	Mail      []byte `json:"mail"`
	Enrolment []byte `json:"enrolment"`
}

type signingKey struct {
	ID   string `json:"kid"`
	Seed []byte `json:"seed"`
}

func newSigningKey() signingKey {
	return signingKey{ID: hex.EncodeToString(random(8)), Seed: random(ed25519.SeedSize)}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// openKeyFile reads the keys or creates them: then created is true.
func openKeyFile(path string) (k keyFile, created bool, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k = keyFile{Signing: []signingKey{newSigningKey()}, Mail: random(32), Enrolment: random(32)}
		if err := k.write(path, os.Link); err != nil {
			return keyFile{}, false, fmt.Errorf("identity: create keys: %w", err)
		}
		return k, true, nil
	}
	if err != nil {
		return keyFile{}, false, fmt.Errorf("identity: keys: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return keyFile{}, false, fmt.Errorf("identity: keys: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return keyFile{}, false, fmt.Errorf("identity: others than its owner may read the keys %s: chmod 600 it", path)
	}
	if err := json.Unmarshal(raw, &k); err != nil || !k.whole() {
		return keyFile{}, false, fmt.Errorf("identity: %s does not hold the keys: restore it from the backup", path)
	}
	return k, false, nil
}

func (k keyFile) whole() bool {
	for _, s := range k.Signing {
		if s.ID == "" || len(s.Seed) != ed25519.SeedSize {
			return false
		}
	}
	return len(k.Signing) > 0 && len(k.Mail) >= 32 && len(k.Enrolment) >= 32
}

// write puts the file in its place whole or not at all: place is os.Link,
// which replaces nothing, or os.Rename.
func (k keyFile) write(path string, place func(from, to string) error) error {
	raw, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".identity-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(raw)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return place(tmp.Name(), path)
}

// RotateSigningKey adds a new signing key to the keys file. It signs from the
// next start on; tokens of the older keys stay valid for their time.
func RotateSigningKey(path string) error {
	k, _, err := openKeyFile(path)
	if err != nil {
		return err
	}
	k.Signing = append([]signingKey{newSigningKey()}, k.Signing...)
	k.Signing = k.Signing[:min(len(k.Signing), keptSigningKeys)]
	if err := k.write(path, os.Rename); err != nil {
		return fmt.Errorf("identity: rotate signing key: %w", err)
	}
	return nil
}

// prove refuses a keys file that is not the one the database was written
// with: no address in it would be found any more.
func (k keyFile) prove(ctx context.Context, pool *pgxpool.Pool, path string, created bool) error {
	want, got := keyed(k.Mail, "proof"), []byte(nil)
	_, err := pool.Exec(ctx, `
		INSERT INTO kernel.identity_key (proof) VALUES ($1)
		ON CONFLICT (one) DO UPDATE SET proof = excluded.proof WHERE $2 AND NOT EXISTS (SELECT FROM kernel.account)`, want, created)
	if err == nil {
		err = pool.QueryRow(ctx, `SELECT proof FROM kernel.identity_key`).Scan(&got)
	}
	switch {
	case err != nil:
		return fmt.Errorf("identity: proof of the keys: %w", err)
	case hmac.Equal(want, got):
		return nil
	case created:
		_ = os.Remove(path) // made for nothing a moment ago
		return fmt.Errorf("identity: the database holds accounts but the keys %s are missing: restore them from the backup; nothing was changed", path)
	}
	return fmt.Errorf("identity: the keys %s do not belong to this database: restore the file that does", path)
}

// mailHash is what an account is found by: a keyed hash of the address
// without regard to case.
func (k keyFile) mailHash(address string) []byte {
	return keyed(k.Mail, strings.ToLower(strings.TrimSpace(address)))
}

// enrolmentToken is the token of an enrolment, the same each time its mail is
// written.
func (k keyFile) enrolmentToken(id string) string {
	return base64.RawURLEncoding.EncodeToString(keyed(k.Enrolment, "enrolment|"+id))
}

func keyed(key []byte, s string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(s))
	return m.Sum(nil)
}

// tokenHash is how a token stands in the database. Tokens hold 256 random
// bits, so a plain hash suffices.
func tokenHash(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}

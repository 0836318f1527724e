package blob

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxToken bounds what is looked at; the longest that is made has 400
// characters.
const maxToken = 1024

// purpose is what a token is for: one made for one is none for the other.
type purpose string

const (
	download purpose = "r"
	upload   purpose = "w"
)

// link is what a token for reading says.
type link struct {
	owner, id, fileName string
	until               time.Time
}

// grant is what a token for one upload says.
type grant struct {
	// nonce tells two grants apart.
	nonce, owner string
	types        []string
	max          int64
	until        time.Time
}

// signer signs tokens: base64url of fields that hold no "|", and their
// HMAC-SHA256.
type signer []byte

var encoding = base64.RawURLEncoding.Strict()

func (k signer) seal(p purpose, until time.Time, fields ...string) string {
	payload := strings.Join(append([]string{string(p), strconv.FormatInt(until.Unix(), 10)}, fields...), "|")
	return encoding.EncodeToString(append([]byte(payload), k.mac([]byte(payload))...))
}

func (k signer) mac(payload []byte) []byte {
	m := hmac.New(sha256.New, k)
	m.Write(payload)
	return m.Sum(nil)
}

// open gives back the fields of a token that was sealed for a purpose and has
// not ended.
func (k signer) open(p purpose, token string, now time.Time) (fields []string, until time.Time, ok bool) {
	if len(token) > maxToken {
		return nil, time.Time{}, false
	}
	raw, err := encoding.DecodeString(token)
	if err != nil || len(raw) < sha256.Size {
		return nil, time.Time{}, false
	}
	payload, mac := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if !hmac.Equal(mac, k.mac(payload)) {
		return nil, time.Time{}, false
	}
	// From here on it is our own text.
	fields = strings.Split(string(payload), "|")
	seconds, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || fields[0] != string(p) || now.Unix() >= seconds {
		return nil, time.Time{}, false
	}
	return fields[2:], time.Unix(seconds, 0), true
}

func (k signer) link(l link) string {
	return "/blobs/" + k.seal(download, l.until, l.owner, l.id, l.fileName)
}

func (k signer) openLink(token string, now time.Time) (link, bool) {
	f, until, ok := k.open(download, token, now)
	if !ok {
		return link{}, false
	}
	return link{owner: f[0], id: f[1], fileName: f[2], until: until}, true
}

func (k signer) grant(g grant) string {
	return "/blobs/upload/" + k.seal(upload, g.until, g.nonce, g.owner, strconv.FormatInt(g.max, 10), strings.Join(g.types, ","))
}

func (k signer) openGrant(token string, now time.Time) (grant, bool) {
	f, until, ok := k.open(upload, token, now)
	if !ok {
		return grant{}, false
	}
	most, err := strconv.ParseInt(f[2], 10, 64)
	return grant{nonce: f[0], owner: f[1], max: most, types: strings.Split(f[3], ","), until: until}, err == nil
}

func newNonce() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return encoding.EncodeToString(b[:])
}

// openKey reads the key that signs, or creates it.
func openKey(path string) (signer, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("blobs: key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("blobs: key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("blobs: others than its owner may read the key %s: chmod 600 it", path)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != sha256.Size {
		return nil, fmt.Errorf("blobs: %s does not hold the key: restore it from the backup, or remove it, which ends all links", path)
	}
	return key, nil
}

// createKey writes a new key. The file appears whole or not at all, and never
// in place of another.
func createKey(path string) (signer, error) {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("blobs: create key: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".blob-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("blobs: create key: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(hex.EncodeToString(key) + "\n")
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("blobs: create key: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return nil, fmt.Errorf("blobs: create key: %w", err)
	}
	return key, nil
}

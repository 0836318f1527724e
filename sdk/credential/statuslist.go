package credential

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Entries of a status list: the standard's least, which hides one credential
// among all of them.
const Entries = 131072

const (
	revocation = "revocation"
	// maxBytes bounds what a list may unpack to: sixteen million entries.
	maxBytes = 2 << 20
)

// List is the bits of a status list. Not safe for concurrent use.
type List struct{ bits []byte }

// NewList is a list on which nothing is revoked.
func NewList() *List { return &List{bits: make([]byte, Entries/8)} }

// Len is the number of entries.
func (l *List) Len() int { return 8 * len(l.bits) }

// Set marks an entry. Index is below Len.
func (l *List) Set(index int) { l.bits[index/8] |= 0x80 >> (index % 8) }

// Get tells whether an entry is marked. Index is below Len.
func (l *List) Get(index int) bool { return l.bits[index/8]&(0x80>>(index%8)) != 0 }

// Encode writes a list: GZIP, then multibase base64url without padding.
func (l *List) Encode() string {
	var b bytes.Buffer
	// The writer is a buffer, which takes everything.
	w := gzip.NewWriter(&b)
	_, _ = w.Write(l.bits)
	_ = w.Close()
	return "u" + base64.RawURLEncoding.EncodeToString(b.Bytes())
}

// DecodeList reads a list. One with fewer entries than the standard's least,
// or that unpacks to more than 2 MiB, is an error.
func DecodeList(s string) (*List, error) {
	body, ok := strings.CutPrefix(s, "u")
	if !ok {
		return nil, fmt.Errorf("%w: a status list begins with u (base64url)", ErrSyntax)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("%w: status list: %w", ErrSyntax, err)
	}
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: status list: %w", ErrSyntax, err)
	}
	bits, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: status list: %w", ErrSyntax, err)
	case len(bits) > maxBytes:
		return nil, fmt.Errorf("%w: the status list unpacks to more than %d bytes", ErrSyntax, maxBytes)
	case 8*len(bits) < Entries:
		return nil, fmt.Errorf("%w: the status list has fewer than %d entries", ErrSyntax, Entries)
	}
	return &List{bits: bits}, nil
}

// StatusEntry is the credentialStatus of a credential that is revoked by an
// entry of a list.
func StatusEntry(s Status) map[string]any {
	index := strconv.Itoa(s.Index)
	return map[string]any{
		"id": s.List + "#" + index, "type": "BitstringStatusListEntry", "statusPurpose": revocation,
		"statusListIndex": index, "statusListCredential": s.List,
	}
}

// SignList issues the credential of a status list, valid for a while: what was
// revoked since, an old list does not tell.
func (s *Signer) SignList(id string, l *List, from time.Time, valid time.Duration) ([]byte, error) {
	return s.Sign(map[string]any{
		"@context": []any{Context}, "id": id, "type": []any{"VerifiableCredential", "BitstringStatusListCredential"}, "issuer": s.ID(),
		"validFrom": from.UTC().Format(time.RFC3339), "validUntil": from.Add(valid).UTC().Format(time.RFC3339),
		"credentialSubject": map[string]any{"id": id + "#list", "type": "BitstringStatusList", "statusPurpose": revocation, "encodedList": l.Encode()},
	}, from)
}

// Revoked tells by a status list, which it verifies, whether a credential was
// revoked. Errors wrap ErrStatusList where the list is another's, and what
// Verify returns otherwise.
func Revoked(c *Credential, list []byte, issuer *Issuer, at time.Time) (bool, error) {
	if c.Status == nil {
		return false, fmt.Errorf("%w: it names no list", ErrStatusList)
	}
	of, err := Verify(list, issuer, at)
	if err != nil {
		return false, fmt.Errorf("status list: %w", err)
	}
	switch {
	case !slices.Contains(of.Types, "BitstringStatusListCredential") || of.Subject["type"] != "BitstringStatusList":
		return false, fmt.Errorf("%w: it is of another type", ErrStatusList)
	case of.ID != c.Status.List:
		return false, fmt.Errorf("%w: it is %.200q, not %q", ErrStatusList, of.ID, c.Status.List)
	case !slices.Contains(texts(of.Subject["statusPurpose"]), revocation):
		return false, fmt.Errorf("%w: it is not of revocations", ErrStatusList)
	}
	encoded, _ := of.Subject["encodedList"].(string)
	bits, err := DecodeList(encoded)
	if err != nil {
		return false, errors.Join(ErrStatusList, err)
	}
	if c.Status.Index >= bits.Len() {
		return false, fmt.Errorf("%w: it has no entry %d", ErrStatusList, c.Status.Index)
	}
	return bits.Get(c.Status.Index), nil
}

// Package id makes typed, sortable, opaque identifiers: a prefix that names
// the kind of thing, an underscore, and 26 characters of a UUIDv7 (RFC 9562)
// in Crockford's base32, lower case. Their order as text is the order of
// their making, to the millisecond.
package id

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

const (
	alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	// length of the part after the prefix: 128 bits in groups of five.
	length = 26
)

// New makes an identifier. It panics only when the system has no randomness.
func New(prefix string) string {
	return From(prefix, uuid.Must(uuid.NewV7()))
}

// From gives a UUID a prefix.
func From(prefix string, u uuid.UUID) string {
	var b strings.Builder
	b.Grow(len(prefix) + 1 + length)
	b.WriteString(prefix)
	b.WriteByte('_')
	// 26 characters hold 130 bits: the first carries the top three.
	hi := uint64(u[0])<<56 | uint64(u[1])<<48 | uint64(u[2])<<40 | uint64(u[3])<<32 | uint64(u[4])<<24 | uint64(u[5])<<16 | uint64(u[6])<<8 | uint64(u[7])
	lo := uint64(u[8])<<56 | uint64(u[9])<<48 | uint64(u[10])<<40 | uint64(u[11])<<32 | uint64(u[12])<<24 | uint64(u[13])<<16 | uint64(u[14])<<8 | uint64(u[15])
	for shift := 125; shift >= 0; shift -= 5 {
		var v uint64
		switch {
		case shift >= 64:
			v = hi >> (shift - 64)
		case shift > 59:
			v = hi<<(64-shift) | lo>>shift
		default:
			v = lo >> shift
		}
		b.WriteByte(alphabet[v&31])
	}
	return b.String()
}

// Parse reads an identifier of a kind. Anything that From would not write is
// an error: another prefix, upper case, letters outside the alphabet.
func Parse(prefix, s string) (uuid.UUID, error) {
	rest, ok := strings.CutPrefix(s, prefix+"_")
	if !ok || len(rest) != length {
		return uuid.UUID{}, fmt.Errorf("%q is no %s_ identifier", s, prefix)
	}
	var hi, lo uint64
	for i := range length {
		v := strings.IndexByte(alphabet, rest[i])
		if v < 0 || i == 0 && v > 7 {
			return uuid.UUID{}, fmt.Errorf("%q is no %s_ identifier", s, prefix)
		}
		hi, lo = hi<<5|lo>>59, lo<<5|uint64(v)
	}
	var u uuid.UUID
	for i := range 8 {
		u[i], u[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	return u, nil
}

// Derive makes the identifier that follows from a natural key: a UUIDv8 whose
// bits are of the SHA-256 of prefix and key. It sorts anywhere.
func Derive(prefix, key string) string {
	sum := sha256.Sum256([]byte(prefix + "\x00" + key))
	var u uuid.UUID
	copy(u[:], sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return From(prefix, u)
}

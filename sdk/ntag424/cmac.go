package ntag424

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
)

// Key is an AES-128 key.
type Key [16]byte

// ParseKey reads a key of 32 hex digits.
func ParseKey(s string) (Key, error) {
	var k Key
	if len(s) != 2*len(k) {
		return k, errors.New("ntag424: a key is 32 hex digits")
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return k, errors.New("ntag424: a key is 32 hex digits") // what is wrong with it would tell of it
	}
	return k, nil
}

// cipher is the key's AES. A key has the one length that cannot fail.
func (k Key) cipher() cipher.Block {
	b, err := aes.NewCipher(k[:])
	if err != nil {
		panic(fmt.Sprintf("ntag424: AES refuses a key of %d bytes: %v", len(k), err))
	}
	return b
}

// cmac is AES-CMAC (RFC 4493, NIST SP 800-38B).
func cmac(k Key, message []byte) [16]byte {
	blocks := max(1, (len(message)+15)/16)
	return padded(k, message, blocks)
}

// padded is CMAC over a message that is padded to a number of blocks. CMAC
// itself takes as few as hold the message; AN10922 takes two always.
func padded(k Key, message []byte, blocks int) [16]byte {
	b := k.cipher()
	var l, mac [16]byte
	b.Encrypt(l[:], l[:])
	sub := double(l)
	text := make([]byte, 16*blocks)
	if n := copy(text, message); n < len(text) {
		text[n] = 0x80
		sub = double(sub)
	}
	last := text[len(text)-16:]
	for i := range last {
		last[i] ^= sub[i]
	}
	for ; len(text) > 0; text = text[16:] {
		for i := range mac {
			mac[i] ^= text[i]
		}
		b.Encrypt(mac[:], mac[:])
	}
	return mac
}

// double multiplies by x in GF(2^128), in constant time.
func double(in [16]byte) (out [16]byte) {
	for i := range 15 {
		out[i] = in[i]<<1 | in[i+1]>>7
	}
	out[15] = in[15]<<1 ^ 0x87&-(in[0]>>7)
	return out
}

// maxSystemID is how much of AN10922's 31 bytes a UID leaves.
const maxSystemID = 31 - len(UID{})

// Diversify makes the key of one tag from a master key, so that a key taken
// from one chip opens no other: CMAC over 0x01 || UID || system identifier,
// padded to 32 bytes (NXP AN10922, for AES-128). The system
// identifier names who issues the tags; it has at most 24 bytes.
func Diversify(master Key, uid UID, systemID []byte) (Key, error) {
	if len(systemID) > maxSystemID {
		return Key{}, fmt.Errorf("ntag424: a system identifier has at most %d bytes", maxSystemID)
	}
	m := append([]byte{0x01}, uid[:]...)
	return padded(master, append(m, systemID...), 2), nil
}

// Package ntag424 reads the secure unique NFC (SUN) messages of NXP's
// NTAG 424 DNA chips, after application note AN12196: a URL that the chip
// writes anew at every tap, with its UID and a counter encrypted, and a
// message authentication code over them. It also plays a chip (Tag), for tests
// and demonstrations. Values are plain; everything is safe for concurrent use
// but a Tag.
package ntag424

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// UID is the serial number that NXP gave a chip.
type UID [7]byte

func (u UID) String() string { return strings.ToUpper(hex.EncodeToString(u[:])) }

// ParseUID reads 14 hex digits.
func ParseUID(s string) (UID, error) {
	var u UID
	if len(s) != 2*len(u) {
		return u, fmt.Errorf("ntag424: %q is no UID: want 14 hex digits", s)
	}
	if _, err := hex.Decode(u[:], []byte(s)); err != nil {
		return u, fmt.Errorf("ntag424: %q is no UID: want 14 hex digits", s)
	}
	return u, nil
}

// MaxCounter is the last tap that a chip counts: it has three bytes.
const MaxCounter = 1<<24 - 1

// Errors. Both are wrapped or returned as they are.
var (
	// ErrMalformed is of a text that no chip of this form writes.
	ErrMalformed = errors.New("ntag424: no message of this form")
	// ErrForged is of a message that no chip with these keys wrote.
	ErrForged = errors.New("ntag424: not written by a chip with these keys")
)

// Form is how a batch of chips is set up to write its URL: what stands before
// the query, and the names of the parameters. Enc is empty where the chips
// mirror no encrypted file data; where they do, the code covers that data and
// all up to and with "&<CMAC>=" (AN12196: SDMMACInputOffset at
// the data's beginning), so the two parameters stand side by side.
type Form struct {
	Prefix          string
	PICC, Enc, CMAC string
}

// maxText is longer than any file of the chip: 256 bytes.
const maxText = 512

// maxEnc is the most encrypted file data, in bytes.
const maxEnc = 112

// Reading is a message as it was written, before any key is turned.
type Reading struct {
	PICC [16]byte
	// Enc is the encrypted file data; empty where there is none.
	Enc []byte
	MAC [8]byte
	// covered is what the code covers beside UID and counter.
	covered string
}

// Parse takes a message apart: the whole URL, or its query alone. Small letters
// stand for the capitals that a chip writes, since a person may have copied
// them; a missing, doubled or oddly long parameter is ErrMalformed. Parameters
// of other names are passed over.
func (f Form) Parse(text string) (Reading, error) {
	var r Reading
	if len(text) > maxText {
		return r, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxText)
	}
	query, isURL := strings.CutPrefix(text, f.Prefix)
	if isURL && f.Prefix != "" {
		query = strings.TrimPrefix(query, "?")
	} else if strings.Contains(text, "://") {
		return r, fmt.Errorf("%w: another address", ErrMalformed)
	}
	query, _, _ = strings.Cut(query, "#")
	found := make(map[string]string, 3)
	before := ""
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name != f.PICC && name != f.CMAC && (f.Enc == "" || name != f.Enc) {
			before = ""
			continue
		}
		if _, twice := found[name]; twice {
			return r, fmt.Errorf("%w: %s stands twice", ErrMalformed, name)
		}
		found[name] = strings.ToUpper(value)
		if name == f.CMAC && f.Enc != "" && before != f.Enc {
			return r, fmt.Errorf("%w: %s does not follow %s", ErrMalformed, f.CMAC, f.Enc)
		}
		before = name
	}
	if err := fill(r.PICC[:], f.PICC, found); err != nil {
		return r, err
	}
	if err := fill(r.MAC[:], f.CMAC, found); err != nil {
		return r, err
	}
	if f.Enc == "" {
		return r, nil
	}
	n := len(found[f.Enc]) / 2
	if n == 0 || n%aes.BlockSize != 0 || n > maxEnc {
		return r, fmt.Errorf("%w: %s", ErrMalformed, f.Enc)
	}
	r.Enc = make([]byte, n)
	if err := fill(r.Enc, f.Enc, found); err != nil {
		return r, err
	}
	r.covered = found[f.Enc] + "&" + f.CMAC + "="
	return r, nil
}

func fill(into []byte, name string, found map[string]string) error {
	value := found[name]
	if len(value) != 2*len(into) {
		return fmt.Errorf("%w: %s", ErrMalformed, name)
	}
	if _, err := hex.Decode(into, []byte(value)); err != nil {
		return fmt.Errorf("%w: %s", ErrMalformed, name)
	}
	return nil
}

// mirrored says that UID and counter are given and the UID has seven bytes
// (PICCDataTag of AN12196).
const mirrored = 0xC7

// Tap is who wrote a message, and which of its messages it was.
type Tap struct {
	UID UID
	// Counter rises with every tap: a message whose counter is not above the
	// last one seen is a copy.
	Counter uint32
}

// Open decrypts UID and counter with the key that all tags of a batch share,
// SDMMetaReadKey: the key of the one tag cannot be known before. What it
// returns is true only after Verify.
func (r Reading) Open(meta Key) (Tap, error) {
	var plain [16]byte
	cipher.NewCBCDecrypter(meta.cipher(), make([]byte, aes.BlockSize)).CryptBlocks(plain[:], r.PICC[:])
	if plain[0] != mirrored {
		return Tap{}, ErrForged
	}
	t := Tap{Counter: uint32(plain[8]) | uint32(plain[9])<<8 | uint32(plain[10])<<16}
	copy(t.UID[:], plain[1:8])
	return t, nil
}

// Verify checks the code with the tag's own key, SDMFileReadKey, in constant
// time.
func (r Reading) Verify(file Key, t Tap) error {
	want := t.mac(file, r.covered)
	if subtle.ConstantTimeCompare(want[:], r.MAC[:]) != 1 {
		return ErrForged
	}
	return nil
}

// File decrypts the file data of a verified message; nil where there is none.
func (r Reading) File(file Key, t Tap) []byte {
	if len(r.Enc) == 0 {
		return nil
	}
	key, iv := t.enc(file)
	plain := make([]byte, len(r.Enc))
	cipher.NewCBCDecrypter(key.cipher(), iv).CryptBlocks(plain, r.Enc)
	return plain
}

// session is SV1 or SV2: what a session key is derived from.
func (t Tap) session(label byte) []byte {
	sv := []byte{label, ^label, 0x00, 0x01, 0x00, 0x80}
	sv = append(sv, t.UID[:]...)
	return append(sv, t.counter()...)
}

func (t Tap) counter() []byte {
	return []byte{byte(t.Counter), byte(t.Counter >> 8), byte(t.Counter >> 16)}
}

// mac is MACt: every second byte of the CMAC under the session key of SV2.
func (t Tap) mac(file Key, covered string) (out [8]byte) {
	full := cmac(cmac(file, t.session(0x3C)), []byte(covered))
	for i := range out {
		out[i] = full[2*i+1]
	}
	return out
}

// enc is the session key of SV1, and the vector that file data is chained
// from.
func (t Tap) enc(file Key) (key Key, iv []byte) {
	key, iv = cmac(file, t.session(0xC3)), make([]byte, aes.BlockSize)
	copy(iv, t.counter())
	key.cipher().Encrypt(iv, iv)
	return key, iv
}

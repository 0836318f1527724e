package ntag424

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
)

// Tag plays a chip: what it is set up with, and the counter it keeps. It is
// not safe for concurrent use, as a chip answers one reader at a time.
type Tag struct {
	UID  UID
	Form Form
	// Meta is the key of the batch, File the tag's own.
	Meta, File Key
	// Counter is of the last tap.
	Counter uint32
	// Data is the part of the file that is mirrored encrypted, where Form.Enc
	// is set: whole blocks of 16 bytes.
	Data []byte
}

// Tap counts, and writes the URL that a phone is given.
func (t *Tag) Tap() (string, error) {
	if t.Counter >= MaxCounter {
		return "", errors.New("ntag424: the counter is at its end")
	}
	if t.Form.Enc != "" && (len(t.Data) == 0 || len(t.Data)%aes.BlockSize != 0 || len(t.Data) > maxEnc) {
		return "", errors.New("ntag424: the data is no number of whole blocks that the file holds")
	}
	t.Counter++
	tap := Tap{UID: t.UID, Counter: t.Counter}
	var picc [16]byte
	picc[0] = mirrored
	copy(picc[1:], t.UID[:])
	copy(picc[8:], tap.counter())
	if _, err := rand.Read(picc[11:]); err != nil {
		return "", err
	}
	// The chip chains from zeros: the counter makes every first block another.
	cipher.NewCBCEncrypter(t.Meta.cipher(), make([]byte, aes.BlockSize)).CryptBlocks(picc[:], picc[:]) //nolint:gosec // as AN12196 has it

	query := t.Form.PICC + "=" + digits(picc[:])
	covered := ""
	if t.Form.Enc != "" {
		key, iv := tap.enc(t.File)
		data := make([]byte, len(t.Data))
		cipher.NewCBCEncrypter(key.cipher(), iv).CryptBlocks(data, t.Data)
		query += "&" + t.Form.Enc + "=" + digits(data)
		covered = digits(data) + "&" + t.Form.CMAC + "="
	}
	mac := tap.mac(t.File, covered)
	return t.Form.Prefix + "?" + query + "&" + t.Form.CMAC + "=" + digits(mac[:]), nil
}

func digits(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }

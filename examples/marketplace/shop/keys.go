package shop

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/entrepot/entrepot/sdk/ntag424"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// keys are the deployment's secrets, made for one run.
type keys struct {
	// webhook signs what carriers and payment companies tell, certificate what
	// the inspection certifies.
	webhook, certificate string
	// tagMaster and tagMeta are what the makers of chips and the operator share.
	tagMaster, tagMeta ntag424.Key
}

func newKeys() (k keys, err error) {
	b := make([]byte, 24+32+16+16)
	if _, err = rand.Read(b); err != nil {
		return k, err
	}
	k.webhook = "whsec_" + base64.StdEncoding.EncodeToString(b[:24])
	k.certificate = base64.StdEncoding.EncodeToString(b[24:56])
	copy(k.tagMaster[:], b[56:])
	copy(k.tagMeta[:], b[72:])
	return k, nil
}

// Environ is what the deployment reads from the environment: secrets, and where
// files are.
func (s *Shop) Environ() []string {
	return []string{
		"SANDBOX_WEBHOOK_SECRET=" + s.keys.webhook, "POST_SCANS=" + s.scans(), "INSPECTION_KEY=" + s.keys.certificate,
		"TAG_MASTER_KEY=" + hex.EncodeToString(s.keys.tagMaster[:]), "TAG_META_KEY=" + hex.EncodeToString(s.keys.tagMeta[:]),
		"SERIAL_REGISTER=" + s.register(), "TAG_BINDINGS=" + s.bindings(),
	}
}

// scans is the folder of the post's scanning files.
func (s *Shop) scans() string { return filepath.Join(s.Dir, "scans") }

// register is the file with the serials that manufacturers gave, bindings the
// one that says which chip they put on which piece.
func (s *Shop) register() string { return filepath.Join(s.Dir, "serials.csv") }
func (s *Shop) bindings() string { return filepath.Join(s.Dir, "tags.csv") }

// Publish has the manufacturers tell what they made: the serials of each
// article that a register proves, and no others, and whose chip is on what.
func (s *Shop) Publish(articles []trade.Article) error {
	var register, bindings strings.Builder
	register.WriteString("gtin,serial,serial_to,made_on,country,complete\n")
	bindings.WriteString("uid,gtin,serial\n")
	for _, a := range articles {
		switch a.Proof {
		case trade.Register:
			to := ""
			if a.Sold > 1 {
				to = serial(a.Sold)
			}
			fmt.Fprintf(&register, "%s,%s,%s,2026-01-05,%s,true\n", a.GTIN, serial(1), to, a.Origin)
		case trade.Tag:
			for n := int64(1); n <= a.Sold; n++ {
				fmt.Fprintf(&bindings, "%s,%s,%s\n", uid(a.GTIN, serial(n)), a.GTIN, serial(n))
			}
		}
	}
	return errors.Join(
		os.WriteFile(s.register(), []byte(register.String()), 0o644), //nolint:gosec // the plugins read them
		os.WriteFile(s.bindings(), []byte(bindings.String()), 0o644), //nolint:gosec // likewise
	)
}

// serial of an article's piece, counted from 1.
func serial(n int64) string { return fmt.Sprintf("%06d", n) }

// uid of the chip on a piece.
func uid(gtin, serial string) (u ntag424.UID) {
	sum := sha256.Sum256([]byte(gtin + "/" + serial))
	u[0] = 4 // NXP
	copy(u[1:], sum[:])
	return u
}

// Tap is what the chip on a piece tells when it is tapped once, or one that a
// forger made, who has keys of his own.
func (s *Shop) Tap(gtin, serial string, forger bool) (string, error) {
	t := ntag424.Tag{UID: uid(gtin, serial), Form: ntag424.Form{Prefix: "https://tag.example.com/t", PICC: "e", CMAC: "c"}, Meta: s.keys.tagMeta}
	master := s.keys.tagMaster
	if forger {
		master[0] ^= 1
	}
	var err error
	if t.File, err = ntag424.Diversify(master, t.UID, nil); err != nil {
		return "", err
	}
	return t.Tap()
}

package credential

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
	"github.com/mr-tron/base58"

	"github.com/entrepot/entrepot/sdk/ijson"
)

const (
	proofType = "DataIntegrityProof"
	suite     = "eddsa-jcs-2022"
)

// Sign gives a JSON document its Data Integrity proof of suite eddsa-jcs-2022,
// made at a time. The document has none yet.
func (s *Signer) Sign(document map[string]any, at time.Time) ([]byte, error) {
	proof := map[string]any{
		"type": proofType, "cryptosuite": suite, "created": at.UTC().Format(time.RFC3339), "verificationMethod": s.method(), "proofPurpose": "assertionMethod",
	}
	if c, ok := document["@context"]; ok {
		proof["@context"] = c
	}
	hash, err := hashOf(document, proof)
	if err != nil {
		return nil, err
	}
	proof["proofValue"] = "z" + base58.Encode(ed25519.Sign(s.key, hash))
	signed := maps.Clone(document)
	signed["proof"] = proof
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(signed); err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// hashOf is what is signed: SHA-256 of the canonical proof options, then of the
// canonical document.
func hashOf(document, proof map[string]any) ([]byte, error) {
	out := make([]byte, 0, 2*sha256.Size)
	for _, o := range []map[string]any{proof, document} {
		b, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("credential: %w", err)
		}
		if b, err = jcs.Transform(b); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
		}
		sum := sha256.Sum256(b)
		out = append(out, sum[:]...)
	}
	return out, nil
}

// verifyProof verifies the one proof of a document with the issuer's keys.
// Contexts are not looked up: they are signed like everything else.
func (i *Issuer) verifyProof(document map[string]any, at time.Time) error {
	proof, ok := document["proof"].(map[string]any)
	if !ok {
		return fmt.Errorf("%w: it has no proof, or more than one", ErrSyntax)
	}
	text := func(name string) string { s, _ := proof[name].(string); return s }
	if text("type") != proofType || text("cryptosuite") != suite {
		return fmt.Errorf("%w: the proof is %.40q of suite %.40q, not %s of %s", ErrSuite, text("type"), text("cryptosuite"), proofType, suite)
	}
	if p := text("proofPurpose"); p != "assertionMethod" {
		return fmt.Errorf("%w: the proof is made for %.40q, not to assert", ErrSuite, p)
	}
	key, ok := i.keys[text("verificationMethod")]
	if !ok {
		return fmt.Errorf("%w: %.200q is none of %s", ErrKeyUnknown, text("verificationMethod"), i.ID)
	}
	if err := inTime(proof, "created", "expires", at); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	value, ok := strings.CutPrefix(text("proofValue"), "z")
	signature, err := base58.Decode(value[:min(len(value), 128)])
	if !ok || err != nil || len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%w: the proof's value is no signature", ErrSyntax)
	}
	options := maps.Clone(proof)
	delete(options, "proofValue")
	unsecured := maps.Clone(document)
	delete(unsecured, "proof")
	if c, ok := options["@context"]; ok {
		if !beginsWith(unsecured["@context"], c) {
			return fmt.Errorf("%w: its context is not the one that was signed", ErrTampered)
		}
		unsecured["@context"] = c
	}
	hash, err := hashOf(unsecured, options)
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, hash, signature) {
		return fmt.Errorf("%w: the signature is not of this content", ErrTampered)
	}
	return nil
}

// beginsWith tells whether a context, one or a list, begins with another.
func beginsWith(whole, part any) bool {
	list := func(v any) []any {
		if l, ok := v.([]any); ok {
			return l
		}
		return []any{v}
	}
	w, p := list(whole), list(part)
	return len(p) <= len(w) && slices.EqualFunc(w[:len(p)], p, reflect.DeepEqual)
}

// inTime tells whether a moment lies between two dates of an object, each of
// which may be missing. Clocks may differ by a little.
func inTime(o map[string]any, from, until string, at time.Time) error {
	const skew = 5 * time.Minute
	begin, err := timeOf(o, from)
	if err != nil {
		return err
	}
	end, err := timeOf(o, until)
	switch {
	case err != nil:
		return err
	case !begin.IsZero() && at.Add(skew).Before(begin):
		return fmt.Errorf("%w: from %s on", ErrNotYet, begin.Format(time.RFC3339))
	case !end.IsZero() && at.After(end):
		return fmt.Errorf("%w: on %s", ErrExpired, end.Format(time.RFC3339))
	}
	return nil
}

func timeOf(o map[string]any, name string) (time.Time, error) {
	v, ok := o[name]
	if !ok {
		return time.Time{}, nil
	}
	s, _ := v.(string)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %s is no date with time and zone", ErrSyntax, name)
	}
	return t, nil
}

func parse(b []byte) (map[string]any, error) {
	if len(b) > maxDocument {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrSyntax, maxDocument)
	}
	o, err := ijson.Object(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return o, nil
}

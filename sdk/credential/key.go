package credential

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mr-tron/base58"

	"github.com/entrepot/entrepot/sdk/ijson"
)

// multikeyPrefix says that what follows is an Ed25519 public key (multicodec
// 0xed as a varint).
const multikeyPrefix = "\xed\x01"

// didKey begins identifiers that are a public key themselves.
const didKey = "did:key:"

// Signer issues credentials. Its identifier is the public key itself
// (did:key), so that nothing has to be looked up to know it. Safe for
// concurrent use.
type Signer struct {
	key     ed25519.PrivateKey
	id      string
	encoded string
}

// NewSigner makes a signer from the 32 bytes of an Ed25519 seed.
func NewSigner(seed []byte) (*Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("credential: a signing key has %d bytes, not %d", ed25519.SeedSize, len(seed))
	}
	s := &Signer{key: ed25519.NewKeyFromSeed(seed)}
	s.encoded = multikey(s.key.Public().(ed25519.PublicKey))
	s.id = didKey + s.encoded
	return s, nil
}

// ID is the issuer's identifier: "did:key:z6Mk...".
func (s *Signer) ID() string { return s.id }

// method is the identifier of the key within the issuer's document.
func (s *Signer) method() string { return s.id + "#" + s.encoded }

// Document is the issuer's controlled identifier document, with the key that
// its credentials are verified with.
func (s *Signer) Document() []byte {
	b, err := json.Marshal(map[string]any{
		"@context": []string{"https://www.w3.org/ns/cid/v1"}, "id": s.id,
		"verificationMethod": []map[string]string{{"id": s.method(), "type": "Multikey", "controller": s.id, "publicKeyMultibase": s.encoded}},
		"assertionMethod":    []string{s.method()},
	})
	if err != nil {
		panic(err) // texts alone
	}
	return b
}

// multikey writes a public key: multibase base58btc.
func multikey(key ed25519.PublicKey) string {
	return "z" + base58.Encode([]byte(multikeyPrefix+string(key)))
}

func parseMultikey(s string) (ed25519.PublicKey, error) {
	body, ok := strings.CutPrefix(s, "z")
	if !ok || len(s) > 64 {
		return nil, fmt.Errorf("%w: a Multikey begins with z and is short", ErrSyntax)
	}
	b, err := base58.Decode(body)
	if err != nil {
		return nil, fmt.Errorf("%w: Multikey: %w", ErrSyntax, err)
	}
	key, ok := strings.CutPrefix(string(b), multikeyPrefix)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: the Multikey is of another kind than Ed25519", ErrSuite)
	}
	return ed25519.PublicKey(key), nil
}

// Issuer is who is trusted to have issued a credential, with its keys.
type Issuer struct {
	// ID is its identifier: did:key, or a URL.
	ID   string
	keys map[string]ed25519.PublicKey
}

// maxIssuer bounds the document of an issuer.
const maxIssuer = 1 << 16

// ParseIssuer reads who is trusted: an identifier "did:key:...", or a
// controlled identifier document with Ed25519 keys for assertions. Keys of
// other kinds are passed over.
func ParseIssuer(b []byte) (*Issuer, error) {
	if len(b) > maxIssuer {
		return nil, fmt.Errorf("%w: an issuer's document longer than %d bytes", ErrSyntax, maxIssuer)
	}
	if id := strings.TrimSpace(string(b)); strings.HasPrefix(id, didKey) {
		encoded := strings.TrimPrefix(id, didKey)
		key, err := parseMultikey(encoded)
		if err != nil {
			return nil, err
		}
		return &Issuer{ID: id, keys: map[string]ed25519.PublicKey{id + "#" + encoded: key}}, nil
	}
	if _, err := ijson.Object(b); err != nil {
		return nil, fmt.Errorf("%w: issuer: %w", ErrSyntax, err)
	}
	type method struct {
		ID         string `json:"id"`
		Type       string `json:"type"`
		Controller string `json:"controller"`
		Key        string `json:"publicKeyMultibase"`
	}
	var doc struct {
		ID         string            `json:"id"`
		Methods    []method          `json:"verificationMethod"`
		Assertions []json.RawMessage `json:"assertionMethod"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("%w: issuer: %w", ErrSyntax, err)
	}
	byID := make(map[string]method, len(doc.Methods))
	for _, m := range doc.Methods {
		byID[m.ID] = m
	}
	out := &Issuer{ID: doc.ID, keys: make(map[string]ed25519.PublicKey)}
	for _, raw := range doc.Assertions {
		// A method, or the name of one.
		var m method
		var name string
		if json.Unmarshal(raw, &name) == nil {
			m = byID[name]
		} else if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("%w: issuer: %w", ErrSyntax, err)
		}
		if m.Type != "Multikey" || m.Controller != doc.ID {
			continue
		}
		if key, err := parseMultikey(m.Key); err == nil {
			out.keys[m.ID] = key
		}
	}
	if out.ID == "" || len(out.keys) == 0 {
		return nil, fmt.Errorf("%w: the issuer's document names no Ed25519 key for assertions", ErrSyntax)
	}
	return out, nil
}

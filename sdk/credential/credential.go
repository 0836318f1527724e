// Package credential issues and verifies W3C verifiable credentials (Verifiable
// Credentials Data Model 2.0) that are secured by a Data Integrity proof of
// suite eddsa-jcs-2022, and Bitstring Status Lists (W3C, version 1.0) that tell
// which were revoked. It looks nothing up: who verifies brings the document, the
// issuer's key and the status list.
package credential

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Errors that are wrapped: what is wrong with a credential.
var (
	ErrSyntax     = errors.New("no credential that can be read")
	ErrSuite      = errors.New("secured in another way")
	ErrKeyUnknown = errors.New("signed by a key that is not the issuer's")
	ErrTampered   = errors.New("changed since it was signed")
	ErrNotYet     = errors.New("not valid yet")
	ErrExpired    = errors.New("expired")
	ErrStatusList = errors.New("the status list does not tell of this credential")
)

// Context is the first context of every credential.
const Context = "https://www.w3.org/ns/credentials/v2"

// maxDocument bounds what is read as a credential: a status list of the most
// entries, that no compression helps, fits.
const maxDocument = 4 << 20

// Credential is what a document says.
type Credential struct {
	ID, Issuer            string
	Types                 []string
	ValidFrom, ValidUntil time.Time // zero: not said
	Subject               map[string]any
	// Status is where its revocation stands; nil: it cannot be revoked.
	Status *Status
}

// Status is an entry of a status list.
type Status struct {
	// List is the identifier of the list's credential.
	List  string
	Index int
}

// Read reads a credential without verifying it: to learn whose key is needed,
// and for nothing else.
func Read(document []byte) (*Credential, error) {
	o, err := parse(document)
	if err != nil {
		return nil, err
	}
	return read(o)
}

// Verify verifies a credential of an issuer at a moment: its form, its proof
// and its time. Whether it was revoked, Revoked tells.
func Verify(document []byte, issuer *Issuer, at time.Time) (*Credential, error) {
	o, err := parse(document)
	if err != nil {
		return nil, err
	}
	c, err := read(o)
	if err != nil {
		return nil, err
	}
	if c.Issuer != issuer.ID {
		return nil, fmt.Errorf("%w: it is issued by %.200q, not by %s", ErrKeyUnknown, c.Issuer, issuer.ID)
	}
	if err := issuer.verifyProof(o, at); err != nil {
		return nil, err
	}
	return c, inTime(o, "validFrom", "validUntil", at)
}

func read(o map[string]any) (*Credential, error) {
	contexts, _ := o["@context"].([]any)
	if len(contexts) == 0 || contexts[0] != Context {
		return nil, fmt.Errorf("%w: its first context is not %s", ErrSyntax, Context)
	}
	c := &Credential{Types: texts(o["type"])}
	if !slices.Contains(c.Types, "VerifiableCredential") {
		return nil, fmt.Errorf("%w: its type is not VerifiableCredential", ErrSyntax)
	}
	c.ID, _ = o["id"].(string)
	switch issuer := o["issuer"].(type) {
	case string:
		c.Issuer = issuer
	case map[string]any:
		c.Issuer, _ = issuer["id"].(string)
	}
	var ok bool
	if c.Subject, ok = o["credentialSubject"].(map[string]any); !ok || c.Issuer == "" {
		return nil, fmt.Errorf("%w: it has not one issuer and one subject", ErrSyntax)
	}
	var err error
	if c.ValidFrom, err = timeOf(o, "validFrom"); err != nil {
		return nil, err
	}
	if c.ValidUntil, err = timeOf(o, "validUntil"); err != nil {
		return nil, err
	}
	c.Status, err = readStatus(o["credentialStatus"])
	return c, err
}

// readStatus finds the entry for revocation among a credential's, one or a
// list. Entries of other kinds and purposes are passed over.
func readStatus(v any) (*Status, error) {
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	var found *Status
	for _, v := range list {
		e, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: a status is an object", ErrSyntax)
		}
		if e["type"] != "BitstringStatusListEntry" || e["statusPurpose"] != revocation {
			continue
		}
		s := &Status{}
		s.List, _ = e["statusListCredential"].(string)
		text, _ := e["statusListIndex"].(string)
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || s.List == "" || found != nil {
			return nil, fmt.Errorf("%w: its status names no one place in a list", ErrSyntax)
		}
		if size, ok := e["statusSize"]; ok && fmt.Sprint(size) != "1" {
			return nil, fmt.Errorf("%w: a revocation is one bit", ErrSyntax)
		}
		s.Index = int(n)
		found = s
	}
	return found, nil
}

// texts is a text or a list of them.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, _ := e.(string)
			out = append(out, s)
		}
		return out
	}
	return nil
}

package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func signer(t require.TestingT, n byte) *Signer {
	s, err := NewSigner(bytes.Repeat([]byte{n}, 32))
	require.NoError(t, err)
	return s
}

func issuer(t require.TestingT, s *Signer) *Issuer {
	i, err := ParseIssuer(s.Document())
	require.NoError(t, err)
	return i
}

const listID = "https://shop.example/status/1"

// watch is a credential that an issuer would make.
func watch(s *Signer) map[string]any {
	return map[string]any{
		"@context": []any{Context, map[string]any{"serial": "https://gs1.org/voc/hasSerialNumber"}}, "id": "https://shop.example/certificate/1",
		"type": []any{"VerifiableCredential", "AuthenticityCertificate"}, "issuer": s.ID(), "validFrom": "2026-11-20T10:00:00Z", "validUntil": "2036-11-20T10:00:00Z",
		"credentialSubject": map[string]any{"id": "https://id.gs1.org/01/09520123456788/21/A", "serial": "A<&>é\u2028", "weight": 1.5},
		"credentialStatus":  StatusEntry(Status{List: listID, Index: 94567}),
	}
}

func sign(t require.TestingT, s *Signer, o map[string]any) []byte {
	b, err := s.Sign(o, now)
	require.NoError(t, err)
	return b
}

// The example of the Recommendation (Data Integrity EdDSA Cryptosuites 1.0,
// appendix B.3).
const vector = `{"@context":["https://www.w3.org/ns/credentials/v2","https://www.w3.org/ns/credentials/examples/v2"],
 "id":"urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33","type":["VerifiableCredential","AlumniCredential"],"name":"Alumni Credential",
 "description":"A minimum viable example of an Alumni Credential.","issuer":"https://vc.example/issuers/5678","validFrom":"2023-01-01T00:00:00Z",
 "credentialSubject":{"id":"did:example:abcdefgh","alumniOf":"The School of Examples"},
 "proof":{"type":"DataIntegrityProof","cryptosuite":"eddsa-jcs-2022","created":"2023-02-24T23:36:38Z",
 "verificationMethod":"did:key:z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2#z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2",
 "proofPurpose":"assertionMethod","@context":["https://www.w3.org/ns/credentials/v2","https://www.w3.org/ns/credentials/examples/v2"],
 "proofValue":"z2HnFSSPPBzR36zdDgK8PbEHeXbR56YF24jwMpt3R1eHXQzJDMWS93FCzpvJpwTWd3GAVFuUfjoJdcnTMuVor51aX"}}`

func TestTheStandardsExampleIsVerified(t *testing.T) {
	key, err := ParseIssuer([]byte("did:key:z6MkrJVnaZkeFzdQyMZu1cgjg7k1pZZ6pvBQ7XJPt4swbTQ2"))
	require.NoError(t, err)
	o, err := parse([]byte(vector))
	require.NoError(t, err)
	require.NoError(t, key.verifyProof(o, now))
	_, err = Verify([]byte(vector), key, now)
	require.ErrorIs(t, err, ErrKeyUnknown, "the example's issuer is not its key")
	for _, change := range [][2]string{{"The School", "A School"}, {"2023-02-24", "2023-02-23"}, {`"examples/v2"`, `"examples/v3"`}, {"zN", "zM"}} {
		o, err := parse([]byte(strings.ReplaceAll(vector, change[0], change[1])))
		require.NoError(t, err)
		if strings.Contains(vector, change[0]) {
			require.ErrorIs(t, key.verifyProof(o, now), ErrTampered)
		}
	}
}

func TestWhatIsIssuedIsVerified(t *testing.T) {
	s := signer(t, 1)
	doc := sign(t, s, watch(s))
	c, err := Verify(doc, issuer(t, s), now)
	require.NoError(t, err)
	require.Equal(t, "https://shop.example/certificate/1", c.ID)
	require.Equal(t, s.ID(), c.Issuer)
	require.Equal(t, "A<&>é\u2028", c.Subject["serial"])
	require.Equal(t, &Status{List: listID, Index: 94567}, c.Status)
	byID, err := ParseIssuer([]byte(s.ID() + "\n"))
	require.NoError(t, err)
	_, err = Verify(doc, byID, now)
	require.NoError(t, err, "the identifier is the key")

	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, doc, "", "\t"))
	_, err = Verify(pretty.Bytes(), issuer(t, s), now)
	require.NoError(t, err, "white space is no change")
	_, err = s.Sign(map[string]any{"n": json.Number("1e999")}, now)
	require.Error(t, err)
}

// edit changes a signed document.
func edit(t require.TestingT, doc []byte, change func(o map[string]any)) []byte {
	var o map[string]any
	require.NoError(t, json.Unmarshal(doc, &o))
	change(o)
	b, err := json.Marshal(o)
	require.NoError(t, err)
	return b
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	s := signer(t, 1)
	doc := sign(t, s, watch(s))
	proof := func(o map[string]any) map[string]any { return o["proof"].(map[string]any) }
	for name, c := range map[string]struct {
		change func(o map[string]any)
		want   error
	}{
		"another subject":     {func(o map[string]any) { o["credentialSubject"].(map[string]any)["serial"] = "B" }, ErrTampered},
		"one field more":      {func(o map[string]any) { o["name"] = "x" }, ErrTampered},
		"a context before":    {func(o map[string]any) { o["@context"] = []any{Context, "https://evil.example"} }, ErrTampered},
		"another created":     {func(o map[string]any) { proof(o)["created"] = "2026-11-23T11:00:00Z" }, ErrTampered},
		"a proof of tomorrow": {func(o map[string]any) { proof(o)["created"] = "2026-11-24T11:00:00Z" }, ErrNotYet},
		"another signature": {func(o map[string]any) {
			proof(o)["proofValue"] = proof(edited(sign(t, s, map[string]any{"a": 1})))["proofValue"]
		}, ErrTampered},
		"a short signature": {func(o map[string]any) { proof(o)["proofValue"] = "z2Hn" }, ErrSyntax},
		"no base58":         {func(o map[string]any) { proof(o)["proofValue"] = "z0OIl" }, ErrSyntax},
		"an endless one":    {func(o map[string]any) { proof(o)["proofValue"] = "z" + strings.Repeat("2", 1<<20) }, ErrSyntax},
		"another suite":     {func(o map[string]any) { proof(o)["cryptosuite"] = "eddsa-rdfc-2022" }, ErrSuite},
		"another type":      {func(o map[string]any) { proof(o)["type"] = "Ed25519Signature2020" }, ErrSuite},
		"another purpose":   {func(o map[string]any) { proof(o)["proofPurpose"] = "authentication" }, ErrSuite},
		"another key": {func(o map[string]any) {
			id := signer(t, 2)
			proof(o)["verificationMethod"] = id.method()
		}, ErrKeyUnknown},
		"another issuer":       {func(o map[string]any) { o["issuer"] = signer(t, 2).ID() }, ErrKeyUnknown},
		"no proof":             {func(o map[string]any) { delete(o, "proof") }, ErrSyntax},
		"two proofs":           {func(o map[string]any) { o["proof"] = []any{o["proof"], o["proof"]} }, ErrSyntax},
		"no issuer":            {func(o map[string]any) { delete(o, "issuer") }, ErrSyntax},
		"two subjects":         {func(o map[string]any) { o["credentialSubject"] = []any{} }, ErrSyntax},
		"no credential":        {func(o map[string]any) { o["type"] = "Thing" }, ErrSyntax},
		"another first":        {func(o map[string]any) { o["@context"] = []any{"https://www.w3.org/2018/credentials/v1"} }, ErrSyntax},
		"no date":              {func(o map[string]any) { o["validUntil"] = "tomorrow" }, ErrSyntax},
		"two places":           {func(o map[string]any) { o["credentialStatus"] = []any{o["credentialStatus"], o["credentialStatus"]} }, ErrSyntax},
		"a place below zero":   {func(o map[string]any) { o["credentialStatus"].(map[string]any)["statusListIndex"] = "-1" }, ErrSyntax},
		"two bits":             {func(o map[string]any) { o["credentialStatus"].(map[string]any)["statusSize"] = 2 }, ErrSyntax},
		"a status that is one": {func(o map[string]any) { o["credentialStatus"] = "fine" }, ErrSyntax},
		"without its status":   {func(o map[string]any) { delete(o, "credentialStatus") }, ErrTampered},
	} {
		_, err := Verify(edit(t, doc, c.change), issuer(t, s), now)
		require.ErrorIs(t, err, c.want, name)
	}
	_, err := Verify(doc, issuer(t, signer(t, 2)), now)
	require.ErrorIs(t, err, ErrKeyUnknown)
	_, err = Verify(doc, issuer(t, s), now.AddDate(20, 0, 0))
	require.ErrorIs(t, err, ErrExpired)
	_, err = Verify(doc, issuer(t, s), now.AddDate(-1, 0, 0))
	require.ErrorIs(t, err, ErrNotYet)
	for _, b := range []string{"", "[]", "{", `{"a":1,"a":2}`, strings.Repeat(" ", maxDocument+1)} {
		_, err := Verify([]byte(b), issuer(t, s), now)
		require.ErrorIs(t, err, ErrSyntax)
	}
	twice := strings.Replace(string(doc), `"validFrom"`, `"issuer":"did:key:evil","validFrom"`, 1)
	_, err = Verify([]byte(twice), issuer(t, s), now)
	require.ErrorIs(t, err, ErrSyntax, "a name that stands twice")
}

func edited(b []byte) map[string]any {
	var o map[string]any
	if err := json.Unmarshal(b, &o); err != nil {
		panic(err)
	}
	return o
}

func TestAnyChangeOfOneByteIsSeen(t *testing.T) {
	s := signer(t, 1)
	i := issuer(t, s)
	doc := sign(t, s, watch(s))
	want, err := Verify(doc, i, now)
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(doc)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		// A change that is read the same is none: 1.5 and 15e-1, A and \u0041.
		if c, err := Verify(b, i, now); err == nil {
			require.Equal(t, want.Subject["serial"], c.Subject["serial"])
			require.Equal(t, want.Status, c.Status)
		}
	})
}

func TestAnIssuersDocumentNamesItsKeys(t *testing.T) {
	s := signer(t, 1)
	key := fmt.Sprintf(`{"id":"https://i.example#k","type":"Multikey","controller":"https://i.example","publicKeyMultibase":%q}`, s.encoded)
	for doc, good := range map[string]bool{
		`{"id":"https://i.example","verificationMethod":[` + key + `],"assertionMethod":["https://i.example#k"]}`:                                                        true,
		`{"id":"https://i.example","assertionMethod":[` + key + `]}`:                                                                                                     true,
		`{"id":"https://i.example","verificationMethod":[` + key + `],"authentication":["https://i.example#k"]}`:                                                         false,
		`{"id":"https://other.example","assertionMethod":[` + key + `]}`:                                                                                                 false,
		`{"id":"https://i.example","assertionMethod":[{"id":"x","type":"Multikey","controller":"https://i.example","publicKeyMultibase":"zDnaeSMnptAKpH4AD41vTkwzjA"}]}`: false,
		`{"id":"https://i.example","id":"https://j.example","assertionMethod":[` + key + `]}`:                                                                            false,
		`{"id":"https://i.example","assertionMethod":[7]}`:                                                                                                               false, `[]`: false, ``: false, `{"id":7}`: false, "did:key:": false, "did:key:z": false, "did:key:zQ3sh": false,
		"did:key:m" + s.encoded[1:]: false, "did:key:z" + strings.Repeat("1", 100): false, strings.Repeat(" ", maxIssuer+1): false,
	} {
		i, err := ParseIssuer([]byte(doc))
		require.Equal(t, good, err == nil, "%s: %v", doc, err)
		if good {
			require.Equal(t, "https://i.example", i.ID)
			require.Contains(t, i.keys, "https://i.example#k")
		}
	}
	_, err := NewSigner(make([]byte, 31))
	require.Error(t, err)
}

func TestAStatusListTellsWhatIsRevoked(t *testing.T) {
	s := signer(t, 1)
	i := issuer(t, s)
	c, err := Verify(sign(t, s, watch(s)), i, now)
	require.NoError(t, err)
	l := NewList()
	signed := func(id string) []byte {
		b, err := s.SignList(id, l, now, time.Hour)
		require.NoError(t, err)
		return b
	}
	revoked, err := Revoked(c, signed(listID), i, now)
	require.NoError(t, err)
	require.False(t, revoked)
	l.Set(94567)
	revoked, err = Revoked(c, signed(listID), i, now)
	require.NoError(t, err)
	require.True(t, revoked)

	_, err = Revoked(c, signed(listID), i, now.Add(2*time.Hour))
	require.ErrorIs(t, err, ErrExpired)
	_, err = Revoked(c, signed("https://shop.example/status/2"), i, now)
	require.ErrorIs(t, err, ErrStatusList)
	_, err = Revoked(c, sign(t, s, watch(s)), i, now)
	require.ErrorIs(t, err, ErrStatusList)
	other, err := signer(t, 2).SignList(listID, l, now, time.Hour)
	require.NoError(t, err)
	_, err = Revoked(c, other, i, now)
	require.ErrorIs(t, err, ErrKeyUnknown)
	_, err = Revoked(&Credential{}, signed(listID), i, now)
	require.ErrorIs(t, err, ErrStatusList)
	_, err = Revoked(&Credential{Status: &Status{List: listID, Index: Entries}}, signed(listID), i, now)
	require.ErrorIs(t, err, ErrStatusList)
	for _, subject := range []map[string]any{
		{"type": "BitstringStatusList", "statusPurpose": "suspension", "encodedList": l.Encode()},
		{"type": "BitstringStatusList", "statusPurpose": "revocation"}, {"type": "Other", "statusPurpose": "revocation", "encodedList": l.Encode()},
	} {
		b := sign(t, s, map[string]any{
			"@context": []any{Context}, "id": listID, "issuer": s.ID(), "type": []any{"VerifiableCredential", "BitstringStatusListCredential"}, "credentialSubject": subject,
		})
		_, err = Revoked(c, b, i, now)
		require.ErrorIs(t, err, ErrStatusList)
	}
}

func TestABitstringIsTheStandards(t *testing.T) {
	// An empty list, as the Recommendation (Bitstring Status List 1.0) prints it.
	l, err := DecodeList("uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA")
	require.NoError(t, err)
	require.Equal(t, NewList().bits, l.bits)
	l.Set(0)
	require.Equal(t, byte(0x80), l.bits[0], "index 0 is the left-most bit")
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.SliceOfDistinct(rapid.IntRange(0, Entries-1), rapid.ID).Draw(t, "set")
		l := NewList()
		for _, i := range set {
			l.Set(i)
		}
		l, err := DecodeList(l.Encode())
		require.NoError(t, err)
		n := 0
		for i := range l.Len() {
			if l.Get(i) {
				n++
			}
		}
		require.Len(t, set, n)
		for _, i := range set {
			require.True(t, l.Get(i))
		}
	})
}

func TestAListThatIsNoneIsRefused(t *testing.T) {
	gz := (&List{bits: make([]byte, maxBytes+1)}).Encode()
	short := (&List{bits: make([]byte, Entries/8-1)}).Encode()
	for _, s := range []string{"", "u", "z" + gz[1:], "u!!", "uAAAA", gz, short, NewList().Encode()[:30], "u" + base64.StdEncoding.EncodeToString([]byte("x"))} {
		_, err := DecodeList(s)
		require.ErrorIs(t, err, ErrSyntax)
	}
}

func FuzzVerify(f *testing.F) {
	s := signer(f, 1)
	f.Add(sign(f, s, watch(s)))
	f.Add([]byte(vector))
	i := issuer(f, s)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Verify(b, i, now)
		if err == nil {
			require.Equal(t, s.ID(), c.Issuer)
			return
		}
		known := false
		for _, e := range []error{ErrSyntax, ErrSuite, ErrKeyUnknown, ErrTampered, ErrNotYet, ErrExpired} {
			known = known || errors.Is(err, e)
		}
		require.True(t, known, err)
	})
}

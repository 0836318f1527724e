package command

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/entrepot/entrepot/sdk/credential"
)

// certificateList is where the certificates of the scripts name their list: a
// host that nobody answers at.
const certificateList = "https://shop.invalid/entrepot.inspection.v1.CertificateService/GetStatusList?connect=v1&encoding=json&message=%7B%22list%22%3A1%7D"

// issue writes what a marketplace publishes, into files, and serves it at $URL:
// certificate.json, of entry 7; tampered.json; endless.json without a status;
// issuer.json, its did and another's; lists on which it stands or does not.
func issue(ts *testscript.TestScript, _ bool, _ []string) {
	signer := func(n byte) *credential.Signer {
		s, err := credential.NewSigner(bytes.Repeat([]byte{n}, 32))
		ts.Check(err)
		return s
	}
	s, other := signer(1), signer(2)
	now := time.Now().Add(-time.Minute)
	certificate := func(status any) []byte {
		o := map[string]any{
			"@context": []any{credential.Context}, "id": "https://shop.invalid/certificate/crf_1", "type": []any{"VerifiableCredential", certificateType},
			"issuer": s.ID(), "validFrom": "2026-11-20T10:00:00Z", "credentialSubject": map[string]any{
				"id": "https://shop.invalid/01/04006381333931/21/W1", "gtin": "04006381333931", "serial": "W1", "lot": "L\x1b[2J", "verdict": "GENUINE",
			},
		}
		if status != nil {
			o["credentialStatus"] = status
		}
		b, err := s.Sign(o, now)
		ts.Check(err)
		return b
	}
	list := func(by *credential.Signer, at time.Time, entries ...int) []byte {
		l := credential.NewList()
		for _, e := range entries {
			l.Set(e)
		}
		b, err := by.SignList(certificateList, l, at, time.Hour)
		ts.Check(err)
		return b
	}
	answer := func(member string, b []byte) []byte {
		out, err := json.Marshal(map[string]any{member: b, "issuedAt": "2026-11-20T10:00:00Z"})
		ts.Check(err)
		return out
	}
	good := certificate(credential.StatusEntry(credential.Status{List: certificateList, Index: 7}))
	clear, gone := list(s, now, 8), list(s, now, 7)
	for name, b := range map[string][]byte{
		"certificate.json": good, "answer.json": answer("credential", good), "endless.json": certificate(nil),
		"tampered.json": bytes.Replace(good, []byte(`"W1"`), []byte(`"W2"`), 1), "issuer.json": s.Document(), "issuer-answer.json": answer("document", s.Document()),
		"issuer.did": []byte(s.ID() + "\n"), "other.did": []byte(other.ID()), "clear.json": clear, "clear-answer.json": answer("credential", clear),
		"revoked.json": gone, "foreign.json": list(other, now), "old.json": list(s, now.Add(-2*time.Hour)),
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), b, 0o600))
	}
	revoked := false
	mux := http.NewServeMux()
	mux.HandleFunc("/entrepot.inspection.v1.CertificateService/GetIssuer", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "connect=v1") {
			_, _ = w.Write(answer("document", s.Document()))
		}
	})
	// The second time that the list is asked for, the certificate was revoked.
	mux.HandleFunc("/entrepot.inspection.v1.CertificateService/GetStatusList", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("message") != `{"list":1}`:
			http.NotFound(w, r)
		case revoked:
			_, _ = w.Write(answer("credential", gone))
		default:
			revoked = true
			_, _ = w.Write(answer("credential", clear))
		}
	})
	mux.Handle("/moved/", http.RedirectHandler("/", http.StatusFound))
	server := httptest.NewServer(mux)
	ts.Defer(server.Close)
	ts.Setenv("URL", server.URL)
}

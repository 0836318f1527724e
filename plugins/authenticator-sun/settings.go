package main

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/ntag424"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	URLPrefix  string `json:"url_prefix"`
	PICC       string `json:"picc_parameter"`
	CMAC       string `json:"cmac_parameter"`
	Enc        string `json:"enc_parameter"`
	SealOffset *int   `json:"seal_offset"`
	Diversify  *bool  `json:"diversify"`
	SystemID   string `json:"system_id"`
	Bindings   string `json:"bindings"`
}

var parameter = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// maxSeal is the last byte of file data that a chip mirrors, less the seal.
const maxSeal = 110

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var s settings
	_ = json.Unmarshal(config, &s) // the types of the fields were looked at
	wrong := func(field, format string, args ...any) {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if u, err := url.Parse(s.URLPrefix); err != nil || u.Scheme == "" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		wrong("url_prefix", "%q is no beginning of a URL; write it up to the question mark, like \"https://tag.example.com/t\"", s.URLPrefix)
	}
	f := s.form()
	names := map[string]bool{}
	for _, p := range []struct{ field, name string }{{"picc_parameter", f.PICC}, {"cmac_parameter", f.CMAC}, {"enc_parameter", f.Enc}} {
		if p.name == "" {
			continue
		}
		if !parameter.MatchString(p.name) || names[p.name] {
			wrong(p.field, "%q; write a name of its own, of letters, digits, _ and -", p.name)
		}
		names[p.name] = true
	}
	switch {
	case s.SealOffset == nil:
	case s.Enc == "":
		wrong("seal_offset", "the seal stands in encrypted file data; name its parameter with enc_parameter")
	case *s.SealOffset < 0 || *s.SealOffset > maxSeal:
		wrong("seal_offset", "%d; write between 0 and %d", *s.SealOffset, maxSeal)
	}
	if id, err := hex.DecodeString(s.SystemID); err != nil || len(id) > 24 {
		wrong("system_id", "is no hex of up to 24 bytes")
	}
	if _, err := readBindings(s.Bindings); err != nil {
		wrong("bindings", "%v", err)
	}
	return found
}

func (s *settings) form() ntag424.Form {
	return ntag424.Form{Prefix: s.URLPrefix, PICC: cmp.Or(s.PICC, "e"), Enc: s.Enc, CMAC: cmp.Or(s.CMAC, "c")}
}

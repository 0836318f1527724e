package main

import (
	"encoding/base64"
	"encoding/json"

	"github.com/entrepot/entrepot/sdk/fault"
)

// token is where a page ended, in parts. It is opaque to clients and says
// nothing that the page did not.
type token []any

func (t token) encode() string {
	b, err := json.Marshal(t)
	if err != nil {
		// Parts are texts and numbers.
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decode reads the parts into pointers; an empty token leaves them as they
// are.
func (t token) decode(s string) error {
	if s == "" {
		return nil
	}
	bad := fault.Field("page_token", "not one of this list")
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return bad
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) != len(t) {
		return bad
	}
	for i, into := range t {
		if err := json.Unmarshal(parts[i], into); err != nil {
			return bad
		}
	}
	return nil
}

package main

import (
	"encoding/base64"
	"encoding/json"

	"github.com/entrepot/entrepot/sdk/fault"
)

// defaultPage is a page when nobody says how long.
const defaultPage = 100

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// token is the last row of a page of a list, by what the rows are in order of;
// opaque to clients.
func token(list string, last ...string) string {
	b, err := json.Marshal(append([]string{list}, last...))
	if err != nil {
		// Texts always are JSON.
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// readToken is the place in a token of a list; nil at its beginning.
func readToken(list, text string, parts int) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var out []string
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil || len(out) != parts+1 || out[0] != list {
		return nil, fault.Field("page_token", "not one of this list")
	}
	return out[1:], nil
}

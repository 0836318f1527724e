package main

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/entrepot/entrepot/sdk/fault"
)

// defaultPage is a page when nobody says how long.
const defaultPage = 100

// pageSize is how long a page is.
func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// A page token is the key of the last row shown, opaque to clients.

func token(id int64) string {
	return base64.RawURLEncoding.EncodeToString(strconv.AppendInt(nil, id, 36))
}

func position(token string) (int64, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		var id int64
		if id, err = strconv.ParseInt(string(b), 36, 64); err == nil {
			return id, nil
		}
	}
	return 0, fault.Field("page_token", "not one of this list")
}

// textToken is a token of a list, after its last key.
func textToken(list, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + " " + last))
}

// textPosition is the key in a token of a list; empty at its beginning.
func textPosition(list, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	key, ok := strings.CutPrefix(string(b), list+" ")
	if err != nil || !ok {
		return "", fault.Field("page_token", "not one of this list")
	}
	return key, nil
}

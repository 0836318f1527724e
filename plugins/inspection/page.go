package main

import (
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/entrepot/entrepot/sdk/fault"
)

// page is what a list answers next: what is older than a moment and, of that
// moment, of a smaller id.
type page struct {
	at   time.Time
	id   string
	size int
}

// never is after everything.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// pageSize is that of lists of which nobody says how long a page is.
const pageSize = 50

func pageOf(from string, size int32) (page, error) {
	p := page{at: never, size: int(size)}
	if size == 0 {
		p.size = pageSize
	}
	if from == "" {
		return p, nil
	}
	var key struct {
		Micros int64  `json:"t"`
		ID     string `json:"i"`
	}
	b, err := base64.RawURLEncoding.DecodeString(from)
	if err != nil || json.Unmarshal(b, &key) != nil {
		return p, fault.Field("page_token", "not one of this list")
	}
	p.at, p.id = time.UnixMicro(key.Micros), key.ID
	return p, nil
}

// token is where a page ended: opaque, and says nothing that the page did not.
func token(at time.Time, id string) string {
	b, err := json.Marshal(map[string]any{"t": at.UnixMicro(), "i": id})
	if err != nil {
		// A number and a text.
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

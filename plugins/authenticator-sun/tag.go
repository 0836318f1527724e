package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/entrepot/entrepot/sdk/ntag424"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// tag is what is remembered of a chip.
type tag struct {
	// Piece is what it was first verified on.
	Piece goods `json:"g"`
	// Counter is the highest that was accepted.
	Counter uint32 `json:"c"`
	// Taps are the last that were accepted, for who asks again.
	Taps []tap `json:"t"`
}

// tap is a message that was accepted, and for which check.
type tap struct {
	Counter uint32 `json:"c"`
	Key     string `json:"k"`
	// At is when, in milliseconds since 1970.
	At int64 `json:"a"`
}

// maxTaps is how many accepted messages of a tag are remembered. A check that
// is repeated after as many later ones is told that its message is a copy.
const maxTaps = 32

// tags remembers chips and pieces. A message is accepted by one write, which
// holds the check's key: who crashed after it, or never heard the answer, asks
// again with the key and is answered the same; with any other key the message
// is a copy. Nothing is remembered of messages that were not accepted, so they
// use nothing up.
type tags struct {
	chips *state.Map[tag]
	// pieces hold the UID of the tag that a piece was first verified by.
	pieces *state.Map[string]
}

// openTags uses 8,192 of the 10,000 keys that an instance has: room for some
// million tags.
func openTags(in *plugin.Instance) tags {
	return tags{chips: state.Of[tag](in, "tag", 6144), pieces: state.Of[string](in, "piece", 2048)}
}

// accepted is what became of a verified message.
type accepted int

const (
	fresh accepted = iota
	replayed
	foreign
)

// accept takes a verified message as the answer to a check, once. listed says
// that the operator's bindings have the tag on this piece, whatever it was
// verified on before.
func (t tags) accept(ctx context.Context, m ntag424.Tap, piece goods, listed bool, key string) (accepted, time.Time, error) {
	uid, short := m.UID.String(), shorten(key)
	if !listed {
		own, known, err := t.pieces.Get(ctx, string(piece))
		if err != nil || known && own != uid {
			return foreign, time.Time{}, err
		}
	}
	now := time.Now().UnixMilli()
	var became accepted
	var at int64
	if _, err := t.chips.Update(ctx, uid, func(r *tag, known bool) (bool, error) {
		became, at = fresh, now
		for _, x := range r.Taps {
			if x.Counter == m.Counter && x.Key == short {
				at = x.At
				return false, nil
			}
		}
		switch {
		case known && !listed && r.Piece != piece:
			became = foreign
			return false, nil
		case known && m.Counter <= r.Counter:
			became = replayed
			return false, nil
		}
		r.Piece, r.Counter = piece, m.Counter
		r.Taps = append(r.Taps, tap{Counter: m.Counter, Key: short, At: now})
		r.Taps = r.Taps[max(0, len(r.Taps)-maxTaps):]
		return true, nil
	}); err != nil || became != fresh {
		return became, time.Time{}, err
	}
	own, err := t.pieces.Update(ctx, string(piece), func(own *string, known bool) (bool, error) {
		if known && (!listed || *own == uid) {
			return false, nil
		}
		*own = uid
		return true, nil
	})
	if err == nil && own != uid {
		// Another tag was verified on the piece in the same moment.
		return foreign, time.Time{}, nil
	}
	return fresh, time.UnixMilli(at).UTC(), err
}

// shorten keeps of a key what tells it apart.
func shorten(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}

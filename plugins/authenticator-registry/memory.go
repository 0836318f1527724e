package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// memory is what is remembered of one serial, besides what registers say.
type memory struct {
	// Units presented it.
	Units []string `json:"u,omitempty"`
	// Fate is the latest that was told, FateAt when it came about.
	Fate   providerv1.RetainRequest_Fate `json:"f,omitempty"`
	FateAt int64                         `json:"fa,omitempty"`
	// Told are the keys of what was told, the latest last.
	Told []string `json:"t,omitempty"`
	// Sightings are ordered by time.
	Sightings []sighting `json:"s,omitempty"`
	// Answers are what checks were answered, the latest last.
	Answers []answer `json:"k,omitempty"`
}

// sighting is where goods with the serial were.
type sighting struct {
	Country string `json:"c"`
	// At is in milliseconds since 1970.
	At int64 `json:"a"`
}

// answer is what a check was answered.
type answer struct {
	Key        string            `json:"k"`
	Result     providerv1.Result `json:"r"`
	Reason     string            `json:"w"`
	Note       string            `json:"n,omitempty"`
	Instrument string            `json:"i,omitempty"`
	At         int64             `json:"a"`
}

// How much of a serial is remembered: the latest. A check that is repeated
// after as many others of the same serial is made anew.
const (
	maxUnits     = 8
	maxTold      = 8
	maxSightings = 16
	maxAnswers   = 16
)

// openMemories uses 9,216 of the 10,000 keys that an instance has: room for
// some million serials.
func openMemories(in *plugin.Instance) *state.Map[memory] {
	return state.Of[memory](in, "serial", 9216)
}

// answered finds what a check was answered before.
func (m *memory) answered(key string) (answer, bool) {
	i := slices.IndexFunc(m.Answers, func(a answer) bool { return a.Key == key })
	if i < 0 {
		return answer{}, false
	}
	return m.Answers[i], true
}

// saw remembers a check: who presented the serial, where it was seen, what was
// answered.
func (m *memory) saw(unit string, seen []sighting, a answer) {
	if unit != "" && !slices.Contains(m.Units, unit) {
		m.Units = last(append(m.Units, unit), maxUnits)
	}
	for _, s := range seen {
		if !slices.Contains(m.Sightings, s) {
			m.Sightings = append(m.Sightings, s)
		}
	}
	slices.SortStableFunc(m.Sightings, func(a, b sighting) int { return cmp.Compare(a.At, b.At) })
	m.Sightings = last(m.Sightings, maxSightings)
	m.Answers = last(append(m.Answers, a), maxAnswers)
}

// travelled finds two sightings between which nothing travels, one of them
// new.
func (m *memory) travelled(seen []sighting) (from, to sighting, ok bool) {
	known := slices.Clone(m.Sightings)
	for _, s := range seen {
		for _, k := range known {
			if tooFast(k.Country, s.Country, time.Duration(s.At-k.At)*time.Millisecond) {
				if k.At > s.At {
					k, s = s, k
				}
				return k, s, true
			}
		}
		known = append(known, s)
	}
	return from, to, false
}

// became is told a fate, once for each key; the one that came about last is in
// force, and none after destruction. It says whether anything changed.
func (m *memory) became(fate providerv1.RetainRequest_Fate, at int64, key string) bool {
	if slices.Contains(m.Told, key) {
		return false
	}
	m.Told = last(append(m.Told, key), maxTold)
	destroyed := providerv1.RetainRequest_FATE_DESTROYED
	if m.Fate != destroyed && (fate == destroyed || at >= m.FateAt) {
		m.Fate, m.FateAt = fate, at
	}
	return true
}

func (a answer) outcome(key string) *providerv1.Outcome {
	out := &providerv1.Outcome{Key: key, Result: a.Result, Method: "registry", Reason: a.Reason, Note: a.Note, Instrument: a.Instrument}
	if a.At != 0 {
		out.At = timestamppb.New(time.UnixMilli(a.At))
	}
	return out
}

func last[T any](list []T, most int) []T { return list[max(0, len(list)-most):] }

// shorten keeps of a key what tells it apart.
func shorten(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}

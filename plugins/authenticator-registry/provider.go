package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// The contract's words, shorter.
const (
	genuine      = providerv1.Result_RESULT_GENUINE
	counterfeit  = providerv1.Result_RESULT_COUNTERFEIT
	inconclusive = providerv1.Result_RESULT_INCONCLUSIVE
	wrongItem    = providerv1.Result_RESULT_WRONG_ITEM
)

// clerk is the authenticator of one instance: it looks serials up.
type clerk struct {
	library  *library
	memories *state.Map[memory]
}

func register(_ context.Context, in *plugin.Instance) error {
	var s settings
	if err := in.Config(&s); err != nil {
		return err
	}
	every, err := s.every()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	c := &clerk{memories: openMemories(in)}
	if c.library, err = openLibrary(s.Registers, every, in.Log); err != nil {
		return err
	}
	in.Check = func(context.Context) error {
		if err := c.library.failure(); err != nil {
			return fault.Downstream(fault.New(connect.CodeFailedPrecondition, "REGISTER_UNREADABLE", err.Error()))
		}
		return nil
	}
	providerv1connect.RegisterAuthenticatorServiceHandler(in.Server, c)
	return nil
}

// Check implements the contract. What was answered of goods that are in a
// register is remembered with the serial, in the write that remembers the
// sighting: asked again with the key, the answer is the same.
func (c *clerk) Check(ctx context.Context, req *providerv1.CheckRequest) (*providerv1.CheckResponse, error) {
	a, err := c.look(ctx, req)
	if err != nil {
		return nil, err
	}
	return &providerv1.CheckResponse{Outcome: a.outcome(req.GetKey())}, nil
}

func (c *clerk) look(ctx context.Context, req *providerv1.CheckRequest) (answer, error) {
	p := c.library.registers()[req.GetGtin()]
	if p == nil {
		return answer{Result: inconclusive, Reason: "NOT_MY_GOODS", Note: "no register holds these goods"}, nil
	}
	read := readings(req.GetEvidence())
	serial := req.GetSerial()
	switch {
	case serial == "" && len(read) == 0:
		return answer{Result: inconclusive, Reason: "EVIDENCE_MISSING", Note: "a serial is wanted: the unit's, or evidence of the kind serial"}, nil
	case serial == "" && len(read) > 1:
		return answer{Result: inconclusive, Reason: "EVIDENCE_AMBIGUOUS", Note: "several serials were given for one look"}, nil
	case serial == "":
		serial = read[0]
	case len(read) > 0 && !slices.Contains(read, serial):
		return answer{Result: wrongItem, Reason: "SERIAL_DIFFERS", Note: "the goods bear another serial than they are presented under"}, nil
	}
	if !isSerial(serial) {
		return answer{Result: inconclusive, Reason: "EVIDENCE_MALFORMED", Note: "this is no serial"}, nil
	}
	now, key := time.Now(), shorten(req.GetKey())
	seen := sightings(req.GetEvidence(), now)
	var a answer
	_, err := c.memories.Update(ctx, id(req.GetGtin(), serial), func(m *memory, _ bool) (bool, error) {
		before, known := m.answered(key)
		if known {
			a = before
			return false, nil
		}
		a = judge(p, m, serial, req.GetUnitId(), seen)
		a.Key, a.At = key, now.UnixMilli()
		m.saw(req.GetUnitId(), seen, a)
		return true, nil
	})
	return a, err
}

// judge says what is to be thought of a serial, the worst first.
func judge(p *product, m *memory, serial, unit string, seen []sighting) answer {
	made, known := p.find(serial)
	by := made.register
	if !known {
		by = strings.Join(p.registers, " ")
	}
	a := answer{Instrument: by[:min(len(by), 100)], Result: inconclusive}
	other := func(u string) bool { return u != unit }
	switch {
	case m.Fate == providerv1.RetainRequest_FATE_DESTROYED:
		a.Result, a.Reason, a.Note = counterfeit, "ALREADY_DESTROYED", "the goods with this serial were destroyed on "+day(m.FateAt)
	case !known && p.complete:
		a.Result, a.Reason, a.Note = counterfeit, "SERIAL_UNKNOWN", "the manufacturer never gave this serial"
	case !known:
		a.Reason, a.Note = "SERIAL_UNKNOWN", "the serial is in no register, but none claims to be complete"
	case m.Fate == providerv1.RetainRequest_FATE_SOLD:
		a.Reason, a.Note = "ALREADY_SOLD", "the goods with this serial were sold on "+day(m.FateAt)+" and did not come back"
	case unit != "" && slices.ContainsFunc(m.Units, other):
		a.Reason, a.Note = "SERIAL_DUPLICATE", "another unit bears this serial"
	default:
		from, to, impossible := m.travelled(seen)
		if impossible {
			a.Reason, a.Note = "IMPOSSIBLE_TRAVEL", fmt.Sprintf("seen in %s at %s and in %s at %s", from.Country, moment(from.At), to.Country, moment(to.At))
			return a
		}
		a.Result, a.Reason, a.Note = genuine, "SERIAL_KNOWN", made.String()
	}
	return a
}

// Retain implements the contract. What became of goods that are in no register
// is not remembered.
func (c *clerk) Retain(ctx context.Context, req *providerv1.RetainRequest) (*providerv1.RetainResponse, error) {
	if c.library.registers()[req.GetGtin()] == nil {
		return &providerv1.RetainResponse{}, nil
	}
	if !isSerial(req.GetSerial()) {
		return nil, fault.Field("serial", "is none")
	}
	at := time.Now()
	if req.GetAt() != nil {
		at = bounded(req.GetAt(), at)
	}
	_, err := c.memories.Update(ctx, id(req.GetGtin(), req.GetSerial()), func(m *memory, _ bool) (bool, error) {
		return m.became(req.GetFate(), at.UnixMilli(), shorten(req.GetKey())), nil
	})
	return &providerv1.RetainResponse{}, err
}

// readings are the serials that were read from the goods, each once.
func readings(evidence []*providerv1.Evidence) (out []string) {
	for _, e := range evidence {
		if s := strings.TrimSpace(e.GetText()); e.GetKind() == "serial" && s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// sightings are where the evidence was gathered. What does not say where tells
// nothing of travels.
func sightings(evidence []*providerv1.Evidence, now time.Time) (out []sighting) {
	for _, e := range evidence {
		if places[e.GetCountry()] == nil {
			continue
		}
		at := now
		if e.GetAt() != nil {
			at = bounded(e.GetAt(), now)
		}
		if s := (sighting{Country: e.GetCountry(), At: at.UnixMilli()}); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// oldest is before anything that is remembered here.
var oldest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// bounded is a time that was given, but none to come and none out of mind.
func bounded(given *timestamppb.Timestamp, now time.Time) time.Time {
	switch t := given.AsTime(); {
	case t.After(now):
		return now
	case t.Before(oldest):
		return oldest
	default:
		return t
	}
}

func id(gtin, serial string) string { return gtin + "/" + serial }

func day(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateOnly) }

func moment(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04 MST") }

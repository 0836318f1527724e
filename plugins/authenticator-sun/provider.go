package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	"github.com/entrepot/entrepot/sdk/ntag424"
	"github.com/entrepot/entrepot/sdk/plugin"
)

// The contract's words, shorter.
const (
	genuine      = providerv1.Result_RESULT_GENUINE
	counterfeit  = providerv1.Result_RESULT_COUNTERFEIT
	inconclusive = providerv1.Result_RESULT_INCONCLUSIVE
)

// reader is the authenticator of one instance: it reads what chips wrote.
type reader struct {
	// The capability retain is not declared: a chip does not care who bought
	// its goods.
	providerv1connect.UnimplementedAuthenticatorServiceHandler

	form         ntag424.Form
	meta, master ntag424.Key
	diversify    bool
	systemID     []byte
	seal         *int
	bindings     *bindings
	tags         tags
}

func register(ctx context.Context, in *plugin.Instance) error {
	var s settings
	if err := in.Config(&s); err != nil {
		return err
	}
	r := &reader{form: s.form(), diversify: s.Diversify == nil || *s.Diversify, seal: s.SealOffset, tags: openTags(in)}
	for name, key := range map[string]*ntag424.Key{"master_key": &r.master, "meta_key": &r.meta} {
		var err error
		if *key, err = ntag424.ParseKey(in.Secrets[name]); err != nil {
			return fmt.Errorf("%s: want 32 hex digits", name)
		}
		if *key == (ntag424.Key{}) {
			in.Log.WarnContext(ctx, "a key is that of new chips, which everybody knows: tags can be forged", "key", name)
		}
	}
	var err error
	if r.systemID, err = hex.DecodeString(s.SystemID); err != nil {
		return errors.New("system_id is no hex")
	}
	if r.bindings, err = readBindings(s.Bindings); err != nil {
		return err
	}
	providerv1connect.RegisterAuthenticatorServiceHandler(in.Server, r)
	return nil
}

// Check implements the contract. A refusal of the evidence follows from it
// alone, and what the chip proves is remembered by the key: asked again, the
// answer is the same.
func (r *reader) Check(ctx context.Context, req *providerv1.CheckRequest) (*providerv1.CheckResponse, error) {
	out, err := r.look(ctx, req)
	return &providerv1.CheckResponse{Outcome: out}, err
}

func (r *reader) look(ctx context.Context, req *providerv1.CheckRequest) (*providerv1.Outcome, error) {
	out := &providerv1.Outcome{Key: req.GetKey(), Method: "tag"}
	text, n := message(req.GetEvidence())
	switch {
	case n == 0:
		return is(out, inconclusive, "EVIDENCE_MISSING", "what a tag wrote is wanted: evidence of the kind tag-url"), nil
	case n > 1:
		return is(out, inconclusive, "EVIDENCE_AMBIGUOUS", "several messages were given; a piece has one tag, and the last tap counts"), nil
	}
	reading, err := r.form.Parse(text)
	if err != nil {
		return is(out, inconclusive, "EVIDENCE_MALFORMED", "not what these tags write"), nil //nolint:nilerr // it is the evidence's error, and the answer
	}
	m, file, err := r.verify(reading)
	switch {
	case errors.Is(err, ntag424.ErrForged):
		return is(out, counterfeit, "TAG_FORGED", "the message is of no tag with the operator's keys"), nil
	case err != nil:
		return nil, err
	}
	out.Instrument = m.UID.String()
	piece := pieceOf(req.GetGtin(), req.GetSerial(), req.GetUnitId())
	if piece == "" {
		return is(out, inconclusive, "UNIT_MISSING", "a tag speaks for one piece, and none is named"), nil
	}
	own, listed := r.bindings.says(m.UID, piece)
	if listed && !own {
		return is(out, counterfeit, "TAG_FOREIGN", "the tag belongs to other goods"), nil
	}
	became, at, err := r.tags.accept(ctx, m, piece, listed, req.GetKey())
	switch {
	case err != nil:
		return nil, err
	case became == foreign:
		return is(out, counterfeit, "TAG_FOREIGN", "the tag belongs to other goods, or the goods to another tag"), nil
	case became == replayed:
		return is(out, counterfeit, "COUNTER_REPLAYED", fmt.Sprintf("tap %d is not after the last one: the message is a copy", m.Counter)), nil
	}
	return r.verified(out, m, file, at), nil
}

// verified answers by the seal, where the tags have one.
func (r *reader) verified(out *providerv1.Outcome, m ntag424.Tap, file []byte, at time.Time) *providerv1.Outcome {
	out.At = timestamppb.New(at)
	if r.seal == nil {
		return is(out, genuine, "TAG_VERIFIED", fmt.Sprintf("tap %d", m.Counter))
	}
	// The permanent and the present state: C closed, O opened, I not measured
	// (AN12196; TagTamper chips alone).
	switch seal := letters(file, *r.seal); seal {
	case "CC":
		return is(out, genuine, "TAG_VERIFIED", fmt.Sprintf("tap %d; the seal is whole", m.Counter))
	case "OC", "OO":
		return is(out, inconclusive, "SEAL_OPENED", fmt.Sprintf("tap %d; the tag is genuine, but its seal was opened (%s)", m.Counter, seal))
	default:
		return is(out, inconclusive, "SEAL_UNKNOWN", fmt.Sprintf("tap %d; the tag is genuine, but tells nothing of its seal", m.Counter))
	}
}

func letters(file []byte, at int) string {
	if at+2 > len(file) {
		return ""
	}
	return string(file[at : at+2])
}

// verify opens a message with the tag's own key.
func (r *reader) verify(reading ntag424.Reading) (ntag424.Tap, []byte, error) {
	m, err := reading.Open(r.meta)
	if err != nil {
		return m, nil, err
	}
	key := r.master
	if r.diversify {
		if key, err = ntag424.Diversify(r.master, m.UID, r.systemID); err != nil {
			return m, nil, err
		}
	}
	if err := reading.Verify(key, m); err != nil {
		return m, nil, err
	}
	return m, reading.File(key, m), nil
}

// message is what a tag wrote, and how many different ones were given.
func message(evidence []*providerv1.Evidence) (text string, n int) {
	seen := make(map[string]bool)
	for _, e := range evidence {
		if e.GetKind() == "tag-url" && !seen[e.GetText()] {
			text = e.GetText()
			seen[text] = true
		}
	}
	return text, len(seen)
}

func is(out *providerv1.Outcome, result providerv1.Result, reason, note string) *providerv1.Outcome {
	out.Result, out.Reason, out.Note = result, reason, note
	return out
}

// Package epcis reads EPCIS 2.0 events in JSON (GS1 EPCIS and Core Business
// Vocabulary 2.0), by the rules of the standard's schema, and computes the hash
// that identifies an event whoever writes it.
package epcis

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/entrepot/entrepot/sdk/ijson"
)

// ErrSyntax is wrapped by errors about what is no EPCIS 2.0; the text says
// where and why.
var ErrSyntax = errors.New("no EPCIS 2.0")

// MaxEvents bounds the events of a document.
const MaxEvents = 1000

// Event is one event. What it says is not changed.
type Event struct {
	// Type is one of the five.
	Type string
	// ID is the eventID that it was given; empty: none.
	ID string
	// Time at which it happened, in the zone in which it was written.
	Time time.Time
	// Action is ADD, OBSERVE or DELETE; empty for TransformationEvents.
	Action string
	// BizStep and Disposition are words of the CBV, or somebody else's URIs;
	// empty when it does not say.
	BizStep, Disposition string
	// ReadPoint and BizLocation are the places' identifiers, or empty.
	ReadPoint, BizLocation string
	// EPCs are what was observed: objects, parents and children, outputs.
	EPCs []string
	// Inputs are what a transformation used up.
	Inputs []string
	// Classes are the EPC classes of quantities.
	Classes []string
	// Error says that the event was recorded in error; nil: it stands.
	Error *ErrorDeclaration

	members map[string]any
	ns      namespaces
	// contexts are its own and its document's, beside the standard's.
	contexts []any
}

// ErrorDeclaration says that an event was recorded in error.
type ErrorDeclaration struct {
	Time time.Time
	// Reason is DidNotOccur, "incorrect_data" or somebody's URI.
	Reason string
	// Corrective are ids of events that say it right.
	Corrective []string
}

// New makes an event of the members of its JSON object, which it keeps.
func New(members map[string]any) (*Event, error) { return newEvent(members, predefined, nil) }

// ParseDocument reads the events of an EPCISDocument in JSON. The caller bounds
// its length.
func ParseDocument(b []byte) ([]*Event, error) {
	o, err := ijson.Object(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	ns, contexts, standard, err := readContext(o["@context"], predefined)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: document %w", ErrSyntax, err)
	case !standard:
		return nil, fmt.Errorf("%w: document does not name the context %s", ErrSyntax, Context)
	case o["type"] != "EPCISDocument":
		return nil, fmt.Errorf("%w: type is not EPCISDocument", ErrSyntax)
	}
	if err := isDocument(o, ns); err != nil {
		return nil, fmt.Errorf("%w: document %w", ErrSyntax, err)
	}
	body := o["epcisBody"].(map[string]any)
	events := body["eventList"].([]any)
	if len(events) > MaxEvents {
		return nil, fmt.Errorf("%w: more than %d events", ErrSyntax, MaxEvents)
	}
	out := make([]*Event, len(events))
	for i, v := range events {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: event %d is no object", ErrSyntax, i+1)
		}
		if out[i], err = newEvent(m, ns, contexts); err != nil {
			return nil, fmt.Errorf("event %d: %w", i+1, err)
		}
	}
	return out, nil
}

func isAny(any, namespaces) error { return nil }

var isDocument = isObject(true, map[string]check{
	"@context!": isAny, "type!": isText, "id": isURI, "schemaVersion!": matches(`^2\.[0-9]+(\.[0-9]+)*$`), "creationDate!": isTime,
	"instanceIdentifier": isText, "sender": isText, "receiver": isText,
	"epcisHeader": isObject(true, map[string]check{"epcisMasterData": isAny}),
	"epcisBody!":  isObject(false, map[string]check{"eventList!": list(isAny)}),
})

func newEvent(o map[string]any, ns namespaces, contexts []any) (*Event, error) {
	if own, ok := o["@context"]; ok {
		wider, entries, _, err := readContext(own, ns)
		if err != nil {
			return nil, fmt.Errorf("%w: event %w", ErrSyntax, err)
		}
		ns, contexts = wider, append(contexts[:len(contexts):len(contexts)], entries...)
	}
	if err := checkEvent(o, ns); err != nil {
		return nil, fmt.Errorf("%w: event %w", ErrSyntax, err)
	}
	text := func(name string) string { s, _ := o[name].(string); return s }
	id := func(name string) string {
		p, _ := o[name].(map[string]any)
		s, _ := p["id"].(string)
		return s
	}
	e := &Event{
		Type: text("type"), ID: text("eventID"), Action: text("action"),
		BizStep: BizStep(ns.expand(text("bizStep"))), Disposition: Disposition(ns.expand(text("disposition"))), ReadPoint: id("readPoint"), BizLocation: id("bizLocation"), members: o, ns: ns, contexts: contexts,
	}
	e.Time, _ = parseTime(o["eventTime"]) // checked above
	if p := text("parentID"); p != "" {
		e.EPCs = append(e.EPCs, p)
	}
	for _, name := range []string{"epcList", "childEPCs", "outputEPCList"} {
		e.EPCs = append(e.EPCs, texts(o[name])...)
	}
	e.Inputs = texts(o["inputEPCList"])
	for _, name := range []string{"quantityList", "childQuantityList", "inputQuantityList", "outputQuantityList"} {
		l, _ := o[name].([]any)
		for _, q := range l {
			c, _ := q.(map[string]any)["epcClass"].(string)
			e.Classes = append(e.Classes, c)
		}
	}
	if d, ok := o["errorDeclaration"].(map[string]any); ok {
		e.Error = &ErrorDeclaration{Corrective: texts(d["correctiveEventIDs"])}
		e.Error.Time, _ = parseTime(d["declarationTime"])
		e.Error.Reason, _ = d["reason"].(string)
	}
	return e, nil
}

// texts are those of a list that holds nothing else.
func texts(v any) []string {
	l, _ := v.([]any)
	out := make([]string, len(l))
	for i, e := range l {
		out[i], _ = e.(string)
	}
	return out
}

// JSON writes the event as it was read, with an id and the time at which it
// was recorded. What its extensions mean stands in a context of its own, so
// that it can stand beside events of other documents.
func (e *Event) JSON(id string, recorded time.Time) (json.RawMessage, error) {
	o := maps.Clone(e.members)
	o["eventID"], o["recordTime"] = id, recorded.UTC().Format(time.RFC3339Nano)
	delete(o, "@context")
	if len(e.contexts) > 0 {
		o["@context"] = e.contexts
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("epcis: %w", err)
	}
	return b, nil
}

// QueryDocument is the answer to a simple event query: events as JSON wrote
// them, in this order.
func QueryDocument(events []json.RawMessage, at time.Time) ([]byte, error) {
	if events == nil {
		events = []json.RawMessage{}
	}
	b, err := json.Marshal(map[string]any{
		"@context": []string{Context}, "type": "EPCISQueryDocument", "schemaVersion": "2.0", "creationDate": at.UTC().Format(time.RFC3339Nano),
		"epcisBody": map[string]any{"queryResults": map[string]any{"queryName": "SimpleEventQuery", "resultsBody": map[string]any{"eventList": events}}},
	})
	if err != nil {
		return nil, fmt.Errorf("epcis: %w", err)
	}
	return b, nil
}

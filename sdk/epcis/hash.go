package epcis

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot/entrepot/sdk/gs1"
)

// HashID is the event's hash id (CBV 2.0, section 8.9): equal for whoever
// writes the same event, in whatever order and spelling. Its id, its record
// time and what declares it an error are left out.
//
// Text and reference implementation of the standard differ in the order of the
// last members, and in where a type stands beside its value; the values that
// are published are the implementation's, so they are matched here.
func (e *Event) HashID() string {
	sum := sha256.Sum256([]byte(e.preHash()))
	return "ni:///sha-256;" + hex.EncodeToString(sum[:]) + "?ver=CBV2.0"
}

// writer makes the text that is hashed.
type writer struct{ ns namespaces }

// leaf is a member that holds values: how they are spelled.
type leaf func(w writer, v any) string

// member is one in the canonical order. item is what each element of a list is
// called, "-" where they have no name; empty where it is no list, or one of
// which each element bears the member's name. of are the members of objects.
type member struct {
	name, item string
	leaf       leaf
	of         []member
}

var (
	quantityMembers = []member{{name: "epcClass", leaf: value}, {name: "quantity", leaf: value}, {name: "uom", leaf: plain}}
	placeMembers    = []member{{name: "id", leaf: value}}
	setMembers      = []member{{name: "set", leaf: word(dispositionWords)}, {name: "unset", leaf: word(dispositionWords)}}

	metadataMembers = []member{
		{name: "time", leaf: moment}, {name: "startTime", leaf: moment}, {name: "endTime", leaf: moment}, {name: "deviceID", leaf: value},
		{name: "deviceMetadata", leaf: value}, {name: "rawData", leaf: value}, {name: "dataProcessingMethod", leaf: value}, {name: "bizRules", leaf: value},
	}
	reportMembers = []member{
		{name: "type", leaf: word(measurementWords)}, {name: "exception", leaf: word(alertWords)}, {name: "deviceID", leaf: value},
		{name: "deviceMetadata", leaf: value}, {name: "rawData", leaf: value}, {name: "dataProcessingMethod", leaf: value}, {name: "time", leaf: moment},
		{name: "microorganism", leaf: value}, {name: "chemicalSubstance", leaf: value}, {name: "value", leaf: value},
		{name: "component", leaf: word(componentWords)}, {name: "stringValue", leaf: value}, {name: "booleanValue", leaf: value},
		{name: "hexBinaryValue", leaf: plain}, {name: "uriValue", leaf: value}, {name: "minValue", leaf: value}, {name: "maxValue", leaf: value},
		{name: "meanValue", leaf: value}, {name: "sDev", leaf: value}, {name: "percRank", leaf: value}, {name: "percValue", leaf: value},
		{name: "uom", leaf: plain}, {name: "coordinateReferenceSystem", leaf: value},
	}
	sensorMembers = []member{{name: "sensorMetadata", of: metadataMembers}, {name: "sensorReport", of: reportMembers}}

	ordered = []member{
		{name: "eventTime", leaf: moment}, {name: "eventTimeZoneOffset", leaf: plain}, {name: "certificationInfo", leaf: value}, {name: "parentID", leaf: value},
		{name: "epcList", item: "epc", leaf: value}, {name: "inputEPCList", item: "epc", leaf: value}, {name: "childEPCs", item: "epc", leaf: value},
		{name: "quantityList", item: "quantityElement", of: quantityMembers}, {name: "childQuantityList", item: "quantityElement", of: quantityMembers},
		{name: "inputQuantityList", item: "quantityElement", of: quantityMembers}, {name: "outputEPCList", item: "epc", leaf: value},
		{name: "outputQuantityList", item: "quantityElement", of: quantityMembers}, {name: "action", leaf: plain}, {name: "transformationID", leaf: value},
		{name: "bizStep", leaf: word(bizStepWords)}, {name: "disposition", leaf: word(dispositionWords)}, {name: "persistentDisposition", of: setMembers},
		{name: "readPoint", of: placeMembers}, {name: "bizLocation", of: placeMembers}, {name: "sensorElementList", item: "sensorElement", of: sensorMembers},
		{name: "bizTransactionList", item: "-", of: []member{{name: "type", leaf: word(transactionWords)}, {name: "bizTransaction", leaf: value}}},
		{name: "destinationList", item: "-", of: []member{{name: "type", leaf: word(partyWords)}, {name: "destination", leaf: value}}},
		{name: "ilmd", of: []member{}},
		{name: "sourceList", item: "-", of: []member{{name: "type", leaf: word(partyWords)}, {name: "source", leaf: value}}},
	}
)

func (e *Event) preHash() string {
	w := writer{e.ns}
	o := make(map[string]any, len(e.members))
	for name, v := range e.members {
		switch name {
		case "type", "recordTime", "eventID", "errorDeclaration", "@context":
		default:
			o[name] = v
		}
	}
	return "eventType=" + e.Type + w.object(o, ordered)
}

// object writes the members of an object in order, then its extensions.
func (w writer) object(o map[string]any, order []member) string {
	var b strings.Builder
	known := make(map[string]bool, len(order))
	for _, m := range order {
		known[m.name] = true
		if v, ok := o[m.name]; ok {
			b.WriteString(w.member(m, v))
		}
	}
	rest := make(map[string]any)
	for name, v := range o {
		if !known[name] {
			rest[name] = v
		}
	}
	b.WriteString(w.extensions(rest))
	return b.String()
}

func (w writer) member(m member, v any) string {
	elements, isList := v.([]any)
	if !isList {
		elements = []any{v}
	}
	each := m.name
	switch m.item {
	case "":
	case "-":
		each = ""
	default:
		each = m.item
	}
	out := make([]string, 0, len(elements))
	for _, e := range elements {
		var s string
		if m.leaf != nil {
			s = "=" + m.leaf(w, e)
		} else if o, ok := e.(map[string]any); ok {
			s = w.object(o, m.of)
		}
		if s != "" {
			out = append(out, each+s)
		}
	}
	slices.Sort(out)
	text := strings.Join(out, "")
	if m.item == "" || text == "" {
		return text
	}
	return m.name + text
}

// extensions writes members of others' namespaces, in their own order.
func (w writer) extensions(o map[string]any) string {
	var out []string
	for short, v := range o {
		name, err := w.ns.name(short)
		if err != nil || name == "{"+predefined["rdfs"]+"}comment" {
			// Names were checked; comments are for people.
			continue
		}
		out = append(out, w.extension(name, v)...)
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

func (w writer) extension(name string, v any) []string {
	switch v := v.(type) {
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, w.extension(name, e)...)
		}
		return out
	case map[string]any:
		return []string{name + w.extensions(v)}
	}
	if s := value(w, v); s != "" {
		return []string{name + "=" + s}
	}
	return []string{name}
}

// plain is a text as it stands.
func plain(_ writer, v any) string { s, _ := v.(string); return strings.TrimSpace(s) }

// moment is a time in UTC to the millisecond, rounded.
func moment(_ writer, v any) string {
	t, _ := parseTime(v)
	return t.UTC().Add(500 * time.Microsecond).Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z")
}

func word(voc vocabulary) leaf {
	return func(w writer, v any) string { return voc.full(w.ns.expand(plain(w, v))) }
}

var numeral = regexp.MustCompile(`^[+-]?[0-9]{1,300}(\.[0-9]{1,300})?$`)

// value is a number without needless zeros, a GS1 key as its canonical link, a
// short URI in full, any other text as it stands. XML tells no numbers from
// texts that look like some, so neither does this.
func value(w writer, v any) string {
	switch v := v.(type) {
	case json.Number:
		return decimal(v.String())
	case bool:
		return strconv.FormatBool(v)
	case string:
		s := strings.TrimSpace(v)
		if numeral.MatchString(s) {
			return decimal(s)
		}
		return gs1.Normal(w.ns.expand(s))
	}
	return ""
}

// decimal writes a number exactly, without exponent and needless zeros.
func decimal(s string) string {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return s
	}
	if r.IsInt() {
		return r.Num().String()
	}
	// The denominator of a decimal divides a power of ten: it has an end.
	n, exact := r.FloatPrec()
	if !exact {
		return s
	}
	return r.FloatString(n)
}

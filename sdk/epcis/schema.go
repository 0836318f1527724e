package epcis

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// check tells what is wrong with a value; nil is nothing.
type check func(v any, ns namespaces) error

// field is a member of an event, and which types of events have it.
type field struct {
	of    string
	check check
}

// Types of events, and their letters in the table of fields.
const (
	ObjectEvent         = "ObjectEvent"
	AggregationEvent    = "AggregationEvent"
	TransactionEvent    = "TransactionEvent"
	TransformationEvent = "TransformationEvent"
	AssociationEvent    = "AssociationEvent"
)

var letters = map[string]string{ObjectEvent: "O", AggregationEvent: "A", TransactionEvent: "T", TransformationEvent: "X", AssociationEvent: "S"}

// fields of events (EPCIS 2.0, section 10, and its JSON schema).
var fields = map[string]field{
	"type": {"OATXS", isText}, "eventTime": {"OATXS", isTime}, "recordTime": {"OATXS", isTime},
	"eventTimeZoneOffset": {"OATXS", matches(`^[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00)$`)},
	"eventID":             {"OATXS", isURI}, "certificationInfo": {"OATXS", oneOrMore(isURI)}, "errorDeclaration": {"OATXS", isErrorDeclaration},
	"epcList": {"OT", set(isURI)}, "quantityList": {"OT", list(isQuantity)}, "parentID": {"ATS", isURI},
	"childEPCs": {"AS", list(isURI)}, "childQuantityList": {"AS", list(isQuantity)},
	"inputEPCList": {"X", set(isURI)}, "inputQuantityList": {"X", list(isQuantity)},
	"outputEPCList": {"X", set(isURI)}, "outputQuantityList": {"X", list(isQuantity)}, "transformationID": {"X", isURI},
	"action": {"OATS", matches(`^(ADD|OBSERVE|DELETE)$`)}, "bizStep": {"OATXS", isWord(bizStepWords)}, "disposition": {"OATXS", isWord(dispositionWords)},
	"persistentDisposition": {"OX", isPersistent}, "readPoint": {"OATXS", isPlace}, "bizLocation": {"OATXS", isPlace},
	"bizTransactionList": {"OATXS", list(isTransaction)}, "sourceList": {"OATXS", list(isSource)}, "destinationList": {"OATXS", list(isDestination)},
	"sensorElementList": {"OATXS", list(isSensorElement)}, "ilmd": {"OX", isExtended(nil)},
}

func isText(v any, _ namespaces) error {
	if s, ok := v.(string); !ok || s == "" {
		return fmt.Errorf("is no text")
	}
	return nil
}

func matches(pattern string) check {
	re := regexp.MustCompile(pattern)
	return func(v any, _ namespaces) error {
		if s, ok := v.(string); !ok || !re.MatchString(s) {
			return fmt.Errorf("does not look like %s", pattern)
		}
		return nil
	}
}

// isURI follows RFC 3986 as far as its characters; what the scheme means is
// not ours.
var isURI = matches("^[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\\[\\]_a-z~]{1,1000}$")

// parseTime reads a date with time and zone.
func parseTime(v any) (time.Time, error) {
	s, _ := v.(string)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || strings.Contains(s, ",") {
		return time.Time{}, fmt.Errorf("is no date with time and zone")
	}
	return t, nil
}

func isTime(v any, _ namespaces) error {
	_, err := parseTime(v)
	return err
}

func isNumber(v any, _ namespaces) error {
	if _, ok := v.(json.Number); !ok {
		return fmt.Errorf("is no number")
	}
	return nil
}

func isBool(v any, _ namespaces) error {
	if _, ok := v.(bool); !ok {
		return fmt.Errorf("is neither true nor false")
	}
	return nil
}

// foreign are the addresses under which no vocabulary of somebody else stands
// (the standard's schema, vocab-other-uri and vocab-nonGS1WebVoc-uri).
var foreign = regexp.MustCompile(`^(urn:epcglobal:cbv|https?://ns\.gs1\.org/cbv/|https?://(www\.)?gs1\.org/voc/)`)

// isWord is a word of a vocabulary, or a URI.
func isWord(voc vocabulary) check {
	return func(v any, ns namespaces) error {
		s, _ := v.(string)
		if !slices.Contains(voc.words, s) && (isURI(v, ns) != nil || foreign.MatchString(s)) {
			return fmt.Errorf("%.60q is no word of the CBV, and no URI of another vocabulary", s)
		}
		return nil
	}
}

func list(of check) check {
	return func(v any, ns namespaces) error {
		l, ok := v.([]any)
		if !ok {
			return fmt.Errorf("is no list")
		}
		for i, e := range l {
			if err := of(e, ns); err != nil {
				return fmt.Errorf("[%d] %w", i, err)
			}
		}
		return nil
	}
}

// set is a list of texts of which none stands twice.
func set(of check) check {
	return func(v any, ns namespaces) error {
		if err := list(of)(v, ns); err != nil {
			return err
		}
		seen := make(map[any]bool)
		for _, e := range v.([]any) {
			if seen[e] {
				return fmt.Errorf("holds %.60q twice", e)
			}
			seen[e] = true
		}
		return nil
	}
}

func oneOrMore(of check) check {
	return func(v any, ns namespaces) error {
		if _, ok := v.([]any); ok {
			return list(of)(v, ns)
		}
		return of(v, ns)
	}
}

// filled is a list with something on it.
func filled(of check) check {
	return func(v any, ns namespaces) error {
		if l, _ := v.([]any); len(l) == 0 {
			return fmt.Errorf("is no list with something on it")
		}
		return of(v, ns)
	}
}

// isObject is an object with these members and no other; a name that ends in
// "!" must be there. With open it may have extensions too.
func isObject(open bool, members map[string]check) check {
	required := make([]string, 0, len(members))
	known := make(map[string]check, len(members))
	for name, c := range members {
		if bare, ok := strings.CutSuffix(name, "!"); ok {
			required = append(required, bare)
			name = bare
		}
		known[name] = c
	}
	slices.Sort(required)
	return func(v any, ns namespaces) error {
		o, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("is no object")
		}
		for _, name := range required {
			if _, ok := o[name]; !ok {
				return fmt.Errorf("has no %s", name)
			}
		}
		for name, m := range o {
			c, ok := known[name]
			switch {
			case ok:
			case open:
				if _, err := ns.name(name); err != nil {
					return err
				}
				c = isExtension
			default:
				return fmt.Errorf("has a member %.60q that it does not take", name)
			}
			if err := c(m, ns); err != nil {
				return fmt.Errorf("%s %w", name, err)
			}
		}
		return nil
	}
}

// isExtended is an object of extensions alone, beside some members.
func isExtended(members map[string]check) check { return isObject(true, members) }

// isExtension is any value whose objects are made of extensions.
func isExtension(v any, ns namespaces) error {
	switch v := v.(type) {
	case []any:
		return list(isExtension)(v, ns)
	case map[string]any:
		return isExtended(nil)(v, ns)
	case nil:
		return fmt.Errorf("is null")
	}
	return nil
}

var (
	isPlace       = isObject(true, map[string]check{"id!": isURI})
	isQuantity    = isObject(false, map[string]check{"epcClass!": isURI, "quantity": isNumber, "uom": matches(`^[A-Z0-9]{2,3}$`)})
	isTransaction = isObject(false, map[string]check{"bizTransaction!": isURI, "type": isWord(transactionWords)})
	isSource      = isObject(false, map[string]check{"source!": isURI, "type!": isWord(partyWords)})
	isDestination = isObject(false, map[string]check{"destination!": isURI, "type!": isWord(partyWords)})

	isErrorDeclaration = isObject(true, map[string]check{"declarationTime!": isTime, "reason": isWord(reasonWords), "correctiveEventIDs": list(isURI)})

	isSensorElement = isObject(true, map[string]check{"sensorMetadata": isSensorMetadata, "sensorReport!": filled(list(isSensorReport))})

	isSensorMetadata = isObject(true, map[string]check{
		"time": isTime, "startTime": isTime, "endTime": isTime, "deviceID": isURI, "deviceMetadata": isURI, "rawData": isURI, "dataProcessingMethod": isURI,
		"bizRules": isURI,
	})

	isSensorReport = isObject(true, map[string]check{
		"type!": isWord(measurementWords), "exception": isWord(alertWords), "deviceID": isURI, "deviceMetadata": isURI, "rawData": isURI,
		"dataProcessingMethod": isURI, "bizRules": isURI, "time": isTime, "microorganism": isURI, "chemicalSubstance": isURI,
		"coordinateReferenceSystem": isURI, "value": isNumber, "component": isWord(componentWords), "stringValue": isText, "booleanValue": isBool,
		"hexBinaryValue": matches(`^[A-Fa-f0-9]+$`), "uriValue": isURI, "minValue": isNumber, "maxValue": isNumber, "meanValue": isNumber, "sDev": isNumber,
		"percRank": isNumber, "percValue": isNumber, "uom": isText,
	})
)

// isPersistent is what is set and unset for good.
func isPersistent(v any, ns namespaces) error {
	words := filled(set(isWord(dispositionWords)))
	if err := isObject(false, map[string]check{"set": words, "unset": words})(v, ns); err != nil {
		return err
	}
	if len(v.(map[string]any)) == 0 {
		return fmt.Errorf("sets and unsets nothing")
	}
	return nil
}

// checkEvent tells what is wrong with an event's members, one by one and
// together.
func checkEvent(o map[string]any, ns namespaces) error {
	kind, _ := o["type"].(string)
	letter, ok := letters[kind]
	if !ok {
		return fmt.Errorf("type %.60q is none of EPCIS 2.0", kind)
	}
	for name, v := range o {
		f, known := fields[name]
		c := f.check
		switch {
		case name == "@context":
			continue
		case known && !strings.Contains(f.of, letter):
			return fmt.Errorf("has a member %s, which is none of %ss", name, kind)
		case !known:
			if _, err := ns.name(name); err != nil {
				return err
			}
			c = isExtension
		}
		if err := c(v, ns); err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
	}
	for _, name := range []string{"eventTime", "eventTimeZoneOffset"} {
		if _, ok := o[name]; !ok {
			return fmt.Errorf("has no %s", name)
		}
	}
	return checkTogether(kind, o)
}

// checkTogether is what the standard wants of members by each other.
func checkTogether(kind string, o map[string]any) error {
	some := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { l, _ := o[name].([]any); return len(l) > 0 })
	}
	_, hasList := o["epcList"]
	_, hasPlace := o["readPoint"]
	_, hasParent := o["parentID"]
	_, hasID := o["transformationID"]
	_, hasMaster := o["ilmd"]
	action, _ := o["action"].(string)
	switch {
	case kind != TransformationEvent && action == "":
		return fmt.Errorf("has no action")
	case kind == ObjectEvent && !hasList && !some("quantityList") && !(some("sensorElementList") && hasPlace):
		return fmt.Errorf("names no objects")
	case kind == ObjectEvent && hasMaster && action != "ADD":
		return fmt.Errorf("has an ilmd, which only events that ADD have")
	case (kind == AggregationEvent || kind == AssociationEvent) && !some("childEPCs", "childQuantityList") && action != "DELETE":
		return fmt.Errorf("names no children")
	case kind == AggregationEvent && !hasParent && action != "OBSERVE", kind == AssociationEvent && !hasParent:
		return fmt.Errorf("has no parentID")
	case kind == TransactionEvent && !some("bizTransactionList"):
		return fmt.Errorf("names no business transaction")
	case kind == TransactionEvent && !hasList && !some("quantityList") && action != "DELETE":
		return fmt.Errorf("names no objects")
	case kind == TransformationEvent && !(some("inputEPCList", "inputQuantityList") && some("outputEPCList", "outputQuantityList")) &&
		!(hasID && some("inputEPCList", "inputQuantityList", "outputEPCList", "outputQuantityList")):
		return fmt.Errorf("names no inputs and outputs")
	}
	d, _ := o["errorDeclaration"].(map[string]any)
	if ids, _ := d["correctiveEventIDs"].([]any); len(ids) > 0 && d["reason"] == DidNotOccur {
		return fmt.Errorf("errorDeclaration names corrections of what did not occur")
	}
	return nil
}

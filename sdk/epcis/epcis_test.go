package epcis

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// document puts events into an EPCISDocument.
func document(events ...string) []byte {
	return []byte(`{"@context":["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld",{"example":"https://ns.example.com/epcis/","ext":"http://ext.example/"}],
 "type":"EPCISDocument","schemaVersion":"2.0","creationDate":"2022-02-17T11:30:47.0Z","epcisBody":{"eventList":[` + strings.Join(events, ",") + `]}}`)
}

func one(t require.TestingT, event string) *Event {
	l, err := ParseDocument(document(event))
	require.NoError(t, err)
	require.Len(t, l, 1)
	return l[0]
}

// The events that the standard's authors publish hashes of.
var published = map[string]string{
	`{"type":"ObjectEvent","eventTime":"2020-03-04T11:00:30.000+01:00","eventTimeZoneOffset":"+01:00","recordTime":"2020-03-04T11:00:30.999+01:00",
 "epcList":["urn:epc:id:sscc:4012345.0000000333","urn:epc:id:sscc:4012345.0000000111","urn:epc:id:sscc:4012345.0000000222"],"action":"OBSERVE",
 "bizStep":"departing","readPoint":{"id":"urn:epc:id:sgln:4012345.00011.987"},"example:myField1":{"example:mySubField1":"2","example:mySubField2":"5"},
 "example:myField2":"0","example:myField3":{"example:mySubField3":["3","1"]}}`: "6ae96341e0acc6d7a261364751f60e68278a81cdf51da0abb6b4e617014e39d7",

	`{"type":"ObjectEvent","eventTime":"2020-04-01T15:00:00+01:00","eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:4012345.011111.9876"],
 "action":"OBSERVE","bizStep":"inspecting","readPoint":{"id":"urn:epc:id:sgln:4012345.00005.0"},"sensorElementList":[{"sensorMetadata":{
 "deviceID":"urn:epc:id:giai:4000001.111","deviceMetadata":"https://id.gs1.org/8004/4000001111"},"sensorReport":[{"type":"Temperature","value":26,
 "sDev":0.1,"uom":"CEL"},{"type":"AbsoluteHumidity","value":12.1,"uom":"A93"},{"type":"Dimensionless",
 "microorganism":"https://www.ncbi.nlm.nih.gov/taxonomy/1126011","value":0.05,"uom":"C35"},{"type":"Dimensionless",
 "chemicalSubstance":"https://identifiers.org/inchikey:CZMRCDWAGMRECN-UGDNZRGBSA-N","value":0.18,"uom":"C35"}]}]}`: "49b13037c36e84ad9307c531671b00e901318c3957e4b1151f816ec49eb668da",

	`{"type":"ObjectEvent","eventTime":"2020-03-04T11:00:30+01:00","eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:0614141.011111.987"],
 "action":"OBSERVE","bizStep":"departing","disposition":"in_transit","readPoint":{"id":"urn:epc:id:sgln:4012345.00011.0","example:myField1":"AB-12"},
 "bizTransactionList":[{"type":"po","bizTransaction":"urn:epc:id:gdti:4012345.11111.123"}],"sourceList":[{"type":"owning_party",
 "source":"urn:epc:id:pgln:4012345.00000"}],"destinationList":[{"type":"owning_party","destination":"urn:epc:id:pgln:0614141.00000"}],
 "example:userExt":"CD-34"}`: "a13cbe6c8bb6df3710b3edaeff760a1365ec8fd69ca1f4d7e0c10eb5189a883a",

	`{"type":"ObjectEvent","eventTime":"2023-02-12T11:04:03.1415Z","eventTimeZoneOffset":"+01:00",
 "certificationInfo":"https://accreditation-council.example.org/certificate/ABC12345","epcList":["https://id.gs1.de/01/04012345999990/21/XYZ-1234"],
 "action":"OBSERVE","bizStep":"receiving","disposition":"in_progress","readPoint":{"id":"https://id.gs1.de/414/4012345000115"},"sensorElementList":[
 {"sensorMetadata":{"time":"2023-02-12T11:04:03.1007Z","bizRules":"https://id.example.com/253/4012345000054987"},"sensorReport":[{
 "type":"Dimensionless","exception":"ALARM_CONDITION","coordinateReferenceSystem":"http://www.opengis.net/def/crs/EPSG/0/27700"}]}]}`: "589e6268daac257cff0a64ae0f525abcc3ff90bc7832171270fd9260e9c481c8",

	`{"type":"ObjectEvent","eventTime":"2021-04-01T15:00:00+01:00","eventTimeZoneOffset":"+01:00","epcList":["urn:epc:id:sgtin:4012345.011111.2"],
 "action":"OBSERVE","bizStep":"inspecting","readPoint":{"id":"urn:epc:id:sgln:4012345.00005.0"},"persistentDisposition":{"unset":["recalled"]}}`: "4dbb5d87794987ec4a7c519cff1260d00163e78bf44144d09aee135294d39d10",

	`{"type":"ObjectEvent","eventTime":"2022-04-07T10:00:00.000Z","eventTimeZoneOffset":"+01:00","epcList":["https://id.example.com/8003/040123450007718765"],
 "action":"OBSERVE","bizStep":"sensor_reporting","readPoint":{"id":"https://id.example.com/414/4012345000054"},"sensorElementList":[{"sensorReport":[
 {"type":"gs1:Angle","value":42.698334,"component":"cbv:Comp-latitude","uom":"DD","coordinateReferenceSystem":"http://www.opengis.net/def/crs/OGC/1.3/CRS84"},
 {"type":"gs1:Angle","value":23.319941,"component":"cbv:Comp-longitude","uom":"DD",
 "coordinateReferenceSystem":"http://www.opengis.net/def/crs/OGC/1.3/CRS84"}]}]}`: "bb12b0e4a573819c15796579560efbe6bd5e337f5c8c5cdf81f983a39947f629",
}

func TestHashesAreThePublishedOnes(t *testing.T) {
	for event, want := range published {
		require.Equal(t, "ni:///sha-256;"+want+"?ver=CBV2.0", one(t, event).HashID(), event[:120])
	}
}

// many has most of what events have.
const many = `{"type":"ObjectEvent","eventTime":"2026-11-23T10:00:00.5+01:00","eventTimeZoneOffset":"+01:00","eventID":"urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8",
 "epcList":["https://shop.example/01/04012345111118/21/B","urn:epc:id:sgtin:4012345.011111.A"],"action":"ADD","bizStep":"commissioning","disposition":"active",
 "quantityList":[{"epcClass":"urn:epc:class:lgtin:4012345.012345.L1","quantity":200.50,"uom":"KGM"},{"epcClass":"urn:epc:idpat:sgtin:4012345.012345.*","quantity":3}],
 "readPoint":{"id":"https://shop.example/place/a"},"bizLocation":{"id":"https://shop.example/place/b"},
 "bizTransactionList":[{"bizTransaction":"urn:x:2"},{"type":"po","bizTransaction":"urn:x:1"}],
 "sourceList":[{"type":"possessing_party","source":"urn:x:a"}],"destinationList":[{"type":"location","destination":"urn:x:b"}],
 "ilmd":{"ext:lot":"007","example:made":["2026","2025"]},"ext:n":12.0,"ext:b":true,"rdfs:comment":"for people","https://long.example/ns#x":"y"}`

func TestAnEventSaysWhatItSays(t *testing.T) {
	e := one(t, many)
	require.Equal(t, ObjectEvent, e.Type)
	require.Equal(t, "urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8", e.ID)
	require.Equal(t, "2026-11-23T09:00:00.5Z", e.Time.UTC().Format(time.RFC3339Nano))
	require.Equal(t, []string{"ADD", "commissioning", "active", "https://shop.example/place/a", "https://shop.example/place/b"},
		[]string{e.Action, e.BizStep, e.Disposition, e.ReadPoint, e.BizLocation})
	require.Equal(t, []string{"https://shop.example/01/04012345111118/21/B", "urn:epc:id:sgtin:4012345.011111.A"}, e.EPCs)
	require.Equal(t, []string{"urn:epc:class:lgtin:4012345.012345.L1", "urn:epc:idpat:sgtin:4012345.012345.*"}, e.Classes)
	require.Nil(t, e.Error)

	x := one(t, `{"type":"TransformationEvent","eventTime":"2020-01-14T00:00:00Z","eventTimeZoneOffset":"+01:00","inputEPCList":["urn:a:1"],"outputEPCList":["urn:a:2"],
	 "bizStep":"https://ref.gs1.org/cbv/BizStep-commissioning","disposition":"cbv:Disp-active","errorDeclaration":{"declarationTime":"2020-01-15T00:00:00+01:00",
	 "reason":"incorrect_data","ext:why":"x","correctiveEventIDs":["urn:uuid:404d95fc-9457-4a51-bd6a-0bba133845a8"]}}`)
	require.Equal(t, []string{"urn:a:1", "urn:a:2", "commissioning", "active"}, []string{x.Inputs[0], x.EPCs[0], x.BizStep, x.Disposition})
	require.Equal(t, []string{"urn:uuid:404d95fc-9457-4a51-bd6a-0bba133845a8"}, x.Error.Corrective)
	require.Equal(t, "incorrect_data", x.Error.Reason)
	require.Equal(t, "returned", Disposition("urn:epcglobal:cbv:disp:returned"))
	require.Equal(t, "https://a.example/x", BizStep("https://a.example/x"))
	require.Equal(t, "https://ref.gs1.org/cbv/BizStep-nonsense", BizStep("https://ref.gs1.org/cbv/BizStep-nonsense"))
}

func TestAnEventIsTheSameInEverySpelling(t *testing.T) {
	want := one(t, many).HashID()
	for name, change := range map[string][2]string{
		"another id":        {"374d95fc", "00000000"},
		"another zone":      {"10:00:00.5+01:00", "09:00:00.5004Z"},
		"a link for an EPC": {"urn:epc:id:sgtin:4012345.011111.A", "https://id.gs1.org/01/04012345111118/22/V/10/L/21/A?17=280101"},
		"its URI":           {`"commissioning"`, `"cbv:BizStep-commissioning"`},
		"zeros":             {"200.50", "2.005e2"},
		"text for a number": {`"ext:n":12.0`, `"ext:n":"012"`},
		"a comment":         {"for people", "for others"},
		"a full name":       {`"ext:b"`, `"http://ext.example/b"`},
		"recorded":          {`"ext:n"`, `"recordTime":"2026-11-23T10:00:00Z","ext:n"`},
		"an error":          {`"ext:n"`, `"errorDeclaration":{"declarationTime":"2026-11-23T10:00:00Z","reason":"did_not_occur"},"ext:n"`},
	} {
		require.Contains(t, many, change[0])
		require.Equal(t, want, one(t, strings.Replace(many, change[0], change[1], 1)).HashID(), name)
	}
	for _, change := range [][2]string{
		{"10:00:00.5+", "10:00:00.6+"}, {`"+01:00"`, `"+02:00"`}, {"011111.A", "011111.C"}, {`"ADD"`, `"ADD","ext:x":1`}, {"200.50", "200.51"}, {"KGM", "GRM"},
		{`"active"`, `"encoded"`}, {"place/a", "place/c"}, {"place/b", "place/c"}, {"urn:x:2", "urn:x:3"}, {"urn:x:a", "urn:x:c"}, {"007", "008"}, {"true", "false"},
		{`"type":"po"`, `"type":"inv"`}, {"possessing", "owning"}, {`#x":"y"`, `#x":"z"`}, {`ns#x`, `ns2#x`},
	} {
		require.Contains(t, many, change[0])
		require.NotEqual(t, want, one(t, strings.Replace(many, change[0], change[1], 1)).HashID(), change[1])
	}
}

func TestOrderSaysNothing(t *testing.T) {
	want := one(t, many).HashID()
	var o map[string]any
	require.NoError(t, json.Unmarshal([]byte(many), &o))
	rapid.Check(t, func(t *rapid.T) {
		p := maps.Clone(o)
		for _, name := range []string{"epcList", "quantityList", "bizTransactionList"} {
			l := slices.Clone(p[name].([]any))
			p[name] = rapid.Permutation(l).Draw(t, name)
		}
		b, err := json.Marshal(p)
		require.NoError(t, err)
		require.Equal(t, want, one(t, string(b)).HashID())
	})
}

func TestAnEventIsWrittenAsItWasRead(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 1, 0, time.UTC)
	e := one(t, many)
	b, err := e.JSON("urn:uuid:1", at)
	require.NoError(t, err)
	var o map[string]any
	require.NoError(t, json.Unmarshal(b, &o))
	require.Equal(t, "urn:uuid:1", o["eventID"])
	require.Equal(t, "2026-11-23T09:00:01Z", o["recordTime"])
	require.Equal(t, "2026-11-23T10:00:00.5+01:00", o["eventTime"], "the text stays")

	// Among events of others, whose prefixes mean something else.
	others := strings.ReplaceAll(string(document("7")), "https://ns.example.com/epcis/", "https://other.example/")
	l, err := ParseDocument([]byte(strings.Replace(others, "[7]", "["+string(b)+"]", 1)))
	require.NoError(t, err)
	require.Equal(t, e.HashID(), l[0].HashID())

	doc, err := QueryDocument([]json.RawMessage{b}, at)
	require.NoError(t, err)
	require.Contains(t, string(doc), `"queryName":"SimpleEventQuery"`)
	require.True(t, json.Valid(doc))
	doc, err = QueryDocument(nil, at)
	require.NoError(t, err)
	require.Contains(t, string(doc), `"eventList":[]`)

	n, err := New(map[string]any{
		"type": "ObjectEvent", "eventTime": "2026-11-23T10:00:00Z", "eventTimeZoneOffset": "+00:00", "epcList": []any{"urn:a:1"}, "action": "OBSERVE",
	})
	require.NoError(t, err)
	b, err = n.JSON(n.HashID(), at)
	require.NoError(t, err)
	require.NotContains(t, string(b), "@context", "it has no extensions")
	_, err = New(map[string]any{"type": "ObjectEvent"})
	require.ErrorIs(t, err, ErrSyntax)
}

const (
	head   = `{"type":"%s","eventTime":"2026-11-23T10:00:00Z","eventTimeZoneOffset":"+00:00"`
	object = `,"epcList":["urn:a:1"],"action":"OBSERVE"`
)

func TestWhatIsNoEventIsRefused(t *testing.T) {
	for event, why := range map[string]string{
		`7`: "no object", `{}`: "none of EPCIS 2.0", `{"type":"urn:x:OtherEvent"}`: "none of EPCIS 2.0",
		`{"type":"ObjectEvent","eventTimeZoneOffset":"+00:00"` + object + `}`:                                                                                                 "has no eventTime",
		`{"type":"ObjectEvent","eventTime":"2026-11-23T10:00:00Z"` + object + `}`:                                                                                             "has no eventTimeZoneOffset",
		`{"type":"ObjectEvent","eventTime":"2026-11-23T10:00:00","eventTimeZoneOffset":"+00:00"` + object + `}`:                                                               "is no date",
		`{"type":"ObjectEvent","eventTime":"2026-11-23T10:00:00Z","eventTimeZoneOffset":"+15:00"` + object + `}`:                                                              "eventTimeZoneOffset",
		fmt.Sprintf(head, ObjectEvent) + `,"action":"OBSERVE"}`:                                                                                                               "names no objects",
		fmt.Sprintf(head, ObjectEvent) + `,"action":"OBSERVE","quantityList":[]}`:                                                                                             "names no objects",
		fmt.Sprintf(head, ObjectEvent) + `,"action":"OBSERVE","sensorElementList":[{"sensorReport":[{"type":"Count"}]}]}`:                                                     "names no objects",
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":["urn:a:1"]}`:                                                                                                            "has no action",
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":["urn:a:1"],"action":"READ"}`:                                                                                            "action",
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":["urn:a:1","urn:a:1"],"action":"ADD"}`:                                                                                   "twice",
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":["a b"],"action":"ADD"}`:                                                                                                 "epcList [0]",
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":"urn:a:1","action":"ADD"}`:                                                                                               "is no list",
		fmt.Sprintf(head, ObjectEvent) + object + `,"parentID":"urn:a:2"}`:                                                                                                    "none of ObjectEvents",
		fmt.Sprintf(head, ObjectEvent) + object + `,"ilmd":{"ext:a":1}}`:                                                                                                      "only events that ADD",
		fmt.Sprintf(head, ObjectEvent) + object + `,"colour":"red"}`:                                                                                                          "does not take",
		fmt.Sprintf(head, ObjectEvent) + object + `,"nobody:colour":"red"}`:                                                                                                   "no namespace",
		fmt.Sprintf(head, ObjectEvent) + object + `,"ext:a":null}`:                                                                                                            "is null",
		fmt.Sprintf(head, ObjectEvent) + object + `,"ext:a":{"b":1}}`:                                                                                                         "does not take",
		fmt.Sprintf(head, ObjectEvent) + object + `,"bizStep":"selling"}`:                                                                                                     "no word of the CBV",
		fmt.Sprintf(head, ObjectEvent) + object + `,"bizStep":"urn:epcglobal:cbv:bizstep:shipping"}`:                                                                          "no word of the CBV",
		fmt.Sprintf(head, ObjectEvent) + object + `,"disposition":7}`:                                                                                                         "no word of the CBV",
		fmt.Sprintf(head, ObjectEvent) + object + `,"persistentDisposition":{}}`:                                                                                              "sets and unsets nothing",
		fmt.Sprintf(head, ObjectEvent) + object + `,"persistentDisposition":{"set":[]}}`:                                                                                      "something on it",
		fmt.Sprintf(head, ObjectEvent) + object + `,"readPoint":"urn:a:2"}`:                                                                                                   "is no object",
		fmt.Sprintf(head, ObjectEvent) + object + `,"readPoint":{}}`:                                                                                                          "has no id",
		fmt.Sprintf(head, ObjectEvent) + object + `,"sourceList":[{"source":"urn:a:1"}]}`:                                                                                     "has no type",
		fmt.Sprintf(head, ObjectEvent) + object + `,"bizTransactionList":[{"type":"po"}]}`:                                                                                    "has no bizTransaction",
		fmt.Sprintf(head, ObjectEvent) + object + `,"quantityList":[{"epcClass":"urn:a:1","quantity":"7"}]}`:                                                                  "is no number",
		fmt.Sprintf(head, ObjectEvent) + object + `,"quantityList":[{"epcClass":"urn:a:1","ext:a":"7"}]}`:                                                                     "does not take",
		fmt.Sprintf(head, ObjectEvent) + object + `,"sensorElementList":[{"sensorReport":[]}]}`:                                                                               "something on it",
		fmt.Sprintf(head, ObjectEvent) + object + `,"sensorElementList":[{"sensorReport":[{"type":"Luck"}]}]}`:                                                                "no word of the CBV",
		fmt.Sprintf(head, ObjectEvent) + object + `,"certificationInfo":[7]}`:                                                                                                 "certificationInfo [0]",
		fmt.Sprintf(head, ObjectEvent) + object + `,"errorDeclaration":{"reason":"did_not_occur"}}`:                                                                           "has no declarationTime",
		fmt.Sprintf(head, AggregationEvent) + `,"action":"ADD","parentID":"urn:a:1"}`:                                                                                         "names no children",
		fmt.Sprintf(head, AggregationEvent) + `,"action":"ADD","childEPCs":["urn:a:1"]}`:                                                                                      "has no parentID",
		fmt.Sprintf(head, AssociationEvent) + `,"action":"OBSERVE","childEPCs":["urn:a:1"]}`:                                                                                  "has no parentID",
		fmt.Sprintf(head, AssociationEvent) + `,"action":"OBSERVE","parentID":"urn:a:1"}`:                                                                                     "names no children",
		fmt.Sprintf(head, TransactionEvent) + object + `}`:                                                                                                                    "no business transaction",
		fmt.Sprintf(head, TransactionEvent) + `,"action":"ADD","bizTransactionList":[{"bizTransaction":"urn:a:1"}]}`:                                                          "names no objects",
		fmt.Sprintf(head, TransformationEvent) + `,"inputEPCList":["urn:a:1"]}`:                                                                                               "no inputs and outputs",
		fmt.Sprintf(head, TransformationEvent) + `,"transformationID":"urn:a:1"}`:                                                                                             "no inputs and outputs",
		fmt.Sprintf(head, TransformationEvent) + `,"inputEPCList":["urn:a:1"],"outputEPCList":["urn:a:2"],"action":"ADD"}`:                                                    "none of TransformationEvents",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":{"bizStep":"urn:evil:"}}`:                                                                                      "redefines",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":{"gs1":"urn:evil:"}}`:                                                                                          "redefines",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":{"@vocab":"urn:evil:"}}`:                                                                                       "redefines",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":{"https":"urn:evil:"}}`:                                                                                        "for a prefix",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":{"x":{"@id":"urn:evil:"}}}`:                                                                                    "no namespace",
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":7}`:                                                                                                            "that is none",
		fmt.Sprintf(head, ObjectEvent) + object + `,"eventID":"urn:a:` + strings.Repeat("x", 1001) + `"}`:                                                                     "eventID",
		fmt.Sprintf(head, ObjectEvent) + object + `,"action":"ADD"}`:                                                                                                          "stands twice",
		fmt.Sprintf(head, ObjectEvent) + object + `,"ext:a":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}`:                                                       "nested",
		fmt.Sprintf(head, ObjectEvent) + object + `,"errorDeclaration":{"declarationTime":"2026-11-23T10:00:00Z","reason":"did_not_occur","correctiveEventIDs":["urn:a:9"]}}`: "did not occur",
	} {
		_, err := ParseDocument(document(event))
		require.ErrorIs(t, err, ErrSyntax, event)
		require.ErrorContains(t, err, why, event)
	}
	for doc, why := range map[string]string{
		``: "EOF", `[]`: "no JSON object",
		strings.Replace(string(document()), "EPCISDocument", "EPCISQueryDocument", 1):              "type is not",
		strings.Replace(string(document()), "https://ref.gs1.org/", "https://evil.org/", 1):        "does not name the context",
		strings.Replace(string(document()), `"2.0"`, `"1.2"`, 1):                                   "schemaVersion",
		strings.Replace(string(document()), `"creationDate"`, `"example:date"`, 1):                 "has no creationDate",
		strings.Replace(string(document()), `"eventList"`, `"event"`, 1):                           "epcisBody",
		strings.Replace(string(document()), `"type"`, `"foo":1,"type"`, 1):                         "does not take",
		string(document(slices.Repeat([]string{"{}"}, MaxEvents+1)...)):                            "more than",
		strings.Replace(string(document()), `"ext":`, `"`+strings.Repeat(" ", 10)+`":7,"ext":`, 1): "no namespace",
	} {
		_, err := ParseDocument([]byte(doc))
		require.ErrorIs(t, err, ErrSyntax, doc)
		require.ErrorContains(t, err, why, doc)
	}
}

func TestWhatTheSchemaTakesIsTaken(t *testing.T) {
	for _, event := range []string{
		fmt.Sprintf(head, ObjectEvent) + `,"epcList":[],"action":"OBSERVE"}`,
		fmt.Sprintf(head, ObjectEvent) + `,"action":"OBSERVE","readPoint":{"id":"geo:50.94,6.92"},"sensorElementList":[{"sensorReport":[{"type":"Count","value":1}],"ext:a":[1,{"ext:b":"c"}]}]}`,
		fmt.Sprintf(head, AggregationEvent) + `,"action":"DELETE","parentID":"urn:a:1"}`,
		fmt.Sprintf(head, AggregationEvent) + `,"action":"OBSERVE","childQuantityList":[{"epcClass":"urn:a:1"}]}`,
		fmt.Sprintf(head, AssociationEvent) + `,"action":"ADD","parentID":"urn:a:1","childEPCs":["urn:a:2"]}`,
		fmt.Sprintf(head, TransactionEvent) + `,"action":"DELETE","bizTransactionList":[{"bizTransaction":"urn:a:1"}]}`,
		fmt.Sprintf(head, TransformationEvent) + `,"transformationID":"urn:a:1","outputQuantityList":[{"epcClass":"urn:a:1"}]}`,
		fmt.Sprintf(head, ObjectEvent) + object + `,"@context":["https://ref.gs1.org/standards/epcis/2.0.1/epcis-context.jsonld",{"rail":"urn:gs1:epcisapp:rail:","rail:x":{"@type":"@id"}},"https://other.example/c.jsonld"],"rail:x":"urn:a:1"}`,
		fmt.Sprintf(head, ObjectEvent) + object + `,"bizStep":"http://epcis.example.com/user/vocab/bizstep/exampling","certificationInfo":["urn:a:1"]}`,
	} {
		require.NotEmpty(t, one(t, event).HashID())
	}
}

func FuzzDocument(f *testing.F) {
	f.Add(document(many))
	for e := range published {
		f.Add(document(e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseDocument(b)
		if err != nil {
			require.ErrorIs(t, err, ErrSyntax)
			return
		}
		for _, e := range l {
			raw, err := e.JSON("urn:x:y", time.Unix(0, 0))
			require.NoError(t, err)
			again, err := ParseDocument([]byte(`{"@context":["` + Context + `"],"type":"EPCISDocument","schemaVersion":"2.0","creationDate":"2022-02-17T11:30:47Z","epcisBody":{"eventList":[` + string(raw) + `]}}`))
			require.NoError(t, err)
			require.Equal(t, e.HashID(), again[0].HashID())
		}
	})
}

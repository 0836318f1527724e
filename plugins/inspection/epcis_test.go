package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/epcis"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const links = "http://127.0.0.1:8080"

// object is an event as a program of others writes it.
type object map[string]any

// observed is an event of goods that another warehouse sees, a little ahead of
// the clock here: newer than whatever the test has done.
func observed(epcs ...string) object {
	return object{
		"@context": object{"ext": "https://ext.example/"}, "type": "ObjectEvent", "eventTime": time.Now().Add(time.Minute).UTC().Format(time.RFC3339Nano), "eventTimeZoneOffset": "+00:00", "epcList": epcs,
		"action": "OBSERVE", "bizStep": "receiving", "disposition": "in_progress", "bizLocation": object{"id": links + "/place/warehouse/north"},
	}
}

// with is an event with other members; nil takes one away.
func (o object) with(members object) object {
	out := object{}
	for _, m := range []object{o, members} {
		for k, v := range m {
			if out[k] = v; v == nil {
				delete(out, k)
			}
		}
	}
	return out
}

// document puts events into an EPCISDocument.
func document(t require.TestingT, events ...any) *inspectionv1.CaptureEventsRequest {
	b, err := json.Marshal(object{
		"@context": []any{epcis.Context}, "type": "EPCISDocument", "schemaVersion": "2.0",
		"creationDate": "2026-11-23T00:00:00Z", "epcisBody": object{"eventList": events},
	})
	require.NoError(t, err)
	return &inspectionv1.CaptureEventsRequest{Document: b}
}

func (h *house) scanner() reading { return h.reads(plugintest.As(scanner, "GB")) }

func (h *house) capture(t *testing.T, events ...any) *inspectionv1.CaptureEventsResponse {
	t.Helper()
	for i, e := range events {
		if o, ok := e.(object); ok {
			events[i] = map[string]any(o)
		}
	}
	res, err := h.scanner().CaptureEvents(t.Context(), document(t, events...))
	require.NoError(t, err)
	return res
}

// found are the events of an answer, in its order.
func found(t *testing.T, document []byte) []map[string]any {
	t.Helper()
	var answer struct {
		Context []any  `json:"@context"`
		Type    string `json:"type"`
		Version string `json:"schemaVersion"`
		Body    struct {
			Results struct {
				Name string `json:"queryName"`
				Body struct {
					Events []map[string]any `json:"eventList"`
				} `json:"resultsBody"`
			} `json:"queryResults"`
		} `json:"epcisBody"`
	}
	require.NoError(t, json.Unmarshal(document, &answer))
	require.Equal(t, []any{epcis.Context}, answer.Context)
	require.Equal(t, []string{"EPCISQueryDocument", "2.0", "SimpleEventQuery"}, []string{answer.Type, answer.Version, answer.Body.Results.Name})
	return answer.Body.Results.Body.Events
}

func (h *house) query(t *testing.T, who reading, req *inspectionv1.QueryEventsRequest) []map[string]any {
	t.Helper()
	res, err := who.QueryEvents(t.Context(), req)
	require.NoError(t, err)
	return found(t, res.GetDocument())
}

func TestACapturedEventIsTakenOnceAndMovesTheUnit(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1")
	event := observed(u.GetDigitalLink())
	first := h.capture(t, event)
	require.EqualValues(t, 1, first.GetCaptured())
	require.Regexp(t, `^ni:///sha-256;[0-9a-f]{64}\?ver=CBV2.0$`, first.GetEventIds()[0])

	// The same event is one event, however it is spelled.
	at, err := time.Parse(time.RFC3339Nano, event["eventTime"].(string))
	require.NoError(t, err)
	for name, again := range map[string]object{
		"as it was":         event,
		"as a URN":          event.with(object{"epcList": []string{"urn:epc:id:sgtin:4006381.033393.W1"}}),
		"of another host":   event.with(object{"epcList": []string{"https://maker.example/x/01/" + gtin + "/21/W1"}}),
		"words as URIs":     event.with(object{"bizStep": "https://ref.gs1.org/cbv/BizStep-receiving", "disposition": "https://ref.gs1.org/cbv/Disp-in_progress"}),
		"in another zone":   event.with(object{"eventTime": at.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano)}),
		"recorded by other": event.with(object{"recordTime": "2026-11-23T00:00:00Z"}),
		"with its hash id":  event.with(object{"eventID": first.GetEventIds()[0]}),
	} {
		res := h.capture(t, again)
		require.Zero(t, res.GetCaptured(), name)
		require.Equal(t, first.GetEventIds(), res.GetEventIds(), name)
	}
	got, err := h.ann.GetUnit(t.Context(), &inspectionv1.GetUnitRequest{UnitId: u.GetUnitId()})
	require.NoError(t, err)
	require.Equal(t, "warehouse/north", got.GetUnit().GetHolder())
	require.Equal(t, "in_progress", got.GetUnit().GetDisposition())
	var told int
	for _, st := range got.GetHistory() {
		if st.GetEventId() == first.GetEventIds()[0] {
			told++
		}
	}
	require.Equal(t, 1, told)
}

func TestOfCapturesAtOnceOneIsTaken(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetDigitalLink()
	docs := []*inspectionv1.CaptureEventsRequest{document(t, observed(u)), document(t, observed("https://maker.example/01/09520123456788/21/X"))}
	for _, doc := range docs {
		var wg sync.WaitGroup
		answers, errs := make([]*inspectionv1.CaptureEventsResponse, 4), make([]error, 4)
		for i := range answers {
			wg.Go(func() { answers[i], errs[i] = h.scanner().CaptureEvents(t.Context(), doc) })
		}
		wg.Wait()
		var captured int32
		for i := range answers {
			require.NoError(t, errs[i])
			captured += answers[i].GetCaptured()
		}
		require.EqualValues(t, 1, captured)
		require.Len(t, h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{EqBizStep: []string{"receiving"}, EqBizLocation: []string{links + "/place/warehouse/north"}, EqEventId: answers[0].GetEventIds()}), 1)
	}
}

func TestWhatIsNoEventIsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1").GetDigitalLink()
	good := observed(u)
	before := len(h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{}))
	for name, x := range map[string]struct {
		event object
		want  string
	}{
		"no time":            {good.with(object{"eventTime": nil}), "event 2: no EPCIS 2.0: event has no eventTime"},
		"no zone":            {good.with(object{"eventTime": "2026-11-23T00:00:00"}), "event 2: no EPCIS 2.0: event eventTime"},
		"no action":          {good.with(object{"action": "LOOK"}), "event 2: no EPCIS 2.0: event action"},
		"no type":            {good.with(object{"type": "Event"}), "event 2: no EPCIS 2.0: event"},
		"no word of the CBV": {good.with(object{"bizStep": "arrival"}), "event 2: no EPCIS 2.0: event bizStep"},
		"something else":     {good.with(object{"epcLists": []string{u}}), "event 2: no EPCIS 2.0: event has a member \"epcLists\""},
		"the future":         {good.with(object{"eventTime": "2999-01-01T00:00:00Z"}), "event 2 has not happened yet"},
		"another's hash":     {good.with(object{"eventID": "ni:///sha-256;" + strings.Repeat("0", 64) + "?ver=CBV2.0"}), "event 2 has the hash id of another event; its own is ni:///sha-256;"},
	} {
		_, err := h.scanner().CaptureEvents(t.Context(), document(t, good.with(object{"ext:n": "1"}), x.event))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
		require.Contains(t, err.Error(), x.want, name)
	}
	for name, b := range map[string]string{"no JSON": "{", "two readings": `{"type":"EPCISDocument","type":"EPCISDocument"}`, "another document": `{"@context":[],"type":"x"}`} {
		_, err := h.scanner().CaptureEvents(t.Context(), &inspectionv1.CaptureEventsRequest{Document: []byte(b)})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	require.Len(t, h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{}), before, "all or none")
}

func TestTwoEventsOfOneIdAreNotTaken(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	event := observed("https://maker.example/01/09520123456788/21/X").with(object{"eventID": "urn:uuid:58172aac-d8ba-11ed-83dd-0b3aef56cc33"})
	h.capture(t, event)
	_, err := h.scanner().CaptureEvents(t.Context(), document(t, event.with(object{"action": "ADD"})))
	refused(t, connect.CodeAlreadyExists, "EVENT_DIFFERS", err)
}

// Who may do what stands in the contract, which the gateway enforces; a
// merchant reads its own goods' events alone.
func TestWhoMayCaptureAndWhoMayAsk(t *testing.T) {
	t.Parallel()
	service := inspectionv1.File_entrepot_inspection_v1_certificate_proto.Services().ByName("EpcisService").Methods()
	access := func(method string) *optionsv1.Access {
		for i := range service.Len() {
			if m := service.Get(i); string(m.Name()) == method {
				return proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
			}
		}
		return nil
	}
	require.Equal(t, []optionsv1.Audience{optionsv1.Audience_AUDIENCE_STAFF, optionsv1.Audience_AUDIENCE_PLUGIN}, access("CaptureEvents").GetAllow())
	require.Equal(t, "inspection.write", access("CaptureEvents").GetPermission())
	require.Equal(t, "inspection.read", access("QueryEvents").GetPermission())

	h := open(t, nil)
	h.shelve(t, "W1")
	require.NotEmpty(t, h.query(t, h.reads(plugintest.As(merchantOne, "GB")), &inspectionv1.QueryEventsRequest{}))
	require.Empty(t, h.query(t, h.reads(plugintest.As(merchantTwo, "GB")), &inspectionv1.QueryEventsRequest{}))
	_, err := h.reads(anybody).QueryEvents(t.Context(), &inspectionv1.QueryEventsRequest{})
	refused(t, connect.CodePermissionDenied, "NOT_A_MERCHANT", err)
}

func TestEventsAreFoundByWhatTheySay(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	one, two := h.shelve(t, "W1"), h.shelve(t, "W2")
	h.capture(t, observed(one.GetDigitalLink(), two.GetDigitalLink()).with(object{
		"eventTime": "2026-01-02T03:04:05Z", "bizStep": "picking", "disposition": "https://ref.gs1.org/cbv/Disp-reserved", "readPoint": object{"id": links + "/place/warehouse/east"},
	}), object{
		"type": "AggregationEvent", "eventTime": "2026-01-02T03:04:06Z", "eventTimeZoneOffset": "+00:00", "action": "ADD", "bizStep": "packing",
		"parentID": "urn:epc:id:sscc:4012345.0000000333", "childEPCs": []string{one.GetDigitalLink()},
	})
	at := func(s string) *timestamppb.Timestamp {
		m, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return timestamppb.New(m)
	}
	// What W1 lived through here, the two captured events being the oldest.
	all := []string{"picking", "packing", "commissioning", "receiving", "inspecting", "storing"}
	for name, x := range map[string]struct {
		req  *inspectionv1.QueryEventsRequest
		want []string
	}{
		"by its link":       {&inspectionv1.QueryEventsRequest{MatchEpc: []string{one.GetDigitalLink()}}, all},
		"by its URN":        {&inspectionv1.QueryEventsRequest{MatchEpc: []string{"urn:epc:id:sgtin:4006381.033393.W1"}}, all},
		"by another's link": {&inspectionv1.QueryEventsRequest{MatchEpc: []string{"https://maker.example/01/" + gtin + "/21/W1"}}, all},
		"by its parent":     {&inspectionv1.QueryEventsRequest{MatchEpc: []string{"https://id.gs1.org/00/040123450000003338"}}, []string{"packing"}},
		"by its product": {
			&inspectionv1.QueryEventsRequest{MatchEpc: []string{"https://id.gs1.org/01/" + gtin + "/*"}, EqBizStep: []string{"storing"}}, []string{"storing", "storing"},
		},
		"by its serial's start": {
			&inspectionv1.QueryEventsRequest{MatchEpc: []string{"https://id.gs1.org/01/" + gtin + "/21/*"}, EqBizStep: []string{"packing", "picking"}}, []string{"picking", "packing"},
		},
		"by a step":        {&inspectionv1.QueryEventsRequest{EqBizStep: []string{"picking"}}, []string{"picking"}},
		"by a step's URI":  {&inspectionv1.QueryEventsRequest{EqBizStep: []string{"https://ref.gs1.org/cbv/BizStep-picking"}}, []string{"picking"}},
		"by disposition":   {&inspectionv1.QueryEventsRequest{EqDisposition: []string{"reserved"}}, []string{"picking"}},
		"by read point":    {&inspectionv1.QueryEventsRequest{EqReadPoint: []string{links + "/place/warehouse/east"}}, []string{"picking"}},
		"by location":      {&inspectionv1.QueryEventsRequest{EqBizLocation: []string{links + "/place/warehouse/north"}}, []string{"picking"}},
		"by type":          {&inspectionv1.QueryEventsRequest{EventTypes: []string{"AggregationEvent"}}, []string{"packing"}},
		"from a time on":   {&inspectionv1.QueryEventsRequest{GeEventTime: at("2026-01-02T03:04:06Z"), LtEventTime: at("2026-02-01T00:00:00Z")}, []string{"packing"}},
		"before a time":    {&inspectionv1.QueryEventsRequest{LtEventTime: at("2026-01-02T03:04:06Z")}, []string{"picking"}},
		"of nothing":       {&inspectionv1.QueryEventsRequest{MatchEpc: []string{"https://id.gs1.org/01/" + gtin + "/21/W9"}}, nil},
		"by both, no such": {&inspectionv1.QueryEventsRequest{EqBizStep: []string{"picking"}, EqDisposition: []string{"damaged"}}, nil},
	} {
		var got []string
		for _, e := range h.query(t, h.scanner(), x.req) {
			got = append(got, e["bizStep"].(string))
		}
		require.Equal(t, x.want, got, name)
	}
}

func TestEventsArePagedOldestFirstEachOnce(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var events []any
	for i := range 7 {
		// Some at one moment.
		events = append(events, map[string]any(observed(fmt.Sprintf("https://maker.example/01/09520123456788/21/P%d", i)).with(object{
			"eventTime": fmt.Sprintf("2026-01-02T03:04:0%dZ", i/3),
		})))
	}
	want := h.capture(t, events...).GetEventIds()
	req := &inspectionv1.QueryEventsRequest{PageSize: 2}
	var got []string
	var times []string
	for pages := 1; ; pages++ {
		res, err := h.scanner().QueryEvents(t.Context(), req)
		require.NoError(t, err)
		page := found(t, res.GetDocument())
		require.LessOrEqual(t, len(page), 2)
		for _, e := range page {
			got, times = append(got, e["eventID"].(string)), append(times, e["eventTime"].(string))
		}
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			require.Equal(t, 4, pages)
			break
		}
	}
	require.Equal(t, want, got)
	require.IsIncreasing(t, append(times[:1:1], times[3], times[6]))
	for _, token := range []string{"x", "e30"} {
		_, err := h.scanner().QueryEvents(t.Context(), &inspectionv1.QueryEventsRequest{PageToken: token})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), token)
	}
}

// What is answered is EPCIS in the words of the CBV: another house takes it as
// it stands, and this one knows it again by its hash.
func TestWhatIsAnsweredIsTakenByAnybody(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	u := h.shelve(t, "W1")
	h.sell(t, "ful_1", u.GetUnitId())
	h.capture(t, observed("https://maker.example/01/09520123456788/21/X").with(object{"ext:oven": object{"ext:shelf": "3"}}))
	answered := h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{})
	require.Len(t, answered, 7)
	var again []any
	for _, e := range answered {
		require.NotEmpty(t, e["recordTime"])
		require.True(t, epcis.IsBizStep(e["bizStep"].(string)) && epcis.IsDisposition(e["disposition"].(string)), "%v", e)
		again = append(again, e)
	}
	events, err := epcis.ParseDocument(document(t, again...).GetDocument())
	require.NoError(t, err)
	for i, e := range events {
		require.Equal(t, answered[i]["eventID"], e.HashID(), "its name is its content")
	}
	require.Zero(t, h.capture(t, again...).GetCaptured())
	other := open(t, nil)
	require.EqualValues(t, 7, other.capture(t, again...).GetCaptured())
	for i, e := range other.query(t, other.scanner(), &inspectionv1.QueryEventsRequest{}) {
		delete(e, "recordTime")
		delete(answered[i], "recordTime")
		require.Equal(t, answered[i], e)
	}
}

func TestWhatAnEventCannotDo(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	ask := func(e object) error {
		_, err := h.scanner().CaptureEvents(t.Context(), document(t, e))
		return err
	}
	// A good under inspection stays there.
	held := h.consign(t, "W1").GetUnits()[0]
	refused(t, connect.CodeFailedPrecondition, "UNDER_INSPECTION", ask(observed(held.GetDigitalLink())))
	// Nothing is sold or destroyed by an event.
	u := h.shelve(t, "W2")
	for _, disposition := range []string{"retail_sold", "destroyed"} {
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(ask(observed(u.GetDigitalLink()).with(object{"disposition": disposition}))), disposition)
	}
	// What happened before the last that is known is history.
	h.capture(t, observed(u.GetDigitalLink()).with(object{"eventTime": "2026-01-02T03:04:05Z"}))
	require.Equal(t, u.GetHolder(), h.getUnit(t, u.GetUnitId()).GetHolder())
	// An event that nobody captured is no error; one of ours is put right by us.
	e := observed(u.GetDigitalLink())
	wrong := object{"errorDeclaration": object{"declarationTime": "2026-11-23T00:00:00Z", "reason": "did_not_occur"}}
	refused(t, connect.CodeFailedPrecondition, "EVENT_UNKNOWN", ask(e.with(wrong)))
	own := h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{MatchEpc: []string{u.GetDigitalLink()}, EqBizStep: []string{"storing"}})[0]
	delete(own, "recordTime")
	refused(t, connect.CodeFailedPrecondition, "EVENT_OWN", ask(object(own).with(wrong)))
	// One that was captured is taken back, once.
	h.capture(t, e)
	require.Equal(t, "warehouse/north", h.getUnit(t, u.GetUnitId()).GetHolder())
	for _, n := range []int32{1, 0} {
		require.Equal(t, n, h.capture(t, e.with(wrong)).GetCaptured())
		require.Equal(t, u.GetHolder(), h.getUnit(t, u.GetUnitId()).GetHolder())
		require.Equal(t, u.GetDisposition(), h.getUnit(t, u.GetUnitId()).GetDisposition())
	}
	for _, sql := range []string{`DELETE FROM epcis_event`, `UPDATE epcis_event SET body = '{}'`, `DELETE FROM epcis_epc`} {
		_, err := h.DB.Do(t.Context(), sql)
		require.Error(t, err, sql)
	}
}

// A destroyed serial that is seen again raises an alert, whoever sees it: the
// other ways are in TestASerialThatIsSeenWhereItCannotBeIsRaised.
func TestAnEventOfADestroyedOrSoldSerialRaisesAnAlert(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for reason, end := range map[string]func(u string){
		"DESTROYED": func(u string) { h.destroyCase(t, h.doubt(t, u, counterfeit)) },
		"SOLD":      func(u string) { h.sell(t, "ful_1", u) },
	} {
		u := h.shelve(t, reason)
		end(u.GetUnitId())
		was := h.getUnit(t, u.GetUnitId())
		before, raised := len(h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{})), len(of[*inspectionv1.CloneSuspected](t, h))
		event := observed("urn:epc:id:sgtin:4006381.033393." + reason)
		for range 2 {
			_, err := h.scanner().CaptureEvents(t.Context(), document(t, event))
			refused(t, connect.CodeFailedPrecondition, "CLONE_SUSPECTED", err)
		}
		alerts := of[*inspectionv1.CloneSuspected](t, h)[raised:]
		require.Len(t, alerts, 1, "told twice it is one sighting")
		require.Equal(t, reason, alerts[0].GetReason())
		require.Equal(t, reason, alerts[0].GetSerial())
		now := h.getUnit(t, u.GetUnitId())
		require.Equal(t, was.GetHolder(), now.GetHolder())
		require.Equal(t, was.GetDisposition(), now.GetDisposition())
		require.True(t, h.revoked(t, h.certificate(t, u.GetUnitId()).GetCredential()))
		require.Len(t, h.query(t, h.scanner(), &inspectionv1.QueryEventsRequest{}), before)
		cases, err := h.ann.ListCases(t.Context(), &inspectionv1.ListCasesRequest{Reference: alerts[0].GetReference()})
		require.NoError(t, err)
		require.Len(t, cases.GetCases(), 1)
		require.Equal(t, inspectionv1.Case_ORIGIN_SIGHTING, cases.GetCases()[0].GetOrigin())
	}
}

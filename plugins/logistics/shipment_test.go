package main

import (
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/customs"
	"github.com/entrepot/entrepot/sdk/id"
)

func (d *desk) quote(t testing.TB, rule *logisticsv1.Rule) *logisticsv1.QuoteShipmentResponse {
	t.Helper()
	w := way()
	res, err := logisticsv1connect.NewQuoteServiceClient(d.as(staff)).QuoteShipment(t.Context(), &logisticsv1.QuoteShipmentRequest{
		Leg: w.GetLeg(), From: w.GetFrom(), To: w.GetTo(), Parcels: w.GetParcels(), Rule: rule,
	})
	require.NoError(t, err)
	return res
}

// Five carriers are asked in one round; those that fail, lie or are late cost
// nobody else's quote.
func TestAQuoteAsksEveryCarrierOnce(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b", "c", "d", "e")
	d.fleet.does("a", "late")
	d.fleet.does("b", "lying")
	d.fleet.does("c", "failed")
	res := d.quote(t, nil)
	require.Equal(t, 5, d.fleet.quotes)
	require.Equal(t, []string{"d", "e"}, []string{res.GetRates()[0].GetInstance(), res.GetRates()[1].GetInstance()}, "the cheapest first")
	reasons := map[string]string{}
	for _, w := range res.GetWithout() {
		reasons[w.GetInstance()] = w.GetReason()
	}
	require.Equal(t, map[string]string{"a": "LATE", "b": "FAILED", "c": "FAILED"}, reasons)

	require.Equal(t, "e", d.quote(t, &logisticsv1.Rule{Prefer: logisticsv1.Rule_PREFER_FASTEST}).GetRates()[0].GetInstance())
	require.Len(t, d.quote(t, &logisticsv1.Rule{Instance: "d"}).GetRates(), 1)
	require.Empty(t, d.quote(t, &logisticsv1.Rule{Capabilities: []string{"rocket"}}).GetRates())
	d.fleet.does("d", "foreign")
	require.Equal(t, "e", d.quote(t, nil).GetRates()[0].GetInstance(), "prices in another currency come after")
}

func TestACarrierThatFailsAgainAndAgainIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b")
	d.fleet.does("a", "failed")
	for range tripAfter {
		require.Equal(t, "FAILED", d.quote(t, nil).GetWithout()[0].GetReason())
	}
	require.Equal(t, "NOT_READY", d.quote(t, nil).GetWithout()[0].GetReason())
}

func TestABookingIsLabelledAndTold(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b")
	req := way()
	one := d.book(t, req)
	require.Equal(t, logisticsv1.Status_STATUS_BOOKED, one.GetStatus())
	require.Equal(t, "a", one.GetInstance())
	require.NotEmpty(t, one.GetParcels()[0].GetTrackingNumber())
	require.Equal(t, []string{"label-pdf"}, one.GetDocuments())
	doc, err := d.shipments(staff).GetDocument(t.Context(), &logisticsv1.GetDocumentRequest{ShipmentId: one.GetShipmentId(), Document: "label-pdf"})
	require.NoError(t, err)
	_, content, ok := d.Download(doc.GetPath())
	require.True(t, ok)
	require.Contains(t, string(content), "The inspection/main", "the address is revealed for the label")
	require.Equal(t, one.GetShipmentId(), d.Published(t)[0].(*logisticsv1.ShipmentBooked).GetShipmentId())
	var rows string
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT string_agg(encode(request, 'escape'), '') || (SELECT string_agg(p::text, '') FROM p_logistics.place p) FROM p_logistics.shipment`).Scan(&rows))
	require.NotContains(t, rows, "Quay", "no address stands in the module's tables")
	_, err = d.shipments(other).GetShipment(t.Context(), &logisticsv1.GetShipmentRequest{ShipmentId: one.GetShipmentId()})
	refused(t, connect.CodeNotFound, "SHIPMENT_UNKNOWN", err)
	changed := way()
	changed.ShipmentId, changed.Reference = req.GetShipmentId(), "csg_2"
	require.Equal(t, one.GetReference(), d.book(t, changed).GetReference(), "what is booked is booked")
}

func TestTenWhoBookAtOnceBookOnce(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b")
	req := way()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			res, err := d.shipments(staff).BookShipment(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, "ref_"+req.GetShipmentId(), res.GetShipment().GetCarrierReference())
		})
	}
	wg.Wait()
	require.Len(t, d.fleet.bookings, 1, "one key, one carrier")
	booked := 0
	for _, e := range d.Published(t) {
		if _, ok := e.(*logisticsv1.ShipmentBooked); ok {
			booked++
		}
	}
	require.Equal(t, 1, booked)
}

// Whoever may have booked is asked again by the same key; nobody else is, even
// when another would be cheaper by now.
func TestAnUnknownOutcomeIsSettledWithTheSameCarrier(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"timeout-before", "timeout-after", "other-key"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := open(t, "a", "b")
			d.fleet.does("a", how)
			req := way()
			_, err := d.shipments(staff).BookShipment(t.Context(), req)
			refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
			d.fleet.mu.Lock()
			d.fleet.price["b"] = 1
			d.fleet.mu.Unlock()
			_, err = d.shipments(staff).BookShipment(t.Context(), req)
			refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
			d.fleet.does("a", "")
			one := d.book(t, req)
			require.Equal(t, "a", one.GetInstance())
			require.NotEmpty(t, one.GetDocuments(), "its label is drawn again")
			require.Len(t, d.fleet.bookings, 1)
		})
	}
}

func TestABookingThatNobodyAsksForAnyMoreIsSettled(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	d.fleet.does("a", "timeout-after")
	req := way()
	_, err := d.shipments(staff).BookShipment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	// The module's own janitor, without its pause.
	_, err = d.DB.ExecContext(t.Context(), `UPDATE shipment SET sent_at = now() - interval '1 hour', tries = 5`)
	require.NoError(t, err)
	d.fleet.does("a", "")
	require.Eventually(t, func() bool { return d.get(t, req.GetShipmentId()).GetStatus() == logisticsv1.Status_STATUS_BOOKED }, 30*time.Second, 50*time.Millisecond)
}

func TestARefusedBookingStaysRefused(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b")
	d.fleet.does("a", "refuse")
	req := way()
	for range 2 {
		_, err := d.shipments(staff).BookShipment(t.Context(), req)
		refused(t, connect.CodeFailedPrecondition, "BOOKING_REFUSED", err)
	}
	require.Equal(t, 1, d.fleet.booked[req.GetShipmentId()])
	require.Equal(t, logisticsv1.Status_STATUS_REFUSED, d.get(t, req.GetShipmentId()).GetStatus())
}

func TestWhatCrossesABorderIsDeclared(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	for field, spoil := range map[string]func(*logisticsv1.BookShipmentRequest){
		"customs": func(r *logisticsv1.BookShipmentRequest) { r.Customs = nil },
		"items":   func(r *logisticsv1.BookShipmentRequest) { r.Parcels[0].Items = nil },
		"value":   func(r *logisticsv1.BookShipmentRequest) { r.Parcels[0].Items[0].Value = nil },
		"words":   func(r *logisticsv1.BookShipmentRequest) { r.Parcels[0].Items[0].Description = "" },
	} {
		req := way()
		spoil(req)
		_, err := d.shipments(staff).BookShipment(t.Context(), req)
		refused(t, connect.CodeFailedPrecondition, "DECLARATION_MISSING", err)
		req.To = &logisticsv1.Party{PlaceId: "inspection/home"}
		require.NotNil(t, d.book(t, req), "%s: at home nothing is declared", field)
	}
	s := &service{union: customs.EuropeanUnion}
	require.False(t, s.border("DE", "FR"))
	require.True(t, s.border("GB", "DE"))
	require.False(t, s.border("JP", "JP"))
}

func TestACancelledShipmentIsCalledOff(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	cancel := func(p call.Principal, shipment string) error {
		_, err := d.shipments(p).CancelShipment(t.Context(), &logisticsv1.CancelShipmentRequest{ShipmentId: shipment})
		return err
	}
	one := d.book(t, way())
	refused(t, connect.CodeNotFound, "SHIPMENT_UNKNOWN", cancel(other, one.GetShipmentId()))
	for range 2 {
		require.NoError(t, cancel(member, one.GetShipmentId()))
	}
	require.Equal(t, 1, d.fleet.cancels[one.GetCarrierReference()])
	require.Equal(t, logisticsv1.Status_STATUS_CANCELLED, d.get(t, one.GetShipmentId()).GetStatus())

	never := way()
	require.NoError(t, cancel(staff, never.GetShipmentId()), "one that never was leaves a tombstone")
	_, err := d.shipments(staff).BookShipment(t.Context(), never)
	refused(t, connect.CodeFailedPrecondition, "SHIPMENT_CANCELLED", err)

	lost := way()
	d.fleet.does("a", "timeout-after")
	_, err = d.shipments(staff).BookShipment(t.Context(), lost)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	require.NoError(t, cancel(staff, lost.GetShipmentId()), "the carrier is asked, and called off")
	require.Equal(t, 1, d.fleet.cancels["ref_"+lost.GetShipmentId()])
	d.fleet.does("a", "timeout-before")
	silent := way()
	_, err = d.shipments(staff).BookShipment(t.Context(), silent)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", cancel(staff, silent.GetShipmentId()))
	_, err = d.DB.ExecContext(t.Context(), `UPDATE shipment SET sent_at = now() - interval '1 hour' WHERE id = ?`, silent.GetShipmentId())
	require.NoError(t, err)
	require.NoError(t, cancel(staff, silent.GetShipmentId()), "what was never seen until now never will be")
}

func TestAManifestTakesEachShipmentOnce(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	one, two := d.book(t, way()), d.book(t, way())
	manifest := func(p call.Principal, name string, shipments ...string) (*logisticsv1.Manifest, error) {
		res, err := d.shipments(p).CreateManifest(t.Context(), &logisticsv1.CreateManifestRequest{
			ManifestId: name, Instance: "a", PlaceId: "merchant/mrc_one", ShipmentIds: shipments,
		})
		return res.GetManifest(), err
	}
	_, err := manifest(other, "m0")
	refused(t, connect.CodePermissionDenied, "NOT_YOUR_PLACE", err)
	for range 2 {
		m, err := manifest(member, "m1", one.GetShipmentId())
		require.NoError(t, err)
		require.Equal(t, []string{one.GetShipmentId()}, m.GetShipmentIds())
		require.Equal(t, "m_manifest/m1", m.GetCarrierReference())
	}
	_, err = manifest(member, "m2", one.GetShipmentId(), two.GetShipmentId())
	refused(t, connect.CodeFailedPrecondition, "SHIPMENT_NOT_READY", err)
	m, err := manifest(member, "m3")
	require.NoError(t, err)
	require.Equal(t, []string{two.GetShipmentId()}, m.GetShipmentIds(), "what is left at the door")
	_, err = manifest(member, "m4")
	refused(t, connect.CodeFailedPrecondition, "NOTHING_TO_HAND_OVER", err)
	_, err = d.shipments(member).CancelShipment(t.Context(), &logisticsv1.CancelShipmentRequest{ShipmentId: one.GetShipmentId()})
	refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
	res, err := d.shipments(member).SchedulePickup(t.Context(), &logisticsv1.SchedulePickupRequest{
		PickupId: "p1", ManifestId: "m1", From: timestamppb.New(time.Now()), Until: timestamppb.New(time.Now().Add(time.Hour)),
	})
	require.NoError(t, err)
	require.Equal(t, "p_pickup/p1", res.GetCarrierReference())
}

// In whatever order facts come, and however often, a shipment is as far as they
// say by the time they happened.
func TestAStatusFollowsFromTheSetOfFacts(t *testing.T) {
	t.Parallel()
	all := []logisticsv1.Status{
		logisticsv1.Status_STATUS_UNSPECIFIED, logisticsv1.Status_STATUS_IN_TRANSIT, logisticsv1.Status_STATUS_ON_HOLD, logisticsv1.Status_STATUS_OUT_FOR_DELIVERY,
		logisticsv1.Status_STATUS_DELIVERY_FAILED, logisticsv1.Status_STATUS_DELIVERED, logisticsv1.Status_STATUS_RETURN_TO_SENDER, logisticsv1.Status_STATUS_RETURNED,
		logisticsv1.Status_STATUS_LOST,
	}
	booked := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		var facts []fact
		for i := range rapid.IntRange(0, 12).Draw(t, "facts") {
			facts = append(facts, fact{
				id: string(rune('a' + i)), tracking: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "parcel"), status: rapid.SampledFrom(all).Draw(t, "status"),
				at: booked.Add(time.Duration(rapid.IntRange(-40, 40).Draw(t, "hour")) * time.Hour), heard: booked.Add(time.Hour),
			})
		}
		parcels := []string{"1", "2"}
		want, at, _ := derive(parcels, facts, booked)
		again := append(append([]fact{}, rapid.Permutation(facts).Draw(t, "order")...), facts...)
		got, when, _ := derive(parcels, again, booked)
		require.Equal(t, want, got)
		require.True(t, at.Equal(when))
		// Delivered stays, but for a way back.
		later := append(append([]fact{}, facts...), fact{id: "z", tracking: "1", status: logisticsv1.Status_STATUS_IN_TRANSIT, at: booked.Add(20 * time.Hour), heard: booked.Add(20 * time.Hour)})
		if want == logisticsv1.Status_STATUS_DELIVERED {
			got, _, _ = derive(parcels, later, booked)
			require.Equal(t, want, got)
		}
	})
	for name, c := range map[string]struct {
		facts []fact
		want  logisticsv1.Status
	}{
		"nothing":                 {nil, logisticsv1.Status_STATUS_BOOKED},
		"one of two is delivered": {[]fact{{tracking: "1", status: logisticsv1.Status_STATUS_DELIVERED, at: booked, heard: booked}}, logisticsv1.Status_STATUS_BOOKED},
		"long before the booking": {[]fact{{tracking: "1", status: logisticsv1.Status_STATUS_DELIVERED, at: booked.Add(-48 * time.Hour), heard: booked}}, logisticsv1.Status_STATUS_BOOKED},
		"from the future":         {[]fact{{tracking: "1", status: logisticsv1.Status_STATUS_DELIVERED, at: booked.Add(48 * time.Hour), heard: booked}}, logisticsv1.Status_STATUS_BOOKED},
	} {
		got, _, _ := derive([]string{"1", "2"}, c.facts, booked)
		require.Equal(t, c.want, got, name)
	}
}

func (d *desk) tell(t testing.TB, one *logisticsv1.Shipment, facts ...*providerv1.Fact) {
	t.Helper()
	require.NoError(t, d.Deliver(t.Context(), "carriers", &providerv1.TrackingUpdated{Instance: one.GetInstance(), Reference: one.GetCarrierReference(), Facts: facts}))
}

func TestCarriersTellTwiceAndLate(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	one := d.book(t, way())
	number, now := one.GetParcels()[0].GetTrackingNumber(), time.Now()
	taken := said("1", providerv1.Status_STATUS_HANDED_OVER, number, now)
	absent := said("2", providerv1.Status_STATUS_DELIVERY_FAILED, number, now.Add(time.Hour))
	done := said("3", providerv1.Status_STATUS_DELIVERED, number, now.Add(3*time.Hour))
	out := said("", providerv1.Status_STATUS_OUT_FOR_DELIVERY, number, now.Add(2*time.Hour))
	d.tell(t, one, taken)
	d.tell(t, one, absent, absent)
	d.tell(t, one, done, taken)
	d.tell(t, one, out, out)
	d.tell(t, &logisticsv1.Shipment{Instance: "b", CarrierReference: one.GetCarrierReference()}, said("9", providerv1.Status_STATUS_LOST, number, now.Add(5*time.Hour)))
	var moved []logisticsv1.Status
	for _, e := range d.Published(t) {
		if e, ok := e.(*logisticsv1.ShipmentMoved); ok {
			moved = append(moved, e.GetStatus())
		}
	}
	require.Equal(t, []logisticsv1.Status{logisticsv1.Status_STATUS_IN_TRANSIT, logisticsv1.Status_STATUS_DELIVERY_FAILED, logisticsv1.Status_STATUS_DELIVERED}, moved)
	tracking := logisticsv1connect.NewTrackingServiceClient(d.as(call.Principal{}))
	res, err := tracking.GetTracking(t.Context(), &logisticsv1.GetTrackingRequest{TrackingNumber: number})
	require.NoError(t, err)
	require.Len(t, res.GetTracking().GetFacts(), 4, "each once")
	require.Equal(t, logisticsv1.Status_STATUS_DELIVERED, res.GetTracking().GetStatus())
	for _, req := range []*logisticsv1.GetTrackingRequest{{TrackingNumber: "nobody's"}, {ShipmentId: one.GetShipmentId()}, {}} {
		_, err = tracking.GetTracking(t.Context(), req)
		refused(t, connect.CodeNotFound, "SHIPMENT_UNKNOWN", err)
	}
	stream, err := tracking.WatchTracking(t.Context(), &logisticsv1.WatchTrackingRequest{TrackingNumber: number})
	require.NoError(t, err)
	seen := 0
	for msg, err := stream.Receive(); err == nil; msg, err = stream.Receive() {
		seen++
		require.Equal(t, logisticsv1.Status_STATUS_DELIVERED, msg.GetTracking().GetStatus())
	}
	require.Equal(t, 1, seen, "it has ended")

	tasks := logisticsv1connect.NewTaskServiceClient(d.as(member))
	list, err := tasks.ListTasks(t.Context(), &logisticsv1.ListTasksRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetTasks(), 1)
	require.Equal(t, "DELIVERY_FAILED", list.GetTasks()[0].GetKind())
	_, err = logisticsv1connect.NewTaskServiceClient(d.as(other)).ResolveTask(t.Context(), &logisticsv1.ResolveTaskRequest{TaskId: list.GetTasks()[0].GetTaskId(), Note: "mine"})
	refused(t, connect.CodeNotFound, "TASK_UNKNOWN", err)
	solved, err := tasks.ResolveTask(t.Context(), &logisticsv1.ResolveTaskRequest{TaskId: list.GetTasks()[0].GetTaskId(), Note: "delivered after all"})
	require.NoError(t, err)
	require.Equal(t, logisticsv1.Task_STATE_RESOLVED, solved.GetTask().GetState())
	_, err = d.DB.ExecContext(t.Context(), `DELETE FROM fact`)
	require.ErrorContains(t, err, "permission denied", "what was told stays told")
}

func TestRefreshingAsksTheCarrier(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	one := d.book(t, way())
	d.fleet.scans(one.GetCarrierReference(), said("1", providerv1.Status_STATUS_IN_TRANSIT, one.GetParcels()[0].GetTrackingNumber(), time.Now()))
	for want := int32(1); want >= 0; want-- {
		res, err := logisticsv1connect.NewTrackingServiceClient(d.as(member)).RefreshTracking(t.Context(), &logisticsv1.RefreshTrackingRequest{ShipmentId: one.GetShipmentId()})
		require.NoError(t, err)
		require.Equal(t, want, res.GetNewFacts())
	}
	require.Equal(t, logisticsv1.Status_STATUS_IN_TRANSIT, d.get(t, one.GetShipmentId()).GetStatus())
	sums, err := d.shipments(staff).SumShipments(t.Context(), &logisticsv1.SumShipmentsRequest{})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"merchant_to_inspection/in_transit": 1}, sums.GetShipments())
}

func TestPlacesAreTheirMerchants(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	_, err := logisticsv1connect.NewPlaceServiceClient(d.as(other)).PutPlace(t.Context(), &logisticsv1.PutPlaceRequest{PlaceId: "merchant/mrc_one", Address: address("x", "GB")})
	refused(t, connect.CodePermissionDenied, "NOT_YOUR_PLACE", err)
	req := way()
	req.ShipmentId = id.New("shp")
	_, err = d.shipments(other).BookShipment(t.Context(), req)
	refused(t, connect.CodeFailedPrecondition, "PLACE_UNKNOWN", err)
	res, err := logisticsv1connect.NewPlaceServiceClient(d.as(other)).ListPlaces(t.Context(), &logisticsv1.ListPlacesRequest{})
	require.NoError(t, err)
	require.Len(t, res.GetPlaces(), 4, "the marketplace's")
}

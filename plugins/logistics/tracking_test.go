package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

// Over the real database: in whatever order a carrier tells, in whatever
// batches, however often, and partly when it is asked, the shipment ends where
// the set of facts says, is delivered for good but for a way back, and each
// change was told once.
func TestAShipmentIsWhereItsFactsSayHoweverTheyCome(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	statuses := []providerv1.Status{
		providerv1.Status_STATUS_HANDED_OVER, providerv1.Status_STATUS_IN_TRANSIT, providerv1.Status_STATUS_ON_HOLD, providerv1.Status_STATUS_OUT_FOR_DELIVERY,
		providerv1.Status_STATUS_DELIVERY_FAILED, providerv1.Status_STATUS_READY_FOR_PICKUP, providerv1.Status_STATUS_DELIVERED,
		providerv1.Status_STATUS_RETURN_TO_SENDER, providerv1.Status_STATUS_RETURNED, providerv1.Status_STATUS_LOST, providerv1.Status_STATUS_UNSPECIFIED,
	}
	published := 0
	rapid.Check(t, func(r *rapid.T) {
		req := way()
		second := req.GetParcels()[0]
		req.Parcels = append(req.Parcels, &logisticsv1.Parcel{ParcelId: "p2", WeightGrams: 5, Items: second.GetItems()})
		one := d.book(t, req)
		numbers := []string{one.GetParcels()[0].GetTrackingNumber(), one.GetParcels()[1].GetTrackingNumber()}
		base := time.Now().Add(-10 * time.Hour)
		var facts []*providerv1.Fact
		for i := range rapid.IntRange(1, 10).Draw(r, "facts") {
			facts = append(facts, said(fmt.Sprint(i), rapid.SampledFrom(statuses).Draw(r, "status"), rapid.SampledFrom(numbers).Draw(r, "parcel"),
				base.Add(time.Duration(rapid.IntRange(0, 9).Draw(r, "hour"))*time.Hour)))
		}
		heardOf := map[string]bool{}
		told := append(rapid.Permutation(facts).Draw(r, "order"), rapid.SliceOfN(rapid.SampledFrom(facts), 0, 5).Draw(r, "again")...)
		for len(told) > 0 {
			n := rapid.IntRange(1, len(told)).Draw(r, "batch")
			if rapid.Bool().Draw(r, "asked") {
				d.fleet.scans(one.GetCarrierReference(), told[:n]...)
				_, err := logisticsv1connect.NewTrackingServiceClient(d.as(staff)).RefreshTracking(t.Context(), &logisticsv1.RefreshTrackingRequest{ShipmentId: one.GetShipmentId()})
				require.NoError(r, err)
			} else {
				d.tell(t, one, told[:n]...)
			}
			told = told[n:]
		}
		// The oracle: each fact once, by the time it happened.
		var all []fact
		for _, f := range facts {
			if !heardOf[f.GetFactId()] {
				heardOf[f.GetFactId()] = true
				all = append(all, fact{id: f.GetFactId(), tracking: f.GetTrackingNumber(), status: heard[f.GetStatus()], at: f.GetAt().AsTime(), heard: time.Now()})
			}
		}
		want, _, _ := derive(numbers, all, one.GetBookedAt().AsTime())
		got := d.get(t, one.GetShipmentId())
		require.Equal(r, want, got.GetStatus())
		// Changes follow from one another and end at what is so.
		last := logisticsv1.Status_STATUS_BOOKED
		events := d.Published(t)
		for _, e := range events[published:] {
			if m, ok := e.(*logisticsv1.ShipmentMoved); ok {
				require.Equal(r, one.GetShipmentId(), m.GetShipmentId())
				require.NotEqual(r, last, m.GetStatus(), "told once")
				last = m.GetStatus()
			}
		}
		published = len(events)
		require.Equal(r, want, last)
		// Nothing that happens later changes what is delivered.
		if want == logisticsv1.Status_STATUS_DELIVERED {
			require.NotNil(r, got.GetDeliveredAt())
			for _, n := range numbers {
				d.tell(t, one, said("late "+n, providerv1.Status_STATUS_IN_TRANSIT, n, time.Now()), said("lost "+n, providerv1.Status_STATUS_LOST, n, time.Now()))
			}
			require.Equal(r, want, d.get(t, one.GetShipmentId()).GetStatus())
			published = len(d.Published(t))
		}
	})
}

// A carrier may tell of a parcel before its answer to the booking is written
// down: what consumers send back travels by itself, and a booking's outcome may
// be unknown for a while. Nothing of it is lost.
func TestWhatIsHeardBeforeTheBookingIsWrittenDownIsKept(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	d.fleet.does("a", "timeout-after")
	req := way()
	_, err := d.shipments(staff).BookShipment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	b := d.fleet.bookings["a/"+req.GetShipmentId()]
	number, now := b.GetTrackingNumbers()["p1"], time.Now()
	unknown := &logisticsv1.Shipment{Instance: "a", CarrierReference: b.GetReference()}
	taken, done := said("1", providerv1.Status_STATUS_HANDED_OVER, number, now), said("2", providerv1.Status_STATUS_DELIVERED, number, now.Add(time.Hour))
	d.tell(t, unknown, done, done)
	d.tell(t, unknown, taken)
	d.tell(t, &logisticsv1.Shipment{Instance: "b", CarrierReference: b.GetReference()}, said("3", providerv1.Status_STATUS_LOST, number, now.Add(2*time.Hour)))
	d.fleet.does("a", "")
	one := d.book(t, req)
	require.Equal(t, logisticsv1.Status_STATUS_DELIVERED, one.GetStatus())
	var names []string
	for _, e := range d.Published(t) {
		names = append(names, string(e.ProtoReflect().Descriptor().Name()))
	}
	require.Equal(t, []string{"ShipmentBooked", "ShipmentMoved"}, names, "booked comes first")
	res, err := logisticsv1connect.NewTrackingServiceClient(d.as(call.Principal{})).GetTracking(t.Context(), &logisticsv1.GetTrackingRequest{TrackingNumber: number})
	require.NoError(t, err)
	require.Len(t, res.GetTracking().GetFacts(), 2)
	var left int
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_logistics.stray_fact WHERE instance = 'a'`).Scan(&left))
	require.Zero(t, left)
}

// Hearing and writing down at the same moment: whoever is first, the fact is
// the shipment's.
func TestHearingAndWritingDownAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	for range 8 {
		d.fleet.does("a", "timeout-after")
		req := way()
		_, err := d.shipments(staff).BookShipment(t.Context(), req)
		refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
		b := d.fleet.bookings["a/"+req.GetShipmentId()]
		d.fleet.does("a", "")
		heard := make(chan error, 1)
		go func() {
			heard <- d.Deliver(context.WithoutCancel(t.Context()), "carriers", &providerv1.TrackingUpdated{Instance: "a", Reference: b.GetReference(),
				Facts: []*providerv1.Fact{said("1", providerv1.Status_STATUS_DELIVERED, b.GetTrackingNumbers()["p1"], time.Now())}})
		}()
		one := d.book(t, req)
		require.NoError(t, <-heard)
		require.Equal(t, logisticsv1.Status_STATUS_DELIVERED, d.get(t, one.GetShipmentId()).GetStatus())
	}
}

// Members watch their own merchant's shipments, staff everybody's; both may
// narrow it.
func TestShipmentsAreWatched(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func(p call.Principal, req *logisticsv1.WatchShipmentsRequest) <-chan *logisticsv1.Shipment {
		out := make(chan *logisticsv1.Shipment, 100)
		stream, err := d.shipments(p).WatchShipments(ctx, req)
		require.NoError(t, err)
		go func() {
			defer close(out)
			for {
				msg, err := stream.Receive()
				if err != nil {
					return
				}
				for _, one := range msg.GetShipments() {
					out <- one
				}
			}
		}()
		return out
	}
	mine, everybodys := watch(member, &logisticsv1.WatchShipmentsRequest{}), watch(staff, &logisticsv1.WatchShipmentsRequest{Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION})
	others, none := watch(other, &logisticsv1.WatchShipmentsRequest{}), watch(staff, &logisticsv1.WatchShipmentsRequest{Reference: "another"})
	one := d.book(t, way())
	number := one.GetParcels()[0].GetTrackingNumber()
	for _, c := range []<-chan *logisticsv1.Shipment{mine, everybodys} {
		got := <-c
		require.Equal(t, one.GetShipmentId(), got.GetShipmentId())
		require.Equal(t, logisticsv1.Status_STATUS_BOOKED, got.GetStatus())
	}
	d.tell(t, one, said("1", providerv1.Status_STATUS_DELIVERED, number, time.Now()))
	for _, c := range []<-chan *logisticsv1.Shipment{mine, everybodys} {
		require.Equal(t, logisticsv1.Status_STATUS_DELIVERED, (<-c).GetStatus())
	}
	cancel()
	for _, c := range []<-chan *logisticsv1.Shipment{others, none} {
		for got := range c {
			t.Fatalf("told of %s, which is not theirs", got.GetShipmentId())
		}
	}
}

// Streams end with the process, and are bounded.
func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	s := &service{watching: make(chan struct{}, 2), ended: make(chan struct{})}
	var leave []func()
	for range 2 {
		l, err := s.watch()
		require.NoError(t, err)
		leave = append(leave, l)
	}
	_, err := s.watch()
	refused(t, connect.CodeResourceExhausted, "TOO_MANY_WATCH", err)
	leave[0]()
	_, err = s.watch()
	require.NoError(t, err)
	close(s.ended)
	refused(t, connect.CodeUnavailable, "DRAINING", s.pause(t.Context(), time.NewTicker(time.Hour)))
}

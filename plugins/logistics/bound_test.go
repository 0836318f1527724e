package main

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

// All of the market's carriers are asked in one round: each of them waits here
// until all five are asked.
func TestAQuoteIsOneRound(t *testing.T) {
	t.Parallel()
	d := openWith(t, map[string]any{"quote_timeout": "30s"}, carrier{"a", able}, carrier{"b", able}, carrier{"c", able}, carrier{"d", able}, carrier{"e", able})
	d.fleet.gate = &gate{n: 5, open: make(chan struct{})}
	require.Len(t, d.quote(t, nil).GetRates(), 5)
}

// Quotes fail over by the rule: to the next best, unless the rule names one.
func TestQuotesFailOverAndBookingsDoNot(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"late", "failed", "lying", "huge", "many"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := open(t, "a", "b")
			d.fleet.does("a", how)
			pinned := way()
			pinned.Rule = &logisticsv1.Rule{Instance: "a"}
			_, err := d.shipments(staff).BookShipment(t.Context(), pinned)
			refused(t, connect.CodeUnavailable, "CARRIERS_UNAVAILABLE", err)
			one := d.book(t, way())
			require.Equal(t, "b", one.GetInstance())
			// The shipment remembers: whoever is cheaper tomorrow is not asked.
			d.fleet.does("a", "")
			d.fleet.mu.Lock()
			d.fleet.price["a"] = 1
			d.fleet.mu.Unlock()
			require.Equal(t, "b", d.get(t, one.GetShipmentId()).GetInstance())
			_, err = d.shipments(staff).CancelShipment(t.Context(), &logisticsv1.CancelShipmentRequest{ShipmentId: one.GetShipmentId()})
			require.NoError(t, err)
			require.Equal(t, 1, d.fleet.cancels[one.GetCarrierReference()])
		})
	}
}

// A carrier that hangs costs its time and no more, and nobody else is asked:
// it may have booked.
func TestACarrierThatHangsIsBounded(t *testing.T) {
	t.Parallel()
	d := open(t, "a", "b")
	d.fleet.does("a", "hang")
	req := way()
	_, err := d.shipments(staff).BookShipment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	d.fleet.does("a", "")
	require.Equal(t, "a", d.book(t, req).GetInstance())
	require.Len(t, d.fleet.bookings, 1)
}

// A carrier that answers ten megabytes has booked all the same; its paper is
// left out.
func TestACarrierThatSaysTooMuchIsBounded(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	d.fleet.does("a", "huge")
	req := way()
	req.Rule = &logisticsv1.Rule{Instance: "a"}
	_, err := d.shipments(staff).BookShipment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "CARRIERS_UNAVAILABLE", err)
	d.fleet.does("a", "timeout-before")
	_, err = d.shipments(staff).BookShipment(t.Context(), req)
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
	d.fleet.does("a", "huge")
	one := d.book(t, req)
	require.Equal(t, []string{"label-pdf"}, one.GetDocuments())
}

// Two bookings under one reference of the carrier's cannot both be true.
func TestAReferenceIsOfOneBooking(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	d.fleet.does("a", "one-reference")
	d.book(t, way())
	_, err := d.shipments(staff).BookShipment(t.Context(), way())
	refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
}

// Whatever a carrier tells, what others tell is heard.
func TestWhatACarrierTellsIsKeptAsFarAsItCanBe(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	one := d.book(t, way())
	number := one.GetParcels()[0].GetTrackingNumber()
	odd := said(strings.Repeat("i", 5000), providerv1.Status_STATUS_IN_TRANSIT, number, time.Now())
	odd.Text, odd.Place, odd.Code, odd.Reason = "a\x00b"+strings.Repeat("ü", 5000), strings.Repeat("地", 300), strings.Repeat("c", 300), "no such reason"
	odd.CountryCode = "Utopia"
	never := said("never", providerv1.Status_STATUS_LOST, number, time.Now())
	never.At = &timestamppb.Timestamp{Seconds: -1 << 60}
	timeless := said("timeless", providerv1.Status_STATUS_LOST, number, time.Now())
	timeless.At = nil
	d.tell(t, one, odd, never, timeless, said("1", providerv1.Status(99), number, time.Now()), said("2", providerv1.Status_STATUS_IN_TRANSIT, number, time.Now()))
	require.Equal(t, logisticsv1.Status_STATUS_IN_TRANSIT, d.get(t, one.GetShipmentId()).GetStatus())
	res, err := logisticsv1connect.NewTrackingServiceClient(d.as(call.Principal{})).GetTracking(t.Context(), &logisticsv1.GetTrackingRequest{TrackingNumber: number})
	require.NoError(t, err)
	require.Len(t, res.GetTracking().GetFacts(), 3)
	for _, f := range res.GetTracking().GetFacts() {
		require.LessOrEqual(t, len(f.GetFactId()), maxFactID)
		require.LessOrEqual(t, len([]rune(f.GetText())), 200)
		require.LessOrEqual(t, len([]rune(f.GetPlace())), 100)
		require.LessOrEqual(t, len(f.GetCountryCode()), 2)
	}
}

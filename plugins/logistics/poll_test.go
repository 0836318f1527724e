package main

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
)

func pickup(id, manifest string) *logisticsv1.SchedulePickupRequest {
	return &logisticsv1.SchedulePickupRequest{
		PickupId: id, ManifestId: manifest, From: timestamppb.New(time.Now()), Until: timestamppb.New(time.Now().Add(time.Hour)),
	}
}

// until waits for the janitor, which nobody can signal.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	require.Eventually(t, so, 40*time.Second, 20*time.Millisecond, what)
}

// A carrier without webhooks is asked, and so is one whose webhook was lost:
// the shipment arrives all the same, and then nobody asks any more.
func TestSilentCarriersAreAsked(t *testing.T) {
	t.Parallel()
	d := openWith(t, map[string]any{"poll_every": "1s", "poll_after": "2s"}, carrier{"mute", without("webhook")}, carrier{"lossy", able}, carrier{"blind", without("webhook", "track")})
	var all []*logisticsv1.Shipment
	for _, name := range []string{"mute", "lossy", "blind"} {
		req := way()
		req.Rule = &logisticsv1.Rule{Instance: name}
		one := d.book(t, req)
		all = append(all, one)
		d.fleet.scans(one.GetCarrierReference(), said("1", providerv1.Status_STATUS_HANDED_OVER, one.GetParcels()[0].GetTrackingNumber(), time.Now()))
	}
	for _, one := range all[:2] {
		until(t, one.GetInstance(), func() bool { return d.get(t, one.GetShipmentId()).GetStatus() == logisticsv1.Status_STATUS_IN_TRANSIT })
		d.fleet.scans(one.GetCarrierReference(), said("2", providerv1.Status_STATUS_DELIVERED, one.GetParcels()[0].GetTrackingNumber(), time.Now()))
		until(t, one.GetInstance(), func() bool { return d.get(t, one.GetShipmentId()).GetStatus() == logisticsv1.Status_STATUS_DELIVERED })
	}
	require.Zero(t, d.fleet.tracked(all[2].GetCarrierReference()), "one that does not declare it is not asked")
	var left int
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_logistics.shipment WHERE next_poll IS NOT NULL`).Scan(&left))
	require.Zero(t, left, "nor is one that has nothing more to say")
}

// Who talks is left alone; the longer one is silent, the more seldom it is
// asked; and of what is on its way and silent for too long a person is told.
func TestSilenceIsMeasuredFromWhatWasHeardLast(t *testing.T) {
	t.Parallel()
	d := openWith(t, map[string]any{"stale_after": "24h"}, carrier{"a", able})
	s := &service{in: nil, db: d.DB}
	one := d.book(t, way())
	number := one.GetParcels()[0].GetTrackingNumber()
	// next is how many hours from now the carrier is looked at, after a look at
	// a shipment that was booked and heard of so long ago.
	next := func(booked, heard string) (hours float64, asked, stale bool) {
		_, err := d.Admin.Exec(t.Context(), `UPDATE p_logistics.shipment SET booked_at = now() - $1::text::interval, next_poll = now() - interval '1 second'`, booked)
		require.NoError(t, err)
		if heard != "" {
			_, err = d.Admin.Exec(t.Context(), `UPDATE p_logistics.fact SET heard_at = now() - $1::text::interval`, heard)
			require.NoError(t, err)
		}
		var id string
		require.NoError(t, s.db.Row(t.Context(), due, pollBatch, pollFor.Microseconds(), pollLast.Microseconds(), (24*time.Hour).Microseconds()).Scan(&id, &asked, &stale))
		var at *float64
		require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT extract(epoch FROM next_poll - now()) / 3600 FROM p_logistics.shipment`).Scan(&at))
		if at == nil {
			return -1, asked, stale
		}
		return *at, asked, stale
	}
	for _, c := range []struct {
		booked, heard string
		hours         float64
		asked, stale  bool
	}{
		{"5 hours", "", 7, false, false},  // 12 hours after it was booked
		{"13 hours", "", 13, true, false}, // as long again
		{"3 days", "", 24, true, false},   // but a day at most; it was never handed over
		{"61 days", "", -1, true, false},  // and not for ever
		{"3 days", "1 hour", 11, false, false},
		{"3 days", "20 hours", 20, true, false},
		{"3 days", "2 days", 24, true, true},
	} {
		if c.heard != "" {
			d.tell(t, one, said("1", providerv1.Status_STATUS_HANDED_OVER, number, time.Now()))
		}
		hours, asked, stale := next(c.booked, c.heard)
		require.InDelta(t, c.hours, hours, 0.1, "%+v", c)
		require.Equal(t, []bool{c.asked, c.stale}, []bool{asked, stale}, "%+v", c)
	}
}

func TestWhatIsSilentForLongIsATask(t *testing.T) {
	t.Parallel()
	d := openWith(t, map[string]any{"poll_after": "1s", "stale_after": "1s"}, carrier{"a", able})
	one := d.book(t, way())
	d.tell(t, one, said("1", providerv1.Status_STATUS_HANDED_OVER, one.GetParcels()[0].GetTrackingNumber(), time.Now()))
	tasks := func() (kinds []string) {
		list, err := logisticsv1connect.NewTaskServiceClient(d.as(member)).ListTasks(t.Context(), &logisticsv1.ListTasksRequest{})
		require.NoError(t, err)
		for _, task := range list.GetTasks() {
			kinds = append(kinds, task.GetKind())
		}
		return kinds
	}
	until(t, "a task", func() bool { return len(tasks()) == 1 })
	require.Equal(t, []string{"STALE"}, tasks())
}

// Each trouble is a task of its own, once, and what a customs office looks at
// in passing is none.
func TestExceptionsRaiseTasks(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	tasks := logisticsv1connect.NewTaskServiceClient(d.as(staff))
	for _, c := range []struct {
		status providerv1.Status
		reason string
		kind   string
	}{
		{providerv1.Status_STATUS_DELIVERY_FAILED, "CONSIGNEE_ABSENT", "DELIVERY_FAILED"},
		{providerv1.Status_STATUS_RETURN_TO_SENDER, "CONSIGNEE_REFUSED", "RETURN_TO_SENDER"},
		{providerv1.Status_STATUS_LOST, "CARRIER_LOST", "LOST"},
		{providerv1.Status_STATUS_ON_HOLD, "CUSTOMS_DUTIES_UNPAID", "CUSTOMS_HOLD"},
		{providerv1.Status_STATUS_ON_HOLD, "CUSTOMS_INSPECTION", ""},
		{providerv1.Status_STATUS_ON_HOLD, "", ""},
		{providerv1.Status_STATUS_IN_TRANSIT, "CARRIER_DELAY", ""},
	} {
		one := d.book(t, way())
		fact := said("1", c.status, one.GetParcels()[0].GetTrackingNumber(), time.Now())
		fact.Reason = c.reason
		d.tell(t, one, fact)
		d.tell(t, one, fact, said("2", c.status, one.GetParcels()[0].GetTrackingNumber(), time.Now().Add(time.Minute)))
		list, err := tasks.ListTasks(t.Context(), &logisticsv1.ListTasksRequest{PageSize: 200})
		require.NoError(t, err)
		var kinds []string
		for _, task := range list.GetTasks() {
			if task.GetShipmentId() == one.GetShipmentId() {
				require.Equal(t, c.reason, task.GetReason())
				require.Equal(t, "mrc_one", task.GetMerchantId())
				kinds = append(kinds, task.GetKind())
			}
		}
		if c.kind == "" {
			require.Empty(t, kinds, "%v", c)
			continue
		}
		require.Equal(t, []string{c.kind}, kinds)
	}
}

// A manifest whose caller is gone is told until the carrier answers: what is on
// it is on no other.
func TestAManifestThatNobodyAsksForAnyMoreIsTold(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"timeout-before", "timeout-after"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := open(t, "a")
			one := d.book(t, way())
			d.fleet.does("a", how)
			req := &logisticsv1.CreateManifestRequest{ManifestId: "m1", Instance: "a", PlaceId: "merchant/mrc_one"}
			_, err := d.shipments(member).CreateManifest(t.Context(), req)
			refused(t, connect.CodeUnavailable, "OUTCOME_UNKNOWN", err)
			_, err = d.shipments(member).CancelShipment(t.Context(), &logisticsv1.CancelShipmentRequest{ShipmentId: one.GetShipmentId()})
			refused(t, connect.CodeFailedPrecondition, "HANDED_OVER", err)
			d.fleet.does("a", "")
			_, err = d.Admin.Exec(t.Context(), `UPDATE p_logistics.manifest SET created_at = now() - interval '1 hour'`)
			require.NoError(t, err)
			until(t, "told", func() bool {
				var told bool
				require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT told FROM p_logistics.manifest`).Scan(&told))
				return told
			})
			m, err := d.shipments(member).CreateManifest(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, "m_manifest/m1", m.GetManifest().GetCarrierReference())
			require.Len(t, d.fleet.taken, 1, "under one key")
		})
	}
}

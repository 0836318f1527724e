package main

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
)

// What a consumer asks of a carrier by way of customer service is a task for
// whoever speaks with the carrier; its answer goes back, from wherever it was
// given, once.
func TestWhatConsumersAskOfCarriersIsATask(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	one := d.book(t, way())
	ref := addressOf(t, d)
	from := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	for range 2 { // the second time is a replay
		require.NoError(t, d.Deliver(t.Context(), "requests",
			&aftersalev1.CarriageRequested{ShipmentId: one.GetShipmentId(), CarriageRequestId: "crq_1", What: "redirect", AddressRef: ref, CaseId: "afs_1"},
			&aftersalev1.CarriageRequested{
				ShipmentId: one.GetShipmentId(), CarriageRequestId: "crq_2", What: "pickup", From: timestamppb.New(from), Until: timestamppb.New(from.Add(time.Hour)),
			},
			&aftersalev1.CarriageRequested{ShipmentId: one.GetShipmentId(), CarriageRequestId: "crq_3", What: "pickup", From: timestamppb.New(from), Until: timestamppb.New(from.Add(time.Hour))},
			&aftersalev1.CarriageRequested{ShipmentId: one.GetShipmentId(), CarriageRequestId: "crq_4", What: "a song"},
			&aftersalev1.CarriageRequested{ShipmentId: "shp_of_nobody", CarriageRequestId: "crq_5", What: "redirect"}))
	}
	tasks := logisticsv1connect.NewTaskServiceClient(d.as(member))
	list, err := tasks.ListTasks(t.Context(), &logisticsv1.ListTasksRequest{})
	require.NoError(t, err)
	by := map[string]*logisticsv1.Task{}
	for _, task := range list.GetTasks() {
		by[task.GetCarriageRequestId()] = task
		require.Nil(t, task.GetAddress(), "no list tells where somebody lives")
	}
	require.Len(t, by, 3)
	require.Equal(t, "REDIRECT_ASKED", by["crq_1"].GetKind())
	require.Equal(t, "PICKUP_ASKED", by["crq_2"].GetKind())
	require.True(t, by["crq_2"].GetFrom().AsTime().Equal(from))

	got, err := tasks.GetTask(t.Context(), &logisticsv1.GetTaskRequest{TaskId: by["crq_1"].GetTaskId()})
	require.NoError(t, err)
	require.Equal(t, "Ann", got.GetTask().GetAddress().GetRecipient())
	_, err = logisticsv1connect.NewTaskServiceClient(d.as(other)).GetTask(t.Context(), &logisticsv1.GetTaskRequest{TaskId: by["crq_1"].GetTaskId()})
	refused(t, connect.CodeNotFound, "TASK_UNKNOWN", err)

	for _, refuse := range []bool{false, true} { // the second changes nothing
		_, err = tasks.ResolveTask(t.Context(), &logisticsv1.ResolveTaskRequest{TaskId: by["crq_1"].GetTaskId(), Note: "the depot was told", Refused: refuse})
		require.NoError(t, err)
	}
	got, err = tasks.GetTask(t.Context(), &logisticsv1.GetTaskRequest{TaskId: by["crq_1"].GetTaskId()})
	require.NoError(t, err)
	require.Nil(t, got.GetTask().GetAddress(), "it is nobody's business any more")
	_, err = tasks.ResolveTask(t.Context(), &logisticsv1.ResolveTaskRequest{TaskId: by["crq_2"].GetTaskId(), Note: "no van that day", Refused: true})
	require.NoError(t, err)
	require.NoError(t, d.Deliver(t.Context(), "requests", &aftersalev1.CarriageResolved{ShipmentId: one.GetShipmentId(), CarriageRequestId: "crq_3", Arranged: true}))
	list, err = tasks.ListTasks(t.Context(), &logisticsv1.ListTasksRequest{State: logisticsv1.Task_STATE_OPEN})
	require.NoError(t, err)
	require.Empty(t, list.GetTasks())
	answers := map[string]bool{}
	for _, e := range d.Published(t) {
		if a, ok := e.(*logisticsv1.CarriageAnswered); ok {
			answers[a.GetCarriageRequestId()] = a.GetArranged()
		}
	}
	require.Equal(t, map[string]bool{"crq_1": true, "crq_2": false}, answers, "who answered in the conversation hears no echo")
}

// addressOf seals an address, and answers its reference.
func addressOf(t *testing.T, d *desk) (ref string) {
	t.Helper()
	_, err := logisticsv1connect.NewPlaceServiceClient(d.as(staff)).PutPlace(t.Context(), &logisticsv1.PutPlaceRequest{PlaceId: "warehouse/elsewhere", Address: &typev1.Address{
		Recipient: "Ann", Lines: []string{"1 Quay Street"}, Locality: "Harbour", PostalCode: "E1 6AN", CountryCode: "GB",
	}})
	require.NoError(t, err)
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT address_ref FROM p_logistics.place WHERE id = 'warehouse/elsewhere'`).Scan(&ref))
	return ref
}

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
)

// Who may call what: the enterprise terminal (merchants) and customer service
// (staff) see and do all of it, by permission; whoever holds a tracking number
// sees its way and nothing else; carriers are for this module alone.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	const both, all, anybody, modules = "MERCHANT,STAFF", "MERCHANT,STAFF,PLUGIN", "PUBLIC", "PLUGIN"
	want := map[string]string{
		"QuoteService.QuoteShipment": all + " logistics.read", "ShipmentService.BookShipment": all + " logistics.write", "ShipmentService.CancelShipment": all + " logistics.write",
		"ShipmentService.GetShipment": all + " logistics.read", "ShipmentService.ListShipments": all + " logistics.read", "ShipmentService.WatchShipments": both + " logistics.read",
		"ShipmentService.GetDocument": all + " logistics.read", "ShipmentService.CreateManifest": both + " logistics.write", "ShipmentService.SchedulePickup": both + " logistics.write",
		"ShipmentService.SumShipments": "STAFF,OPERATOR", "PlaceService.PutPlace": both + " logistics.write", "PlaceService.ListPlaces": both + " logistics.read",
		"TrackingService.GetTracking": anybody, "TrackingService.WatchTracking": anybody, "TrackingService.RefreshTracking": all + " logistics.write",
		"TaskService.GetTask": both + " logistics.write", "TaskService.ListTasks": both + " logistics.read", "TaskService.ResolveTask": both + " logistics.write",
		"CarrierService.Quote": modules, "CarrierService.Book": modules, "CarrierService.Lookup": modules, "CarrierService.Cancel": modules,
		"CarrierService.CreateManifest": modules, "CarrierService.SchedulePickup": modules, "CarrierService.Track": modules,
	}
	got := map[string]string{}
	for _, file := range []protoreflect.FileDescriptor{logisticsv1.File_entrepot_logistics_v1_shipment_proto, logisticsv1.File_entrepot_logistics_v1_tracking_proto, providerv1.File_entrepot_logistics_provider_v1_provider_proto} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				access, _ := proto.GetExtension(m.Options().(*descriptorpb.MethodOptions), optionsv1.E_Access).(*optionsv1.Access)
				var who []string
				for _, a := range access.GetAllow() {
					who = append(who, strings.TrimPrefix(a.String(), "AUDIENCE_"))
				}
				got[string(s.Name())+"."+string(m.Name())] = strings.TrimSpace(strings.Join(who, ",") + " " + access.GetPermission())
			}
		}
	}
	require.Equal(t, want, got)
}

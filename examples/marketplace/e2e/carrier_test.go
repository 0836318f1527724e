package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

// edit changes a shop's file before it opens: each text once, for the one
// after it.
func edit(t *testing.T, dir string, changes ...string) {
	t.Helper()
	path := filepath.Join(dir, "deployment.hcl")
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	text := string(file)
	for i := 0; i < len(changes); i += 2 {
		require.Equal(t, 1, strings.Count(text, changes[i]), changes[i])
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// A carrier that can tell by webhook and does not (its webhooks were lost, or
// never set up) is asked, and what it carries arrives all the same.
func TestALostWebhookIsHealedByAsking(t *testing.T) {
	s := prepared(t, binaries)
	edit(t, s.Dir,
		"/logistics\"\n", "/logistics\"\n  config { poll_after = \"1s\" }\n",
		"/carrier-sandbox\"\n", "/carrier-sandbox\"\n  instance \"lorries-mute\" {\n    config {\n      currency = \"GBP\"\n      hour     = \"1ms\"\n    }\n  }\n",
		"  bind \"entrepot.logistics.provider.v1\" { instance = \"lorries-gb\" }\n",
		"  bind \"entrepot.logistics.provider.v1\" { instance = \"lorries-gb\" }\n  bind \"entrepot.logistics.provider.v1\" {\n    instance = \"lorries-mute\"\n    priority = 9\n  }\n")
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { _ = s.Stop() })
	staff, err := s.Hire(t.Context(), func(int) {})
	require.NoError(t, err)
	for _, place := range []string{"warehouse/main", "warehouse/north"} {
		_, err := logisticsv1connect.NewPlaceServiceClient(staff.Floor.Client()).PutPlace(t.Context(), &logisticsv1.PutPlaceRequest{PlaceId: place, Address: &typev1.Address{
			Recipient: place, Lines: []string{"1 Placeholder Dock"}, Locality: "Exampleton", PostalCode: "ZZ1 1ZZ", CountryCode: "GB",
		}})
		require.NoError(t, err)
	}
	floor := staff.Floor.Caller
	floor.Market = "GB"
	c := logisticsv1connect.NewShipmentServiceClient(floor.Client())
	res, err := c.BookShipment(t.Context(), &logisticsv1.BookShipmentRequest{
		ShipmentId: id.New("shp"), Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE, From: &logisticsv1.Party{PlaceId: "warehouse/main"},
		To: &logisticsv1.Party{PlaceId: "warehouse/north"}, Reference: "rack 7", Rule: &logisticsv1.Rule{Instance: "lorries-mute"},
		Parcels: []*logisticsv1.Parcel{{ParcelId: "p1", WeightGrams: 900}},
	})
	require.NoError(t, err)
	one := res.GetShipment()
	_, err = c.CreateManifest(t.Context(), &logisticsv1.CreateManifestRequest{ManifestId: "m1", Instance: "lorries-mute", PlaceId: "warehouse/main"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		got, err := c.GetShipment(t.Context(), &logisticsv1.GetShipmentRequest{ShipmentId: one.GetShipmentId()})
		require.NoError(t, err)
		return got.GetShipment().GetStatus() == logisticsv1.Status_STATUS_DELIVERED
	}, time.Minute, 50*time.Millisecond)
}

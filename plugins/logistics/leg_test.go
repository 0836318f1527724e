package main

import (
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// person seals the address of a consumer, who lives in a country.
func (d *desk) person(t testing.TB, name, country string) *logisticsv1.Party {
	t.Helper()
	place := "warehouse/" + id.New("tmp")
	_, err := logisticsv1connect.NewPlaceServiceClient(d.as(staff)).PutPlace(t.Context(), &logisticsv1.PutPlaceRequest{PlaceId: place, Address: address(name, country)})
	require.NoError(t, err)
	list, err := logisticsv1connect.NewPlaceServiceClient(d.as(staff)).ListPlaces(t.Context(), &logisticsv1.ListPlacesRequest{})
	require.NoError(t, err)
	for _, p := range list.GetPlaces() {
		if p.GetPlaceId() == place {
			return &logisticsv1.Party{AddressRef: p.GetAddressRef()}
		}
	}
	t.Fatal("the place is not there")
	return nil
}

func at(place string) *logisticsv1.Party { return &logisticsv1.Party{PlaceId: place} }

// Every way that goods go can be booked: the carrier is asked for a return
// where it is one, gets customs data where a customs border is crossed, and
// both addresses for this one moment.
func TestEveryLegIsBooked(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	home, abroad, french := d.person(t, "Ann", "GB"), d.person(t, "Erika", "DE"), d.person(t, "Amélie", "FR")
	for _, c := range []struct {
		leg             logisticsv1.Leg
		from, to        *logisticsv1.Party
		returns, border bool
	}{
		{logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, at("merchant/mrc_one"), at("inspection/main"), false, true},
		{logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, at("merchant/mrc_one"), at("inspection/home"), false, false},
		{logisticsv1.Leg_LEG_INSPECTION_TO_WAREHOUSE, at("inspection/home"), at("warehouse/main"), false, false},
		{logisticsv1.Leg_LEG_INSPECTION_TO_WAREHOUSE, at("inspection/main"), at("warehouse/fr"), false, false}, // inside the union
		{logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("warehouse/main"), home, false, false},
		{logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("warehouse/main"), abroad, false, true},
		{logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("warehouse/fr"), abroad, false, false},
		{logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, abroad, at("warehouse/main"), true, true},
		{logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, french, at("warehouse/fr"), true, false},
		{logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, home, at("merchant/mrc_one"), true, false}, // for repair
		{logisticsv1.Leg_LEG_WAREHOUSE_TO_MERCHANT, at("warehouse/main"), at("merchant/mrc_one"), false, false},
		{logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE, at("warehouse/main"), at("warehouse/fr"), false, true},
	} {
		req := way()
		req.Leg, req.From, req.To = c.leg, c.from, c.to
		one := d.book(t, req)
		require.Equal(t, logisticsv1.Status_STATUS_BOOKED, one.GetStatus())
		require.Contains(t, one.GetDocuments(), "label-pdf", "%v has a label", c.leg)
		asked := d.fleet.asked[len(d.fleet.asked)-1]
		require.Equal(t, one.GetShipmentId(), asked.GetMerchantReference())
		require.Equal(t, c.returns, asked.GetReturn(), c.leg)
		require.Equal(t, c.border, asked.GetCustoms() != nil, "%v from %v to %v", c.leg, c.from, c.to)
		require.NotEmpty(t, asked.GetFrom().GetAddress().GetRecipient())
		require.NotEmpty(t, asked.GetTo().GetAddress().GetRecipient())
		link, err := d.shipments(staff).GetDocument(t.Context(), &logisticsv1.GetDocumentRequest{ShipmentId: one.GetShipmentId(), Document: "label-pdf"})
		require.NoError(t, err)
		require.NotEmpty(t, link.GetPath())
	}
}

// A leg has its own two sides.
func TestALegIsBetweenItsOwnParties(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	ann := d.person(t, "Ann", "GB")
	for name, c := range map[string]struct {
		leg      logisticsv1.Leg
		from, to *logisticsv1.Party
	}{
		"from a warehouse to inspection":  {logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, at("warehouse/main"), at("inspection/main")},
		"from a merchant to a warehouse":  {logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, at("merchant/mrc_one"), at("warehouse/main")},
		"past inspection":                 {logisticsv1.Leg_LEG_INSPECTION_TO_WAREHOUSE, at("merchant/mrc_one"), at("warehouse/main")},
		"from inspection to a person":     {logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("inspection/home"), ann},
		"a person's return to a person":   {logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, ann, ann},
		"a warehouse's return":            {logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, at("warehouse/main"), at("warehouse/main")},
		"a merchant's goods to a person":  {logisticsv1.Leg_LEG_WAREHOUSE_TO_MERCHANT, at("warehouse/main"), ann},
		"between warehouses, to a person": {logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE, at("warehouse/main"), ann},
	} {
		req := way()
		req.Leg, req.From, req.To = c.leg, c.from, c.to
		_, err := d.shipments(staff).BookShipment(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
	}
	// A member books from and to its own place, and what others carry is not
	// its own.
	req := way()
	req.Leg, req.From, req.To = logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("warehouse/main"), ann
	_, err := d.shipments(member).BookShipment(t.Context(), req)
	refused(t, connect.CodePermissionDenied, "NOT_YOUR_PLACE", err)
	require.Empty(t, d.fleet.asked)
	own := way()
	_, err = d.shipments(member).BookShipment(t.Context(), own)
	require.NoError(t, err)
}

// What a carrier does not declare it is not asked for.
func TestWhatIsNotDeclaredIsNotCalled(t *testing.T) {
	t.Parallel()
	d := openWith(t, nil, carrier{"plain", []string{"quote", "book", "lookup", "cancel"}}, carrier{"blind", []string{"quote", "book"}})
	reasons := func(res *logisticsv1.QuoteShipmentResponse) map[string]string {
		out := map[string]string{}
		for _, w := range res.GetWithout() {
			out[w.GetInstance()] = w.GetReason()
		}
		return out
	}
	// Across a border with customs data only, back only who does returns, and
	// nobody who could not be asked for the outcome.
	require.Equal(t, map[string]string{"plain": "NOT_CAPABLE", "blind": "NOT_CAPABLE"}, reasons(d.quote(t, nil)))
	require.Zero(t, d.fleet.quotes)
	_, err := d.shipments(staff).BookShipment(t.Context(), way())
	refused(t, connect.CodeFailedPrecondition, "NO_CARRIER", err)
	back := way()
	back.Leg, back.From, back.To = logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, d.person(t, "Ann", "GB"), at("warehouse/main")
	_, err = d.shipments(staff).BookShipment(t.Context(), back)
	refused(t, connect.CodeFailedPrecondition, "NO_CARRIER", err)

	req := way()
	req.To = at("inspection/home")
	one := d.book(t, req)
	require.Equal(t, "plain", one.GetInstance())
	_, err = logisticsv1connect.NewTrackingServiceClient(d.as(staff)).RefreshTracking(t.Context(), &logisticsv1.RefreshTrackingRequest{ShipmentId: one.GetShipmentId()})
	refused(t, connect.CodeFailedPrecondition, "NOT_TRACKED", err)
	// Its hand-over is on the marketplace's own list.
	for range 2 {
		m, err := d.shipments(member).CreateManifest(t.Context(), &logisticsv1.CreateManifestRequest{ManifestId: "m1", Instance: "plain", PlaceId: "merchant/mrc_one"})
		require.NoError(t, err)
		require.Equal(t, []string{one.GetShipmentId()}, m.GetManifest().GetShipmentIds())
		require.Empty(t, m.GetManifest().GetCarrierReference())
	}
	_, err = d.shipments(member).SchedulePickup(t.Context(), pickup("p1", "m1"))
	refused(t, connect.CodeFailedPrecondition, "NO_PICKUP", err)
	require.Empty(t, d.fleet.taken)
	require.Zero(t, d.fleet.tracked(one.GetCarrierReference()))
}

// Personal data stand in the vault alone: neither in the module's rows nor in
// what it tells.
func TestNobodyIsNamedOutsideOfTheVault(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	req := way()
	req.Leg, req.From, req.To = logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, at("warehouse/main"), d.person(t, "Wilhelmina Unmistakable", "GB")
	d.book(t, req)
	for _, table := range []string{"shipment", "shipment_parcel", "shipment_document", "place", "movement"} {
		var rows string
		require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT coalesce(string_agg(x::text, ''), '') FROM p_logistics.`+table+` x`).Scan(&rows))
		require.NotContains(t, rows, "Unmistakable", table)
	}
	for _, e := range d.Published(t) {
		b, err := proto.Marshal(e)
		require.NoError(t, err)
		require.NotContains(t, string(b), "Unmistakable")
	}
}

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

// fleet are carriers, by instance, that do as they are told.
type fleet struct {
	providerv1connect.UnimplementedCarrierServiceHandler

	mu       sync.Mutex
	price    map[string]int64
	days     map[string]int32
	behave   map[string]string              // by instance: "late", "failed", "lying", "timeout-before", "timeout-after", "refuse", "other-key"
	bookings map[string]*providerv1.Booking // by instance and key
	booked   map[string]int                 // calls of Book by key
	cancels  map[string]int
	quotes   int
	facts    []*providerv1.Fact
}

func newFleet() *fleet {
	return &fleet{
		price: map[string]int64{}, days: map[string]int32{}, behave: map[string]string{}, bookings: map[string]*providerv1.Booking{},
		booked: map[string]int{}, cancels: map[string]int{},
	}
}

func (f *fleet) does(instance, how string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behave[instance] = how
}

func instance(ctx context.Context) string { return call.From(ctx).Instance }

func (f *fleet) Quote(ctx context.Context, _ *providerv1.QuoteRequest) (*providerv1.QuoteResponse, error) {
	f.mu.Lock()
	f.quotes++
	how, price, days := f.behave[instance(ctx)], f.price[instance(ctx)], f.days[instance(ctx)]
	f.mu.Unlock()
	total := &typev1.Money{CurrencyCode: "GBP", MinorUnits: price}
	switch how {
	case "late":
		<-ctx.Done()
		return nil, ctx.Err()
	case "failed":
		return nil, connect.NewError(connect.CodeInternal, "no")
	case "lying":
		total.MinorUnits = -5
	case "foreign":
		total.CurrencyCode = "JPY"
	}
	return &providerv1.QuoteResponse{Rates: []*providerv1.Rate{{Service: "parcel", Title: "Parcel", Total: total, TransitDays: days}}}, nil
}

func (f *fleet) Book(ctx context.Context, req *providerv1.BookRequest) (*providerv1.BookResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.booked[req.GetKey()]++
	at := instance(ctx) + "/" + req.GetKey()
	how := f.behave[instance(ctx)]
	silence := connect.NewError(connect.CodeUnavailable, "no answer")
	if how == "timeout-before" {
		return nil, silence
	}
	if f.bookings[at] == nil {
		b := &providerv1.Booking{Key: req.GetKey(), State: providerv1.Booking_STATE_BOOKED, Reference: "ref_" + req.GetKey(), TrackingNumbers: map[string]string{},
			Total: &typev1.Money{CurrencyCode: "GBP", MinorUnits: f.price[instance(ctx)]}}
		if how == "refuse" {
			b.State, b.Code, b.Reference = providerv1.Booking_STATE_REFUSED, "too_heavy", ""
		}
		for i, p := range req.GetParcels() {
			b.TrackingNumbers[p.GetParcelId()] = fmt.Sprintf("T%s%d", req.GetKey(), i)
		}
		f.bookings[at] = b
	}
	switch how {
	case "timeout-after":
		return nil, silence
	case "other-key":
		return &providerv1.BookResponse{Booking: &providerv1.Booking{Key: "another", State: providerv1.Booking_STATE_BOOKED, Reference: "x"}}, nil
	}
	full := proto.CloneOf(f.bookings[at])
	full.Documents = []*providerv1.Document{{Name: "label-pdf", MediaType: "application/pdf", Content: []byte("%PDF-1.4 " + req.GetTo().GetAddress().GetRecipient())}}
	return &providerv1.BookResponse{Booking: full}, nil
}

func (f *fleet) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.bookings[instance(ctx)+"/"+req.GetKey()]; b != nil {
		return &providerv1.LookupResponse{Booking: b}, nil
	}
	return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "never seen")
}

func (f *fleet) Cancel(_ context.Context, req *providerv1.CancelRequest) (*providerv1.CancelResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancels[req.GetReference()]++
	return &providerv1.CancelResponse{}, nil
}

func (f *fleet) CreateManifest(_ context.Context, req *providerv1.CreateManifestRequest) (*providerv1.CreateManifestResponse, error) {
	return &providerv1.CreateManifestResponse{Reference: "m_" + req.GetKey()}, nil
}

func (f *fleet) SchedulePickup(_ context.Context, req *providerv1.SchedulePickupRequest) (*providerv1.SchedulePickupResponse, error) {
	return &providerv1.SchedulePickupResponse{Reference: "p_" + req.GetKey()}, nil
}

func (f *fleet) Track(context.Context, *providerv1.TrackRequest) (*providerv1.TrackResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &providerv1.TrackResponse{Facts: slices.Clone(f.facts)}, nil
}

// desk is the module with carriers and its callers.
type desk struct {
	*plugintest.Module
	fleet *fleet
}

var (
	staff  = call.Principal{Kind: call.Staff, Account: "acc_staff"}
	member = call.Principal{Kind: call.Merchant, Merchant: "mrc_one", Permissions: []string{"*"}}
	other  = call.Principal{Kind: call.Merchant, Merchant: "mrc_two", Permissions: []string{"*"}}
)

func open(t testing.TB, carriers ...string) *desk {
	t.Helper()
	f := newFleet()
	var bound []*kernelv1.Instance
	for i, c := range carriers {
		f.price[c], f.days[c] = int64(500+100*i), int32(5-i)
		bound = append(bound, &kernelv1.Instance{Instance: c, Plugin: "carrier", Ready: true, Capabilities: []string{"quote", "book", "lookup", "cancel", "return", "manifest", "pickup", "track"}})
	}
	d := &desk{plugintest.Start(t, module(), plugintest.Config(map[string]any{"quote_timeout": "150ms", "book_timeout": "500ms"}),
		plugintest.Instances(contract, bound...),
		plugintest.Neighbours(func(s *connect.Server) { providerv1connect.RegisterCarrierServiceHandler(s, f) })), f}
	for place, country := range map[string]string{"warehouse/main": "GB", "merchant/mrc_one": "GB", "inspection/main": "DE"} {
		_, err := logisticsv1connect.NewPlaceServiceClient(d.as(staff)).PutPlace(t.Context(), &logisticsv1.PutPlaceRequest{PlaceId: place, Address: address("The "+place, country)})
		require.NoError(t, err)
	}
	return d
}

func (d *desk) as(p call.Principal) *connect.Client { return d.Client(plugintest.As(p, "GB")) }

func (d *desk) shipments(p call.Principal) logisticsv1connect.ShipmentServiceClient {
	return logisticsv1connect.NewShipmentServiceClient(d.as(p))
}

func address(name, country string) *typev1.Address {
	return &typev1.Address{Recipient: name, Lines: []string{"1 Quay Street"}, Locality: "Harbour", PostalCode: "E1 6AN", CountryCode: country}
}

// way is a booking from a merchant to inspection: across a border.
func way() *logisticsv1.BookShipmentRequest {
	return &logisticsv1.BookShipmentRequest{
		ShipmentId: id.New("shp"), Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, From: &logisticsv1.Party{PlaceId: "merchant/mrc_one"},
		To: &logisticsv1.Party{PlaceId: "inspection/main"}, Reference: "csg_1", MerchantId: "mrc_one", Market: "GB",
		Parcels: []*logisticsv1.Parcel{{ParcelId: "p1", WeightGrams: 900, Items: []*logisticsv1.Item{{
			Sku: "sku_a", Description: "Cup", Quantity: 1, Value: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 499},
		}}}},
		Customs: &logisticsv1.CustomsData{Category: logisticsv1.CustomsData_CATEGORY_COMMERCIAL_SAMPLE},
	}
}

func refused(t testing.TB, code connect.Code, reason string, err error) {
	t.Helper()
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	require.Equal(t, reason, fault.Reason(err), "%v", err)
}

func (d *desk) book(t testing.TB, req *logisticsv1.BookShipmentRequest) *logisticsv1.Shipment {
	t.Helper()
	res, err := d.shipments(staff).BookShipment(t.Context(), req)
	require.NoError(t, err)
	return res.GetShipment()
}

func (d *desk) get(t testing.TB, shipment string) *logisticsv1.Shipment {
	t.Helper()
	res, err := d.shipments(staff).GetShipment(t.Context(), &logisticsv1.GetShipmentRequest{ShipmentId: shipment})
	require.NoError(t, err)
	return res.GetShipment()
}

func said(id string, status providerv1.Status, number string, at time.Time) *providerv1.Fact {
	return &providerv1.Fact{FactId: id, TrackingNumber: number, Status: status, At: timestamppb.New(at)}
}

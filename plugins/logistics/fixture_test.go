package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	facts    map[string][]*providerv1.Fact // by reference of the booking
	tracks   map[string]int                // calls of Track by reference
	asked    []*providerv1.BookRequest
	// taken are manifests by key; gate, when set, holds every quote until so
	// many have been asked for.
	taken map[string]int
	gate  *gate
}

// gate opens when n have come.
type gate struct {
	mu   sync.Mutex
	n    int
	open chan struct{}
}

func (g *gate) come(ctx context.Context) error {
	g.mu.Lock()
	if g.n--; g.n == 0 {
		close(g.open)
	}
	g.mu.Unlock()
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newFleet() *fleet {
	return &fleet{
		price: map[string]int64{}, days: map[string]int32{}, behave: map[string]string{}, bookings: map[string]*providerv1.Booking{},
		booked: map[string]int{}, cancels: map[string]int{},
		facts: map[string][]*providerv1.Fact{}, tracks: map[string]int{}, taken: map[string]int{},
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
	how, price, days, wait := f.behave[instance(ctx)], f.price[instance(ctx)], f.days[instance(ctx)], f.gate
	f.mu.Unlock()
	if wait != nil {
		if err := wait.come(ctx); err != nil {
			return nil, err
		}
	}
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
	case "huge":
		return &providerv1.QuoteResponse{Rates: []*providerv1.Rate{{Service: "parcel", Title: strings.Repeat("x", 10<<20), Total: total}}}, nil
	case "many":
		return &providerv1.QuoteResponse{Rates: slices.Repeat([]*providerv1.Rate{{Service: "parcel", Total: total}}, 100_000)}, nil
	}
	return &providerv1.QuoteResponse{Rates: []*providerv1.Rate{{Service: "parcel", Title: "Parcel", Total: total, TransitDays: days}}}, nil
}

func (f *fleet) Book(ctx context.Context, req *providerv1.BookRequest) (*providerv1.BookResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.booked[req.GetKey()]++
	f.asked = append(f.asked, proto.CloneOf(req))
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
	case "hang":
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return nil, ctx.Err()
	case "timeout-after":
		return nil, silence
	case "other-key":
		return &providerv1.BookResponse{Booking: &providerv1.Booking{Key: "another", State: providerv1.Booking_STATE_BOOKED, Reference: "x"}}, nil
	}
	full := proto.CloneOf(f.bookings[at])
	full.Documents = []*providerv1.Document{{Name: "label-pdf", MediaType: "application/pdf", Content: []byte("%PDF-1.4 " + req.GetTo().GetAddress().GetRecipient())}}
	switch how {
	case "huge":
		full.Documents = append(full.Documents, &providerv1.Document{Name: "cn23", MediaType: "application/pdf", Content: append([]byte("%PDF-1.4 "), make([]byte, 10<<20)...)})
	case "one-reference":
		full.Reference = "ref_same"
	}
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

func (f *fleet) CreateManifest(ctx context.Context, req *providerv1.CreateManifestRequest) (*providerv1.CreateManifestResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how := f.behave[instance(ctx)]
	if how == "timeout-before" {
		return nil, connect.NewError(connect.CodeUnavailable, "no answer")
	}
	if f.taken[req.GetKey()]++; how == "timeout-after" {
		return nil, connect.NewError(connect.CodeUnavailable, "no answer")
	}
	return &providerv1.CreateManifestResponse{Reference: "m_" + req.GetKey()}, nil
}

func (f *fleet) SchedulePickup(_ context.Context, req *providerv1.SchedulePickupRequest) (*providerv1.SchedulePickupResponse, error) {
	return &providerv1.SchedulePickupResponse{Reference: "p_" + req.GetKey()}, nil
}

func (f *fleet) Track(ctx context.Context, req *providerv1.TrackRequest) (*providerv1.TrackResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tracks[req.GetReference()]++
	if how := f.behave[instance(ctx)]; how == "timeout-after" || how == "timeout-before" {
		return nil, connect.NewError(connect.CodeUnavailable, "no answer")
	}
	return &providerv1.TrackResponse{Facts: slices.Clone(f.facts[req.GetReference()])}, nil
}

// scans is what a carrier knows of a booking, and tells when it is asked.
func (f *fleet) scans(reference string, facts ...*providerv1.Fact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.facts[reference] = append(f.facts[reference], facts...)
}

func (f *fleet) tracked(reference string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tracks[reference]
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

// able are the capabilities of a carrier that can everything.
var able = []string{"quote", "book", "lookup", "cancel", "return", "manifest", "pickup", "track", "webhook", "customs-data", "label-zpl"}

// without takes capabilities away.
func without(some ...string) []string {
	return slices.DeleteFunc(slices.Clone(able), func(c string) bool { return slices.Contains(some, c) })
}

// carrier is one that is bound.
type carrier struct {
	name string
	can  []string
}

func open(t testing.TB, carriers ...string) *desk {
	t.Helper()
	all := make([]carrier, len(carriers))
	for i, c := range carriers {
		all[i] = carrier{c, able}
	}
	return openWith(t, nil, all...)
}

// openWith opens a desk with more of a configuration.
func openWith(t testing.TB, more map[string]any, carriers ...carrier) *desk {
	t.Helper()
	f := newFleet()
	var bound []*kernelv1.Instance
	for i, c := range carriers {
		f.price[c.name], f.days[c.name] = int64(500+100*i), int32(5-i)
		bound = append(bound, &kernelv1.Instance{Instance: c.name, Plugin: "carrier", Ready: true, Capabilities: c.can})
	}
	config := map[string]any{"quote_timeout": "150ms", "book_timeout": "500ms"}
	maps.Copy(config, more)
	d := &desk{plugintest.Start(t, module(), plugintest.Config(config), plugintest.Instances(contract, bound...),
		plugintest.Neighbours(func(s *connect.Server) { providerv1connect.RegisterCarrierServiceHandler(s, f) })), f}
	for place, country := range map[string]string{"warehouse/main": "GB", "warehouse/fr": "FR", "merchant/mrc_one": "GB", "inspection/main": "DE", "inspection/home": "GB"} {
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

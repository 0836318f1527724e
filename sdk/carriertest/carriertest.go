// Package carriertest is the conformance kit of carriers: it holds an adapter
// of entrepot.logistics.provider.v1 to its contract, each capability that the
// manifest declares by itself. What is not declared is not called, by the kit
// as by the router.
package carriertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/manifest"
)

// Carrier is an adapter under test.
type Carrier struct {
	// Client calls it as the logistics module does.
	Client providerv1connect.CarrierServiceClient
	// Capabilities are those of the manifest.
	Capabilities []string
	// Home and Abroad are countries between which it carries; goods between
	// them are declared.
	Home, Abroad string
	// Service is one that it sells for both ways.
	Service string

	// Move makes something happen to what was handed over, where nothing does by
	// itself.
	Move func(ctx context.Context, b *providerv1.Booking) error

	// Of the capability "webhook": the adapter's webhooks, what it has published,
	// and a webhook as the company sends it of a booking, signed.
	Webhooks  pluginv1connect.WebhookServiceClient
	Published func() []proto.Message
	Webhook   func(b *providerv1.Booking) *pluginv1.HandleWebhookRequest
}

// Declared are the capabilities for carriers in a plugin's manifest.
func Declared(t testing.TB, text string) []string {
	t.Helper()
	m, err := manifest.Parse([]byte(text), "plugin.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range m.GetServes() {
		if s.GetContract() == contract {
			return s.GetCapabilities()
		}
	}
	t.Fatal("the manifest does not serve " + contract)
	return nil
}

const contract = "entrepot.logistics.provider.v1"

// minimum is what a carrier cannot be without.
var minimum = []string{"quote", "book", "lookup", "cancel"}

// known are the capabilities of the contract.
var known = append(slices.Clone(minimum), "return", "manifest", "pickup", "track", "webhook", "customs-data", "label-zpl")

// ErrNoReader is of a machine that lacks a program which reads documents.
var ErrNoReader = errors.New("a program that reads documents is not on this machine: scripts/setup-readers installs it")

// check is one demand of the contract, on those that declare its capability.
type check struct {
	capability, name string
	holds            func(ctx context.Context, k *kit) error
}

// checks are all of them, in the order of a parcel's life.
var checks = slices.Concat(bookings, papers, ways)

// Run tests an adapter: a test for each demand on what it declares.
func Run(t *testing.T, c Carrier) {
	t.Helper()
	k := &kit{Carrier: c}
	for _, one := range checks {
		if one.capability != "" && !k.can(one.capability) {
			continue
		}
		t.Run(strings.TrimPrefix(one.capability+": "+one.name, ": "), func(t *testing.T) {
			t.Parallel()
			switch err := one.holds(t.Context(), k); {
			case errors.Is(err, ErrNoReader):
				t.Skip(err)
			case err != nil:
				t.Error(err)
			}
		})
	}
}

// kit makes requests that differ.
type kit struct {
	Carrier
	n atomic.Int64
}

func (k *kit) can(capability string) bool { return slices.Contains(k.Capabilities, capability) }

func (k *kit) key() string { return fmt.Sprintf("kit-%d", k.n.Add(1)) }

func (k *kit) end(name, country string) *providerv1.Endpoint {
	return &providerv1.Endpoint{CountryCode: country, PostalCode: "E1 6AN", Address: &typev1.Address{
		Recipient: name, Lines: []string{"1 Quay Street"}, Locality: "Harbour", PostalCode: "E1 6AN", CountryCode: country, Email: "someone@example.com",
	}}
}

// sender and addressee of the kit's parcels.
const sender, addressee = "Albion Gifts", "Jürgen Groß"

// booking is of two parcels, inside one country or across a border.
func (k *kit) booking(border bool) *providerv1.BookRequest {
	key := k.key()
	req := &providerv1.BookRequest{
		Key: key, Service: k.Service, From: k.end(sender, k.Home), To: k.end(addressee, k.Home), MerchantReference: "shp_" + key,
		Parcels: []*logisticsv1.Parcel{k.parcel("p1", 800), k.parcel("p2", 1200)},
	}
	if border {
		req.To = k.end(addressee, k.Abroad)
		req.Customs = &logisticsv1.CustomsData{Category: logisticsv1.CustomsData_CATEGORY_SALE_OF_GOODS, InvoiceNumber: "inv_1", IossNumber: "IM3720000224"}
	}
	return req
}

func (k *kit) parcel(id string, grams int32) *logisticsv1.Parcel {
	return &logisticsv1.Parcel{ParcelId: id, WeightGrams: grams, LengthMm: 200, WidthMm: 100, HeightMm: 50, Sscc: "106141411234567897", Items: []*logisticsv1.Item{{
		Sku: "sku_cup", Description: "Ceramic cup", Quantity: 2, NetWeightGrams: grams - 100, Value: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 1998},
		HsCode: "691200", OriginCountry: "CN",
	}}}
}

// book books, and looks at the answer as the module does.
func (k *kit) book(ctx context.Context, req *providerv1.BookRequest) (*providerv1.Booking, error) {
	res, err := k.Client.Book(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("book: %w", err)
	}
	b := res.GetBooking()
	switch {
	case b.GetKey() != req.GetKey():
		return nil, fmt.Errorf("a booking of key %q answers key %q", req.GetKey(), b.GetKey())
	case b.GetState() == providerv1.Booking_STATE_BOOKED && b.GetReference() == "":
		return nil, errors.New("a booking has no reference")
	}
	return b, nil
}

// booked is one that the carrier takes.
func (k *kit) booked(ctx context.Context) (*providerv1.Booking, error) {
	b, err := k.book(ctx, k.booking(false))
	if err == nil && b.GetState() != providerv1.Booking_STATE_BOOKED {
		err = fmt.Errorf("the carrier does not take the kit's booking: %s %s", b.GetCode(), b.GetMessage())
	}
	return b, err
}

// handed is one that the carrier has.
func (k *kit) handed(ctx context.Context) (*providerv1.Booking, error) {
	b, err := k.booked(ctx)
	if err == nil && k.can("manifest") {
		_, err = k.Client.CreateManifest(ctx, &providerv1.CreateManifestRequest{Key: k.key(), References: []string{b.GetReference()}})
	}
	if err == nil && k.Move != nil {
		err = k.Move(ctx, b)
	}
	return b, err
}

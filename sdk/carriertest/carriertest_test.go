package carriertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/label"
)

// honest is a carrier that does as the contract says, but for one fault.
type honest struct {
	providerv1connect.UnimplementedCarrierServiceHandler

	fault string
	mu    sync.Mutex
	n     int
	byKey map[string]*providerv1.Booking
	of    map[string]*providerv1.BookRequest
	ref   map[string]*providerv1.Booking
	on    map[string]bool
	keys  map[string]string
	asked int
}

func (h *honest) Quote(_ context.Context, req *providerv1.QuoteRequest) (*providerv1.QuoteResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	for _, p := range req.GetParcels() {
		if p.GetWeightGrams() > 30_000 || p.GetLengthMm() > 1000 {
			if h.fault == "an error for no service" {
				return nil, connect.NewError(connect.CodeInvalidArgument, "too large")
			}
			if h.fault != "quotes what nobody carries" {
				return &providerv1.QuoteResponse{}, nil
			}
		}
	}
	total := &typev1.Money{CurrencyCode: "GBP", MinorUnits: 500}
	switch h.fault {
	case "a currency that is none":
		total.CurrencyCode = "XQX"
	case "two answers to one question":
		total.MinorUnits += int64(h.asked)
	case "does not quote returns":
		if req.GetReturn() {
			return &providerv1.QuoteResponse{}, nil
		}
	}
	return &providerv1.QuoteResponse{Rates: []*providerv1.Rate{{Service: "parcel", Total: total}}}, nil
}

func (h *honest) Book(_ context.Context, req *providerv1.BookRequest) (*providerv1.BookResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.byKey[req.GetKey()]
	if b != nil && !proto.Equal(h.of[req.GetKey()], req) && h.fault != "a key for two things" {
		return nil, connect.NewError(connect.CodeAlreadyExists, "another")
	}
	if b == nil || h.fault == "books a key twice" {
		h.n++
		b = &providerv1.Booking{Key: req.GetKey(), State: providerv1.Booking_STATE_BOOKED, Reference: fmt.Sprint("b", h.n), TrackingNumbers: map[string]string{},
			Total: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 500}}
		for i, p := range req.GetParcels() {
			if h.fault == "one number for two parcels" {
				i = 0
			}
			b.TrackingNumbers[p.GetParcelId()] = fmt.Sprintf("T%06d%d", h.n, i)
		}
		border := req.GetFrom().GetCountryCode() != req.GetTo().GetCountryCode()
		if req.GetService() != "parcel" || border && req.GetCustoms() == nil && h.fault != "takes goods undeclared" {
			b = &providerv1.Booking{Key: req.GetKey(), State: providerv1.Booking_STATE_REFUSED, Code: "no"}
			if h.fault == "refuses without a code" {
				b.Code = ""
			}
		}
		h.byKey[req.GetKey()], h.of[req.GetKey()] = b, proto.CloneOf(req)
		if b.GetReference() != "" {
			h.ref[b.GetReference()] = b
		}
	}
	out := proto.CloneOf(b)
	if h.fault == "asks more than it quoted" {
		out.Total.MinorUnits++
	}
	if h.fault == "answers another key" {
		out.Key = "x"
	}
	if b.GetState() == providerv1.Booking_STATE_REFUSED {
		return &providerv1.BookResponse{Booking: out}, nil
	}
	var err error
	out.Documents, err = h.documents(req, b)
	return &providerv1.BookResponse{Booking: out}, err
}

func (h *honest) documents(req *providerv1.BookRequest, b *providerv1.Booking) ([]*providerv1.Document, error) {
	var labels []label.Label
	for _, p := range req.GetParcels() {
		number := b.GetTrackingNumbers()[p.GetParcelId()]
		if h.fault == "a label of another parcel" {
			number = "T999999"
		}
		labels = append(labels, label.Label{
			Title: "Honest", Codes: []label.Code{{Symbology: label.Code128, Data: number, Text: number}}, Blocks: []label.Block{
				{Heading: "FROM", Lines: []string{req.GetFrom().GetAddress().GetRecipient(), req.GetFrom().GetAddress().GetPostalCode()}},
				{Heading: "TO", Lines: []string{req.GetTo().GetAddress().GetRecipient(), req.GetTo().GetAddress().GetPostalCode()}},
			},
		})
		if h.fault == "one label for all" {
			break
		}
	}
	pdf, err := label.PDF(labels...)
	if err != nil {
		return nil, err
	}
	zpl, err := label.ZPL(labels...)
	return []*providerv1.Document{{Name: "label-pdf", MediaType: label.MediaPDF, Content: pdf}, {Name: "label-zpl", MediaType: label.MediaZPL, Content: zpl}}, err
}

func (h *honest) Lookup(_ context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.byKey[req.GetKey()]
	if b == nil {
		if h.fault == "knows every key" {
			return &providerv1.LookupResponse{Booking: &providerv1.Booking{Key: req.GetKey()}}, nil
		}
		return nil, connect.NewError(connect.CodeNotFound, "never")
	}
	return &providerv1.LookupResponse{Booking: b}, nil
}

func (h *honest) Cancel(_ context.Context, req *providerv1.CancelRequest) (*providerv1.CancelResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.ref[req.GetReference()]
	switch {
	case b == nil:
		return nil, connect.NewError(connect.CodeNotFound, "never")
	case h.on[req.GetReference()] && h.fault != "cancels what it has":
		return nil, connect.NewError(connect.CodeFailedPrecondition, "it is on its way")
	case b.GetState() == providerv1.Booking_STATE_CANCELLED && h.fault == "cancels once":
		return nil, connect.NewError(connect.CodeFailedPrecondition, "cancelled")
	case h.fault != "forgets that it cancelled":
		b.State = providerv1.Booking_STATE_CANCELLED
	}
	return &providerv1.CancelResponse{}, nil
}

// once gives a key its name.
func (h *honest) once(kind, key string) (name string, fresh bool) {
	if name := h.keys[kind+key]; name != "" {
		return name, false
	}
	h.n++
	h.keys[kind+key] = fmt.Sprint(kind, h.n)
	return h.keys[kind+key], true
}

func (h *honest) CreateManifest(_ context.Context, req *providerv1.CreateManifestRequest) (*providerv1.CreateManifestResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, fresh := h.once("m", req.GetKey())
	if !fresh {
		return &providerv1.CreateManifestResponse{Reference: name}, nil
	}
	for _, r := range req.GetReferences() {
		b := h.ref[r]
		switch {
		case b == nil || b.GetState() != providerv1.Booking_STATE_BOOKED && h.fault != "takes what is cancelled":
			return nil, connect.NewError(connect.CodeNotFound, "never")
		case h.on[r] && h.fault != "two manifests for one":
			return nil, connect.NewError(connect.CodeFailedPrecondition, "twice")
		}
	}
	for _, r := range req.GetReferences() {
		h.on[r] = true
	}
	return &providerv1.CreateManifestResponse{Reference: name}, nil
}

func (h *honest) SchedulePickup(_ context.Context, req *providerv1.SchedulePickupRequest) (*providerv1.SchedulePickupResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == "comes twice" {
		h.n++
		return &providerv1.SchedulePickupResponse{Reference: fmt.Sprint(h.n)}, nil
	}
	name, _ := h.once("p", req.GetKey())
	return &providerv1.SchedulePickupResponse{Reference: name}, nil
}

func (h *honest) Track(_ context.Context, req *providerv1.TrackRequest) (*providerv1.TrackResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.ref[req.GetReference()]
	if b == nil {
		return nil, connect.NewError(connect.CodeNotFound, "never")
	}
	h.asked++
	res := &providerv1.TrackResponse{}
	for i := range h.asked {
		f := &providerv1.Fact{FactId: fmt.Sprint(i), TrackingNumber: b.GetTrackingNumbers()["p1"], Status: providerv1.Status_STATUS_IN_TRANSIT, At: timestamppb.New(time.Unix(int64(1000+i), 0))}
		switch h.fault {
		case "facts of nobody's parcel":
			f.TrackingNumber = "T0"
		case "facts of no time":
			f.At = nil
		case "forgets facts":
			if i < h.asked-1 {
				continue
			}
		}
		res.Facts = append(res.Facts, f)
		if len(res.Facts) == 3 {
			break
		}
	}
	if h.fault == "forgets facts" {
		h.asked = max(h.asked, 5)
		res.Facts = res.GetFacts()[:1]
	}
	return res, nil
}

// The kit finds nothing in a carrier without fault, and each fault in one that
// has it.
func TestTheKitFindsEachFault(t *testing.T) {
	t.Parallel()
	for fault, finds := range map[string]string{
		"":                            "",
		"a currency that is none":     "prices what",
		"two answers to one question": "prices what",
		"asks more than it quoted":    "prices what",
		"an error for no service":     "has no service",
		"quotes what nobody carries":  "has no service",
		"books a key twice":           "numbers each parcel",
		"a key for two things":        "numbers each parcel",
		"one number for two parcels":  "numbers each parcel",
		"answers another key":         "numbers each parcel",
		"refuses without a code":      "refuses for good",
		"knows every key":             "tells what became",
		"cancels once":                "gives back once",
		"forgets that it cancelled":   "gives back once",
		"does not quote returns":      "prices and books the way back",
		"takes goods undeclared":      "requires a declaration",
		"a label of another parcel":   "draws a label",
		"one label for all":           "draws labels for label printers",
		"cancels what it has":         "takes over once",
		"takes what is cancelled":     "takes over once",
		"two manifests for one":       "takes over once",
		"comes twice":                 "comes once",
		"facts of nobody's parcel":    "tells all",
		"facts of no time":            "tells all",
		"forgets facts":               "tells all",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			found := faults(t, fault, slices.DeleteFunc(slices.Clone(known), func(c string) bool { return c == "webhook" }))
			if fault == "" {
				if len(found) > 0 {
					t.Error("found", found)
				}
				return
			}
			if !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, finds) }) {
				t.Errorf("not found: %q finds %v", finds, found)
			}
		})
	}
}

// faults are the names of the checks that do not hold.
func faults(t *testing.T, fault string, capabilities []string) (found []string) {
	t.Helper()
	h := &honest{fault: fault, byKey: map[string]*providerv1.Booking{}, of: map[string]*providerv1.BookRequest{}, ref: map[string]*providerv1.Booking{},
		on: map[string]bool{}, keys: map[string]string{}}
	server := connect.NewServer()
	providerv1connect.RegisterCarrierServiceHandler(server, h)
	client := providerv1connect.NewCarrierServiceClient(connect.NewClient(connectinprocess.New(server)))
	k := &kit{Carrier: Carrier{Client: client, Capabilities: capabilities, Home: "GB", Abroad: "DE", Service: "parcel"}}
	for _, one := range checks {
		if one.capability != "" && !k.can(one.capability) {
			continue
		}
		// Documents are read where something is to be found in them.
		if one.name == papers[0].name && !strings.Contains(fault, "label") {
			continue
		}
		err := one.holds(t.Context(), k)
		if errors.Is(err, ErrNoReader) {
			t.Skip(err)
		}
		if err != nil {
			found = append(found, one.name)
			t.Log(one.name, err)
		}
	}
	return found
}

func TestWhatIsDeclaredIsOfTheContract(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		declared []string
		holds    bool
	}{
		"the minimum": {minimum, true}, "all": {known, true}, "no lookup": {[]string{"quote", "book", "cancel"}, false},
		"one that nobody knows": {append(slices.Clone(minimum), "teleport"), false}, "one twice": {append(slices.Clone(minimum), "quote"), false},
	} {
		if err := declares(t.Context(), &kit{Carrier: Carrier{Capabilities: c.declared}}); (err == nil) != c.holds {
			t.Error(name, err)
		}
	}
}

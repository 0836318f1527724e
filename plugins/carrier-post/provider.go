package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/customs"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/plugin"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Country     string   `json:"country"`
	Tariffs     string   `json:"tariffs"`
	Zones       string   `json:"zones"`
	FirstNumber int64    `json:"first_number"`
	SDR         []string `json:"sdr"`
	EventsDir   string   `json:"events_dir"`
	Union       []string `json:"customs_union"`
}

// lately are minor units of a special drawing right, rounded down: below its
// true value the fuller form is used, which is always right.
var lately = []string{"GBP=100", "EUR=115", "USD=130", "JPY=195"}

func rights(list []string) (map[string]int64, error) {
	if len(list) == 0 {
		list = lately
	}
	out := make(map[string]int64, len(list))
	for _, s := range list {
		currency, n, ok := strings.Cut(s, "=")
		v, err := strconv.ParseInt(n, 10, 64)
		if !ok || err != nil || v <= 0 || len(currency) != 3 || !letters(currency) {
			return nil, fmt.Errorf("%q: write a currency and the minor units of a special drawing right, like \"GBP=103\"", s)
		}
		out[currency] = v
	}
	return out, nil
}

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var s settings
	_ = json.Unmarshal(config, &s) // the types of the fields were looked at
	wrong := func(field, message string) {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: message})
	}
	if len(s.Country) != 2 || !letters(s.Country) || s.Country == "XX" {
		wrong("country", fmt.Sprintf("%q is no country; write its two capital letters (ISO 3166-1), like \"GB\"", s.Country))
	}
	if s.FirstNumber < 0 || s.FirstNumber > 99_999_999 {
		wrong("first_number", fmt.Sprintf("%d has not eight digits", s.FirstNumber))
	}
	if _, err := rights(s.SDR); err != nil {
		wrong("sdr", err.Error())
	}
	return found
}

// adapter is the provider of one instance. Its books open when nobody else has
// them any more:
// a process that is being replaced keeps them until it has drained.
type adapter struct {
	in    *plugin.Instance
	cfg   settings
	sdr   map[string]int64
	shelf *shelf

	opening sync.Mutex
	office  *office
	work    sync.WaitGroup
	ended   chan struct{}
}

func register(_ context.Context, in *plugin.Instance) error {
	a := &adapter{in: in, ended: make(chan struct{})}
	if err := in.Config(&a.cfg); err != nil {
		return err
	}
	if in.DataDir == "" {
		return errors.New("the post needs a folder for its books")
	}
	var err error
	if a.sdr, err = rights(a.cfg.SDR); err != nil {
		return err
	}
	if len(a.cfg.Union) == 0 {
		a.cfg.Union = customs.EuropeanUnion
	}
	a.shelf = &shelf{tariffs: a.cfg.Tariffs, zones: a.cfg.Zones}
	// At the start a broken table is an error; later the last good one serves.
	if _, err := a.shelf.tables(); err != nil {
		return err
	}
	providerv1connect.RegisterCarrierServiceHandler(in.Server, a)
	in.Check = func(context.Context) error {
		if _, err := a.shelf.tables(); err != nil {
			return fault.Downstream(connect.NewError(connect.CodeUnavailable, "a table cannot be read, the one before serves: "+err.Error()))
		}
		return nil
	}
	in.Close = a.close
	a.work.Go(func() { journal.TakeOver(a.ended, in.Log, a.open) })
	return nil
}

func (a *adapter) open(ctx context.Context) (*office, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.office != nil {
		return a.office, nil
	}
	j, all, err := journal.Open(filepath.Join(a.in.DataDir, "post.jsonl"), number, ctx.Done())
	if errors.Is(err, journal.ErrTorn) {
		a.in.Log.WarnContext(ctx, "journal", "error", err)
	} else if err != nil {
		return nil, fault.Downstream(connect.NewError(connect.CodeUnavailable, "the post cannot open its books").WithCause(err))
	}
	a.office = openOffice(a.cfg.Country, a.cfg.FirstNumber, j, all)
	if a.cfg.EventsDir != "" {
		work := context.WithoutCancel(ctx)
		a.work.Go(func() { a.watch(work, a.office, a.ended) })
	}
	return a.office, nil
}

func (a *adapter) close(context.Context) {
	close(a.ended)
	a.work.Wait()
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.office != nil {
		a.office.journal.Close()
	}
}

// foreign is the end of a way that is not the post's own country: what zones
// are about.
func (a *adapter) foreign(from, to *providerv1.Endpoint) string {
	if from.GetCountryCode() != a.cfg.Country {
		return from.GetCountryCode()
	}
	return to.GetCountryCode()
}

// Quote implements the contract.
func (a *adapter) Quote(_ context.Context, req *providerv1.QuoteRequest) (*providerv1.QuoteResponse, error) {
	res := &providerv1.QuoteResponse{}
	if !a.serves(req.GetFrom(), req.GetTo()) {
		return res, nil
	}
	t, _ := a.shelf.tables() // a broken edit is told by Check
	country := a.foreign(req.GetFrom(), req.GetTo())
	for _, service := range t.services() {
		if r := rate(t, service, country, req.GetParcels()); r != nil {
			res.Rates = append(res.Rates, r)
		}
	}
	return res, nil
}

// serves: a post carries from and to its own country.
func (a *adapter) serves(from, to *providerv1.Endpoint) bool {
	return from.GetCountryCode() == a.cfg.Country || to.GetCountryCode() == a.cfg.Country
}

// rate prices parcels with a service; nil when one of them cannot go with it.
func rate(t *tables, service, country string, parcels []*logisticsv1.Parcel) *providerv1.Rate {
	r := &providerv1.Rate{Service: service}
	r.MaxWeightGrams, r.MaxLengthMm, r.MaxGirthMm = t.limit(service, t.zone(country))
	for _, p := range parcels {
		price := t.price(service, country, p.GetWeightGrams(), p.GetLengthMm(), p.GetWidthMm(), p.GetHeightMm())
		if price == nil || r.GetTotal() != nil && r.GetTotal().GetCurrencyCode() != price.currency {
			return nil
		}
		if r.Total == nil {
			r.Total = &typev1.Money{CurrencyCode: price.currency}
		}
		r.Title, r.TransitDays = price.title, max(r.GetTransitDays(), price.days)
		r.Total.MinorUnits += price.minor
	}
	return r
}

// Book implements the contract.
func (a *adapter) Book(ctx context.Context, req *providerv1.BookRequest) (*providerv1.BookResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	t, _ := a.shelf.tables()
	country := a.foreign(req.GetFrom(), req.GetTo())
	l := line{Service: req.GetService()}
	prefix := ""
	for _, p := range req.GetParcels() {
		l.Parcels = append(l.Parcels, p.GetParcelId())
		if price := t.price(req.GetService(), country, p.GetWeightGrams(), p.GetLengthMm(), p.GetWidthMm(), p.GetHeightMm()); price != nil {
			prefix = price.prefix
		}
	}
	r := rate(t, req.GetService(), country, req.GetParcels())
	l.Minor, l.Currency = r.GetTotal().GetMinorUnits(), r.GetTotal().GetCurrencyCode()
	l.Code = a.refusal(req, r)
	print := fingerprint(append([]string{l.Service, req.GetFrom().GetCountryCode(), req.GetTo().GetCountryCode(), req.GetMerchantReference()}, l.Parcels...)...)
	v, err := o.take(req.GetKey(), print, prefix, l)
	if err != nil {
		return nil, refused(err)
	}
	b := outcome(v, false)
	if b.Documents, err = a.documents(req, v); err != nil {
		return nil, err
	}
	return &providerv1.BookResponse{Booking: b}, nil
}

// border tells whether it is declared to a customs office.
func (a *adapter) border(req *providerv1.BookRequest) bool {
	return customs.Border(req.GetFrom().GetCountryCode(), req.GetTo().GetCountryCode(), a.cfg.Union)
}

// refusal is why the post does not take it.
func (a *adapter) refusal(req *providerv1.BookRequest, r *providerv1.Rate) string {
	abroad := req.GetFrom().GetCountryCode() != req.GetTo().GetCountryCode()
	from, to := req.GetFrom().GetAddress(), req.GetTo().GetAddress()
	switch {
	case !a.serves(req.GetFrom(), req.GetTo()):
		return "not_served"
	case r == nil:
		return "no_tariff"
	case from == nil || to == nil:
		return "address_missing"
	case abroad && !(latin(from) && latin(to)):
		return "address_not_latin"
	case !a.border(req):
		return ""
	case req.GetCustoms() == nil:
		return "declaration_missing"
	default:
		for _, p := range req.GetParcels() {
			for _, it := range p.GetItems() {
				if it.GetDescription() == "" || it.GetValue() == nil {
					return "declaration_missing"
				}
			}
			if len(p.GetItems()) == 0 {
				return "declaration_missing"
			}
		}
	}
	return ""
}

// Lookup implements the contract.
func (a *adapter) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, cancelled, err := o.lookup(req.GetKey())
	if errors.Is(err, errUnknown) {
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "the post never saw this key")
	}
	if err != nil {
		return nil, refused(err)
	}
	return &providerv1.LookupResponse{Booking: outcome(v, cancelled)}, nil
}

// Cancel implements the contract.
func (a *adapter) Cancel(ctx context.Context, req *providerv1.CancelRequest) (*providerv1.CancelResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	return &providerv1.CancelResponse{}, refused(o.cancel(req.GetKey(), req.GetReference()))
}

// CreateManifest implements the contract.
func (a *adapter) CreateManifest(ctx context.Context, req *providerv1.CreateManifestRequest) (*providerv1.CreateManifestResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, items, err := o.hand(req.GetKey(), fingerprint(req.GetReferences()...), req.GetReferences())
	if err != nil {
		return nil, refused(err)
	}
	doc, err := a.manifest(v, items)
	if err != nil {
		return nil, err
	}
	return &providerv1.CreateManifestResponse{Reference: v.Reference, Document: doc}, nil
}

// SchedulePickup implements the contract.
func (a *adapter) SchedulePickup(ctx context.Context, req *providerv1.SchedulePickupRequest) (*providerv1.SchedulePickupResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, err := o.pickup(req.GetKey(), fingerprint(req.GetManifestReference(), req.GetFrom().String(), req.GetUntil().String()))
	if err != nil {
		return nil, refused(err)
	}
	return &providerv1.SchedulePickupResponse{Reference: v.Reference}, nil
}

// Track implements the contract.
func (a *adapter) Track(ctx context.Context, req *providerv1.TrackRequest) (*providerv1.TrackResponse, error) {
	o, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	all, err := o.scans(req.GetReference())
	if err != nil {
		return nil, refused(err)
	}
	res := &providerv1.TrackResponse{}
	for _, s := range all {
		res.Facts = append(res.Facts, fact(s))
	}
	return res, nil
}

// outcome is a booking as the contract has it. Documents are drawn by Book
// alone: the books hold no address.
func outcome(l line, cancelled bool) *providerv1.Booking {
	b := &providerv1.Booking{
		Key: l.Key, State: providerv1.Booking_STATE_BOOKED, Reference: l.Reference, Service: l.Service, At: timestamppb.New(l.At),
		TrackingNumbers: map[string]string{},
	}
	if l.Currency != "" {
		b.Total = &typev1.Money{CurrencyCode: l.Currency, MinorUnits: l.Minor}
	}
	switch {
	case l.Code != "":
		b.State, b.Code, b.Message = providerv1.Booking_STATE_REFUSED, l.Code, strings.ReplaceAll(l.Code, "_", " ")
	case cancelled:
		b.State = providerv1.Booking_STATE_CANCELLED
	}
	for i, item := range l.Items {
		b.TrackingNumbers[l.Parcels[i]] = item
	}
	return b
}

// refused makes the post's no a refusal.
func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errKeyReused):
		return fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "this key was used for something else")
	case errors.Is(err, errUnknown):
		return fault.New(connect.CodeNotFound, "BOOKING_UNKNOWN", "the post has no such booking")
	case errors.Is(err, errHanded):
		return fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "the post has taken it over")
	case errors.Is(err, errNumbersOut):
		return fault.New(connect.CodeFailedPrecondition, "NUMBERS_OUT", "the post has no item numbers left; it must be given others")
	}
	return fault.Downstream(connect.NewError(connect.CodeUnavailable, "the post cannot write its books").WithCause(err))
}

// fingerprint tells whether a key was used for the same. It is of nothing
// personal: it stays in the books.
func fingerprint(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:])
}

var _ providerv1connect.CarrierServiceHandler = (*adapter)(nil)

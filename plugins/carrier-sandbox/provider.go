package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/customs"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/webhook"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Currency     string `json:"currency"`
	Hour         string `json:"hour"`
	PriceMinor   int64  `json:"price_minor"`
	LostEvery    int64  `json:"lost_every"`
	ReturnEvery  int64  `json:"return_every"`
	AbsentEvery  int64  `json:"absent_every"`
	TimeoutEvery int64  `json:"timeout_every"`
	Untidy       bool   `json:"untidy"`
}

// validate looks at what a field's type does not say.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var s settings
	_ = json.Unmarshal(config, &s) // the types of the fields were looked at
	wrong := func(field, format string, args ...any) {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if _, known := money.Lookup(s.Currency); !known {
		wrong("currency", "%q is no currency; write its three capital letters (ISO 4217), like \"EUR\"", s.Currency)
	}
	if d, err := time.ParseDuration(s.Hour); s.Hour != "" && (err != nil || d < time.Millisecond || d > time.Hour) {
		wrong("hour", "%q is no hour of lorries; write between \"1ms\" and \"1h\"", s.Hour)
	}
	if s.PriceMinor < 0 || s.PriceMinor > 1_000_000 {
		wrong("price_minor", "%d; write between 1 and 1000000", s.PriceMinor)
	}
	return found
}

// adapter is the provider of one instance: it speaks the contract and turns to
// the company. The company opens when nobody else has its books any
// more: a process that is being replaced keeps them until it has drained.
type adapter struct {
	in     *plugin.Instance
	cfg    settings
	hour   time.Duration
	secret string
	wh     *standardwebhooks.Webhook

	opening sync.Mutex
	company *company
	sender  *webhook.Sender
	work    sync.WaitGroup
	ended   chan struct{}

	booked, carried atomic.Int64
}

func register(_ context.Context, in *plugin.Instance) error {
	a := &adapter{in: in, secret: in.Secrets["webhook_secret"], ended: make(chan struct{}), hour: time.Hour}
	if err := in.Config(&a.cfg); err != nil {
		return err
	}
	if in.DataDir == "" {
		return errors.New("the company needs a folder for its books")
	}
	if d, err := time.ParseDuration(a.cfg.Hour); err == nil {
		a.hour = d
	}
	if a.cfg.PriceMinor == 0 {
		a.cfg.PriceMinor = 500
	}
	if a.secret != "" {
		wh, err := standardwebhooks.NewWebhook(a.secret)
		if err != nil {
			return errors.New("webhook_secret is no secret of Standard Webhooks: want whsec_ and base64")
		}
		a.wh = wh
	}
	providerv1connect.RegisterCarrierServiceHandler(in.Server, a)
	in.Webhook = a.webhook
	in.Close = a.close
	a.work.Go(func() { journal.TakeOver(a.ended, in.Log, a.open) })
	return nil
}

// open reads the books, once, and sets the lorries going.
func (a *adapter) open(ctx context.Context) (*company, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.company != nil {
		return a.company, nil
	}
	j, all, err := journal.Open(filepath.Join(a.in.DataDir, "carrier.jsonl"), number, ctx.Done())
	if errors.Is(err, journal.ErrTorn) {
		a.in.Log.WarnContext(ctx, "journal", "error", err)
	} else if err != nil {
		return nil, fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company cannot open its books").WithCause(err))
	}
	if a.secret != "" {
		if a.sender, err = webhook.New(a.in.DataDir, a.in.PublicURL+"/webhooks/"+a.in.Name, a.secret, a.in.Log); err != nil {
			j.Close()
			return nil, err
		}
	}
	a.company = openCompany(j, all, a.hour, a.cfg.Untidy, a.sender != nil)
	a.company.branch = crc32.ChecksumIEEE([]byte(a.in.Name)) % 1000
	if a.sender != nil {
		a.sender.Start(ctx, a.company)
	}
	a.work.Go(func() { a.company.run(a.ended) })
	return a.company, nil
}

func (a *adapter) close(context.Context) {
	close(a.ended)
	a.work.Wait()
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.company == nil {
		return
	}
	if a.sender != nil {
		a.sender.Close()
	}
	a.company.journal.Close()
}

// Quote implements the contract.
func (a *adapter) Quote(_ context.Context, req *providerv1.QuoteRequest) (*providerv1.QuoteResponse, error) {
	res := &providerv1.QuoteResponse{}
	border := req.GetFrom().GetCountryCode() != req.GetTo().GetCountryCode()
	var grams []int32
	for _, p := range req.GetParcels() {
		if !fits(p.GetWeightGrams(), p.GetLengthMm(), p.GetWidthMm(), p.GetHeightMm()) {
			return res, nil
		}
		grams = append(grams, p.GetWeightGrams())
	}
	for _, s := range services {
		r := &providerv1.Rate{
			Service: s.name, Title: s.title, TransitDays: s.days, MaxWeightGrams: maxGrams, MaxLengthMm: maxLengthMM, MaxGirthMm: maxGirthMM,
			Total: &typev1.Money{CurrencyCode: a.cfg.Currency},
		}
		if border {
			r.TransitDays *= 3
		}
		for _, g := range grams {
			r.Total.MinorUnits += s.total(a.cfg.PriceMinor, g, border)
		}
		res.Rates = append(res.Rates, r)
	}
	return res, nil
}

// fits tells whether the company takes a parcel; sizes of 0 are not known.
func fits(grams, length, width, height int32) bool {
	return grams <= maxGrams && max(length, width, height) <= maxLengthMM && length+2*(width+height) <= maxGirthMM
}

// Book implements the contract.
func (a *adapter) Book(ctx context.Context, req *providerv1.BookRequest) (*providerv1.BookResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	w := wish(req.GetTo().GetAddress().GetRecipient())
	if w.silentBefore {
		return nil, silence()
	}
	l := line{
		Key: req.GetKey(), Merchant: req.GetMerchantReference(), Service: req.GetService(), From: req.GetFrom().GetCountryCode(),
		To: req.GetTo().GetCountryCode(), Return: req.GetReturn(), Currency: a.cfg.Currency, Code: w.code,
	}
	border := l.From != l.To
	var sold *service
	for i := range services {
		if services[i].name == req.GetService() {
			sold = &services[i]
		}
	}
	switch {
	case sold == nil:
		l.Code = "service_unknown"
	case req.GetFrom().GetAddress() == nil || req.GetTo().GetAddress() == nil:
		l.Code = "address_missing"
	case customs.Border(l.From, l.To, customs.EuropeanUnion) && req.GetCustoms() == nil:
		l.Code = "declaration_missing"
	}
	fates := make([]string, 0, len(req.GetParcels()))
	for _, p := range req.GetParcels() {
		if !fits(p.GetWeightGrams(), p.GetLengthMm(), p.GetWidthMm(), p.GetHeightMm()) {
			l.Code = "too_large"
		}
		l.Parcels = append(l.Parcels, parcel{ID: p.GetParcelId(), Grams: p.GetWeightGrams()})
		if sold != nil {
			l.Minor += sold.total(a.cfg.PriceMinor, p.GetWeightGrams(), border)
		}
		fates = append(fates, a.fate(w))
	}
	l.Fingerprint = fingerprint(lineBook, l.Service, l.From, l.To, l.Merchant, fmt.Sprint(l.Parcels))
	v, err := c.take(l, fates)
	switch {
	case errors.Is(err, errKeyReused):
		return nil, reused()
	case err != nil:
		return nil, unwritten(err)
	}
	if w.silentAfter || a.cfg.TimeoutEvery > 0 && a.booked.Add(1)%a.cfg.TimeoutEvery == 0 {
		return nil, silence()
	}
	b := outcome(v, false)
	if b.Documents, err = documents(req, v); err != nil {
		return nil, err
	}
	return &providerv1.BookResponse{Booking: b}, nil
}

// fate of the next parcel.
func (a *adapter) fate(w wished) string {
	if w.fate != "" {
		return w.fate
	}
	n := a.carried.Add(1)
	for _, f := range []struct {
		every int64
		fate  string
	}{{a.cfg.LostEvery, fateLost}, {a.cfg.ReturnEvery, fateReturn}, {a.cfg.AbsentEvery, fateAbsent}} {
		if f.every > 0 && n%f.every == 0 {
			return f.fate
		}
	}
	return ""
}

// Lookup implements the contract.
func (a *adapter) Lookup(ctx context.Context, req *providerv1.LookupRequest) (*providerv1.LookupResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, cancelled, err := c.lookup(req.GetKey())
	switch {
	case errors.Is(err, errUnknown):
		return nil, fault.New(connect.CodeNotFound, "KEY_UNKNOWN", "the company never saw this key")
	case err != nil:
		return nil, silence()
	}
	return &providerv1.LookupResponse{Booking: outcome(v, cancelled)}, nil
}

// Cancel implements the contract.
func (a *adapter) Cancel(ctx context.Context, req *providerv1.CancelRequest) (*providerv1.CancelResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	return &providerv1.CancelResponse{}, refused(c.cancel(req.GetKey(), req.GetReference()))
}

// CreateManifest implements the contract.
func (a *adapter) CreateManifest(ctx context.Context, req *providerv1.CreateManifestRequest) (*providerv1.CreateManifestResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.hand(req.GetKey(), fingerprint(append([]string{lineManifest}, req.GetReferences()...)...), req.GetReferences())
	if err != nil {
		return nil, refused(err)
	}
	doc, err := manifestDocument(v)
	if err != nil {
		return nil, err
	}
	return &providerv1.CreateManifestResponse{Reference: v.Reference, Document: doc}, nil
}

// SchedulePickup implements the contract.
func (a *adapter) SchedulePickup(ctx context.Context, req *providerv1.SchedulePickupRequest) (*providerv1.SchedulePickupResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.pickup(req.GetKey(), fingerprint(linePickup, req.GetManifestReference(), req.GetFrom().String(), req.GetUntil().String()))
	if err != nil {
		return nil, refused(err)
	}
	return &providerv1.SchedulePickupResponse{Reference: v.Reference}, nil
}

// Track implements the contract.
func (a *adapter) Track(ctx context.Context, req *providerv1.TrackRequest) (*providerv1.TrackResponse, error) {
	c, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.scans(req.GetReference())
	if err != nil {
		return nil, refused(err)
	}
	res := &providerv1.TrackResponse{}
	for _, s := range all {
		res.Facts = append(res.Facts, fact(s))
	}
	return res, nil
}

// webhook takes what the company sent to the public port: the signature is
// checked before anything is read.
func (a *adapter) webhook(ctx context.Context, req *pluginv1.HandleWebhookRequest) (*pluginv1.HandleWebhookResponse, error) {
	if a.wh == nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusNotFound}, nil
	}
	header := make(http.Header, len(req.GetHeaders()))
	for k, v := range req.GetHeaders() {
		header.Set(k, v)
	}
	if err := a.wh.Verify(req.GetBody(), header); err != nil {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusUnauthorized}, nil //nolint:nilerr // the sender is answered, the kernel is not at fault
	}
	var s scan
	if err := json.Unmarshal(req.GetBody(), &s); err != nil || s.Booking == "" || s.Tracking == "" {
		return &pluginv1.HandleWebhookResponse{Status: http.StatusBadRequest}, nil //nolint:nilerr // likewise
	}
	event := &providerv1.TrackingUpdated{Instance: a.in.Name, Reference: s.Booking, Facts: []*providerv1.Fact{fact(s)}}
	// An untidy company's webhooks are not deduplicated here: whoever hears of
	// them must bear it. Only a repetition after a crash has the same id.
	if err := a.in.Host.Publish(ctx, a.in.Name, event, header.Get(standardwebhooks.HeaderWebhookID)); err != nil {
		return nil, err
	}
	return &pluginv1.HandleWebhookResponse{}, nil
}

func fact(s scan) *providerv1.Fact {
	return &providerv1.Fact{
		FactId: s.ID, TrackingNumber: s.Tracking, Status: statuses[s.Code], Code: s.Code, Text: s.Text, Reason: s.Reason, Place: s.Place,
		CountryCode: s.Country, At: timestamppb.New(s.Happened),
	}
}

// outcome is a booking as the contract has it. Documents are drawn by Book
// alone: the books hold no address.
func outcome(l line, cancelled bool) *providerv1.Booking {
	b := &providerv1.Booking{
		Key: l.Key, State: providerv1.Booking_STATE_BOOKED, Reference: l.Reference, Service: l.Service, At: timestamppb.New(l.At),
		Total: &typev1.Money{CurrencyCode: l.Currency, MinorUnits: l.Minor}, TrackingNumbers: map[string]string{},
	}
	switch {
	case l.Code != "":
		b.State, b.Code, b.Message = providerv1.Booking_STATE_REFUSED, l.Code, strings.ReplaceAll(l.Code, "_", " ")
		return b
	case cancelled:
		b.State = providerv1.Booking_STATE_CANCELLED
	}
	for _, p := range l.Parcels {
		b.TrackingNumbers[p.ID] = p.Tracking
	}
	return b
}

// silence is a company that does not answer.
func silence() error {
	return fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company did not answer"))
}

func unwritten(err error) error {
	return fault.Downstream(connect.NewError(connect.CodeUnavailable, "the company cannot write its books").WithCause(err))
}

func reused() error {
	return fault.New(connect.CodeAlreadyExists, "KEY_REUSED", "this key was used for something else")
}

// refused makes the company's no a refusal.
func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errKeyReused):
		return reused()
	case errors.Is(err, errUnknown):
		return fault.New(connect.CodeNotFound, "BOOKING_UNKNOWN", "the company has no such booking")
	case errors.Is(err, errHanded):
		return fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "the company has taken it over")
	}
	return unwritten(err)
}

// fingerprint tells whether a key was used for the same. It is of nothing
// personal: it stays in the books.
func fingerprint(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:])
}

var _ providerv1connect.CarrierServiceHandler = (*adapter)(nil)

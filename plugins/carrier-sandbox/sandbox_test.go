package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/carriertest"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/webhook"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

type carrier struct {
	*plugintest.Module
	providerv1connect.CarrierServiceClient
	dir string
}

func open(t testing.TB, config map[string]any, opts ...plugintest.Option) carrier {
	t.Helper()
	c := map[string]any{"currency": "GBP", "hour": "1ms"}
	for k, v := range config {
		c[k] = v
	}
	dir := t.TempDir()
	m := plugintest.Start(t, provider(), append([]plugintest.Option{plugintest.Config(c), plugintest.DataDir(dir)}, opts...)...)
	return carrier{m, providerv1connect.NewCarrierServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "logistics"}})), dir}
}

func end(name, country string) *providerv1.Endpoint {
	return &providerv1.Endpoint{CountryCode: country, PostalCode: "E1 6AN", Address: &typev1.Address{
		Recipient: name, Lines: []string{"1 Quay Street"}, Locality: "Harbour", PostalCode: "E1 6AN", CountryCode: country,
	}}
}

func asked(key, name, country string) *providerv1.BookRequest {
	return &providerv1.BookRequest{
		Key: key, Service: "economy", From: end("Albion Gifts", "GB"), To: end(name, country), MerchantReference: "shp_" + key,
		Parcels: []*logisticsv1.Parcel{{ParcelId: "p1", WeightGrams: 800, Sscc: "106141411234567897"}, {ParcelId: "p2", WeightGrams: 1200}},
		Customs: &logisticsv1.CustomsData{Category: logisticsv1.CustomsData_CATEGORY_SALE_OF_GOODS},
	}
}

func (c carrier) book(t testing.TB, req *providerv1.BookRequest) *providerv1.Booking {
	t.Helper()
	res, err := c.Book(t.Context(), req)
	require.NoError(t, err)
	return res.GetBooking()
}

func (c carrier) hand(t testing.TB, key string, references ...string) {
	t.Helper()
	res, err := c.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: key, References: references})
	require.NoError(t, err)
	require.NotEmpty(t, res.GetDocument().GetContent())
}

// arrives waits until a booking's parcels have as many facts, and answers them.
func (c carrier) arrives(t testing.TB, reference string, facts int) []*providerv1.Fact {
	t.Helper()
	var got []*providerv1.Fact
	require.Eventually(t, func() bool {
		res, err := c.Track(t.Context(), &providerv1.TrackRequest{Reference: reference})
		require.NoError(t, err)
		got = res.GetFacts()
		return len(got) >= facts
	}, 20*time.Second, time.Millisecond)
	return got
}

// The kit of the contract; the company signs its webhooks.
func TestTheCompanyIsACarrier(t *testing.T) {
	t.Parallel()
	c := open(t, nil, plugintest.Secrets(map[string]string{"webhook_secret": secret}))
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	carriertest.Run(t, carriertest.Carrier{
		Client: c, Capabilities: carriertest.Declared(t, manifest), Home: "GB", Abroad: "DE", Service: "economy",
		Webhooks: pluginv1connect.NewWebhookServiceClient(c.Client(call.Info{})), Published: func() []proto.Message { return c.Published(t) },
		Webhook: func(b *providerv1.Booking) *pluginv1.HandleWebhookRequest {
			body, err := json.Marshal(scan{ID: "s1", Booking: b.GetReference(), Tracking: b.GetTrackingNumbers()["p1"], Code: "hub", Happened: time.Now()})
			require.NoError(t, err)
			now := time.Now()
			signature, err := wh.Sign("msg_1", now, body)
			require.NoError(t, err)
			return &pluginv1.HandleWebhookRequest{Instance: "carrier-sandbox", Method: http.MethodPost, Body: body, Headers: map[string]string{
				"Content-Type": "application/json", "Webhook-Id": "msg_1", "Webhook-Timestamp": strconv.FormatInt(now.Unix(), 10), "Webhook-Signature": signature,
			}}
		},
	})
}

// A parcel's number and its SSCC are read back from the label, and a manifest
// names its bookings.
func TestLabelsAndManifestsAreReadBack(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	b := c.book(t, asked("k1", "Jürgen Groß", "DE"))
	text, codes, err := carriertest.Read(t.Context(), b.GetDocuments()[0].GetContent())
	if errors.Is(err, carriertest.ErrNoReader) {
		t.Skip(err)
	}
	require.NoError(t, err)
	for _, want := range []string{b.GetTrackingNumbers()["p1"], b.GetTrackingNumbers()["p2"], "00106141411234567897"} {
		require.Contains(t, codes, want)
	}
	for _, want := range []string{"Jürgen Groß", "Albion Gifts", "1 of 2, 0.80 kg", "2 of 2, 1.20 kg", "shp_k1"} {
		require.Contains(t, text, want)
	}
	res, err := c.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: "m", References: []string{b.GetReference()}})
	require.NoError(t, err)
	text, codes, err = carriertest.Read(t.Context(), res.GetDocument().GetContent())
	require.NoError(t, err)
	require.Contains(t, codes, res.GetReference())
	require.Contains(t, text, b.GetReference())
}

func TestABookingIsLabelledAndAKeyIsHonouredForEver(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	b := c.book(t, asked("k1", "Erika", "DE"))
	require.Equal(t, providerv1.Booking_STATE_BOOKED, b.GetState())
	require.Len(t, b.GetTrackingNumbers(), 2)
	require.Len(t, b.GetDocuments(), 2)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			again := c.book(t, asked("k1", "Erika", "DE"))
			require.Equal(t, b.GetTrackingNumbers(), again.GetTrackingNumbers())
			require.Equal(t, b.GetDocuments()[1].GetContent(), again.GetDocuments()[1].GetContent(), "drawn again, the same")
		})
	}
	wg.Wait()
	other := asked("k1", "Erika", "DE")
	other.Service = "express"
	_, err := c.Book(t.Context(), other)
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
	looked, err := c.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.NoError(t, err)
	require.Equal(t, b.GetReference(), looked.GetBooking().GetReference())
	_, err = c.Lookup(t.Context(), &providerv1.LookupRequest{Key: "never"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestTheBooksHoldNoPerson(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	c.book(t, asked("k1", "Erika Mustermann", "DE"))
	all, err := os.ReadFile(filepath.Join(c.dir, "carrier.jsonl"))
	require.NoError(t, err)
	for _, s := range []string{"Erika", "Quay", "Harbour", "E1 6AN"} {
		require.NotContains(t, string(all), s)
	}
}

func TestWhatTheCompanyDoesNotCarryIsRefusedAndQuotedNothing(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	for code, spoil := range map[string]func(*providerv1.BookRequest){
		"too_large":           func(r *providerv1.BookRequest) { r.Parcels[0].WeightGrams = 40_000 },
		"service_unknown":     func(r *providerv1.BookRequest) { r.Service = "rocket" },
		"declaration_missing": func(r *providerv1.BookRequest) { r.Customs = nil },
		"address_missing":     func(r *providerv1.BookRequest) { r.To.Address = nil },
		"refused":             func(r *providerv1.BookRequest) { r.To.Address.Recipient = "Erika REFUSED" },
	} {
		req := asked(code, "Erika", "DE")
		spoil(req)
		b := c.book(t, req)
		require.Equal(t, providerv1.Booking_STATE_REFUSED, b.GetState(), code)
		require.Equal(t, code, b.GetCode())
		require.Empty(t, b.GetDocuments())
	}
	heavy, err := c.Quote(t.Context(), &providerv1.QuoteRequest{From: end("a", "GB"), To: end("b", "DE"), Parcels: []*logisticsv1.Parcel{{ParcelId: "p", WeightGrams: 40_000}}})
	require.NoError(t, err)
	require.Empty(t, heavy.GetRates())
}

func TestPricesRiseWithWeightAndAcrossBorders(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		light := rapid.Int32Range(1, maxGrams).Draw(t, "light")
		heavy := rapid.Int32Range(light, maxGrams).Draw(t, "heavy")
		price := func(to string, grams int32) int64 {
			res, err := c.Quote(context.Background(), &providerv1.QuoteRequest{
				From: end("a", "GB"), To: end("b", to), Parcels: []*logisticsv1.Parcel{{ParcelId: "p", WeightGrams: grams}},
			})
			require.NoError(t, err)
			require.Len(t, res.GetRates(), 2)
			return res.GetRates()[0].GetTotal().GetMinorUnits()
		}
		require.LessOrEqual(t, price("GB", light), price("GB", heavy))
		require.Less(t, price("GB", light), price("DE", light))
	})
}

func TestParcelsTravelOnceTheyAreHandedOver(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	b := c.book(t, asked("k1", "Erika", "DE"))
	res, err := c.Track(t.Context(), &providerv1.TrackRequest{Reference: b.GetReference()})
	require.NoError(t, err)
	require.Empty(t, res.GetFacts())
	c.hand(t, "m1", b.GetReference())
	facts := c.arrives(t, b.GetReference(), 12)
	require.Len(t, facts, 12, "six stops of two parcels")
	last := facts[len(facts)-1]
	require.Equal(t, providerv1.Status_STATUS_DELIVERED, last.GetStatus())
	require.Equal(t, "DE", last.GetCountryCode())
	_, err = c.Cancel(t.Context(), &providerv1.CancelRequest{Key: "c1", Reference: b.GetReference()})
	require.Equal(t, "HANDED_OVER", fault.Reason(err))
	_, err = c.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: "m2", References: []string{b.GetReference()}})
	require.Equal(t, "HANDED_OVER", fault.Reason(err), "on one manifest only")
}

func TestABookingIsCancelledOnceAndDoesNotTravel(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	b := c.book(t, asked("k1", "Erika", "GB"))
	for range 2 {
		_, err := c.Cancel(t.Context(), &providerv1.CancelRequest{Key: "c1", Reference: b.GetReference()})
		require.NoError(t, err)
	}
	res, err := c.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.NoError(t, err)
	require.Equal(t, providerv1.Booking_STATE_CANCELLED, res.GetBooking().GetState())
	_, err = c.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: "m1", References: []string{b.GetReference()}})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestParcelsEndAsTheirFateHasIt(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	for name, want := range map[string]providerv1.Status{
		"Erika LOST": providerv1.Status_STATUS_LOST, "Erika RETURNED": providerv1.Status_STATUS_RETURNED,
		"Erika ABSENT": providerv1.Status_STATUS_DELIVERED, "Erika DELAYED": providerv1.Status_STATUS_DELIVERED,
	} {
		req := asked(name, name, "GB")
		req.Parcels = req.GetParcels()[:1]
		b := c.book(t, req)
		c.hand(t, name, b.GetReference())
		require.Eventually(t, func() bool {
			res, err := c.Track(t.Context(), &providerv1.TrackRequest{Reference: b.GetReference()})
			require.NoError(t, err)
			n := len(res.GetFacts())
			return n > 0 && res.GetFacts()[n-1].GetStatus() == want
		}, 20*time.Second, time.Millisecond, name)
	}
}

func TestWhatConsumersSendBackTravelsByItself(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	req := asked("k1", "Returns desk", "GB")
	req.Return = true
	b := c.book(t, req)
	c.arrives(t, b.GetReference(), 8)
}

func TestACompanyThatDoesNotAnswerMayHaveBooked(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	for name, acted := range map[string]bool{"TIMEOUT-AFTER": true, "TIMEOUT-BEFORE": false} {
		_, err := c.Book(t.Context(), asked(name, name, "GB"))
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
		require.True(t, fault.IsDownstream(err))
		_, err = c.Lookup(t.Context(), &providerv1.LookupRequest{Key: name})
		require.Equal(t, acted, err == nil, name)
	}
}

// The company dies on the way; the next process goes on with the same scans,
// none of them twice.
func TestTheLorriesGoOnAfterACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	books := func() (*company, *journal.Journal[line]) {
		j, all, err := journal.Open(filepath.Join(dir, "carrier.jsonl"), number, nil)
		require.NoError(t, err)
		return openCompany(j, all, time.Minute, false, false), j
	}
	c, j := books()
	l, err := c.take(line{Key: "k", From: "GB", To: "GB", Parcels: []parcel{{ID: "p", Grams: 5}}}, []string{""})
	require.NoError(t, err)
	_, err = c.hand("m", "m", []string{l.Reference})
	require.NoError(t, err)
	handed := c.bookings[l.Reference].handed
	c.scanDue(handed.Add(3 * time.Minute))
	before, err := c.scans(l.Reference)
	require.NoError(t, err)
	require.Len(t, before, 2)
	j.Close()
	c, j = books()
	defer j.Close()
	c.scanDue(handed.Add(time.Hour))
	after, err := c.scans(l.Reference)
	require.NoError(t, err)
	require.Equal(t, before, after[:2])
	require.Len(t, after, 4)
	_, err = c.hand("m", "m", []string{l.Reference})
	require.NoError(t, err, "the same manifest again is the same")
	require.Empty(t, c.plans)
}

func TestAnUntidyCompanyTellsTwiceAndLate(t *testing.T) {
	t.Parallel()
	m := plugintest.Start(t, provider(), plugintest.Config(map[string]any{"currency": "GBP"}), plugintest.Secrets(map[string]string{"webhook_secret": secret}))
	hooks := pluginv1connect.NewWebhookServiceClient(m.Client(call.Info{}))
	told := make(chan struct{}, 64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		req := &pluginv1.HandleWebhookRequest{Instance: "carrier-sandbox", Method: r.Method, Body: body, Headers: map[string]string{}}
		for k := range r.Header {
			req.Headers[k] = r.Header.Get(k)
		}
		forged := &pluginv1.HandleWebhookRequest{Instance: "carrier-sandbox", Body: append([]byte(" "), body...), Headers: req.GetHeaders()}
		if res, err := hooks.HandleWebhook(context.Background(), forged); err != nil || res.GetStatus() != http.StatusUnauthorized {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if _, err := hooks.HandleWebhook(context.Background(), req); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		told <- struct{}{}
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	j, all, err := journal.Open(filepath.Join(dir, "carrier.jsonl"), number, nil)
	require.NoError(t, err)
	t.Cleanup(j.Close)
	c := openCompany(j, all, time.Minute, true, true)
	s, err := webhook.New(dir, srv.URL, secret, slog.Default())
	require.NoError(t, err)
	s.Start(t.Context(), c)
	l, err := c.take(line{Key: "k", From: "GB", To: "GB", Parcels: []parcel{{ID: "p", Grams: 5}}}, []string{""})
	require.NoError(t, err)
	_, err = c.hand("m", "m", []string{l.Reference})
	require.NoError(t, err)
	c.scanDue(time.Now().Add(time.Hour))
	for range 8 {
		<-told
	}
	s.Close()
	var codes []string
	for _, e := range m.Published(t) {
		u := e.(*providerv1.TrackingUpdated)
		require.Equal(t, l.Reference, u.GetReference())
		codes = append(codes, u.GetFacts()[0].GetCode())
	}
	require.Equal(t, []string{"handed_over", "handed_over", "hub", "hub", "delivered", "delivered", "out", "out"}, codes)
}

func TestAConfigurationIsLookedAt(t *testing.T) {
	t.Parallel()
	for config, field := range map[string]string{
		`{"currency": "GBP"}`: "", `{"currency": "YEN"}`: "currency", `{"currency": "GBP", "hour": "2h"}`: "hour",
		`{"currency": "GBP", "hour": "x"}`: "hour", `{"currency": "GBP", "price_minor": -1}`: "price_minor",
	} {
		found := provider().Validate(json.RawMessage(config))
		if field == "" {
			require.Empty(t, found, config)
			continue
		}
		require.Len(t, found, 1, config)
		require.Equal(t, field, found[0].GetField())
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/carriertest"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/journal"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

type post struct {
	*plugintest.Module
	providerv1connect.CarrierServiceClient
	dir string
}

func open(t testing.TB, config map[string]any) post {
	t.Helper()
	return openIn(t, t.TempDir(), config)
}

// openIn opens a post whose books are in a folder.
func openIn(t testing.TB, dir string, config map[string]any) post {
	t.Helper()
	c := map[string]any{"country": "GB"}
	for k, v := range config {
		c[k] = v
	}
	m := plugintest.Start(t, provider(), plugintest.Config(c), plugintest.DataDir(dir))
	return post{m, providerv1connect.NewCarrierServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "logistics"}})), dir}
}

func end(name, country string) *providerv1.Endpoint {
	return &providerv1.Endpoint{CountryCode: country, Address: &typev1.Address{
		Recipient: name, Lines: []string{"Musterstraße 1"}, Locality: "Köln", PostalCode: "51147", CountryCode: country, Email: "e@example.com",
	}}
}

func gbp(n int64) *typev1.Money { return &typev1.Money{CurrencyCode: "GBP", MinorUnits: n} }

func asked(key, country string, value int64) *providerv1.BookRequest {
	return &providerv1.BookRequest{
		Key: key, Service: "parcel", From: end("Albion Gifts", "GB"), To: end("Jürgen Groß", country), MerchantReference: "shp_" + key,
		Parcels: []*logisticsv1.Parcel{{ParcelId: "p1", WeightGrams: 1500, Items: []*logisticsv1.Item{{
			Description: "Ceramic cup, white", Quantity: 3, NetWeightGrams: 1200, Value: gbp(value), HsCode: "691200", OriginCountry: "CN",
		}}}},
		Customs: &logisticsv1.CustomsData{
			Category: logisticsv1.CustomsData_CATEGORY_SALE_OF_GOODS, InvoiceNumber: "ord_1", EoriNumber: "GB123456789000", LicenceNumber: "LIC-7",
			CertificateNumber: "CERT-9", Comments: "no quarantine", IossNumber: "IM3720000224",
		},
	}
}

func (p post) book(t testing.TB, req *providerv1.BookRequest) *providerv1.Booking {
	t.Helper()
	res, err := p.Book(t.Context(), req)
	require.NoError(t, err)
	return res.GetBooking()
}

func TestItemNumbersAreOfS10(t *testing.T) {
	t.Parallel()
	for want, n := range map[string]int64{"RB123456785GB": 12345678, "RR473124829GB": 47312482} {
		got, err := s10(want[:2], n, "GB")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, bad := range []struct {
		prefix, country string
		n               int64
	}{{"R", "GB", 1}, {"rr", "GB", 1}, {"RR", "G1", 1}, {"RR", "GB", 0}, {"RR", "GB", 100_000_000}} {
		_, err := s10(bad.prefix, bad.n, bad.country)
		require.Error(t, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 99_999_999).Draw(t, "n")
		item, err := s10("CP", n, "JP")
		require.NoError(t, err)
		require.Len(t, item, 13)
		require.Equal(t, s10Check(item[2:10]), item[10])
		// A single wrong digit is seen, but where 11 and 0 share the 5 and 0.
		at, by := rapid.IntRange(2, 9).Draw(t, "at"), rapid.IntRange(1, 9).Draw(t, "by")
		wrong := []byte(item)
		wrong[at] = '0' + (wrong[at]-'0'+byte(by))%10
		if item[10] != '5' && item[10] != '0' && s10Check(string(wrong[2:10])) == item[10] {
			t.Fatalf("%s passes as %s", wrong, item)
		}
	})
}

func TestNoTwoItemsShareANumber(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "post.jsonl")
	seen := map[string]bool{}
	for round := range 3 {
		j, all, err := journal.Open(path, number, nil)
		require.NoError(t, err)
		o := openOffice("GB", 500, j, all)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				key := fmt.Sprintf("%d-%d", round, i)
				l, err := o.take(key, "f", "CP", line{Parcels: []string{"a", "b"}})
				require.NoError(t, err)
				again, err := o.take(key, "f", "CP", line{Parcels: []string{"a", "b"}})
				require.NoError(t, err)
				require.Equal(t, l.Items, again.Items)
				mu.Lock()
				defer mu.Unlock()
				for _, item := range l.Items {
					require.False(t, seen[item], item)
					require.GreaterOrEqual(t, item[2:10], "00000500")
					seen[item] = true
				}
			})
		}
		wg.Wait()
		j.Close()
	}
	require.Len(t, seen, 240)
}

func TestAnOfficeWithoutNumbersSaysSo(t *testing.T) {
	t.Parallel()
	p := open(t, map[string]any{"first_number": 99_999_999})
	p.book(t, asked("k1", "GB", 100))
	_, err := p.Book(t.Context(), asked("k2", "GB", 100))
	require.Equal(t, "NUMBERS_OUT", fault.Reason(err))
}

func TestAHeavierItemNeverCostsLess(t *testing.T) {
	t.Parallel()
	tables, err := (&shelf{}).tables()
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		light := rapid.Int32Range(1, 30_000).Draw(t, "light")
		heavy := rapid.Int32Range(light, 30_000).Draw(t, "heavy")
		service, country := rapid.SampledFrom(tables.services()).Draw(t, "service"), rapid.SampledFrom([]string{"GB", "DE", "JP", "ZZ"}).Draw(t, "country")
		a, b := tables.price(service, country, light, 0, 0, 0), tables.price(service, country, heavy, 0, 0, 0)
		if b != nil {
			require.NotNil(t, a)
			require.LessOrEqual(t, a.minor, b.minor)
		}
	})
	require.Nil(t, tables.price("letter", "GB", 751, 0, 0, 0))
	require.Nil(t, tables.price("letter", "GB", 10, 700, 0, 0), "too long")
	require.EqualValues(t, 165, tables.price("letter", "GB", 100, 0, 0, 0).minor)
	require.EqualValues(t, 270, tables.price("letter", "GB", 101, 0, 0, 0).minor)
}

func TestABrokenTableNamesItsPlace(t *testing.T) {
	t.Parallel()
	const header = "service,title,prefix,zone,max_grams,price_minor,currency,days,max_length_mm,max_girth_mm\n"
	for file, want := range map[string]string{
		"": "t.csv: empty", "a,b\n": "t.csv:1: ", header: "t.csv: no tariff",
		header + "x,X,CP,home,100,1,GBP,1,0\n":                                "t.csv:2: wrong number of fields",
		header + "x,X,CP,home,100,1,GBP,1,0,0\nx,X,C1,home,100,1,GBP,1,0,0\n": `t.csv:3: prefix "C1"`,
		header + "x,X,CP,home,100,-1,GBP,1,0,0\n":                             `t.csv:2: "-1" is no whole number`,
		header + "x,X,CP,home,100,1,GPB,1,0,0\n":                              `t.csv:2: currency "GPB"`,
		header + "x,X,CP,home,0,1,GBP,1,0,0\n":                                "t.csv:2: max_grams",
		header + "x,X,CP,,100,1,GBP,1,0,0\n":                                  "t.csv:2: a service",
	} {
		_, err := parseTariffs("t.csv", []byte(file))
		require.ErrorContains(t, err, want)
	}
	for file, want := range map[string]string{"country,zone\nDE,x\nDE,y\n": "z.csv:3: country DE stands twice", "country,zone\nde,x\n": `z.csv:2: country "de"`} {
		_, err := parseZones("z.csv", []byte(file))
		require.ErrorContains(t, err, want)
	}
}

// The operator edits while the post is open: a good edit counts at once, a
// broken one changes nothing and is told.
func TestTablesAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tariffs.csv")
	write := func(row string, at int64) {
		require.NoError(t, os.WriteFile(path, []byte("service,title,prefix,zone,max_grams,price_minor,currency,days,max_length_mm,max_girth_mm\n"+row+"\n"), 0o600))
		require.NoError(t, os.Chtimes(path, time.Unix(at, 0), time.Unix(at, 0)))
	}
	write("parcel,Parcel,CP,home,1000,100,GBP,1,0,0", 1)
	s := &shelf{tariffs: path}
	price := func() int64 {
		tables, _ := s.tables()
		return tables.price("parcel", "GB", 500, 0, 0, 0).minor
	}
	require.EqualValues(t, 100, price())
	write("parcel,Parcel,CP,home,1000,200,GBP,1,0,0", 2)
	require.EqualValues(t, 200, price())
	write("parcel,Parcel,CP,home,1000,x,GBP,1,0,0", 3)
	require.EqualValues(t, 200, price())
	_, err := s.tables()
	require.ErrorContains(t, err, "tariffs.csv:2")
	require.NoError(t, os.Remove(path))
	require.EqualValues(t, 200, price())
}

func TestWhatThePostDoesNotCarryIsRefused(t *testing.T) {
	t.Parallel()
	p := open(t, nil)
	for code, spoil := range map[string]func(*providerv1.BookRequest){
		"no_tariff":           func(r *providerv1.BookRequest) { r.Parcels[0].WeightGrams = 31_000 },
		"not_served":          func(r *providerv1.BookRequest) { r.From = end("x", "FR") },
		"address_missing":     func(r *providerv1.BookRequest) { r.To.Address = nil },
		"address_not_latin":   func(r *providerv1.BookRequest) { r.To.Address.Recipient = "見本 太郎" },
		"declaration_missing": func(r *providerv1.BookRequest) { r.Customs = nil },
	} {
		req := asked(code, "DE", 100)
		spoil(req)
		b := p.book(t, req)
		require.Equal(t, code, b.GetCode())
		require.Equal(t, providerv1.Booking_STATE_REFUSED, b.GetState())
		require.Equal(t, code, p.book(t, req).GetCode(), "and stays so")
	}
	b := p.book(t, func() *providerv1.BookRequest {
		r := asked("odd", "DE", 100)
		r.To.Address.Lines = []string{"a\nb\x01c"}
		return r
	}())
	require.Equal(t, providerv1.Booking_STATE_BOOKED, b.GetState(), "what cannot be printed is left out")
}

func TestLabelsAndFormsAreReadBack(t *testing.T) {
	t.Parallel()
	p := open(t, nil)
	low, high := p.book(t, asked("low", "DE", 29_999)), p.book(t, asked("high", "DE", 30_000))
	names := func(b *providerv1.Booking) (all []string) {
		for _, d := range b.GetDocuments() {
			all = append(all, d.GetName())
		}
		return all
	}
	require.Equal(t, []string{"label-pdf", "label-zpl", "cn22"}, names(low))
	require.Equal(t, []string{"label-pdf", "label-zpl", "cn23"}, names(high))
	require.Equal(t, []string{"label-pdf", "label-zpl"}, names(p.book(t, asked("home", "GB", 30_000))))

	item := high.GetTrackingNumbers()["p1"]
	codes := scanned(t, high.GetDocuments()[0].GetContent())
	require.Equal(t, 2, strings.Count(codes, item), "as Code 128 and as QR: %s", codes)
	text := run(t, high.GetDocuments()[0].GetContent(), "pdftotext", "-layout", "{}", "-")
	require.Contains(t, text, "Jürgen Groß")
	require.Contains(t, text, "51147 KÖLN")

	cn23 := high.GetDocuments()[2].GetContent()
	require.Contains(t, scanned(t, cn23), item)
	text = strings.Join(strings.Fields(run(t, cn23, "pdftotext", "-layout", "{}", "-")), " ")
	// Every field of the form.
	for _, s := range []string{
		"CN 23", "Albion Gifts, Musterstraße 1, 51147 KÖLN, GB", "GB123456789000", "Jürgen Groß", "e@example.com", "Sale of goods",
		"Ceramic cup, white", "3", "1.200 kg", "691200", "CN", "1.500 kg", "300.00", "no quarantine", "LIC-7", "CERT-9", "ord_1", "13.90", "GB, 20",
		"signature",
	} {
		require.Contains(t, text, s)
	}
	require.NotContains(t, text, "IM3720000224", "the IOSS number is sent as data and never printed")
	again := p.book(t, asked("high", "DE", 30_000))
	require.Equal(t, high.GetDocuments()[1].GetContent(), again.GetDocuments()[1].GetContent(), "drawn again, the same")
}

// scanned reads every barcode of a PDF's first page.
func scanned(t *testing.T, pdf []byte) string {
	t.Helper()
	dir := t.TempDir()
	run(t, pdf, "pdftoppm", "-r", "200", "-png", "-f", "1", "-l", "1", "{}", filepath.Join(dir, "page"))
	pages, err := filepath.Glob(filepath.Join(dir, "page*.png"))
	require.NoError(t, err)
	return run(t, nil, "zbarimg", "-q", "--raw", pages[0])
}

func run(t *testing.T, doc []byte, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not on this machine: scripts/setup-readers installs it", program)
	}
	path := filepath.Join(t.TempDir(), "doc.pdf")
	require.NoError(t, os.WriteFile(path, doc, 0o600))
	for i, a := range args {
		if a == "{}" {
			args[i] = path
		}
	}
	out, err := exec.Command(program, args...).Output()
	require.NoError(t, err)
	return string(out)
}

// The kit of the contract, with scanners that see what was handed over.
func TestThePostIsACarrier(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, map[string]any{"events_dir": dir})
	var mu sync.Mutex
	carriertest.Run(t, carriertest.Carrier{
		Client: p, Capabilities: carriertest.Declared(t, manifest), Home: "GB", Abroad: "DE", Service: "parcel",
		Move: func(_ context.Context, b *providerv1.Booking) error {
			mu.Lock()
			defer mu.Unlock()
			f, err := os.OpenFile(filepath.Join(dir, "office.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			for _, item := range b.GetTrackingNumbers() {
				for _, code := range []string{"EMA", "EMI"} {
					if _, err := fmt.Fprintf(f, "{\"item\":%q,\"event\":%q,\"at\":\"2026-11-01T10:00:00Z\"}\n", item, code); err != nil {
						return err
					}
				}
			}
			return f.Close()
		},
	})
}

// Which form an item has follows from where it goes and what it is worth: the
// limit is in special drawing rights, and a currency without a rate has the
// fuller one, which is always right.
func TestTheFormFollowsFromValueAndDestination(t *testing.T) {
	t.Parallel()
	p, inside := open(t, nil), open(t, map[string]any{"country": "DE"})
	for i, c := range []struct {
		p        post
		from, to string
		value    *typev1.Money
		want     []string
	}{
		{p, "GB", "GB", gbp(1_000_000), nil},
		{p, "GB", "DE", gbp(29_999), []string{"cn22"}},
		{p, "GB", "DE", gbp(30_000), []string{"cn23"}},
		{p, "DE", "GB", &typev1.Money{CurrencyCode: "EUR", MinorUnits: 34_499}, []string{"cn22"}}, // 300 at 1.15
		{p, "DE", "GB", &typev1.Money{CurrencyCode: "EUR", MinorUnits: 34_500}, []string{"cn23"}},
		{p, "GB", "JP", &typev1.Money{CurrencyCode: "CHF", MinorUnits: 100}, []string{"cn23"}},
		{inside, "DE", "FR", &typev1.Money{CurrencyCode: "EUR", MinorUnits: 1_000_000}, nil},
		{inside, "DE", "CH", &typev1.Money{CurrencyCode: "EUR", MinorUnits: 100}, []string{"cn22"}},
	} {
		req := asked(fmt.Sprint("form", i), c.to, 0)
		req.From, req.Parcels[0].Items[0].Value = end("Albion Gifts", c.from), c.value
		b := c.p.book(t, req)
		require.Equal(t, providerv1.Booking_STATE_BOOKED, b.GetState(), "%+v: %s", c, b.GetCode())
		var forms []string
		for _, d := range b.GetDocuments() {
			if strings.HasPrefix(d.GetName(), "cn") {
				forms = append(forms, d.GetName())
			}
		}
		require.Equal(t, c.want, forms, "%s to %s, %v", c.from, c.to, c.value)
	}
	// Inside the union nothing need be declared at all.
	req := asked("inside", "FR", 100)
	req.From, req.Customs, req.Parcels[0].Items = end("Albion Gifts", "DE"), nil, nil
	require.Equal(t, providerv1.Booking_STATE_BOOKED, inside.book(t, req).GetState())
}

// The short form and the manifest as readers that did not draw them have them.
func TestTheShortFormAndTheManifestAreReadBack(t *testing.T) {
	t.Parallel()
	p := open(t, nil)
	b := p.book(t, asked("low", "DE", 29_999))
	item := b.GetTrackingNumbers()["p1"]
	text := strings.Join(strings.Fields(run(t, b.GetDocuments()[2].GetContent(), "pdftotext", "-layout", "{}", "-")), " ")
	for _, s := range []string{"CN 22", "Sale of goods", "Ceramic cup, white", "3", "1.200 kg", "299.99", "691200", "CN", "1.500 kg", "signature"} {
		require.Contains(t, text, s)
	}
	require.NotContains(t, text, "IM3720000224")
	require.Contains(t, scanned(t, b.GetDocuments()[2].GetContent()), item)
	res, err := p.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: "m", References: []string{b.GetReference()}})
	require.NoError(t, err)
	require.Contains(t, scanned(t, res.GetDocument().GetContent()), res.GetReference())
	text = run(t, res.GetDocument().GetContent(), "pdftotext", "-layout", "{}", "-")
	require.Contains(t, strings.ReplaceAll(text, " ", ""), item)
}

func TestABookingIsCancelledUntilItIsHandedOver(t *testing.T) {
	t.Parallel()
	p := open(t, nil)
	b, c := p.book(t, asked("k1", "DE", 100)), p.book(t, asked("k2", "DE", 100))
	for range 2 {
		_, err := p.Cancel(t.Context(), &providerv1.CancelRequest{Key: "c1", Reference: b.GetReference()})
		require.NoError(t, err)
	}
	hand := func(key, ref string) error {
		_, err := p.CreateManifest(t.Context(), &providerv1.CreateManifestRequest{Key: key, References: []string{ref}})
		return err
	}
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(hand("m1", b.GetReference())))
	require.NoError(t, hand("m2", c.GetReference()))
	require.NoError(t, hand("m2", c.GetReference()), "the same manifest again")
	require.Equal(t, "HANDED_OVER", fault.Reason(hand("m3", c.GetReference())))
	_, err := p.Cancel(t.Context(), &providerv1.CancelRequest{Key: "c2", Reference: c.GetReference()})
	require.Equal(t, "HANDED_OVER", fault.Reason(err))
	looked, err := p.Lookup(t.Context(), &providerv1.LookupRequest{Key: "k1"})
	require.NoError(t, err)
	require.Equal(t, providerv1.Booking_STATE_CANCELLED, looked.GetBooking().GetState())
}

// Scanners append to files; each event is told once, across restarts, in the
// order of the file; what is half written or broken holds up nothing.
func TestScanningFilesAreFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, map[string]any{"events_dir": dir})
	b := p.book(t, asked("k1", "DE", 100))
	item := b.GetTrackingNumbers()["p1"]
	file := filepath.Join(dir, "berlin.jsonl")
	add := func(s string) {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		_, err = f.WriteString(s)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	event := func(code string) string {
		return fmt.Sprintf(`{"item":%q,"event":%q,"at":"2026-11-01T10:00:00Z","office":"Berlin","country":"DE","reason":"no such"}`, item, code) + "\n"
	}
	add(event("EMA") + "rubbish\n" + event("EMD") + event("XXX") + `{"item":"CP000000000XX"`)
	codes := func() (all []string) {
		for _, e := range p.Published(t) {
			u := e.(*providerv1.TrackingUpdated)
			require.Equal(t, b.GetReference(), u.GetReference())
			all = append(all, u.GetFacts()[0].GetCode()+" "+u.GetFacts()[0].GetStatus().String())
		}
		return all
	}
	require.Eventually(t, func() bool { return len(codes()) == 3 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, []string{"EMA STATUS_HANDED_OVER", "EMD STATUS_IN_TRANSIT", "XXX STATUS_UNSPECIFIED"}, codes())
	add(`,"event":"EMI","at":"2026-11-02T10:00:00Z"}` + "\n" + event("EMI"))
	require.Eventually(t, func() bool { return len(codes()) == 4 }, 20*time.Second, 10*time.Millisecond, "an item of another post is passed over")
	res, err := p.Track(t.Context(), &providerv1.TrackRequest{Reference: b.GetReference()})
	require.NoError(t, err)
	require.Len(t, res.GetFacts(), 4)
	require.Equal(t, "OTHER", res.GetFacts()[3].GetReason())
	_, err = p.Cancel(t.Context(), &providerv1.CancelRequest{Key: "c", Reference: b.GetReference()})
	require.Equal(t, "HANDED_OVER", fault.Reason(err), "it was seen on its way")
}

// What a scanner writes by mistake holds up nothing: too long a line, an office
// whose name is cut in the middle of a letter, a country that is none.
func TestNoScanHoldsUpTheNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := open(t, map[string]any{"events_dir": dir})
	b := p.book(t, asked("k1", "DE", 100))
	item := b.GetTrackingNumbers()["p1"]
	line := func(event, office string) string {
		return fmt.Sprintf(`{"item":%q,"event":%q,"at":"2026-11-01T10:00:00Z","office":%q,"country":"Utopia"}`, item, event, office) + "\n"
	}
	file := line("EMA", strings.Repeat("é", 99)+"地"+"地") + strings.Repeat("x", 10_000) + "\n" + line("EME", "") + line("EMB", strings.Repeat("y", 5000)) + line("EMI", "Berlin")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.jsonl"), []byte(file), 0o600))
	require.Eventually(t, func() bool { return len(p.Published(t)) == 3 }, 20*time.Second, 10*time.Millisecond)
	var codes, reasons []string
	for _, e := range p.Published(t) {
		f := e.(*providerv1.TrackingUpdated).GetFacts()[0]
		codes, reasons = append(codes, f.GetCode()), append(reasons, f.GetReason())
		require.LessOrEqual(t, len([]rune(f.GetPlace())), 100)
	}
	require.Equal(t, []string{"EMA", "EME", "EMI"}, codes)
	require.Equal(t, []string{"", "CUSTOMS_HELD", ""}, reasons)
}

// After a restart the scanning files are followed whether anybody calls or not.
func TestScanningFilesAreFollowedBeforeAnybodyCalls(t *testing.T) {
	t.Parallel()
	books, scans := t.TempDir(), t.TempDir()
	first := openIn(t, books, map[string]any{"events_dir": scans})
	b := first.book(t, asked("k1", "DE", 100))
	first.Stop()
	line := fmt.Sprintf(`{"item":%q,"event":"EMA","at":"2026-11-01T10:00:00Z","office":"Berlin","country":"DE"}`, b.GetTrackingNumbers()["p1"])
	require.NoError(t, os.WriteFile(filepath.Join(scans, "berlin.jsonl"), []byte(line+"\n"), 0o600))
	next := openIn(t, books, map[string]any{"events_dir": scans})
	require.Eventually(t, func() bool { return len(next.Published(t)) == 1 }, 20*time.Second, 10*time.Millisecond)
}

func TestTheBooksHoldNoPerson(t *testing.T) {
	t.Parallel()
	p := open(t, nil)
	p.book(t, asked("k1", "DE", 100))
	all, err := os.ReadFile(filepath.Join(p.dir, "post.jsonl"))
	require.NoError(t, err)
	for _, s := range []string{"Jürgen", "Muster", "Köln", "51147", "example.com"} {
		require.NotContains(t, string(all), s)
	}
}

func TestAConfigurationIsLookedAt(t *testing.T) {
	t.Parallel()
	for config, field := range map[string]string{
		`{"country": "GB"}`: "", `{"country": "gb"}`: "country", `{"country": "XX"}`: "country",
		`{"country": "GB", "first_number": 100000000}`: "first_number", `{"country": "GB", "sdr": ["GBP"]}`: "sdr", `{"country": "GB", "sdr": ["GBP=104"]}`: "",
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

func FuzzTariffs(f *testing.F) {
	b, err := examples.ReadFile("tables/tariffs.csv")
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte("service,title\n\"x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := parseTariffs("t", b)
		require.True(t, err != nil || len(rows) > 0)
	})
}

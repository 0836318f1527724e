package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1/providerv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/customs"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

// contract is what carriers serve.
const contract = "entrepot.logistics.provider.v1"

// service serves entrepot.logistics.v1. Safe for concurrent use.
type service struct {
	in       *plugin.Instance
	db       *store.DB
	host     *host.Host
	carriers providerv1connect.CarrierServiceClient

	quoteTimeout, bookTimeout time.Duration
	// How long a carrier may be silent: pollAfter one that tells on its own
	// account, pollEvery one that must be asked, staleAfter before a person is.
	pollAfter, pollEvery, staleAfter time.Duration
	prefer                           map[string]logisticsv1.Rule_Prefer
	union                            []string

	breaker breaker
	// watching bounds streams.
	watching chan struct{}
	ended    chan struct{}
	work     sync.WaitGroup
}

func register(_ context.Context, in *plugin.Instance) error {
	var cfg struct {
		QuoteTimeout string   `json:"quote_timeout"`
		BookTimeout  string   `json:"book_timeout"`
		PollAfter    string   `json:"poll_after"`
		PollEvery    string   `json:"poll_every"`
		StaleAfter   string   `json:"stale_after"`
		Prefer       []string `json:"prefer"`
		CustomsUnion []string `json:"customs_union"`
	}
	if err := in.Config(&cfg); err != nil {
		return err
	}
	s := &service{
		in: in, db: in.DB, host: in.Host, carriers: providerv1connect.NewCarrierServiceClient(in.Host.Client()), union: cfg.CustomsUnion,
		quoteTimeout: 800 * time.Millisecond, bookTimeout: 8 * time.Second, prefer: map[string]logisticsv1.Rule_Prefer{},
		pollAfter: 12 * time.Hour, pollEvery: 15 * time.Minute, staleAfter: 7 * 24 * time.Hour, ended: make(chan struct{}),
		breaker: breaker{failures: map[string]int{}, until: map[string]time.Time{}}, watching: make(chan struct{}, 200),
	}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
		from, to   time.Duration
	}{
		{"quote_timeout", cfg.QuoteTimeout, &s.quoteTimeout, 10 * time.Millisecond, time.Minute},
		{"book_timeout", cfg.BookTimeout, &s.bookTimeout, 10 * time.Millisecond, time.Minute},
		{"poll_after", cfg.PollAfter, &s.pollAfter, time.Second, pollLast}, {"poll_every", cfg.PollEvery, &s.pollEvery, time.Second, pollLast},
		{"stale_after", cfg.StaleAfter, &s.staleAfter, time.Second, pollFor},
	} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v < d.from || v > d.to {
			return fmt.Errorf("%s: %q is none between %v and %v", d.name, d.text, d.from, d.to)
		}
		*d.into = v
	}
	for _, p := range cfg.Prefer {
		market, what, _ := strings.Cut(p, "=")
		v, ok := map[string]logisticsv1.Rule_Prefer{"cheapest": logisticsv1.Rule_PREFER_CHEAPEST, "fastest": logisticsv1.Rule_PREFER_FASTEST}[what]
		if !ok || len(market) != 2 {
			return fmt.Errorf("prefer: %q: write a market and \"cheapest\" or \"fastest\", like \"DE=fastest\"", p)
		}
		s.prefer[market] = v
	}
	if len(s.union) == 0 {
		s.union = customs.EuropeanUnion
	}
	logisticsv1connect.RegisterQuoteServiceHandler(in.Server, s)
	logisticsv1connect.RegisterShipmentServiceHandler(in.Server, s)
	logisticsv1connect.RegisterPlaceServiceHandler(in.Server, s)
	logisticsv1connect.RegisterTrackingServiceHandler(in.Server, s)
	logisticsv1connect.RegisterTaskServiceHandler(in.Server, s)
	s.work.Go(func() { s.janitor(s.ended) })
	in.Close = func(context.Context) {
		close(s.ended)
		s.work.Wait()
	}
	return errors.Join(
		in.Subscribe("carriers", event.OnBatch(s.onTracking)),
		in.Subscribe("requests", event.On(onRequested), event.On(onResolved)))
}

var (
	_ logisticsv1connect.QuoteServiceHandler    = (*service)(nil)
	_ logisticsv1connect.ShipmentServiceHandler = (*service)(nil)
	_ logisticsv1connect.PlaceServiceHandler    = (*service)(nil)
	_ logisticsv1connect.TrackingServiceHandler = (*service)(nil)
	_ logisticsv1connect.TaskServiceHandler     = (*service)(nil)
)

// owner is the merchant whose shipments a caller may see and book; empty means
// everybody's, for staff, operators and plugins.
func owner(ctx context.Context) string {
	if p := call.From(ctx).Principal; p.Kind == call.Merchant {
		return p.Merchant
	}
	return ""
}

func noShipment() error {
	return fault.New(connect.CodeNotFound, "SHIPMENT_UNKNOWN", "there is no such shipment, or it is not yours")
}

// border tells whether goods from one country to another are declared.
func (s *service) border(from, to string) bool {
	return customs.Border(from, to, s.union)
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot/entrepot/plugins/analytics/recommend"
	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/analytics/v1/analyticsv1connect"
	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/proto/entrepot/plugin/v1/pluginv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/store"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

var (
	operator = call.Principal{Kind: call.Operator}
	ann      = call.Principal{Kind: call.Consumer, Account: "acc_ann", Subject: "sub_ann"}
	stranger = call.Principal{}
)

// house is an analytics module under test.
type house struct {
	*plugintest.Module
	// at is when what is delivered has happened.
	at   time.Time
	next map[string]int64
	subs map[string]int32
	head int64
	told int
}

func open(t testing.TB) *house {
	t.Helper()
	m := plugintest.Start(t, module(), plugintest.Config(map[string]any{"follow": "10ms"}))
	return &house{Module: m, at: time.Now().UTC().Truncate(time.Second), next: make(map[string]int64), subs: make(map[string]int32)}
}

// deliver hands over events as the bus does, with the time they happened at.
// The same events again are a replay of them: their ids stay.
func (h *house) deliver(t testing.TB, subscription string, events ...proto.Message) []*pluginv1.Event {
	t.Helper()
	out := h.happened(t, events...)
	h.send(t, subscription, out...)
	return out
}

// happened are events at the house's time, each with an id of its own.
func (h *house) happened(t testing.TB, events ...proto.Message) []*pluginv1.Event {
	t.Helper()
	var out []*pluginv1.Event
	for _, e := range events {
		o, err := store.Encode(e)
		require.NoError(t, err)
		h.told++
		h.head++
		out = append(out, &pluginv1.Event{
			Position: h.head, EventId: fmt.Sprint("event ", h.told), Topic: o.Topic, Key: o.Key, Payload: o.Payload, At: timestamppb.New(h.at),
		})
	}
	return out
}

// send delivers events that have their ids, in the next place of the log.
func (h *house) send(t testing.TB, subscription string, events ...*pluginv1.Event) {
	t.Helper()
	if h.subs[subscription] == 0 {
		var sub int32
		require.NoError(t, h.Admin.QueryRow(t.Context(), "SELECT id FROM bus.subscription WHERE name = $1", "analytics/"+subscription).Scan(&sub))
		h.subs[subscription] = sub
	}
	h.head++
	move := &pluginv1.LaneMove{Expected: h.next[subscription], Next: h.head}
	_, err := pluginv1connect.NewEventServiceClient(h.Client(call.Info{})).Deliver(t.Context(), &pluginv1.DeliverRequest{
		Subscription: h.subs[subscription], Name: subscription, Lanes: []*pluginv1.LaneMove{move}, Events: events,
	})
	require.NoError(t, err)
	h.next[subscription] = h.head
}

func (h *house) recommender(p call.Principal, market string) analyticsv1connect.RecommendationServiceClient {
	return analyticsv1connect.NewRecommendationServiceClient(h.Client(plugintest.As(p, market)))
}

func (h *house) beacon(p call.Principal, market string) analyticsv1connect.BeaconServiceClient {
	return analyticsv1connect.NewBeaconServiceClient(h.Client(plugintest.As(p, market)))
}

func (h *house) figures(p call.Principal) analyticsv1connect.FigureServiceClient {
	return analyticsv1connect.NewFigureServiceClient(h.Client(plugintest.As(p, "GB")))
}

func member(merchant string) call.Principal {
	return call.Principal{Kind: call.Merchant, Merchant: merchant, Permissions: []string{"analytics.read"}}
}

// offer lists goods of mrc_one in a market, with units on the shelf.
func (h *house) offer(t testing.TB, market string, units int64, skus ...string) {
	t.Helper()
	var events []proto.Message
	for _, sku := range skus {
		events = append(events, &catalogv1.ProductChanged{ProductId: "prd_" + sku, MerchantId: "mrc_one", Skus: []string{sku}},
			listing(market, sku, true), h.stock(sku, units))
	}
	h.deliver(t, "goods", events...)
}

// stock is the warehouse's word on a good, newer than those before.
func (h *house) stock(sku string, units int64) *warehousev1.StockAdjusted {
	h.told++
	return &warehousev1.StockAdjusted{Sku: sku, Level: &warehousev1.StockLevel{Sku: sku, Site: "main", MerchantId: "mrc_one", Sellable: units, Version: int64(h.told)}}
}

func listing(market, sku string, listed bool) *catalogv1.ListingChanged {
	return &catalogv1.ListingChanged{Sku: sku, Market: market, Listed: listed, Price: &typev1.Money{CurrencyCode: currencies[market], MinorUnits: 500}}
}

var currencies = map[string]string{"GB": "GBP", "DE": "EUR", "JP": "JPY"}

// placed is an order of one unit each, at 500 minor units.
func placed(order, account, market string, skus ...string) *orderv1.OrderPlaced {
	o := &orderv1.OrderPlaced{OrderId: order, Market: market, AccountId: account, Total: &typev1.Money{CurrencyCode: currencies[market]}}
	for _, sku := range skus {
		price := &typev1.Money{CurrencyCode: currencies[market], MinorUnits: 500}
		o.Lines = append(o.Lines, &orderv1.Line{Sku: sku, MerchantId: "mrc_one", Quantity: 1, UnitPrice: price, Total: price})
		o.Total.MinorUnits += 500
	}
	return o
}

// buy places orders of some consumers, each of the same goods.
func (h *house) buy(t testing.TB, market string, accounts []string, skus ...string) {
	t.Helper()
	for _, a := range accounts {
		h.deliver(t, "sales", placed(id.New("ord"), a, market, skus...))
	}
}

// eventually waits for what the recommender does on its own: it follows the
// tables.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 30*time.Second, 5*time.Millisecond, what)
}

func (h *house) ask(t testing.TB, p call.Principal, market string, req *analyticsv1.RecommendRequest) []*analyticsv1.Recommendation {
	t.Helper()
	res, err := h.recommender(p, market).Recommend(t.Context(), req)
	require.NoError(t, err)
	return res.GetRecommendations()
}

func skusOf(list []*analyticsv1.Recommendation) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.GetSku())
	}
	return out
}

// told are views that a terminal tells of.
func (h *house) view(kind analyticsv1.View_Kind, sku string) *analyticsv1.View {
	return &analyticsv1.View{Kind: kind, Sku: sku, At: timestamppb.New(h.at)}
}

// record sends views and delivers what the beacon published of them.
func (h *house) record(t testing.TB, p call.Principal, market string, req *analyticsv1.RecordViewsRequest) *analyticsv1.RecordViewsResponse {
	t.Helper()
	before := len(h.Published(t))
	res, err := h.beacon(p, market).RecordViews(context.Background(), req)
	require.NoError(t, err)
	if all := h.Published(t)[before:]; len(all) > 0 {
		h.deliver(t, "views", all...)
	}
	return res
}

// reread is a model that a process would have that starts now.
func reread(t testing.TB, h *house) recommend.Size {
	t.Helper()
	m := recommend.New(recommend.Options{})
	f := follow(h.DB, m, slog.New(slog.DiscardHandler), time.Hour)
	defer f.close(context.Background())
	eventually(t, "the tables are read", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.ready
	})
	return m.Size()
}

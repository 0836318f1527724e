package main

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

const (
	personal = analyticsv1.RecommendationKind_RECOMMENDATION_KIND_PERSONAL
	similar  = analyticsv1.RecommendationKind_RECOMMENDATION_KIND_SIMILAR
	together = analyticsv1.RecommendationKind_RECOMMENDATION_KIND_BOUGHT_TOGETHER
	trending = analyticsv1.RecommendationKind_RECOMMENDATION_KIND_TRENDING
)

// taste makes a shop in which candles and matches are bought by the same
// people, in baskets of their own, and a vase by others.
func (h *house) taste(t testing.TB) {
	t.Helper()
	h.offer(t, "GB", 10, "candle", "match", "vase", "lamp")
	h.buy(t, "GB", []string{"acc_1", "acc_2", "acc_3"}, "candle")
	h.buy(t, "GB", []string{"acc_1", "acc_2", "acc_3"}, "match")
	h.buy(t, "GB", []string{"acc_4", "acc_5", "acc_6", "acc_7"}, "vase", "lamp")
}

// What a consumer is recommended is what those bought who bought the same, and
// it is said of which; what they have is not in it, and what trends fills the
// rest.
func TestPersonalSaysWhy(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	h.buy(t, "GB", []string{ann.Account}, "candle")
	eventually(t, "the purchase counts", func() bool {
		list := h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})
		return len(list) > 0 && list[0].GetReason().GetCode() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS
	})
	list := h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})
	require.Equal(t, []string{"match", "vase", "lamp"}, skusOf(list), "a candle they have")
	require.Equal(t, []string{"candle"}, list[0].GetReason().GetSkus())
	require.Equal(t, analyticsv1.Reason_CODE_TRENDING, list[1].GetReason().GetCode())
	require.Equal(t, "mrc_one", list[0].GetMerchantId())
	require.EqualValues(t, 500, list[0].GetPrice().GetMinorUnits())
	require.Len(t, h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal, Limit: 1}), 1)
}

func TestSimilarAndBoughtTogetherAreTwoThings(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	reason := func(kind analyticsv1.RecommendationKind, seed string) (string, analyticsv1.Reason_Code) {
		list := h.ask(t, stranger, "GB", &analyticsv1.RecommendRequest{Kind: kind, Skus: []string{seed}})
		if len(list) == 0 {
			return "", 0
		}
		require.NotContains(t, skusOf(list), seed)
		return list[0].GetSku(), list[0].GetReason().GetCode()
	}
	eventually(t, "the purchases count", func() bool { _, c := reason(together, "vase"); return c == analyticsv1.Reason_CODE_IN_ONE_BASKET })
	sku, code := reason(together, "candle")
	require.Equal(t, "match", sku)
	require.Equal(t, analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS, code, "never in one basket")
	sku, _ = reason(similar, "lamp")
	require.Equal(t, "vase", sku)
	for _, kind := range []analyticsv1.RecommendationKind{similar, together} {
		_, err := h.recommender(stranger, "GB").Recommend(t.Context(), &analyticsv1.RecommendRequest{Kind: kind})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
}

// Whatever cannot be sold is in no answer from the moment the event that says
// so has been handled: the memory is not waited for.
func TestWhatCannotBeSoldIsNotRecommended(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(h *house) proto.Message{
		"sold out":    func(h *house) proto.Message { return h.stock("match", 0) },
		"not listed":  func(*house) proto.Message { return listing("GB", "match", false) },
		"out of date": func(h *house) proto.Message { return h.lot("match", "2020-01-01") },
		"held back":   func(*house) proto.Message { return policy("GB", "match", -1, 5, 1) },
		"none on the market's shelf": func(*house) proto.Message {
			return &warehousev1.StockReserved{ReservationId: "rsv_1", Policies: policy("GB", "match", 0, 0, 1).GetPolicies()}
		},
		"only units that passed": func(*house) proto.Message {
			l := listing("GB", "match", true)
			l.RequiresAuthentication = true
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			h.offer(t, "GB", 10, "candle")
			h.deliver(t, "goods", listing("GB", "match", true), h.lot("match", ""))
			h.buy(t, "GB", []string{"acc_1", "acc_2"}, "candle", "match")
			req := &analyticsv1.RecommendRequest{Kind: similar, Skus: []string{"candle"}}
			eventually(t, "it is recommended", func() bool { return len(h.ask(t, stranger, "GB", req)) == 1 })
			h.deliver(t, "goods", gone(h))
			require.Empty(t, h.ask(t, stranger, "GB", req))
			require.Empty(t, h.ask(t, stranger, "DE", req), "nor where it never was listed")
		})
	}
}

// What a market is not offered another still is, and it comes back where it is
// offered again; an older word changes nothing.
func TestEachMarketIsRecommendedWhatItIsOffered(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 10, "candle", "match")
	h.deliver(t, "goods", listing("DE", "candle", true), listing("DE", "match", true), policy("GB", "match", -1, 10, 2))
	h.buy(t, "GB", []string{"acc_1", "acc_2"}, "candle", "match")
	req := &analyticsv1.RecommendRequest{Kind: similar, Skus: []string{"candle"}}
	eventually(t, "it is recommended in DE", func() bool { return len(h.ask(t, stranger, "DE", req)) == 1 })
	require.Empty(t, h.ask(t, stranger, "GB", req))
	h.deliver(t, "goods", policy("GB", "match", -1, 9, 1))
	require.Empty(t, h.ask(t, stranger, "GB", req), "older")
	h.deliver(t, "goods", policy("GB", "match", -1, 9, 3), policy("GB", "match", 0, 0, 2))
	eventually(t, "it is offered again", func() bool { return len(h.ask(t, stranger, "GB", req)) == 1 })
}

// policy is the warehouse's word on what a market is offered; a shelf of -1 has
// no bound.
func policy(market, sku string, shelf, safety, version int64) *warehousev1.StockPoliciesSet {
	p := &warehousev1.StockPolicy{Sku: sku, Market: market, SafetyStock: safety, Version: version}
	if shelf >= 0 {
		p.OnShelf = proto.Int64(shelf)
	}
	return &warehousev1.StockPoliciesSet{MerchantId: "mrc_one", Policies: []*warehousev1.StockPolicy{p}}
}

// lot is the stock of a good that is of a lot; the good lot is used up when
// another one comes that is out of date.
func (h *house) lot(sku, expires string) proto.Message {
	good := &warehousev1.StockLevel{Sku: sku, Site: "main", Lot: "", MerchantId: "mrc_one", Sellable: 5, Version: 1}
	if expires == "" {
		return &warehousev1.StockReceived{ReceiptId: "mrc_one/1", Levels: []*warehousev1.StockLevel{good}}
	}
	good.Sellable, good.Version = 0, 2
	return &warehousev1.StockReceived{ReceiptId: "mrc_one/2", Levels: []*warehousev1.StockLevel{
		good, {Sku: sku, Site: "main", Lot: "old", ExpiresOn: expires, MerchantId: "mrc_one", Sellable: 5, Version: 1},
	}}
}

// A market whose shop has sold nothing yet is told what trends elsewhere, then
// what is new; a shop without goods nothing.
func TestColdStart(t *testing.T) {
	t.Parallel()
	h := open(t)
	req := &analyticsv1.RecommendRequest{Kind: personal}
	require.Empty(t, h.ask(t, stranger, "GB", req))
	h.offer(t, "GB", 10, "candle", "vase")
	h.buy(t, "GB", []string{"acc_1", "acc_2"}, "vase")
	h.buy(t, "GB", []string{"acc_1"}, "candle")
	h.offer(t, "DE", 10, "candle", "vase", "lamp", "match")
	eventually(t, "the market is known", func() bool { return len(h.ask(t, stranger, "DE", req)) == 4 })
	list := h.ask(t, stranger, "DE", req)
	require.Equal(t, []string{"vase", "candle", "match", "lamp"}, skusOf(list))
	require.Equal(t, analyticsv1.Reason_CODE_TRENDING_ELSEWHERE, list[0].GetReason().GetCode())
	require.Equal(t, analyticsv1.Reason_CODE_NEW, list[2].GetReason().GetCode())
	require.Equal(t, []string{"vase", "candle"}, skusOf(h.ask(t, stranger, "GB", &analyticsv1.RecommendRequest{Kind: trending})))
}

// A cancelled order speaks for nothing.
func TestACancelledOrderIsNoPurchase(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 10, "candle", "match")
	first, second := id.New("ord"), id.New("ord")
	h.deliver(t, "sales", placed(first, "acc_1", "GB", "candle", "match"), placed(second, "acc_2", "GB", "candle", "match"))
	code := func() analyticsv1.Reason_Code {
		list := h.ask(t, stranger, "GB", &analyticsv1.RecommendRequest{Kind: similar, Skus: []string{"candle"}})
		if len(list) == 0 {
			return 0
		}
		return list[0].GetReason().GetCode()
	}
	eventually(t, "two people bought both", func() bool { return code() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS })
	h.deliver(t, "sales", &orderv1.OrderCancelled{OrderId: first})
	eventually(t, "one person's purchase is told to nobody", func() bool { return code() == analyticsv1.Reason_CODE_TRENDING })
}

// A process that starts knows what its tables know.
func TestTheModelIsReadFromTheTables(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	eventually(t, "all is known", func() bool { return h.model(t).GetLines() == 14 })
	m := reread(t, h)
	require.Equal(t, h.model(t).GetLines(), m.Lines)
	require.Equal(t, h.model(t).GetPeople(), m.People)
	require.EqualValues(t, 7, m.People)
}

func (h *house) model(t testing.TB) *analyticsv1.GetModelResponse {
	t.Helper()
	res, err := h.recommender(operator, "GB").GetModel(t.Context(), &analyticsv1.GetModelRequest{})
	require.NoError(t, err)
	return res
}

// The stream tells now, and again when something else can be recommended.
func TestWatch(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 10, "candle", "match")
	eventually(t, "goods are known", func() bool { return len(h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := h.recommender(ann, "GB").WatchRecommendations(ctx, &analyticsv1.WatchRecommendationsRequest{Request: &analyticsv1.RecommendRequest{Kind: personal}})
	require.NoError(t, err)
	res, err := stream.Receive()
	require.NoError(t, err)
	require.Len(t, res.GetRecommendations(), 2)
	h.deliver(t, "goods", h.stock("match", 0))
	res, err = stream.Receive()
	require.NoError(t, err)
	require.Equal(t, []string{"candle"}, skusOf(res.GetRecommendations()))
}

// Who asked to be told is told once a day, of what their own purchases speak
// for; who did not ask is not.
func TestPush(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	bob := call.Principal{Kind: call.Consumer, Account: "acc_bob"}
	h.buy(t, "GB", []string{ann.Account, bob.Account}, "candle")
	prefer := func(p call.Principal, preferences *analyticsv1.Preferences) {
		_, err := h.recommender(p, "GB").SetPreferences(t.Context(), &analyticsv1.SetPreferencesRequest{Preferences: preferences})
		require.NoError(t, err)
		res, err := h.recommender(p, "GB").GetPreferences(t.Context(), &analyticsv1.GetPreferencesRequest{})
		require.NoError(t, err)
		require.True(t, proto.Equal(preferences, res.GetPreferences()))
	}
	prefer(ann, &analyticsv1.Preferences{Notify: true})
	prefer(call.Principal{Kind: call.Consumer, Account: "acc_1"}, &analyticsv1.Preferences{Notify: true, NotPersonal: true})
	eventually(t, "the purchase counts", func() bool {
		return h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})[0].GetReason().GetCode() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS
	})
	tick := func() []proto.Message {
		h.deliver(t, "schedules", &pluginv1.Tick{Schedule: "analytics/push"})
		return h.Published(t)
	}
	all := tick()
	require.Len(t, all, 1)
	ready := all[0].(*analyticsv1.RecommendationsReady)
	require.Equal(t, "acc_ann", ready.GetAccountId())
	require.Equal(t, "match", ready.GetRecommendations()[0].GetSku())
	h.buy(t, "GB", []string{ann.Account}, "lamp")
	require.Len(t, tick(), 1, "once a day")
}

// Who wants nothing personal gets what a stranger gets.
func TestNotPersonal(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	h.buy(t, "GB", []string{ann.Account}, "candle")
	req := &analyticsv1.RecommendRequest{Kind: personal}
	eventually(t, "the purchase counts", func() bool {
		list := h.ask(t, ann, "GB", req)
		return len(list) > 0 && list[0].GetReason().GetCode() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS
	})
	_, err := h.recommender(ann, "GB").SetPreferences(t.Context(), &analyticsv1.SetPreferencesRequest{Preferences: &analyticsv1.Preferences{NotPersonal: true}})
	require.NoError(t, err)
	require.Equal(t, skusOf(h.ask(t, stranger, "GB", req)), skusOf(h.ask(t, ann, "GB", req)))
}

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

const (
	measured     = analyticsv1.Consent_CONSENT_MEASUREMENT
	personalised = analyticsv1.Consent_CONSENT_PERSONALISATION
)

func beaconed1(consent analyticsv1.Consent, visitor string, views ...*analyticsv1.View) *analyticsv1.RecordViewsRequest {
	return &analyticsv1.RecordViewsRequest{BatchId: id.New("bat"), SessionId: id.New("ses"), VisitorId: visitor, Consent: consent, Views: views}
}

func (h *house) count(t testing.TB, query string) (n int) {
	t.Helper()
	require.NoError(t, h.Admin.QueryRow(t.Context(), "SELECT count(*) FROM p_analytics."+query).Scan(&n))
	return n
}

// Without consent nothing is kept, not even that there was something; with
// consent to be counted nothing of a person.
func TestConsentIsRespected(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 1, "candle")
	look := h.view(analyticsv1.View_KIND_LISTING, "candle")
	for _, c := range []analyticsv1.Consent{analyticsv1.Consent_CONSENT_UNSPECIFIED, analyticsv1.Consent_CONSENT_NONE} {
		res := h.record(t, ann, "GB", beaconed1(c, id.New("vis"), look))
		require.EqualValues(t, 0, res.GetRecorded())
		require.Equal(t, map[string]int32{"NO_CONSENT": 1}, res.GetRefused())
	}
	require.Zero(t, h.count(t, "batch")+h.count(t, "view")+h.count(t, "session")+h.count(t, "pseudonym"))

	h.record(t, ann, "GB", beaconed1(measured, id.New("vis"), look))
	require.Equal(t, 1, h.count(t, "view WHERE person = ''"))
	require.Zero(t, h.count(t, "pseudonym"))
	h.record(t, stranger, "GB", beaconed1(personalised, "", look))
	require.Zero(t, h.count(t, "pseudonym"), "nobody to keep it under")
	h.record(t, stranger, "GB", beaconed1(personalised, id.New("vis"), look))
	h.record(t, ann, "GB", beaconed1(personalised, id.New("vis"), look))
	require.Equal(t, 1, h.count(t, "pseudonym WHERE name LIKE 'vis_%'"))
	require.Equal(t, 1, h.count(t, "pseudonym WHERE name = 'acc_ann'"))
}

func TestActsThatCannotBeAreRefusedOneByOne(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 0, "candle") // listed, sold out: it may be looked at
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }
	req := beaconed1(measured, "",
		&analyticsv1.View{Kind: analyticsv1.View_KIND_LISTING, Sku: "candle", At: at(0)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_PAGE, Sku: "x", At: at(0)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_LISTING, At: at(0)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_ADDED_TO_CART, Sku: "nothing", At: at(0)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_ORDERED, At: at(0)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_PAGE, At: at(time.Hour)},
		&analyticsv1.View{Kind: analyticsv1.View_KIND_PAGE, At: at(-25 * time.Hour)})
	res := h.record(t, stranger, "GB", req)
	require.EqualValues(t, 2, res.GetRecorded())
	require.Equal(t, map[string]int32{"SKU_MISSING": 1, "SKU_NOT_LISTED": 1, "ORDER_MISSING": 1, "IN_THE_FUTURE": 1, "TOO_OLD": 1}, res.GetRefused())
	published := h.Published(t)
	require.Len(t, published, 1)
	require.Empty(t, published[0].(*analyticsv1.ViewsRecorded).GetViews()[1].GetSku(), "a page has no goods")

	again := h.record(t, stranger, "GB", req)
	require.True(t, proto.Equal(res, again), "a batch counts once")
	require.Len(t, h.Published(t), 1)
}

// Sessions end after half an hour of silence. How far each came counts once,
// for the shop, the merchant and the good; an order counts once it is known
// that it was placed, whoever tells first.
func TestFunnel(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.at = time.Now().UTC().Truncate(time.Second)
	h.offer(t, "GB", 9, "candle", "vase")
	order, claimed := id.New("ord"), id.New("ord")
	session := id.New("ses")
	send := func(views ...*analyticsv1.View) {
		r := beaconed1(measured, "", views...)
		r.SessionId = session
		h.record(t, stranger, "GB", r)
	}
	ordered := func(o string) *analyticsv1.View {
		return &analyticsv1.View{Kind: analyticsv1.View_KIND_ORDERED, OrderId: o, At: timestamppb.New(h.at)}
	}
	start := h.at
	h.at = start.Add(-2 * time.Hour)
	send(h.view(analyticsv1.View_KIND_PAGE, ""), h.view(analyticsv1.View_KIND_LISTING, "candle"), h.view(analyticsv1.View_KIND_LISTING, "candle"))
	h.at = start.Add(-100 * time.Minute)
	send(h.view(analyticsv1.View_KIND_LISTING, "vase"), h.view(analyticsv1.View_KIND_ADDED_TO_CART, "candle"), h.view(analyticsv1.View_KIND_CHECKOUT, ""), ordered(order))
	h.deliver(t, "sales", placed(order, "", "GB", "candle"))
	h.at = start
	send(h.view(analyticsv1.View_KIND_LISTING, "candle"), ordered(claimed))

	scope := &analyticsv1.Scope{FromDay: day(start.Add(-24 * time.Hour)), ToDay: day(start)}
	steps := func(merchant, sku string) map[string]int64 {
		scope := proto.Clone(scope).(*analyticsv1.Scope)
		scope.MerchantId, scope.Sku = merchant, sku
		res, err := h.figures(operator).GetFunnel(t.Context(), &analyticsv1.GetFunnelRequest{Scope: scope})
		require.NoError(t, err)
		out := make(map[string]int64)
		for _, s := range res.GetSteps() {
			out[s.GetName()] = s.GetSessions()
		}
		return out
	}
	require.Equal(t, map[string]int64{"visited": 2, "viewed": 2, "added": 1, "checkout": 1, "ordered": 1}, steps("", ""))
	require.Equal(t, map[string]int64{"viewed": 2, "added": 1, "ordered": 1}, steps("mrc_one", ""))
	require.Equal(t, map[string]int64{"viewed": 2, "added": 1, "ordered": 1}, steps("", "candle"))
	require.Equal(t, map[string]int64{"viewed": 1, "added": 0, "ordered": 0}, steps("mrc_one", "vase"))
	require.Equal(t, map[string]int64{"viewed": 0, "added": 0, "ordered": 0}, steps("mrc_two", ""))
	var views int64
	for _, f := range h.rows(t, operator, scope, analyticsv1.Dimension_DIMENSION_PRODUCT) {
		views += f.GetViews()
	}
	require.EqualValues(t, 3, views)
}

// What a visitor looked at counts for that visitor within a look at what is
// new, and for nobody else.
func TestBrowsingIsFresh(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	visitor := id.New("vis")
	first := func(visitor string) *analyticsv1.Reason {
		list := h.ask(t, stranger, "GB", &analyticsv1.RecommendRequest{Kind: personal, VisitorId: visitor})
		if len(list) == 0 {
			return nil
		}
		return list[0].GetReason()
	}
	h.record(t, stranger, "GB", beaconed1(personalised, visitor, h.view(analyticsv1.View_KIND_LISTING, "candle")))
	eventually(t, "the look counts", func() bool { return first(visitor).GetCode() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS })
	require.Equal(t, []string{"candle"}, first(visitor).GetSkus())
	require.Equal(t, analyticsv1.Reason_CODE_TRENDING, first(id.New("vis")).GetCode())
	require.Equal(t, []string{"match"}, skusOf(h.ask(t, stranger, "GB", &analyticsv1.RecommendRequest{Kind: personal, Skus: []string{"candle"}, Limit: 1})),
		"goods just seen may be named instead")
}

// Who is forgotten is a stranger, in tables and in memory, and stays so
// whatever is replayed. Figures do not change.
func TestForgetting(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	bought := h.deliver(t, "sales", placed(id.New("ord"), ann.Account, "GB", "candle"))
	h.record(t, ann, "GB", beaconed1(personalised, "", h.view(analyticsv1.View_KIND_LISTING, "vase")))
	code := func() analyticsv1.Reason_Code {
		return h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})[0].GetReason().GetCode()
	}
	eventually(t, "she is known", func() bool {
		return len(h.ask(t, ann, "GB", &analyticsv1.RecommendRequest{Kind: personal})) > 0 && code() == analyticsv1.Reason_CODE_BOUGHT_BY_OTHERS
	})
	before := h.rows(t, operator, wide(h.at), analyticsv1.Dimension_DIMENSION_PRODUCT)
	people := h.model(t).GetPeople()

	_, err := h.beacon(ann, "GB").ForgetVisitor(t.Context(), &analyticsv1.ForgetVisitorRequest{})
	require.NoError(t, err)
	require.Equal(t, analyticsv1.Reason_CODE_TRENDING, code())
	require.Zero(t, h.count(t, "pseudonym WHERE name = 'acc_ann'"))
	require.Zero(t, h.count(t, "view WHERE person <> ''"))
	eventually(t, "memory forgets too", func() bool { return h.model(t).GetPeople() == people-1 })
	h.send(t, "sales", bought...)
	h.send(t, "views", h.replayed(t, "ViewsRecorded")...)
	require.Zero(t, h.count(t, "view WHERE person <> ''"))
	require.Equal(t, 7, h.count(t, "pseudonym p WHERE EXISTS (SELECT FROM p_analytics.purchase b WHERE b.person = p.person)"))
	same(t, before, h.rows(t, operator, wide(h.at), analyticsv1.Dimension_DIMENSION_PRODUCT))

	// Even a copy that is made anew ties nothing to her.
	_, err = h.Admin.Exec(t.Context(), "TRUNCATE p_analytics.purchase, p_analytics.sale_line, p_analytics.view")
	require.NoError(t, err)
	h.send(t, "sales", bought...)
	h.send(t, "views", h.replayed(t, "ViewsRecorded")...)
	require.Equal(t, 1, h.count(t, "purchase"))
	require.Zero(t, h.count(t, "purchase WHERE person <> ''")+h.count(t, "view WHERE person <> ''"))
}

// An erased account is never known again.
func TestAnErasedAccountStaysUnknown(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 1, "candle")
	h.deliver(t, "sales", placed(id.New("ord"), "acc_ann", "GB", "candle"))
	kernel := call.Principal{Kind: call.Plugin, Plugin: "identity"}
	for range 2 {
		_, err := h.beacon(kernel, "GB").ForgetAccount(t.Context(), &analyticsv1.ForgetAccountRequest{AccountId: "acc_ann"})
		require.NoError(t, err)
	}
	h.at = h.at.Add(time.Hour)
	h.deliver(t, "sales", placed(id.New("ord"), "acc_ann", "GB", "candle"))
	h.record(t, ann, "GB", beaconed1(personalised, "", &analyticsv1.View{Kind: analyticsv1.View_KIND_LISTING, Sku: "candle", At: timestamppb.Now()}))
	require.Zero(t, h.count(t, "pseudonym")+h.count(t, "purchase WHERE person <> ''")+h.count(t, "view WHERE person <> ''"))
	require.Equal(t, 1, h.count(t, "view"))
}

func wide(at time.Time) *analyticsv1.Scope {
	return &analyticsv1.Scope{FromDay: day(at.Add(-48 * time.Hour)), ToDay: day(at.Add(48 * time.Hour))}
}

// replayed is what was published under a name, as the log has it.
func (h *house) replayed(t testing.TB, name string) []*pluginv1.Event {
	t.Helper()
	var out []*pluginv1.Event
	for _, m := range h.Published(t) {
		if string(m.ProtoReflect().Descriptor().Name()) == name {
			b, err := proto.Marshal(m)
			require.NoError(t, err)
			out = append(out, &pluginv1.Event{Position: h.head, EventId: "again", Topic: string(m.ProtoReflect().Descriptor().FullName()), Key: "again", Payload: b, At: timestamppb.New(h.at)})
		}
	}
	return out
}

// Browsing is deleted after its time, purchases no longer say whose they were;
// the sums stay, and a replay brings nothing back.
func TestRetention(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 9, "candle")
	h.deliver(t, "views", &analyticsv1.ViewsRecorded{SessionId: "ses_1", BatchId: "bat_new", Market: "GB", PersonId: "psn_1", Views: []*analyticsv1.View{h.view(analyticsv1.View_KIND_LISTING, "candle")}})
	now := h.at
	h.at = now.Add(-3 * 365 * 24 * time.Hour)
	old := h.deliver(t, "views", &analyticsv1.ViewsRecorded{SessionId: "ses_2", BatchId: "bat_old", Market: "GB", PersonId: "psn_2", Views: []*analyticsv1.View{h.view(analyticsv1.View_KIND_LISTING, "candle")}})
	require.Zero(t, h.count(t, "view WHERE person = 'psn_2'"), "too old to be kept at all")
	h.deliver(t, "sales", placed(id.New("ord"), "acc_1", "GB", "candle"))
	require.Equal(t, 1, h.count(t, "purchase WHERE person <> ''"))
	h.at = now
	_, err := h.Admin.Exec(t.Context(), "UPDATE p_analytics.view SET at = at - interval '100 days'")
	require.NoError(t, err)
	h.deliver(t, "schedules", &pluginv1.Tick{Schedule: "analytics/retention"})
	require.Zero(t, h.count(t, "view"))
	require.Zero(t, h.count(t, "purchase WHERE person <> ''"))
	require.Equal(t, 1, h.count(t, "funnel_day WHERE step = 'viewed' AND sku = 'candle'"))
	h.send(t, "views", old...)
	require.Zero(t, h.count(t, "view"))
}

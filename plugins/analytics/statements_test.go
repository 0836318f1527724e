package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// follows tells a statement of the recommender's own look at what is new.
func follows(s string) bool {
	return slices.ContainsFunc([]string{
		"SELECT n FROM change", "SELECT l.market, l.sku, l.position", "SELECT order_id, person, market", "SELECT person, market, sku", "SELECT person FROM departed",
	}, func(prefix string) bool { return strings.HasPrefix(s, prefix) })
}

// logStatements has the module's sessions log what they run.
func (h *house) logStatements(t *testing.T) {
	t.Helper()
	h.LogStatements(t)
	for range 10 {
		_, _ = h.recommender(ann, "GB").GetPreferences(t.Context(), &analyticsv1.GetPreferencesRequest{})
	}
}

// An answer is made in memory: the tables confirm it with one statement, and
// say who asks with another.
func TestAnAnswerCostsItsStatements(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.taste(t)
	h.buy(t, "GB", []string{ann.Account}, "candle")
	eventually(t, "all is known", func() bool { return h.model(t).GetLines() == 15 })
	h.logStatements(t)
	for _, c := range []struct {
		who  call.Principal
		want int
		req  *analyticsv1.RecommendRequest
	}{
		{ann, 2, &analyticsv1.RecommendRequest{Kind: personal}},
		{stranger, 1, &analyticsv1.RecommendRequest{Kind: personal}},
		{ann, 1, &analyticsv1.RecommendRequest{Kind: similar, Skus: []string{"candle"}}},
		{stranger, 1, &analyticsv1.RecommendRequest{Kind: trending, Limit: 1}},
	} {
		got := slices.DeleteFunc(h.Statements(t, func() { require.NotEmpty(t, h.ask(t, c.who, "GB", c.req)) }), follows)
		require.Len(t, got, c.want, "%v\n%s", c.req, strings.Join(got, "\n"))
	}
}

// What deliveries and the beacon cost of the database, with BEGIN, the position
// of the delivery and COMMIT: however many events, lines or acts.
func TestEachStepCostsExactlyItsStatements(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.offer(t, "GB", 5, "candle", "match")
	h.record(t, ann, "GB", beaconed1(personalised, "", h.view(analyticsv1.View_KIND_LISTING, "candle")))
	h.logStatements(t)
	var orders, levels, looks []proto.Message
	for i := range 50 {
		orders = append(orders, placed(fmt.Sprint("ord_", i), fmt.Sprint("acc_", i), "GB", "candle", "match"))
		levels = append(levels, h.stock("candle", int64(i)))
		looks = append(looks, &analyticsv1.ViewsRecorded{SessionId: fmt.Sprint("ses_", i%7), BatchId: fmt.Sprint("bat_", i), Market: "GB",
			Views: []*analyticsv1.View{h.view(analyticsv1.View_KIND_LISTING, "candle"), h.view(analyticsv1.View_KIND_ADDED_TO_CART, "match")}})
	}
	for _, c := range []struct {
		name string
		want int
		do   func()
	}{
		{"fifty orders: the turn, who they are, lines and sums, their sessions", 7, func() { h.deliver(t, "sales", orders...) }},
		{"fifty levels: the turn, the levels", 5, func() { h.deliver(t, "goods", levels...) }},
		{"fifty batches: the turn, what is known, sessions, acts and sums", 7, func() { h.deliver(t, "views", looks...) }},
		{"a batch of the beacon: what is known, who it is, its answer, its event", 6, func() {
			_, err := h.beacon(ann, "GB").RecordViews(t.Context(), beaconed1(personalised, "", h.view(analyticsv1.View_KIND_LISTING, "candle")))
			require.NoError(t, err)
		}},
	} {
		got := slices.DeleteFunc(h.Statements(t, c.do), follows)
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

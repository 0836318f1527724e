package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
)

var logged = regexp.MustCompile(`LOG:  (?:statement|execute [^:]+): (.*)`)

// idle is what the driver asks of a session that it takes up again.
var idle = map[string]bool{"-- ping": true, ";": true, "": true}

// follows tells a statement of the recommender's own look at what is new.
func follows(s string) bool {
	return slices.ContainsFunc([]string{
		"SELECT n FROM change", "SELECT l.market, l.sku, l.position", "SELECT order_id, person, market", "SELECT person, market, sku", "SELECT person FROM departed",
	}, func(prefix string) bool { return strings.HasPrefix(s, prefix) })
}

// statements has PostgreSQL log what the module runs while do runs, and
// answers it.
func (h *house) statements(t *testing.T, do func()) (all []string) {
	t.Helper()
	var database string
	var file *string
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT current_database(), pg_current_logfile()`).Scan(&database, &file))
	if file == nil {
		t.Skip("this PostgreSQL keeps no log that can be read back")
	}
	mark := func() string {
		m := id.New("mark")
		conn, err := h.Admin.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for _, s := range []string{"SET log_statement = 'all'", "SELECT '" + m + "'", "RESET log_statement"} {
			_, err = conn.Exec(t.Context(), s)
			require.NoError(t, err)
		}
		return m
	}
	before := mark()
	do()
	after := mark()
	var text string
	require.Eventually(t, func() bool {
		require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT pg_read_file(pg_current_logfile())`).Scan(&text))
		return strings.Contains(text, after)
	}, 10*time.Second, 20*time.Millisecond, "the collector of the log writes when it comes to it")
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	for l := range strings.Lines(text) {
		if m := logged.FindStringSubmatch(l); m != nil && strings.Contains(l, "p_analytics@"+database+" ") && !idle[strings.TrimSpace(m[1])] && !follows(m[1]) {
			all = append(all, m[1])
		}
	}
	return all
}

// logStatements has the module's sessions log what they run.
func (h *house) logStatements(t *testing.T) {
	t.Helper()
	_, err := h.Admin.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER ROLE p_analytics IN DATABASE %I SET log_statement = ''all''', current_database()); END $$")
	require.NoError(t, err)
	// Sessions of before do not log; each is found dead once.
	_, err = h.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_analytics' AND datname = current_database()`)
	require.NoError(t, err)
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
		got := h.statements(t, func() { require.NotEmpty(t, h.ask(t, c.who, "GB", c.req)) })
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
		got := h.statements(t, c.do)
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

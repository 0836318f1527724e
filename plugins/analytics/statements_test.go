package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	analyticsv1 "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

var logged = regexp.MustCompile(`LOG:  (?:statement|execute [^:]+): (.*)`)

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
		if m := logged.FindStringSubmatch(l); m != nil && strings.Contains(l, "p_analytics@"+database+" ") && m[1] != "-- ping\n" && m[1] != ";\n" {
			all = append(all, m[1])
		}
	}
	return all
}

// What answers and deliveries cost of the database, with BEGIN, the position
// of the delivery and COMMIT: however many events, lines or acts.
func TestEachStepCostsExactlyItsStatements(t *testing.T) {
	t.Parallel()
	// It looks at what is new once, at the start.
	h := open(t, plugintest.Config(map[string]any{"follow": "1h"}))
	h.offer(t, "GB", 5, "candle", "match")
	eventually(t, "it has looked", func() bool { return h.model(t).GetAsOf() == nil })
	h.record(t, ann, "GB", beaconed1(personalised, "", h.view(analyticsv1.View_KIND_LISTING, "candle")))
	_, err := h.Admin.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER ROLE p_analytics IN DATABASE %I SET log_statement = ''all''', current_database()); END $$")
	require.NoError(t, err)
	// Sessions of before do not log; each is found dead once.
	_, err = h.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_analytics' AND datname = current_database()`)
	require.NoError(t, err)
	for range 10 {
		_, _ = h.recommender(ann, "GB").GetPreferences(t.Context(), &analyticsv1.GetPreferencesRequest{})
	}
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

package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

var logged = regexp.MustCompile(`LOG:  (?:statement|execute [^:]+): (.*)`)

// statements has PostgreSQL log what the module runs while do runs, and
// answers it.
func (s *shop) statements(t *testing.T, do func()) (all []string) {
	t.Helper()
	var database string
	var file *string
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT current_database(), pg_current_logfile()`).Scan(&database, &file))
	if file == nil {
		t.Skip("this PostgreSQL keeps no log that can be read back")
	}
	// A row in the log after everything that was run before it.
	mark := func() string {
		m := id.New("mark")
		conn, err := s.Admin.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for _, one := range []string{"SET log_statement = 'all'", "SELECT '" + m + "'", "RESET log_statement"} {
			_, err = conn.Exec(t.Context(), one)
			require.NoError(t, err)
		}
		return m
	}
	before := mark()
	do()
	after := mark()
	var text string
	require.Eventually(t, func() bool {
		require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT pg_read_file(pg_current_logfile())`).Scan(&text))
		return strings.Contains(text, after)
	}, 10*time.Second, 20*time.Millisecond, "the collector of the log writes when it comes to it")
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	for l := range strings.Lines(text) {
		if m := logged.FindStringSubmatch(l); m != nil && strings.Contains(l, "p_notification@"+database+" ") && m[1] != "-- ping\n" && m[1] != ";\n" {
			all = append(all, strings.ToLower(m[1]))
		}
	}
	return all
}

// What it costs to tell of orders does not depend on how many there are: the
// statements of a delivery of the bus are the same for one and for a hundred.
func TestNewsCostAFixedNumberOfStatements(t *testing.T) {
	t.Parallel()
	s := openShop(t, nil)
	s.service.stop() // the queue's own statements are not counted
	s.service.work.Wait()
	s.put(t, boss, "main")
	var database string
	require.NoError(t, s.Admin.QueryRow(t.Context(), `SELECT quote_ident(current_database())`).Scan(&database))
	_, err := s.Admin.Exec(t.Context(), fmt.Sprintf(`ALTER ROLE p_notification IN DATABASE %s SET log_statement = 'all'`, database))
	require.NoError(t, err)
	// Sessions of before do not log; each is found dead once.
	_, err = s.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_notification' AND datname = current_database()`)
	require.NoError(t, err)
	for range 10 {
		_, _ = s.inbox(boss).ListNotifications(t.Context(), &notificationv1.ListNotificationsRequest{})
	}
	orders := func(n int) []proto.Message {
		var out []proto.Message
		for range n {
			out = append(out, &orderv1.OrderPlaced{
				OrderId: id.New("ord"), Market: "GB", AccountId: "acc_ann", EmailRef: "vlt_00000000000000000000000000", Total: gbp(5),
				Lines: []*orderv1.Line{{Sku: "sku_1", MerchantId: "mrc_a", Title: "Pot", Quantity: 1, Total: gbp(5)}},
			})
		}
		return out
	}
	require.NoError(t, s.Deliver(t.Context(), "trade", orders(1)...)) // the horizon is read once
	for _, n := range []int{1, 100} {
		all := s.statements(t, func() { require.NoError(t, s.Deliver(t.Context(), "trade", orders(n)...)) })
		var kinds []string
		for _, one := range all {
			kinds = append(kinds, strings.Join(strings.Fields(one)[:min(3, len(strings.Fields(one)))], " "))
		}
		require.Len(t, all, 9, "%d orders: %v", n, fmt.Sprint(kinds))
	}
	require.Len(t, s.queue(t), 4, "inbox and mail of ann, inbox and endpoint of the merchant: by name")
}

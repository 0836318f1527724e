package shop_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// A guest's cart and checkout cost this much of the database: one quote, one
// cart, five statements to open the order, five to reserve, one for the intent
// to pay and five for its outcome, five to place.
const (
	statementsPerCheckout = 23
	commitsPerCheckout    = 6
)

func TestACheckoutCostsExactlyItsStatementsAndCommits(t *testing.T) {
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	s, err := shop.New(shop.Options{Root: root, Build: build(t, root), Dir: filepath.Join(publicDir(t), "run")})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, s.Start(ctx))
	t.Cleanup(func() { _ = s.Stop() })
	data, err := shop.ReadData(root)
	require.NoError(t, err)
	data.Articles = data.Articles[:8]
	for i := range data.Articles {
		data.Articles[i].Sold = 1000
	}
	m, err := s.Populate(ctx, data, 0, silent)
	require.NoError(t, err)

	checkout := func() {
		who, buyer := s.Guest("GB"), trade.Invoice{Market: "GB", Number: "count"}.Consumer()
		create := &orderv1.CreateCartRequest{}
		for _, a := range data.Articles[:3] {
			create.Lines = append(create.Lines, &orderv1.LineInput{Sku: m.Goods.SKU(a.Code), Quantity: 1})
		}
		cart, err := orderv1connect.NewCartServiceClient(who.Client()).CreateCart(shop.Keyed(ctx), create)
		require.NoError(t, err)
		_, err = orderv1connect.NewOrderServiceClient(who.Client()).Checkout(ctx, &orderv1.CheckoutRequest{
			CartId: cart.GetCart().GetCartId(), CartSecret: cart.GetCartSecret(), ShipTo: buyer.Address, Email: buyer.Email, PaymentMethodToken: "tok_ok",
		})
		require.NoError(t, err)
		_, err = s.Quiet(ctx)
		require.NoError(t, err)
	}
	// The first ones prepare statements and look the payment instance up.
	checkout()
	checkout()
	statements, commits := logged(t, s, checkout)
	require.Equal(t, statementsPerCheckout, statements)
	require.Equal(t, commitsPerCheckout, commits)
}

// line of PostgreSQL's log: the session, the role, and a statement as it was
// run, of the modules that a checkout goes through. The others hear of it later
// and look at their own tables by clocks of their own. Checks of idle
// connections are no statements of anybody's.
var logLine = regexp.MustCompile(`\[(\d+)\] (p_(?:catalog|order|payment|warehouse))@\w+ \S+ LOG:  (?:statement|execute [^:]+): (.*)`)

// logged has PostgreSQL log everything while do runs, and counts what the
// modules ran and committed for it. Deliveries of events are not the
// checkout's: they go on after it was answered.
func logged(t *testing.T, s *shop.Shop, do func()) (statements, commits int) {
	t.Helper()
	ctx := t.Context()
	dir := filepath.Join(s.Dir, "data", "postgres")
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	require.NoError(t, err)
	pid, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	require.NoError(t, err)
	socket := strings.Split(string(pid), "\n")[4]
	db, err := pgx.Connect(ctx, fmt.Sprintf("host=%s user=entrepot password=%s dbname=entrepot", socket, strings.TrimSpace(string(password))))
	require.NoError(t, err)
	defer func() { _ = db.Close(ctx) }()
	logs, err := filepath.Glob(filepath.Join(dir, "data", "log", "*.log"))
	require.NoError(t, err)
	require.Len(t, logs, 1)
	f, err := os.Open(logs[0])
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	_, err = f.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	set := func(value string) {
		for _, sql := range []string{"ALTER SYSTEM SET log_statement = '" + value + "'", "SELECT pg_reload_conf()"} {
			_, err := db.Exec(ctx, sql)
			require.NoError(t, err)
		}
		// Sessions take the new setting with their next statement; ours shows
		// that the postmaster has told them.
		require.Eventually(t, func() bool {
			var now string
			return db.QueryRow(ctx, "SHOW log_statement").Scan(&now) == nil && now == value
		}, 10*time.Second, time.Millisecond)
	}
	set("all")
	do()
	set("none")
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	return count(string(text))
}

// count groups what each session ran into transactions.
func count(log string) (statements, commits int) {
	open := map[string][]string{}
	end := func(group []string, wrote bool) {
		if strings.Contains(strings.Join(group, "\n"), "bus.ack") {
			return
		}
		statements += len(group)
		if wrote {
			commits++
		}
	}
	for _, m := range logLine.FindAllStringSubmatch(log, -1) {
		session, sql := m[1], m[3]
		switch group, inside := open[session]; {
		case strings.HasPrefix(sql, "-- ping"):
		case sql == "begin":
			open[session] = []string{sql}
		case inside && sql == "commit":
			end(append(group, sql), true)
			delete(open, session)
		case inside:
			open[session] = append(group, sql)
		default:
			// A statement on its own; a read commits nothing.
			end([]string{sql}, !strings.HasPrefix(sql, "SELECT"))
		}
	}
	return statements, commits
}

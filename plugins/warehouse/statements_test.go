package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/id"
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
	// A row in the log after everything that was run before it.
	mark := func() string {
		m := id.New("mark")
		conn, err := h.Admin.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		_, err = conn.Exec(t.Context(), "SET log_statement = 'all'")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "SELECT '"+m+"'")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "RESET log_statement")
		require.NoError(t, err)
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
		if m := logged.FindStringSubmatch(l); m != nil && strings.Contains(l, "p_warehouse@"+database+" ") && m[1] != "-- ping\n" && m[1] != ";\n" {
			all = append(all, m[1])
		}
	}
	return all
}

// What a sale, its undoing, an admission and a put-away cost of the database,
// with their BEGIN and COMMIT: however many lines or serials.
func TestEachStepCostsExactlyItsStatements(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.stock(t, "", map[string]int64{"sku_a": 100, "sku_b": 100, "sku_c": 100})
	_, err := h.Admin.Exec(t.Context(), fmt.Sprintf(`ALTER ROLE p_warehouse IN DATABASE %s SET log_statement = 'all'`, h.database(t)))
	require.NoError(t, err)
	// Sessions of before do not log; each is found dead once.
	_, err = h.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_warehouse' AND datname = current_database()`)
	require.NoError(t, err)
	for range 10 {
		_, _ = h.orders.GetReservation(t.Context(), &warehousev1.GetReservationRequest{ReservationId: id.New("rsv")})
	}
	reserve := reservationOf(line("sku_a", 1), line("sku_b", 2), line("sku_c", 3))
	units := []string{"unt_1", "unt_2", "unt_3"}
	caseID := id.New("cas")
	h.pass(t, caseID, "sku_a", "", 0, units...)
	goods := h.goods()
	away := h.desk(worker("acc_1")).purchasing
	for _, c := range []struct {
		name string
		want int
		do   func() error
	}{
		{"a reservation: the promise, its event", 4, func() error { _, err := h.orders.ReserveStock(t.Context(), reserve); return err }},
		{"a release: its lock, the end, its event", 5, func() error {
			_, err := h.orders.ReleaseReservation(t.Context(), &warehousev1.ReleaseReservationRequest{ReservationId: reserve.GetReservationId()})
			return err
		}},
		{"an admission: its number, where the goods stand, the move, its event", 6, func() error {
			_, err := goods.AdmitGoods(t.Context(), &warehousev1.AdmitGoodsRequest{CaseId: caseID, From: outside, Sku: "sku_a", Quantity: 3, UnitIds: units})
			return err
		}},
		{"a put-away: its number, the move, the shelf, its event", 6, func() error {
			_, err := away.PutAway(t.Context(), &warehousev1.PutAwayRequest{PutAwayId: "1", Lines: []*warehousev1.PutAwayLine{
				{Sku: "sku_a", Authenticated: true, Quantity: 3, UnitIds: units, Location: "A-1"},
			}})
			return err
		}},
	} {
		got := h.statements(t, func() { require.NoError(t, c.do(), c.name) })
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

func (h *house) database(t testing.TB) (name string) {
	t.Helper()
	require.NoError(t, h.Admin.QueryRow(t.Context(), `SELECT quote_ident(current_database())`).Scan(&name))
	return name
}

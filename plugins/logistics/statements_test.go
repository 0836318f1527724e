package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

var logged = regexp.MustCompile(`LOG:  (?:statement|execute [^:]+): (.*)`)

// statements has PostgreSQL log what the module runs while do runs, and
// counts it.
func (d *desk) statements(t *testing.T, do func()) (all []string) {
	t.Helper()
	var database string
	var file *string
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT current_database(), pg_current_logfile()`).Scan(&database, &file))
	if file == nil {
		t.Skip("this PostgreSQL keeps no log that can be read back")
	}
	mark := func() string {
		m := id.New("mark")
		conn, err := d.Admin.Acquire(t.Context())
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
		require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT pg_read_file(pg_current_logfile())`).Scan(&text))
		return strings.Contains(text, after)
	}, 20*time.Second, 20*time.Millisecond, "the collector of the log writes when it comes to it")
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	for l := range strings.Lines(text) {
		if m := logged.FindStringSubmatch(l); m != nil && strings.Contains(l, "p_logistics@"+database+" ") && !janitors(m[1]) {
			all = append(all, m[1])
		}
	}
	return all
}

// janitors tells the janitor's own looks, which come when they come.
func janitors(statement string) bool {
	for _, s := range []string{"WITH d AS (SELECT id FROM shipment WHERE next_poll", "SELECT m.id, m.instance", "WITH s AS (DELETE FROM stray_fact", "-- ping", ";"} {
		if strings.HasPrefix(statement, s) {
			return true
		}
	}
	return false
}

// What is heard costs the same number of statements however much it is, and a
// quote between countries none.
func TestEachWayCostsAFixedNumberOfStatements(t *testing.T) {
	t.Parallel()
	d := open(t, "a")
	var all []*logisticsv1.Shipment
	for range 12 {
		all = append(all, d.book(t, way()))
	}
	_, err := d.Admin.Exec(t.Context(), fmt.Sprintf(`ALTER ROLE p_logistics IN DATABASE %s SET log_statement = 'all'`, d.database(t)))
	require.NoError(t, err)
	// Sessions of before do not log; each is found dead once.
	_, err = d.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'p_logistics' AND datname = current_database()`)
	require.NoError(t, err)
	for range 10 {
		_, _ = d.shipments(staff).GetShipment(t.Context(), &logisticsv1.GetShipmentRequest{ShipmentId: "none"})
	}
	events := func(status providerv1.Status, shipments ...*logisticsv1.Shipment) (out []proto.Message) {
		for i, one := range shipments {
			for range 3 {
				out = append(out, &providerv1.TrackingUpdated{Instance: "a", Reference: one.GetCarrierReference(), Facts: []*providerv1.Fact{
					said(fmt.Sprint(status, i, len(out)), status, one.GetParcels()[0].GetTrackingNumber(), time.Now()),
				}})
			}
		}
		return out
	}
	quotes := logisticsv1connect.NewQuoteServiceClient(d.as(staff))
	for _, c := range []struct {
		name string
		want int
		do   func() error
	}{
		{"a fact that moves a shipment: its position, the fact, the shipment, its facts, its status, its event", 8, func() error {
			return d.Deliver(t.Context(), "carriers", events(providerv1.Status_STATUS_HANDED_OVER, all[0])[0])
		}},
		{"thirty-six facts that move twelve", 8, func() error {
			return d.Deliver(t.Context(), "carriers", events(providerv1.Status_STATUS_OUT_FOR_DELIVERY, all...)...)
		}},
		{"facts that move nothing", 6, func() error {
			return d.Deliver(t.Context(), "carriers", events(providerv1.Status_STATUS_UNSPECIFIED, all[0])...)
		}},
		{"facts that are known: the position and the look", 4, func() error {
			return d.Deliver(t.Context(), "carriers", events(providerv1.Status_STATUS_UNSPECIFIED, all[0])...)
		}},
		{"a quote between countries", 0, func() error {
			_, err := quotes.QuoteShipment(t.Context(), &logisticsv1.QuoteShipmentRequest{
				Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, From: &logisticsv1.Party{CountryCode: "GB"}, To: &logisticsv1.Party{CountryCode: "GB"}, Parcels: way().GetParcels(),
			})
			return err
		}},
		{"a quote between places", 1, func() error {
			_, err := quotes.QuoteShipment(t.Context(), &logisticsv1.QuoteShipmentRequest{
				Leg: logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION, From: at("merchant/mrc_one"), To: at("inspection/main"), Parcels: way().GetParcels(),
			})
			return err
		}},
	} {
		got := d.statements(t, func() { require.NoError(t, c.do(), c.name) })
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

func (d *desk) database(t testing.TB) (name string) {
	t.Helper()
	require.NoError(t, d.Admin.QueryRow(t.Context(), `SELECT quote_ident(current_database())`).Scan(&name))
	return name
}

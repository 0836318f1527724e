package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
)

// janitors tells the janitor's own looks, which come when they come.
func janitors(statement string) bool {
	for _, s := range []string{"WITH d AS (SELECT id FROM shipment WHERE next_poll", "SELECT m.id, m.instance", "WITH s AS (DELETE FROM stray_fact"} {
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
	d.LogStatements(t)
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
		got := slices.DeleteFunc(d.Statements(t, func() { require.NoError(t, c.do(), c.name) }), janitors)
		require.Len(t, got, c.want, "%s\n%s", c.name, strings.Join(got, "\n"))
	}
}

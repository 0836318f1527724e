package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onBooked keeps the numbers by which consumers follow their parcels.
func (s *service) onBooked(ctx context.Context, tx *store.Tx, events []event.Of[*logisticsv1.ShipmentBooked]) error {
	var ids, numbers []string
	for _, e := range events {
		if e.Body.GetLeg() != logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER {
			continue
		}
		var all []string
		for _, n := range e.Body.GetTrackingNumbers() {
			all = append(all, n)
		}
		slices.Sort(all)
		ids, numbers = append(ids, e.Body.GetShipmentId()), append(numbers, strings.Join(all, "\n"))
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO shipment (id, tracking) SELECT u.id, string_to_array(u.n, E'\n') FROM unnest($1::text[], $2::text[]) u(id, n)
		ON CONFLICT (id) DO NOTHING`, ids, numbers)
	return err
}

// moved is what a consumer is told of a shipment's status; what is not in it is
// no news.
var moved = map[logisticsv1.Status]string{
	logisticsv1.Status_STATUS_IN_TRANSIT: "shipment.handed_over", logisticsv1.Status_STATUS_OUT_FOR_DELIVERY: "shipment.out_for_delivery",
	logisticsv1.Status_STATUS_READY_FOR_PICKUP: "shipment.ready_for_pickup", logisticsv1.Status_STATUS_DELIVERED: "shipment.delivered",
	logisticsv1.Status_STATUS_DELIVERY_FAILED: "shipment.trouble", logisticsv1.Status_STATUS_ON_HOLD: "shipment.trouble",
	logisticsv1.Status_STATUS_RETURN_TO_SENDER: "shipment.trouble", logisticsv1.Status_STATUS_LOST: "shipment.trouble",
}

// onMoved tells of each status of a shipment once: a parcel that goes to and
// fro is told of the first time.
func (s *service) onMoved(ctx context.Context, tx *store.Tx, events []event.Of[*logisticsv1.ShipmentMoved]) error {
	var all []*news
	for _, e := range events {
		m := e.Body
		topic := moved[m.GetStatus()]
		if topic == "" {
			continue
		}
		at := when(e.Meta)
		if m.GetAt().IsValid() {
			at = m.GetAt().AsTime()
		}
		status := word(m.GetStatus(), "STATUS_")
		f := facts{
			"shipment_id": m.GetShipmentId(), "order_id": m.GetOrderId(), "at": at.UTC().Format(time.RFC3339), "status": status, "reason": m.GetReason(),
			"tracking_numbers": []any{},
		}
		if m.GetLeg() == logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER && m.GetOrderId() != "" {
			all = append(all, &news{
				Source: topic + "/" + m.GetShipmentId() + "/" + status, Topic: topic, Order: m.GetOrderId(), Reference: m.GetShipmentId(), At: when(e.Meta), Facts: f,
			})
		}
		if topic == "shipment.trouble" && m.GetMerchantId() != "" {
			all = append(all, &news{
				Source: "carriage.trouble/" + m.GetShipmentId() + "/" + status, Topic: "carriage.trouble", Merchant: m.GetMerchantId(), Reference: m.GetShipmentId(),
				At: when(e.Meta), Facts: facts{
					"shipment_id": m.GetShipmentId(), "order_id": m.GetOrderId(), "reference": m.GetReference(), "status": status, "reason": m.GetReason(),
					"at": at.UTC().Format(time.RFC3339),
				},
			})
		}
	}
	if err := numbers(ctx, tx, all); err != nil {
		return err
	}
	return s.file(ctx, tx, all)
}

// numbers adds the tracking numbers to what consumers are told.
func numbers(ctx context.Context, tx *store.Tx, all []*news) error {
	var ids []string
	for _, n := range all {
		if n.Order != "" {
			ids = append(ids, n.Reference)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Rows(ctx, `SELECT id, to_json(tracking) FROM shipment WHERE id = ANY ($1)`, ids)
	return scan(rows, err, func(rows *sql.Rows) error {
		var id string
		var doc []byte
		var list []any
		if err := rows.Scan(&id, &doc); err != nil {
			return err
		}
		if err := json.Unmarshal(doc, &list); err != nil {
			return err
		}
		for _, n := range all {
			if n.Order != "" && n.Reference == id {
				n.Facts["tracking_numbers"] = list
			}
		}
		return nil
	})
}

package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// Verdicts by number: entrepot.inspection.v1.Verdict.
const keepVerdicts = `WITH u AS (SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::bigint[], $6::date[]) u(case_id, verdict, merchant, sku, units, day)),
new AS (INSERT INTO verdict (case_id, verdict) SELECT case_id, verdict FROM u ON CONFLICT DO NOTHING RETURNING *)
INSERT INTO figure_day AS f (day, market, merchant, sku, currency, genuine, counterfeit, inconclusive, wrong_item, damaged)
SELECT u.day, '', u.merchant, u.sku, '', coalesce(sum(u.units) FILTER (WHERE u.verdict = 1), 0)::bigint, coalesce(sum(u.units) FILTER (WHERE u.verdict = 2), 0)::bigint,
       coalesce(sum(u.units) FILTER (WHERE u.verdict = 3), 0)::bigint, coalesce(sum(u.units) FILTER (WHERE u.verdict = 4), 0)::bigint,
       coalesce(sum(u.units) FILTER (WHERE u.verdict = 5), 0)::bigint
  FROM (SELECT DISTINCT ON (case_id, verdict) * FROM u) u JOIN new USING (case_id, verdict) GROUP BY 1, 3, 4 ORDER BY 1, 3, 4
ON CONFLICT (day, market, merchant, sku, currency) DO UPDATE SET genuine = f.genuine + EXCLUDED.genuine, counterfeit = f.counterfeit + EXCLUDED.counterfeit,
  inconclusive = f.inconclusive + EXCLUDED.inconclusive, wrong_item = f.wrong_item + EXCLUDED.wrong_item, damaged = f.damaged + EXCLUDED.damaged`

func onVerdicts(ctx context.Context, tx *store.Tx, events []event.Of[*inspectionv1.VerdictConfirmed]) error {
	if _, err := change(ctx, tx); err != nil {
		return err
	}
	var cases, merchants, skus, days []string
	var verdicts []int16
	var units []int64
	for _, e := range events {
		cases, verdicts = append(cases, e.Body.GetCaseId()), append(verdicts, int16(e.Body.GetVerdict()))
		merchants, skus = append(merchants, e.Body.GetMerchantId()), append(skus, e.Body.GetSku())
		units, days = append(units, e.Body.GetQuantity()), append(days, day(e.At))
	}
	_, err := tx.Do(ctx, keepVerdicts, cases, verdicts, merchants, skus, units, days)
	return err
}

// onApplied notes why goods come back, which the case says and the warehouse
// does not know.
func onApplied(ctx context.Context, tx *store.Tx, events []event.Of[*aftersalev1.ApplicationOpened]) error {
	var ids, orders, markets, reasons, skus []string
	var ats []time.Time
	for _, e := range events {
		var of []string
		for _, l := range e.Body.GetLines() {
			of = append(of, l.GetSku())
		}
		list, err := json.Marshal(of)
		if err != nil {
			return err
		}
		ids, orders, skus = append(ids, e.Body.GetCaseId()), append(orders, e.Body.GetOrderId()), append(skus, string(list))
		markets, reasons, ats = append(markets, e.Body.GetMarket()), append(reasons, reasonOf(e.Body)), append(ats, e.At)
	}
	_, err := tx.Do(ctx, `INSERT INTO return_case (id, order_id, market, reason, skus, at)
		SELECT u.id, u.order_id, u.market, u.reason, ARRAY(SELECT jsonb_array_elements_text(nullif(u.skus::jsonb, 'null'))), u.at
		  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[]) u(id, order_id, market, reason, skus, at)
		ON CONFLICT DO NOTHING`, ids, orders, markets, reasons, skus, ats)
	return err
}

// reasonOf is the reason of a case. A withdrawal needs none and is one itself,
// as is what a carrier did.
func reasonOf(e *aftersalev1.ApplicationOpened) string {
	if r := e.GetReason(); r != aftersalev1.Reason_REASON_UNSPECIFIED {
		return strings.TrimPrefix(r.String(), "REASON_")
	}
	switch k := e.GetKind(); k {
	case aftersalev1.Kind_KIND_WITHDRAWAL, aftersalev1.Kind_KIND_MISSING, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT:
		return strings.TrimPrefix(k.String(), "KIND_")
	}
	return ""
}

// A return may arrive in parts; each is an event of its own.
const keepReturned = `INSERT INTO returned (event, sku, return_id, reference, merchant, units, day, at)
SELECT event, sku, max(return_id), max(reference), max(merchant), sum(units)::bigint, (max(at) AT TIME ZONE 'UTC')::date, max(at)
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[]) u(event, sku, return_id, reference, merchant, units, at)
 GROUP BY event, sku ON CONFLICT DO NOTHING`

func onReturned(ctx context.Context, tx *store.Tx, events []event.Of[*warehousev1.ReturnReceived]) error {
	var ids, skus, returns, references, merchants []string
	var units []int64
	var ats []time.Time
	for _, e := range events {
		for _, l := range e.Body.GetLines() {
			ids, skus, returns = append(ids, e.ID), append(skus, l.GetSku()), append(returns, e.Body.GetReturnId())
			references, merchants = append(references, e.Body.GetReference()), append(merchants, e.Body.GetMerchantId())
			units, ats = append(units, l.GetQuantity()), append(ats, e.At)
		}
	}
	_, err := tx.Do(ctx, keepReturned, ids, skus, returns, references, merchants, units, ats)
	return err
}

func onBooked(ctx context.Context, tx *store.Tx, events []event.Of[*logisticsv1.ShipmentBooked]) error {
	var ids, orders, merchants, instances, services []string
	var legs []int16
	var ats []time.Time
	for _, e := range events {
		ids, legs, orders = append(ids, e.Body.GetShipmentId()), append(legs, int16(e.Body.GetLeg())), append(orders, e.Body.GetOrderId())
		merchants, instances = append(merchants, e.Body.GetMerchantId()), append(instances, e.Body.GetInstance())
		services, ats = append(services, e.Body.GetService()), append(ats, e.At)
	}
	_, err := tx.Do(ctx, `INSERT INTO shipment (id, leg, order_id, merchant, instance, service, booked_at)
		SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[]) ON CONFLICT DO NOTHING`,
		ids, legs, orders, merchants, instances, services, ats)
	return err
}

func onUnbooked(ctx context.Context, tx *store.Tx, events []event.Of[*logisticsv1.ShipmentCancelled]) error {
	var ids []string
	for _, e := range events {
		ids = append(ids, e.Body.GetShipmentId())
	}
	_, err := tx.Do(ctx, `UPDATE shipment SET cancelled = true WHERE id = ANY ($1::text[]) AND NOT cancelled`, ids)
	return err
}

// onMoved notes what decides how a carrier did: when it delivered, whether it
// failed, whether there was trouble on the way. What happened earlier may be
// told later.
func onMoved(ctx context.Context, tx *store.Tx, events []event.Of[*logisticsv1.ShipmentMoved]) error {
	var ids []string
	var delivered []*time.Time
	var failed, troubled []bool
	for _, e := range events {
		var at *time.Time
		fail, trouble := false, false
		switch e.Body.GetStatus() {
		case logisticsv1.Status_STATUS_DELIVERED:
			t := e.At
			if e.Body.GetAt() != nil {
				t = e.Body.GetAt().AsTime()
			}
			at = &t
		case logisticsv1.Status_STATUS_LOST, logisticsv1.Status_STATUS_REFUSED, logisticsv1.Status_STATUS_RETURN_TO_SENDER, logisticsv1.Status_STATUS_RETURNED:
			fail = true
		case logisticsv1.Status_STATUS_ON_HOLD, logisticsv1.Status_STATUS_DELIVERY_FAILED:
			trouble = true
		default:
			continue
		}
		ids, delivered, failed, troubled = append(ids, e.Body.GetShipmentId()), append(delivered, at), append(failed, fail), append(troubled, trouble)
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `UPDATE shipment s SET delivered_at = least(s.delivered_at, u.delivered), failed = s.failed OR u.failed, troubled = s.troubled OR u.troubled
		FROM (SELECT id, min(delivered) AS delivered, bool_or(failed) AS failed, bool_or(troubled) AS troubled
		        FROM unnest($1::text[], $2::timestamptz[], $3::boolean[], $4::boolean[]) u(id, delivered, failed, troubled) GROUP BY id ORDER BY id) u
		WHERE s.id = u.id`, ids, delivered, failed, troubled)
	return err
}

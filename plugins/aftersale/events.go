package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	catalogv1 "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// columns are an order's lines.
type columns struct {
	skus, merchants, titles     []string
	quantities, prices, charges []int64
}

// columnsOf divides what an order costs beside its lines, or less than them,
// over them by their price: a line that comes back brings its share back.
func columnsOf(lines []*orderv1.Line, total *typev1.Money) (columns, error) {
	c := columns{charges: make([]int64, len(lines))}
	beside := total.GetMinorUnits()
	for _, l := range lines {
		c.skus, c.merchants, c.titles = append(c.skus, l.GetSku()), append(c.merchants, l.GetMerchantId()), append(c.titles, l.GetTitle())
		c.quantities, c.prices = append(c.quantities, l.GetQuantity()), append(c.prices, l.GetTotal().GetMinorUnits())
		beside -= l.GetTotal().GetMinorUnits()
	}
	if beside == 0 || len(lines) == 0 {
		return c, nil
	}
	m, err := money.New(beside, total.GetCurrencyCode())
	if err != nil {
		return c, err
	}
	weights := c.prices
	if !slices.ContainsFunc(c.prices, func(p int64) bool { return p > 0 }) {
		weights = c.quantities // everything is free but its delivery
	}
	parts, err := m.Allocate(weights...)
	for i, p := range parts {
		c.charges[i] = p.Minor
	}
	return c, err
}

// onPlaced copies what was bought.
func onPlaced(ctx context.Context, tx *store.Tx, e event.Of[*orderv1.OrderPlaced]) error {
	b := e.Body
	l, err := columnsOf(b.GetLines(), b.GetTotal())
	if err != nil {
		return err
	}
	_, err = tx.Do(ctx, `WITH p AS (INSERT INTO purchase (order_id, market, currency, account, payment_id, ship_to_ref, email_ref, total, placed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING order_id)
		INSERT INTO purchase_line (order_id, n, sku, merchant, title, quantity, price, charge)
		SELECT p.order_id, u.n, u.sku, u.merchant, u.title, u.quantity, u.price, u.charge FROM p, ROWS FROM (unnest($10::text[]), unnest($11::text[]),
		  unnest($12::text[]), unnest($13::bigint[]), unnest($14::bigint[]), unnest($15::bigint[])) WITH ORDINALITY u(sku, merchant, title, quantity, price, charge, n)`,
		b.GetOrderId(), b.GetMarket(), b.GetTotal().GetCurrencyCode(), b.GetAccountId(), b.GetPaymentId(), b.GetShipToRef(), b.GetEmailRef(),
		b.GetTotal().GetMinorUnits(), e.At, l.skus, l.merchants, l.titles, l.quantities, l.prices, l.charges)
	return err
}

// onPacked learns what is in a fulfilment's parcels and what that weighs.
func onPacked(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentPacked]) error {
	quantity, grams := map[string]int64{}, map[string]int64{}
	var skus, units, unitSkus []string
	for _, p := range e.Body.GetParcels() {
		var pieces int64
		for _, l := range p.GetLines() {
			pieces += l.GetQuantity()
		}
		for _, l := range p.GetLines() {
			if quantity[l.GetSku()] == 0 {
				skus = append(skus, l.GetSku())
			}
			quantity[l.GetSku()] += l.GetQuantity()
			grams[l.GetSku()] += int64(p.GetWeightGrams()) * l.GetQuantity() / pieces
			for _, u := range l.GetUnitIds() {
				units, unitSkus = append(units, u), append(unitSkus, l.GetSku())
			}
		}
	}
	quantities, weights := make([]int64, len(skus)), make([]int64, len(skus))
	for i, sku := range skus {
		quantities[i], weights[i] = quantity[sku], grams[sku]
	}
	_, err := tx.Do(ctx, `WITH f AS (INSERT INTO fulfilment (id, order_id, merchant, request_id, site)
		  SELECT $1, p.order_id, $3, $4, $5 FROM purchase p WHERE p.order_id = $2 ON CONFLICT DO NOTHING RETURNING id, order_id),
		piece AS (INSERT INTO fulfilment_piece (fulfilment_id, sku, quantity, grams)
		  SELECT f.id, u.* FROM f, unnest($6::text[], $7::bigint[], $8::bigint[]) u)
		INSERT INTO purchase_unit (order_id, unit, sku, fulfilment_id)
		SELECT f.order_id, u.unit, u.sku, f.id FROM f, unnest($9::text[], $10::text[]) u(unit, sku)
		  JOIN purchase_line l ON l.order_id = $2 AND l.sku = u.sku
		ON CONFLICT (order_id, unit) DO UPDATE SET fulfilment_id = EXCLUDED.fulfilment_id`,
		e.Body.GetFulfilmentId(), e.Body.GetReference(), e.Body.GetMerchantId(), e.Body.GetRequestId(), e.Body.GetSite(), skus, quantities, weights, units, unitSkus)
	return err
}

// onHandedOver counts what a carrier has.
func onHandedOver(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentHandedOver]) error {
	if known, err := lockPurchase(ctx, tx, e.Body.GetReference()); err != nil || !known {
		return err
	}
	if _, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET handed_over_at = $2, shipment_id = $3 WHERE id = $1 AND handed_over_at IS NULL RETURNING id, order_id)
		UPDATE purchase_line l SET handed_over = l.handed_over + p.quantity FROM f JOIN fulfilment_piece p ON p.fulfilment_id = f.id
		 WHERE l.order_id = f.order_id AND l.sku = p.sku`, e.Body.GetFulfilmentId(), e.At, e.Body.GetShipmentId()); err != nil {
		return err
	}
	return spare(ctx, tx, e.Body.GetRequestId())
}

// onDelivered counts what arrived. The carrier's own word on when counts,
// where it was heard.
func onDelivered(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentDelivered]) error {
	if known, err := lockPurchase(ctx, tx, e.Body.GetReference()); err != nil || !known {
		return err
	}
	_, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment f SET shipment_id = $3,
		  delivered_at = coalesce((SELECT min(s.at) FROM shipment_step s WHERE s.shipment_id = $3 AND s.status = $4), $2)
		  WHERE f.id = $1 AND f.delivered_at IS NULL AND f.handed_over_at IS NOT NULL RETURNING id, order_id)
		UPDATE purchase_line l SET delivered = l.delivered + p.quantity FROM f JOIN fulfilment_piece p ON p.fulfilment_id = f.id
		 WHERE l.order_id = f.order_id AND l.sku = p.sku`,
		e.Body.GetFulfilmentId(), e.At, e.Body.GetShipmentId(), int16(logisticsv1.Status_STATUS_DELIVERED))
	return err
}

// onBooked keeps which carrier has a shipment. Of a case, the label is there.
func onBooked(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentBooked]) error {
	if e.Body.GetOrderId() == "" {
		return nil
	}
	numbers := make([]string, 0, len(e.Body.GetTrackingNumbers()))
	for _, n := range e.Body.GetTrackingNumbers() {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if _, err := tx.Do(ctx, `INSERT INTO shipment AS s (id, order_id, leg, status, instance, tracking, at) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO UPDATE SET instance = EXCLUDED.instance, tracking = EXCLUDED.tracking, status = greatest(s.status, EXCLUDED.status)`,
		e.Body.GetShipmentId(), e.Body.GetOrderId(), int16(e.Body.GetLeg()), int16(logisticsv1.Status_STATUS_BOOKED), e.Body.GetInstance(), numbers, e.At); err != nil {
		return err
	}
	c, err := lockCaseBy(ctx, tx, "shipment_id", e.Body.GetShipmentId())
	if err != nil || c == nil || c.State != stateApproved {
		return err
	}
	return c.move(ctx, tx, stateAwaiting, "label.ready", "system", e.Body.GetInstance())
}

// onMoved keeps where a shipment is. Goods that come in for repair come to the
// merchant: no warehouse tells of them.
func onMoved(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentMoved]) error {
	if e.Body.GetOrderId() == "" {
		return nil
	}
	at := e.Body.GetAt().AsTime()
	if _, err := tx.Do(ctx, `WITH s AS (INSERT INTO shipment AS s (id, order_id, leg, status, at) VALUES ($1, $2, $3, $4, $5)
		  ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, at = EXCLUDED.at),
		f AS (UPDATE fulfilment SET delivered_at = $5 WHERE shipment_id = $1 AND delivered_at IS NOT NULL AND $4 = $7)
		INSERT INTO shipment_step (shipment_id, status, at, reason) VALUES ($1, $4, $5, $6) ON CONFLICT DO NOTHING`,
		e.Body.GetShipmentId(), e.Body.GetOrderId(), int16(e.Body.GetLeg()), int16(e.Body.GetStatus()), at, e.Body.GetReason(),
		int16(logisticsv1.Status_STATUS_DELIVERED)); err != nil {
		return err
	}
	if e.Body.GetStatus() != logisticsv1.Status_STATUS_DELIVERED {
		return nil
	}
	c, err := lockCaseBy(ctx, tx, "shipment_id", e.Body.GetShipmentId())
	if err != nil || c == nil || c.Remedy != remedyRepair || !c.ReceivedAt.IsZero() {
		return err
	}
	return c.arrive(ctx, tx, at, nil)
}

// onProducts keeps what a customs form wants to know of goods.
func onProducts(ctx context.Context, tx *store.Tx, events []event.Of[*catalogv1.ProductChanged]) error {
	facts := map[string]*catalogv1.GoodsFacts{}
	for _, e := range events {
		for _, g := range e.Body.GetGoods() {
			facts[g.GetSku()] = g
		}
	}
	var skus, codes, origins []string
	var grams []int32
	for sku := range facts {
		skus = append(skus, sku)
	}
	slices.Sort(skus)
	for _, sku := range skus {
		grams, codes, origins = append(grams, facts[sku].GetWeightGrams()), append(codes, facts[sku].GetHsCode()), append(origins, facts[sku].GetOriginCountry())
	}
	_, err := tx.Do(ctx, `INSERT INTO goods_facts (sku, grams, hs_code, origin) SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[])
		ON CONFLICT (sku) DO UPDATE SET grams = EXCLUDED.grams, hs_code = EXCLUDED.hs_code, origin = EXCLUDED.origin`, skus, grams, codes, origins)
	return err
}

// lockPurchase takes the one lock of an order's cases and money.
func lockPurchase(ctx context.Context, tx *store.Tx, orderID string) (known bool, err error) {
	var one int
	err = tx.Row(ctx, `SELECT 1 FROM purchase WHERE order_id = $1 FOR NO KEY UPDATE`, orderID).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// statusName is a shipment's status as texts have it: "in_transit".
func statusName(status int16) string {
	return strings.ToLower(strings.TrimPrefix(logisticsv1.Status(status).String(), "STATUS_"))
}

// scan reads every row of an answer and closes it.
func scan(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func now() time.Time { return time.Now() }

package main

import (
	"context"
	"database/sql"
	"errors"

	"google.golang.org/protobuf/proto"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// States of a fulfilment as the order sees it.
const (
	fulfilmentOpened     = 1
	fulfilmentPacked     = 2 // and a booking is under way, or done
	fulfilmentHeld       = 3 // packed, and the booking was refused; or not asked for, because the merchant holds it
	fulfilmentHandedOver = 4
	fulfilmentDelivered  = 5
	fulfilmentCancelled  = 6
)

// progress is the state of an order o that its consignments say, and
// partProgress the one of a consignment c that is accepted and whose
// fulfilments say it: what was cancelled does not count, what is short waits.
const (
	progress = `(SELECT CASE WHEN min(p.state) = 5 THEN 8 WHEN min(p.state) >= 4 THEN 7 WHEN min(p.state) >= 3 THEN 3 ELSE 2 END
		FROM consignment p WHERE p.order_id = o.id)::smallint`
	partProgress = `(SELECT CASE WHEN min(f.state) = 5 THEN 5 WHEN min(f.state) = 4 THEN 4 ELSE 3 END
		FROM fulfilment f WHERE f.order_id = c.order_id AND f.merchant = c.merchant AND f.state <> 6)::smallint`
)

// What the warehouse sends for others than orders, as after-sale does, is none
// of this module's: a reference that is no order is passed over.
func opened(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentOpened]) error {
	_, err := tx.Do(ctx, `INSERT INTO fulfilment (id, order_id, merchant) SELECT $1, o.id, $3 FROM orders o WHERE o.id = $2`,
		e.Body.GetFulfilmentId(), e.Body.GetReference(), e.Body.GetMerchantId())
	return err
}

func split(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentSplit]) error {
	note := ""
	if e.Body.GetShort() {
		note = "not on the shelf"
	}
	_, err := tx.Do(ctx, `WITH f AS (INSERT INTO fulfilment (id, order_id, merchant, rest) SELECT $2, f.order_id, f.merchant, $5 FROM fulfilment f WHERE f.id = $1 RETURNING order_id)
		INSERT INTO timeline (order_id, at, what, who, note) SELECT order_id, $3, 'fulfilment.split', 'system', $4 FROM f`,
		e.Body.GetFulfilmentId(), e.Body.GetRestId(), e.At, note, e.Body.GetShort())
	return err
}

// packed goods get a carrier.
func packed(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentPacked]) error {
	doc, err := proto.Marshal(e.Body)
	if err != nil {
		return err
	}
	var held int16
	err = tx.Row(ctx, `SELECT held FROM consignment WHERE order_id = $1 AND merchant = $2 FOR UPDATE`, e.Body.GetReference(), e.Body.GetMerchantId()).Scan(&held)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if held != 0 {
		_, err = tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 3, parcels = $2 WHERE id = $1 RETURNING order_id)
			INSERT INTO timeline (order_id, at, what, who, note) SELECT order_id, $3, 'fulfilment.packed', 'system', 'held by its merchant' FROM f`,
			e.Body.GetFulfilmentId(), doc, e.At)
		return err
	}
	shipment, saga, err := ship(ctx, tx, e.Body, 1, "")
	if err != nil {
		return err
	}
	_, err = tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 2, parcels = $2, booking = 1, shipment_id = $3, saga = $5::uuid WHERE id = $1 RETURNING order_id)
		INSERT INTO timeline (order_id, at, what, who) SELECT order_id, $4, 'fulfilment.packed', 'system' FROM f`,
		e.Body.GetFulfilmentId(), doc, shipment, e.At, saga)
	return err
}

func handedOver(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentHandedOver]) error {
	return advance(ctx, tx, e.Body.GetFulfilmentId(), e.Body.GetReference(), fulfilmentHandedOver, e.Meta, "fulfilment.handed_over")
}

func delivered(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentDelivered]) error {
	return advance(ctx, tx, e.Body.GetFulfilmentId(), e.Body.GetReference(), fulfilmentDelivered, e.Meta, "fulfilment.delivered")
}

// advance moves a fulfilment, and what follows it.
func advance(ctx context.Context, tx *store.Tx, fulfilment, orderID string, state int, e event.Meta, what string) error {
	err := tx.Row(ctx, lockOrder, orderID).Scan(new(int16))
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = $2 WHERE id = $1 RETURNING order_id)
		INSERT INTO timeline (order_id, at, what, who) SELECT order_id, $3, $4, 'system' FROM f`, fulfilment, int16(state), e.At, what); err != nil {
		return err
	}
	return follow(ctx, tx, orderID)
}

// follow has the consignments of an order that are accepted, and the order,
// follow their fulfilments, and tells when it is delivered. The order is
// locked. A consignment whose acceptance has not ended follows when it has.
func follow(ctx context.Context, tx *store.Tx, orderID string) error {
	if _, err := tx.Do(ctx, `UPDATE consignment c SET state = `+partProgress+` WHERE c.order_id = $1 AND c.state >= 3
		AND EXISTS (SELECT FROM fulfilment f WHERE f.order_id = c.order_id AND f.merchant = c.merchant AND f.state <> 6)`, orderID); err != nil {
		return err
	}
	var market string
	err := tx.Row(ctx, `UPDATE orders o SET state = `+progress+` WHERE o.id = $1 AND o.state IN (2, 3, 7) AND o.state <> `+progress+`
		RETURNING CASE o.state WHEN 8 THEN o.market ELSE '' END`, orderID).Scan(&market)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // as it was
	}
	if err != nil || market == "" {
		return err
	}
	return tx.Publish(&orderv1.OrderDelivered{OrderId: orderID, Market: market})
}

// cancelled goods need no carrier.
func cancelled(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentCancelled]) error {
	var market, shipment string
	err := tx.Row(ctx, `WITH f AS (UPDATE fulfilment SET state = 6 WHERE id = $1 RETURNING order_id, shipment_id),
		t AS (INSERT INTO timeline (order_id, at, what, who, note) SELECT order_id, $2, 'fulfilment.cancelled', 'system', $3 FROM f)
		SELECT o.market, f.shipment_id FROM f JOIN orders o ON o.id = f.order_id`, e.Body.GetFulfilmentId(), e.At, e.Body.GetReason()).Scan(&market, &shipment)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil || shipment == "" {
		return err
	}
	ctx = call.With(ctx, inMarket(call.From(ctx), market))
	_, err = tx.StartSaga(ctx, recallSaga, shipment, saga.Requests{
		"cancel": &logisticsv1.CancelShipmentRequest{ShipmentId: shipment, Reason: "the goods are not sent"},
	})
	return err
}

// booked and moved tell the timeline how the goods travel.
func booked(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentBooked]) error {
	if err := assign(ctx, tx, e.Body); err != nil {
		return err
	}
	return travelled(ctx, tx, e.Body.GetOrderId(), e.Meta, "shipment.booked", e.Body.GetShipmentId()+" with "+e.Body.GetInstance())
}

var movements = map[logisticsv1.Status]string{
	logisticsv1.Status_STATUS_IN_TRANSIT: "shipment.in_transit", logisticsv1.Status_STATUS_OUT_FOR_DELIVERY: "shipment.out_for_delivery",
	logisticsv1.Status_STATUS_READY_FOR_PICKUP: "shipment.ready_for_pickup", logisticsv1.Status_STATUS_DELIVERED: "shipment.delivered",
	logisticsv1.Status_STATUS_DELIVERY_FAILED: "shipment.delivery_failed", logisticsv1.Status_STATUS_ON_HOLD: "shipment.on_hold",
	logisticsv1.Status_STATUS_RETURN_TO_SENDER: "shipment.return_to_sender", logisticsv1.Status_STATUS_RETURNED: "shipment.returned",
	logisticsv1.Status_STATUS_LOST: "shipment.lost", logisticsv1.Status_STATUS_CANCELLED: "shipment.cancelled",
}

func moved(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentMoved]) error {
	what := movements[e.Body.GetStatus()]
	if what == "" {
		return nil
	}
	return travelled(ctx, tx, e.Body.GetOrderId(), e.Meta, what, e.Body.GetReason())
}

func travelled(ctx context.Context, tx *store.Tx, orderID string, e event.Meta, what, note string) error {
	_, err := tx.Do(ctx, `INSERT INTO timeline (order_id, at, what, who, note) SELECT id, $2, $3, 'system', $4 FROM orders WHERE id = $1`, orderID, e.At, what, note)
	return err
}

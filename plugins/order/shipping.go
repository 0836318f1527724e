package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// shipSaga books a carrier for packed goods and has the warehouse bring them to
// the door. Goods of which the booking is refused are held for the merchant.
var shipSaga = saga.Define("ship", 1,
	saga.Step{Name: "open", Undo: orderv1connect.OrderStepServiceHoldFulfilmentProcedure},
	saga.Step{Name: "book", Do: logisticsv1connect.ShipmentServiceBookShipmentProcedure, Undo: logisticsv1connect.ShipmentServiceCancelShipmentProcedure,
		TimeoutSeconds: 30},
	saga.Step{Name: "assign", Do: warehousev1connect.FulfilmentStepServiceAssignShipmentProcedure, Kind: saga.Pivot},
)

// recallSaga gives a booking back of goods that are not sent.
var recallSaga = saga.Define("recall", 1,
	saga.Step{Name: "cancel", Do: logisticsv1connect.ShipmentServiceCancelShipmentProcedure, Kind: saga.Retriable},
)

// fulfilmentOf asks the warehouse for a merchant's part of an order.
func fulfilmentOf(orderID, reservation, merchant, market string, lines []line) *warehousev1.RequestFulfilmentRequest {
	req := &warehousev1.RequestFulfilmentRequest{
		RequestId: id.Derive("frq", orderID+"/"+merchant), ReservationId: reservation, Reference: orderID, MerchantId: merchant, Market: market,
	}
	for _, l := range lines {
		req.Lines = append(req.Lines, &warehousev1.FulfilmentLine{Sku: l.SKU, Quantity: l.Quantity, Authenticated: l.Authenticated})
	}
	return req
}

// ship starts the saga that books a fulfilment's parcels, as a booking of its
// own number. Which carrier the parcels are assigned to is known when
// ShipmentBooked says it: the request of that step is given then.
func ship(ctx context.Context, tx *store.Tx, p *warehousev1.FulfilmentPacked, booking int, instance string) (shipmentID, sagaID string, err error) {
	o, err := readOrder(ctx, tx, p.GetReference())
	if err != nil {
		return "", "", fmt.Errorf("order %s of fulfilment %s: %w", p.GetReference(), p.GetFulfilmentId(), err)
	}
	shipmentID = id.Derive("shp", fmt.Sprintf("%s/%d", p.GetFulfilmentId(), booking))
	req := &logisticsv1.BookShipmentRequest{
		ShipmentId: shipmentID, Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, Reference: p.GetFulfilmentId(), OrderId: o.id,
		MerchantId: p.GetMerchantId(), Market: o.market,
		From:    &logisticsv1.Party{PlaceId: "warehouse/" + p.GetSite()},
		To:      &logisticsv1.Party{AddressRef: o.shipToRef},
		Parcels: o.parcels(p.GetParcels()),
		Customs: &logisticsv1.CustomsData{
			Category: logisticsv1.CustomsData_CATEGORY_SALE_OF_GOODS, Incoterm: logisticsv1.CustomsData_INCOTERM_DAP, InvoiceNumber: o.id,
		},
	}
	if instance == "" {
		instance = o.carrier
	}
	if instance != "" {
		req.Rule = &logisticsv1.Rule{Instance: instance}
	}
	ctx = call.With(ctx, inMarket(call.From(ctx), o.market))
	started, err := tx.StartSaga(ctx, shipSaga, shipmentID, saga.Requests{
		"open.undo": &orderv1.HoldFulfilmentRequest{FulfilmentId: p.GetFulfilmentId(), ShipmentId: shipmentID},
		"book":      req,
		"book.undo": &logisticsv1.CancelShipmentRequest{ShipmentId: shipmentID, Reason: "the goods are not sent"},
	})
	if err != nil {
		return "", "", err
	}
	return shipmentID, started.ID, nil
}

// parcels declares what is in them: what it is, what it is worth, where it is
// from.
func (o *order) parcels(packed []*warehousev1.Parcel) []*logisticsv1.Parcel {
	by := make(map[string]line, len(o.lines))
	for _, l := range o.lines {
		by[l.SKU] = l
	}
	var out []*logisticsv1.Parcel
	for _, p := range packed {
		parcel := &logisticsv1.Parcel{
			ParcelId: p.GetParcelId(), Sscc: p.GetSscc(), WeightGrams: p.GetWeightGrams(),
			LengthMm: p.GetLengthMm(), WidthMm: p.GetWidthMm(), HeightMm: p.GetHeightMm(),
		}
		for _, c := range p.GetLines() {
			l := by[c.GetSku()]
			parcel.Items = append(parcel.Items, &logisticsv1.Item{
				Sku: c.GetSku(), Description: clip(l.Title, 200), Quantity: c.GetQuantity(), NetWeightGrams: int32(min(int64(l.Weight)*c.GetQuantity(), 1_000_000)),
				Value: money(o.currency, l.Unit*c.GetQuantity()), HsCode: l.HSCode, OriginCountry: l.Origin,
			})
		}
		out = append(out, parcel)
	}
	return out
}

// clip shortens a text to n bytes at most, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	end := 0
	for i := range s {
		if i > n {
			break
		}
		end = i
	}
	return s[:end]
}

// assign tells the saga which carrier has the booking.
func assign(ctx context.Context, tx *store.Tx, e *logisticsv1.ShipmentBooked) error {
	var saga string
	err := tx.Row(ctx, `UPDATE fulfilment SET tracking = coalesce($3::text[], '{}') WHERE id = $1 AND shipment_id = $2 RETURNING saga::text`,
		e.GetReference(), e.GetShipmentId(), slices.Sorted(maps.Values(e.GetTrackingNumbers()))).Scan(&saga)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // not a fulfilment's
	}
	if err != nil {
		return err
	}
	return tx.Signal(saga, "assign", &warehousev1.AssignShipmentRequest{
		FulfilmentId: e.GetReference(), ShipmentId: e.GetShipmentId(), CarrierInstance: e.GetInstance(), TrackingNumbers: e.GetTrackingNumbers(),
	})
}

// HoldFulfilment is what a refused booking ends with.
func (s *service) HoldFulfilment(ctx context.Context, req *orderv1.HoldFulfilmentRequest) (*orderv1.HoldFulfilmentResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.HoldFulfilmentResponse, error) {
		_, err := tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 3, shipment_id = '' WHERE id = $1 AND shipment_id = $2 AND state = 2 RETURNING order_id)
			INSERT INTO timeline (order_id, what, who, note) SELECT order_id, 'shipment.refused', 'system', $2 FROM f`, req.GetFulfilmentId(), req.GetShipmentId())
		return &orderv1.HoldFulfilmentResponse{}, err
	})
}

// BookFulfilment books held goods again.
func (s *service) BookFulfilment(ctx context.Context, req *orderv1.BookFulfilmentRequest) (*orderv1.BookFulfilmentResponse, error) {
	p := call.From(ctx).Principal
	res := &orderv1.BookFulfilmentResponse{}
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		var merchant string
		var state, held int16
		var booking int
		var doc []byte
		err := tx.Row(ctx, `SELECT f.merchant, f.state, f.booking, f.shipment_id, f.parcels, c.held
			FROM fulfilment f JOIN consignment c ON c.order_id = f.order_id AND c.merchant = f.merchant WHERE f.id = $1 FOR UPDATE OF c, f`, req.GetFulfilmentId()).
			Scan(&merchant, &state, &booking, &res.ShipmentId, &doc, &held)
		switch {
		case errors.Is(err, sql.ErrNoRows) || err == nil && p.Kind == call.Merchant && p.Merchant != merchant:
			return fault.New(connect.CodeNotFound, "FULFILMENT_UNKNOWN", "there is no such fulfilment, or it is not yours")
		case err != nil:
			return err
		case state == fulfilmentPacked:
			return nil // being booked: the same answer
		case state != fulfilmentHeld:
			return fault.New(connect.CodeFailedPrecondition, "FULFILMENT_NOT_HELD", "only goods of which a booking was refused are booked again")
		case held != 0:
			return fault.New(connect.CodeFailedPrecondition, "HELD", "this part of the order is held; release it first")
		}
		res.ShipmentId, err = bookAgain(ctx, tx, req.GetFulfilmentId(), doc, booking+1, req.GetInstance(), p.String())
		return err
	})
	return res, err
}

// bookAgain asks a carrier for packed goods that none has.
func bookAgain(ctx context.Context, tx *store.Tx, fulfilment string, parcels []byte, booking int, instance, who string) (shipment string, err error) {
	packed := &warehousev1.FulfilmentPacked{}
	if err := proto.Unmarshal(parcels, packed); err != nil {
		return "", err
	}
	shipment, saga, err := ship(ctx, tx, packed, booking, instance)
	if err != nil {
		return "", err
	}
	_, err = tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 2, booking = $5, shipment_id = $2, saga = $4::uuid WHERE id = $1 RETURNING order_id)
		INSERT INTO timeline (order_id, what, who) SELECT order_id, 'shipment.asked', $3 FROM f`, fulfilment, shipment, who, saga, booking)
	return shipment, err
}

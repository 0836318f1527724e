package main

import (
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// AssignShipment brings packed parcels to the door.
func (f *floor) AssignShipment(ctx context.Context, req *warehousev1.AssignShipmentRequest) (*warehousev1.AssignShipmentResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.AssignShipmentResponse, error) {
		one, err := lockOne(ctx, tx, req.GetFulfilmentId())
		switch {
		case err != nil:
			return nil, err
		case one.state == stateCancelled:
			return nil, fault.New(connect.CodeFailedPrecondition, "FULFILMENT_CANCELLED", "the goods are not sent")
		case one.shipment == req.GetShipmentId():
			return &warehousev1.AssignShipmentResponse{}, nil
		case one.shipment != "":
			return nil, fault.New(connect.CodeFailedPrecondition, "OTHER_SHIPMENT", "another shipment carries it")
		case one.state != statePacked:
			return nil, wrongState(one, "packed")
		}
		var all []goods
		for _, l := range one.lines {
			all = append(all, one.goods(l, l.Packed, one.id, func(funit) bool { return true })...)
		}
		if _, err := post(ctx, tx, way{reason: "staging", from: "packed", to: "outbound"}, all...); err != nil {
			return nil, err
		}
		var parcels, numbers []string
		for p, n := range req.GetTrackingNumbers() {
			parcels, numbers = append(parcels, p), append(numbers, n)
		}
		_, err = tx.Do(ctx, `WITH f AS (UPDATE fulfilment SET state = 5, shipment_id = $2, carrier = $3 WHERE id = $1)
			UPDATE parcel p SET tracking = u.n FROM unnest($4::text[], $5::text[]) u(p, n) WHERE p.fulfilment_id = $1 AND p.id = u.p`,
			one.id, req.GetShipmentId(), req.GetCarrierInstance(), parcels, numbers)
		return &warehousev1.AssignShipmentResponse{}, err
	})
}

// HandOver gives scanned parcels to their carrier, all or none.
func (f *floor) HandOver(ctx context.Context, req *warehousev1.HandOverRequest) (*warehousev1.HandOverResponse, error) {
	return store.Mutate(ctx, f.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.HandOverResponse, error) {
		all, err := lockFulfilments(ctx, tx, `WHERE f.id IN (SELECT p.fulfilment_id FROM parcel p WHERE p.sscc = ANY ($1))`, req.GetSsccs())
		if err != nil {
			return nil, err
		}
		found := 0
		var moved []goods
		var parcels []string
		for _, one := range all {
			for _, p := range one.parcels {
				if !slices.Contains(req.GetSsccs(), p.SSCC) {
					continue
				}
				found++
				switch {
				case p.Manifest == req.GetManifestId():
					continue // scanned before
				case p.Manifest != "":
					return nil, fault.New(connect.CodeFailedPrecondition, "HANDED_OVER", "this parcel went with another manifest", "sscc", p.SSCC)
				case one.state != stateReady:
					return nil, wrongState(one, "at the door with a label")
				case one.carrier != req.GetCarrierInstance():
					return nil, fault.New(connect.CodeFailedPrecondition, "OTHER_CARRIER", "another carrier has this parcel's booking", "sscc", p.SSCC)
				}
				parcels, moved = append(parcels, p.ID), append(moved, one.inside(p)...)
			}
		}
		if found != len(req.GetSsccs()) {
			return nil, fault.New(connect.CodeNotFound, "PARCEL_UNKNOWN", "one of these numbers is no parcel's")
		}
		res := &warehousev1.HandOverResponse{}
		if len(parcels) > 0 {
			if err := send(ctx, tx, req.GetManifestId(), parcels, moved); err != nil {
				return nil, err
			}
		}
		for _, one := range all {
			done, err := one.gone(ctx, tx)
			if err != nil {
				return nil, err
			}
			if done {
				res.FulfilmentIds = append(res.FulfilmentIds, one.id)
			}
		}
		return res, nil
	})
}

// inside are the goods in a parcel, for the ledger.
func (f *fulfilment) inside(p fparcel) (all []goods) {
	for _, l := range p.Lines {
		all = append(all, f.goods(fline{SKU: l.SKU, Lot: l.Lot, Authenticated: l.Authenticated}, l.Quantity, f.id, func(u funit) bool { return u.Parcel == p.ID })...)
	}
	return all
}

// send moves parcels' goods onto the lorry, and notes what may come back. The
// note first: everybody locks in this order.
func send(ctx context.Context, tx *store.Tx, manifest string, parcels []string, moved []goods) error {
	_, err := tx.Do(ctx, `WITH p AS (UPDATE parcel SET manifest_id = $1 WHERE id = ANY ($2) RETURNING id, fulfilment_id),
		goods AS (
		  SELECT f.reference, l.sku, l.lot, '' AS unit, sum(l.quantity)::bigint AS quantity FROM p JOIN fulfilment f ON f.id = p.fulfilment_id
		    JOIN parcel_line l ON l.parcel_id = p.id WHERE NOT l.authenticated GROUP BY 1, 2, 3
		  UNION ALL SELECT f.reference, u.sku, u.lot, u.unit, 1 FROM p JOIN fulfilment f ON f.id = p.fulfilment_id JOIN fulfilment_unit u ON u.parcel_id = p.id)
		INSERT INTO shipped AS s (reference, sku, lot, unit, quantity) SELECT * FROM goods ORDER BY 1, 2, 3, 4
		ON CONFLICT (reference, sku, lot, unit) DO UPDATE SET quantity = CASE WHEN s.unit = '' THEN s.quantity + EXCLUDED.quantity ELSE 1 END`, manifest, parcels)
	if err != nil {
		return err
	}
	_, err = post(ctx, tx, way{reason: "hand-over", from: "outbound", to: "in_transit"}, moved...)
	return err
}

// gone closes a fulfilment of which every parcel is handed over. True also when
// it was so before.
func (f *fulfilment) gone(ctx context.Context, tx *store.Tx) (bool, error) {
	if f.state >= stateGone {
		return f.state == stateGone || f.state == stateDelivered, nil
	}
	done, err := tx.Do(ctx, `UPDATE fulfilment f SET state = 6, handed_over_at = now() WHERE f.id = $1 AND f.state = 5
		AND NOT EXISTS (SELECT FROM parcel p WHERE p.fulfilment_id = f.id AND p.manifest_id = '')`, f.id)
	if err != nil {
		return false, err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	return true, tx.Publish(&warehousev1.FulfilmentHandedOver{
		FulfilmentId: f.id, RequestId: f.request, Reference: f.reference, MerchantId: f.merchant, ShipmentId: f.shipment, UnitIds: f.unitIDs(),
		CarrierInstance: f.carrier,
	})
}

func (f *fulfilment) unitIDs() (all []string) {
	for _, u := range f.units {
		all = append(all, u.Unit)
	}
	return all
}

// onShipments follows goods to their end: delivered, lost, or back in
// quarantine.
func onShipments(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentMoved]) error {
	w, ok := ends[e.Body.GetStatus()]
	if !ok || e.Body.GetLeg() != logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER {
		return nil
	}
	one, err := lockOne(ctx, tx, e.Body.GetReference())
	if fault.Reason(err) == "FULFILMENT_UNKNOWN" {
		return nil // not this warehouse's
	}
	if err != nil {
		return err
	}
	switch {
	case one.shipment != e.Body.GetShipmentId() || one.ended != "":
		return nil // told before, or of a booking that was given up
	case one.state != stateGone:
		return errors.New("a shipment ends of a fulfilment that was not handed over")
	}
	var all []goods
	for _, p := range one.parcels {
		all = append(all, one.inside(p)...)
	}
	if w.ended == "returned" {
		err = one.cameBack(ctx, tx, all)
	} else {
		_, err = post(ctx, tx, w.way, all...)
	}
	if err != nil {
		return err
	}
	state := one.state
	if w.ended == "delivered" {
		state = stateDelivered
	}
	if _, err := tx.Do(ctx, `WITH u AS (DELETE FROM fulfilment_unit WHERE fulfilment_id = $1 AND $4) UPDATE fulfilment SET state = $2, ended = $3 WHERE id = $1`,
		one.id, state, w.ended, w.ended != "delivered"); err != nil {
		return err
	}
	if state != stateDelivered {
		return nil
	}
	return tx.Publish(&warehousev1.FulfilmentDelivered{
		FulfilmentId: one.id, RequestId: one.request, Reference: one.reference, MerchantId: one.merchant, ShipmentId: one.shipment, UnitIds: one.unitIDs(),
	})
}

// ends of a way, and what they mean for the goods.
var ends = map[logisticsv1.Status]struct {
	ended string
	way   way
}{
	logisticsv1.Status_STATUS_DELIVERED: {"delivered", way{reason: "delivery", from: "in_transit", to: "external"}},
	logisticsv1.Status_STATUS_LOST:      {"lost", way{reason: "loss", from: "in_transit", to: "external"}},
	logisticsv1.Status_STATUS_RETURNED:  {"returned", backAgain},
}

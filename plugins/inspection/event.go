package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// Events of different keys come in any order: a return may be heard before the
// delivery that it undoes. Each handler looks at where a unit is, and leaves
// alone what has moved on.

// onShipmentMoved hears that a merchant's consignment is at the door.
func (s *service) onShipmentMoved(ctx context.Context, tx *store.Tx, e event.Of[*logisticsv1.ShipmentMoved]) error {
	if e.Body.GetLeg() != logisticsv1.Leg_LEG_MERCHANT_TO_INSPECTION {
		return nil
	}
	return arrive(ctx, tx, e.Body.GetReference(), e.Body.GetMerchantId(), e.Body.GetShipmentId(), e.Body.GetStatus() == logisticsv1.Status_STATUS_DELIVERED)
}

// onInspectionRequested opens a case about goods that stand in the warehouse.
func (s *service) onInspectionRequested(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.InspectionRequested]) error {
	b := e.Body
	var known bool
	if err := tx.Row(ctx, `SELECT EXISTS (SELECT FROM case_file WHERE id = $1)`, b.GetCaseId()).Scan(&known); err != nil || known {
		return err
	}
	if n := len(b.GetUnitIds()); n > maxUnits || n > 0 && int64(n) != b.GetQuantity() || b.GetQuantity() < 1 {
		return fmt.Errorf("case %s: %d units of %d pieces", b.GetCaseId(), n, b.GetQuantity())
	}
	c := &caseFile{
		id: b.GetCaseId(), origin: inspectionv1.Case_ORIGIN_RETURN, merchant: b.GetMerchantId(), sku: b.GetSku(), lot: b.GetLot(), quantity: b.GetQuantity(),
		units: slices.Sorted(slices.Values(b.GetUnitIds())), reference: b.GetReference(), site: site(""), destination: site(b.GetSite()),
		market: b.GetMarket(), reason: b.GetReason(),
	}
	if c.market == "" {
		c.market = s.market
	}
	if b.GetReason() == "DOUBTED" {
		c.origin = inspectionv1.Case_ORIGIN_STOCK
	}
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return err
	}
	if len(units) < len(c.units) {
		return fmt.Errorf("case %s: a unit was never commissioned", c.id)
	}
	for _, u := range units {
		c.gtin = u.gtin
	}
	if err := openCases(ctx, tx, []*caseFile{c}); err != nil {
		return err
	}
	here, err := s.cameBack(ctx, tx, units, c.reference, c.where(), b.GetReason() == "RETURN_WRONG_SERIAL")
	if err != nil {
		return err
	}
	if err := s.carry(ctx, tx, byHolder(here, step{
		bizStep: "inspecting", disposition: "unknown", holder: c.where(), document: c.id, merchant: c.merchant,
	})...); err != nil {
		return err
	}
	return doubt(ctx, tx, c.units)
}

// onReturnReceived hears that goods came back from consumers.
func (s *service) onReturnReceived(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.ReturnReceived]) error {
	var unitIDs []string
	for _, l := range e.Body.GetLines() {
		unitIDs = append(unitIDs, l.GetUnitIds()...)
	}
	if len(unitIDs) == 0 {
		return nil
	}
	units, err := lockUnits(ctx, tx, unitIDs)
	if err != nil {
		return err
	}
	_, err = s.cameBack(ctx, tx, units, e.Body.GetReturnId(), "", false)
	return err
}

// cameBack takes units over from consumers, or from the carrier that brought
// them back, and returns those that are in the warehouse now. That is a
// return, and no sighting; but a destroyed unit does not come back, and a
// return brings none that its merchant, or an inspection, still has. Empty
// holder: the warehouse that it last left. wrong: reception found that they were
// not sold with the order that they came back for. Then a return is a sighting
// too, and none brings what the warehouse has had all along.
func (s *service) cameBack(ctx context.Context, tx *store.Tx, units []*unit, document, holder string, wrong bool) ([]*unit, error) {
	if len(units) == 0 {
		return nil, nil
	}
	heard, left := make(map[string]bool), make(map[string]string)
	rows, err := tx.Rows(ctx, `SELECT u.id, EXISTS (SELECT FROM unit_step t WHERE t.unit = u.id AND t.reference = $2 AND t.biz_step = 'receiving'),
		coalesce((SELECT t.holder FROM unit_step t WHERE t.unit = u.id AND t.holder LIKE 'warehouse/%' ORDER BY t.id DESC LIMIT 1), 'warehouse/main')
		FROM unit u WHERE u.id = ANY ($1)`, ids(units), document)
	if err := each(rows, err, func(r row) error {
		var id, last string
		var known bool
		if err := r.Scan(&id, &known, &last); err != nil {
			return err
		}
		heard[id], left[id] = known, last
		return nil
	}); err != nil {
		return nil, err
	}
	var here, returned []*unit
	var seen []sighting
	for _, u := range units {
		kind := kindOf(u.holder)
		if wrong && u.disposition != destroyed && (heard[u.id] || kind == consumer || kind == atCarrier) {
			seen = append(seen, sighting{u, document, soldOtherwise})
		}
		switch {
		case heard[u.id] || kind == atWarehouse && holder != "" && !wrong:
			if kind == atWarehouse {
				here = append(here, u)
			}
		case u.disposition == destroyed:
			seen = append(seen, sighting{u, document, seenDestroyed})
		case kind == consumer || kind == atCarrier:
			returned = append(returned, u)
		default:
			seen = append(seen, sighting{u, document, seenElsewhere})
		}
	}
	to := make(map[string][]*unit)
	for _, u := range returned {
		h := holder
		if h == "" {
			h = left[u.id]
		}
		to[h] = append(to[h], u)
	}
	for h, some := range to {
		if err := s.carry(ctx, tx, byHolder(some, step{
			bizStep: "receiving", disposition: "returned", holder: h, document: document, transaction: "rma",
		})...); err != nil {
			return nil, err
		}
	}
	if err := s.raise(ctx, tx, seen...); err != nil || len(returned) == 0 {
		return here, err
	}
	return append(here, returned...), retain(ctx, tx, returned, cameBack, document)
}

// unheard locks those of some units to which nothing has happened yet by a
// document: who hears of it again leaves them alone, wherever they are since.
func unheard(ctx context.Context, tx *store.Tx, unitIDs []string, document string) ([]*unit, error) {
	if len(unitIDs) == 0 {
		return nil, nil
	}
	// The rows are locked first: who else hears of it waits, and then sees.
	units, err := lockUnits(ctx, tx, unitIDs)
	if err != nil {
		return nil, err
	}
	heard := make(map[string]bool)
	rows, err := tx.Rows(ctx, `SELECT DISTINCT unit FROM unit_step WHERE unit = ANY ($1) AND reference = $2`, ids(units), document)
	err = each(rows, err, func(r row) error {
		var u string
		err := r.Scan(&u)
		heard[u] = true
		return err
	})
	return slices.DeleteFunc(units, func(u *unit) bool { return heard[u.id] }), err
}

// onHandedOver hears that units left the warehouse with a carrier.
func (s *service) onHandedOver(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentHandedOver]) error {
	units, err := unheard(ctx, tx, e.Body.GetUnitIds(), e.Body.GetFulfilmentId())
	if err != nil || len(units) == 0 {
		return err
	}
	var leaving []*unit
	var seen []sighting
	for _, u := range units {
		switch {
		case u.disposition == destroyed:
			seen = append(seen, sighting{u, e.Body.GetFulfilmentId(), seenDestroyed})
		case u.holder == consumer:
			seen = append(seen, sighting{u, e.Body.GetFulfilmentId(), seenSold})
		default:
			leaving = append(leaving, u)
		}
	}
	if err := s.raise(ctx, tx, seen...); err != nil {
		return err
	}
	carrier := e.Body.GetShipmentId()
	if carrier == "" || strings.ContainsAny(carrier, "/ ") {
		carrier = "unknown"
	}
	if err := s.carry(ctx, tx, byHolder(leaving, step{
		bizStep: "shipping", disposition: inTransit, holder: atCarrier + "/" + carrier, document: e.Body.GetFulfilmentId(), transaction: "desadv",
	})...); err != nil || len(leaving) == 0 {
		return err
	}
	if err := sell(ctx, tx, leaving, e.Body); err != nil {
		return err
	}
	// What leaves while a case asks about it is in doubt from the start.
	return doubt(ctx, tx, ids(leaving))
}

// onDelivered hears that units are with their buyer: sold, which their makers
// are told.
func (s *service) onDelivered(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.FulfilmentDelivered]) error {
	units, err := lockUnits(ctx, tx, e.Body.GetUnitIds())
	if err != nil {
		return err
	}
	var there []*unit
	for _, u := range units {
		// What came back meanwhile is not sold any more.
		if u.disposition == inTransit && u.document == e.Body.GetFulfilmentId() {
			there = append(there, u)
		}
	}
	if len(there) == 0 {
		return nil
	}
	if err := s.carry(ctx, tx, byHolder(there, step{
		bizStep: "retail_selling", disposition: sold, holder: consumer, document: e.Body.GetFulfilmentId(),
	})...); err != nil {
		return err
	}
	return retain(ctx, tx, there, wasSold, e.Body.GetFulfilmentId())
}

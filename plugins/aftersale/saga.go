package main

import (
	"context"
	"fmt"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// patient is how often a step is tried that must be done whatever happens.
	patient = 100
	// sendWithin is how long goods are waited for after the label is there.
	sendWithin = 45 * 24 * 60 * 60
)

// Signals that sagas wait for.
const (
	signalReceived = "received"
	signalAssessed = "assessed"
	signalRepaired = "repaired"
)

var (
	stepOpen = saga.Step{Name: "open", Undo: aftersalev1connect.AftersaleStepServiceReopenCaseProcedure}
	stepBook = saga.Step{Name: "book", Do: logisticsv1connect.ShipmentServiceBookShipmentProcedure,
		Undo: logisticsv1connect.ShipmentServiceCancelShipmentProcedure, TimeoutSeconds: 30}
	stepAuthorise = saga.Step{Name: "authorise", Do: warehousev1connect.ReturnServiceAuthoriseReturnProcedure,
		Undo: warehousev1connect.ReturnServiceCancelReturnProcedure}
	stepReserve = saga.Step{Name: "reserve", Do: warehousev1connect.StockServiceReserveStockProcedure,
		Undo: warehousev1connect.StockServiceReleaseReservationProcedure}
	// Goods that came cannot be made not to have come: from here on it only
	// goes forward. Those that do not come in time undo what was arranged.
	stepReceive = saga.Step{Name: "receive", Do: aftersalev1connect.AftersaleStepServiceReceiveCaseProcedure, Kind: saga.Pivot,
		WaitSignal: signalReceived, WaitSeconds: sendWithin}
	stepSettle = saga.Step{Name: "settle", Do: aftersalev1connect.AftersaleStepServiceSettleCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient}
)

// returnSaga brings goods back and refunds them as they were found.
var returnSaga = saga.Define("return", 1, stepOpen, stepAuthorise, stepBook, stepReceive,
	saga.Step{Name: "refund", Do: aftersalev1connect.AftersaleStepServiceRefundCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient,
		WaitSignal: signalAssessed, TimeoutSeconds: 30},
	stepSettle)

// exchangeSaga brings goods back and sends the same anew. The replacement is
// reserved before the goods travel: without stock it is undone, and refunded.
var exchangeSaga = saga.Define("exchange", 1, stepOpen, stepReserve, stepAuthorise, stepBook, stepReceive,
	saga.Step{Name: "replace", Do: aftersalev1connect.AftersaleStepServiceReplaceCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient,
		WaitSignal: signalAssessed, TimeoutSeconds: 30},
	stepSettle)

// repairSaga brings goods to the merchant and back.
var repairSaga = saga.Define("repair", 1, stepOpen, stepBook, stepReceive,
	saga.Step{Name: "return", Do: aftersalev1connect.AftersaleStepServiceReturnRepairedProcedure, Kind: saga.Retriable, MaxAttempts: patient,
		WaitSignal: signalRepaired, TimeoutSeconds: 30},
	stepSettle)

// refundSaga pays without goods coming back.
var refundSaga = saga.Define("refund", 1,
	saga.Step{Name: "refund", Do: aftersalev1connect.AftersaleStepServiceRefundCaseProcedure, Kind: saga.Retriable, MaxAttempts: patient, TimeoutSeconds: 30},
	stepSettle)

// reshipSaga sends goods anew without any coming back.
var reshipSaga = saga.Define("reship", 1, stepOpen, stepReserve,
	saga.Step{Name: "replace", Do: aftersalev1connect.AftersaleStepServiceReplaceCaseProcedure, Kind: saga.Pivot, TimeoutSeconds: 30},
	stepSettle)

// releaseSaga gives back what a replacement did not need.
var releaseSaga = saga.Define("release", 1,
	saga.Step{Name: "release", Do: warehousev1connect.StockServiceReleaseReservationProcedure, Kind: saga.Retriable, MaxAttempts: patient})

func inMarket(ctx context.Context, market string) context.Context {
	i := call.From(ctx)
	i.Market = market
	return call.With(ctx, i)
}

// begin starts the saga that an approved case needs, as an attempt with ids of
// its own. The case's row is to be saved by the caller; begun are its columns.
func (c *caseFile) begin(ctx context.Context, tx *store.Tx, p *purchase, carrier string) (*saga.Started, error) {
	c.Attempt++
	key := fmt.Sprintf("%s/%d", c.ID, c.Attempt)
	c.ReturnID, c.ShipmentID, c.ReservationID, c.RequestID, c.RefundID = "", "", "", "", id.Derive("rfd", key)
	goods := !c.KeepGoods && c.Kind != kindMissing && c.Remedy != remedyPartial
	requests := saga.Requests{"settle": &aftersalev1.SettleCaseRequest{CaseId: c.ID}}
	def := refundSaga
	if goods {
		c.ShipmentID = id.Derive("shp", key)
		requests["book"] = c.returnLeg(p, carrier)
		requests["book.undo"] = &logisticsv1.CancelShipmentRequest{ShipmentId: c.ShipmentID, Reason: "the goods are not sent"}
		requests["receive"] = &aftersalev1.ReceiveCaseRequest{CaseId: c.ID}
	}
	if goods && c.Remedy != remedyRepair {
		c.ReturnID = id.Derive("ret", key)
		requests["authorise"] = c.authorisation(p)
		requests["authorise.undo"] = &warehousev1.CancelReturnRequest{ReturnId: c.ReturnID, Reason: "the goods are not sent"}
	}
	switch c.Remedy {
	case remedyReplacement:
		c.ReservationID, c.RequestID = id.Derive("rsv", key), id.Derive("frq", key)
		requests["reserve"] = c.reservation()
		requests["reserve.undo"] = &warehousev1.ReleaseReservationRequest{ReservationId: c.ReservationID, Reason: "nothing is replaced"}
		requests["replace"] = &aftersalev1.ReplaceCaseRequest{CaseId: c.ID}
		if def = reshipSaga; goods {
			def = exchangeSaga
		}
	case remedyRepair:
		def = repairSaga
		requests["return"] = &aftersalev1.ReturnRepairedRequest{CaseId: c.ID}
	default:
		if goods {
			def = returnSaga
		}
		requests["refund"] = &aftersalev1.RefundCaseRequest{CaseId: c.ID}
	}
	if def != refundSaga {
		requests["open.undo"] = &aftersalev1.ReopenCaseRequest{CaseId: c.ID}
	}
	started, err := tx.StartSaga(inMarket(ctx, c.Market), def, key, requests)
	if err != nil {
		return nil, err
	}
	c.Saga = started.ID
	return started, nil
}

// begun are the columns of a case that begin sets.
var begun = []string{"attempt", "saga", "return_id", "shipment_id", "reservation_id", "request_id", "refund_id"}

func (c *caseFile) authorisation(p *purchase) *warehousev1.AuthoriseReturnRequest {
	req := &warehousev1.AuthoriseReturnRequest{ReturnId: c.ReturnID, Reference: c.OrderID, MerchantId: c.Merchant, Reason: c.ID}
	for _, l := range c.lines {
		if l.Accepted == 0 {
			continue
		}
		req.Site = p.line(l.SKU).Site
		one := &warehousev1.ReturnLine{Sku: l.SKU, Quantity: l.Accepted}
		if int64(len(l.Units)) == l.Accepted {
			one.UnitIds = l.Units
		}
		req.Lines = append(req.Lines, one)
	}
	return req
}

func (c *caseFile) reservation() *warehousev1.ReserveStockRequest {
	req := &warehousev1.ReserveStockRequest{ReservationId: c.ReservationID, Reference: c.OrderID, Market: c.Market}
	for _, l := range c.lines {
		if l.Accepted > 0 {
			// What replaces serialised goods is authentic like what it replaces.
			req.Lines = append(req.Lines, &warehousev1.ReservationLine{Sku: l.SKU, Quantity: l.Accepted, Authenticated: len(l.Units) > 0})
		}
	}
	return req
}

// returnLeg books the way back: from where it was sent to, to the warehouse it
// came from, or to the merchant who repairs it.
func (c *caseFile) returnLeg(p *purchase, carrier string) *logisticsv1.BookShipmentRequest {
	req := &logisticsv1.BookShipmentRequest{
		ShipmentId: c.ShipmentID, Leg: logisticsv1.Leg_LEG_CONSUMER_TO_RETURNS, Reference: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Market: c.Market,
		From: &logisticsv1.Party{AddressRef: p.ShipToRef}, To: &logisticsv1.Party{PlaceId: "merchant/" + c.Merchant},
		Parcels: c.parcels(p, c.ShipmentID), Customs: c.customs(),
	}
	if c.Remedy != remedyRepair {
		site := "main"
		for _, l := range c.lines {
			if at := p.line(l.SKU).Site; l.Accepted > 0 && at != "" {
				site = at
			}
		}
		req.To.PlaceId = "warehouse/" + site
	}
	if carrier != "" {
		req.Rule = &logisticsv1.Rule{Instance: carrier}
	}
	return req
}

func (c *caseFile) customs() *logisticsv1.CustomsData {
	return &logisticsv1.CustomsData{
		Category: logisticsv1.CustomsData_CATEGORY_RETURNED_GOODS, Incoterm: logisticsv1.CustomsData_INCOTERM_DAP, InvoiceNumber: c.OrderID,
	}
}

// parcels are the accepted goods in one parcel, as heavy as they were packed.
func (c *caseFile) parcels(p *purchase, parcelID string) []*logisticsv1.Parcel {
	one := &logisticsv1.Parcel{ParcelId: parcelID}
	var grams int64
	for _, l := range c.lines {
		if l.Accepted == 0 {
			continue
		}
		b := p.line(l.SKU)
		weight := b.Grams * l.Accepted
		grams += weight
		one.Items = append(one.Items, &logisticsv1.Item{
			Sku: l.SKU, Description: clip(b.Title, 200), Quantity: l.Accepted, NetWeightGrams: int32(min(weight, 1_000_000)),
			Value: amount(c.Currency, b.Price*l.Accepted/b.Quantity), HsCode: b.HSCode, OriginCountry: b.Origin,
		})
	}
	one.WeightGrams = int32(min(max(grams, 100), 1_000_000))
	return []*logisticsv1.Parcel{one}
}

func amount(currency string, minor int64) *typev1.Money {
	return &typev1.Money{CurrencyCode: currency, MinorUnits: minor}
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

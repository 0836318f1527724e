package main

import (
	"context"
	"strconv"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// refusedTo is where the warehouse moves goods that did not pass.
var refusedTo = map[ordered]warehousev1.Disposition{
	toMerchant: warehousev1.Disposition_DISPOSITION_EXTERNAL,
	toDamaged:  warehousev1.Disposition_DISPOSITION_DAMAGED,
	toRepair:   warehousev1.Disposition_DISPOSITION_REPAIR,
	toEnd:      warehousev1.Disposition_DISPOSITION_DESTROYED,
}

// OrderDisposition says what becomes of goods that did not pass. Goods that
// never were in the warehouse can only go back to their merchant.
func (s *service) OrderDisposition(ctx context.Context, req *inspectionv1.OrderDispositionRequest) (*inspectionv1.OrderDispositionResponse, error) {
	if _, err := person(ctx); err != nil {
		return nil, err
	}
	to := ordered(req.GetDisposition())
	var started *saga.Started
	res, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.OrderDispositionResponse, error) {
		started = nil
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if c.state < disposed || c.ordered != to {
			if err := c.mayBecome(to); err != nil {
				return nil, err
			}
			if err := note(ctx, tx, c.id, "ordered "+req.GetDisposition().String(), req.GetReason()); err != nil {
				return nil, err
			}
			if started, err = s.order(ctx, tx, c, to); err != nil {
				return nil, err
			}
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.OrderDispositionResponse{Case: answer}, err
	})
	if err == nil {
		s.launch(ctx, started)
	}
	return res, err
}

// mayBecome refuses a disposition that the verdict, or the goods' place, does
// not leave open.
func (c *caseFile) mayBecome(to ordered) error {
	switch err := c.must(orderDisposition); {
	case err != nil:
		return err
	case c.verdict == genuine:
		return fault.New(connect.CodeFailedPrecondition, "NOTHING_TO_ORDER", "the goods passed; confirm the verdict again to send them to the warehouse again")
	case c.verdict == counterfeit:
		return fault.New(connect.CodeFailedPrecondition, "ONLY_DESTRUCTION", "counterfeits can only be destroyed")
	case !c.inWarehouse() && to != toMerchant:
		return fault.New(connect.CodeFailedPrecondition, "NOT_IN_WAREHOUSE", "these goods are not in the warehouse; they can go back to their merchant")
	}
	return nil
}

// order says what becomes of a case's goods, in the transaction that decides
// it. Goods move with the books of the warehouse by a saga; goods that it does
// not have are where they go at once, and there is none.
func (s *service) order(ctx context.Context, tx *store.Tx, c *caseFile, to ordered) (*saga.Started, error) {
	if _, err := tx.Do(ctx, `UPDATE case_file SET state = 6, ordered = $2, orders = orders + 1 WHERE id = $1`, c.id, int16(to)); err != nil {
		return nil, err
	}
	c.state, c.ordered, c.orders = disposed, to, c.orders+1
	if !c.inWarehouse() && to != toShelf {
		return nil, s.close(ctx, tx, c)
	}
	info := call.From(ctx)
	info.Market = c.market
	ctx = call.With(ctx, info)
	key := c.id + "/" + strconv.Itoa(c.orders)
	requests := saga.Requests{"order": &inspectionv1.ReopenCaseRequest{CaseId: c.id}, "close": &inspectionv1.CloseCaseRequest{CaseId: c.id}}
	if to == toShelf {
		requests["admit"] = c.admission()
		return tx.StartSaga(ctx, admitSaga, key, requests)
	}
	requests["refuse"] = c.refusal(to, c.reference)
	return tx.StartSaga(ctx, refuseSaga, key, requests)
}

func (c *caseFile) admission() proto.Message {
	req := &warehousev1.AdmitGoodsRequest{
		CaseId: c.id, Site: c.destination, From: warehousev1.Disposition_DISPOSITION_EXTERNAL, MerchantId: c.merchant, Sku: c.sku, Lot: c.lot,
		ExpiresOn: c.expiresOn, Quantity: c.quantity, UnitIds: c.units,
	}
	if c.inWarehouse() {
		req.From, req.Reference = warehousev1.Disposition_DISPOSITION_INSPECTING, c.reference
	}
	return req
}

func (c *caseFile) refusal(to ordered, reference string) proto.Message {
	return &warehousev1.RefuseGoodsRequest{
		CaseId: c.id, Site: c.destination, To: refusedTo[to], Sku: c.sku, Lot: c.lot, Quantity: c.quantity, UnitIds: c.units, Reference: reference,
	}
}

// launch lets the kernel drive a saga that was committed. It goes on by itself
// where that fails, so no failure is the caller's.
func (s *service) launch(ctx context.Context, started *saga.Started) {
	if started == nil {
		return
	}
	if err := s.host.LaunchSaga(ctx, started); err != nil {
		s.log.InfoContext(ctx, "a saga waits for its driver", "saga", started.ID, "error", err)
	}
}

// CloseCase ends a case whose goods are where the verdict sends them.
func (s *service) CloseCase(ctx context.Context, req *inspectionv1.CloseCaseRequest) (*inspectionv1.CloseCaseResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	res, err := store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.CloseCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if c.state == closed {
			return &inspectionv1.CloseCaseResponse{}, nil
		}
		if err := c.must(closeCase); err != nil {
			return nil, err
		}
		return &inspectionv1.CloseCaseResponse{}, s.close(ctx, tx, c)
	})
	if err == nil {
		s.nudge()
	}
	return res, err
}

// ReopenCase undoes the order of a disposition that the warehouse refused: the
// verdict stands, and somebody orders again.
func (s *service) ReopenCase(ctx context.Context, req *inspectionv1.ReopenCaseRequest) (*inspectionv1.ReopenCaseResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ReopenCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if err := c.must(reopenCase); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `UPDATE case_file SET state = 5, ordered = 0 WHERE id = $1`, c.id); err != nil {
			return nil, err
		}
		return &inspectionv1.ReopenCaseResponse{}, note(ctx, tx, c.id, "reopened", "the warehouse refused")
	})
}

// onlyInSaga refuses a step that no saga asked for.
func onlyInSaga(ctx context.Context) error {
	if _, ok := store.StepOf(ctx); !ok {
		return fault.New(connect.CodePermissionDenied, "SAGA_STEP_ONLY", "this is a step of the inspection module's own sagas")
	}
	return nil
}

// close ends a case: units are with whom they go to, what is genuine gets its
// certificate, and the consignment ends with its last case.
func (s *service) close(ctx context.Context, tx *store.Tx, c *caseFile) error {
	units, err := lockUnits(ctx, tx, c.units)
	if err != nil {
		return err
	}
	if err := s.settle(ctx, tx, c, units); err != nil {
		return err
	}
	// The sale of what is back on a shelf has ended.
	var shelved []string
	if c.ordered == toShelf {
		shelved = ids(atHand(units))
	}
	if _, err := tx.Do(ctx, `WITH c AS (UPDATE case_file SET state = 8, closed_at = now() WHERE id = $1),
		d AS (UPDATE destruction SET state = 3 WHERE case_id = $1 AND state = 2),
		s AS (UPDATE sale SET ended = true WHERE unit = ANY ($2) AND NOT ended)
		UPDATE case_unit SET held = false WHERE case_id = $1 AND held`, c.id, shelved); err != nil {
		return err
	}
	if err := note(ctx, tx, c.id, "closed", ""); err != nil {
		return err
	}
	if c.origin != inspectionv1.Case_ORIGIN_CONSIGNMENT {
		return nil
	}
	// The consignment is locked first: of two cases that end at once, the
	// second must see the first.
	if _, err := tx.Do(ctx, `SELECT FROM consignment WHERE id = $1 FOR UPDATE`, c.reference); err != nil {
		return err
	}
	_, err = tx.Do(ctx, `UPDATE consignment g SET state = 4 WHERE g.id = $1 AND g.state = 3
		AND NOT EXISTS (SELECT FROM case_file o WHERE o.reference = g.id AND o.origin = 1 AND o.state <> 8)`, c.reference)
	return err
}

// settle moves a case's units to where they were ordered.
func (s *service) settle(ctx context.Context, tx *store.Tx, c *caseFile, units []*unit) error {
	goes := step{document: c.id, merchant: c.merchant}
	switch c.ordered {
	case toShelf:
		goes.bizStep, goes.disposition, goes.holder = "storing", "sellable_not_accessible", atWarehouse+"/"+c.destination
	case toMerchant:
		goes.bizStep, goes.disposition, goes.holder = "shipping", "returned", atMerchant+"/"+c.merchant
	case toDamaged:
		goes.bizStep, goes.disposition = "holding", "damaged"
	case toRepair:
		goes.bizStep, goes.disposition = "repairing", "unavailable"
	}
	switch {
	case goes.bizStep == "":
		// Destroyed before, or about a serial alone.
	case len(c.units) > 0:
		if err := s.carry(ctx, tx, byHolder(atHand(units), goes)...); err != nil {
			return err
		}
	default:
		goes.sku, goes.gtin, goes.lot, goes.quantity, goes.from = c.sku, c.gtin, c.lot, c.quantity, c.where()
		if goes.holder == "" {
			goes.holder = goes.from
		}
		if err := s.recordStep(ctx, tx, goes); err != nil {
			return err
		}
	}
	if c.verdict != genuine {
		return nil
	}
	// Since the verdict a copy may have been seen, or another case have found
	// otherwise.
	var certified []*unit
	for _, u := range units {
		if u.verdict == genuine && !u.cloneSuspected && u.disposition != destroyed && u.certificateID == "" {
			certified = append(certified, u)
		}
	}
	if len(certified) == 0 {
		return nil
	}
	return s.issueCertificates(ctx, tx, certified, c.id)
}

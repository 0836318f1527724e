package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect/v2"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// onlyInSaga refuses calls of steps that no saga makes.
func onlyInSaga(ctx context.Context) error {
	if _, ok := store.StepOf(ctx); !ok {
		return fault.New(connect.CodePermissionDenied, "NOT_A_STEP", "only the module's own sagas call this")
	}
	return nil
}

// ReopenCase ends a saga that did not get as far as the goods.
func (s *service) ReopenCase(ctx context.Context, req *aftersalev1.ReopenCaseRequest) (*aftersalev1.ReopenCaseResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.ReopenCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		return &aftersalev1.ReopenCaseResponse{}, c.reopen(ctx, tx)
	})
}

// reopen is what is left of a case whose saga was undone: with a label that
// nobody used it has expired. A replacement that cannot be had becomes a
// refund. What else could not be arranged is the marketplace's to look at.
func (c *caseFile) reopen(ctx context.Context, tx *store.Tx) error {
	switch c.State {
	case stateAwaiting:
		if err := c.release(ctx, tx, nothing); err != nil {
			return err
		}
		c.Note = "NOTHING_SENT"
		return c.end(ctx, tx, stateExpired, "case.expired", "system", c.Note, "note")
	case stateApproved:
	default:
		return nil
	}
	if c.Remedy == remedyReplacement {
		p, err := readPurchase(ctx, tx, c.OrderID, false)
		if err != nil {
			return err
		}
		c.Remedy, c.Note = remedyRefund, "NO_REPLACEMENT"
		_, err = c.proceed(ctx, tx, p, "", "replacement.refused", "system", c.Note)
		return err
	}
	c.Note, c.State = "LABEL_REFUSED", stateRequested
	if err := c.save(ctx, tx, "state"); err != nil {
		return err
	}
	return c.escalate(ctx, tx, c.Note, "system")
}

// ReceiveCase records that goods came; the event that said so has done the
// rest.
func (s *service) ReceiveCase(ctx context.Context, req *aftersalev1.ReceiveCaseRequest) (*aftersalev1.ReceiveCaseResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.ReceiveCaseResponse, error) {
		_, err := lockCase(ctx, tx, req.GetCaseId())
		return &aftersalev1.ReceiveCaseResponse{}, err
	})
}

// readForStep reads what a step calls a neighbour with.
func (s *service) readForStep(ctx context.Context, caseID string) (*caseFile, *purchase, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, nil, err
	}
	c, err := readCase(ctx, s.db, "c.id = ?", caseID)
	if err != nil {
		return nil, nil, store.Wrap(err)
	}
	if c == nil {
		return nil, nil, errNoCase()
	}
	p, err := readPurchase(ctx, s.db, c.OrderID, false)
	return c, p, store.Wrap(err)
}

// paid records how a refund ended.
func (c *caseFile) paid(ctx context.Context, tx *store.Tx, payments []string, refusal error) error {
	if c.RefundState != refundPlanned {
		return nil
	}
	if _, err := tx.Do(ctx, `UPDATE refund_part SET paid = true WHERE case_id = $1 AND payment_id = ANY ($2)`, c.ID, payments); err != nil {
		return err
	}
	if refusal != nil {
		c.RefundState, c.Note = refundRefused, "REFUND_REFUSED"
		if err := c.save(ctx, tx, "refund_state", "note"); err != nil {
			return err
		}
		if err := c.tell(ctx, tx, "refund.refused", "system", fault.Reason(refusal)); err != nil {
			return err
		}
		return c.escalate(ctx, tx, c.Note, "system")
	}
	c.RefundState = refundPaid
	if err := c.save(ctx, tx, "refund_state"); err != nil {
		return err
	}
	return c.tell(ctx, tx, "refund.paid", "system", fmt.Sprintf("%d %s", c.Refund, c.Currency))
}

// RefundCase pays what is planned.
func (s *service) RefundCase(ctx context.Context, req *aftersalev1.RefundCaseRequest) (*aftersalev1.RefundCaseResponse, error) {
	c, _, err := s.readForStep(ctx, req.GetCaseId())
	if err != nil {
		return nil, err
	}
	paid, refusal, err := s.pay(ctx, c)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.RefundCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		return &aftersalev1.RefundCaseResponse{}, c.paid(ctx, tx, paid, refusal)
	})
}

// ReplaceCase sends the replacement, or gives the reservation back where no
// piece passed. Goods that nobody looks at all pass.
func (s *service) ReplaceCase(ctx context.Context, req *aftersalev1.ReplaceCaseRequest) (*aftersalev1.ReplaceCaseResponse, error) {
	c, _, err := s.readForStep(ctx, req.GetCaseId())
	if err != nil {
		return nil, err
	}
	var lines []*warehousev1.FulfilmentLine
	for _, l := range c.lines {
		if n := c.replaces(l); n > 0 {
			lines = append(lines, &warehousev1.FulfilmentLine{Sku: l.SKU, Quantity: n, Authenticated: len(l.Units) > 0})
		}
	}
	if len(lines) > 0 {
		_, err = s.fulfil.RequestFulfilment(host.InMarket(ctx, c.Market), &warehousev1.RequestFulfilmentRequest{
			RequestId: c.RequestID, ReservationId: c.ReservationID, Reference: c.OrderID, MerchantId: c.Merchant, Market: c.Market, Lines: lines,
		})
	} else {
		_, err = s.stock.ReleaseReservation(host.InMarket(ctx, c.Market), &warehousev1.ReleaseReservationRequest{
			ReservationId: c.ReservationID, Reason: "nothing is replaced",
		})
	}
	if err != nil {
		return nil, host.Relay(err)
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.ReplaceCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		ns, pieces := make([]int16, len(c.lines)), make([]int64, len(c.lines))
		for i, l := range c.lines {
			ns[i], pieces[i] = l.N, c.replaces(l)
		}
		if _, err := tx.Do(ctx, `UPDATE purchase_line l SET replaced = l.replaced + u.pieces FROM unnest($2::smallint[], $3::bigint[]) u(n, pieces)
			WHERE l.order_id = $1 AND l.n = u.n`, c.OrderID, ns, pieces); err != nil {
			return nil, err
		}
		what := "replacement.sent"
		if len(lines) == 0 {
			what = "replacement.none"
		}
		return &aftersalev1.ReplaceCaseResponse{}, c.tell(ctx, tx, what, "system", "")
	})
}

// replaces is how many pieces of a line are sent anew.
func (c *caseFile) replaces(l *caseLine) int64 {
	if c.ReturnID == "" {
		return l.Accepted
	}
	return l.Passed
}

// ReturnRepaired sends repaired goods back, or refunds what could not be
// repaired.
func (s *service) ReturnRepaired(ctx context.Context, req *aftersalev1.ReturnRepairedRequest) (*aftersalev1.ReturnRepairedResponse, error) {
	c, p, err := s.readForStep(ctx, req.GetCaseId())
	if err != nil {
		return nil, err
	}
	repaired := c.Repaired != nil && *c.Repaired
	back := id.Derive("shp", c.ShipmentID+"/back")
	var paid []string
	var refusal error
	if repaired {
		_, err = s.shipments.BookShipment(host.InMarket(ctx, c.Market), &logisticsv1.BookShipmentRequest{
			ShipmentId: back, Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_CONSUMER, Reference: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Market: c.Market,
			From: &logisticsv1.Party{PlaceId: "merchant/" + c.Merchant}, To: &logisticsv1.Party{AddressRef: p.ShipToRef}, Parcels: c.parcels(p, back), Customs: c.customs(),
		})
		err = host.Relay(err)
	} else {
		paid, refusal, err = s.pay(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.ReturnRepairedResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if !repaired {
			return &aftersalev1.ReturnRepairedResponse{}, c.paid(ctx, tx, paid, refusal)
		}
		c.BackID = back
		if err := c.save(ctx, tx, "back_id"); err != nil {
			return nil, err
		}
		// It is the consumer's again, and may break again: but a unit that is on
		// its way stands in no other case before it has arrived.
		return &aftersalev1.ReturnRepairedResponse{}, c.tell(ctx, tx, "goods.sent_back", "system", "")
	})
}

// SettleCase ends a case. One whose refund was refused stays open for the
// marketplace.
func (s *service) SettleCase(ctx context.Context, req *aftersalev1.SettleCaseRequest) (*aftersalev1.SettleCaseResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*aftersalev1.SettleCaseResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil || c.State == stateSettled || c.RefundState == refundRefused {
			return &aftersalev1.SettleCaseResponse{}, err
		}
		if c.BackID != "" || c.keptByConsumer() {
			// What stays with the consumer, or goes back repaired, may be applied
			// for again.
			if err := c.release(ctx, tx, nothing); err != nil {
				return nil, err
			}
		}
		return &aftersalev1.SettleCaseResponse{}, c.end(ctx, tx, stateSettled, "case.settled", "system", "")
	})
}

// keptByConsumer tells whether a part of the price was refunded of goods that
// the consumer keeps: what is left of it is still owed for.
func (c *caseFile) keptByConsumer() bool { return c.Remedy == remedyPartial }

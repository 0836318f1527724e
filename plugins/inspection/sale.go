package main

import (
	"context"

	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// A merchant is paid for what it sold, and not before it is known to be what
// it was sold as. Goods of a listing that is authenticated only have their
// verdict before they can be sold. What comes into doubt after that holds the
// merchant's share of the order until a verdict clears it, an after-sale case
// gives the consumer its due, or a person decides.

// Why a doubt ended.
const (
	clearedGenuine  = "GENUINE"
	clearedSettled  = "SETTLED"
	clearedReleased = "RELEASED"
)

// clears tells whether a verdict says that goods are what they were sold as.
// Damage is no question of authenticity.
func clears(v verdict) bool { return v == genuine || v == damaged }

// sell notes in which order units that left the warehouse were sold. Their
// rows are locked.
func sell(ctx context.Context, tx *store.Tx, units []*unit, e *warehousev1.FulfilmentHandedOver) error {
	_, err := tx.Do(ctx, `INSERT INTO sale AS s (unit, order_id, merchant, fulfilment)
		SELECT u.id, $2, coalesce(nullif($3, ''), u.merchant), $4 FROM unit u WHERE u.id = ANY ($1) AND $2 <> '' ORDER BY u.id
		ON CONFLICT (unit) DO UPDATE SET order_id = EXCLUDED.order_id, merchant = EXCLUDED.merchant, fulfilment = EXCLUDED.fulfilment, ended = false
		WHERE s.fulfilment <> EXCLUDED.fulfilment`, ids(units), e.GetReference(), e.GetMerchantId(), e.GetFulfilmentId())
	return err
}

// doubts are the sales of some units that a case asks about: one that has no
// verdict yet, or whose verdict stands and is against the goods. Where the
// goods are meanwhile makes no difference: what was sold was they.
const doubts = `INSERT INTO doubt AS d (case_id, unit, order_id, merchant, reason)
SELECT c.id, s.unit, s.order_id, s.merchant, CASE WHEN c.state < 5 THEN (ARRAY['CONSIGNED', 'RETURNED', 'DOUBTED', 'SIGHTED'])[c.origin]
    ELSE (ARRAY['', 'COUNTERFEIT', 'INCONCLUSIVE', 'WRONG_ITEM'])[c.verdict] END
  FROM sale s JOIN unit u ON u.id = s.unit JOIN case_unit cu ON cu.unit = s.unit JOIN case_file c ON c.id = cu.case_id
 WHERE s.unit = ANY ($1) AND NOT s.ended AND (c.state < 5 OR c.id = u.case_id AND c.verdict IN (2, 3, 4))
 ORDER BY c.id, s.unit
ON CONFLICT (case_id, unit, order_id) DO UPDATE SET standing = true, reason = EXCLUDED.reason WHERE NOT d.standing
RETURNING case_id, order_id, merchant, unit, reason`

// doubt tells of each sale of units, whose rows are locked, that it is in
// doubt, once while it is.
func doubt(ctx context.Context, tx *store.Tx, unitIDs []string) error {
	if len(unitIDs) == 0 {
		return nil
	}
	var told []proto.Message
	rows, err := tx.Rows(ctx, doubts, unitIDs)
	if err := each(rows, err, func(r row) error {
		e := &inspectionv1.SaleDoubted{}
		told = append(told, e)
		return r.Scan(&e.CaseId, &e.OrderId, &e.MerchantId, &e.UnitId, &e.Reason)
	}); err != nil {
		return err
	}
	return tx.Publish(told...)
}

// clear ends doubts and tells of each. The units' rows are locked.
func clear(ctx context.Context, tx *store.Tx, v verdict, reason, where string, args ...any) error {
	var told []proto.Message
	rows, err := tx.Rows(ctx, `UPDATE doubt d SET standing = false WHERE d.standing AND `+where+` RETURNING d.case_id, d.order_id, d.merchant, d.unit`, args...)
	if err := each(rows, err, func(r row) error {
		e := &inspectionv1.SaleCleared{Verdict: v, Reason: reason}
		told = append(told, e)
		return r.Scan(&e.CaseId, &e.OrderId, &e.MerchantId, &e.UnitId)
	}); err != nil {
		return err
	}
	return tx.Publish(told...)
}

// clearBy ends what a verdict clears: the doubts of its own case, and of cases
// about the same units that had come to another verdict before.
func (c *caseFile) clearBy(ctx context.Context, tx *store.Tx) error {
	if len(c.units) == 0 {
		return nil
	}
	return clear(ctx, tx, c.verdict, clearedGenuine, `d.unit = ANY ($1) AND (d.case_id = $2 OR EXISTS (SELECT FROM case_file o WHERE o.id = d.case_id AND o.state >= 5))`,
		[]string(c.units), c.id)
}

// onCaseSettled hears that an after-sale case took goods back, or paid for
// them: what becomes of their money is decided. One that gave a part of the
// price back, or had them repaired, did not decide whether they are genuine.
func (s *service) onCaseSettled(ctx context.Context, tx *store.Tx, e event.Of[*aftersalev1.CaseSettled]) error {
	r := e.Body.GetRemedy()
	if e.Body.GetState() != aftersalev1.Case_STATE_SETTLED || r != aftersalev1.Remedy_REMEDY_REFUND && r != aftersalev1.Remedy_REMEDY_REPLACEMENT {
		return nil
	}
	var unitIDs []string
	for _, l := range e.Body.GetLines() {
		unitIDs = append(unitIDs, l.GetUnitIds()...)
	}
	if len(unitIDs) == 0 {
		return nil
	}
	if _, err := lockUnits(ctx, tx, unitIDs); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE sale SET ended = true WHERE unit = ANY ($1) AND order_id = $2 AND NOT ended`, unitIDs, e.Body.GetOrderId()); err != nil {
		return err
	}
	return clear(ctx, tx, 0, clearedSettled, `d.unit = ANY ($1) AND d.order_id = $2`, unitIDs, e.Body.GetOrderId())
}

// ReleaseSales lets payouts go on that wait for a case, by the word of another
// than the one who confirmed its verdict.
func (s *service) ReleaseSales(ctx context.Context, req *inspectionv1.ReleaseSalesRequest) (*inspectionv1.ReleaseSalesResponse, error) {
	who, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*inspectionv1.ReleaseSalesResponse, error) {
		c, err := lockCase(ctx, tx, req.GetCaseId())
		if err != nil {
			return nil, err
		}
		if err := c.must(releaseSales); err != nil {
			return nil, err
		}
		if who == c.confirmedBy {
			return nil, samePerson("another than the one who confirmed the verdict releases what waits for it")
		}
		if c.holds() {
			if err := c.releaseSales(ctx, tx, req.GetReason()); err != nil {
				return nil, err
			}
		}
		answer, err := answerOf(ctx, tx, c.id)
		return &inspectionv1.ReleaseSalesResponse{Case: answer}, err
	})
}

// holds tells whether a payout waits for the case.
func (c *caseFile) holds() bool {
	for _, x := range c.sales {
		if x.Held {
			return true
		}
	}
	return false
}

func (c *caseFile) releaseSales(ctx context.Context, tx *store.Tx, reason string) error {
	if _, err := lockUnits(ctx, tx, c.units); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE sale s SET ended = true FROM doubt d WHERE d.case_id = $1 AND d.standing AND s.unit = d.unit AND s.order_id = d.order_id`, c.id); err != nil {
		return err
	}
	if err := clear(ctx, tx, c.verdict, clearedReleased, `d.case_id = $1`, c.id); err != nil {
		return err
	}
	return note(ctx, tx, c.id, "released sales", reason)
}

// heldSale is a sale that a case is or was about.
type heldSale struct {
	OrderID string `json:"o"`
	Unit    string `json:"u"`
	Held    bool   `json:"h"`
}

func (x heldSale) proto() *inspectionv1.HeldSale {
	return &inspectionv1.HeldSale{OrderId: x.OrderID, UnitId: x.Unit, Held: x.Held}
}

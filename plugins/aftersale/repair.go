package main

import (
	"context"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// FinishRepair says what became of a repair.
func (s *service) FinishRepair(ctx context.Context, req *aftersalev1.FinishRepairRequest) (*aftersalev1.FinishRepairResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), "", "", func(ctx context.Context, tx *store.Tx, c *caseFile, who party, _ string) (*saga.Started, error) {
		switch {
		case c.Remedy == remedyRepair && c.Repaired != nil && *c.Repaired == req.GetRepaired():
			return nil, nil
		case c.Remedy != remedyRepair || c.State != stateReceived || c.Repaired != nil:
			return nil, errNotOpen()
		}
		done := req.GetRepaired()
		c.Repaired = &done
		for _, l := range c.lines {
			l.Assessed, l.Passed = l.Accepted, l.Accepted
		}
		what := "goods.repaired"
		if !done {
			what = "goods.not_repaired"
			p, err := readPurchase(ctx, tx, c.OrderID, false)
			if err != nil {
				return nil, err
			}
			if err := c.planRefund(ctx, tx, p); err != nil {
				return nil, err
			}
		}
		if err := c.saveLines(ctx, tx, "assessed", "passed"); err != nil {
			return nil, err
		}
		if err := c.move(ctx, tx, stateAssessed, what, who.who, req.GetReasonCode(), "repaired", "refund", "deduction", "refund_state"); err != nil {
			return nil, err
		}
		return nil, tx.Signal(c.Saga, signalRepaired, &aftersalev1.ReturnRepairedRequest{CaseId: c.ID})
	})
	return &aftersalev1.FinishRepairResponse{Case: out}, err
}

package main

import (
	"context"

	"google.golang.org/protobuf/proto"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/money"
	"github.com/entrepot/entrepot/sdk/store"
)

// worth is what the first pieces of a line cost, with their share of tax, duty
// and delivery: a share of the whole that is exact for all of them together.
func (l *purchaseLine) worth(pieces int64) int64 {
	switch {
	case pieces <= 0 || l.Price+l.Charge <= 0:
		return 0
	case pieces >= l.Quantity:
		return l.Price + l.Charge
	}
	parts, err := money.Money{Currency: "XXX", Minor: l.Price + l.Charge}.Allocate(pieces, l.Quantity-pieces)
	if err != nil {
		return 0 // weights are positive
	}
	return parts[0].Minor
}

// worthNext is what the next pieces to be refunded cost, and no more than what
// is left of the line: a partial refund before was of the same money.
func (l *purchaseLine) worthNext(pieces int64) int64 {
	return max(0, min(l.worth(l.PiecesRefunded+pieces)-l.worth(l.PiecesRefunded), l.Price+l.Charge-l.Refunded))
}

// refundLine is what is refunded of a line.
type refundLine struct {
	n              int16
	pieces, amount int64
}

// writeRefund plans a refund. The database refuses more than was paid.
func (c *caseFile) writeRefund(ctx context.Context, tx *store.Tx, p *purchase, lines []refundLine) error {
	var ns []int16
	var pieces, amounts []int64
	c.Refund = 0
	for _, l := range lines {
		if l.amount == 0 && l.pieces == 0 {
			continue
		}
		ns, pieces, amounts = append(ns, l.n), append(pieces, l.pieces), append(amounts, l.amount)
		c.Refund += l.amount
	}
	c.RefundState = 0
	if c.Refund > 0 {
		c.RefundState = refundPlanned
	}
	if len(ns) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO refund_line (refund_id, case_id, order_id, n, pieces, amount)
		SELECT $1, $2, $3, u.* FROM unnest($4::smallint[], $5::bigint[], $6::bigint[]) u`, c.RefundID, c.ID, c.OrderID, ns, pieces, amounts)
	if err != nil || c.Refund == 0 {
		return err
	}
	return c.split(ctx, tx, p)
}

// planRefund plans what is paid without anything being looked at: the whole
// price of the accepted pieces, or the offer, divided over them by their price.
func (c *caseFile) planRefund(ctx context.Context, tx *store.Tx, p *purchase) error {
	lines := make([]refundLine, len(c.lines))
	weights := make([]int64, len(c.lines))
	var all int64
	for i, l := range c.lines {
		w := p.line(l.SKU).worthNext(l.Accepted)
		lines[i], weights[i] = refundLine{l.N, l.Accepted, w}, w
		all += w
	}
	if c.Remedy == remedyPartial {
		// What was offered, or what is left by now. The pieces are not refunded:
		// they stay, and what is left of their price with them.
		offer := min(c.Offer, all)
		if offer > 0 {
			parts, err := money.Money{Currency: c.Currency, Minor: offer}.Allocate(weights...)
			if err != nil {
				return err
			}
			for i := range lines {
				lines[i] = refundLine{lines[i].n, 0, parts[i].Minor}
			}
		} else {
			lines = nil
		}
	}
	return c.writeRefund(ctx, tx, p, lines)
}

// finding is what was found of some pieces of a line.
type finding struct {
	n        int16
	grade    warehousev1.Grade
	verdict  inspectionv1.Verdict
	quantity int64
}

// judge tells whether pieces are what was sold, so that they are paid or
// replaced, and how much of their price is kept, in hundredths of a percent.
//
// Goods that somebody swapped do not pass. Goods that were sold as genuine and
// are not pass when that is what the consumer said. Nobody pays for a doubt:
// what inspection could not tell passes.
func (c *caseFile) judge(f finding, terms *aftersalev1.Policy) (passed bool, kept int64) {
	reason := aftersalev1.Reason(c.Reason)
	switch {
	case f.verdict == inspectionv1.Verdict_VERDICT_COUNTERFEIT:
		return reason == aftersalev1.Reason_REASON_NOT_GENUINE, 0
	case f.verdict == inspectionv1.Verdict_VERDICT_WRONG_ITEM,
		f.verdict == inspectionv1.Verdict_VERDICT_UNSPECIFIED && f.grade == warehousev1.Grade_GRADE_WRONG_ITEM:
		return reason == aftersalev1.Reason_REASON_WRONG_ITEM, 0
	case atFault(reason), f.grade == warehousev1.Grade_GRADE_DEFECTIVE:
		return true, 0
	case f.grade == warehousev1.Grade_GRADE_DAMAGED, f.verdict == inspectionv1.Verdict_VERDICT_GENUINE_BUT_DAMAGED:
		return true, int64(terms.GetDamagedDeduction())
	case f.grade == warehousev1.Grade_GRADE_OPENED && c.Kind != kindWithdrawal:
		return true, int64(terms.GetOpenedDeduction())
	}
	return true, 0
}

// settleFindings sets what passed, what is refunded of it and what is kept.
func (c *caseFile) settleFindings(ctx context.Context, tx *store.Tx, p *purchase, found []finding) error {
	terms := &aftersalev1.Policy{}
	if err := proto.Unmarshal(c.Policy, terms); err != nil {
		return err
	}
	c.Deduction = 0
	lines := make([]refundLine, 0, len(c.lines))
	for _, l := range c.lines {
		var counts, keeps []int64
		l.Assessed, l.Passed = 0, 0
		for _, f := range found {
			if f.n != l.N {
				continue
			}
			l.Assessed += f.quantity
			if passed, kept := c.judge(f, terms); passed {
				l.Passed += f.quantity
				counts, keeps = append(counts, f.quantity), append(keeps, kept)
			}
		}
		if l.Passed == 0 || c.Remedy == remedyReplacement {
			continue
		}
		worth := p.line(l.SKU).worthNext(l.Passed)
		parts, err := money.Money{Currency: c.Currency, Minor: worth}.Allocate(counts...)
		if err != nil {
			return err
		}
		pay := worth
		for i, part := range parts {
			// Rounded down: a half unit is the consumer's.
			off := part.Minor * keeps[i] / 10000
			c.Deduction += off
			pay -= off
		}
		lines = append(lines, refundLine{l.N, l.Passed, pay})
	}
	return c.writeRefund(ctx, tx, p, lines)
}

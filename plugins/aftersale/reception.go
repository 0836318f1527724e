package main

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// restWithin is how long the rest of a return is waited for after a part of it
// came.
const restWithin = 14 * 24 * time.Hour

// arrive records that goods came, and lets the saga go on. lines are what
// came; nil is everything.
func (c *caseFile) arrive(ctx context.Context, tx *store.Tx, at time.Time, lines []*warehousev1.ReturnLine) error {
	for _, l := range c.lines {
		if lines == nil {
			l.Received = l.Accepted
			continue
		}
		for _, r := range lines {
			if r.GetSku() == l.SKU {
				l.Received += r.GetQuantity()
			}
		}
	}
	if err := c.saveLines(ctx, tx, "received"); err != nil {
		return err
	}
	if !c.ReceivedAt.IsZero() {
		return c.tell(ctx, tx, "goods.received", "system", "more of it")
	}
	c.ReceivedAt = at
	if err := c.move(ctx, tx, stateReceived, "goods.received", "system", "", "received_at"); err != nil {
		return err
	}
	if err := tx.Signal(c.Saga, signalReceived, &aftersalev1.ReceiveCaseRequest{CaseId: c.ID}); err != nil {
		return err
	}
	if c.Remedy == remedyRepair {
		return nil
	}
	return c.deadline(tx, deadlineReception, now().Add(restWithin))
}

// waits tells whether a case still looks at goods of its return.
func (c *caseFile) waits() bool {
	return c != nil && (c.State == stateApproved || c.State == stateAwaiting || c.State == stateReceived)
}

// onReturnReceived hears that goods of a return stand in quarantine.
func onReturnReceived(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.ReturnReceived]) error {
	c, err := lockCaseBy(ctx, tx, "return_id", e.Body.GetReturnId())
	if err != nil || !c.waits() {
		return err
	}
	done, err := tx.Do(ctx, `INSERT INTO reception (position, case_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, e.Position, c.ID)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return err
	}
	if err := c.arrive(ctx, tx, e.At, e.Body.GetLines()); err != nil {
		return err
	}
	var units []string
	for _, l := range e.Body.GetLines() {
		units = append(units, l.GetUnitIds()...)
	}
	return c.cameBack(ctx, tx, units)
}

// cameBack marks serials of the order as returned, once and for all, also
// those that nobody had named.
func (c *caseFile) cameBack(ctx context.Context, tx *store.Tx, units []string) error {
	if len(units) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `INSERT INTO claimed_unit AS x (order_id, unit, case_id, n, came_back)
		SELECT u.order_id, u.unit, $2, l.n, true FROM purchase_unit u JOIN case_line l ON l.case_id = $2 AND l.sku = u.sku
		 WHERE u.order_id = $1 AND u.unit = ANY ($3)
		ON CONFLICT (order_id, unit) DO UPDATE SET came_back = true`, c.OrderID, c.ID, units)
	return err
}

// onReturnGraded hears how goods look.
func onReturnGraded(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.ReturnGraded]) error {
	c, err := lockCaseBy(ctx, tx, "return_id", e.Body.GetReturnId())
	if err != nil || !c.waits() {
		return err
	}
	g := e.Body.GetGrading()
	l := c.line(g.GetSku())
	if l == nil {
		// Something that is not of the case came with it. It is the warehouse's.
		return c.tell(ctx, tx, "goods.unexpected", "system", g.GetSku())
	}
	if _, err := tx.Do(ctx, `INSERT INTO grading (id, case_id, n, grade, quantity, units, inspection, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
		g.GetGradingId(), c.ID, l.N, int16(g.GetGrade()), g.GetQuantity(), append([]string{}, g.GetUnitIds()...), g.GetCaseId(), e.At); err != nil {
		return err
	}
	if err := c.tell(ctx, tx, "goods.graded", "system", gradeName(g.GetGrade())); err != nil {
		return err
	}
	return c.assess(ctx, tx)
}

// onVerdict hears what an inspection found. It may come before the grading
// that asked for it.
func onVerdict(ctx context.Context, tx *store.Tx, e event.Of[*inspectionv1.VerdictConfirmed]) error {
	if !strings.HasPrefix(e.Body.GetReference(), "ret_") {
		return nil // a consignment's
	}
	c, err := lockCaseBy(ctx, tx, "return_id", e.Body.GetReference())
	if err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `INSERT INTO verdict (inspection, return_id, verdict, quantity, units, position, at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
		e.Body.GetCaseId(), e.Body.GetReference(), int16(e.Body.GetVerdict()), e.Body.GetQuantity(), append([]string{}, e.Body.GetUnitIds()...), e.Position, e.At); err != nil {
		return err
	}
	if !c.waits() {
		return nil
	}
	if err := c.tell(ctx, tx, "goods.inspected", "system", verdictName(e.Body.GetVerdict())); err != nil {
		return err
	}
	return c.assess(ctx, tx)
}

// sighted is a line of the timeline that consumers do not see.
const sighted = "goods.sighted"

// onSighting hears that goods which came back bear a serial that cannot be
// theirs: of another order, destroyed, or never sold. What becomes of the case
// is for the grade and the verdict to say.
func onSighting(ctx context.Context, tx *store.Tx, e event.Of[*inspectionv1.CloneSuspected]) error {
	if !strings.HasPrefix(e.Body.GetReference(), "ret_") {
		return nil // seen elsewhere
	}
	c, err := lockCaseBy(ctx, tx, "return_id", e.Body.GetReference())
	if err != nil || c == nil {
		return err
	}
	note := e.Body.GetReason() + " " + e.Body.GetUnitId()
	var told bool
	if err := tx.Row(ctx, `SELECT EXISTS (SELECT FROM timeline WHERE case_id = $1 AND what = $2 AND note = $3)`, c.ID, sighted, note).Scan(&told); err != nil || told {
		return err
	}
	return c.tell(ctx, tx, sighted, "system", note)
}

// readFindings puts gradings and their verdicts together, piece by piece: what
// no inspection was asked about is found as it was graded, the rest when its
// verdict stands. missing are pieces whose verdict does not stand yet.
func readFindings(ctx context.Context, db reader, caseID string) (found []finding, missing int64, err error) {
	rows, err := db.Rows(ctx, `SELECT g.n, g.grade, g.quantity, g.inspection, coalesce(v.verdict, 0), coalesce(v.quantity, 0)
		FROM grading g LEFT JOIN verdict v ON v.inspection = g.inspection AND g.inspection <> ''
		WHERE g.case_id = $1 ORDER BY g.at, g.id, v.position`, caseID)
	type asked struct {
		index string
		left  int64
	}
	left := map[string]*asked{}
	err = scan(rows, err, func(rows *sql.Rows) error {
		var f finding
		var grade, verdict int32
		var quantity, judged int64
		var inspection string
		if err := rows.Scan(&f.n, &grade, &quantity, &inspection, &verdict, &judged); err != nil {
			return err
		}
		f.grade, f.verdict, f.quantity = warehousev1.Grade(grade), inspectionv1.Verdict(verdict), quantity
		if inspection == "" {
			found = append(found, f)
			return nil
		}
		a := left[inspection]
		if a == nil {
			a = &asked{inspection, quantity}
			left[inspection] = a
		}
		if f.quantity = min(judged, a.left); f.quantity > 0 {
			a.left -= f.quantity
			found = append(found, f)
		}
		return nil
	})
	for _, a := range left {
		missing += a.left
	}
	return found, missing, err
}

// assess ends the looking when everything that came was looked at and nothing
// more is awaited: it sets the amount, and lets the saga go on.
func (c *caseFile) assess(ctx context.Context, tx *store.Tx) error {
	if c.State != stateReceived {
		return nil
	}
	found, missing, err := readFindings(ctx, tx, c.ID)
	if err != nil || missing > 0 {
		return err
	}
	seen := map[int16]int64{}
	for _, f := range found {
		seen[f.n] += f.quantity
	}
	for _, l := range c.lines {
		if seen[l.N] < l.Received || l.Received < l.Accepted && !c.Concluded {
			return nil
		}
	}
	p, err := readPurchase(ctx, tx, c.OrderID, false)
	if err != nil {
		return err
	}
	if err := c.settleFindings(ctx, tx, p, found); err != nil {
		return err
	}
	if err := c.saveLines(ctx, tx, "assessed", "passed"); err != nil {
		return err
	}
	tx.CancelTimer(c.timer(deadlineReception))
	if err := c.move(ctx, tx, stateAssessed, "case.assessed", "system", "", "refund", "deduction", "refund_state"); err != nil {
		return err
	}
	if err := tx.Publish(&aftersalev1.CaseAssessed{
		CaseId: c.ID, OrderId: c.OrderID, MerchantId: c.Merchant, Lines: c.linesProto(), Refund: amount(c.Currency, c.Refund), Deduction: amount(c.Currency, c.Deduction),
	}); err != nil {
		return err
	}
	if c.Remedy == remedyReplacement {
		return tx.Signal(c.Saga, signalAssessed, &aftersalev1.ReplaceCaseRequest{CaseId: c.ID})
	}
	return tx.Signal(c.Saga, signalAssessed, &aftersalev1.RefundCaseRequest{CaseId: c.ID})
}

// ConcludeReception ends the wait for the rest.
func (s *service) ConcludeReception(ctx context.Context, req *aftersalev1.ConcludeReceptionRequest) (*aftersalev1.ConcludeReceptionResponse, error) {
	out, err := s.change(ctx, req.GetCaseId(), "", "", func(ctx context.Context, tx *store.Tx, c *caseFile, who party, _ string) (*saga.Started, error) {
		if c.Concluded {
			return nil, nil
		}
		if c.State != stateReceived || c.Remedy == remedyRepair {
			return nil, errNotOpen()
		}
		return nil, c.conclude(ctx, tx, who.who)
	})
	return &aftersalev1.ConcludeReceptionResponse{Case: out}, err
}

// conclude waits for nothing more: what did not come can be applied for again.
func (c *caseFile) conclude(ctx context.Context, tx *store.Tx, who string) error {
	c.Concluded = true
	if err := c.save(ctx, tx, "concluded"); err != nil {
		return err
	}
	if err := c.tell(ctx, tx, "reception.concluded", who, ""); err != nil {
		return err
	}
	if err := c.release(ctx, tx, func(l *caseLine) int64 { return min(l.Claimed, l.Received) }); err != nil {
		return err
	}
	if _, err := tx.Do(ctx, `DELETE FROM claimed_unit WHERE case_id = $1 AND NOT came_back
		AND EXISTS (SELECT FROM claimed_unit x WHERE x.case_id = $1 AND x.came_back)`, c.ID); err != nil {
		return err
	}
	return c.assess(ctx, tx)
}

func gradeName(g warehousev1.Grade) string {
	return strings.ToLower(strings.TrimPrefix(g.String(), "GRADE_"))
}

func verdictName(v inspectionv1.Verdict) string {
	if v == inspectionv1.Verdict_VERDICT_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(v.String(), "VERDICT_"))
}

func kindName(k int16) string {
	return strings.ToLower(strings.TrimPrefix(aftersalev1.Kind(k).String(), "KIND_"))
}

// spare gives back what a replacement did not need, once what it needed has
// left the house.
func spare(ctx context.Context, tx *store.Tx, requestID string) error {
	if requestID == "" {
		return nil
	}
	c, err := lockCaseBy(ctx, tx, "request_id", requestID)
	if err != nil || c == nil || !slices.ContainsFunc(c.lines, func(l *caseLine) bool { return l.Assessed > 0 && l.Passed < l.Accepted }) {
		return err
	}
	_, err = tx.StartSaga(inMarket(ctx, c.Market), releaseSaga, c.ReservationID, saga.Requests{
		"release": &warehousev1.ReleaseReservationRequest{ReservationId: c.ReservationID, Reason: "not needed for the replacement"},
	})
	return err
}

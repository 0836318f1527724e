package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// Returned is what came back, in pieces.
type Returned struct {
	// Quarantined is everything that arrived; Restocked of it passed a new
	// inspection, Destroyed did not, or was broken. Fakes are those destroyed
	// that did not pass, and GoneUnits all destroyed ones with a serial.
	Quarantined, Restocked, Destroyed, Fakes, GoneUnits int64
	cases                                               []*application
}

// has tells whether something of an order came back.
func (r *Returned) has(order string) bool {
	return slices.ContainsFunc(r.cases, func(a *application) bool { return a.placed.Order.GetOrderId() == order })
}

// Follow names the first application and what it led to, for who wants to look
// it up.
func (r *Returned) Follow() string {
	if len(r.cases) == 0 {
		return "nothing came back"
	}
	a := r.cases[0]
	return fmt.Sprintf("order %s, case %s, return %s", a.placed.Order.GetOrderId(), a.caseID, a.returnID)
}

// back is a grade that the returns desk gives, and what the inspection then
// finds where it is asked.
type back struct {
	grade   warehousev1.Grade
	verdict inspectionv1.Verdict
}

// backs take turns: most of what comes back is as new or opened, some is
// broken, and now and then somebody sends back something else than was sold.
var backs = []back{
	{warehousev1.Grade_GRADE_AS_NEW, inspectionv1.Verdict_VERDICT_GENUINE},
	{warehousev1.Grade_GRADE_OPENED, inspectionv1.Verdict_VERDICT_GENUINE},
	{warehousev1.Grade_GRADE_DAMAGED, 0},
	{warehousev1.Grade_GRADE_AS_NEW, inspectionv1.Verdict_VERDICT_GENUINE},
	{warehousev1.Grade_GRADE_SUSPECT, inspectionv1.Verdict_VERDICT_COUNTERFEIT},
}

// TakeBack has consumers ask for a piece of up to so many delivered parts of
// orders to be taken back, those with inspected goods first; they talk, the
// merchant decides, and the goods come: into quarantine, graded, inspected anew where the
// grade does not end it, and then put on the shelf or destroyed.
func (s *Shop) TakeBack(ctx context.Context, m *Market, r *Replay, f *Floor, staff *Staff, out *Returned, most int, step func(n int)) error {
	all, err := f.List(ctx, warehousev1.Fulfilment_STATE_DELIVERED)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b *warehousev1.Fulfilment) int { return cmp.Compare(serialised(b), serialised(a)) })
	orders := make(map[string]*Placed)
	for _, p := range r.Placed() {
		orders[p.Order.GetOrderId()] = p
	}
	// Nobody gives back what a bank has taken.
	all = slices.DeleteFunc(all, func(f *warehousev1.Fulfilment) bool {
		p := orders[f.GetReference()]
		return out.has(f.GetReference()) || p != nil && p.Disputed
	})
	all = all[:min(len(all), most)]
	restocked, before := out.Restocked, len(out.cases)
	owners := make(map[string]*Person)
	for _, o := range m.Owners {
		owners[o.Self.GetMerchantId()] = o
	}
	for i, one := range all {
		a, err := s.apply(ctx, orders[one.GetReference()], owners[one.GetMerchantId()], serialised(one) > 0)
		if err == nil {
			err = s.takeBack(ctx, staff, a, backs[i%len(backs)], out)
		}
		if err != nil {
			return fmt.Errorf("return of %s: %w", one.GetReference(), err)
		}
		out.cases = append(out.cases, a)
		step(1)
	}
	if err := f.Shelve(ctx, out.Restocked-restocked, func(int) {}); err != nil {
		return err
	}
	for _, a := range out.cases[before:] {
		if err := a.await(ctx, aftersalev1.Case_STATE_SETTLED); err != nil {
			return err
		}
	}
	return nil
}

// serialised counts the pieces with a serial.
func serialised(r *warehousev1.Fulfilment) (n int) {
	for _, l := range r.GetLines() {
		n += len(l.GetUnitIds())
	}
	return n
}

// takeBack leads one application from its words to what became of the goods.
func (s *Shop) takeBack(ctx context.Context, staff *Staff, a *application, b back, out *Returned) error {
	if err := a.talk(ctx); err != nil {
		return err
	}
	if err := a.decide(ctx, staff.Returns); err != nil {
		return err
	}
	c := warehousev1connect.NewReturnServiceClient(staff.Returns.Client())
	ret := a.returnID
	line := &warehousev1.ReturnLine{Sku: a.line.GetSku(), Quantity: 1}
	if len(a.line.GetUnitIds()) > 0 {
		line.UnitIds = a.line.GetUnitIds()[:1]
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.RegisterReturnResponse, error) {
		return c.RegisterReturn(ctx, &warehousev1.RegisterReturnRequest{RegistrationId: "reg-" + ret, ReturnId: ret, Lines: []*warehousev1.ReturnLine{line}})
	}); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	out.Quarantined++
	fine := b.grade == warehousev1.Grade_GRADE_AS_NEW
	graded, err := Patient(ctx, func(ctx context.Context) (*warehousev1.GradeReturnResponse, error) {
		return c.GradeReturn(ctx, &warehousev1.GradeReturnRequest{
			GradingId: "grd-" + ret, ReturnId: ret, Sku: line.GetSku(), Lot: line.GetLot(), Quantity: 1, UnitIds: line.GetUnitIds(), Grade: b.grade,
			Answers: []*warehousev1.ChecklistAnswer{{Question: "complete", AsExpected: true}, {Question: "seal", AsExpected: fine, Note: "looked at"}},
		})
	})
	if err != nil {
		return fmt.Errorf("grade: %w", err)
	}
	caseID := graded.GetCaseId()
	switch {
	case b.verdict == 0:
		out.Destroyed++
		out.GoneUnits += int64(len(line.GetUnitIds()))
		_, err = Patient(ctx, func(ctx context.Context) (*warehousev1.DecideReturnResponse, error) {
			return c.DecideReturn(ctx, &warehousev1.DecideReturnRequest{
				DecisionId: "dec-" + ret, GradingId: "grd-" + ret, Decision: warehousev1.DecideReturnRequest_DECISION_DISPOSE, Reason: "broken",
			})
		})
		return err
	case caseID == "":
		return errors.New("nobody asked for an inspection")
	}
	fake := b.verdict == inspectionv1.Verdict_VERDICT_COUNTERFEIT
	if err := s.lookAgain(ctx, staff, caseID, fake); err != nil {
		return fmt.Errorf("inspect again: %w", err)
	}
	if fake {
		out.Destroyed++
		out.Fakes++
		out.GoneUnits += int64(len(line.GetUnitIds()))
	} else {
		out.Restocked++
	}
	return nil
}

// lookAgain inspects what came back, by eye, and decides.
func (s *Shop) lookAgain(ctx context.Context, staff *Staff, caseID string, fake bool) error {
	c := inspectionv1connect.NewCaseServiceClient(staff.Inspectors[0].Client())
	// The warehouse's wish comes by the bus.
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		res, err := c.ListCases(ctx, &inspectionv1.ListCasesRequest{PageSize: 200})
		for _, one := range res.GetCases() {
			if one.GetCaseId() == caseID {
				return true, err
			}
		}
		return false, err
	}); err != nil {
		return err
	}
	blob, err := s.evidence(ctx, staff.Inspectors[0], caseID)
	if err != nil {
		return err
	}
	check := &inspectionv1.RecordCheckRequest{
		CheckId: id.New("chk"), CaseId: caseID, Method: "manual", Instrument: "lens-2", Result: inspectionv1.Check_RESULT_GENUINE,
		Inputs: []*inspectionv1.Evidence{{Kind: "photo", BlobId: blob}},
	}
	if fake {
		check.Result = inspectionv1.Check_RESULT_COUNTERFEIT
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.RecordCheckResponse, error) { return c.RecordCheck(ctx, check) }); err != nil {
		return err
	}
	return s.judge(ctx, staff, caseID, fake)
}

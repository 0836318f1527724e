package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

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
	// that did not pass, and FalseUnits those of them with a serial.
	Quarantined, Restocked, Destroyed, Fakes, FalseUnits int64
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

// TakeBack has up to so many delivered parts of orders come back, those with
// inspected goods first: into quarantine, graded, inspected anew where the
// grade does not end it, and then put on the shelf or destroyed.
func (s *Shop) TakeBack(ctx context.Context, f *Floor, staff *Staff, most int, step func(n int)) (*Returned, error) {
	all, err := f.list(ctx, warehousev1.Fulfilment_STATE_DELIVERED)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b *warehousev1.Fulfilment) int { return cmp.Compare(serialised(b), serialised(a)) })
	all = all[:min(len(all), most)]
	out := &Returned{}
	for i, r := range all {
		if err := s.takeBack(ctx, staff, r, backs[i%len(backs)], out); err != nil {
			return nil, fmt.Errorf("return of %s: %w", r.GetReference(), err)
		}
		step(1)
	}
	return out, f.Shelve(ctx, out.Restocked, func(int) {})
}

// serialised counts the pieces with a serial.
func serialised(r *warehousev1.Fulfilment) (n int) {
	for _, l := range r.GetLines() {
		n += len(l.GetUnitIds())
	}
	return n
}

// takeBack takes back one piece of a fulfilment, one with a serial if it has
// any.
func (s *Shop) takeBack(ctx context.Context, staff *Staff, r *warehousev1.Fulfilment, b back, out *Returned) error {
	c := warehousev1connect.NewReturnServiceClient(staff.Returns.Client())
	l := slices.MaxFunc(r.GetLines(), func(a, b *warehousev1.FulfilmentLine) int {
		return cmp.Compare(len(a.GetUnitIds()), len(b.GetUnitIds()))
	})
	line := &warehousev1.ReturnLine{Sku: l.GetSku(), Lot: l.GetLot(), Quantity: 1}
	if len(l.GetUnitIds()) > 0 {
		line.UnitIds = l.GetUnitIds()[:1]
	}
	allow := &warehousev1.AuthoriseReturnRequest{
		ReturnId: id.New("ret"), Reference: r.GetReference(), MerchantId: r.GetMerchantId(), Site: site,
		Lines: []*warehousev1.ReturnLine{{Sku: line.GetSku(), Lot: line.GetLot(), Quantity: 1, UnitIds: line.GetUnitIds()}}, Reason: "sent back",
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*warehousev1.AuthoriseReturnResponse, error) {
		return c.AuthoriseReturn(ctx, allow)
	}); err != nil {
		return fmt.Errorf("authorise: %w", err)
	}
	ret := allow.GetReturnId()
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
		out.FalseUnits += int64(len(line.GetUnitIds()))
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

package shop_test

import (
	"context"
	"fmt"
	"time"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/id"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// post carries what comes back: it moves when the proof says so.
const post = "post-gb"

// file is a case of the proof's.
type file struct {
	*proof
	order *shop.Placed
	id    string
}

// apply opens a case on so many pieces of a delivered order.
func (p *proof) apply(ctx context.Context, o *shop.Placed, kind aftersalev1.Kind, remedy aftersalev1.Remedy, pieces int64) (*file, error) {
	c := aftersalev1connect.NewApplicationServiceClient(p.buyer.Client())
	if err := shop.Until(ctx, func(ctx context.Context) (bool, error) {
		res, err := c.CheckApplication(ctx, &aftersalev1.CheckApplicationRequest{OrderId: o.Order.GetOrderId(), CartSecret: o.Secret})
		return len(res.GetLines()) == 1 && res.GetLines()[0].GetFree() >= pieces, err
	}); err != nil {
		return nil, fmt.Errorf("nothing of order %s can be sent back: %w", o.Order.GetOrderId(), err)
	}
	res, err := shop.Patient(ctx, func(ctx context.Context) (*aftersalev1.ApplyResponse, error) {
		return c.Apply(ctx, &aftersalev1.ApplyRequest{
			ApplicationId: "proof", OrderId: o.Order.GetOrderId(), CartSecret: o.Secret, Kind: kind, Remedy: remedy,
			Reason: aftersalev1.Reason_REASON_DEFECTIVE, Lines: []*aftersalev1.ApplyLine{{Sku: p.dear, Quantity: pieces}},
		})
	})
	return &file{p, o, res.GetCase().GetCaseId()}, err
}

// approve has the merchant say yes.
func (f *file) approve(ctx context.Context, keep bool) error {
	_, err := shop.Patient(ctx, func(ctx context.Context) (*aftersalev1.DecideResponse, error) {
		return aftersalev1connect.NewProcessingServiceClient(f.owner.Client()).Decide(ctx, &aftersalev1.DecideRequest{
			CaseId: f.id, Approve: true, ReasonCode: "GOODS_AT_FAULT", KeepGoods: keep, CarrierInstance: post,
		})
	})
	return err
}

// await asks until the case is so far.
func (f *file) await(ctx context.Context, state aftersalev1.Case_State) (c *aftersalev1.Case, err error) {
	err = shop.Until(ctx, func(ctx context.Context) (bool, error) {
		res, err := aftersalev1connect.NewApplicationServiceClient(f.buyer.Client()).GetCase(ctx, &aftersalev1.GetCaseRequest{CaseId: f.id, CartSecret: f.order.Secret})
		c = res.GetCase()
		return c.GetState() == state, err
	})
	if err != nil {
		return nil, fmt.Errorf("case %s is %s and not %s: %w", f.id, c.GetState(), state, err)
	}
	return c, nil
}

// label opens a case, has it approved, and waits until the goods can be sent.
func (p *proof) label(ctx context.Context, o *shop.Placed, kind aftersalev1.Kind, pieces int64) (*file, *aftersalev1.Case, error) {
	f, err := p.apply(ctx, o, kind, 0, pieces)
	if err != nil {
		return nil, nil, err
	}
	if err := f.approve(ctx, false); err != nil {
		return nil, nil, err
	}
	c, err := f.await(ctx, aftersalev1.Case_STATE_AWAITING_GOODS)
	return f, c, err
}

// carried has the post bring a shipment to where it goes.
func (p *proof) carried(ctx context.Context, shipment string) error {
	res, err := shop.Patient(ctx, func(ctx context.Context) (*logisticsv1.GetShipmentResponse, error) {
		return logisticsv1connect.NewShipmentServiceClient(p.staff.Floor.Client()).GetShipment(ctx, &logisticsv1.GetShipmentRequest{ShipmentId: shipment})
	})
	if err != nil {
		return err
	}
	for _, one := range res.GetShipment().GetParcels() {
		if err := p.Scan(one.GetTrackingNumber()); err != nil {
			return err
		}
	}
	return nil
}

// arrive registers pieces of a return that came.
func (p *proof) arrive(ctx context.Context, c *aftersalev1.Case, pieces int64) error {
	if err := p.carried(ctx, c.GetReturnShipmentId()); err != nil {
		return err
	}
	_, err := shop.Patient(ctx, func(ctx context.Context) (*warehousev1.RegisterReturnResponse, error) {
		return warehousev1connect.NewReturnServiceClient(p.staff.Returns.Client()).RegisterReturn(ctx, &warehousev1.RegisterReturnRequest{
			RegistrationId: "reg-" + c.GetReturnId(), ReturnId: c.GetReturnId(), Lines: []*warehousev1.ReturnLine{{Sku: p.dear, Quantity: pieces}},
		})
	})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done.Returned.Quarantined += pieces
	return nil
}

// grade looks at one piece of a return. It answers the inspection that is asked
// for.
func (p *proof) grade(ctx context.Context, c *aftersalev1.Case, grade warehousev1.Grade) (inspection string, err error) {
	res, err := shop.Patient(ctx, func(ctx context.Context) (*warehousev1.GradeReturnResponse, error) {
		return warehousev1connect.NewReturnServiceClient(p.staff.Returns.Client()).GradeReturn(ctx, &warehousev1.GradeReturnRequest{
			GradingId: fmt.Sprintf("grd-%s-%d", c.GetReturnId(), grade), ReturnId: c.GetReturnId(), Sku: p.dear, Quantity: 1, Grade: grade,
			Answers: []*warehousev1.ChecklistAnswer{{Question: "seal", AsExpected: grade == warehousev1.Grade_GRADE_AS_NEW, Note: "looked at"}},
		})
	})
	return res.GetCaseId(), err
}

// judge inspects what came back: by one person, confirmed by another.
func (p *proof) judge(ctx context.Context, inspection string, verdict inspectionv1.Verdict) error {
	one, chief := inspectionv1connect.NewCaseServiceClient(p.staff.Inspectors[0].Client()), inspectionv1connect.NewCaseServiceClient(p.staff.Chief.Client())
	if err := p.known(ctx, inspection); err != nil {
		return err
	}
	blob, err := p.Evidence(ctx, p.staff.Inspectors[0], inspection)
	if err != nil {
		return err
	}
	check := &inspectionv1.RecordCheckRequest{
		CheckId: id.Derive("chk", inspection), CaseId: inspection, Method: "manual", Instrument: "lens-2", Result: inspectionv1.Check_RESULT_GENUINE,
		Inputs: []*inspectionv1.Evidence{{Kind: "photo", BlobId: blob}},
	}
	if verdict == inspectionv1.Verdict_VERDICT_COUNTERFEIT {
		check.Result = inspectionv1.Check_RESULT_COUNTERFEIT
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*inspectionv1.RecordCheckResponse, error) {
		return one.RecordCheck(ctx, check)
	}); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*inspectionv1.ProposeVerdictResponse, error) {
		return one.ProposeVerdict(ctx, &inspectionv1.ProposeVerdictRequest{CaseId: inspection, Verdict: verdict, Reason: "looked at"})
	}); err != nil {
		return fmt.Errorf("proposal: %w", err)
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*inspectionv1.ConfirmVerdictResponse, error) {
		return chief.ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{CaseId: inspection, Verdict: verdict})
	}); err != nil {
		return fmt.Errorf("confirmation: %w", err)
	}
	return nil
}

// known waits until the inspection has heard of a case: the warehouse's wish
// comes by the bus.
func (p *proof) known(ctx context.Context, inspection string) error {
	return shop.Until(ctx, func(ctx context.Context) (bool, error) {
		res, err := inspectionv1connect.NewCaseServiceClient(p.staff.Inspectors[0].Client()).ListCases(ctx, &inspectionv1.ListCasesRequest{PageSize: 200})
		for _, one := range res.GetCases() {
			if one.GetCaseId() == inspection {
				return true, err
			}
		}
		return false, err
	})
}

// stands waits until an inspection's case has a state; while it has the state
// before, do is done again.
func (p *proof) stands(ctx context.Context, inspection string, before, state inspectionv1.Case_State, do func(context.Context) error) error {
	c := inspectionv1connect.NewCaseServiceClient(p.staff.Inspectors[0].Client())
	var last inspectionv1.Case_State
	err := shop.Until(ctx, func(ctx context.Context) (bool, error) {
		res, err := c.GetCase(ctx, &inspectionv1.GetCaseRequest{CaseId: inspection})
		if last = res.GetCase().GetState(); err == nil && last == before {
			err = do(ctx)
		}
		return last == state, err
	})
	if err != nil {
		return fmt.Errorf("inspection %s is %s and not %s: %w", inspection, last, state, err)
	}
	return nil
}

// backAsNew: goods come back, pass, and go to the shelf. The warehouse refuses
// them once; confirmed again, they are sent again.
func (p *proof) backAsNew(ctx context.Context) error {
	f, c, err := p.label(ctx, p.delivered[0], aftersalev1.Kind_KIND_RETURN, 1)
	if err != nil {
		return err
	}
	if err := p.arrive(ctx, c, 1); err != nil {
		return err
	}
	inspection, err := p.grade(ctx, c, warehousev1.Grade_GRADE_AS_NEW)
	if err != nil {
		return err
	}
	if err := p.refuse(ctx, "inspection/admit", "admit", inspection); err != nil {
		return err
	}
	if err := p.judge(ctx, inspection, inspectionv1.Verdict_VERDICT_GENUINE); err != nil {
		return err
	}
	if err := p.stands(ctx, inspection, inspectionv1.Case_STATE_CONFIRMED, inspectionv1.Case_STATE_CLOSED, func(ctx context.Context) error {
		_, err := inspectionv1connect.NewCaseServiceClient(p.staff.Chief.Client()).ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{
			CaseId: inspection, Verdict: inspectionv1.Verdict_VERDICT_GENUINE,
		})
		return err
	}); err != nil {
		return err
	}
	p.mu.Lock()
	p.done.Returned.Restocked++
	p.mu.Unlock()
	if err := p.floor.Shelve(ctx, 1, func(int) {}); err != nil {
		return err
	}
	_, err = f.await(ctx, aftersalev1.Case_STATE_SETTLED)
	return err
}

// backFalse: what comes back is counterfeit and destroyed.
func (p *proof) backFalse(ctx context.Context) error {
	f, c, err := p.label(ctx, p.delivered[1], aftersalev1.Kind_KIND_RETURN, 1)
	if err != nil {
		return err
	}
	if err := p.arrive(ctx, c, 1); err != nil {
		return err
	}
	if err := p.falsified(ctx, c); err != nil {
		return err
	}
	_, err = f.await(ctx, aftersalev1.Case_STATE_SETTLED)
	return err
}

// falsified: one piece of a return is found counterfeit and destroyed.
func (p *proof) falsified(ctx context.Context, c *aftersalev1.Case) error {
	inspection, err := p.grade(ctx, c, warehousev1.Grade_GRADE_SUSPECT)
	if err != nil {
		return err
	}
	if err := p.known(ctx, inspection); err != nil {
		return err
	}
	p.mu.Lock()
	p.done.Returned.Destroyed++
	p.done.Returned.Fakes++
	p.mu.Unlock()
	return p.LookAgain(ctx, p.staff, inspection, true)
}

// backOther: what comes back is not what was sold, and goes to the merchant;
// the warehouse refuses to let it go once.
func (p *proof) backOther(ctx context.Context) error {
	f, c, err := p.label(ctx, p.delivered[9], aftersalev1.Kind_KIND_RETURN, 1)
	if err != nil {
		return err
	}
	if err := p.arrive(ctx, c, 1); err != nil {
		return err
	}
	inspection, err := p.grade(ctx, c, warehousev1.Grade_GRADE_SUSPECT)
	if err != nil {
		return err
	}
	if err := p.refuse(ctx, "inspection/refuse", "refuse", inspection); err != nil {
		return err
	}
	if err := p.judge(ctx, inspection, inspectionv1.Verdict_VERDICT_WRONG_ITEM); err != nil {
		return err
	}
	if err := p.stands(ctx, inspection, inspectionv1.Case_STATE_CONFIRMED, inspectionv1.Case_STATE_CLOSED, func(ctx context.Context) error {
		_, err := inspectionv1connect.NewCaseServiceClient(p.staff.Chief.Client()).OrderDisposition(ctx, &inspectionv1.OrderDispositionRequest{
			CaseId: inspection, Disposition: inspectionv1.OrderDispositionRequest_DISPOSITION_RETURN_TO_MERCHANT, Reason: "not ours",
		})
		return err
	}); err != nil {
		return err
	}
	_, err = f.await(ctx, aftersalev1.Case_STATE_SETTLED)
	return err
}

// exchange: of two pieces one is broken and replaced, and thrown away; the
// other is false and destroyed. What was reserved to replace it is released.
func (p *proof) exchange(ctx context.Context) error {
	f, c, err := p.label(ctx, p.delivered[2], aftersalev1.Kind_KIND_EXCHANGE, 2)
	if err != nil {
		return err
	}
	if err := p.arrive(ctx, c, 2); err != nil {
		return err
	}
	if _, err := p.grade(ctx, c, warehousev1.Grade_GRADE_DEFECTIVE); err != nil {
		return err
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*warehousev1.DecideReturnResponse, error) {
		return warehousev1connect.NewReturnServiceClient(p.staff.Returns.Client()).DecideReturn(ctx, &warehousev1.DecideReturnRequest{
			DecisionId: "dec-" + c.GetReturnId(), GradingId: fmt.Sprintf("grd-%s-%d", c.GetReturnId(), warehousev1.Grade_GRADE_DEFECTIVE),
			Decision: warehousev1.DecideReturnRequest_DECISION_DISPOSE, Reason: "broken",
		})
	}); err != nil {
		return fmt.Errorf("dispose: %w", err)
	}
	p.mu.Lock()
	p.done.Returned.Destroyed++
	p.mu.Unlock()
	if err := p.falsified(ctx, c); err != nil {
		return err
	}
	if _, err := f.await(ctx, aftersalev1.Case_STATE_SETTLED); err != nil {
		return err
	}
	return p.replaced(ctx, f)
}

// replaced waits until a replacement is delivered.
func (p *proof) replaced(ctx context.Context, f *file) error {
	return shop.Until(ctx, func(ctx context.Context) (bool, error) {
		all, err := p.floor.List(ctx, warehousev1.Fulfilment_STATE_DELIVERED)
		n := 0
		for _, one := range all {
			if one.GetReference() == f.order.Order.GetOrderId() {
				n++
			}
		}
		return n == 2, err
	})
}

// repair: goods travel to the merchant and back.
func (p *proof) repair(ctx context.Context) error {
	f, c, err := p.label(ctx, p.delivered[3], aftersalev1.Kind_KIND_REPAIR, 1)
	if err != nil {
		return err
	}
	if err := p.carried(ctx, c.GetReturnShipmentId()); err != nil {
		return err
	}
	if _, err := f.await(ctx, aftersalev1.Case_STATE_RECEIVED); err != nil {
		return err
	}
	if _, err := shop.Patient(ctx, func(ctx context.Context) (*aftersalev1.FinishRepairResponse, error) {
		return aftersalev1connect.NewProcessingServiceClient(p.owner.Client()).FinishRepair(ctx, &aftersalev1.FinishRepairRequest{
			CaseId: f.id, Repaired: true, ReasonCode: "NEW_SPRING",
		})
	}); err != nil {
		return err
	}
	if c, err = f.await(ctx, aftersalev1.Case_STATE_SETTLED); err != nil {
		return err
	}
	shipments := logisticsv1connect.NewShipmentServiceClient(p.owner.Client())
	back, err := shop.Patient(ctx, func(ctx context.Context) (*logisticsv1.GetShipmentResponse, error) {
		return shipments.GetShipment(ctx, &logisticsv1.GetShipmentRequest{ShipmentId: c.GetBackShipmentId()})
	})
	if err != nil {
		return err
	}
	if _, err = shop.Patient(ctx, func(ctx context.Context) (*logisticsv1.CreateManifestResponse, error) {
		return shipments.CreateManifest(ctx, &logisticsv1.CreateManifestRequest{
			ManifestId: id.Derive("mnf", c.GetBackShipmentId()), Instance: back.GetShipment().GetInstance(), PlaceId: "merchant/" + c.GetMerchantId(),
			ShipmentIds: []string{c.GetBackShipmentId()},
		})
	}); err != nil || back.GetShipment().GetInstance() != post {
		return err
	}
	return p.carried(ctx, c.GetBackShipmentId())
}

// nothingSent: the label is there, and six weeks pass in which nobody sends
// anything. What was arranged is undone.
func (p *proof) nothingSent(ctx context.Context, o *shop.Placed, saga string, kind aftersalev1.Kind) error {
	f, _, err := p.label(ctx, o, kind, 1)
	if err != nil {
		return err
	}
	for {
		p.mu.Lock()
		done, err := p.db.Exec(ctx, `UPDATE bus.saga SET wait_until = now(), due = now() WHERE def = $1 AND starts_with(key, $2) AND status = 1`, "aftersale/"+saga, f.id)
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if done.RowsAffected() == 1 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	_, err = f.await(ctx, aftersalev1.Case_STATE_EXPIRED)
	return err
}

// broken: what arrived broken is sent anew, or where that is refused refunded.
func (p *proof) broken(ctx context.Context, o *shop.Placed, refused bool) error {
	f, err := p.apply(ctx, o, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, aftersalev1.Remedy_REMEDY_REPLACEMENT, 1)
	if err != nil {
		return err
	}
	if refused {
		// As if the order had been cancelled: the warehouse sends nothing more of it.
		p.mu.Lock()
		_, err := p.db.Exec(ctx, `INSERT INTO p_warehouse.fulfilment_halt (reference) VALUES ($1)`, o.Order.GetOrderId())
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := f.approve(ctx, true); err != nil {
		return err
	}
	if _, err := f.await(ctx, aftersalev1.Case_STATE_SETTLED); err != nil || refused {
		return err
	}
	return p.replaced(ctx, f)
}

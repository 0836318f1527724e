package shop

import (
	"context"
	"fmt"
	"strings"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/proto/entrepot/aftersale/v1/aftersalev1connect"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/proto/entrepot/logistics/v1/logisticsv1connect"
)

// application is a consumer's wish to send something back, and both who talk
// of it.
type application struct {
	shop     *Shop
	placed   *Placed
	merchant *Person
	caseID   string
	returnID string
	line     *aftersalev1.EligibleLine
}

// apply has the consumer of an order ask for a merchant's goods to be taken
// back, one piece of the line that allows it, and say why.
func (s *Shop) apply(ctx context.Context, p *Placed, merchant *Person, serialised bool) (*application, error) {
	a := &application{shop: s, placed: p, merchant: merchant}
	c := aftersalev1connect.NewApplicationServiceClient(p.Buyer.Client())
	// What was delivered is known by events.
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		res, err := c.CheckApplication(ctx, &aftersalev1.CheckApplicationRequest{OrderId: p.Order.GetOrderId(), CartSecret: p.Secret})
		for _, l := range res.GetLines() {
			if l.GetFree() > 0 && l.GetMerchantId() == merchant.Self.GetMerchantId() && (len(l.GetUnitIds()) > 0) == serialised {
				a.line = l
			}
		}
		return a.line != nil, err
	}); err != nil {
		return nil, fmt.Errorf("nothing of order %s can be sent back: %w", p.Order.GetOrderId(), err)
	}
	line := &aftersalev1.ApplyLine{Sku: a.line.GetSku(), Quantity: 1}
	if serialised {
		line.UnitIds = a.line.GetUnitIds()[:1]
	}
	req := &aftersalev1.ApplyRequest{
		ApplicationId: "back-" + a.line.GetSku(), OrderId: p.Order.GetOrderId(), CartSecret: p.Secret, Kind: aftersalev1.Kind_KIND_RETURN,
		Reason: aftersalev1.Reason_REASON_DEFECTIVE, Text: "It does not do what it should.", Language: "en", Lines: []*aftersalev1.ApplyLine{line},
	}
	res, err := Patient(ctx, func(ctx context.Context) (*aftersalev1.ApplyResponse, error) { return c.Apply(ctx, req) })
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	a.caseID = res.GetCase().GetCaseId()
	return a, nil
}

// talk is a question and its answer, in the case's own conversation.
func (a *application) talk(ctx context.Context) error {
	for _, m := range []struct {
		who  Caller
		text string
		to   *aftersalev1.Topic
	}{
		{a.placed.Buyer, "Where do I send it?", &aftersalev1.Topic{CaseId: a.caseID, CartSecret: a.placed.Secret}},
		{a.merchant.Caller, "A label comes as soon as we have decided, which is now.", &aftersalev1.Topic{CaseId: a.caseID}},
	} {
		c := aftersalev1connect.NewConversationServiceClient(m.who.Client())
		if _, err := Patient(ctx, func(ctx context.Context) (*aftersalev1.PostMessageResponse, error) {
			return c.PostMessage(ctx, &aftersalev1.PostMessageRequest{Topic: m.to, MessageKey: "first", Text: m.text, Language: "en"})
		}); err != nil {
			return fmt.Errorf("message: %w", err)
		}
	}
	return nil
}

// decide has the merchant say yes; the carrier's label is there when the case
// waits for the goods, and the consumer hands the parcel over.
func (a *application) decide(ctx context.Context, clerk *Person) error {
	c := aftersalev1connect.NewProcessingServiceClient(a.merchant.Client())
	res, err := Patient(ctx, func(ctx context.Context) (*aftersalev1.DecideResponse, error) {
		return c.Decide(ctx, &aftersalev1.DecideRequest{CaseId: a.caseID, Approve: true, ReasonCode: "GOODS_AT_FAULT", Text: "Send it back, please."})
	})
	if err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	a.returnID = res.GetCase().GetReturnId()
	if err := a.await(ctx, aftersalev1.Case_STATE_AWAITING_GOODS); err != nil {
		return err
	}
	get, err := a.get(ctx)
	if err != nil {
		return err
	}
	shipment, err := Patient(ctx, func(ctx context.Context) (*logisticsv1.GetShipmentResponse, error) {
		return logisticsv1connect.NewShipmentServiceClient(clerk.Client()).GetShipment(ctx, &logisticsv1.GetShipmentRequest{
			ShipmentId: get.GetCase().GetReturnShipmentId(),
		})
	})
	if err != nil {
		return err
	}
	if !strings.HasPrefix(shipment.GetShipment().GetInstance(), "post-") {
		return nil
	}
	for _, p := range shipment.GetShipment().GetParcels() {
		if err := a.shop.sort(p.GetTrackingNumber()); err != nil {
			return err
		}
	}
	return nil
}

func (a *application) get(ctx context.Context) (*aftersalev1.GetCaseResponse, error) {
	c := aftersalev1connect.NewApplicationServiceClient(a.placed.Buyer.Client())
	return Patient(ctx, func(ctx context.Context) (*aftersalev1.GetCaseResponse, error) {
		return c.GetCase(ctx, &aftersalev1.GetCaseRequest{CaseId: a.caseID, CartSecret: a.placed.Secret})
	})
}

// await asks, as the consumer's terminal does, until the case is so far.
func (a *application) await(ctx context.Context, state aftersalev1.Case_State) error {
	var last aftersalev1.Case_State
	err := until(ctx, func(ctx context.Context) (bool, error) {
		res, err := a.get(ctx)
		last = res.GetCase().GetState()
		return last == state, err
	})
	if err != nil {
		return fmt.Errorf("case %s is %s and not %s: %w", a.caseID, last, state, err)
	}
	return nil
}

package main

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// stamp is a time of the contract; none for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func (c *caseFile) linesProto() []*aftersalev1.CaseLine {
	out := make([]*aftersalev1.CaseLine, len(c.lines))
	for i, l := range c.lines {
		out[i] = &aftersalev1.CaseLine{
			Sku: l.SKU, Title: l.Title, Asked: l.Asked, Accepted: l.Accepted, UnitIds: l.Units, Received: l.Received, Assessed: l.Assessed, Passed: l.Passed,
		}
	}
	return out
}

// proto is a case without its texts.
func (c *caseFile) proto() *aftersalev1.Case {
	out := &aftersalev1.Case{
		CaseId: c.ID, State: aftersalev1.Case_State(c.State), Kind: aftersalev1.Kind(c.Kind), Reason: aftersalev1.Reason(c.Reason), Remedy: aftersalev1.Remedy(c.Remedy),
		OrderId: c.OrderID, MerchantId: c.Merchant, Market: c.Market, Lines: c.linesProto(), BlobIds: c.Blobs, Escalated: c.Escalated,
		DecideBy: stamp(c.DecideBy), AnswerBy: stamp(c.AnswerBy), Note: c.Note, ReturnId: c.ReturnID, ReturnShipmentId: c.ShipmentID, BackShipmentId: c.BackID,
		RequestId: c.RequestID, OpenedAt: stamp(c.OpenedAt), SettledAt: stamp(c.SettledAt),
	}
	if c.Outcome != 0 {
		out.Decision = &aftersalev1.Decision{
			Outcome: aftersalev1.Decision_Outcome(c.Outcome), ReasonCode: c.ReasonCode, DecidedBy: c.DecidedBy, At: stamp(c.DecidedAt), KeepGoods: c.KeepGoods,
		}
	}
	if c.Offer > 0 {
		out.Offer = &aftersalev1.OfferTerms{Amount: amount(c.Currency, c.Offer), OfferedBy: c.OfferedBy, At: stamp(c.OfferedAt)}
	}
	if c.RefundState != 0 {
		out.RefundId, out.Refund, out.Deduction = c.RefundID, amount(c.Currency, c.Refund), amount(c.Currency, c.Deduction)
	}
	return out
}

// GetCase tells a case whole.
func (s *service) GetCase(ctx context.Context, req *aftersalev1.GetCaseRequest) (*aftersalev1.GetCaseResponse, error) {
	c, who, err := s.ofCase(ctx, req.GetCaseId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	res := &aftersalev1.GetCaseResponse{Case: c.proto(), ConversationId: conversationID(c.OrderID, c.Merchant, c.ID)}
	if res.Goods, err = s.goods(ctx, c); err != nil {
		return nil, err
	}
	if res.Shipments, res.Timeline, err = s.story(ctx, c); err != nil {
		return nil, err
	}
	if who.side == aftersalev1.Side_SIDE_CONSUMER {
		// It names somebody else's unit, and is no verdict.
		res.Timeline = slices.DeleteFunc(res.GetTimeline(), func(e *aftersalev1.TimelineEntry) bool { return e.GetWhat() == sighted })
	}
	// The neighbours, side by side. None of them is needed.
	var without [3]string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if s.texts(gctx, c, res.GetCase()) != nil {
			without[0] = "vault"
		}
		return nil
	})
	g.Go(func() error {
		if s.passports(own(gctx, c.Market), res.GetGoods()) != nil {
			without[1] = "inspection"
		}
		return nil
	})
	if c.RefundState != 0 {
		res.Refund = &aftersalev1.CaseRefund{RefundId: c.RefundID, Amount: amount(c.Currency, c.Refund), State: refundNames[c.RefundState]}
		g.Go(func() error {
			if s.payment(gctx, c, res.GetRefund()) != nil {
				without[2] = "payment"
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, w := range without {
		if w != "" {
			res.Without = append(res.Without, w)
		}
	}
	return res, nil
}

// texts opens what the parties wrote.
func (s *service) texts(ctx context.Context, c *caseFile, into *aftersalev1.Case) error {
	texts, err := s.reveal(ctx, c.TextRef, c.DecisionRef, c.OfferRef)
	if err != nil {
		return err
	}
	into.Text = texts[c.TextRef]
	if d := into.GetDecision(); d != nil {
		d.Text = texts[c.DecisionRef]
	}
	if o := into.GetOffer(); o != nil {
		o.Text = texts[c.OfferRef]
	}
	return nil
}

var refundNames = map[int16]string{refundPlanned: "planned", refundPaid: "paid", refundRefused: "refused"}

// goods are the pieces of a case with what was found of them: each serial by
// itself, the rest of a line as gradings tell it.
func (s *service) goods(ctx context.Context, c *caseFile) ([]*aftersalev1.Goods, error) {
	var out []*aftersalev1.Goods
	looked := map[string]*aftersalev1.Goods{}
	graded := map[int16]int64{}
	rows, err := s.db.Rows(ctx, `SELECT g.n, g.grade, g.quantity, g.inspection, to_json(g.units),
		coalesce((SELECT v.verdict FROM verdict v WHERE v.inspection = g.inspection AND g.inspection <> '' ORDER BY v.position DESC LIMIT 1), 0)
		FROM grading g WHERE g.case_id = $1 ORDER BY g.at, g.id`, c.ID)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var n int16
		var grade, verdict int32
		var quantity int64
		var inspection string
		var units stringList
		if err := rows.Scan(&n, &grade, &quantity, &inspection, &units, &verdict); err != nil {
			return err
		}
		one := func(unit string, pieces int64) *aftersalev1.Goods {
			g := &aftersalev1.Goods{
				Quantity: pieces, UnitId: unit, Grade: gradeName(warehousev1.Grade(grade)), Verdict: verdictName(inspectionv1.Verdict(verdict)), InspectionCaseId: inspection,
			}
			for _, l := range c.lines {
				if l.N == n {
					g.Sku, g.Title = l.SKU, l.Title
				}
			}
			out = append(out, g)
			return g
		}
		graded[n] += quantity
		for _, u := range units {
			looked[u] = one(u, 1)
			quantity--
		}
		if quantity > 0 {
			one("", quantity)
		}
		return nil
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	for _, l := range c.lines {
		rest := l.Asked - graded[l.N]
		for _, u := range l.Units {
			if looked[u] == nil && rest > 0 {
				out, rest = append(out, &aftersalev1.Goods{Sku: l.SKU, Title: l.Title, Quantity: 1, UnitId: u}), rest-1
			}
		}
		if rest > 0 {
			out = append(out, &aftersalev1.Goods{Sku: l.SKU, Title: l.Title, Quantity: rest})
		}
	}
	return out, nil
}

// maxPassports is how many serials inspection is asked about for one answer.
const maxPassports = 20

// passports finds the links of serialised goods.
func (s *service) passports(ctx context.Context, goods []*aftersalev1.Goods) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	asked := 0
	for _, one := range goods {
		if one.GetUnitId() == "" || asked == maxPassports {
			continue
		}
		asked++
		g.Go(func() error {
			res, err := s.units.GetUnit(ctx, &inspectionv1.GetUnitRequest{UnitId: one.GetUnitId()})
			if err != nil {
				return err
			}
			one.PassportLink = res.GetUnit().GetDigitalLink()
			return nil
		})
	}
	return g.Wait()
}

func (s *service) payment(ctx context.Context, c *caseFile, into *aftersalev1.CaseRefund) error {
	var paymentID string
	if err := s.db.Row(ctx, `SELECT payment_id FROM purchase WHERE order_id = $1`, c.OrderID).Scan(&paymentID); err != nil {
		return err
	}
	res, err := s.payments.GetPayment(own(ctx, c.Market), &paymentv1.GetPaymentRequest{PaymentId: paymentID})
	into.Captured, into.Refunded = res.GetPayment().GetCaptured(), res.GetPayment().GetRefunded()
	return err
}

// way is what a shipment is for a case.
func (c *caseFile) way(shipment, request string) string {
	switch {
	case shipment == c.ShipmentID:
		return "return"
	case shipment == c.BackID:
		return "back"
	case request != "" && request == c.RequestID:
		return "replacement"
	}
	return "out"
}

// story is what happened to a case and on its ways, in one timeline.
func (s *service) story(ctx context.Context, c *caseFile) (ways []*aftersalev1.CaseShipment, told []*aftersalev1.TimelineEntry, err error) {
	at := map[string]string{}
	rows, err := s.db.Rows(ctx, `SELECT s.id, s.status, s.instance, to_json(s.tracking), coalesce(s.at, now()), coalesce(f.request_id, '') FROM shipment s
		LEFT JOIN fulfilment f ON f.shipment_id = s.id
		WHERE s.order_id = $1 AND (s.id IN ($2, $3) OR f.merchant = $4) ORDER BY s.id LIMIT 100`, c.OrderID, c.ShipmentID, c.BackID, c.Merchant)
	err = scan(rows, err, func(rows *sql.Rows) error {
		w := &aftersalev1.CaseShipment{}
		var status int16
		var numbers stringList
		var when time.Time
		var request string
		if err := rows.Scan(&w.ShipmentId, &status, &w.Carrier, &numbers, &when, &request); err != nil {
			return err
		}
		if at[w.GetShipmentId()] != "" {
			return nil
		}
		w.Way, w.Status, w.TrackingNumbers, w.At = c.way(w.GetShipmentId(), request), statusName(status), numbers, timestamppb.New(when)
		at[w.GetShipmentId()] = w.GetWay()
		ways = append(ways, w)
		return nil
	})
	if err != nil {
		return nil, nil, store.Wrap(err)
	}
	ids := make([]string, 0, len(at))
	for shipment := range at {
		ids = append(ids, shipment)
	}
	rows, err = s.db.Rows(ctx, `(SELECT at, what, who, note, '' AS shipment, 0 AS status, id FROM timeline WHERE case_id = $1)
		UNION ALL (SELECT at, '', 'system', reason, shipment_id, status, id FROM shipment_step WHERE shipment_id = ANY ($2)) ORDER BY at, id LIMIT 1000`, c.ID, ids)
	err = scan(rows, err, func(rows *sql.Rows) error {
		e := &aftersalev1.TimelineEntry{}
		var when time.Time
		var shipment string
		var status int16
		var n int64
		if err := rows.Scan(&when, &e.What, &e.Who, &e.Note, &shipment, &status, &n); err != nil {
			return err
		}
		e.At = timestamppb.New(when)
		if shipment != "" {
			e.What = "shipment." + statusName(status)
			e.Note = strings.TrimSpace(at[shipment] + " " + e.GetNote())
		}
		told = append(told, e)
		return nil
	})
	return ways, told, store.Wrap(err)
}

// GetReturnLabel answers the label as a path.
func (s *service) GetReturnLabel(ctx context.Context, req *aftersalev1.GetReturnLabelRequest) (*aftersalev1.GetReturnLabelResponse, error) {
	c, _, err := s.ofCase(ctx, req.GetCaseId(), req.GetCartSecret())
	if err != nil {
		return nil, err
	}
	if c.ShipmentID == "" || c.State == stateApproved {
		return nil, errNoLabel()
	}
	document := req.GetDocument()
	if document == "" {
		document = "label-pdf"
	}
	res, err := s.shipments.GetDocument(own(ctx, c.Market), &logisticsv1.GetDocumentRequest{ShipmentId: c.ShipmentID, Document: document})
	return &aftersalev1.GetReturnLabelResponse{Path: res.GetPath()}, host.Relay(err)
}

func errNoLabel() error {
	return fault.New(connect.CodeFailedPrecondition, "NO_LABEL", "nothing is to be sent, or its label is not there yet")
}

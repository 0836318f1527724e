package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// acceptSaga captures a merchant's share of an order that it has accepted, and
// has the warehouse fulfil it.
var acceptSaga = saga.Define("accept", 1,
	saga.Step{Name: "capture", Do: paymentv1connect.PaymentServiceCapturePaymentProcedure, Kind: saga.Retriable},
	saga.Step{Name: "fulfil", Do: warehousev1connect.FulfilmentStepServiceRequestFulfilmentProcedure, Kind: saga.Retriable},
	saga.Step{Name: "finish", Do: orderv1connect.OrderStepServiceFinishAcceptanceProcedure, Kind: saga.Retriable},
)

// ListMerchantOrders pages through the merchant's part of orders, oldest
// first.
func (s *service) ListMerchantOrders(ctx context.Context, req *orderv1.ListMerchantOrdersRequest) (*orderv1.ListMerchantOrdersResponse, error) {
	after, err := pageToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size, merchant := pageSize(req.GetPageSize(), 50), call.From(ctx).Principal.Merchant
	found, err := s.readOrders(ctx, `SELECT `+orderColumns+` FROM consignment p JOIN orders o ON o.id = p.order_id
		WHERE p.merchant = $1 AND ($2 = 0 OR p.state = $2) AND p.order_id > $3 AND o.state IN (2, 3, 7, 8) ORDER BY p.order_id LIMIT $4`,
		merchant, int16(req.GetState()), after, size+1)
	if err != nil {
		return nil, err
	}
	res := &orderv1.ListMerchantOrdersResponse{}
	if len(found) > size {
		found, res.NextPageToken = found[:size], nextToken(found[size-1].id)
	}
	for _, o := range found {
		res.Orders = append(res.Orders, o.part(merchant).proto())
	}
	return res, nil
}

// part is an order as one of its merchants may see it: its own lines and
// share, and no person.
func (o *order) part(merchant string) *order {
	p := *o
	p.account, p.subject, p.shipToRef, p.emailRef, p.cartID, p.paymentID, p.total = "", "", "", "", "", "", 0
	p.lines = slices.DeleteFunc(slices.Clone(o.lines), func(l line) bool { return l.Merchant != merchant })
	p.consignments = slices.DeleteFunc(slices.Clone(o.consignments), func(c consignment) bool { return c.Merchant != merchant })
	for _, l := range p.lines {
		p.total += l.total()
	}
	return &p
}

// lockParts locks orders in the order of their ids, and with them the
// merchant's consignments.
const lockParts = `SELECT o.id, o.state, o.currency, o.payment_id, o.reservation_id, o.market, c.state, c.total, c.held, o.edit_id <> '', (SELECT s.doc FROM settlement s WHERE s.order_id = o.id),
  (SELECT json_agg(json_build_object('sku', l.sku, 'quantity', l.quantity, 'authenticated', l.authenticated) ORDER BY l.n)
     FROM order_line l WHERE l.order_id = o.id AND l.merchant = $2)
  FROM orders o JOIN consignment c ON c.order_id = o.id AND c.merchant = $2
 WHERE o.id = ANY ($1) ORDER BY o.id FOR UPDATE OF o, c`

// acceptance is one order on its way through AcceptOrders.
type acceptance struct {
	result  *orderv1.AcceptResult
	started *saga.Started
}

// AcceptOrders takes orders into processing: one transaction marks them and
// starts their sagas, which capture side by side.
func (s *service) AcceptOrders(ctx context.Context, req *orderv1.AcceptOrdersRequest) (*orderv1.AcceptOrdersResponse, error) {
	p := call.From(ctx).Principal
	var all []*acceptance
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		all, err = s.accept(ctx, tx, p, req.GetOrderIds())
		return err
	})
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, a := range all {
		if a.started == nil {
			continue
		}
		g.Go(func() error {
			err := s.host.RunSaga(gctx, a.started)
			if err == nil {
				a.result.State = orderv1.Consignment_STATE_ACCEPTED
				return nil
			}
			switch connect.CodeOf(err) {
			case connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnavailable, connect.CodeResourceExhausted:
				// It goes on without us: the answer says ACCEPTING.
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	res := &orderv1.AcceptOrdersResponse{}
	for _, a := range all {
		res.Results = append(res.Results, a.result)
	}
	return res, nil
}

func (s *service) accept(ctx context.Context, tx *store.Tx, p call.Principal, orderIDs []string) ([]*acceptance, error) {
	rows, err := tx.Rows(ctx, lockParts, orderIDs, p.Merchant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	found := make(map[string]*acceptance, len(orderIDs))
	var log entries
	var accepted, captures []string
	var further []*settledPart
	for rows.Next() {
		var orderID, currency, payment, reservation, market string
		var state, part, held int16
		var total int64
		var editing bool
		var doc, stored []byte
		if err := rows.Scan(&orderID, &state, &currency, &payment, &reservation, &market, &part, &total, &held, &editing, &stored, &doc); err != nil {
			return nil, err
		}
		var lines []line
		if err := json.Unmarshal(doc, &lines); err != nil {
			return nil, err
		}
		a := &acceptance{result: &orderv1.AcceptResult{OrderId: orderID, State: orderv1.Consignment_State(part)}}
		found[orderID] = a
		if a.result.State != orderv1.Consignment_STATE_OPEN {
			continue
		}
		if orderv1.Order_State(state) != orderv1.Order_STATE_PLACED {
			a.result.Refusal = "ORDER_" + strings.ToUpper(stateNames[orderv1.Order_State(state)])
			continue
		}
		if held != 0 {
			a.result.Refusal = "HELD"
			continue
		}
		if editing {
			a.result.Refusal = "EDITING"
			continue
		}
		sctx := call.With(ctx, inMarket(call.From(ctx), market))
		if stored != nil {
			further = append(further, &settledPart{acceptance: a, order: &order{id: orderID, market: market, currency: currency}, doc: stored, total: total})
			a.result.State = orderv1.Consignment_STATE_ACCEPTING
			log.add(orderID, now(), "order.accepted", p.String(), "")
			continue
		}
		capture := id.New("cap")
		if a.started, err = tx.StartSaga(sctx, acceptSaga, orderID+"/"+p.Merchant, saga.Requests{
			"capture": &paymentv1.CapturePaymentRequest{
				PaymentId: payment, OperationId: capture, Amount: money(currency, total),
				Shares: []*paymentv1.MerchantShare{{MerchantId: p.Merchant, MinorUnits: total}},
			},
			"fulfil": fulfilmentOf(orderID, reservation, p.Merchant, market, lines),
			"finish": &orderv1.FinishAcceptanceRequest{OrderId: orderID, MerchantId: p.Merchant},
		}); err != nil {
			return nil, err
		}
		a.result.State = orderv1.Consignment_STATE_ACCEPTING
		accepted, captures = append(accepted, orderID), append(captures, capture)
		log.add(orderID, now(), "order.accepted", p.String(), "")
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for _, f := range further {
		if err := f.accept(ctx, tx, p); err != nil {
			return nil, err
		}
		accepted, captures = append(accepted, f.order.id), append(captures, "")
	}
	if len(accepted) > 0 {
		if _, err := tx.Do(ctx, `UPDATE consignment c SET state = 2, capture_id = u.capture
			FROM ROWS FROM (unnest($1::text[]), unnest($2::text[])) u(order_id, capture) WHERE c.order_id = u.order_id AND c.merchant = $3`,
			accepted, captures, p.Merchant); err != nil {
			return nil, err
		}
		if err := log.write(ctx, tx); err != nil {
			return nil, err
		}
	}
	out := make([]*acceptance, len(orderIDs))
	for i, orderID := range orderIDs {
		if out[i] = found[orderID]; out[i] == nil {
			out[i] = &acceptance{result: &orderv1.AcceptResult{OrderId: orderID, Refusal: "ORDER_UNKNOWN"}}
		}
	}
	return out, nil
}

// finishAcceptance locks the order first: the last of two merchants that
// finish at once must see the other.
const lockOrder = `SELECT state FROM orders WHERE id = $1 FOR UPDATE`

const finishAcceptance = `WITH c AS (UPDATE consignment SET state = 3 WHERE order_id = $1 AND merchant = $2 AND state = 2 RETURNING order_id),
rest AS (SELECT count(*) AS n FROM consignment WHERE order_id = $1 AND merchant <> $2 AND state < 3),
o AS (UPDATE orders SET state = 3 FROM c, rest WHERE orders.id = c.order_id AND rest.n = 0 AND orders.state = 2 RETURNING orders.id)
SELECT (SELECT n FROM rest) = 0, EXISTS (SELECT FROM fulfilment f WHERE f.order_id = $1 AND f.merchant = $2 AND f.state IN (4, 5)) FROM c`

// FinishAcceptance records that a merchant's share is captured.
func (s *service) FinishAcceptance(ctx context.Context, req *orderv1.FinishAcceptanceRequest) (*orderv1.FinishAcceptanceResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.FinishAcceptanceResponse, error) {
		var state int16
		if err := tx.Row(ctx, lockOrder, req.GetOrderId()).Scan(&state); err != nil {
			return nil, noOrder(err)
		}
		var complete, gone bool
		if err := tx.Row(ctx, finishAcceptance, req.GetOrderId(), req.GetMerchantId()).Scan(&complete, &gone); err != nil {
			return nil, noOrder(err)
		}
		if err := tx.Publish(&orderv1.OrderAccepted{OrderId: req.GetOrderId(), MerchantId: req.GetMerchantId(), Complete: complete}); err != nil || !gone {
			return &orderv1.FinishAcceptanceResponse{}, err
		}
		// The warehouse was asked before this, and has been faster.
		return &orderv1.FinishAcceptanceResponse{}, follow(ctx, tx, req.GetOrderId())
	})
}

package main

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// CancelBackorders ends the wait of orders of a merchant.
func (s *service) CancelBackorders(ctx context.Context, req *orderv1.CancelBackordersRequest) (*orderv1.CancelBackordersResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.CancelBackordersResponse, error) {
		refusals, err := endWaits(ctx, tx, req.GetOrderIds(), call.From(ctx).Principal.Merchant, req.GetReason())
		if err != nil {
			return nil, err
		}
		res := &orderv1.CancelBackordersResponse{}
		for _, orderID := range req.GetOrderIds() {
			res.Results = append(res.Results, &orderv1.CancelBackorderResult{OrderId: orderID, Refusal: refusals[orderID]})
		}
		return res, nil
	})
}

func errBusyAllotting() error {
	return fault.Retry(fault.New(connect.CodeAborted, "ORDER_BUSY", "stock is being allotted to the order; try again"), 200*time.Millisecond)
}

// cancelWait ends the wait of an order for its consumer, or staff. Who may
// cancel it is known.
func (s *service) cancelWait(ctx context.Context, req *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		refusals, err := endWaits(ctx, tx, []string{req.GetOrderId()}, "", req.GetReason())
		if err == nil && refusals[req.GetOrderId()] != "" {
			// Allotted at this moment, or being so: tried again it is another's case.
			err = errBusyAllotting()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	o, err := readOrder(ctx, s.db, req.GetOrderId())
	if err != nil {
		return nil, store.Wrap(noOrder(err))
	}
	return &orderv1.CancelOrderResponse{Order: toConsumer(o.proto())}, nil
}

// What is paid for anew does not wait, and is not counted.
const endWait = `WITH b AS (UPDATE backorder SET state = 6, method_token = '', due = false WHERE order_id = ANY ($1) RETURNING *),
q AS (UPDATE backlog SET waiting = backlog.waiting - d.n FROM (SELECT sku, market, sum(quantity) AS n FROM b WHERE order_id = ANY ($2) GROUP BY 1, 2) d
  WHERE backlog.sku = d.sku AND backlog.market = d.market),
o AS (UPDATE orders SET state = 5, cancel_reason = $3 FROM b WHERE orders.id = b.order_id RETURNING orders.id, orders.account, orders.email_ref),
t AS (INSERT INTO timeline (order_id, what, who, note) SELECT o.id, 'backorder.cancelled', $4, $3 FROM o)
SELECT b.order_id, b.market, b.merchant, b.sku, b.quantity, o.account, o.email_ref FROM b JOIN o ON o.id = b.order_id ORDER BY b.n`

// endWaits ends what waits of some orders, those of one merchant if it is
// named, and answers why others are not.
func endWaits(ctx context.Context, tx *store.Tx, orderIDs []string, merchant, reason string) (map[string]string, error) {
	var skus []string
	rows, err := tx.Rows(ctx, `SELECT DISTINCT sku FROM backorder WHERE order_id = ANY ($1)`, orderIDs)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var sku string
		err := rows.Scan(&sku)
		skus = append(skus, sku)
		return err
	}); err != nil {
		return nil, err
	}
	slices.Sort(skus)
	if _, err := lockQueues(ctx, tx, skus); err != nil {
		return nil, err
	}
	refusals, end, counted := make(map[string]string), []string{}, []string{}
	for _, orderID := range orderIDs {
		refusals[orderID] = "ORDER_UNKNOWN"
	}
	rows, err = tx.Rows(ctx, `SELECT order_id, state FROM backorder WHERE order_id = ANY ($1) AND ($2 = '' OR merchant = $2)`, orderIDs, merchant)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var orderID string
		var state int16
		err := rows.Scan(&orderID, &state)
		switch orderv1.Backorder_State(state) {
		case orderv1.Backorder_STATE_WAITING:
			counted = append(counted, orderID)
			end, refusals[orderID] = append(end, orderID), ""
		case orderv1.Backorder_STATE_PAYMENT_REFUSED:
			end, refusals[orderID] = append(end, orderID), ""
		case orderv1.Backorder_STATE_CANCELLED:
			refusals[orderID] = ""
		case orderv1.Backorder_STATE_ALLOTTING, orderv1.Backorder_STATE_PLACING:
			refusals[orderID] = "ORDER_BUSY"
		default:
			refusals[orderID] = "NOT_BACKORDERED"
		}
		return err
	}); err != nil || len(end) == 0 {
		return refusals, err
	}
	rows, err = tx.Rows(ctx, endWait, end, counted, reason, call.From(ctx).Principal.String())
	if err := each(rows, err, func(rows *sql.Rows) error {
		e := &orderv1.BackorderCancelled{Reason: reason, ByMerchant: merchant != ""}
		if err := rows.Scan(&e.OrderId, &e.Market, &e.MerchantId, &e.Sku, &e.Quantity, &e.AccountId, &e.EmailRef); err != nil {
			return err
		}
		return tx.Publish(e)
	}); err != nil {
		return nil, err
	}
	// Who is behind may be content with less than was too little for them.
	return refusals, arrivals(ctx, tx, skus)
}

const renewPayment = `WITH b AS (UPDATE backorder SET method_token = $2, due = due OR state = 4, state = 2 WHERE order_id = $1 RETURNING *),
q AS (UPDATE backlog SET waiting = backlog.waiting + b.quantity FROM b WHERE $3 AND backlog.sku = b.sku AND backlog.market = b.market)
INSERT INTO timeline (order_id, what, who) SELECT order_id, 'backorder.payment_renewed', $4 FROM b`

// RenewBackorderPayment names another means of payment.
func (s *service) RenewBackorderPayment(ctx context.Context, req *orderv1.RenewBackorderPaymentRequest) (*orderv1.RenewBackorderPaymentResponse, error) {
	var o *order
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		if o, err = readOrder(ctx, tx, req.GetOrderId()); err != nil {
			return noOrder(err)
		}
		if !s.mayOpen(ctx, o.cartID, o.account, req.GetCartSecret()) {
			return errNoOrder()
		}
		if o.waits == nil {
			return errNotBackordered()
		}
		sku, err := lockQueueOf(ctx, tx, o.id)
		if err != nil {
			return err
		}
		if o, err = readOrder(ctx, tx, o.id); err != nil {
			return err
		}
		refused := o.waits.State == orderv1.Backorder_STATE_PAYMENT_REFUSED
		switch o.waits.State {
		case orderv1.Backorder_STATE_WAITING, orderv1.Backorder_STATE_PAYMENT_REFUSED:
		case orderv1.Backorder_STATE_ALLOTTING, orderv1.Backorder_STATE_PLACING:
			return errBusyAllotting()
		default:
			return errNotBackordered()
		}
		if _, err := tx.Do(ctx, renewPayment, o.id, req.GetPaymentMethodToken(), refused, call.From(ctx).Principal.String()); err != nil {
			return err
		}
		o.waits.State = orderv1.Backorder_STATE_WAITING
		return allotNext(ctx, tx, []string{sku})
	})
	if err != nil {
		return nil, err
	}
	return &orderv1.RenewBackorderPaymentResponse{Order: toConsumer(o.proto())}, nil
}

func errNotBackordered() error {
	return fault.New(connect.CodeFailedPrecondition, "NOT_BACKORDERED", "this order does not wait for stock")
}

package main

import (
	"context"
	"database/sql"
	"slices"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// allotSaga is a checkout whose stock has come late: it reserves, holds the
// money and makes the waiting order an ordinary one. The warehouse decides
// whether there is enough of what the line may have; the mark between the two
// tells a refusal for want of stock from one of the payment.
var allotSaga = saga.Define("allot", 1,
	saga.Step{Name: "open", Undo: orderv1connect.BackorderStepServiceReturnBackorderProcedure},
	saga.Step{Name: "reserve", Do: warehousev1connect.StockServiceReserveStockProcedure, Undo: warehousev1connect.StockServiceReleaseReservationProcedure},
	saga.Step{Name: "mark", Do: orderv1connect.BackorderStepServiceMarkBackorderProcedure},
	saga.Step{Name: "authorize", Do: paymentv1connect.PaymentServiceAuthorizePaymentProcedure, Undo: paymentv1connect.PaymentServiceReversePaymentProcedure},
	saga.Step{Name: "place", Do: orderv1connect.BackorderStepServicePlaceBackorderProcedure, Kind: saga.Pivot},
)

// lockQueues locks the queues of some skus, and answers those in which anybody
// waits, or is having his turn. Whoever changes a queue does it under these
// locks, which are taken in one order, and before those of orders.
func lockQueues(ctx context.Context, tx *store.Tx, skus []string) (queued []string, err error) {
	rows, err := tx.Rows(ctx, `SELECT sku FROM backlog WHERE sku = ANY ($1) ORDER BY sku, market FOR UPDATE`, skus)
	err = each(rows, err, func(rows *sql.Rows) error {
		var sku string
		err := rows.Scan(&sku)
		queued = append(queued, sku)
		return err
	})
	return slices.Compact(queued), err
}

// arrivals are skus of which some came: who waits is to be tried again, and so
// is who is being tried, should he be refused.
func arrivals(ctx context.Context, tx *store.Tx, skus []string) error {
	queued, err := lockQueues(ctx, tx, skus)
	if err != nil || len(queued) == 0 {
		return err
	}
	if _, err := tx.Do(ctx, `UPDATE backorder SET due = true, asked_at = now() WHERE sku = ANY ($1) AND state IN (2, 3)`, queued); err != nil {
		return err
	}
	return allotNext(ctx, tx, queued)
}

// askBatch is how many skus are asked for again at a tick.
const askBatch = 50

// askAgain tries queues that have heard of no arrival for a while: goods become
// free in ways that no event tells, as when a merchant puts more on its shelf.
func askAgain(ctx context.Context, tx *store.Tx) error {
	var skus []string
	rows, err := tx.Rows(ctx, `SELECT DISTINCT sku FROM backorder WHERE state = 2 AND asked_at < now() - interval '10 minutes' ORDER BY sku LIMIT $1`, askBatch)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var sku string
		err := rows.Scan(&sku)
		skus = append(skus, sku)
		return err
	}); err != nil || len(skus) == 0 {
		return err
	}
	return arrivals(ctx, tx, skus)
}

// takeTurns gives each sku's first who waits his turn, unless another of that
// sku has his. The queues are locked.
const takeTurns = `UPDATE backorder SET state = 3, due = false, reserved = false FROM (
  SELECT b.order_id FROM unnest($1::text[]) s(sku)
   CROSS JOIN LATERAL (SELECT w.order_id FROM backorder w WHERE w.sku = s.sku AND w.state = 2 AND w.due ORDER BY w.n LIMIT 1) b
   WHERE NOT EXISTS (SELECT FROM backorder r WHERE r.sku = s.sku AND r.state = 3)) f
 WHERE backorder.order_id = f.order_id RETURNING backorder.order_id, backorder.method_token`

// allotNext starts the allotment of who is next of some skus whose queues are
// locked.
func allotNext(ctx context.Context, tx *store.Tx, skus []string) error {
	tokens, ids := make(map[string]string), []string{}
	rows, err := tx.Rows(ctx, takeTurns, skus)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var orderID, token string
		err := rows.Scan(&orderID, &token)
		tokens[orderID], ids = token, append(ids, orderID)
		return err
	}); err != nil || len(ids) == 0 {
		return err
	}
	var all []*order
	rows, err = tx.Rows(ctx, `SELECT `+orderColumns+` FROM orders o WHERE o.id = ANY ($1) ORDER BY o.id`, ids)
	if err := each(rows, err, func(rows *sql.Rows) error {
		o, err := scanOrder(rows)
		all = append(all, o)
		return err
	}); err != nil {
		return err
	}
	ids = ids[:0]
	var payments, reservations, sagas []string
	for _, o := range all {
		// Each try has ids of its own: those of the one before are used up.
		o.paymentID, o.reservationID = id.New("pay"), id.New("rsv")
		started, err := tx.StartSaga(call.With(ctx, inMarket(call.From(ctx), o.market)), allotSaga, o.id+"/"+o.reservationID, o.allotRequests(tokens[o.id]))
		if err != nil {
			return err
		}
		ids, payments, reservations, sagas = append(ids, o.id), append(payments, o.paymentID), append(reservations, o.reservationID), append(sagas, started.ID)
	}
	_, err = tx.Do(ctx, `UPDATE orders SET payment_id = u.payment, reservation_id = u.reservation, saga = u.saga::uuid
		FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[])) u(id, payment, reservation, saga) WHERE orders.id = u.id`,
		ids, payments, reservations, sagas)
	return err
}

func (o *order) allotRequests(token string) saga.Requests {
	reserve := &warehousev1.ReserveStockRequest{ReservationId: o.reservationID, Reference: o.id, Market: o.market}
	for _, l := range o.lines {
		reserve.Lines = append(reserve.Lines, &warehousev1.ReservationLine{Sku: l.SKU, Quantity: l.Quantity, Authenticated: l.Authenticated})
	}
	return saga.Requests{
		"open.undo":    &orderv1.ReturnBackorderRequest{OrderId: o.id},
		"reserve":      reserve,
		"reserve.undo": &warehousev1.ReleaseReservationRequest{ReservationId: o.reservationID, Reason: "allotment refused"},
		"mark":         &orderv1.MarkBackorderRequest{OrderId: o.id},
		"authorize": &paymentv1.AuthorizePaymentRequest{
			PaymentId: o.paymentID, Reference: o.id, Amount: money(o.currency, o.total), MethodToken: token, Market: o.market,
		},
		"authorize.undo": &paymentv1.ReversePaymentRequest{PaymentId: o.paymentID, Reason: "allotment refused"},
		"place":          &orderv1.PlaceBackorderRequest{OrderId: o.id},
	}
}

// MarkBackorder records that the stock is reserved.
func (s *service) MarkBackorder(ctx context.Context, req *orderv1.MarkBackorderRequest) (*orderv1.MarkBackorderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.MarkBackorderResponse, error) {
		_, err := tx.Do(ctx, `UPDATE backorder SET reserved = true WHERE order_id = $1 AND state = 3`, req.GetOrderId())
		return &orderv1.MarkBackorderResponse{}, err
	})
}

// lockQueueOf locks the queue in which an order is.
func lockQueueOf(ctx context.Context, tx *store.Tx, orderID string) (sku string, err error) {
	if err := tx.Row(ctx, `SELECT sku FROM backorder WHERE order_id = $1`, orderID).Scan(&sku); err != nil {
		return "", noOrder(err)
	}
	_, err = lockQueues(ctx, tx, []string{sku})
	return sku, err
}

const placeBackorder = `WITH b AS (UPDATE backorder SET state = 5, method_token = '', due = false WHERE order_id = $1 AND state = 3 RETURNING *),
q AS (UPDATE backlog SET waiting = backlog.waiting - b.quantity FROM b WHERE backlog.sku = b.sku AND backlog.market = b.market),
c AS (UPDATE consignment c SET due_at = now() + coalesce((SELECT h.hours FROM handling h WHERE h.merchant = c.merchant), 48) * interval '1 hour'
  FROM b WHERE c.order_id = b.order_id),
o AS (UPDATE orders SET state = 2 FROM b WHERE orders.id = b.order_id RETURNING orders.*),
t AS (INSERT INTO timeline (order_id, what, who) SELECT o.id, w, 'system' FROM o, unnest(ARRAY['backorder.allotted', 'order.placed']) w)
SELECT ` + orderColumns + ` FROM o`

// PlaceBackorder makes a waiting order an ordinary one.
func (s *service) PlaceBackorder(ctx context.Context, req *orderv1.PlaceBackorderRequest) (*orderv1.PlaceBackorderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.PlaceBackorderResponse, error) {
		sku, err := lockQueueOf(ctx, tx, req.GetOrderId())
		if err != nil {
			return nil, err
		}
		o, err := scanOrder(tx.Row(ctx, placeBackorder, req.GetOrderId()))
		if err != nil {
			return nil, noOrder(err)
		}
		l := o.lines[0]
		if err := tx.Publish(&orderv1.BackorderAllotted{
			OrderId: o.id, Market: o.market, MerchantId: l.Merchant, Sku: l.SKU, Quantity: l.Quantity, AccountId: o.account, EmailRef: o.emailRef,
		}, o.placed()); err != nil {
			return nil, err
		}
		return &orderv1.PlaceBackorderResponse{}, allotNext(ctx, tx, []string{sku})
	})
}

const returnBackorder = `WITH b AS (UPDATE backorder SET state = CASE WHEN reserved THEN 4 ELSE 2 END, method_token = CASE WHEN reserved THEN '' ELSE method_token END
   WHERE order_id = $1 AND state = 3 RETURNING *),
q AS (UPDATE backlog SET waiting = backlog.waiting - b.quantity FROM b WHERE b.reserved AND backlog.sku = b.sku AND backlog.market = b.market),
w AS (UPDATE backorder SET due = false FROM b WHERE NOT b.reserved AND NOT b.due AND backorder.sku = b.sku AND backorder.market = b.market AND backorder.state = 2),
t AS (INSERT INTO timeline (order_id, what, who) SELECT order_id, 'backorder.payment_refused', 'system' FROM b WHERE reserved)
SELECT reserved FROM b`

// ReturnBackorder is what a refused allotment ends with. Without enough stock
// everybody behind waits too, in that market, until more has come: nobody
// overtakes.
func (s *service) ReturnBackorder(ctx context.Context, req *orderv1.ReturnBackorderRequest) (*orderv1.ReturnBackorderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.ReturnBackorderResponse, error) {
		sku, err := lockQueueOf(ctx, tx, req.GetOrderId())
		if err != nil {
			return nil, err
		}
		var refused bool
		if err := tx.Row(ctx, returnBackorder, req.GetOrderId()).Scan(&refused); err != nil {
			return nil, noOrder(err)
		}
		if refused {
			o, err := readOrder(ctx, tx, req.GetOrderId())
			if err != nil {
				return nil, err
			}
			l := o.lines[0]
			if err := tx.Publish(&orderv1.BackorderPaymentRefused{
				OrderId: o.id, Market: o.market, MerchantId: l.Merchant, Sku: l.SKU, Quantity: l.Quantity, AccountId: o.account, EmailRef: o.emailRef,
			}); err != nil {
				return nil, err
			}
		}
		// The day may have moved while it had its turn.
		if err := tellDays(ctx, tx, []string{sku}); err != nil {
			return nil, err
		}
		return &orderv1.ReturnBackorderResponse{}, allotNext(ctx, tx, []string{sku})
	})
}

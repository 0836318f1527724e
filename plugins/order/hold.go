package main

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// lockHeld locks orders in the order of their ids, and with them the
// merchant's consignments, and tells whether a carrier is asked already.
const lockHeld = `SELECT o.id, o.state, c.state, c.held, c.due_at,
  EXISTS (SELECT FROM fulfilment f WHERE f.order_id = o.id AND f.merchant = $2 AND f.state IN (2, 4, 5))
  FROM orders o JOIN consignment c ON c.order_id = o.id AND c.merchant = $2
 WHERE o.id = ANY ($1) ORDER BY o.id FOR UPDATE OF o, c`

type holdable struct {
	order    orderv1.Order_State
	part     orderv1.Consignment_State
	held     bool
	due      time.Time
	shipping bool
}

// refusal is why a consignment cannot be held.
func (h *holdable) refusal() string {
	switch h.order {
	case orderv1.Order_STATE_PLACED, orderv1.Order_STATE_ACCEPTED, orderv1.Order_STATE_HANDED_OVER:
	default:
		return "ORDER_" + strings.ToUpper(stateNames[h.order])
	}
	switch {
	case h.part >= orderv1.Consignment_STATE_HANDED_OVER:
		return "HANDED_OVER"
	case h.part == orderv1.Consignment_STATE_ACCEPTING:
		return "ORDER_BUSY"
	case h.shipping:
		return "SHIPPING_BEGUN"
	}
	return ""
}

func lockHoldable(ctx context.Context, tx *store.Tx, orderIDs []string, merchant string) (map[string]*holdable, error) {
	rows, err := tx.Rows(ctx, lockHeld, orderIDs, merchant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := make(map[string]*holdable, len(orderIDs))
	for rows.Next() {
		var id string
		var order, part, held int16
		h := &holdable{}
		if err := rows.Scan(&id, &order, &part, &held, &h.due, &h.shipping); err != nil {
			return nil, err
		}
		h.order, h.part, h.held = orderv1.Order_State(order), orderv1.Consignment_State(part), held != 0
		out[id] = h
	}
	return out, rows.Err()
}

// HoldConsignments stops a merchant's parts of orders.
func (s *service) HoldConsignments(ctx context.Context, req *orderv1.HoldConsignmentsRequest) (*orderv1.HoldConsignmentsResponse, error) {
	p := call.From(ctx).Principal
	var res *orderv1.HoldConsignmentsResponse
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		res = &orderv1.HoldConsignmentsResponse{}
		found, err := lockHoldable(ctx, tx, req.GetOrderIds(), p.Merchant)
		if err != nil {
			return err
		}
		var log entries
		var held []string
		for _, id := range req.GetOrderIds() {
			r := &orderv1.ConsignmentResult{OrderId: id, Refusal: "ORDER_UNKNOWN"}
			res.Results = append(res.Results, r)
			h := found[id]
			if h == nil {
				continue
			}
			r.Refusal, r.DueBy = h.refusal(), timestamppb.New(h.due)
			if r.GetRefusal() != "" || h.held {
				continue
			}
			held = append(held, id)
			log.add(id, now(), "consignment.held", p.String(), strings.TrimPrefix(req.GetReason().String(), "REASON_"))
			if err := tx.Publish(&orderv1.ConsignmentHeld{OrderId: id, MerchantId: p.Merchant, Reason: req.GetReason()}); err != nil {
				return err
			}
		}
		if len(held) == 0 {
			return nil
		}
		if _, err := tx.Do(ctx, `UPDATE consignment SET held = $3, held_at = now(), held_by = $4, held_note = $5 WHERE order_id = ANY ($1) AND merchant = $2`,
			held, p.Merchant, int16(req.GetReason()), p.String(), req.GetNote()); err != nil {
			return err
		}
		return log.write(ctx, tx)
	})
	return res, err
}

const releaseHeld = `UPDATE consignment SET due_at = due_at + (now() - held_at), held = 0, held_at = NULL, held_by = '', held_note = ''
  WHERE order_id = ANY ($1) AND merchant = $2 AND held <> 0 RETURNING order_id, due_at`

// ReleaseConsignments lets held parts of orders go on.
func (s *service) ReleaseConsignments(ctx context.Context, req *orderv1.ReleaseConsignmentsRequest) (*orderv1.ReleaseConsignmentsResponse, error) {
	p := call.From(ctx).Principal
	var res *orderv1.ReleaseConsignmentsResponse
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) error {
		res = &orderv1.ReleaseConsignmentsResponse{}
		found, err := lockHoldable(ctx, tx, req.GetOrderIds(), p.Merchant)
		if err != nil {
			return err
		}
		released, err := dueAfter(ctx, tx, req.GetOrderIds(), p.Merchant)
		if err != nil {
			return err
		}
		var log entries
		for _, id := range req.GetOrderIds() {
			r := &orderv1.ConsignmentResult{OrderId: id}
			res.Results = append(res.Results, r)
			due, was := released[id]
			switch h := found[id]; {
			case h == nil:
				r.Refusal = "ORDER_UNKNOWN"
				continue
			case !was:
				r.DueBy = timestamppb.New(h.due)
				continue
			}
			r.DueBy = timestamppb.New(due)
			log.add(id, now(), "consignment.released", p.String(), "")
			if err := tx.Publish(&orderv1.ConsignmentReleased{OrderId: id, MerchantId: p.Merchant}); err != nil {
				return err
			}
		}
		if len(released) == 0 {
			return nil
		}
		if err := log.write(ctx, tx); err != nil {
			return err
		}
		return shipReleased(ctx, tx, req.GetOrderIds(), p)
	})
	return res, err
}

func dueAfter(ctx context.Context, tx *store.Tx, orderIDs []string, merchant string) (map[string]time.Time, error) {
	rows, err := tx.Rows(ctx, releaseHeld, orderIDs, merchant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := make(map[string]time.Time)
	for rows.Next() {
		var id string
		var due time.Time
		if err := rows.Scan(&id, &due); err != nil {
			return nil, err
		}
		out[id] = due
	}
	return out, rows.Err()
}

// shipReleased asks carriers for what was packed while it was held.
func shipReleased(ctx context.Context, tx *store.Tx, orderIDs []string, p call.Principal) error {
	rows, err := tx.Rows(ctx, `SELECT f.id, f.parcels FROM fulfilment f WHERE f.order_id = ANY ($1) AND f.merchant = $2 AND f.state = 3 AND f.booking = 0
		ORDER BY f.id FOR UPDATE`, orderIDs, p.Merchant)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	ids, docs := []string{}, [][]byte{}
	for rows.Next() {
		var id string
		var doc []byte
		if err := rows.Scan(&id, &doc); err != nil {
			return err
		}
		ids, docs = append(ids, id), append(docs, doc)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range ids {
		// Few, and each is a saga of its own.
		if _, err := bookAgain(ctx, tx, ids[i], docs[i], 1, "", p.String()); err != nil {
			return err
		}
	}
	return nil
}

// clockBatch keeps a tick's transaction short, and its events within what one
// may publish. What is left is told at the next tick.
const clockBatch = 150

// Cancelled orders' parts are marked too, so that no tick looks at them again.
const overdue = `WITH due AS (SELECT c.order_id, c.merchant, o.state FROM consignment c JOIN orders o ON o.id = c.order_id
   WHERE c.due_at <= now() AND c.state < 4 AND c.overdue_at IS NULL AND c.held = 0 AND o.state NOT IN (1, 4, 9)
   ORDER BY c.due_at LIMIT $1 FOR UPDATE OF c SKIP LOCKED),
u AS (UPDATE consignment c SET overdue_at = now() FROM due WHERE c.order_id = due.order_id AND c.merchant = due.merchant
  RETURNING c.order_id, c.merchant, c.due_at, due.state),
t AS (INSERT INTO timeline (order_id, what, who, note) SELECT order_id, 'consignment.overdue', 'system', merchant FROM u WHERE state IN (2, 3, 7))
SELECT order_id, merchant, due_at FROM u WHERE state IN (2, 3, 7)`

// onTicks does what each schedule is for, once however many ticks came.
func onTicks(ctx context.Context, tx *store.Tx, events []event.Of[*pluginv1.Tick]) error {
	fired := make(map[string]bool)
	for _, e := range events {
		fired[e.Body.GetSchedule()] = true
	}
	if fired["order/clock"] {
		if err := tellOverdue(ctx, tx); err != nil {
			return err
		}
	}
	if !fired["order/shortages"] {
		return nil
	}
	// The batches together stay below what one transaction may publish.
	if err := tellWaiters(ctx, tx); err != nil {
		return err
	}
	if err := askAgain(ctx, tx); err != nil {
		return err
	}
	return remindMerchants(ctx, tx)
}

func tellOverdue(ctx context.Context, tx *store.Tx) error {
	rows, err := tx.Rows(ctx, overdue, clockBatch)
	return each(rows, err, func(rows *sql.Rows) error {
		e := &orderv1.ConsignmentOverdue{}
		var due time.Time
		if err := rows.Scan(&e.OrderId, &e.MerchantId, &due); err != nil {
			return err
		}
		e.DueBy = timestamppb.New(due)
		return tx.Publish(e)
	})
}

// each reads rows to their end.
func each(rows *sql.Rows, err error, read func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

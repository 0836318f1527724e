package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/proto/entrepot/order/v1/orderv1connect"
	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/proto/entrepot/warehouse/v1/warehousev1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/saga"
	"github.com/entrepot/entrepot/sdk/store"
)

// The sagas of edits differ by what they need further: nothing, stock, or both.
// Money alone is never needed: only more of something costs more. Up to the
// change of the order everything is undone when a step is refused; after it they
// only go forward: what is left is to give back and to send.
var (
	editSaga      = defineEdit("edit")
	editStockSaga = defineEdit("edit-stock", stockStep)
	editBothSaga  = defineEdit("edit-both", stockStep, moneyStep)

	stockStep = saga.Step{
		Name: "reserve", Do: warehousev1connect.StockServiceReserveStockProcedure, Undo: warehousev1connect.StockServiceReleaseReservationProcedure,
	}
	moneyStep = saga.Step{
		Name: "authorize", Do: paymentv1connect.PaymentServiceAuthorizePaymentProcedure, Undo: paymentv1connect.PaymentServiceReversePaymentProcedure,
	}
)

func defineEdit(name string, needs ...saga.Step) *saga.Definition {
	return saga.Define(name, 1, slices.Concat(
		[]saga.Step{{Name: "open", Undo: orderv1connect.OrderEditStepServiceRefuseEditProcedure}},
		needs,
		[]saga.Step{
			{Name: "apply", Do: orderv1connect.OrderEditStepServiceApplyEditProcedure, Kind: saga.Pivot, TimeoutSeconds: 30},
			{Name: "settle", Do: orderv1connect.OrderEditStepServiceSettleOrderProcedure, Kind: saga.Retriable, TimeoutSeconds: 60},
			{Name: "finish", Do: orderv1connect.OrderEditStepServiceFinishEditProcedure, Kind: saga.Retriable},
		})...)
}

// AcceptEdit agrees for the caller's side, and makes the edit when that was
// the last.
func (s *service) AcceptEdit(ctx context.Context, req *orderv1.AcceptEditRequest) (*orderv1.AcceptEditResponse, error) {
	var e *edit
	var o *order
	var started *saga.Started
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		started = nil
		if o, e, err = s.lockEdit(ctx, tx, req.GetEditId(), req.GetCartSecret()); err != nil {
			return err
		}
		started, err = s.agree(ctx, tx, o, e, s.side(ctx, o, req.GetCartSecret()), req.GetPaymentMethodToken())
		return err
	})
	if err != nil {
		return nil, err
	}
	switch {
	case started != nil:
		if err = s.host.RunSaga(ctx, started); err != nil {
			err = s.recordShort(ctx, err, e.wanted(o))
		}
	case e.state == orderv1.OrderEdit_STATE_APPLYING:
		err = s.host.AwaitSaga(ctx, e.saga)
	}
	if err != nil {
		return nil, err
	}
	if e, err = readEdit(ctx, s.db, e.id); err != nil {
		return nil, store.Wrap(err)
	}
	return &orderv1.AcceptEditResponse{Edit: s.shown(ctx, o, e, req.GetCartSecret())}, nil
}

// agree takes a side's word, and starts the saga with the last one.
func (s *service) agree(ctx context.Context, tx *store.Tx, o *order, e *edit, side, token string) (*saga.Started, error) {
	switch e.state {
	case orderv1.OrderEdit_STATE_PROPOSED:
	case orderv1.OrderEdit_STATE_APPLYING, orderv1.OrderEdit_STATE_APPLIED:
		return nil, nil
	default:
		return nil, errEnded()
	}
	switch {
	case e.version != o.edits:
		return nil, fault.New(connect.CodeFailedPrecondition, "EDIT_STALE", "the order was changed since this was proposed; propose it anew")
	case o.editID != "" || slices.ContainsFunc(o.consignments, func(c consignment) bool { return c.State == orderv1.Consignment_STATE_ACCEPTING }):
		return nil, fault.Retry(fault.New(connect.CodeAborted, "ORDER_BUSY", "another change of the order is under way; try again"), 200*time.Millisecond)
	}
	// Whom it concerns may have begun to work on it since.
	for _, m := range e.parties(o, e.proposedBy) {
		if !slices.Contains(e.asked, m) {
			e.asked, e.awaits = append(e.asked, m), append(e.awaits, m)
		}
	}
	if !slices.Contains(e.awaits, side) {
		return nil, nil // has agreed, or is not asked
	}
	if err := o.editable(ctx, tx, e, nil); err != nil {
		return nil, err
	}
	if err := e.behind(ctx, tx, o.market); err != nil {
		return nil, err
	}
	before, _, err := o.settled(ctx, tx)
	if err != nil {
		return nil, err
	}
	if e.plan, err = planEdit(o, before, e); err != nil {
		return nil, err
	}
	if side == consumerSide {
		if e.plan.further > 0 && token == "" {
			return nil, fault.New(connect.CodeFailedPrecondition, "PAYMENT_METHOD_REQUIRED", "it costs more: name a means of payment")
		}
		e.methodToken = token
	}
	e.awaits = slices.DeleteFunc(e.awaits, func(m string) bool { return m == side })
	if len(e.awaits) > 0 {
		return nil, e.agreeing(ctx, tx)
	}
	if e.plan.further > 0 && e.methodToken == "" {
		e.awaits = []string{consumerSide}
		return nil, e.agreeing(ctx, tx)
	}
	return s.startEdit(ctx, tx, o, e)
}

// agreeing stores who has agreed so far.
func (e *edit) agreeing(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Do(ctx, `WITH e AS (UPDATE order_edit SET awaits = $2, asked = $5, method_token = $3 WHERE id = $1 RETURNING order_id)
		INSERT INTO timeline (order_id, what, who) SELECT order_id, 'edit.agreed', $4 FROM e`,
		e.id, e.awaits, e.methodToken, call.From(ctx).Principal.String(), e.asked)
	return err
}

func (s *service) startEdit(ctx context.Context, tx *store.Tx, o *order, e *edit) (*saga.Started, error) {
	p := e.plan
	settle, err := p.settle(o.id)
	if err != nil {
		return nil, err
	}
	requests := saga.Requests{
		"open.undo": &orderv1.RefuseEditRequest{EditId: e.id},
		"apply":     &orderv1.ApplyEditRequest{EditId: e.id},
		"settle":    settle,
		"finish":    &orderv1.FinishEditRequest{EditId: e.id},
	}
	def := editSaga
	if len(p.reserve.GetLines()) > 0 {
		def = editStockSaga
		requests["reserve"] = p.reserve
		requests["reserve.undo"] = &warehousev1.ReleaseReservationRequest{ReservationId: p.reserve.GetReservationId(), Reason: "edit refused"}
	}
	if p.further > 0 {
		def = editBothSaga
		requests["authorize"] = &paymentv1.AuthorizePaymentRequest{
			PaymentId: p.paymentID, Reference: o.id, Amount: money(o.currency, p.further), MethodToken: e.methodToken, Market: o.market,
		}
		requests["authorize.undo"] = &paymentv1.ReversePaymentRequest{PaymentId: p.paymentID, Reason: "edit refused"}
	}
	started, err := tx.StartSaga(call.With(ctx, inMarket(call.From(ctx), o.market)), def, e.id, requests)
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	tx.CancelTimer(e.id)
	_, err = tx.Do(ctx, `WITH e AS (UPDATE order_edit SET state = 2, awaits = '{}', method_token = '', plan = $2, saga = $3::uuid WHERE id = $1 RETURNING id, order_id),
		o AS (UPDATE orders SET edit_id = e.id FROM e WHERE orders.id = e.order_id)
		INSERT INTO timeline (order_id, what, who) SELECT order_id, 'edit.accepted', $4 FROM e`, e.id, string(doc), started.ID, call.From(ctx).Principal.String())
	return started, err
}

// ApplyEdit stops what the warehouse does about goods that go, and changes the
// order. A stop that is refused is taken back for those stopped before it.
func (s *service) ApplyEdit(ctx context.Context, req *orderv1.ApplyEditRequest) (*orderv1.ApplyEditResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	var refusal error
	e, err := readEdit(ctx, s.db, req.GetEditId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	if e.state == orderv1.OrderEdit_STATE_APPLYING {
		if refusal, err = s.halt(ctx, e); err != nil {
			return nil, err
		}
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.ApplyEditResponse, error) {
		if refusal != nil {
			return nil, refusal
		}
		o, e, err := lockEdit(ctx, tx, req.GetEditId())
		if err != nil {
			return nil, err
		}
		if o.editID != e.id || e.plan == nil {
			return nil, fmt.Errorf("order %s is not being edited by %s", o.id, e.id)
		}
		// What was stopped is not packed any more, though its event is still to
		// come; of the others this module's picture says.
		if err := o.editable(ctx, tx, e, e.less()); err != nil {
			return nil, err
		}
		return &orderv1.ApplyEditResponse{}, o.change(ctx, tx, e)
	})
}

// halt has the warehouse stop the requests that hold goods which go. refusal
// is its word that it is too late.
func (s *service) halt(ctx context.Context, e *edit) (refusal, err error) {
	for i, request := range e.plan.Halts {
		_, err := s.floor.CancelFulfilment(ctx, &warehousev1.CancelFulfilmentRequest{Reference: e.orderID, RequestId: request, Reason: "order edited"})
		if err == nil {
			continue
		}
		if connect.CodeOf(err) != connect.CodeFailedPrecondition {
			return nil, err
		}
		return fault.New(connect.CodeFailedPrecondition, "PACKED", "a carrier has some of these goods; return them when they have come"),
			s.goOn(ctx, e, e.plan.Halts[:i])
	}
	return nil, nil
}

// goOn asks the warehouse again for requests that were stopped in vain.
func (s *service) goOn(ctx context.Context, e *edit, stopped []string) error {
	if len(stopped) == 0 {
		return nil
	}
	var o *order
	var st *settlement
	var again []string
	err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		if o, _, err = lockEdit(ctx, tx, e.id); err != nil {
			return err
		}
		if st, _, err = o.settled(ctx, tx); err != nil {
			return err
		}
		again = nil
		for _, request := range stopped {
			st.rename(request, e.plan.Back[request])
			again = append(again, e.plan.Back[request])
		}
		return st.write(ctx, tx, o.id)
	})
	if err != nil {
		return err
	}
	for _, c := range st.requests(o, again) {
		if err := s.ask(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// change writes what the order is with an edit.
func (o *order) change(ctx context.Context, tx *store.Tx, e *edit) error {
	o.lines = e.plan.Lines
	n := len(o.lines)
	skus, merchants, titles := make([]string, n), make([]string, n), make([]string, n)
	quantities, units, weights := make([]int64, n), make([]int64, n), make([]int32, n)
	authenticated, codes, origins := make([]bool, n), make([]string, n), make([]string, n)
	for i, l := range o.lines {
		skus[i], merchants[i], titles[i], quantities[i], units[i] = l.SKU, l.Merchant, l.Title, l.Quantity, l.Unit
		authenticated[i], weights[i], codes[i], origins[i] = l.Authenticated, l.Weight, l.HSCode, l.Origin
	}
	for _, st := range []struct {
		sql  string
		args []any
	}{
		{`DELETE FROM order_line WHERE order_id = $1`, []any{o.id}},
		{`INSERT INTO order_line (order_id, n, sku, merchant, title, quantity, unit, total, authenticated, weight, hs_code, origin)
		  SELECT $1, u.n, u.sku, u.merchant, u.title, u.quantity, u.unit, u.quantity * u.unit, u.authenticated, u.weight, u.hs_code, u.origin
		    FROM ROWS FROM (unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::bigint[]), unnest($6::bigint[]),
		              unnest($7::boolean[]), unnest($8::int[]), unnest($9::text[]), unnest($10::text[]))
		      WITH ORDINALITY u(sku, merchant, title, quantity, unit, authenticated, weight, hs_code, origin, n)`,
			[]any{o.id, skus, merchants, titles, quantities, units, authenticated, weights, codes, origins}},
		{`DELETE FROM consignment c WHERE c.order_id = $1 AND NOT EXISTS (SELECT FROM order_line l WHERE l.order_id = $1 AND l.merchant = c.merchant)`, []any{o.id}},
		{`INSERT INTO consignment (order_id, merchant, total, due_at)
		  SELECT $1, l.merchant, sum(l.total), now() + coalesce((SELECT h.hours FROM handling h WHERE h.merchant = l.merchant), 48) * interval '1 hour'
		    FROM order_line l WHERE l.order_id = $1 GROUP BY l.merchant
		  ON CONFLICT (order_id, merchant) DO UPDATE SET total = excluded.total`, []any{o.id}},
		{`UPDATE orders o SET total = (SELECT sum(c.total) FROM consignment c WHERE c.order_id = o.id), edits = o.edits + 1,
		    ship_to_ref = coalesce(nullif($2, ''), o.ship_to_ref), carrier = coalesce(nullif($3, ''), o.carrier) WHERE o.id = $1`, []any{o.id, e.shipToRef, e.carrier}},
		{`INSERT INTO timeline (order_id, what, who, note) VALUES ($1, 'order.edited', $2, $3)`,
			[]any{o.id, e.proposedBy, amount(money(o.currency, e.difference()))}},
	} {
		if _, err := tx.Do(ctx, st.sql, st.args...); err != nil {
			return err
		}
	}
	if err := e.plan.After.write(ctx, tx, o.id); err != nil {
		return err
	}
	return follow(ctx, tx, o.id)
}

// RefuseEdit is what a refused edit ends with.
func (s *service) RefuseEdit(ctx context.Context, req *orderv1.RefuseEditRequest) (*orderv1.RefuseEditResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.RefuseEditResponse, error) {
		_, err := tx.Do(ctx, `WITH o AS (UPDATE orders SET edit_id = '' WHERE edit_id = $1 RETURNING id),
			e AS (UPDATE order_edit SET state = 6 FROM o WHERE order_edit.id = $1 RETURNING order_id)
			INSERT INTO timeline (order_id, what, who) SELECT order_id, 'edit.refused', 'system' FROM e`, req.GetEditId())
		return &orderv1.RefuseEditResponse{}, err
	})
}

// SettleOrder makes the calls that an order's change has led to. Each has an
// id of its own: one that was made is answered, not made again.
func (s *service) SettleOrder(ctx context.Context, req *orderv1.SettleOrderRequest) (*orderv1.SettleOrderResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	for _, c := range req.GetCalls() {
		m, err := c.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		if err := s.ask(ctx, m); err != nil {
			return nil, fmt.Errorf("%s: %w", c.GetTypeUrl(), err)
		}
	}
	return store.Mutate(ctx, s.db, req, func(context.Context, *store.Tx) (*orderv1.SettleOrderResponse, error) {
		return &orderv1.SettleOrderResponse{}, nil
	})
}

// FinishEdit is the end of an edit.
func (s *service) FinishEdit(ctx context.Context, req *orderv1.FinishEditRequest) (*orderv1.FinishEditResponse, error) {
	if err := onlyInSaga(ctx); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*orderv1.FinishEditResponse, error) {
		o, e, err := lockEdit(ctx, tx, req.GetEditId())
		if err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, `WITH o AS (UPDATE orders SET edit_id = '' WHERE edit_id = $1),
			e AS (UPDATE order_edit SET state = 3 WHERE id = $1 RETURNING order_id)
			INSERT INTO timeline (order_id, what, who) SELECT order_id, 'edit.settled', 'system' FROM e`, e.id); err != nil {
			return nil, err
		}
		out := &orderv1.OrderEdited{
			OrderId: o.id, EditId: e.id, Market: o.market, Total: money(o.currency, o.total), Difference: money(o.currency, e.difference()),
			Lines: linesProto(o.currency, o.lines), ShipToRef: o.shipToRef,
		}
		if n := len(e.plan.After.Payments); n > 1 && e.plan.After.Payments[n-1].ID == e.payment() {
			out.PaymentId = e.payment()
		}
		return &orderv1.FinishEditResponse{}, tx.Publish(out)
	})
}

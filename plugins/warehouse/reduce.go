package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// giveShelf puts what a reservation no longer holds back on the merchant's
// shelf in its market, unless the merchant has said since what is to stand
// there.
const giveShelf = `UPDATE stock_policy p SET on_shelf = p.on_shelf + u.n, version = p.version + 1 FROM reservation r, ROWS FROM (unnest($2::text[]), unnest($3::bigint[])) u(sku, n)
  WHERE r.id = $1 AND r.market <> '' AND p.sku = u.sku AND p.market = r.market AND p.on_shelf IS NOT NULL AND p.set_at <= r.created_at
 RETURNING ` + policyColumns

// ReduceReservation gives a part of what is reserved back.
func (s *service) ReduceReservation(ctx context.Context, req *warehousev1.ReduceReservationRequest) (*warehousev1.ReduceReservationResponse, error) {
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReduceReservationResponse, error) {
		res := &warehousev1.ReduceReservationResponse{}
		made, err := tx.Do(ctx, `INSERT INTO reservation_reduction (id, reservation_id) SELECT $1, r.id FROM reservation r WHERE r.id = $2 ON CONFLICT DO NOTHING`,
			req.GetReductionId(), req.GetReservationId())
		if err != nil {
			return nil, err
		}
		if n, err := made.RowsAffected(); err != nil || n == 0 {
			return res, reducedBefore(ctx, tx, req)
		}
		// Who takes goods over locks the reservation too.
		if _, err := tx.Do(ctx, `SELECT FROM reservation WHERE id = $1 FOR NO KEY UPDATE`, req.GetReservationId()); err != nil {
			return nil, err
		}
		held, err := readHeld(ctx, tx, req.GetReservationId())
		if err != nil {
			return nil, err
		}
		back, err := reduced(req, held)
		if err != nil {
			return nil, err
		}
		levels, err := post(ctx, tx, way{reason: "release", from: "reserved", to: "sellable"}, back...)
		if err != nil {
			return nil, err
		}
		skus, quantities := make([]string, len(req.GetLines())), make([]int64, len(req.GetLines()))
		for i, l := range req.GetLines() {
			skus[i], quantities[i] = l.GetSku(), l.GetQuantity()
		}
		var after shelves
		rows, err := tx.Rows(ctx, giveShelf, req.GetReservationId(), skus, quantities)
		if err := scan(rows, err, after.scan); err != nil {
			return nil, err
		}
		// A copy of the levels wants to know; the reservation itself goes on.
		return res, tx.Publish(&warehousev1.ReservationReleased{ReservationId: req.GetReservationId(), Levels: levels, Policies: after})
	})
}

// reducedBefore answers a repetition, and refuses what was never reserved.
func reducedBefore(ctx context.Context, tx *store.Tx, req *warehousev1.ReduceReservationRequest) error {
	var reservation string
	err := tx.Row(ctx, `SELECT reservation_id FROM reservation_reduction WHERE id = $1`, req.GetReductionId()).Scan(&reservation)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fault.New(connect.CodeFailedPrecondition, "NOT_RESERVED", "there is no such reservation")
	case err == nil && reservation != req.GetReservationId():
		return fault.New(connect.CodeAlreadyExists, "REDUCTION_DIFFERS", "this reduction is of something else; take another id")
	}
	return err
}

// reduced chooses what goes back: what would have gone out last.
func reduced(req *warehousev1.ReduceReservationRequest, held []heldLine) ([]goods, error) {
	var back []goods
	seen := make(map[string]bool)
	for _, l := range req.GetLines() {
		if seen[l.GetSku()] {
			return nil, fault.Field("lines", "each sku once")
		}
		seen[l.GetSku()] = true
		want := l.GetQuantity()
		for _, h := range slices.Backward(held) {
			if n := min(want, h.quantity); h.sku == l.GetSku() && n > 0 {
				want -= n
				back = append(back, goods{
					key: key{sku: h.sku, site: h.site, lot: h.lot, authenticated: h.authenticated}, quantity: n, reference: req.GetReservationId(),
				})
			}
		}
		if want > 0 {
			return nil, fault.New(connect.CodeFailedPrecondition, "NOT_RESERVED", "the reservation does not hold as much", "sku", l.GetSku())
		}
	}
	slices.SortFunc(back, inOrder)
	return back, nil
}

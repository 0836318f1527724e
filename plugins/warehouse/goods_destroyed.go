package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// Goods that were destroyed are gone, whatever the books say of them: between
// the order and the deed they may have been sent back, decided on or counted
// otherwise. The saga that writes them off can undo nothing, so a refusal
// would leave it standing for ever. What the books have of them where that can
// be is written off from there; the rest is told.

// writable are the dispositions that a destruction is written off from.
var writable = []string{"inspecting", "suspect", "damaged", "defective", "repair", "expired", "recalled"}

// writeOff is one destruction.
type writeOff struct {
	*warehousev1.RefuseGoodsRequest
	moved int64
	rest  []string // serials that were not found
}

func (s *service) writeOff(ctx context.Context, tx *store.Tx, req *warehousev1.RefuseGoodsRequest) (*warehousev1.RefuseGoodsResponse, error) {
	// No sku is asked for: of one that nobody has said whose it is, the books
	// have nothing.
	first, err := firstTime(ctx, tx, "refusal", req.GetCaseId()+" destroyed", "", req, nil)
	if err != nil && fault.Reason(err) != "REFUSAL_DIFFERS" {
		return nil, err
	}
	w := &writeOff{RefuseGoodsRequest: req, rest: req.GetUnitIds()}
	if !first {
		// Destroyed is destroyed, also by another order.
		err := tx.Row(ctx, `SELECT coalesce(sum(quantity), 0)::bigint FROM stock_move WHERE reference = $1 AND sku = $2 AND to_disposition = 'destroyed'
			AND reason = 'refusal'`, w.document(), req.GetSku()).Scan(&w.moved)
		return &warehousev1.RefuseGoodsResponse{Moved: w.moved}, err
	}
	if err := w.find(ctx, tx); err != nil {
		return nil, err
	}
	if left := req.GetQuantity() - w.moved; left > 0 {
		if err := tx.Publish(&warehousev1.DestructionUnmatched{
			CaseId: req.GetCaseId(), Sku: req.GetSku(), Lot: req.GetLot(), Quantity: left, UnitIds: w.rest, Site: site(req.GetSite()), Reference: req.GetReference(),
		}); err != nil {
			return nil, err
		}
	}
	return &warehousev1.RefuseGoodsResponse{Moved: w.moved}, nil
}

func (w *writeOff) document() string { return cmp.Or(w.GetReference(), w.GetCaseId()) }

// find writes goods off from where the case has them, or where a decision sent
// them since, or where their serials stand.
func (w *writeOff) find(ctx context.Context, tx *store.Tx) error {
	at, err := stands(ctx, tx, w.GetCaseId(), w.GetSite(), w.GetSku(), w.GetLot(), w.GetQuantity(), w.GetUnitIds())
	switch {
	case err == nil:
		if ok, err := w.whole(ctx, tx, at.goods(w.document(), w.GetQuantity(), w.GetUnitIds()), at.disposition); err != nil {
			return err
		} else if ok {
			if at.known {
				return at.settle(ctx, tx, w.GetCaseId(), "destroyed")
			}
			return nil
		}
	case fault.Reason(err) == "CASE_ENDED" && at.grading != "":
		if done, err := w.decided(ctx, tx, &at); err != nil || done {
			return err
		}
	case !isRefusal(err):
		return err
	}
	// Where serials are another good's, or none, nothing tells where they are.
	if !at.known || at.authenticated {
		if err := w.bySerial(ctx, tx); err != nil || !at.known {
			return err
		}
	}
	// Whatever was found: nothing else is to come of this inspection.
	_, err = tx.Do(ctx, `UPDATE inspected SET ended = true WHERE case_id = $1 AND NOT ended`, w.GetCaseId())
	return err
}

// isRefusal tells whether asking again would be answered alike.
func isRefusal(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeFailedPrecondition, connect.CodeInvalidArgument, connect.CodeNotFound:
		return true
	}
	return false
}

// whole posts all of it from one place, or nothing where the ledger refuses.
func (w *writeOff) whole(ctx context.Context, tx *store.Tx, g goods, from string) (bool, error) {
	if _, err := tx.Do(ctx, `SAVEPOINT whole`); err != nil {
		return false, err
	}
	levels, err := post(ctx, tx, way{reason: "refusal", from: from, to: "destroyed"}, g)
	if err != nil && !isRefusal(err) {
		return false, err
	}
	end := `RELEASE SAVEPOINT whole`
	if err != nil {
		end = `ROLLBACK TO SAVEPOINT whole`
	}
	if _, serr := tx.Do(ctx, end); serr != nil || err != nil {
		return false, serr
	}
	e := &warehousev1.StockMoved{
		MoveId: w.GetCaseId(), From: dispositions[from], To: w.GetTo(), Quantity: g.quantity, UnitIds: w.GetUnitIds(), Levels: levels,
	}
	left := []string(nil)
	if len(g.units) > 0 {
		e.Quantity, e.UnitIds = int64(len(g.units)), g.units
		left = slices.DeleteFunc(slices.Clone(w.rest), func(u string) bool { return slices.Contains(g.units, u) })
	}
	w.moved, w.rest = w.moved+e.GetQuantity(), left
	return true, tx.Publish(e)
}

// decided writes off goods of a return that were decided on since, from where
// that sent them. An inspection that was asked for since has none of them.
func (w *writeOff) decided(ctx context.Context, tx *store.Tx, at *standing) (bool, error) {
	if _, err := lockReturn(ctx, tx, at.returned); err != nil {
		return false, err
	}
	g := goods{key: at.key, reference: w.document()}
	var from string
	err := tx.Row(ctx, `SELECT sku, lot, authenticated, quantity, to_jsonb(units), disposition FROM return_grading WHERE id = $1`, at.grading).
		Scan(&g.sku, &g.lot, &g.authenticated, &g.quantity, fromJSON{&g.units}, &from)
	if !g.authenticated {
		g.units = nil
	}
	if err != nil || !slices.Contains(writable, from) || g.sku != w.GetSku() || g.quantity != w.GetQuantity() {
		return false, err
	}
	if ok, err := w.whole(ctx, tx, g, from); err != nil || !ok {
		return false, err
	}
	if _, err := tx.Do(ctx, `UPDATE inspected SET ended = true, disposition = 'destroyed' WHERE grading_id = $1 AND NOT ended`, at.grading); err != nil {
		return false, err
	}
	return true, settled(ctx, tx, at.grading, "destroyed", "")
}

// bySerial writes off serials from where they stand, but for those that are
// another return's to decide on.
func (w *writeOff) bySerial(ctx context.Context, tx *store.Tx) error {
	if len(w.GetUnitIds()) == 0 {
		return nil
	}
	if err := lock(ctx, tx, []string{w.GetSku()}); err != nil {
		return err
	}
	places := make(map[string][]goods)
	rows, err := tx.Rows(ctx, `SELECT x.unit, x.site, x.lot, x.disposition FROM stock_unit x WHERE x.unit = ANY ($1) AND x.sku = $2 AND x.disposition = ANY ($3)
		AND NOT EXISTS (SELECT FROM return_grading g WHERE g.units @> ARRAY[x.unit] AND g.disposition NOT IN ('external', 'receiving', 'destroyed', 'disposed'))
		ORDER BY x.site, x.lot, x.unit`, w.GetUnitIds(), w.GetSku(), writable)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		var unit, from string
		g := goods{key: key{sku: w.GetSku(), authenticated: true}, reference: w.document(), quantity: 1}
		err := rows.Scan(&unit, &g.site, &g.lot, &from)
		g.units = []string{unit}
		places[from] = append(places[from], g)
		return err
	}); err != nil {
		return err
	}
	for _, from := range writable {
		for _, g := range summed(places[from]) {
			if ok, err := w.whole(ctx, tx, g, from); err != nil {
				return err
			} else if !ok {
				return errors.New("a serial stands elsewhere than its own row says")
			}
		}
	}
	return nil
}

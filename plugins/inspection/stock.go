package main

import (
	"context"
	"strings"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// onStockMoved hears what left the warehouse's books other than by a sale or by
// a verdict: a count that missed serials, a decision about returned goods. What
// a verdict sends away is moved when its case closes.
func (s *service) onStockMoved(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.StockMoved]) error {
	b := e.Body
	left := b.GetTo() == warehousev1.Disposition_DISPOSITION_EXTERNAL || b.GetTo() == warehousev1.Disposition_DISPOSITION_DISPOSED
	switch b.GetFrom() {
	case warehousev1.Disposition_DISPOSITION_INSPECTING, warehousev1.Disposition_DISPOSITION_SUSPECT:
		return nil
	}
	if !left || len(b.GetUnitIds()) == 0 {
		return nil
	}
	units, err := unheard(ctx, tx, b.GetUnitIds(), b.GetMoveId())
	if err != nil || len(units) == 0 {
		return err
	}
	// The return may not have been heard of yet.
	if b.GetReference() != "" {
		if units, err = s.cameBack(ctx, tx, units, b.GetReference(), "", false); err != nil {
			return err
		}
	}
	var here []*unit
	for _, u := range units {
		// What has moved on is left alone.
		if kindOf(u.holder) == atWarehouse {
			here = append(here, u)
		}
	}
	if len(here) == 0 {
		return nil
	}
	st := step{document: b.GetMoveId()}
	switch {
	case b.GetTo() == warehousev1.Disposition_DISPOSITION_DISPOSED:
		st.bizStep, st.disposition, st.holder = "collecting", "disposed", nobody
	case b.GetFrom() == warehousev1.Disposition_DISPOSITION_SELLABLE:
		// Nobody knows who has it. Whoever does shall not show a certificate.
		st.bizStep, st.disposition, st.holder = "cycle_counting", missing, nobody
		if err := s.revokeCertificates(ctx, tx, ids(here), "LOST"); err != nil {
			return err
		}
	default:
		return s.carry(ctx, tx, toMerchants(here, b.GetMoveId())...)
	}
	return s.carry(ctx, tx, byHolder(here, st)...)
}

// toMerchants are the steps by which units go back to whose they are.
func toMerchants(units []*unit, document string) (out []step) {
	of := make(map[string][]*unit)
	var order []string
	for _, u := range units {
		if of[u.merchant] == nil {
			order = append(order, u.merchant)
		}
		of[u.merchant] = append(of[u.merchant], u)
	}
	for _, m := range order {
		out = append(out, byHolder(of[m], step{
			bizStep: "shipping", disposition: "returned", holder: atMerchant + "/" + m, document: document,
		})...)
	}
	return out
}

// onDestructionUnmatched hears that the books did not have goods that were
// destroyed: it stands with the destruction, for a person to look into.
func (s *service) onDestructionUnmatched(ctx context.Context, tx *store.Tx, e event.Of[*warehousev1.DestructionUnmatched]) error {
	done, err := tx.Do(ctx, `UPDATE destruction SET unmatched = $2 WHERE case_id = $1 AND state > 1 AND unmatched <> $2`, e.Body.GetCaseId(), e.Body.GetQuantity())
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return note(ctx, tx, e.Body.GetCaseId(), "unmatched", strings.Join(e.Body.GetUnitIds(), " "))
}

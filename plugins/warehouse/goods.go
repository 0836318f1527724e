package main

import (
	"cmp"
	"context"
	"strconv"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// standing is where the goods of a case stand, as the warehouse knows it: it
// asked for the inspection itself, or never heard of these goods.
type standing struct {
	known bool
	ended bool
	key
	disposition string
	quantity    int64
	// returned is the return that they are of, if any, and grading of its
	// gradings which.
	returned, grading string
	// heard is for how much of the asked goods the inspection's word has come.
	heard int64
}

const whereStands = `SELECT i.case_id IS NOT NULL, coalesce(i.ended, false), coalesce(i.sku, $2), coalesce(i.site, u.site, $5), coalesce(i.lot, $3),
  coalesce(i.authenticated, $4::text[] <> '{""}'), coalesce(i.disposition, u.disposition, 'inspecting'), coalesce(i.quantity, $6),
  coalesce((SELECT r.id FROM rma r WHERE r.id = i.reference), ''), coalesce(i.grading_id, ''),
  (SELECT coalesce(sum(p.quantity), 0)::bigint FROM pass p WHERE p.case_id = $1 AND p.sku = $2 AND p.lot = $3 AND p.unit = ANY ($4::text[]) AND NOT p.revoked)
 FROM (SELECT) one LEFT JOIN inspected i ON i.case_id = $1 LEFT JOIN stock_unit u ON i.case_id IS NULL AND u.unit = ($4::text[])[1]`

// stands tells where the goods of a case stand, which the request must not
// contradict.
func stands(ctx context.Context, tx *store.Tx, caseID, at, sku, lot string, quantity int64, units []string) (standing, error) {
	named := units
	if len(named) == 0 {
		named = []string{""}
	}
	var w standing
	err := tx.Row(ctx, whereStands, caseID, sku, lot, named, site(at), quantity).
		Scan(&w.known, &w.ended, &w.sku, &w.site, &w.lot, &w.authenticated, &w.disposition, &w.quantity, &w.returned, &w.grading, &w.heard)
	switch {
	case err != nil:
		return w, err
	case w.ended:
		return w, fault.New(connect.CodeFailedPrecondition, "CASE_ENDED", "these goods are this inspection's no more", "stands", w.disposition)
	case w.sku != sku || w.lot != lot || w.quantity != quantity:
		return w, caseDiffers(&w)
	case w.returned != "":
		// Before what stands in the ledger: everybody locks in this order.
		_, err = lockReturn(ctx, tx, w.returned)
	}
	return w, err
}

func caseDiffers(w *standing) error {
	return fault.New(connect.CodeFailedPrecondition, "CASE_DIFFERS", "the warehouse asked this inspection about other goods",
		"sku", w.sku, "lot", w.lot, "quantity", strconv.FormatInt(w.quantity, 10), "stands", w.disposition)
}

// goods are the case's goods in the ledger: by their serials where it knows
// those.
func (w *standing) goods(reference string, quantity int64, units []string) goods {
	if !w.authenticated {
		units = nil
	}
	return goods{key: w.key, quantity: quantity, units: units, reference: reference}
}

// AdmitGoods takes goods that passed into receiving. The ledger spends the
// inspection's pass in the same statement; it knows no other way.
func (s *service) AdmitGoods(ctx context.Context, req *warehousev1.AdmitGoodsRequest) (*warehousev1.AdmitGoodsResponse, error) {
	units := req.GetUnitIds()
	if len(units) > 0 && int64(len(units)) != req.GetQuantity() {
		return nil, fault.Field("unit_ids", "as many as the quantity")
	}
	named := &lots{}
	if err := named.add("expires_on", req.GetSku(), req.GetLot(), req.GetExpiresOn()); err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.AdmitGoodsResponse, error) {
		res := &warehousev1.AdmitGoodsResponse{}
		first, err := firstTime(ctx, tx, "admission", req.GetCaseId(), "", req, []string{req.GetSku()})
		if err != nil || !first {
			return res, err
		}
		w, err := stands(ctx, tx, req.GetCaseId(), req.GetSite(), req.GetSku(), req.GetLot(), req.GetQuantity(), units)
		switch {
		case err != nil:
			return nil, err
		case w.heard < req.GetQuantity():
			return nil, notHeard()
		case req.GetFrom() == warehousev1.Disposition_DISPOSITION_INSPECTING:
		case w.known:
			return nil, caseDiffers(&w)
		default:
			w.site, w.disposition = site(req.GetSite()), "external"
		}
		if err := named.note(ctx, tx); err != nil {
			return nil, err
		}
		levels, err := post(ctx, tx, way{reason: "admission", from: w.disposition, to: "receiving", caseID: req.GetCaseId()},
			w.goods(cmp.Or(req.GetReference(), req.GetCaseId()), req.GetQuantity(), units))
		if err != nil {
			return nil, err
		}
		if m := levels[0].GetMerchantId(); req.GetMerchantId() != "" && m != req.GetMerchantId() {
			return nil, skuUnknown(connect.CodeFailedPrecondition, req.GetSku())
		}
		if w.known {
			if err := w.settle(ctx, tx, req.GetCaseId(), "receiving"); err != nil {
				return nil, err
			}
		}
		return res, tx.Publish(&warehousev1.GoodsAdmitted{
			CaseId: req.GetCaseId(), MerchantId: levels[0].GetMerchantId(), Sku: req.GetSku(), Lot: req.GetLot(), Quantity: req.GetQuantity(),
			UnitIds: units, Site: w.site, Reference: req.GetReference(),
		})
	})
}

// refusedTo are the ends of goods that did not pass.
var refusedTo = map[warehousev1.Disposition]string{
	warehousev1.Disposition_DISPOSITION_EXTERNAL:  "external",
	warehousev1.Disposition_DISPOSITION_DAMAGED:   "damaged",
	warehousev1.Disposition_DISPOSITION_DESTROYED: "destroyed",
	warehousev1.Disposition_DISPOSITION_REPAIR:    "repair",
}

// RefuseGoods moves goods that did not pass out of inspection; destruction may
// come after, from where they stood since, and is never refused.
func (s *service) RefuseGoods(ctx context.Context, req *warehousev1.RefuseGoodsRequest) (*warehousev1.RefuseGoodsResponse, error) {
	units, to := req.GetUnitIds(), refusedTo[req.GetTo()]
	if len(units) > 0 && int64(len(units)) != req.GetQuantity() {
		return nil, fault.Field("unit_ids", "as many as the quantity")
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.RefuseGoodsResponse, error) {
		if to == "destroyed" {
			return s.writeOff(ctx, tx, req)
		}
		res := &warehousev1.RefuseGoodsResponse{Moved: req.GetQuantity()}
		first, err := firstTime(ctx, tx, "refusal", req.GetCaseId()+" "+to, "", req, []string{req.GetSku()})
		if err != nil || !first {
			return res, err
		}
		w, err := stands(ctx, tx, req.GetCaseId(), req.GetSite(), req.GetSku(), req.GetLot(), req.GetQuantity(), units)
		if err != nil {
			return nil, err
		}
		levels, err := post(ctx, tx, way{reason: "refusal", from: w.disposition, to: to},
			w.goods(cmp.Or(req.GetReference(), req.GetCaseId()), req.GetQuantity(), units))
		if err != nil {
			return nil, err
		}
		if w.known {
			if err := w.settle(ctx, tx, req.GetCaseId(), to); err != nil {
				return nil, err
			}
		}
		return res, tx.Publish(&warehousev1.StockMoved{
			MoveId: req.GetCaseId(), From: dispositions[w.disposition], To: req.GetTo(), Quantity: req.GetQuantity(), UnitIds: units, Levels: levels,
		})
	})
}

package main

import (
	"context"
	"database/sql"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// nameOf is the ledger's name of a disposition.
func nameOf(d warehousev1.Disposition) string {
	for name, n := range dispositions {
		if n == d {
			return name
		}
	}
	return ""
}

// MoveStock changes the disposition of goods on the floor. What is in doubt
// from then on is inspected.
func (s *service) MoveStock(ctx context.Context, req *warehousev1.MoveStockRequest) (*warehousev1.MoveStockResponse, error) {
	if err := serials("", req.GetAuthenticated(), req.GetQuantity(), req.GetUnitIds()); err != nil {
		return nil, err
	}
	at := key{req.GetSku(), site(req.GetSite()), req.GetLot(), req.GetAuthenticated()}
	w := way{reason: "floor", from: nameOf(req.GetFrom()), to: nameOf(req.GetTo()), cause: req.GetCause()}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.MoveStockResponse, error) {
		first, err := firstTime(ctx, tx, "move", req.GetMoveId(), "", req, []string{req.GetSku()})
		if err != nil {
			return nil, err
		}
		if !first {
			levels, err := levelsOf(ctx, tx, "floor", req.GetMoveId())
			return &warehousev1.MoveStockResponse{Levels: levels}, err
		}
		levels, err := post(ctx, tx, w, goods{key: at, quantity: req.GetQuantity(), units: req.GetUnitIds(), reference: req.GetMoveId()})
		if err != nil {
			return nil, err
		}
		if w.to == "inspecting" || w.to == "suspect" {
			doubt := inspection{
				key: at, merchant: levels[0].GetMerchantId(), quantity: req.GetQuantity(), units: req.GetUnitIds(), disposition: w.to,
				reference: req.GetMoveId(), reason: "DOUBTED", market: call.From(ctx).Market,
			}
			if _, err := doubt.request(ctx, tx, "move/"+req.GetMoveId()); err != nil {
				return nil, err
			}
		}
		return &warehousev1.MoveStockResponse{Levels: levels}, tx.Publish(&warehousev1.StockMoved{
			MoveId: req.GetMoveId(), From: req.GetFrom(), To: req.GetTo(), Quantity: req.GetQuantity(), UnitIds: req.GetUnitIds(), Levels: levels,
		})
	})
}

// inspection is one that the warehouse asks for, of goods that stand in it.
type inspection struct {
	key
	merchant    string
	quantity    int64
	units       []string // as scanned, whether or not the ledger knows them there
	disposition string
	reference   string // return, or move of the doubt
	grading     string
	reason      string
	market      string
}

// request asks for it with the transaction, under a case id that follows from
// the document, and remembers where the goods wait.
func (i *inspection) request(ctx context.Context, tx *store.Tx, document string) (caseID string, err error) {
	caseID = id.Derive("cas", document)
	_, err = tx.Do(ctx, `INSERT INTO inspected (case_id, sku, site, lot, authenticated, quantity, disposition, reference, grading_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, caseID, i.sku, i.site, i.lot, i.authenticated, i.quantity, i.disposition, i.reference, i.grading)
	if err != nil {
		return "", err
	}
	return caseID, tx.Publish(&warehousev1.InspectionRequested{
		CaseId: caseID, MerchantId: i.merchant, Sku: i.sku, Lot: i.lot, Quantity: i.quantity, UnitIds: i.units, Site: i.site,
		Reference: i.reference, Reason: i.reason, Market: i.market,
	})
}

// GetUnitStock tells where serialised goods stand; what is not the caller's is
// left out.
func (s *service) GetUnitStock(ctx context.Context, req *warehousev1.GetUnitStockRequest) (*warehousev1.GetUnitStockResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	res := &warehousev1.GetUnitStockResponse{}
	rows, err := s.db.Rows(ctx, `SELECT u.unit, u.sku, u.site, u.lot, u.disposition, u.case_id FROM stock_unit u JOIN stock_item i ON i.sku = u.sku
		WHERE u.unit = ANY ($1) AND ($2 = '' OR i.merchant = $2) ORDER BY u.unit`, req.GetUnitIds(), merchant)
	err = scan(rows, err, func(rows *sql.Rows) error {
		u := &warehousev1.UnitStock{}
		var d string
		err := rows.Scan(&u.UnitId, &u.Sku, &u.Site, &u.Lot, &d, &u.CaseId)
		u.Disposition = dispositions[d]
		res.Units = append(res.Units, u)
		return err
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

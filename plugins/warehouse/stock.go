package main

import (
	"context"
	"database/sql"
	"errors"
	"maps"

	"connectrpc.com/connect/v2"
	"github.com/uptrace/bun"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// receive books a receipt with all its lines, or answers the skus that are
// not the merchant's. It answers nothing when the receipt is there.
const receive = `WITH strange AS MATERIALIZED (SELECT DISTINCT l.sku FROM unnest($4::text[]) l(sku)
  LEFT JOIN stock_item i ON i.sku = l.sku AND i.merchant = $1 WHERE i.sku IS NULL),
made AS (INSERT INTO receipt (merchant, id, site) SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM strange) ON CONFLICT DO NOTHING RETURNING id),
entry AS MATERIALIZED (SELECT p.* FROM made, post('receipt', 'external', 'sellable', $4, $5, $6, $7, '{}', $8, $9, '', '', $10) p)
SELECT true, e.* FROM entry e UNION ALL SELECT false, '', 0, '', s.sku, '', '', 0, 0, 0, 0, 0, 0, '', '', false FROM strange s`

// received is what the moves of a receipt say: the answer it had.
const received = entriesOf + ` WHERE m.reference = $2 AND m.merchant = $1 AND m.reason = 'receipt' AND m.to_disposition = 'sellable' ORDER BY m.id`

// entriesOf reads entries of the ledger as post answered them.
const entriesOf = `SELECT m.reference, m.quantity, m.unit, m.sku, m.site, m.merchant, m.after_sellable, m.after_reserved, m.after_quarantine, m.after_damaged,
  m.after_destroyed, m.version, m.lot, coalesce(l.expires_on::text, ''), m.authenticated
 FROM stock_move m LEFT JOIN stock_lot l ON l.sku = m.sku AND l.lot = m.lot`

// ReceiveStock books goods that arrived, each receipt of a merchant once.
func (s *service) ReceiveStock(ctx context.Context, req *warehousev1.ReceiveStockRequest) (*warehousev1.ReceiveStockResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	var arrived []goods
	var named lots
	for i, l := range req.GetLines() {
		if err := named.add(lineField(i), l.GetSku(), l.GetLot(), l.GetExpiresOn()); err != nil {
			return nil, err
		}
		arrived = append(arrived, goods{
			key: key{sku: l.GetSku(), site: site(req.GetSite()), lot: l.GetLot()}, quantity: l.GetQuantity(), reference: req.GetReceiptId(),
		})
	}
	arrived = summed(arrived)
	var e entries
	for _, g := range arrived {
		e.add(g)
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReceiveStockResponse, error) {
		if err := named.note(ctx, tx); err != nil {
			return nil, err
		}
		res := &warehousev1.ReceiveStockResponse{}
		var strange []string
		rows, err := tx.Rows(ctx, receive, merchant, req.GetReceiptId(), site(req.GetSite()), e.skus, e.sites, e.lots, e.authenticated, e.quantities,
			e.references, actor(ctx))
		if err := scan(rows, err, func(rows *sql.Rows) error {
			var known bool
			l := &warehousev1.StockLevel{}
			if err := rows.Scan(append([]any{&known}, posted(new(string), new(int64), l)...)...); err != nil {
				return err
			}
			if known {
				res.Levels = append(res.Levels, l)
			} else {
				strange = append(strange, l.GetSku())
			}
			return nil
		}); err != nil {
			return nil, err
		}
		switch {
		case len(strange) > 0:
			return nil, skuUnknown(connect.CodeFailedPrecondition, strange...)
		case len(res.GetLevels()) == 0:
			return receivedBefore(ctx, tx, merchant, req.GetReceiptId(), arrived)
		}
		return res, tx.Publish(&warehousev1.StockReceived{
			ReceiptId: merchant + "/" + req.GetReceiptId(), MerchantId: merchant, Levels: res.GetLevels(),
		})
	})
}

// receivedBefore answers a repeated receipt as the first time.
func receivedBefore(ctx context.Context, tx *store.Tx, merchant, receipt string, asked []goods) (*warehousev1.ReceiveStockResponse, error) {
	res := &warehousev1.ReceiveStockResponse{}
	have, want := make(map[key]int64, len(asked)), make(map[key]int64, len(asked))
	for _, g := range asked {
		want[g.key] = g.quantity
	}
	rows, err := tx.Rows(ctx, received, merchant, receipt)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var quantity int64
		l := &warehousev1.StockLevel{}
		if err := rows.Scan(posted(new(string), &quantity, l)...); err != nil {
			return err
		}
		have[keyOf(l)] = quantity
		res.Levels = append(res.Levels, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !maps.Equal(have, want) {
		return nil, fault.New(connect.CodeAlreadyExists, "RECEIPT_DIFFERS", "this receipt is booked with other lines; take another number, or correct with AdjustStock")
	}
	return res, nil
}

const adjust = `SELECT p.* FROM stock_item i, post('adjustment', CASE WHEN $4::bigint > 0 THEN 'external' ELSE 'sellable' END,
  CASE WHEN $4 > 0 THEN 'sellable' ELSE 'external' END, ARRAY[i.sku], ARRAY[$3::text], ARRAY[''], ARRAY[false], '{}', ARRAY[abs($4)], ARRAY[''], '', $5, $6) p
 WHERE i.sku = $1 AND ($2 = '' OR i.merchant = $2)`

// AdjustStock corrects a count by an entry of its own.
func (s *service) AdjustStock(ctx context.Context, req *warehousev1.AdjustStockRequest) (*warehousev1.AdjustStockResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.AdjustStockResponse, error) {
		l := &warehousev1.StockLevel{}
		err := tx.Row(ctx, adjust, req.GetSku(), merchant, site(req.GetSite()), req.GetDelta(), req.GetCause(), actor(ctx)).Scan(posted(new(string), new(int64), l)...)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, skuUnknown(connect.CodeNotFound, req.GetSku())
		case err != nil:
			return nil, shortage(err)
		}
		return &warehousev1.AdjustStockResponse{Level: l}, tx.Publish(&warehousev1.StockAdjusted{
			Sku: req.GetSku(), Delta: req.GetDelta(), Cause: req.GetCause(), Level: l,
		})
	})
}

// GetStock tells balances, in the order in which goods go; what is not the
// caller's is left out.
func (s *service) GetStock(ctx context.Context, req *warehousev1.GetStockRequest) (*warehousev1.GetStockResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var found []balance
	q := s.db.NewSelect().Model(&found).ColumnExpr(balanceColumns).Where("sku IN (?)", bun.List(req.GetSkus())).
		OrderExpr("sku, site <> 'main', site, balance.expires_on, lot, authenticated")
	if merchant != "" {
		q = q.Where("merchant = ?", merchant)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, store.Wrap(err)
	}
	res := &warehousev1.GetStockResponse{Levels: make([]*warehousev1.StockLevel, len(found))}
	for i := range found {
		res.Levels[i] = found[i].proto()
	}
	return res, nil
}

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
const receive = `WITH line AS MATERIALIZED (SELECT u.sku, u.quantity FROM unnest($4::text[], $5::bigint[]) u(sku, quantity)),
strange AS MATERIALIZED (SELECT l.sku FROM line l LEFT JOIN stock_item i ON i.sku = l.sku AND i.merchant = $1 WHERE i.sku IS NULL),
made AS (INSERT INTO receipt (merchant, id, site) SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM strange) ON CONFLICT DO NOTHING RETURNING id),
entry AS MATERIALIZED (SELECT p.* FROM made, post('receipt', 'external', 'sellable', $4, array_fill($3::text, ARRAY[cardinality($4)]), $5,
  array_fill($2::text, ARRAY[cardinality($4)]), '', $6) p)
SELECT true, e.* FROM entry e UNION ALL SELECT false, '', 0, s.sku, '', '', 0, 0, 0, 0, 0, 0 FROM strange s`

// received is what the moves of a receipt say: the answer it had.
const received = `SELECT reference, quantity, sku, site, merchant, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version
 FROM stock_move WHERE reference = $2 AND merchant = $1 AND reason = 'receipt' ORDER BY sku`

// ReceiveStock books goods that arrived, each receipt of a merchant once.
func (s *service) ReceiveStock(ctx context.Context, req *warehousev1.ReceiveStockRequest) (*warehousev1.ReceiveStockResponse, error) {
	merchant, err := owner(ctx)
	switch {
	case err != nil:
		return nil, err
	case merchant != "" && req.GetMerchantId() != "" && req.GetMerchantId() != merchant:
		return nil, fault.Field("merchant_id", "members receive their own merchant's goods; leave it out")
	case merchant == "":
		merchant = req.GetMerchantId()
	}
	if merchant == "" {
		return nil, fault.Field("merchant_id", "whose goods arrived")
	}
	sum := make(map[string]int64, len(req.GetLines()))
	for _, l := range req.GetLines() {
		sum[l.GetSku()] += l.GetQuantity()
	}
	lines := ordered(sum)
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReceiveStockResponse, error) {
		res := &warehousev1.ReceiveStockResponse{}
		var strange []string
		rows, err := tx.Rows(ctx, receive, merchant, req.GetReceiptId(), site(req.GetSite()), lines.skus, lines.amounts, actor(ctx))
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
			return receivedBefore(ctx, tx, merchant, req, sum)
		}
		return res, tx.Publish(&warehousev1.StockReceived{
			ReceiptId: merchant + "/" + req.GetReceiptId(), MerchantId: merchant, Levels: res.GetLevels(),
		})
	})
}

// receivedBefore answers a repeated receipt as the first time.
func receivedBefore(ctx context.Context, tx *store.Tx, merchant string, req *warehousev1.ReceiveStockRequest, want map[string]int64) (*warehousev1.ReceiveStockResponse, error) {
	res := &warehousev1.ReceiveStockResponse{}
	have, elsewhere := make(map[string]int64, len(want)), false
	rows, err := tx.Rows(ctx, received, merchant, req.GetReceiptId())
	err = scan(rows, err, func(rows *sql.Rows) error {
		var quantity int64
		l := &warehousev1.StockLevel{}
		if err := rows.Scan(posted(new(string), &quantity, l)...); err != nil {
			return err
		}
		have[l.GetSku()] = quantity
		elsewhere = elsewhere || l.GetSite() != site(req.GetSite())
		res.Levels = append(res.Levels, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if elsewhere || !maps.Equal(have, want) {
		return nil, fault.New(connect.CodeAlreadyExists, "RECEIPT_DIFFERS", "this receipt is booked with other lines; take another number, or correct with AdjustStock")
	}
	return res, nil
}

const adjust = `SELECT p.* FROM stock_item i, post('adjustment', CASE WHEN $4::bigint > 0 THEN 'external' ELSE 'sellable' END,
  CASE WHEN $4 > 0 THEN 'sellable' ELSE 'external' END, ARRAY[i.sku], ARRAY[$3::text], ARRAY[abs($4)], ARRAY[''], $5, $6) p
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

// GetStock tells balances, by sku and site; what is not the caller's is left
// out.
func (s *service) GetStock(ctx context.Context, req *warehousev1.GetStockRequest) (*warehousev1.GetStockResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	var found []balance
	q := s.db.NewSelect().Model(&found).Where("sku IN (?)", bun.List(req.GetSkus())).OrderExpr("sku, site <> 'main', site")
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

package main

import (
	"context"
	"database/sql"

	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// dispositions as the ledger writes them.
var dispositions = map[string]warehousev1.Disposition{
	"external":   warehousev1.Disposition_DISPOSITION_EXTERNAL,
	"sellable":   warehousev1.Disposition_DISPOSITION_SELLABLE,
	"reserved":   warehousev1.Disposition_DISPOSITION_RESERVED,
	"quarantine": warehousev1.Disposition_DISPOSITION_QUARANTINE,
	"damaged":    warehousev1.Disposition_DISPOSITION_DAMAGED,
	"destroyed":  warehousev1.Disposition_DISPOSITION_DESTROYED,
	"incoming":   warehousev1.Disposition_DISPOSITION_INCOMING,
	"receiving":  warehousev1.Disposition_DISPOSITION_RECEIVING,
	"picked":     warehousev1.Disposition_DISPOSITION_PICKED,
	"packed":     warehousev1.Disposition_DISPOSITION_PACKED,
	"outbound":   warehousev1.Disposition_DISPOSITION_OUTBOUND,
	"in_transit": warehousev1.Disposition_DISPOSITION_IN_TRANSIT,
	"inspecting": warehousev1.Disposition_DISPOSITION_INSPECTING,
	"suspect":    warehousev1.Disposition_DISPOSITION_SUSPECT,
	"defective":  warehousev1.Disposition_DISPOSITION_DEFECTIVE,
	"repair":     warehousev1.Disposition_DISPOSITION_REPAIR,
	"expired":    warehousev1.Disposition_DISPOSITION_EXPIRED,
	"recalled":   warehousev1.Disposition_DISPOSITION_RECALLED,
	"disposed":   warehousev1.Disposition_DISPOSITION_DISPOSED,
}

// ListMoves pages through the ledger by falling id, so that new entries do
// not move what follows.
func (s *service) ListMoves(ctx context.Context, req *warehousev1.ListMovesRequest) (*warehousev1.ListMovesResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	var found []move
	q := s.db.NewSelect().Model(&found).OrderExpr("id DESC").Limit(int64(size) + 1)
	if merchant != "" {
		q = q.Where("merchant = ?", merchant)
	}
	if req.GetSku() != "" {
		q = q.Where("sku = ?", req.GetSku())
	}
	if req.GetReference() != "" {
		q = q.Where("reference = ?", req.GetReference()).Where("reference <> ''")
	}
	if req.GetPageToken() != "" {
		before, err := position(req.GetPageToken())
		if err != nil {
			return nil, err
		}
		q = q.Where("id < ?", before)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, store.Wrap(err)
	}
	res := &warehousev1.ListMovesResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = token(found[size-1].ID)
	}
	for _, m := range found {
		res.Moves = append(res.Moves, &warehousev1.StockMove{
			MoveId: m.ID, Sku: m.SKU, Site: m.Site, MerchantId: m.Merchant, From: dispositions[m.FromDisposition], To: dispositions[m.ToDisposition],
			Quantity: m.Quantity, Reason: m.Reason, Reference: m.Reference, At: timestamppb.New(m.At), Lot: m.Lot, UnitId: m.Unit,
			Authenticated: m.Authenticated, CaseId: m.CaseID,
		})
	}
	return res, nil
}

// sums replays the ledger: for each balance the moves must give what stands
// there, nothing but the outside below zero, and the newest its version; each
// serialised good stands where its last move brought it, and balances of
// authenticated goods count them.
const sums = `WITH replay AS (
  SELECT sku, site, lot, authenticated, sum(n) AS quantity, d AS disposition FROM (
    SELECT sku, site, lot, authenticated, to_disposition AS d, quantity AS n FROM stock_move
    UNION ALL SELECT sku, site, lot, authenticated, from_disposition, -quantity FROM stock_move) e GROUP BY sku, site, lot, authenticated, d),
stands AS (
  SELECT b.sku, b.site, b.lot, b.authenticated, v.d AS disposition, v.n AS quantity FROM stock_balance b, LATERAL (VALUES
    ('external', b.external), ('incoming', b.incoming), ('receiving', b.receiving), ('sellable', b.sellable), ('reserved', b.reserved),
    ('picked', b.picked), ('packed', b.packed), ('outbound', b.outbound), ('in_transit', b.in_transit), ('quarantine', b.quarantine),
    ('inspecting', b.inspecting), ('suspect', b.suspect), ('damaged', b.damaged), ('defective', b.defective), ('repair', b.repair),
    ('expired', b.expired), ('recalled', b.recalled), ('destroyed', b.destroyed), ('disposed', b.disposed)) v(d, n)),
pieces AS (SELECT sku, site, lot, replace(disposition, 'reserved', 'sellable') AS disposition, sum(quantity) AS n FROM stands
  WHERE authenticated AND disposition <> 'external' GROUP BY 1, 2, 3, 4),
differ AS (
  SELECT FROM replay r FULL JOIN stands s USING (sku, site, lot, authenticated, disposition) WHERE coalesce(r.quantity, 0) <> coalesce(s.quantity, 0)
  UNION ALL SELECT FROM stands WHERE quantity < 0 AND disposition <> 'external'
  UNION ALL SELECT FROM stock_balance b
    FULL JOIN (SELECT sku, site, lot, authenticated, max(version) AS version FROM stock_move GROUP BY sku, site, lot, authenticated) m
      USING (sku, site, lot, authenticated) WHERE b.version IS DISTINCT FROM m.version
  UNION ALL SELECT FROM pieces p FULL JOIN (SELECT sku, site, lot, disposition, count(*) AS n FROM stock_unit WHERE disposition <> 'external' GROUP BY 1, 2, 3, 4) u
      USING (sku, site, lot, disposition) WHERE coalesce(p.n, 0) <> coalesce(u.n, 0)
  UNION ALL SELECT FROM stock_unit u FULL JOIN (SELECT DISTINCT ON (unit) unit, sku, site, lot, replace(to_disposition, 'reserved', 'sellable') AS disposition
      FROM stock_move WHERE unit <> '' ORDER BY unit, id DESC) m USING (unit, sku, lot, disposition) WHERE u.unit IS NULL OR m.unit IS NULL OR u.site <> m.site)
SELECT 'units', disposition, sum(quantity)::bigint FROM stands WHERE disposition <> 'external' GROUP BY disposition
UNION ALL SELECT 'moved', reason, sum(quantity)::bigint FROM stock_move GROUP BY reason
UNION ALL SELECT 'held', '', coalesce(sum(CASE WHEN m.to_disposition = 'reserved' THEN m.quantity ELSE -m.quantity END), 0)::bigint
  FROM reservation r JOIN stock_move m ON m.reference = r.id AND 'reserved' IN (m.from_disposition, m.to_disposition) WHERE r.state IN (1, 4)
UNION ALL SELECT 'moves', '', count(*) FROM stock_move
UNION ALL SELECT 'differ', '', count(*) FROM differ`

// SumStock sums everything in one snapshot and replays the ledger.
func (s *service) SumStock(ctx context.Context, _ *warehousev1.SumStockRequest) (*warehousev1.SumStockResponse, error) {
	res := &warehousev1.SumStockResponse{Units: make(map[string]int64), Moved: make(map[string]int64)}
	for d := range dispositions {
		if d != "external" {
			res.Units[d] = 0
		}
	}
	rows, err := s.db.Rows(ctx, sums)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var what, name string
		var n int64
		if err := rows.Scan(&what, &name, &n); err != nil {
			return err
		}
		switch what {
		case "units":
			res.Units[name] = n
		case "moved":
			res.Moved[name] = n
		case "held":
			res.Held = n
		case "moves":
			res.Moves = n
		case "differ":
			res.Consistent = n == 0
		}
		return nil
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	noticeAnnounced = 1
	noticeReceived  = 2
)

// noticed is a line of a notice: what was announced and what was counted of
// one sku and lot.
type noticed struct {
	sku, lot                     string
	announced, received, damaged int64
}

// noticedLines sums lines by sku and lot, in one order, with their lots.
func noticedLines(lines []*warehousev1.NoticeLine, counted bool) ([]noticed, *lots, error) {
	at := make(map[[2]string]int, len(lines))
	named := &lots{}
	var out []noticed
	for i, l := range lines {
		switch {
		case !counted && l.GetDamaged() != 0:
			return nil, nil, fault.Field(lineField(i)+".damaged", "nothing is damaged before it came")
		case !counted && l.GetQuantity() == 0:
			return nil, nil, fault.Field(lineField(i)+".quantity", "at least one")
		}
		if err := named.add(lineField(i), l.GetSku(), l.GetLot(), l.GetExpiresOn()); err != nil {
			return nil, nil, err
		}
		k := [2]string{l.GetSku(), l.GetLot()}
		n, ok := at[k]
		if !ok {
			n = len(out)
			at[k], out = n, append(out, noticed{sku: l.GetSku(), lot: l.GetLot()})
		}
		if counted {
			out[n].received += l.GetQuantity()
			out[n].damaged += l.GetDamaged()
		} else {
			out[n].announced += l.GetQuantity()
		}
	}
	return out, named, nil
}

// columns of noticed lines.
func noticeColumns(lines []noticed) (skus, names []string, announced, received, damaged []int64) {
	for _, l := range lines {
		skus, names = append(skus, l.sku), append(names, l.lot)
		announced, received, damaged = append(announced, l.announced), append(received, l.received), append(damaged, l.damaged)
	}
	return
}

const announce = `WITH made AS (INSERT INTO notice (merchant, id, purchase_order, site) VALUES ($1, $2, $3, $4)),
ordered AS (UPDATE purchase_line p SET announced = p.announced + u.n
  FROM (SELECT sku, sum(quantity)::bigint AS n FROM unnest($5::text[], $7::bigint[]) u(sku, quantity) GROUP BY sku) u
 WHERE p.merchant = $1 AND p.purchase_order = $3 AND p.sku = u.sku)
INSERT INTO notice_line (merchant, notice, sku, lot, announced) SELECT $1, $2, u.sku, u.lot, u.quantity
  FROM unnest($5::text[], $6::text[], $7::bigint[]) u(sku, lot, quantity)`

// lockOrder takes an order that goods are announced for, and tells its state
// and the skus that it does not have.
const lockOrder = `SELECT o.state, (SELECT coalesce(jsonb_agg(DISTINCT u.sku), '[]') FROM unnest($3::text[]) u(sku) WHERE NOT EXISTS
  (SELECT FROM purchase_line l WHERE l.merchant = o.merchant AND l.purchase_order = o.id AND l.sku = u.sku))
 FROM purchase_order o WHERE o.merchant = $1 AND o.id = $2 FOR NO KEY UPDATE OF o`

// AnnounceShipment records what is on its way. The goods stand as incoming.
func (s *service) AnnounceShipment(ctx context.Context, req *warehousev1.AnnounceShipmentRequest) (*warehousev1.AnnounceShipmentResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	lines, named, err := noticedLines(req.GetLines(), false)
	if err != nil {
		return nil, err
	}
	skus, names, announced, _, _ := noticeColumns(lines)
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.AnnounceShipmentResponse, error) {
		first, err := firstTime(ctx, tx, "notice", req.GetNoticeId(), merchant, req, skus)
		if err != nil || !first {
			return &warehousev1.AnnounceShipmentResponse{}, err
		}
		if err := named.note(ctx, tx); err != nil {
			return nil, err
		}
		if err := expected(ctx, tx, merchant, req.GetPurchaseOrderId(), skus); err != nil {
			return nil, err
		}
		if _, err := tx.Do(ctx, announce, merchant, req.GetNoticeId(), req.GetPurchaseOrderId(), site(req.GetSite()), skus, names, announced); err != nil {
			return nil, err
		}
		var all []goods
		for _, l := range lines {
			all = append(all, goods{key: key{sku: l.sku, site: site(req.GetSite()), lot: l.lot}, quantity: l.announced, reference: req.GetNoticeId()})
		}
		_, err = post(ctx, tx, way{reason: "notice", from: "external", to: "incoming"}, all...)
		return &warehousev1.AnnounceShipmentResponse{}, err
	})
}

// expected refuses goods for an order that is closed or has no such lines.
func expected(ctx context.Context, tx *store.Tx, merchant, order string, skus []string) error {
	if order == "" {
		return nil
	}
	var state int16
	var strange []string
	err := tx.Row(ctx, lockOrder, merchant, order, skus).Scan(&state, fromJSON{&strange})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return noOrder()
	case err != nil:
		return err
	case state != orderOpen:
		return fault.New(connect.CodeFailedPrecondition, "PURCHASE_ORDER_CLOSED", "this purchase order is closed")
	case len(strange) > 0:
		return fault.New(connect.CodeFailedPrecondition, "NOT_ORDERED", "the purchase order has no such lines", "skus", strings.Join(strange, ","))
	}
	return nil
}

// count records what was counted, also of what nobody announced.
const count = `WITH line AS (SELECT * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) u(sku, lot, received, damaged)),
ordered AS (UPDATE purchase_line p SET received = p.received + u.received, damaged = p.damaged + u.damaged
  FROM (SELECT sku, sum(received)::bigint AS received, sum(damaged)::bigint AS damaged FROM line GROUP BY sku) u
 WHERE p.merchant = $1 AND p.purchase_order = $7 AND p.sku = u.sku)
INSERT INTO notice_line AS n (merchant, notice, sku, lot, announced, received, damaged) SELECT $1, $2, l.sku, l.lot, 0, l.received, l.damaged FROM line l
ON CONFLICT (merchant, notice, sku, lot) DO UPDATE SET received = EXCLUDED.received, damaged = EXCLUDED.damaged`

// ReceiveShipment records the count of what was announced.
func (s *service) ReceiveShipment(ctx context.Context, req *warehousev1.ReceiveShipmentRequest) (*warehousev1.ReceiveShipmentResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	lines, named, err := noticedLines(req.GetLines(), true)
	if err != nil {
		return nil, err
	}
	skus, names, _, received, damaged := noticeColumns(lines)
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ReceiveShipmentResponse, error) {
		var at, order string
		var state int
		err := tx.Row(ctx, `SELECT site, purchase_order, state FROM notice WHERE merchant = $1 AND id = $2 FOR UPDATE`, merchant, req.GetNoticeId()).Scan(&at, &order, &state)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, fault.New(connect.CodeNotFound, "NOTICE_UNKNOWN", "nobody announced this; receive goods without a notice by ReceiveStock")
		case err != nil:
			return nil, err
		case state != noticeAnnounced && state != noticeReceived:
			return nil, fault.New(connect.CodeFailedPrecondition, "PURCHASE_ORDER_CLOSED", "its purchase order was closed; receive goods without a notice by ReceiveStock")
		}
		first, err := firstTime(ctx, tx, "count-of-notice", req.GetNoticeId(), merchant, req, skus)
		if err != nil {
			return nil, err
		}
		if first {
			if err := named.note(ctx, tx); err != nil {
				return nil, err
			}
			if _, err := tx.Do(ctx, `UPDATE notice SET state = 2 WHERE merchant = $1 AND id = $2`, merchant, req.GetNoticeId()); err != nil {
				return nil, err
			}
			if _, err := tx.Do(ctx, count, merchant, req.GetNoticeId(), skus, names, received, damaged, order); err != nil {
				return nil, err
			}
		}
		all, err := readNotice(ctx, tx, merchant, req.GetNoticeId())
		if err == nil && first {
			err = bookArrival(ctx, tx, merchant, req.GetNoticeId(), at, all)
		}
		return &warehousev1.ReceiveShipmentResponse{Discrepancies: discrepancies(all)}, err
	})
}

func readNotice(ctx context.Context, tx *store.Tx, merchant, id string) (all []noticed, err error) {
	rows, err := tx.Rows(ctx, `SELECT sku, lot, announced, received, damaged FROM notice_line WHERE merchant = $1 AND notice = $2 ORDER BY sku, lot`, merchant, id)
	return all, scan(rows, err, func(rows *sql.Rows) error {
		var l noticed
		err := rows.Scan(&l.sku, &l.lot, &l.announced, &l.received, &l.damaged)
		all = append(all, l)
		return err
	})
}

func discrepancies(all []noticed) (out []*warehousev1.Discrepancy) {
	for _, l := range all {
		if l.announced != l.received || l.damaged != 0 {
			out = append(out, &warehousev1.Discrepancy{Sku: l.sku, Lot: l.lot, Announced: l.announced, Received: l.received, Damaged: l.damaged})
		}
	}
	return out
}

// bookArrival moves what came: from incoming as far as it was announced, good
// pieces first, the rest from outside. What was announced and did not come
// goes out of the books.
func bookArrival(ctx context.Context, tx *store.Tx, merchant, notice, at string, all []noticed) error {
	moves := make(map[way][]goods)
	var skus []string
	for _, l := range all {
		skus = append(skus, l.sku)
		put := func(w way, n int64) {
			if n > 0 {
				moves[w] = append(moves[w], goods{key: key{sku: l.sku, site: at, lot: l.lot}, quantity: n, reference: notice})
			}
		}
		good := min(l.received, l.announced)
		broken := min(l.damaged, l.announced-good)
		put(way{reason: "receipt", from: "incoming", to: "receiving"}, good)
		put(way{reason: "receipt", from: "external", to: "receiving"}, l.received-good)
		put(way{reason: "receipt", from: "incoming", to: "damaged"}, broken)
		put(way{reason: "receipt", from: "external", to: "damaged"}, l.damaged-broken)
		put(way{reason: "short", from: "incoming", to: "external"}, l.announced-good-broken)
	}
	if err := lock(ctx, tx, skus); err != nil {
		return err
	}
	var levels []*warehousev1.StockLevel
	for _, w := range sortedWays(moves) {
		after, err := post(ctx, tx, w, moves[w]...)
		if err != nil {
			return err
		}
		levels = append(levels, after...)
	}
	return tx.Publish(&warehousev1.StockReceived{ReceiptId: scoped(merchant, notice), MerchantId: merchant, Levels: newest(levels)})
}

// sortedWays are the ways of some moves, in one order.
func sortedWays(moves map[way][]goods) []way {
	var all []way
	for w := range moves {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b way) int { return strings.Compare(a.reason+a.from+a.to, b.reason+b.from+b.to) })
	return all
}

// lock takes everything about some skus, in the one order of locks, for who
// posts more than once.
func lock(ctx context.Context, tx *store.Tx, skus []string) error {
	_, err := tx.Do(ctx, `SELECT count(*) FROM promisable($1, '')`, skus)
	return err
}

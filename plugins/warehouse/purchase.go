package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	warehousev1 "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	orderOpen   = int16(warehousev1.PurchaseOrder_STATE_OPEN)
	orderClosed = int16(warehousev1.PurchaseOrder_STATE_CLOSED)
)

// putOrder writes the head of an order, and answers nothing where it is
// closed. It leaves the row locked.
const putOrder = `INSERT INTO purchase_order AS o (merchant, id, supplier, site, expected_on) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (merchant, id) DO UPDATE SET supplier = EXCLUDED.supplier, site = EXCLUDED.site, expected_on = EXCLUDED.expected_on WHERE o.state = 1
RETURNING EXISTS (SELECT FROM notice n WHERE n.merchant = o.merchant AND n.purchase_order = o.id),
  (SELECT coalesce(jsonb_agg(DISTINCT u.sku), '[]') FROM unnest($6::text[]) u(sku)
    LEFT JOIN stock_item i ON i.sku = u.sku AND i.merchant = $1 WHERE i.sku IS NULL)`

// putLines makes an order's lines those given.
const putLines = `WITH gone AS (DELETE FROM purchase_line WHERE merchant = $1 AND purchase_order = $2 AND sku <> ALL ($3::text[]))
INSERT INTO purchase_line (merchant, purchase_order, sku, quantity) SELECT $1, $2, u.sku, u.quantity FROM unnest($3::text[], $4::bigint[]) u(sku, quantity)
ON CONFLICT (merchant, purchase_order, sku) DO UPDATE SET quantity = EXCLUDED.quantity`

// PutPurchaseOrder places an order, or changes one of which nothing was
// announced yet.
func (s *service) PutPurchaseOrder(ctx context.Context, req *warehousev1.PutPurchaseOrderRequest) (*warehousev1.PutPurchaseOrderResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	if err := day("expected_on", req.GetExpectedOn()); err != nil {
		return nil, err
	}
	sum := make(map[string]int64, len(req.GetLines()))
	for _, l := range req.GetLines() {
		if sum[l.GetSku()] != 0 {
			return nil, fault.Field("lines", "each sku once")
		}
		sum[l.GetSku()] = l.GetQuantity()
	}
	lines := ordered(sum)
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.PutPurchaseOrderResponse, error) {
		before, err := readOrder(ctx, tx, merchant, req.GetPurchaseOrderId())
		if err != nil {
			return nil, err
		}
		if before != nil && sameOrder(before, req) {
			return &warehousev1.PutPurchaseOrderResponse{PurchaseOrder: before}, nil
		}
		var announced bool
		var strange []string
		err = tx.Row(ctx, putOrder, merchant, req.GetPurchaseOrderId(), req.GetSupplier(), site(req.GetSite()), req.GetExpectedOn(), lines.skus).
			Scan(&announced, fromJSON{&strange})
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, fault.New(connect.CodeFailedPrecondition, "PURCHASE_ORDER_CLOSED", "this purchase order is closed")
		case err != nil:
			return nil, err
		case announced:
			return nil, fault.New(connect.CodeFailedPrecondition, "PURCHASE_ORDER_ANNOUNCED", "goods of this purchase order are announced; it is changed no more")
		case len(strange) > 0:
			return nil, skuUnknown(connect.CodeFailedPrecondition, strange...)
		}
		if _, err := tx.Do(ctx, putLines, merchant, req.GetPurchaseOrderId(), lines.skus, lines.amounts); err != nil {
			return nil, err
		}
		o, err := readOrder(ctx, tx, merchant, req.GetPurchaseOrderId())
		return &warehousev1.PutPurchaseOrderResponse{PurchaseOrder: o}, err
	})
}

// sameOrder tells whether an order says already what a request asks for.
func sameOrder(o *warehousev1.PurchaseOrder, req *warehousev1.PutPurchaseOrderRequest) bool {
	if o.GetSupplier() != req.GetSupplier() || o.GetSite() != site(req.GetSite()) || o.GetExpectedOn() != req.GetExpectedOn() || len(o.GetLines()) != len(req.GetLines()) {
		return false
	}
	have := make(map[string]int64, len(o.GetLines()))
	for _, l := range o.GetLines() {
		have[l.GetSku()] = l.GetQuantity()
	}
	for _, l := range req.GetLines() {
		if have[l.GetSku()] != l.GetQuantity() {
			return false
		}
	}
	return true
}

// day refuses a date that the calendar does not have.
func day(field, d string) error {
	if _, err := time.Parse(time.DateOnly, d); d != "" && err != nil {
		return fault.Field(field, "no day of the calendar")
	}
	return nil
}

// abandon ends the notices of an order that nothing came of, and tells what
// they announced.
const abandon = `WITH ended AS (UPDATE notice SET state = 3 WHERE merchant = $1 AND purchase_order = $2 AND state = 1 RETURNING id, site)
SELECT l.sku, e.site, l.lot, l.announced, e.id FROM ended e JOIN notice_line l ON l.merchant = $1 AND l.notice = e.id WHERE l.announced > 0
 ORDER BY l.sku, e.site, l.lot`

// ClosePurchaseOrder expects nothing more. Repeated, it finds it closed.
func (s *service) ClosePurchaseOrder(ctx context.Context, req *warehousev1.ClosePurchaseOrderRequest) (*warehousev1.ClosePurchaseOrderResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*warehousev1.ClosePurchaseOrderResponse, error) {
		done, err := tx.Do(ctx, `UPDATE purchase_order SET state = $3 WHERE merchant = $1 AND id = $2`, merchant, req.GetPurchaseOrderId(), orderClosed)
		if err != nil {
			return nil, err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return nil, errors.Join(err, noOrder())
		}
		var short []goods
		rows, err := tx.Rows(ctx, abandon, merchant, req.GetPurchaseOrderId())
		err = scan(rows, err, func(rows *sql.Rows) error {
			var g goods
			err := rows.Scan(&g.sku, &g.site, &g.lot, &g.quantity, &g.reference)
			short = append(short, g)
			return err
		})
		if err != nil {
			return nil, err
		}
		if _, err := post(ctx, tx, way{reason: "short", from: "incoming", to: "external"}, short...); err != nil {
			return nil, err
		}
		o, err := readOrder(ctx, tx, merchant, req.GetPurchaseOrderId())
		return &warehousev1.ClosePurchaseOrderResponse{PurchaseOrder: o}, err
	})
}

func noOrder() error {
	return fault.New(connect.CodeNotFound, "PURCHASE_ORDER_UNKNOWN", "no such purchase order")
}

const readOrders = `SELECT o.merchant, o.id, o.supplier, o.site, o.state, o.expected_on, o.created_at,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('sku', l.sku, 'quantity', l.quantity, 'announced', l.announced, 'received', l.received,
    'damaged', l.damaged) ORDER BY l.sku), '[]') FROM purchase_line l WHERE l.merchant = o.merchant AND l.purchase_order = o.id)
 FROM purchase_order o WHERE `

func scanOrder(row interface{ Scan(...any) error }) (*warehousev1.PurchaseOrder, error) {
	o := &warehousev1.PurchaseOrder{}
	var state int32
	var at time.Time
	err := row.Scan(&o.MerchantId, &o.PurchaseOrderId, &o.Supplier, &o.Site, &state, &o.ExpectedOn, &at, fromJSON{&o.Lines})
	o.State, o.CreatedAt = warehousev1.PurchaseOrder_State(state), timestamppb.New(at)
	return o, err
}

// readOrder reads an order; nil when there is none.
func readOrder(ctx context.Context, db reader, merchant, id string) (*warehousev1.PurchaseOrder, error) {
	o, err := scanOrder(db.Row(ctx, readOrders+`o.merchant = $1 AND o.id = $2`, merchant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return o, err
}

// GetPurchaseOrder tells one order with what came of it.
func (s *service) GetPurchaseOrder(ctx context.Context, req *warehousev1.GetPurchaseOrderRequest) (*warehousev1.GetPurchaseOrderResponse, error) {
	merchant, err := whose(ctx, req.GetMerchantId())
	if err != nil {
		return nil, err
	}
	o, err := readOrder(ctx, s.db, merchant, req.GetPurchaseOrderId())
	switch {
	case err != nil:
		return nil, store.Wrap(err)
	case o == nil:
		return nil, noOrder()
	}
	return &warehousev1.GetPurchaseOrderResponse{PurchaseOrder: o}, nil
}

// ListPurchaseOrders pages through orders, newest first.
func (s *service) ListPurchaseOrders(ctx context.Context, req *warehousev1.ListPurchaseOrdersRequest) (*warehousev1.ListPurchaseOrdersResponse, error) {
	merchant, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	after, err := textPosition("po", req.GetPageToken())
	if err != nil {
		return nil, err
	}
	at, rest, _ := strings.Cut(after, " ")
	whoseOrder, id, _ := strings.Cut(rest, " ")
	if _, err := time.Parse(time.RFC3339Nano, at); after != "" && err != nil {
		return nil, fault.Field("page_token", "not one of this list")
	}
	size := pageSize(req.GetPageSize())
	res := &warehousev1.ListPurchaseOrdersResponse{}
	rows, err := s.db.Rows(ctx, readOrders+`($1 = '' OR o.merchant = $1) AND ($2 = 0 OR o.state = $2)
		AND ($3 = '' OR (o.created_at, o.merchant, o.id) < (nullif($3, '')::timestamptz, $4, $5)) ORDER BY o.created_at DESC, o.merchant DESC, o.id DESC LIMIT $6`,
		merchant, int32(req.GetState()), at, whoseOrder, id, size+1)
	err = scan(rows, err, func(rows *sql.Rows) error {
		o, err := scanOrder(rows)
		res.PurchaseOrders = append(res.PurchaseOrders, o)
		return err
	})
	if err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetPurchaseOrders()) > size {
		res.PurchaseOrders = res.GetPurchaseOrders()[:size]
		last := res.GetPurchaseOrders()[size-1]
		res.NextPageToken = textToken("po", last.GetCreatedAt().AsTime().Format(time.RFC3339Nano)+" "+last.GetMerchantId()+" "+last.GetPurchaseOrderId())
	}
	return res, nil
}

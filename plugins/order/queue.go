package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	orderv1 "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const listQueue = `SELECT ` + orderColumns + ` FROM consignment p JOIN orders o ON o.id = p.order_id
  WHERE p.merchant = $1 AND p.state < 4 AND ($2 = 0 OR p.state = $2) AND (NOT $3 OR p.due_at <= now())
    AND ($4 = 0 OR (p.held <> 0) = ($4 = 1)) AND (p.due_at, p.order_id) > ($5::timestamptz, $6) AND o.state = ANY ($8)
  ORDER BY p.due_at, p.order_id LIMIT $7`

// ListQueue pages through what a merchant has to do, the next due first.
func (s *service) ListQueue(ctx context.Context, req *orderv1.ListQueueRequest) (*orderv1.ListQueueResponse, error) {
	due, after, err := queueToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	states := []int16{2, 3, 7}
	if req.GetBackordered() {
		states = []int16{9}
	}
	size, merchant := pageSize(req.GetPageSize(), 50), call.From(ctx).Principal.Merchant
	found, err := s.readOrders(ctx, listQueue, merchant, int16(req.GetState()), req.GetOverdue(), int16(req.GetHeld()), due, after, size+1, states)
	if err != nil {
		return nil, err
	}
	res := &orderv1.ListQueueResponse{}
	if len(found) > size {
		found = found[:size]
		last := found[size-1]
		token := last.part(merchant).consignments[0].Due.UTC().Format(time.RFC3339Nano) + "|" + last.id
		res.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(token))
	}
	for _, o := range found {
		res.Orders = append(res.Orders, o.part(merchant).proto())
	}
	if req.GetBackordered() {
		err = s.why(ctx, found, res.GetOrders())
	}
	return res, err
}

// places tells of waiting orders how many pieces wait before each.
const places = `WITH mine AS (SELECT sku, market FROM backorder WHERE order_id = ANY ($1)),
line AS (SELECT b.order_id, b.state, sum(b.quantity) FILTER (WHERE b.state IN (2, 3)) OVER (PARTITION BY b.sku, b.market ORDER BY b.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS ahead
  FROM backorder b WHERE b.state < 5 AND (b.sku, b.market) IN (SELECT sku, market FROM mine))
SELECT order_id, coalesce(ahead, 0)::bigint FROM line WHERE order_id = ANY ($1) AND state = 2`

// why shows a merchant what orders in their place in a queue wait for: those
// before them, or pieces that have not come. told are the orders found, as they
// are answered.
func (s *service) why(ctx context.Context, found []*order, told []*orderv1.Order) error {
	at, ids := make(map[string]int, len(found)), make([]string, len(found))
	for i, o := range found {
		at[o.id], ids[i] = i, o.id
	}
	type shelf struct {
		market string
		strict bool
	}
	waiting := make(map[shelf][]int)
	rows, err := s.db.Rows(ctx, places, ids)
	if err := each(rows, err, func(rows *sql.Rows) error {
		var orderID string
		var ahead int64
		if err := rows.Scan(&orderID, &ahead); err != nil {
			return err
		}
		i := at[orderID]
		told[i].Backorder.Ahead = ahead
		of := shelf{found[i].market, found[i].lines[0].Authenticated}
		waiting[of] = append(waiting[of], i)
		return nil
	}); err != nil {
		return store.Wrap(err)
	}
	for of, orders := range waiting {
		var asked []line
		for _, i := range orders {
			if l := found[i].lines[0]; !slices.ContainsFunc(asked, func(a line) bool { return a.SKU == l.SKU }) {
				asked = append(asked, l)
			}
		}
		there, err := s.there(ctx, of.market, asked)
		if err != nil {
			return err
		}
		for _, i := range orders {
			told[i].Backorder.Available = there[found[i].lines[0].SKU]
		}
	}
	return nil
}

// queueToken is when the last consignment shown was due, and its order's id.
func queueToken(token string) (due time.Time, orderID string, err error) {
	if token == "" {
		return time.Time{}, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	at, orderID, ok := strings.Cut(string(b), "|")
	due, terr := time.Parse(time.RFC3339Nano, at)
	if err != nil || terr != nil || !ok || !strings.HasPrefix(orderID, "ord_") {
		return time.Time{}, "", fault.Field("page_token", "is not one that this method gave")
	}
	return due, orderID, nil
}

// SetHandlingTime says how long a merchant takes from order to hand-over.
func (s *service) SetHandlingTime(ctx context.Context, req *orderv1.SetHandlingTimeRequest) (*orderv1.SetHandlingTimeResponse, error) {
	_, err := s.db.Do(ctx, `INSERT INTO handling (merchant, hours) VALUES ($1, $2) ON CONFLICT (merchant) DO UPDATE SET hours = excluded.hours`,
		call.From(ctx).Principal.Merchant, req.GetHours())
	return &orderv1.SetHandlingTimeResponse{}, store.Wrap(err)
}

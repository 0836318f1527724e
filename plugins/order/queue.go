package main

import (
	"context"
	"encoding/base64"
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
	return res, nil
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

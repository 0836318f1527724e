package main

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const deliveryColumns = `d.id, d.notification_id, n.topic, d.channel, d.state, coalesce(e.name, d.recipient), d.code, d.tries, d.instance, d.created_at, d.due_at, d.ended_at`

const deliveryTables = ` FROM delivery d JOIN notification n ON n.id = d.notification_id LEFT JOIN endpoint e ON d.channel = 3 AND e.id = d.recipient `

func scanDelivery(row interface{ Scan(...any) error }) (*notificationv1.Delivery, error) {
	d := &notificationv1.Delivery{}
	var channel, state int32
	var created, due time.Time
	var ended *time.Time
	if err := row.Scan(&d.DeliveryId, &d.NotificationId, &d.Topic, &channel, &state, &d.Recipient, &d.Code, &d.Tries, &d.Instance, &created, &due, &ended); err != nil {
		return nil, err
	}
	d.Channel, d.State, d.CreatedAt = notificationv1.Channel(channel), notificationv1.Delivery_State(state), timestamppb.New(created)
	if ended != nil {
		d.EndedAt = timestamppb.New(*ended)
	} else {
		d.DueAt = timestamppb.New(due)
	}
	return d, nil
}

// ListDeliveries pages by falling id: newest first. Members see those of their
// merchant's endpoints.
func (s *service) ListDeliveries(ctx context.Context, req *notificationv1.ListDeliveriesRequest) (*notificationv1.ListDeliveriesResponse, error) {
	before := "e" // after every "dlv_..."
	if req.GetPageToken() != "" {
		b, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
		if err != nil || !strings.HasPrefix(string(b), "dlv_") {
			return nil, fault.Field("page_token", "not one of this list")
		}
		before = string(b)
	}
	// Each question has a plan of its own.
	where, merchant := "WHERE d.id < $1 AND ($3 = 0 OR d.channel = $3) AND ($4 = '' OR e.name = $4) AND ($5 = 0 OR d.state = $5) AND ($2 = '' OR d.merchant = $2)", ""
	if p := call.From(ctx).Principal; p.Kind == call.Merchant {
		where, merchant = strings.Replace(where, "($2 = '' OR d.merchant = $2)", "d.merchant = $2 AND d.merchant <> ''", 1), p.Merchant
	}
	size := sizeOf(req.GetPageSize())
	res := &notificationv1.ListDeliveriesResponse{}
	rows, err := s.db.Rows(ctx, `SELECT `+deliveryColumns+deliveryTables+where+` ORDER BY d.id DESC LIMIT $6`,
		before, merchant, int16(req.GetChannel()), req.GetEndpointId(), int16(req.GetState()), size+1)
	if err := scan(rows, err, func(rows *sql.Rows) error {
		d, err := scanDelivery(rows)
		res.Deliveries = append(res.Deliveries, d)
		return err
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if len(res.GetDeliveries()) > size {
		res.Deliveries = res.GetDeliveries()[:size]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(res.GetDeliveries()[size-1].GetDeliveryId()))
	}
	return res, nil
}

// Redeliver begins another round: the same message under a new key, so that
// the provider does not take it for one that it sent. What waits has its time
// now; what may have left is asked for first, as ever.
func (s *service) Redeliver(ctx context.Context, req *notificationv1.RedeliverRequest) (*notificationv1.RedeliverResponse, error) {
	merchant := ""
	if p := call.From(ctx).Principal; p.Kind == call.Merchant {
		merchant = p.Merchant
	}
	defer s.poke()
	return store.Mutate(ctx, s.db, req, func(ctx context.Context, tx *store.Tx) (*notificationv1.RedeliverResponse, error) {
		var channel, state int16
		var endpoint *int16
		err := tx.Row(ctx, `SELECT d.channel, d.state, (SELECT e.state FROM endpoint e WHERE e.id = d.recipient) FROM delivery d
			WHERE d.id = $1 AND ($2 = '' OR d.merchant = $2) AND d.channel <> 1 FOR UPDATE`, req.GetDeliveryId(), merchant).Scan(&channel, &state, &endpoint)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, fault.New(connect.CodeNotFound, "DELIVERY_UNKNOWN", "there is no such delivery, or it is not yours")
		case err != nil:
			return nil, err
		case channel == int16(webhook) && endpoint == nil:
			return nil, fault.New(connect.CodeFailedPrecondition, "ENDPOINT_DELETED", "its endpoint is no more")
		case channel == int16(webhook) && *endpoint != 1:
			return nil, fault.New(connect.CodeFailedPrecondition, "ENDPOINT_DISABLED", "its endpoint is disabled: put it again first")
		}
		switch notificationv1.Delivery_State(state) {
		case notificationv1.Delivery_STATE_QUEUED, notificationv1.Delivery_STATE_UNKNOWN:
			_, err = tx.Do(ctx, `UPDATE delivery SET due_at = now() WHERE id = $1`, req.GetDeliveryId())
		case notificationv1.Delivery_STATE_SENDING:
		default:
			_, err = tx.Do(ctx, `UPDATE delivery SET state = 1, code = '', tries = 0, round = round + 1, instance = '', due_at = now(), since = now(), ended_at = NULL WHERE id = $1`,
				req.GetDeliveryId())
		}
		if err != nil {
			return nil, err
		}
		if channel == int16(webhook) {
			if _, err := tx.Do(ctx, `UPDATE endpoint e SET blocked_until = '-infinity' FROM delivery d WHERE d.id = $1 AND e.id = d.recipient`, req.GetDeliveryId()); err != nil {
				return nil, err
			}
		}
		d, err := scanDelivery(tx.Row(ctx, `SELECT `+deliveryColumns+deliveryTables+`WHERE d.id = $1`, req.GetDeliveryId()))
		return &notificationv1.RedeliverResponse{Delivery: d}, err
	})
}

package bus

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// maxJSON bounds the readable form of one payload.
const maxJSON = 64 << 10

// ListParked lists events that are set aside, oldest first.
func (o *Operator) ListParked(ctx context.Context, req *operatorv1.ListParkedRequest) (*operatorv1.ListParkedResponse, error) {
	size := int(req.GetPageSize())
	if size <= 0 || size > 200 {
		size = 50
	}
	type place struct {
		pos int64
		sub int16
	}
	var after place
	if t := req.GetPageToken(); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err == nil {
			_, err = fmt.Sscanf(string(b), "%d/%d", &after.pos, &after.sub)
		}
		if err != nil {
			return nil, fault.Field("page_token", "it is not one that this list answered")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := o.bus.c.Pool.Query(ctx, `SELECT s.id, s.name, p.pos, coalesce(l.topic, ''), p.key, p.attempt, p.dead, coalesce(p.error, ''), p.due, p.first_at, l.payload
		FROM bus.parked p JOIN bus.subscription s ON s.id = p.sub LEFT JOIN bus.log l ON l.pos = p.pos
		WHERE ($1 = '' OR s.name = $1) AND (p.pos, p.sub) > ($2, $3) ORDER BY p.pos, p.sub LIMIT $4`, req.GetSubscription(), after.pos, after.sub, size+1)
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	var places []place
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*operatorv1.ParkedEvent, error) {
		e := &operatorv1.ParkedEvent{}
		var payload []byte
		var due, first time.Time
		var attempt, id int16
		err := row.Scan(&id, &e.Subscription, &e.Position, &e.Topic, &e.Key, &attempt, &e.Dead, &e.Error, &due, &first, &payload)
		places = append(places, place{e.Position, id})
		e.Attempt, e.Due, e.FirstAt = int32(attempt), timestamppb.New(due), timestamppb.New(first)
		e.PayloadJson = o.readable(e.GetTopic(), payload)
		return e, err
	})
	if err != nil {
		return nil, o.unavailable(ctx, err)
	}
	res := &operatorv1.ListParkedResponse{Events: events}
	if len(events) > size {
		res.Events = events[:size]
		last := places[size-1]
		res.NextPageToken = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%d", last.pos, last.sub))
	}
	return res, nil
}

// readable is a payload as JSON, empty where its schema is not known or it
// does not fit it.
func (o *Operator) readable(topic string, payload []byte) string {
	md := o.schema(protoreflect.FullName(topic))
	if md == nil || len(payload) > maxJSON {
		return ""
	}
	m := dynamicpb.NewMessage(md)
	if proto.Unmarshal(payload, m) != nil {
		return ""
	}
	b, err := protojson.Marshal(m)
	if err != nil || len(b) > maxJSON {
		return ""
	}
	return string(b)
}

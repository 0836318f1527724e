package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/uptrace/bun"

	giftwrapv1 "example.com/giftwrap/proto/example/giftwrap/v1"
)

// order is a placed order and its wrap.
type order struct {
	bun.BaseModel `bun:"table:orders"`

	ID            string                `bun:"order_id,pk"`
	Account       string                `bun:"account"`
	Market        string                `bun:"market"`
	State         giftwrapv1.Wrap_State `bun:"state"`
	ReservationID string                `bun:"reservation_id"`
	Saga          string                `bun:"saga,nullzero"`
}

func (o *order) proto() *giftwrapv1.Wrap {
	return &giftwrapv1.Wrap{OrderId: o.ID, State: o.State, ReservationId: o.ReservationID}
}

// read reads an order, in a transaction or outside of one.
func read(ctx context.Context, q *bun.SelectQuery, id string) (*order, error) {
	o := new(order)
	err := q.Model(o).Where("order_id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, unknown(id)
	}
	return o, err
}

package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/store"
)

// entries are lines for timelines, written with one statement.
type entries struct {
	orders, whats, whos, notes []string
	ats                        []time.Time
}

func (e *entries) add(order string, at time.Time, what, who, note string) {
	e.orders, e.ats = append(e.orders, order), append(e.ats, at)
	e.whats, e.whos, e.notes = append(e.whats, what), append(e.whos, who), append(e.notes, note)
}

func (e *entries) write(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Do(ctx, `INSERT INTO timeline (order_id, at, what, who, note)
		SELECT o, a, w, p, n FROM ROWS FROM (unnest($1::text[]), unnest($2::timestamptz[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[])) u(o, a, w, p, n)`,
		e.orders, e.ats, e.whats, e.whos, e.notes)
	return err
}

// amount is money for people: minor units and code, for example "1299 EUR".
func amount(m *typev1.Money) string {
	return fmt.Sprintf("%d %s (minor units)", m.GetMinorUnits(), m.GetCurrencyCode())
}

// payment is what every event of a payment's life tells.
type payment interface {
	proto.Message
	GetReference() string
	GetAmount() *typev1.Money
	GetInstance() string
}

// noted writes a payment's events of one kind into the timelines of their
// orders.
func noted[M payment](what string) event.Handler {
	return event.OnBatch(func(ctx context.Context, tx *store.Tx, events []event.Of[M]) error {
		var e entries
		for _, ev := range events {
			e.add(ev.Body.GetReference(), ev.At, what, "system", amount(ev.Body.GetAmount())+" at "+ev.Body.GetInstance())
		}
		return e.write(ctx, tx)
	})
}

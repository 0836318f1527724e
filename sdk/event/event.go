// Package event declares what a module does with the events it subscribes to.
// A handler runs inside the transaction that moves the subscription's
// position, so its writes happen exactly once per event.
package event

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// Meta is what the log knows of an event beside its payload.
type Meta struct {
	// Position rises by commit order within a key.
	Position int64
	// ID is unique for ever.
	ID string
	// Source is the plugin that published it; nobody can speak for another.
	Source string
	Key    string
	At     time.Time
}

// Of is an event with its payload.
type Of[M proto.Message] struct {
	Meta
	Body M
}

// Handler handles the events of one topic.
type Handler struct {
	topic  string
	handle func(ctx context.Context, tx *store.Tx, events []*pluginv1.Event) (int, error)
}

// Topic is the full name of the message that it handles.
func (h Handler) Topic() string { return h.topic }

// Handle runs the handler over events of its topic in their order. The index
// tells which event an error is about.
func (h Handler) Handle(ctx context.Context, tx *store.Tx, events []*pluginv1.Event) (failed int, err error) {
	return h.handle(ctx, tx, events)
}

// On handles events one by one. An error parks the event: it is tried again
// with growing pauses, later events of its key wait behind it.
func On[M proto.Message](fn func(ctx context.Context, tx *store.Tx, e Of[M]) error) Handler {
	return handler(func(ctx context.Context, tx *store.Tx, events []Of[M]) (int, error) {
		for i, e := range events {
			if err := fn(ctx, tx, e); err != nil {
				return i, err
			}
		}
		return 0, nil
	})
}

// OnBatch handles all events of a topic that came in a row at once, in order:
// one statement for many. After an error they come again one by one.
func OnBatch[M proto.Message](fn func(ctx context.Context, tx *store.Tx, events []Of[M]) error) Handler {
	return handler(func(ctx context.Context, tx *store.Tx, events []Of[M]) (int, error) {
		return 0, fn(ctx, tx, events)
	})
}

func handler[M proto.Message](fn func(context.Context, *store.Tx, []Of[M]) (int, error)) Handler {
	var zero M
	typ := zero.ProtoReflect().Type()
	return Handler{
		topic: string(typ.Descriptor().FullName()),
		handle: func(ctx context.Context, tx *store.Tx, raw []*pluginv1.Event) (int, error) {
			events := make([]Of[M], len(raw))
			for i, r := range raw {
				body := typ.New().Interface().(M)
				if err := proto.Unmarshal(r.GetPayload(), body); err != nil {
					return i, fmt.Errorf("event %d: payload of %s: %w", r.GetPosition(), r.GetTopic(), err)
				}
				events[i] = Of[M]{Body: body, Meta: Meta{
					Position: r.GetPosition(), ID: r.GetEventId(), Source: r.GetSource(), Key: r.GetKey(), At: r.GetAt().AsTime(),
				}}
			}
			return fn(ctx, tx, events)
		},
	}
}

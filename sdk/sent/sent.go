// Package sent is a notification provider's memory of how its messages ended,
// by their keys: what makes Send safe to repeat and Lookup know. It holds no
// address and no message.
package sent

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// buckets are the keys of the instance's state that the memory takes.
const buckets = 4096

// ending is how a key ended, short: there are many.
type ending struct {
	State     providerv1.Delivery_State `json:"s"`
	Code      string                    `json:"c,omitempty"`
	Reference string                    `json:"r,omitempty"`
	Gone      bool                      `json:"g,omitempty"`
	// At is in seconds since 1970.
	At int64 `json:"t"`
}

// Memory has room for some two million ends; where it is full the oldest goes
// first. Safe for concurrent use.
type Memory struct{ ends *state.Map[ending] }

// Of makes the memory of an instance. There is one.
func Of(in *plugin.Instance) Memory {
	m := state.Of[ending](in, "sent", buckets)
	m.Spare = oldest
	return Memory{m}
}

func oldest(bucket map[string]ending, keep string) (id string, ok bool) {
	for k, e := range bucket {
		if k != keep && (!ok || e.At < bucket[id].At) {
			id, ok = k, true
		}
	}
	return id, ok
}

// End answers how a key ended; nil: nothing is known of it.
func (m Memory) End(ctx context.Context, key string) (*providerv1.Delivery, error) {
	e, known, err := m.ends.Get(ctx, key)
	if err != nil || !known {
		return nil, err
	}
	return &providerv1.Delivery{
		Key: key, State: e.State, Code: e.Code, Reference: e.Reference, Gone: e.Gone, At: timestamppb.New(time.Unix(e.At, 0)),
	}, nil
}

// Keep writes down how a key ended. The first end stays. One that is deferred
// has not ended, and is passed over.
func (m Memory) Keep(ctx context.Context, d *providerv1.Delivery) error {
	if d.GetState() == providerv1.Delivery_STATE_DEFERRED {
		return nil
	}
	_, err := m.ends.Update(ctx, d.GetKey(), func(e *ending, known bool) (bool, error) {
		if known {
			return false, nil
		}
		*e = ending{State: d.GetState(), Code: d.GetCode(), Reference: d.GetReference(), Gone: d.GetGone(), At: d.GetAt().GetSeconds()}
		return true, nil
	})
	return err
}

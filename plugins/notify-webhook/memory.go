package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// ending is how a key ended, short: there are many.
type ending struct {
	State providerv1.Delivery_State `json:"s"`
	Code  string                    `json:"c,omitempty"`
	Gone  bool                      `json:"g,omitempty"`
	// At is in seconds since 1970.
	At int64 `json:"t"`
}

// memory is what became of keys: room for some two million, of which the
// oldest go first where it is full. Nothing in it says to whom.
type memory struct{ ends *state.Map[ending] }

func remember(in *plugin.Instance) memory {
	m := state.Of[ending](in, "end", 4096)
	m.Spare = func(bucket map[string]ending, keep string) (oldest string, ok bool) {
		for id, e := range bucket {
			if id != keep && (!ok || e.At < bucket[oldest].At) {
				oldest, ok = id, true
			}
		}
		return oldest, ok
	}
	return memory{m}
}

// end answers how a key ended; nil: nothing is known.
func (m memory) end(ctx context.Context, key string) (*providerv1.Delivery, error) {
	e, known, err := m.ends.Get(ctx, key)
	if err != nil || !known {
		return nil, err
	}
	return &providerv1.Delivery{Key: key, State: e.State, Code: e.Code, Gone: e.Gone, At: timestamppb.New(time.Unix(e.At, 0))}, nil
}

// keep writes down how a key ended; the first end stays.
func (m memory) keep(ctx context.Context, d *providerv1.Delivery) error {
	_, err := m.ends.Update(ctx, d.GetKey(), func(e *ending, known bool) (bool, error) {
		if known {
			return false, nil
		}
		*e = ending{State: d.GetState(), Code: d.GetCode(), Gone: d.GetGone(), At: d.GetAt().GetSeconds()}
		return true, nil
	})
	return err
}

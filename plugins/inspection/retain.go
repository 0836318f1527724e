package main

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/store"
)

// fate is what became of a unit, as authenticators are told.
type fate = providerv1.RetainRequest_Fate

const (
	wasSold      = providerv1.RetainRequest_FATE_SOLD
	wasDestroyed = providerv1.RetainRequest_FATE_DESTROYED
	cameBack     = providerv1.RetainRequest_FATE_RETURNED
)

// retain has the authenticators told of units' fate, once for each document.
// Goods without a GTIN are in nobody's register.
func retain(ctx context.Context, tx *store.Tx, units []*unit, f fate, document string) error {
	_, err := tx.Do(ctx, `INSERT INTO retain (unit, fate, document) SELECT u.id, $2, $3 FROM unit u WHERE u.id = ANY ($1) AND u.gtin <> '' ORDER BY u.id
		ON CONFLICT DO NOTHING`, ids(units), int16(f), document)
	return err
}

// telling is a row of retain that is being told.
type telling struct {
	id             int64
	unit, document string
	gtin, serial   string
	fate           fate
	at             time.Time
	told           list[string]
	done           bool
}

// claimRetains takes what is due: of each unit the earliest, so that a sale
// and a return are told in their order.
const claimRetains = `WITH due AS (SELECT r.id FROM retain r WHERE r.done_at IS NULL AND r.next_try <= now()
   AND NOT EXISTS (SELECT FROM retain e WHERE e.unit = r.unit AND e.id < r.id AND e.done_at IS NULL)
  ORDER BY r.next_try LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE retain r SET tries = r.tries + 1, next_try = now() + greatest(interval '60 s', least(interval '5 s' * power(2, least(r.tries, 12)), interval '1 h'))
  FROM due, unit u WHERE r.id = due.id AND u.id = r.unit
RETURNING r.id, r.unit, r.document, u.gtin, u.serial, r.fate, r.at, to_json(r.told)`

// tellDue tells authenticators what became of units.
func (s *service) tellDue(ctx context.Context) (int, error) {
	var all []*telling
	rows, err := s.db.Rows(ctx, claimRetains, errandBatch)
	if err := each(rows, err, func(r row) error {
		t := &telling{}
		all = append(all, t)
		return r.Scan(&t.id, &t.unit, &t.document, &t.gtin, &t.serial, &t.fate, &t.at, &t.told)
	}); err != nil || len(all) == 0 {
		return 0, store.Wrap(err)
	}
	listeners, err := s.listeners(ctx)
	if err != nil {
		return 0, err
	}
	// Who does not answer once is left alone for this round: a wedged one must
	// not hold up what others are told.
	silent := make(map[string]bool)
	for _, t := range all {
		t.done = true
		for _, instance := range listeners {
			switch {
			case slices.Contains(t.told, instance):
			case !silent[instance] && s.tell(ctx, t, instance):
				t.told = append(t.told, instance)
			default:
				silent[instance], t.done = true, false
			}
		}
		if _, err := s.db.Do(ctx, `UPDATE retain SET told = $2, done_at = CASE WHEN $3 THEN now() END WHERE id = $1`,
			t.id, append([]string{}, t.told...), t.done); err != nil {
			return 0, store.Wrap(err)
		}
	}
	return len(all), nil
}

// listeners are the instances in any market that want to be told.
func (s *service) listeners(ctx context.Context) ([]string, error) {
	var out []string
	for _, market := range s.markets {
		res, err := s.authenticators.instances.ListInstances(ctx, &kernelv1.ListInstancesRequest{Contract: contract, Market: market})
		if err != nil {
			return nil, host.Relay(err)
		}
		for _, in := range res.GetInstances() {
			if slices.Contains(in.GetCapabilities(), retains) && !slices.Contains(out, in.GetInstance()) {
				out = append(out, in.GetInstance())
			}
		}
	}
	return out, nil
}

// tell tells one authenticator, and says whether that is over: one that
// refuses is not asked again.
func (s *service) tell(ctx context.Context, t *telling, instance string) bool {
	ctx, cancel := context.WithTimeout(ctx, s.authenticators.patience)
	defer cancel()
	_, err := s.authenticators.client.Retain(host.ToInstance(ctx, instance), &providerv1.RetainRequest{
		Key: t.unit + "/" + t.fate.String() + "/" + t.document, Gtin: t.gtin, Serial: t.serial, Fate: t.fate, At: timestamppb.New(t.at),
	})
	if err != nil && final(connect.CodeOf(err)) {
		s.log.WarnContext(ctx, "an authenticator does not take a unit's fate", "instance", instance, "unit", t.unit, "fate", t.fate, "error", err)
		return true
	}
	return err == nil
}

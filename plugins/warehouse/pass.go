package main

import (
	"context"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/event"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

// onPassed records what an inspection let through. The database asks the bus
// itself what stands at the positions: this code cannot make a pass up.
func onPassed(ctx context.Context, tx *store.Tx, events []event.Of[*inspectionv1.GoodsPassed]) error {
	positions := make([]int64, len(events))
	for i, e := range events {
		positions[i] = e.Position
	}
	_, err := tx.Do(ctx, `SELECT record_pass(u.position) FROM unnest($1::bigint[]) u(position)`, positions)
	return err
}

// onVerdicts takes back what was let through by a case whose verdict is
// another now.
func onVerdicts(ctx context.Context, tx *store.Tx, events []event.Of[*inspectionv1.VerdictConfirmed]) error {
	var cases []string
	var positions []int64
	for _, e := range events {
		if e.Body.GetVerdict() != inspectionv1.Verdict_VERDICT_GENUINE {
			cases, positions = append(cases, e.Body.GetCaseId()), append(positions, e.Position)
		}
	}
	if len(cases) == 0 {
		return nil
	}
	_, err := tx.Do(ctx, `SELECT revoke_passes($1, $2)`, cases, positions)
	return err
}

// notHeard is the answer while an inspection's word is still under way: the
// caller's saga tries again.
func notHeard() error {
	return fault.New(connect.CodeUnavailable, "PASS_NOT_HEARD", "the inspection's word on these goods has not come yet; try again")
}

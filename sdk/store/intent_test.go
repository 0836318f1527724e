package store_test

import (
	"context"
	"database/sql"
	"testing"
	"testing/fstest"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	_ "github.com/entrepot/entrepot/proto/entrepot/payment/v1" // the contract that the plugin under test serves
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
	"github.com/entrepot/entrepot/sdk/store"
)

const intentManifest = `name = "outside"
version = "0.1.0"
kind = "module"
title = "Writes intents"
serves "entrepot.payment.v1" {}`

var intent = store.NewIntent(2, `result AS (INSERT INTO plan (id, what)
  SELECT $1::text, $2::text FROM step WHERE step.open ON CONFLICT DO NOTHING RETURNING what)`)

// outside is a module with one table and a saga of two steps.
type outside struct {
	*plugintest.Module
	saga string
}

func openOutside(t *testing.T) *outside {
	t.Helper()
	m := plugintest.Start(t, plugin.Plugin{
		Manifest:   intentManifest,
		Migrations: fstest.MapFS{"20261101000000_plan.sql": {Data: []byte(`CREATE TABLE plan (id text PRIMARY KEY, what text NOT NULL)`)}},
		New:        func(context.Context, *plugin.Instance) error { return nil },
	})
	o := &outside{m, uuid.NewString()}
	for _, s := range []string{
		`INSERT INTO bus.saga_def VALUES ('x/y', 1, 'p_outside', '', '{entrepot.payment.v1,entrepot.payment.v1}', '{entrepot.payment.v1,entrepot.payment.v1}')`,
		`INSERT INTO bus.saga (id, def, ver, key, input) VALUES ('` + o.saga + `', 'x/y', 1, 'k', '')`,
	} {
		_, err := m.Admin.Exec(t.Context(), s)
		require.NoError(t, err)
	}
	return o
}

func (o *outside) at(ctx context.Context, s call.Step) context.Context {
	s.Saga = o.saga
	return call.With(ctx, call.Info{Step: &s})
}

func (o *outside) write(ctx context.Context, id, what string) (wrote sql.NullString, res *wrapperspb.StringValue, answered bool, err error) {
	res, answered, err = store.WriteIntent[*wrapperspb.StringValue](ctx, o.DB, intent, []any{id, what}, &wrote)
	return wrote, res, answered, err
}

func (o *outside) end(ctx context.Context, what string, err error) error {
	_, out := store.Mutate(ctx, o.DB, &wrapperspb.StringValue{}, func(context.Context, *store.Tx) (*wrapperspb.StringValue, error) {
		return wrapperspb.String(what), err
	})
	return out
}

func TestAnIntentIsWrittenOnceAndTheStepsAnswerStopsIt(t *testing.T) {
	t.Parallel()
	o := openOutside(t)
	ctx := o.at(t.Context(), call.Step{N: 1, Epoch: 1})
	wrote, _, answered, err := o.write(ctx, "a", "first")
	require.NoError(t, err)
	require.False(t, answered)
	require.Equal(t, "first", wrote.String)

	wrote, _, answered, err = o.write(ctx, "a", "again")
	require.NoError(t, err)
	require.False(t, answered, "the step has begun and not ended")
	require.False(t, wrote.Valid, "what was written stays")

	require.NoError(t, o.end(ctx, "done", nil))
	_, res, answered, err := o.write(ctx, "b", "late")
	require.NoError(t, err)
	require.True(t, answered)
	require.Equal(t, "done", res.GetValue())
	var n int
	require.NoError(t, o.Admin.QueryRow(t.Context(), `SELECT count(*) FROM p_outside.plan`).Scan(&n))
	require.Equal(t, 1, n, "nothing is written for a step that has ended")
}

func TestAnIntentAnswersARecordedRefusal(t *testing.T) {
	t.Parallel()
	o := openOutside(t)
	ctx := o.at(t.Context(), call.Step{N: 1, Epoch: 1})
	require.Error(t, o.end(ctx, "", fault.New(connect.CodeFailedPrecondition, "NO", "no")))
	_, _, answered, err := o.write(ctx, "a", "late")
	require.True(t, answered)
	require.Equal(t, "NO", fault.Reason(err))

	_, _, answered, err = o.write(o.at(t.Context(), call.Step{N: 1, Epoch: 1, Undo: true}), "a", "undo")
	require.NoError(t, err)
	require.True(t, answered, "there is nothing to undo of what was refused")
}

func TestUndoBeforeDoClosesTheStepForIntents(t *testing.T) {
	t.Parallel()
	o := openOutside(t)
	_, _, answered, err := o.write(o.at(t.Context(), call.Step{N: 2, Epoch: 1, Undo: true}), "a", "undo")
	require.NoError(t, err)
	require.True(t, answered)
	wrote, _, answered, err := o.write(o.at(t.Context(), call.Step{N: 2, Epoch: 1}), "a", "do")
	require.True(t, answered)
	require.False(t, wrote.Valid)
	require.Equal(t, fault.ReasonUndone, fault.Reason(err))
}

func TestAnIntentOfADriverThatWasTakenOverIsNotWritten(t *testing.T) {
	t.Parallel()
	o := openOutside(t)
	_, _, _, err := o.write(o.at(t.Context(), call.Step{N: 1, Epoch: 7}), "a", "stale")
	require.Equal(t, fault.ReasonStaleSaga, fault.Reason(err))
}

func TestOutsideOfASagaAnIntentIsPlain(t *testing.T) {
	t.Parallel()
	o := openOutside(t)
	wrote, _, answered, err := o.write(t.Context(), "a", "plain")
	require.NoError(t, err)
	require.False(t, answered)
	require.Equal(t, "plain", wrote.String)
}

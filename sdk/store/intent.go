package store

import (
	"context"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/sdk/busdb"
)

// Intent is the statement that writes down what a step is about to do outside
// the database, before it does it: a payment company or a carrier is called
// only after the intent is committed, so that a crash leaves a trace of what
// may have happened. It is one statement and one commit, the step's record
// included.
type Intent struct {
	inStep, outside string
}

// NewIntent makes an intent of common table expressions with the parameters
// $1 to $args. They may refer to the relation step with the one column open:
// they write only WHERE step.open, it is false when the step has ended before.
// The last expression is named result; its first row is what Write scans, and
// every column comes back null when it has none.
func NewIntent(args int, expressions string) *Intent {
	p := func(n int) string { return "$" + strconv.Itoa(args+n) }
	text := func(begun, columns string) string {
		return `WITH begun AS MATERIALIZED (` + begun + `),
step AS MATERIALIZED (SELECT NOT b.done AND (b.did IS NULL OR b.did <> 2) AS open FROM begun b),
` + expressions + `
SELECT ` + columns + `, result.* FROM begun b LEFT JOIN result ON true`
	}
	return &Intent{
		inStep: text(`SELECT s.done, s.status, s.res, s.did FROM bus.step_begin(`+p(1)+`::uuid, `+p(2)+`, `+p(3)+`, `+p(4)+`) s`,
			`b.done, b.status, b.res, b.did`),
		outside: text(`SELECT false AS done, NULL::smallint AS did`, `false, 0::smallint, NULL::bytea, NULL::smallint`),
	}
}

// WriteIntent writes an intent, for the saga step of the call or outside of
// one, and scans result into dest, whose targets take null. answered tells
// that there is nothing to do: the step has ended, res or err is its recorded
// answer; or it is the undo of what was refused, and is recorded as done.
func WriteIntent[Res proto.Message](ctx context.Context, db *DB, i *Intent, args []any, dest ...any) (res Res, answered bool, err error) {
	res = empty[Res]()
	var b begun
	var did *int16
	dest = append([]any{&b.done, &b.status, &b.result, &did}, dest...)
	st, ok := StepOf(ctx)
	if !ok {
		return res, false, Wrap(db.Row(ctx, i.outside, args...).Scan(dest...))
	}
	rec := &stepRecord{Step: st}
	args = append(args[:len(args):len(args)], st.Saga, int16(st.N), rec.dir(), st.Epoch)
	if err := db.Row(ctx, i.inStep, args...).Scan(dest...); err != nil {
		return res, false, Wrap(err)
	}
	if b.done || did != nil && *did == busdb.StepRefused {
		res, err = step(ctx, db, st, func(context.Context, *Tx) (Res, error) { return empty[Res](), nil })
		return res, true, err
	}
	return res, false, nil
}

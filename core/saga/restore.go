package saga

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
)

// row is a saga as the database has it.
type row struct {
	id      uuid.UUID
	def     string
	ver     int32
	status  int16
	step    int16
	epoch   int64
	tried   int16
	attempt int16
	timed   bool // it has a time until which it waits
	waited  bool // and that is over
	input   []byte
	err     []byte
	trouble []byte
}

const rowColumns = `s.id, s.def, s.ver, s.status, s.step, s.epoch, s.tried, s.attempt, s.wait_until IS NOT NULL,
	coalesce(s.wait_until <= now(), false), s.input, s.error, s.trouble`

func (w *row) scan(r pgx.Row) error {
	return r.Scan(&w.id, &w.def, &w.ver, &w.status, &w.step, &w.epoch, &w.tried, &w.attempt, &w.timed, &w.waited, &w.input, &w.err, &w.trouble)
}

// end tells how a saga ended that has.
func (w *row) end(def *definition) *end {
	switch w.status {
	case busdb.SagaDone:
		return &end{state: kernelv1.SagaState_SAGA_STATE_DONE}
	case busdb.SagaCompensated:
		return &end{state: kernelv1.SagaState_SAGA_STATE_COMPENSATED, step: def.stepName(int(w.step)), status: w.err}
	default:
		n := int(w.tried)
		if n < 0 {
			n = -n
		}
		return &end{state: kernelv1.SagaState_SAGA_STATE_STUCK, step: def.stepName(n), status: w.trouble}
	}
}

// restore reads the saga from the database: how it ended, that it is
// another's, or how far it is.
func (d *drive) restore(ctx context.Context) verdict {
	var w row
	err := d.insist(ctx, func(ctx context.Context) error {
		return w.scan(d.r.c.Pool.QueryRow(ctx, `SELECT `+rowColumns+` FROM bus.saga s WHERE s.id = $1`, d.id))
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		// It was never committed.
		d.final = &end{status: statusOf(fault.New(connect.CodeNotFound, "SAGA_UNKNOWN", "there is no such saga"))}
		return ended
	case err != nil:
		return putDown
	case w.status >= busdb.SagaDone:
		d.final = w.end(d.def)
		return ended
	case w.epoch != d.epoch.Load():
		return putDown
	}
	return d.continueFrom(ctx, w)
}

// continueFrom takes over how far a saga is.
func (d *drive) continueFrom(ctx context.Context, w row) verdict {
	p := newProgress(d.def)
	err := d.insist(ctx, func(ctx context.Context) error {
		rows, err := d.r.c.Pool.Query(ctx, `SELECT n, dir, status FROM bus.saga_step WHERE saga = $1`, d.id)
		if err != nil {
			return err
		}
		var n, dir, st int16
		_, err = pgx.ForEachRow(rows, []any{&n, &dir, &st}, func() error {
			if int(n) < 1 || int(n) >= len(p.do) {
				return nil
			}
			if dir == 0 {
				p.do[n] = status(st)
			} else {
				p.undo[n] = status(st)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return putDown
	}
	if w.status == busdb.SagaCompensating {
		p.failed = int(w.step)
	}
	d.progress, d.error = p, w.err
	d.tried, d.attempt, d.timed, d.waited = int(w.tried), int(w.attempt), w.timed, w.waited
	if p.failed > 0 {
		return goOn
	}
	// A refusal whose driver died before it could turn back.
	if n := d.def.doable(p, 1); n > 0 && p.do[n] == refused {
		return d.refusedBefore(ctx, n)
	}
	return goOn
}

// refusedBefore turns back from a step whose refusal is on record.
func (d *drive) refusedBefore(ctx context.Context, n int) verdict {
	var res []byte
	err := d.insist(ctx, func(ctx context.Context) error {
		return d.r.c.Pool.QueryRow(ctx, `SELECT res FROM bus.saga_step WHERE saga = $1 AND n = $2 AND dir = 0`, d.id, int16(n)).Scan(&res)
	})
	if err != nil {
		return putDown
	}
	return d.giveUp(ctx, n, errorOf(res), true)
}

// errorOf makes the error of a kept google.rpc.Status.
func errorOf(status []byte) error {
	st := &spb.Status{}
	if err := proto.Unmarshal(status, st); err != nil || st.GetCode() == 0 {
		return connect.NewError(connect.CodeAborted, "the step was refused")
	}
	return fault.FromStatus(st)
}

func stateOf(status int16) kernelv1.SagaState {
	return kernelv1.SagaState(status + 1)
}

// stateName is the operator's word for a state.
func stateName(s kernelv1.SagaState) string {
	switch s {
	case kernelv1.SagaState_SAGA_STATE_RUNNING:
		return "running"
	case kernelv1.SagaState_SAGA_STATE_WAITING:
		return "waiting"
	case kernelv1.SagaState_SAGA_STATE_COMPENSATING:
		return "compensating"
	case kernelv1.SagaState_SAGA_STATE_DONE:
		return "done"
	case kernelv1.SagaState_SAGA_STATE_COMPENSATED:
		return "compensated"
	case kernelv1.SagaState_SAGA_STATE_STUCK:
		return "stuck"
	default:
		return "unknown"
	}
}

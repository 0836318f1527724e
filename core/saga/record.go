package saga

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Everything the driver writes carries its epoch: what a driver writes that
// was taken over finds no row.

// mine is the condition of a saga that this driver has. $1 is the id, $2 the
// epoch.
const mine = `id = $1 AND epoch = $2 AND status < 3`

// write runs a statement with the saga's id and epoch before its arguments
// until the database answers or ctx ends. Without a row the saga is read
// again, and the verdict is what that says. The statements may be repeated: an
// answer may be lost after the commit.
func (d *drive) write(ctx context.Context, sql string, args ...any) verdict {
	n, ok := d.rows(ctx, sql, args...)
	switch {
	case !ok:
		return putDown
	case n == 0:
		// This driver's own acts cannot come of a saga that is in its hands
		// and yet is not: leave it to the next.
		if v := d.restore(ctx); v != goOn {
			return v
		}
		return putDown
	}
	return goOn
}

func (d *drive) rows(ctx context.Context, sql string, args ...any) (n int64, ok bool) {
	err := d.insist(ctx, func(ctx context.Context) error {
		tag, err := d.r.c.Pool.Exec(ctx, sql, append([]any{d.id, d.epoch.Load()}, args...)...)
		n = tag.RowsAffected()
		return err
	})
	return n, err == nil
}

// insist repeats work on the database, with pauses, until it answers or ctx
// ends: a driver without its database can do nothing else.
func (d *drive) insist(ctx context.Context, do func(context.Context) error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, d.r.c.Memory) {
		// What is under way when the runner is stopped is still written.
		sctx, cancel := context.WithTimeout(d.r.base, statement)
		err := do(sctx)
		cancel()
		if err == nil || errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.r.log.WarnContext(ctx, "saga: the database does not answer; trying again", "saga", d.id, "error", err)
		t := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// keepAttempt keeps that the step was tried in vain, and until when the saga
// rests: in this node's hands, or in nobody's.
func (d *drive) keepAttempt(ctx context.Context, tried int, pause time.Duration, keep bool, trouble []byte) verdict {
	return d.write(ctx, `UPDATE bus.saga SET tried = $3, attempt = $4, trouble = $5, wait_until = CASE WHEN tried = $3 THEN wait_until END,
		  due = now() + $6::bigint * interval '1 microsecond', node = $7,
		  lease_until = CASE WHEN $8 THEN now() + ($6::bigint + $9::bigint) * interval '1 microsecond' END WHERE `+mine,
		int16(tried), int16(min(d.attempt, 30_000)), trouble, pause.Microseconds(), d.r.c.Node, keep, lease.Microseconds())
}

// turnBack keeps that the saga goes backwards from the failed step, whose own
// record, if the kernel keeps it and it has no answer, is marked unknown.
func (d *drive) turnBack(ctx context.Context) verdict {
	return d.write(ctx, `WITH u AS (UPDATE bus.saga_step SET status = 3 WHERE saga = $1 AND n = $3::int2 AND dir = 0 AND status = 0)
		UPDATE bus.saga SET status = 2, step = $3::int2, error = $4, tried = 0, attempt = 0, due = now(), wait_until = NULL WHERE `+mine,
		int16(d.failed), d.error)
}

// close ends a saga whose last step did not end it in its own commit.
func (d *drive) close(ctx context.Context, status int) verdict {
	v := d.write(ctx, `UPDATE bus.saga SET status = $3, step = $4, error = $5, ended_at = now(), lease_until = NULL WHERE `+mine,
		int16(status), int16(d.failed), d.error)
	if v == goOn {
		return ended
	}
	return v
}

// stick leaves the saga to the operator: step n, or with -n its compensation,
// failed past its limit or was refused where there is no way back.
func (d *drive) stick(ctx context.Context, tried int, cause error) verdict {
	trouble := statusOf(cause)
	v := d.write(ctx, `UPDATE bus.saga SET status = 5, tried = $3::int2, attempt = $4, trouble = $5::bytea, lease_until = NULL,
		  step = CASE WHEN $3::int2 > 0 THEN $3::int2 ELSE step END, error = CASE WHEN $3::int2 > 0 THEN $5::bytea ELSE error END WHERE `+mine,
		int16(tried), int16(min(d.attempt, 30_000)), trouble)
	if v != goOn {
		return v
	}
	n, direction := tried, "do"
	if tried < 0 {
		n, direction = -tried, "undo"
	}
	d.final = &end{state: stateOf(busdb.SagaStuck), step: d.def.stepName(n), status: trouble}
	d.r.log.ErrorContext(ctx, "saga: stuck; the operator resumes it", "saga", d.id, "definition", d.def.name,
		"step", d.def.stepName(n), "direction", direction, "attempts", d.attempt, "error", connect.CodeOf(cause).String(), "reason", fault.Reason(cause))
	return ended
}

func dirOf(undo bool) int16 {
	if undo {
		return 1
	}
	return 0
}

// intend keeps that a provider is about to be called. found is failed when it
// is to be called; otherwise what is known of the step. A contract that turns
// out to be a module's needs no record here, and must not have one.
func (d *drive) intend(ctx context.Context, n int, undo bool, contract string) (found result, known error) {
	var module bool
	var st *int16
	var res []byte
	err := d.insist(ctx, func(ctx context.Context) error {
		return d.r.c.Pool.QueryRow(ctx, `WITH s AS (SELECT id, EXISTS (SELECT 1 FROM bus.serves WHERE contract = $5) AS module FROM bus.saga WHERE `+mine+` FOR SHARE),
			i AS (INSERT INTO bus.saga_step AS t (saga, n, dir, role) SELECT id, $3::int2, $4::int2, current_user FROM s WHERE NOT module
			      ON CONFLICT (saga, n, dir) DO UPDATE SET attempt = least(t.attempt + 1, 30000) RETURNING status, res)
			SELECT s.module, i.status, i.res FROM s LEFT JOIN i ON true`, d.id, d.epoch.Load(), int16(n), dirOf(undo), contract).Scan(&module, &st, &res)
	})
	switch {
	case err != nil:
		// No row, or the run is over: the saga is not this driver's.
		return overtaken, fault.New(connect.CodeAborted, fault.ReasonStaleSaga, "another driver has this saga").WithCause(err)
	case module:
		d.r.defs.modules.Store(contract, true)
		return failed, nil
	case st == nil || status(*st) == begun || status(*st) == unknown:
		return failed, nil
	case status(*st) == done:
		return recordedDone, nil
	default:
		return recordedRefused, errorOf(res)
	}
}

// recordDone keeps that a step is done whose answer says nothing of a record;
// with the last one the saga ends.
func (d *drive) recordDone(ctx context.Context, n int, undo, last bool) (result, error) {
	saga := `SELECT id FROM bus.saga WHERE ` + mine + ` FOR SHARE`
	if last {
		saga = `UPDATE bus.saga SET status = CASE WHEN $4::int2 = 0 THEN 3 ELSE 4 END, ended_at = now(), lease_until = NULL WHERE ` + mine + ` RETURNING id`
	}
	rows, ok := d.rows(ctx, `WITH s AS (`+saga+`)
		INSERT INTO bus.saga_step AS t (saga, n, dir, status, role, res) SELECT id, $3::int2, $4::int2, 1, current_user, '' FROM s
		ON CONFLICT (saga, n, dir) DO UPDATE SET status = 1, res = '', at = now()`, int16(n), dirOf(undo))
	if !ok || rows == 0 {
		return overtaken, fault.New(connect.CodeAborted, fault.ReasonStaleSaga, "another driver has this saga")
	}
	return recordedDone, nil
}

// recordRefusal keeps a refusal that the answer says nothing of a record of: a
// provider's, or one that arose before a module's transaction began. From
// then on the step cannot be done. Where a module has begun the step, its own
// word is waited for.
func (d *drive) recordRefusal(ctx context.Context, n int, refusal error) (result, error) {
	rows, ok := d.rows(ctx, `WITH s AS (SELECT id FROM bus.saga WHERE `+mine+` FOR SHARE)
		INSERT INTO bus.saga_step AS t (saga, n, dir, status, role, res) SELECT id, $3::int2, 0, 2, current_user, $4::bytea FROM s
		ON CONFLICT (saga, n, dir) DO UPDATE SET status = 2, res = $4, at = now() WHERE t.role = current_user AND t.status IN (0, 2, 3)`,
		int16(n), statusOf(refusal))
	switch {
	case !ok:
		return overtaken, refusal
	case rows == 0:
		return failed, refusal
	}
	return recordedRefused, refusal
}

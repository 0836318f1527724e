package saga

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// await makes sure that step n may be called now, and finds its request:
//   - with a signal named, the signal must be there, for at most wait_seconds;
//     its payload is the request, unless it is empty;
//   - with wait_seconds alone, that time must have passed;
//   - without a request in the input, the owner must have given it as a signal
//     with the step's name.
//
// Not ready: the verdict says why.
func (d *drive) await(ctx context.Context, n int) (req []byte, ready bool, v verdict) {
	s := d.def.step(n)
	given, ok := d.input.GetRequests()[s.GetName()]
	if s.GetWaitSignal() == "" && s.GetWaitSeconds() == 0 && ok {
		return given, true, goOn
	}
	over := d.tried == n && d.timed && d.waited
	if s.GetWaitSignal() == "" && s.GetWaitSeconds() > 0 && !over {
		return nil, false, d.hold(ctx, n, s)
	}
	signal := awaited(s, ok)
	if signal == "" {
		return given, true, goOn
	}
	payload, there, alive := d.signal(ctx, signal)
	switch {
	case !alive:
		return nil, false, putDown
	case there && len(payload) == 0 && ok:
		return given, true, goOn
	case there:
		return payload, true, goOn
	case over && s.GetWaitSignal() != "":
		late := fault.New(connect.CodeDeadlineExceeded, "SIGNAL_TIMEOUT", "what was waited for did not come in time", "signal", signal)
		if r, _ := d.recordRefusal(ctx, n, late); r != recordedRefused {
			return nil, false, d.restore(ctx)
		}
		d.do[n] = refused
		return nil, false, d.giveUp(ctx, n, late, true)
	}
	return nil, false, d.hold(ctx, n, s)
}

// awaited is the signal that a step's request depends on, empty for none.
func awaited(s *pluginv1.SagaStep, given bool) string {
	switch {
	case s.GetWaitSignal() != "":
		return s.GetWaitSignal()
	case !given:
		return s.GetName()
	default:
		return ""
	}
}

// hold puts the saga down until its signal comes or its time is over. The
// signal is looked for once more afterwards: one that was committed in between
// had not seen that the saga waits, and saga_signal orders itself after this
// by the row's lock.
func (d *drive) hold(ctx context.Context, n int, s *pluginv1.SagaStep) verdict {
	_, given := d.input.GetRequests()[s.GetName()]
	v := d.write(ctx, `UPDATE bus.saga SET status = 1, tried = $3::int2, lease_until = NULL,
		  attempt = CASE WHEN tried = $3::int2 THEN attempt ELSE 0 END,
		  wait_until = CASE WHEN tried = $3::int2 AND wait_until IS NOT NULL THEN wait_until WHEN $4::int > 0 THEN now() + $4::int * interval '1 second' END,
		  due = CASE WHEN tried = $3::int2 AND wait_until <= now() OR $4::int = 0 THEN 'infinity'
		             WHEN tried = $3::int2 AND wait_until IS NOT NULL THEN wait_until ELSE now() + $4::int * interval '1 second' END
		WHERE `+mine, int16(n), s.GetWaitSeconds())
	if v != goOn {
		return v
	}
	if name := awaited(s, given); name != "" {
		_, _ = d.rows(ctx, `UPDATE bus.saga SET due = now() WHERE `+mine+` AND EXISTS (SELECT 1 FROM bus.saga_signal WHERE saga = $1 AND name = $3)`, name)
	}
	return putDown
}

// signal reads a signal's payload. alive is false when the run is over.
func (d *drive) signal(ctx context.Context, name string) (payload []byte, there, alive bool) {
	err := d.insist(ctx, func(ctx context.Context) error {
		return d.r.c.Pool.QueryRow(ctx, `SELECT payload FROM bus.saga_signal WHERE saga = $1 AND name = $2`, d.id, name).Scan(&payload)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, true
	}
	return payload, err == nil, err == nil
}

// undoRequest is the request of a compensation: its own, or the step's. False
// when the run is over.
func (d *drive) undoRequest(ctx context.Context, n int) (req []byte, ok bool) {
	s := d.def.step(n)
	if own, ok := d.input.GetRequests()[s.GetName()+".undo"]; ok {
		return own, true
	}
	given, ok := d.input.GetRequests()[s.GetName()]
	name := awaited(s, ok)
	if name == "" || s.GetMethod() == "" {
		return given, true
	}
	payload, _, alive := d.signal(ctx, name)
	if len(payload) == 0 {
		payload = given
	}
	return payload, alive
}

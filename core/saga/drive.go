package saga

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
	"github.com/entrepot/entrepot/sdk/fault"
)

// drive is one saga while this node drives it. It belongs to the goroutine of
// run; id, began and epoch may be read by others.
type drive struct {
	r     *Runner
	id    uuid.UUID
	began time.Time
	epoch atomic.Int64

	def   *definition
	input *kernelv1.SagaInput
	progress
	// error of the failed step.
	error []byte
	// tried is the step at hand that was tried in vain or waits, negative for
	// its compensation, and attempt how often. timed: it has a time until
	// which it waits, and waited: that is over.
	// absent: there was nobody to try it with.
	tried, attempt int
	timed, waited  bool
	absent         bool
	// from is the saga as it was taken up; nil for one that begins.
	from *row
	// final is the end as read from the database, when it was found there.
	final *end
}

func (r *Runner) newDrive(id uuid.UUID, epoch int64, def *definition, input *kernelv1.SagaInput) *drive {
	d := &drive{r: r, id: id, began: time.Now(), def: def, input: input, progress: newProgress(def)}
	d.epoch.Store(epoch)
	return d
}

// verdict is what an act means for the drive.
type verdict int

const (
	// goOn: plan the next act.
	goOn verdict = iota
	// putDown: the saga waits, or is another's: this drive is over.
	putDown
	// ended: with the end in the drive.
	ended
)

// run drives the saga until it ends, waits, is another's, or ctx ends. It
// answers how it ended, nil when it has not.
func (d *drive) run(ctx context.Context) *end {
	v := goOn
	if d.from != nil {
		v = d.continueFrom(ctx, *d.from)
	}
	for ctx.Err() == nil {
		switch v {
		case putDown:
			return nil
		case ended:
			return d.outcome()
		case goOn:
		}
		switch a, n, last := d.def.next(d.progress); a {
		case forward:
			v = d.forward(ctx, n, last)
		case back:
			v = d.back(ctx, n, last)
		case finish:
			v = d.close(ctx, busdb.SagaDone)
		case compensated:
			v = d.close(ctx, busdb.SagaCompensated)
		}
	}
	if v == ended {
		return d.outcome()
	}
	return nil
}

// outcome is the end of a drive that has come to one.
func (d *drive) outcome() *end {
	switch {
	case d.final != nil:
		return d.final
	case d.failed == 0:
		return &end{state: kernelv1.SagaState_SAGA_STATE_DONE}
	}
	return &end{state: kernelv1.SagaState_SAGA_STATE_COMPENSATED, step: d.def.stepName(d.failed), status: d.error}
}

// forward does step n.
func (d *drive) forward(ctx context.Context, n int, last bool) verdict {
	req, ready, v := d.await(ctx, n)
	if !ready {
		return v
	}
	result, err := d.call(ctx, n, false, last, req)
	switch result {
	case recordedDone:
		d.do[n] = done
		return d.moved(last)
	case recordedRefused:
		d.do[n] = refused
		return d.giveUp(ctx, n, err, true)
	case overtaken:
		if v := d.restore(ctx); v != goOn || d.do[n] == done || d.do[n] == refused {
			return v
		}
	case failed:
	}
	if d.count(n, err) < attempts(d.def.step(n)) || unreached(err) && !d.def.goesBack(n, false) {
		return d.again(ctx, n, err)
	}
	d.do[n] = unknown
	return d.giveUp(ctx, n, err, false)
}

// back undoes step n.
func (d *drive) back(ctx context.Context, n int, last bool) verdict {
	req, ok := d.undoRequest(ctx, n)
	if !ok {
		return goOn // the run is over
	}
	result, err := d.call(ctx, n, true, last, req)
	switch result {
	case recordedDone:
		d.undo[n] = done
		return d.moved(last)
	case overtaken:
		if v := d.restore(ctx); v != goOn || d.undo[n] == done {
			return v
		}
	case recordedRefused, failed:
	}
	if d.count(-n, err) < attempts(d.def.step(n)) || unreached(err) {
		return d.again(ctx, -n, err)
	}
	return d.stick(ctx, -n, err)
}

// moved: a step is recorded. With the last one the saga has ended, in the same
// commit.
func (d *drive) moved(last bool) verdict {
	d.tried, d.attempt = 0, 0
	if last {
		return ended
	}
	return goOn
}

// count counts one more attempt of a step. Those that reached nobody are
// forgotten once somebody is there: a plugin that was down for long must not
// have used up the attempts that it has when it is back.
func (d *drive) count(tried int, err error) int {
	if d.tried != tried {
		d.tried, d.attempt, d.waited, d.timed = tried, 0, false, false
	}
	absent := unreached(err)
	if d.absent && !absent {
		d.attempt = 0
	}
	d.absent = absent
	d.attempt++
	return d.attempt
}

// again lets the step be tried once more after a pause: in memory a short one,
// before a long one the saga is put down.
func (d *drive) again(ctx context.Context, tried int, cause error) verdict {
	pause := d.pause(cause)
	short := pause <= d.r.c.Memory
	if v := d.keepAttempt(ctx, tried, pause, short, statusOf(cause)); v != goOn {
		return v
	}
	if !short {
		return putDown
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return goOn
}

// pause before the next attempt: exponential, half of it random; longer when
// the step asks for more.
func (d *drive) pause(cause error) time.Duration {
	p := min(d.r.c.RetryBase<<min(d.attempt-1, 20), maxPause)
	p = p/2 + rand.N(p/2+1)
	if hint, ok := fault.Detail[*errdetails.RetryInfo](cause); ok {
		p = max(p, min(hint.GetRetryDelay().AsDuration(), maxHint))
	}
	return p
}

// giveUp: step n cannot be done. known tells that it was refused; otherwise it
// may have happened.
func (d *drive) giveUp(ctx context.Context, n int, cause error, known bool) verdict {
	if !d.def.goesBack(n, known) {
		return d.stick(ctx, n, cause)
	}
	d.failed, d.error = n, statusOf(cause)
	d.tried, d.attempt = 0, 0
	a, _, _ := d.def.next(d.progress)
	if a == compensated {
		return d.close(ctx, busdb.SagaCompensated)
	}
	return d.turnBack(ctx)
}

// statusOf is an error as it is kept and answered: the words of the plugin
// that authored it, else the code alone.
func statusOf(err error) []byte {
	st := fault.Status(err)
	if st.GetCode() == 0 {
		st.Code = int32(connect.CodeUnknown)
	}
	b, merr := proto.Marshal(st)
	if merr != nil {
		return nil
	}
	return b
}

package saga

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
)

// result is what is known of a step after one attempt.
type result int

const (
	// failed: it is not known to have happened. Try again.
	failed result = iota
	// recordedDone and recordedRefused: that is in the database.
	recordedDone
	recordedRefused
	// overtaken: the database knows better. Read it.
	overtaken
)

// call makes one attempt of a step or its compensation.
func (d *drive) call(ctx context.Context, n int, undo, last bool, req []byte) (result, error) {
	s := d.def.step(n)
	method := s.GetMethod()
	if undo {
		method = s.GetCompensation()
	}
	if !d.r.defs.byModule(contractOf(method)) {
		// A provider has no database: the kernel keeps its record, and before
		// the call, that it is made.
		if found, known := d.intend(ctx, n, undo, contractOf(method)); found != failed {
			return found, known
		}
	}
	header, err := d.send(n, undo, last, method, req)
	recorded := header.Get(call.HeaderRecorded)
	switch {
	case err == nil && recorded == call.RecordedDone:
		return recordedDone, nil
	case err == nil && recorded == "":
		return d.recordDone(ctx, n, undo, last)
	case err == nil:
		return failed, connect.NewError(connect.CodeInternal, "the step answers both that it is done and that it is refused")
	case recorded == call.RecordedRefused && !undo:
		return recordedRefused, err
	case fault.Reason(err) == fault.ReasonStaleSaga && connect.CodeOf(err) == connect.CodeAborted:
		return overtaken, err
	case !undo && isRefusal(err):
		return d.recordRefusal(ctx, n, err)
	}
	return failed, err
}

// send calls the step. It runs to its own deadline even when the runner is
// being stopped, so that a stop does not cut off what is nearly done.
func (d *drive) send(n int, undo, last bool, method string, req []byte) (http.Header, error) {
	ctx, cancel := context.WithTimeout(d.r.base, timeout(d.def.step(n), d.r.c.StepTimeout))
	defer cancel()
	_, header, err := d.r.c.Caller.Unary(ctx, method, call.Info{
		Principal: call.Principal{Kind: call.Plugin, Plugin: d.def.owner},
		Caller:    d.def.owner,
		Market:    d.input.GetMarket(),
		Step:      &call.Step{Saga: d.id.String(), N: n, Undo: undo, Epoch: d.epoch.Load(), Last: last},
	}, req)
	d.r.metrics.step(undo, err)
	return header, err
}

// unreached tells whether the kernel itself found nobody to call: for the
// saga, or for a step that calls others in its turn and passes that on. A saga
// that can only go on waits for the plugin then, however long: its absence is
// the supervisor's alarm, and no operator is to resume every saga one by one
// when it is back.
func unreached(err error) bool {
	var ce *connect.Error
	return errors.As(err, &ce) && ce.Code() == connect.CodeUnavailable && (!ce.IsRemote() || fault.Reason(err) == fault.ReasonPluginUnavailable)
}

// isRefusal tells whether an error that the plugin itself answered is a "no"
// that repeating cannot change.
func isRefusal(err error) bool {
	var ce *connect.Error
	if !errors.As(err, &ce) || !ce.IsRemote() {
		return false
	}
	switch ce.Code() {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeUnimplemented:
		return true
	default:
		return false
	}
}

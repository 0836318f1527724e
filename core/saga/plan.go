package saga

import (
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// status is how one step, or its compensation, stands.
type status int8

const (
	none    status = -1
	begun   status = busdb.StepBegun
	done    status = busdb.StepDone
	refused status = busdb.StepRefused
	unknown status = busdb.StepUnknown
)

// progress is how far a saga is. Index 0 is not used: steps count from 1.
type progress struct {
	do, undo []status
	// failed is the step from which the saga goes backwards; 0: it goes
	// forward.
	failed int
}

func newProgress(d *definition) progress {
	p := progress{do: make([]status, len(d.steps)+1), undo: make([]status, len(d.steps)+1)}
	for n := range p.do {
		p.do[n], p.undo[n] = none, none
	}
	return p
}

// act is what is to be done next.
type act int

const (
	forward act = iota
	back
	finish      // forward, and every step is done
	compensated // backwards, and everything is undone
)

// next plans the next act: the step, and whether the saga ends with it.
func (d *definition) next(p progress) (a act, n int, last bool) {
	if p.failed > 0 {
		n = d.undoable(p, len(d.steps))
		if n == 0 {
			return compensated, 0, false
		}
		return back, n, d.undoable(p, n-1) == 0
	}
	n = d.doable(p, 1)
	if n == 0 {
		return finish, 0, false
	}
	return forward, n, d.doable(p, n+1) == 0
}

// doable is the first step from n on that is to be done. A step without a
// method was done by the transaction that started the saga.
func (d *definition) doable(p progress, n int) int {
	for ; n <= len(d.steps); n++ {
		if d.step(n).GetMethod() != "" && p.do[n] != done {
			return n
		}
	}
	return 0
}

// undoable is the first step from n downward that is to be undone: it is done,
// or may be. One without a method is, wherever it stands; of the others, those
// before the failed one, and the failed one itself unless it was refused. A
// step that is refused and has an undo on record bears that undo's tombstone.
func (d *definition) undoable(p progress, n int) int {
	for ; n >= 1; n-- {
		s := d.step(n)
		switch {
		case s.GetCompensation() == "" || s.GetKind() != pluginv1.SagaStep_KIND_COMPENSATABLE:
		case n > p.failed && s.GetMethod() != "":
		case p.undo[n] == done:
		case p.do[n] == refused && p.undo[n] == none:
		default:
			return n
		}
	}
	return 0
}

// goesBack tells whether the saga is compensated when step n cannot be done.
// After a pivot it only goes forward; a retriable step is never given up; and
// a pivot whose outcome is not known may have happened.
func (d *definition) goesBack(n int, known bool) bool {
	for k := 1; k < n; k++ {
		if d.step(k).GetKind() == pluginv1.SagaStep_KIND_PIVOT {
			return false
		}
	}
	switch d.step(n).GetKind() {
	case pluginv1.SagaStep_KIND_RETRIABLE:
		return false
	case pluginv1.SagaStep_KIND_PIVOT:
		return known
	default:
		return true
	}
}

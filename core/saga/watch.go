package saga

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// watch is the calls that wait for one saga's end.
type watch struct {
	done  chan struct{}
	calls int
	end   *end // set before done is closed
}

// watch begins to wait for a saga's end. leave is to be called.
func (r *Runner) watch(id uuid.UUID) (w *watch, leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiters >= r.c.Waiters {
		return nil, nil, errBusy
	}
	w = r.watches[id]
	if w == nil {
		w = &watch{done: make(chan struct{})}
		r.watches[id] = w
	}
	w.calls++
	r.waiters++
	return w, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.waiters--
		if w.calls--; w.calls == 0 && r.watches[id] == w {
			delete(r.watches, id)
		}
	}, nil
}

// tell answers the calls that wait for a saga.
func (r *Runner) tell(id uuid.UUID, e *end) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.watches[id]; w != nil {
		w.end = e
		close(w.done)
		delete(r.watches, id)
	}
}

// look looks for the ends of sagas that are waited for here and not driven
// here: they wait for a signal, or are another node's.
func (r *Runner) look(ctx context.Context) error {
	r.mu.Lock()
	ids := make([]uuid.UUID, 0, len(r.watches))
	for id := range r.watches {
		if r.drives[id] == nil {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := r.c.Pool.Query(ctx, `SELECT `+rowColumns+` FROM bus.saga s WHERE s.id = ANY ($1) AND s.status >= 3`, ids)
	if err != nil {
		return err
	}
	over, err := pgx.CollectRows(rows, func(cr pgx.CollectableRow) (w row, err error) {
		return w, w.scan(cr)
	})
	if err != nil {
		return err
	}
	for _, w := range over {
		def, err := r.defs.get(ctx, w.def, w.ver)
		if err != nil {
			return err
		}
		r.tell(w.id, w.end(def))
	}
	return nil
}

package saga

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// claim makes sagas this node's: a new epoch, so that whoever drove them
// before can do nothing more. One whose step is being committed right now is
// passed over.
const claim = `UPDATE bus.saga s SET epoch = s.epoch + 1, node = $1, lease_until = now() + $2::bigint * interval '1 microsecond',
	  status = CASE s.status WHEN 1 THEN 0 ELSE s.status END
	WHERE s.id IN (SELECT c.id FROM bus.saga c WHERE `

const claimEnd = ` FOR UPDATE SKIP LOCKED) RETURNING ` + rowColumns

// free: nobody has it, its node is dead, or that has not renewed it.
const free = `c.status < 3 AND c.due <= now() AND (c.lease_until IS NULL OR c.lease_until < now()
	  OR c.node <> $1 AND c.node NOT IN (SELECT l.id FROM bus.live_node l))`

// lookAround tells, in a statement that the index on due answers, whether a saga is free, and after which time the next one
// that waits falls due, in microseconds, if that is before the next look. It
// locks and writes nothing: most looks find nothing. $1 is
// this node, $2 are the sagas that it drives, $3 is the time to the next look.
const lookAround = `SELECT coalesce(bool_or(` + free + `), false),
	  (extract(epoch FROM min(c.due) FILTER (WHERE c.due > now() AND c.lease_until IS NULL) - now()) * 1e6)::bigint
	FROM bus.saga c WHERE c.status < 3 AND c.due < now() + $3::bigint * interval '1 microsecond' AND c.id <> ALL ($2)`

// takeUp drives sagas that nobody drives, as many as there is room for.
func (r *Runner) takeUp(ctx context.Context) error {
	here, _ := r.driven(0)
	room := r.c.Drives - len(here)
	if room <= 0 {
		return nil
	}
	if here == nil {
		here = []uuid.UUID{}
	}
	if some, err := r.anyFree(ctx, here); err != nil || !some {
		return err
	}
	rows, err := r.claim(ctx, claim+free+` AND c.id <> ALL ($3) ORDER BY c.due LIMIT $4`+claimEnd, here, min(room, 64))
	if err != nil {
		return err
	}
	for _, w := range rows {
		if err := r.resume(ctx, w); err != nil {
			// It is this node's until its lease is over; then the next may try.
			r.log.ErrorContext(ctx, "saga: cannot be taken up", "saga", w.id, "definition", w.def, "error", err)
		}
	}
	if len(rows) == 64 {
		r.lookAgain()
	}
	return nil
}

// anyFree looks around, and sees to it that the next saga to fall due finds
// the node looking.
func (r *Runner) anyFree(ctx context.Context, here []uuid.UUID) (some bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	var next *int64
	if err := r.c.Pool.QueryRow(ctx, lookAround, r.c.Node, here, r.c.Poll.Microseconds()).Scan(&some, &next); err != nil {
		return false, err
	}
	if next != nil {
		time.AfterFunc(time.Duration(*next)*time.Microsecond, r.lookAgain)
	}
	return some, nil
}

// lookAgain has the node look for sagas at once.
func (r *Runner) lookAgain() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *Runner) claim(ctx context.Context, sql string, args ...any) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	rows, err := r.c.Pool.Query(ctx, sql, append([]any{r.c.Node, lease.Microseconds()}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(cr pgx.CollectableRow) (w row, err error) {
		return w, w.scan(cr)
	})
}

// resume drives a claimed saga from where it is.
func (r *Runner) resume(ctx context.Context, w row) error {
	def, err := r.defs.get(ctx, w.def, w.ver)
	if err != nil {
		return err
	}
	in := &kernelv1.SagaInput{}
	if err := proto.Unmarshal(w.input, in); err != nil {
		return fmt.Errorf("input: %w", err)
	}
	d := r.newDrive(w.id, w.epoch, def, in)
	d.from = &w
	return r.begin(d)
}

// take drives one saga that a plugin asks for, unless it is driven, waits, or
// is another node's. An end that it came to already is answered.
func (r *Runner) take(ctx context.Context, plugin string, id uuid.UUID) (*end, error) {
	if r.isDriven(id) {
		return nil, r.owned(plugin, id)
	}
	// A saga that was started for this node and that nobody drives here is
	// free for it.
	rows, err := r.claim(ctx, claim+`c.id = $3 AND starts_with(c.def, $4) AND (`+free+` OR c.status < 3 AND c.due <= now() AND c.node = $1)`+claimEnd,
		id, plugin+"/")
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 {
		return nil, r.resume(ctx, rows[0])
	}
	var w row
	qctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	err = w.scan(r.c.Pool.QueryRow(qctx, `SELECT `+rowColumns+` FROM bus.saga s WHERE s.id = $1 AND starts_with(s.def, $2)`, id, plugin+"/"))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errGone
	}
	if err != nil || w.status < busdb.SagaDone {
		return nil, err
	}
	def, err := r.defs.get(ctx, w.def, w.ver)
	if err != nil {
		return nil, err
	}
	return w.end(def), nil
}

// owned checks that a driven saga is the plugin's.
func (r *Runner) owned(plugin string, id uuid.UUID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.drives[id]; d != nil && d.def.owner != plugin {
		return errGone
	}
	return nil
}

// renew keeps the driven sagas this node's: all of them in one statement, and
// none that are young. One whose step is being committed right now is passed
// over: nobody can claim it either.
func (r *Runner) renew(ctx context.Context) error {
	ids, epochs := r.driven(renewAfter)
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	_, err := r.c.Pool.Exec(ctx, `UPDATE bus.saga SET lease_until = greatest(lease_until, now() + $3::bigint * interval '1 microsecond') WHERE id IN
		(SELECT s.id FROM bus.saga s JOIN unnest($1::uuid[], $2::bigint[]) d(id, epoch) ON d.id = s.id AND d.epoch = s.epoch
		  WHERE s.status IN (0, 2) AND s.lease_until IS NOT NULL FOR NO KEY UPDATE OF s SKIP LOCKED)`, ids, epochs, lease.Microseconds())
	return err
}

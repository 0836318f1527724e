package saga

import (
	"context"
	"time"
)

const (
	// forgetEvery is how often ended sagas are looked at that are old.
	forgetEvery = time.Minute
	// forgetBatch bounds one statement, forgetBatches one look: what is left
	// is for the next.
	forgetBatch, forgetBatches = 1000, 20
)

// forgetOld drops sagas that ended well, done or compensated, longer ago than
// they are kept, with their steps and signals. One that is stuck is the
// operator's, however old. A saga that ended late began early, so the index on
// the beginnings finds them.
func (r *Runner) forgetOld(ctx context.Context) error {
	for range forgetBatches {
		n, err := r.forgetSome(ctx)
		if err != nil || n < forgetBatch {
			return err
		}
	}
	return nil
}

func (r *Runner) forgetSome(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	tag, err := r.c.Pool.Exec(ctx, `DELETE FROM bus.saga WHERE id IN (SELECT id FROM bus.saga
		WHERE created_at < now() - make_interval(days => $1) AND status IN (3, 4) AND ended_at < now() - make_interval(days => $1)
		ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, r.c.KeepDays, forgetBatch)
	return tag.RowsAffected(), err
}

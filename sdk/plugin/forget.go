package plugin

import (
	"context"
	"time"

	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// answersKept is how long the answer to an Idempotency-Key is known. Who
	// repeats a call later than that makes a new one.
	answersKept = 7 * 24 * time.Hour
	// forgetEvery is how often older answers are dropped, forgetBatch how many
	// in one statement.
	forgetEvery = 10 * time.Minute
	forgetBatch = 1000
)

// forget drops old answers until ctx ends. The module itself does so, with its
// own role: a kernel that wrote in a module's table would run the module's
// triggers with the kernel's rights.
func (in *Instance) forget(ctx context.Context) {
	t := time.NewTicker(forgetEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := forgetAnswers(ctx, in.DB); err != nil && ctx.Err() == nil {
			in.Log.WarnContext(ctx, "old answers cannot be dropped; trying again later", "error", err)
		}
	}
}

func forgetAnswers(ctx context.Context, db *store.DB) error {
	for {
		res, err := db.NewRaw(`DELETE FROM idempotency WHERE (scope, key) IN (SELECT scope, key FROM idempotency
			WHERE at < now() - ? * interval '1 second' ORDER BY at LIMIT ? FOR UPDATE SKIP LOCKED)`, int64(answersKept.Seconds()), forgetBatch).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n < forgetBatch {
			return err
		}
	}
}

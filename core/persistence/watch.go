package persistence

import (
	"context"
	"time"
)

// Limits of a module's session. The role carries them as settings, which the
// role itself can change: Watch enforces them from outside.
const (
	maxIdleInTransaction = 10 * time.Second
	maxStatement         = 60 * time.Second
)

// Watch ends sessions of modules that hold a transaction open without using
// it, or run one statement, for longer than their limits. It returns when ctx
// ends.
func (db *DB) Watch(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := db.endOffenders(ctx, maxIdleInTransaction, maxStatement); err != nil && ctx.Err() == nil {
			db.log.Warn("sessions of modules cannot be watched", "error", err)
		}
	}
}

func (db *DB) endOffenders(ctx context.Context, idle, statement time.Duration) error {
	db.mu.Lock()
	roles := make([]string, 0, len(db.secrets))
	for r := range db.secrets {
		roles = append(roles, r)
	}
	db.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rows, err := db.admin.Query(ctx, `SELECT usename::text, pid, state, pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = ANY ($1)
		  AND (state LIKE 'idle in transaction%' AND state_change < clock_timestamp() - $2::interval
		    OR state = 'active' AND query_start < clock_timestamp() - $3::interval)`, roles, idle, statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var role, state string
		var pid int32
		var ended bool
		if err := rows.Scan(&role, &pid, &state, &ended); err != nil {
			return err
		}
		db.log.Warn("session of a module ended: it held on too long", "role", role, "pid", pid, "state", state)
	}
	return rows.Err()
}

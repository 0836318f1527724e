package bus

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A replica that takes over, or a server that does not wait for its disk, may
// come back without the last moments: positions are given again, to other
// events. What was remembered of them must not hide those.
func TestADatabaseThatCameBackWithoutItsLastMomentsIsReadAnew(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.module("order")
	b := h.start(m)
	b.register(t, m.registration(everything()))
	for _, n := range []string{"a", "b", "c"} {
		m.publish("k", n)
	}
	h.handled(m, 3)
	require.EqualValues(t, 3, h.number(`SELECT max(pos) FROM bus.log`))

	admin := newPool(t, h.db.URL, 1, "admin")
	tx, err := admin.Begin(t.Context())
	require.NoError(t, err)
	for _, sql := range []string{
		`LOCK TABLE bus.log, bus.outbox IN ACCESS EXCLUSIVE MODE`,
		`DELETE FROM bus.log WHERE pos = 3`,
		`SELECT setval('bus.log_pos', 2)`,
		`UPDATE bus.cursor SET pos = 2 WHERE pos = 3`,
		`DELETE FROM ` + m.role + `.effect WHERE n = 'c'`,
		`SELECT bus.publish_for('order', '` + topic + `', 'k', 'another c')`,
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'entrepot/bus' AND datname = current_database()`,
	} {
		_, err := tx.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, tx.Commit(context.Background()))
	h.eventually("the event at the old position arrives", func() bool {
		var n int64
		err := admin.QueryRow(context.Background(), `SELECT count(*) FROM `+m.role+`.effect WHERE n = 'another c'`).Scan(&n)
		return err == nil && n == 1
	})
	require.EqualValues(t, 3, h.number(`SELECT max(pos) FROM bus.log`))
}

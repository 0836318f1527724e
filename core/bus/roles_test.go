package bus

import (
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/busdb"
)

// What a module may do in the database is what its manifest says, whatever
// code it runs there.
func TestAModulesRoleCanDoNothingButItsOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m, other := h.module("order"), h.module("other")
	b := h.prepare(m)
	mine := b.register(t, m.registration(everything()))["all"]
	r := other.registration(everything())
	r.Manifest.Publishes = []string{"entrepot.other.v1.Happened"}
	theirs := b.register(t, r)["all"]
	h.exec(`INSERT INTO bus.saga_def VALUES ('other/x', 1, $1, '', '{entrepot.other.v1}', '{""}')`, other.role)
	h.exec(`INSERT INTO bus.saga (id, def, ver, key, input) VALUES ('00000000-0000-0000-0000-000000000001', 'other/x', 1, 'k', '')`)

	for name, c := range map[string]struct {
		sql   string
		state string
	}{
		"publish another's topic":          {`SELECT bus.publish(ARRAY['entrepot.other.v1.Happened'], ARRAY['k'], ARRAY[''::bytea])`, "42501"},
		"publish mixed topics":             {`SELECT bus.publish(ARRAY['` + topic + `', 'entrepot.other.v1.Happened'], ARRAY['k', 'k'], ARRAY[''::bytea, ''])`, "42501"},
		"set a timer for another's topic":  {`SELECT bus.timer_set('t', 'entrepot.other.v1.Happened', 'k', '', now())`, "42501"},
		"write the outbox":                 {`INSERT INTO bus.outbox (source, topic, key, lane, payload) VALUES ('other', 'x', 'k', 0, '')`, "42501"},
		"write the log":                    {`INSERT INTO bus.log SELECT 1, gen_random_uuid(), 'other', 'x', 'k', 0, now(), NULL, ''`, "42501"},
		"read the log":                     {`SELECT * FROM bus.log`, "42501"},
		"grant itself a topic":             {`INSERT INTO bus.pubgrant VALUES (session_user, 'x', 'other')`, "42501"},
		"move a cursor by hand":            {`UPDATE bus.cursor SET pos = 100`, "42501"},
		"call the sequencer":               {`SELECT * FROM bus.sequence_batch(1, 0, NULL, NULL)`, "42501"},
		"publish as the kernel":            {`SELECT bus.publish_for('other', 'x', 'k', '')`, "42501"},
		"fire timers":                      {`SELECT bus.timers_fire(1)`, "42501"},
		"move another's cursor":            {`SELECT bus.ack(` + strconv.Itoa(int(theirs)) + `::smallint, '{0}', '{0}', '{5}')`, "BU001"},
		"take another's event":             {`SELECT bus.ack_parked(` + strconv.Itoa(int(theirs)) + `::smallint, 1)`, "BU001"},
		"start another's saga":             {`SELECT bus.saga_start(gen_random_uuid(), 'other/x', 1, 'k2', '', 'n')`, "42501"},
		"do a step of another's contract":  {`SELECT bus.step_begin('00000000-0000-0000-0000-000000000001', 1::smallint, 0::smallint, 1)`, "42501"},
		"end a step that it has not begun": {`SELECT bus.step_end('00000000-0000-0000-0000-000000000001', 1::smallint, 0::smallint, 1::smallint, '', false)`, "BU003"},
		"become another role":              {`SET ROLE ` + other.role, "42501"},
		"read another's schema":            {`SELECT * FROM ` + other.role + `.effect`, "42501"},
		"make something in the bus":        {`CREATE TABLE bus.x ()`, "42501"},
		"publish more than a transaction":  {`SELECT bus.publish(array_fill('` + topic + `'::text, ARRAY[501]), array_fill('k'::text, ARRAY[501]), array_fill(''::bytea, ARRAY[501]))`, "54000"},
		"publish what fits in no delivery": {`SELECT bus.publish(ARRAY['` + topic + `'], ARRAY['k'], ARRAY[convert_to(repeat('x', 300000), 'utf8')])`, "23514"},
		"publish a key that fits no index": {`SELECT bus.publish(ARRAY['` + topic + `'], ARRAY[repeat('x', 3000)], ARRAY[''::bytea])`, "23514"},
	} {
		_, err := m.pool.Exec(t.Context(), c.sql)
		var pe *pgconn.PgError
		require.ErrorAsf(t, err, &pe, "%s", name)
		require.Equal(t, c.state, pe.Code, "%s: %s", name, pe.Message)
	}
	signalled := h.number(`SELECT count(*) FROM bus.saga_signal`)
	_, err := m.pool.Exec(t.Context(), `SELECT bus.saga_signal('00000000-0000-0000-0000-000000000001', 'x', '')`)
	require.NoError(t, err)
	require.Equal(t, signalled, h.number(`SELECT count(*) FROM bus.saga_signal`), "another's saga gets no signal")
	_, err = m.pool.Exec(t.Context(), `SELECT bus.ack($1::smallint, '{0}', '{0}', '{5}')`, mine)
	require.NoError(t, err, "its own is its own")
}

// What stands in the log a module hears by its position, and only what it
// subscribes to: on another's word it lets things through.
func TestAModuleHearsWhatItSubscribesTo(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m, other := h.module("order"), h.module("other")
	b := h.prepare(m)
	b.register(t, m.registration(everything()))
	b.register(t, other.registration(&pluginv1.Subscription{Name: "all", Topics: []string{"entrepot.other.v1.Happened"}}))
	m.publish("k", "a")
	h.exec(`SELECT bus.sequence_batch(10, 0, NULL, NULL)`)
	for _, x := range []*module{m, other} {
		for _, f := range busdb.OwnerFunctions {
			h.exec("GRANT EXECUTE ON FUNCTION " + f + " TO " + x.role)
		}
	}
	heard := func(m *module, pos int) (all []string) {
		rows, err := m.pool.Query(t.Context(), `SELECT source || ' ' || topic || ' ' || key FROM bus.heard($1)`, pos)
		require.NoError(t, err)
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return all
	}
	require.Equal(t, []string{"order " + topic + " k"}, heard(m, 1))
	require.Empty(t, heard(m, 2), "nothing stands there")
	require.Empty(t, heard(other, 1), "it does not subscribe to the topic")
	h.exec(`UPDATE bus.subscription SET state = 'off'`)
	require.Empty(t, heard(m, 1))
}

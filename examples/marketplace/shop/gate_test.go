package shop_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// A gate stands in the way of every saga's every step, in the database and
// nowhere in the product: where the step's transaction has begun, and where it
// commits. What comes there waits for the gate's advisory lock, so that a
// process can be killed at exactly that moment. Behind the second gate the
// commit is made whatever happens to who asked for it.
const gateSchema = `
CREATE SCHEMA gate;
CREATE TABLE gate.gate (key int PRIMARY KEY, def text NOT NULL, n int2 NOT NULL, dir int2 NOT NULL, moment int2 NOT NULL, UNIQUE (def, n, dir, moment));
CREATE FUNCTION gate.wait(p_saga uuid, p_n int2, p_dir int2, p_moment int2) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE k int;
BEGIN
  SELECT g.key INTO k FROM bus.saga s JOIN gate.gate g ON g.def = s.def WHERE s.id = p_saga AND g.n = p_n AND g.dir = p_dir AND g.moment = p_moment;
  IF FOUND THEN
    PERFORM set_config('application_name', p_saga::text, true);
    PERFORM pg_advisory_lock_shared(7203, k);
    PERFORM pg_advisory_unlock_shared(7203, k);
  END IF;
END $$;
CREATE FUNCTION gate.begun() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.status = 0 THEN PERFORM gate.wait(NEW.saga, NEW.n, NEW.dir, 0::int2); END IF;
  RETURN NEW;
END $$;
CREATE FUNCTION gate.committing() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  PERFORM gate.wait(NEW.saga, NEW.n, NEW.dir, 1::int2);
  RETURN NULL;
END $$;
CREATE TRIGGER begun BEFORE INSERT ON bus.saga_step FOR EACH ROW EXECUTE FUNCTION gate.begun();
CREATE CONSTRAINT TRIGGER committing AFTER UPDATE ON bus.saga_step DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.status = 1 AND OLD.status <> 1) EXECUTE FUNCTION gate.committing();

-- A refusal that nothing in the story leads to is put on record when the saga
-- starts, as if the module had refused.
CREATE TABLE gate.refusal (def text NOT NULL, key text NOT NULL, n int2 NOT NULL, role text NOT NULL, res bytea NOT NULL);
CREATE FUNCTION gate.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  WITH r AS (DELETE FROM gate.refusal r WHERE r.def = NEW.def AND starts_with(NEW.key, r.key) RETURNING r.*)
  INSERT INTO bus.saga_step (saga, n, dir, status, role, res) SELECT NEW.id, r.n, 0, 2, r.role, r.res FROM r;
  RETURN NULL;
END $$;
CREATE TRIGGER refuse AFTER INSERT ON bus.saga FOR EACH ROW EXECUTE FUNCTION gate.refuse();`

// moment of a step's transaction.
type moment int16

const (
	begun     moment = iota // the step was delivered, nothing of it is committed
	committed               // its effect is committed, nobody has the answer
)

func (m moment) String() string { return [...]string{"begun", "committed"}[m] }

// step of a saga, or its compensation.
type step struct {
	saga string // "<plugin>/<name>"
	n    int16  // from 1
	undo bool
	name string
	// owner is the plugin that executes it.
	owner string
}

func (s step) starter() string {
	plugin, _, _ := strings.Cut(s.saga, "/")
	return plugin
}

func (s step) String() string {
	if s.undo {
		return s.saga + "." + s.name + ".undo"
	}
	return s.saga + "." + s.name
}

// gate is where a step is stopped.
type gate struct {
	step
	moment moment
}

// declared are the steps of every saga that the kernel knows, as its modules
// declared them, and each saga as docs/sagas.md shows it.
func declared(t *testing.T, db *pgx.Conn) (all []step, shown map[string]string) {
	t.Helper()
	shown = map[string]string{}
	serves := map[string]string{}
	rows, err := db.Query(t.Context(), `SELECT contract, role FROM bus.serves`)
	require.NoError(t, err)
	var contract, role string
	_, err = pgx.ForEachRow(rows, []any{&contract, &role}, func() error {
		serves[contract] = strings.TrimPrefix(role, "p_")
		return nil
	})
	require.NoError(t, err)
	rows, err = db.Query(t.Context(), `SELECT def, body FROM bus.saga_def ORDER BY def, ver`)
	require.NoError(t, err)
	var def string
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&def, &body}, func() error {
		d := &pluginv1.SagaDefinition{}
		if err := proto.Unmarshal(body, d); err != nil {
			return err
		}
		shown[def] = show(d)
		for i, s := range d.GetSteps() {
			for _, undo := range []bool{false, true} {
				method := s.GetMethod()
				if undo {
					method = s.GetCompensation()
				}
				if method == "" {
					continue
				}
				service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
				owner, ok := serves[service[:strings.LastIndexByte(service, '.')]]
				if !ok {
					return fmt.Errorf("nobody serves %s of saga %s", method, def)
				}
				all = append(all, step{saga: def, n: int16(i + 1), undo: undo, name: s.GetName(), owner: owner})
			}
		}
		return nil
	})
	require.NoError(t, err)
	return all, shown
}

// show writes a saga's steps in a line: the pivot in bold, what only goes
// forward in italics, and what undoes a step behind an arrow.
func show(d *pluginv1.SagaDefinition) string {
	method := func(procedure string) string { return "`" + procedure[strings.LastIndexByte(procedure, '/')+1:] + "`" }
	var steps []string
	for _, s := range d.GetSteps() {
		line := s.GetName()
		switch s.GetKind() {
		case pluginv1.SagaStep_KIND_PIVOT:
			line = "**" + line + "**"
		case pluginv1.SagaStep_KIND_RETRIABLE:
			line = "*" + line + "*"
		}
		if s.GetMethod() != "" {
			line += " " + method(s.GetMethod())
		}
		if s.GetCompensation() != "" {
			line += " ↩ " + method(s.GetCompensation())
		}
		steps = append(steps, line)
	}
	return strings.Join(steps, " · ")
}

// gates are those of a marketplace. They belong to one goroutine at a time.
type gates struct {
	// keeper's session has the locks.
	keeper *pgx.Conn
	keys   map[gate]int32
	by     map[int32]gate
	shut   map[gate]bool
}

func buildGates(t *testing.T, keeper *pgx.Conn, steps []step) *gates {
	t.Helper()
	g := &gates{keeper: keeper, keys: map[gate]int32{}, by: map[int32]gate{}, shut: map[gate]bool{}}
	_, err := keeper.Exec(t.Context(), gateSchema)
	require.NoError(t, err)
	for _, s := range steps {
		for _, m := range []moment{begun, committed} {
			one, key := gate{s, m}, int32(len(g.keys)+1)
			g.keys[one], g.by[key] = key, one
			_, err := keeper.Exec(t.Context(), `INSERT INTO gate.gate VALUES ($1, $2, $3, $4, $5)`, key, s.saga, s.n, dirOf(s.undo), int16(m))
			require.NoError(t, err)
		}
	}
	return g
}

func dirOf(undo bool) int16 {
	if undo {
		return 1
	}
	return 0
}

// close shuts gates, open lets everything through them.
func (g *gates) close(ctx context.Context, all ...gate) error {
	return g.each(ctx, `SELECT pg_advisory_lock(7203, k) FROM unnest($1::int[]) k`, true, all)
}

func (g *gates) open(ctx context.Context, all ...gate) error {
	return g.each(ctx, `SELECT pg_advisory_unlock(7203, k) FROM unnest($1::int[]) k`, false, all)
}

func (g *gates) each(ctx context.Context, sql string, shut bool, all []gate) error {
	var keys []int32
	for _, one := range all {
		if g.shut[one] != shut {
			g.shut[one] = shut
			keys = append(keys, g.keys[one])
		}
	}
	if len(keys) == 0 {
		return nil
	}
	_, err := g.keeper.Exec(ctx, sql, keys)
	return err
}

// held is a step that waits at a gate.
type held struct {
	gate
	id string // of the saga
}

// waiting lists what waits, in a fixed order.
func (g *gates) waiting(ctx context.Context) ([]held, error) {
	rows, err := g.keeper.Query(ctx, `SELECT l.objid::int, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.classid = 7203 AND l.mode = 'ShareLock' AND NOT l.granted ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	var key int32
	var id string
	var out []held
	_, err = pgx.ForEachRow(rows, []any{&key, &id}, func() error {
		out = append(out, held{g.by[key], id})
		return nil
	})
	return slices.Compact(out), err
}

// done tells whether a step's effect is committed.
func (g *gates) done(ctx context.Context, h held) (ok bool, err error) {
	err = g.keeper.QueryRow(ctx, `SELECT EXISTS (SELECT FROM bus.saga_step WHERE saga = $1 AND n = $2 AND dir = $3 AND status = 1)`, h.id, h.n, dirOf(h.undo)).Scan(&ok)
	return ok, err
}

// bury ends what a plugin that was killed left in the database: of a client's
// death a session that waits at a gate hears nothing.
func (g *gates) bury(ctx context.Context, plugin string) error {
	_, err := g.keeper.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, "p_"+strings.ReplaceAll(plugin, "-", "_"))
	return err
}

// hurry has sagas go on that rest because a step was tried in vain, as if that
// was the first time: those that can turn back would do so after twelve.
func (g *gates) hurry(ctx context.Context) error {
	_, err := g.keeper.Exec(ctx, `UPDATE bus.saga SET due = now(), attempt = 0 WHERE status IN (0, 2) AND lease_until IS NULL AND due > now()`)
	return err
}

// refuse has the next saga of a definition whose key begins so be refused its
// last step that can be refused.
func refuse(ctx context.Context, db *pgx.Conn, steps []step, saga, name, key string) error {
	res, err := proto.Marshal(fault.Status(fault.New(connect.CodeFailedPrecondition, "STEERED", "refused to see what becomes of it")))
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.saga == saga && s.name == name && !s.undo {
			_, err := db.Exec(ctx, `INSERT INTO gate.refusal VALUES ($1, $2, $3, $4, $5)`, saga, key, s.n, "p_"+s.owner, res)
			return err
		}
	}
	return fmt.Errorf("no step %s of %s", name, saga)
}

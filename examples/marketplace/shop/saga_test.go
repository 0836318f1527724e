package shop_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot/entrepot/sdk/pglocal"

	"github.com/entrepot/entrepot/examples/marketplace/shop"
)

// Every step of every saga that a module declares, and every compensation, is
// met by a kill -9: while it is under way and nothing of it is committed, and
// when its effect is committed and nobody has heard of it; of the process that
// executes it and of the one whose saga it is, and here and there of the
// kernel. Each time the story goes on to its end, and every book reconciles.
func TestEveryStepOfEverySagaSurvivesKills(t *testing.T) {
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	wild, most := chaos(t)
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	// The database is the test's: it outlives the kernel, and has the gates.
	cluster, err := pglocal.Start(ctx, pglocal.Options{Dir: filepath.Join(publicDir(t), "pg"), MaxConnections: 300})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cluster.Stop(context.WithoutCancel(ctx)) })
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	s, err := shop.New(shop.Options{
		Root: root, Build: build(t, root), Dir: filepath.Join(publicDir(t), "run"), Env: []string{"DATABASE_URL=" + cluster.URL("postgres")},
	})
	require.NoError(t, err)
	require.NoError(t, s.Start(ctx))
	t.Cleanup(func() { _ = s.Stop() })
	p := prepare(t, ctx, s, connect())

	keeper := connect()
	var sagas map[string]string
	p.steps, sagas = declared(t, keeper)
	page, err := os.ReadFile(filepath.Join(root, "docs", "sagas.md"))
	require.NoError(t, err)
	for saga, line := range sagas {
		require.Regexp(t, "(?m)^\\| `"+saga+"` \\|.*\\| "+regexp.QuoteMeta(line)+" \\|$", string(page), "docs/sagas.md shows every saga as it is declared")
	}
	r := &reaper{shop: s, gates: buildGates(t, keeper, p.steps), wanted: map[gate][]victim{}, deaths: map[death]int{}, died: map[string]int{}, log: t.Logf}
	if wild == nil {
		r.once(p.steps)
	} else {
		r.wildly(p.steps, wild)
	}
	planned := make(map[gate][]victim, len(r.wanted))
	for one, v := range r.wanted {
		planned[one] = slices.DeleteFunc(slices.Clone(v), func(v victim) bool { return v == kernel })
	}
	require.NoError(t, r.shut(ctx))
	done, reaped := make(chan struct{}), make(chan error, 1)
	tctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		err := r.run(ctx, done)
		if err != nil {
			t.Log("reaper:", err)
			end()
		}
		reaped <- err
	}()
	began := time.Now()
	err = p.tell(tctx)
	t.Log("story", time.Since(began))
	if err != nil {
		t.Log("nobody ended:", p.untold())
		left(t, ctx, cluster.URL("postgres"))
	}
	close(done)
	require.NoError(t, errors.Join(err, <-reaped))
	var out strings.Builder
	r.table(&out, p.steps)
	t.Log("\n" + out.String())
	p.reconcile(t, ctx)
	for one, victims := range planned {
		for _, v := range victims {
			if wild != nil {
				// Whoever dies first may leave nothing for the others to die at.
				require.True(t, r.reaped(one), "nobody was killed when %s was %s", one.step, one.moment)
				continue
			}
			require.NotZero(t, r.deaths[death{one, v}], "nobody killed the %s of %s when it was %s", v, one.step, one.moment)
		}
	}
}

// chaos makes the test a random one of a seed that the environment names.
func chaos(t *testing.T) (wild *rand.Rand, most time.Duration) {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("SAGA_SEED"), 10, 64)
	if err != nil {
		return nil, 5 * time.Minute
	}
	t.Logf("again: make chaos SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0)), 40 * time.Minute
}

// once plans the deaths of an ordinary run: of who executes a step at both
// moments, of whose saga it is once a saga, and of the kernel once, where many
// wait.
func (r *reaper) once(steps []step) {
	started := map[string]bool{}
	for _, s := range steps {
		for _, m := range []moment{begun, committed} {
			v := []victim{executor}
			if m == begun && s.starter() != s.owner && !started[s.saga] {
				started[s.saga] = true
				v = append(v, starter)
			}
			r.wanted[gate{s, m}] = append(v, kernel)
		}
	}
	r.kernels, r.least = 1, 6
}

// wildly plans those of a random run: everybody at every step that is under
// way, in any order; anybody at each that is committed; and bystanders.
func (r *reaper) wildly(steps []step, wild *rand.Rand) {
	for _, s := range steps {
		for _, m := range []moment{begun, committed} {
			v := []victim{executor, kernel}
			if s.starter() != s.owner {
				v = append(v, starter)
			}
			wild.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
			if m == committed {
				v = v[:1] // it is committed once
			}
			r.wanted[gate{s, m}] = v
		}
	}
	r.wild, r.kernels, r.least = wild, 12, 1
}

// tell has everything happen side by side that leads through the sagas.
func (p *proof) tell(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var floor sync.WaitGroup
	floor.Go(func() {
		if err := p.workFloor(ctx, stop); err != nil {
			cancel(fmt.Errorf("the floor: %w", err)) // nobody gets anything any more
		}
	})
	g, gctx := errgroup.WithContext(ctx)
	for name, story := range p.stories() {
		p.telling.Store(name, true)
		g.Go(func() error {
			if err := story(gctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			p.telling.Delete(name)
			return nil
		})
	}
	err := g.Wait()
	close(stop)
	floor.Wait()
	return errors.Join(context.Cause(ctx), err)
}

// untold are the stories that have not come to their end.
func (p *proof) untold() (names []string) {
	p.telling.Range(func(name, _ any) bool {
		names = append(names, name.(string))
		return true
	})
	slices.Sort(names)
	return names
}

// left tells what is under way in the bus, for who must find out why a story
// does not end.
func left(t *testing.T, ctx context.Context, url string) { //nolint:revive // the test comes first
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Log(err)
		return
	}
	defer func() { _ = db.Close(ctx) }()
	for _, sql := range []string{
		`SELECT format('saga %s %s: status %s, tried %s, attempt %s, due in %s, leased %s, %s', def, key, status, tried, attempt, due - now(), lease_until - now(), encode(trouble, 'escape'))
		   FROM bus.saga WHERE status NOT IN (3, 4)`,
		`SELECT format('set aside of %s at %s, attempt %s, due in %s: %s', name, key, attempt, due - now(), error) FROM bus.parked p JOIN bus.subscription s ON s.id = p.sub`,
		`SELECT format('not told %s: %s of %s', s.name, l.topic, l.key) FROM bus.subscription s JOIN bus.cursor c ON c.sub = s.id JOIN bus.log l ON l.lane = c.lane AND l.pos > c.pos
		   WHERE l.topic = ANY (s.topics) AND s.state = 'on'`,
		`SELECT format('order %s: state %s; %s', o.id, o.state, (SELECT jsonb_agg(to_jsonb(c) - 'total') FROM p_order.consignment c WHERE c.order_id = o.id))
		   FROM p_order.orders o WHERE o.state NOT IN (6, 7)`,
		`SELECT format('fulfilment %s', to_jsonb(f)) FROM p_warehouse.fulfilment f WHERE state NOT IN (7, 8)`,
		`SELECT format('shipment %s', to_jsonb(s) - 'request') FROM p_logistics.shipment s WHERE delivered_at IS NULL`,
		`SELECT format('waits: %s %s: %s', usename, wait_event, left(query, 200)) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()`,
	} {
		rows, err := db.Query(ctx, sql)
		if err != nil {
			t.Log(err)
			return
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		t.Log(strings.Join(lines, "\n"), err)
	}
}

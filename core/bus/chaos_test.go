package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// What must hold whatever breaks: every committed event has its effect once,
// and the effects of a key are in the order of its commits. Backends are
// killed all the time, two dispatchers fight over the same lanes, a snapshot
// is held, commits are slow, transactions abort, and handlers fail.
func TestNothingIsLostDoubledOrMisorderedUnderFire(t *testing.T) {
	length, wantKills := 15*time.Second, int64(500)
	if testing.Short() {
		length, wantKills = 3*time.Second, 60
	}
	h := newHouse(t)
	m := h.module("order")
	h.exec(fmt.Sprintf(`CREATE TABLE %[1]s.k (id text PRIMARY KEY, n bigint NOT NULL DEFAULT 0); CREATE TABLE %[1]s.committed (key text, n bigint);
		INSERT INTO %[1]s.k SELECT g::text FROM generate_series(1, 60) g; ALTER TABLE %[1]s.k OWNER TO %[1]s; ALTER TABLE %[1]s.committed OWNER TO %[1]s`, m.role))

	// The two victims have pools, and a module process each, of their own.
	url := m.pool.Config().ConnString()
	var poisoned sync.Map
	for range 2 {
		victim := *m
		victim.pool = newPool(t, url, 16, "victim")
		victim.handle = poison(&poisoned)
		b := h.prepare(&victim, func(c *Config) {
			c.Pool, c.RetryBase, c.RetryMax = newPool(t, h.db.URL, 8, "victim"), time.Millisecond, 20*time.Millisecond
			c.Backoff, c.Batch = 500*time.Microsecond, 1+rand.IntN(60)
		})
		b.owns = func(string, int16, int) bool { return true }
		b.register(t, m.registration(&pluginv1.Subscription{Name: "all", Topics: []string{topic}, MaxAttempts: 100}))
		h.background(b.Run)
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var published, kills atomic.Int64
	var producers, others sync.WaitGroup
	quick, slow := newPool(t, url, 12, "producer"), newPool(t, url, 2, "producer")
	for range 12 {
		producers.Go(func() { produce(ctx, m.role, quick, &published, 0) })
	}
	for range 2 {
		producers.Go(func() { produce(ctx, m.role, slow, &published, time.Second) })
	}
	fire, cease := context.WithCancel(context.Background())
	admin := newPool(t, h.db.URL, 3, "admin")
	others.Go(func() {
		shoot := time.NewTicker(20 * time.Millisecond)
		defer shoot.Stop()
		for fire.Err() == nil {
			var ok bool
			if admin.QueryRow(fire, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = 'victim' AND datname = current_database() ORDER BY random() LIMIT 1`).Scan(&ok) == nil && ok {
				kills.Add(1)
			}
			<-shoot.C
		}
	})
	others.Go(func() {
		for fire.Err() == nil {
			_ = pgx.BeginTxFunc(fire, admin, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
				_, err := tx.Exec(fire, `SELECT count(*), pg_sleep(2) FROM bus.cursor`)
				return err
			})
		}
	})
	<-time.After(length)
	stop()
	producers.Wait()
	cease()
	others.Wait()

	committed := h.number(`SELECT count(*) FROM ` + m.role + `.committed`)
	require.Eventually(t, func() bool {
		return h.number(`SELECT (SELECT count(*) FROM bus.outbox) + (SELECT count(*) FROM bus.parked)`) == 0 &&
			h.number(`SELECT count(*) FROM `+m.role+`.effect`) >= committed
	}, 60*time.Second, 20*time.Millisecond, "all is handled")
	t.Logf("committed=%d kills=%d", committed, kills.Load())
	require.GreaterOrEqual(t, kills.Load(), wantKills)
	require.GreaterOrEqual(t, committed, published.Load())
	v := h.verdict(m)
	require.Zero(t, v.lost, "lost")
	require.Zero(t, v.doubled, "doubled")
	require.Zero(t, v.misordered, "misordered")
}

// poison makes every fifth event of some keys fail at its first two attempts.
func poison(attempts *sync.Map) func(*pluginv1.Event) error {
	return func(e *pluginv1.Event) error {
		key, err := strconv.Atoi(e.GetKey())
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(e.GetPayload()))
		if err != nil || key%7 != 0 || n%5 != 0 {
			return err
		}
		v, _ := attempts.LoadOrStore(e.GetPosition(), new(atomic.Int64))
		if v.(*atomic.Int64).Add(1) <= 2 {
			return fmt.Errorf("poison %d", e.GetPosition())
		}
		return nil
	}
}

// produce commits numbered events of random keys until ctx ends; some abort,
// some are slow.
func produce(ctx context.Context, schema string, pool *pgxpool.Pool, published *atomic.Int64, slow time.Duration) {
	for ctx.Err() == nil {
		key := strconv.Itoa(1 + rand.IntN(60))
		pause := time.Duration(0)
		if slow > 0 {
			pause = slow/5 + rand.N(slow)
		} else if rand.IntN(4) == 0 {
			pause = rand.N(5 * time.Millisecond)
		}
		// Not with ctx: a commit under way is to be known as one.
		err := pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error {
			bg := context.Background()
			var n int64
			if err := tx.QueryRow(bg, `UPDATE `+schema+`.k SET n = n + 1 WHERE id = $1 RETURNING n`, key).Scan(&n); err != nil {
				return err
			}
			if _, err := tx.Exec(bg, `SELECT bus.publish(ARRAY[$1::text], ARRAY[$2::text], ARRAY[$3::bytea])`, topic, key, []byte(strconv.FormatInt(n, 10))); err != nil {
				return err
			}
			if _, err := tx.Exec(bg, `INSERT INTO `+schema+`.committed SELECT $1, $2 FROM pg_sleep($3)`, key, n, pause.Seconds()); err != nil {
				return err
			}
			if rand.IntN(12) == 0 {
				return errors.New("abort")
			}
			return nil
		})
		if err == nil {
			published.Add(1)
		}
	}
}

type verdict struct{ lost, doubled, misordered int64 }

func (h *house) verdict(m *module) verdict {
	return verdict{
		lost:       h.number(`SELECT count(*) FROM ` + m.role + `.committed c WHERE NOT EXISTS (SELECT 1 FROM ` + m.role + `.effect e WHERE e.key = c.key AND e.n = c.n::text)`),
		doubled:    h.number(`SELECT coalesce(sum(c - 1), 0)::bigint FROM (SELECT count(*) c FROM ` + m.role + `.effect GROUP BY key, n) x`),
		misordered: h.number(`SELECT count(*) FROM (SELECT n::bigint n, lag(n::bigint) OVER (PARTITION BY key ORDER BY id) p FROM ` + m.role + `.effect) x WHERE p > n`),
	}
}

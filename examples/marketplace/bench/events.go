package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

// perTransaction is how many events one transaction publishes, here and in
// the limit; gathered how many of them share a delivery in the limit.
const (
	perTransaction = 100
	gathered       = 5
)

// events measures how fast events go from commits of publishers to the effect
// of a handler: authorizations into the timelines that the order module keeps.
// Publishers are this process, with the SDK; in turns with pgbench, whose
// clients publish, give positions and write the effects in SQL alone.
func (b *bench) events(ctx context.Context, n int) (_ []figure, err error) {
	n = 40 * n / perTransaction * perTransaction
	c, err := openCluster(b.shop.Dir)
	if err != nil {
		return nil, err
	}
	watch, err := c.connect(ctx, superuser)
	if err != nil {
		return nil, err
	}
	defer func() { _ = watch.Close(ctx) }()
	topic := string((&paymentv1.PaymentAuthorized{}).ProtoReflect().Descriptor().FullName())
	if _, err := watch.Exec(ctx, `INSERT INTO bus.pubgrant (role, topic, plugin) VALUES (session_user, $1, 'payment')`, topic); err != nil {
		return nil, err
	}
	db, err := store.Open(store.Config{URL: c.dsn(superuser), Plugin: "payment", MaxConnections: b.width})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	l, err := eventLimit(ctx, c, b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.db.Close(ctx) }()
	var ours, limits turn
	for range rounds {
		// A little before, so that the bus is awake and the plans are made.
		if _, err := b.eventTurn(ctx, watch, db, 10*perTransaction); err != nil {
			return nil, err
		}
		o, err := b.eventTurn(ctx, watch, db, n)
		if err != nil {
			return nil, err
		}
		t, err := l.eventTurn(ctx, b, n)
		if err != nil {
			return nil, err
		}
		ours.add(o)
		limits.add(t)
	}
	return beside("events from outbox to effect", ours, limits, ">= 0.4"), nil
}

// authorized is an event like those of a checkout.
func authorized() *paymentv1.PaymentAuthorized {
	return &paymentv1.PaymentAuthorized{
		PaymentId: id.New("pay"), Reference: id.New("ord"), Amount: &typev1.Money{CurrencyCode: "GBP", MinorUnits: 145},
		Instance: "sandbox-gb", Market: "GB",
	}
}

// eventTurn publishes n events and waits for the last effect.
func (b *bench) eventTurn(ctx context.Context, watch *pgx.Conn, db *store.DB, n int) (t turn, err error) {
	// The identity of the timeline's rows tells how many were written, at the
	// price of reading one.
	const written = `SELECT last_value FROM p_order.timeline_id_seq`
	var first, now int64
	if err := watch.QueryRow(ctx, written).Scan(&first); err != nil {
		return t, err
	}
	before, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	mine, began := own(), time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.width)
	for range n / perTransaction {
		g.Go(func() error {
			return db.Run(gctx, func(_ context.Context, tx *store.Tx) error {
				for range perTransaction {
					if err := tx.Publish(authorized()); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return t, fmt.Errorf("publish: %w", err)
	}
	for now < first+int64(n) {
		if err := watch.QueryRow(ctx, written+` CROSS JOIN pg_sleep(0.005)`).Scan(&now); err != nil {
			return t, err
		}
	}
	// They are given before the commit: the rows themselves decide.
	for effects := 0; effects < n; {
		if err := watch.QueryRow(ctx, `SELECT count(*) FROM p_order.timeline WHERE id > $1 AND what = 'payment.authorized'`, first).Scan(&effects); err != nil {
			return t, fmt.Errorf("%d effects of %d events: %w", effects, n, err)
		}
	}
	t.done, t.took = n, time.Since(began)
	after, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	for pid, cpu := range after {
		t.others += cpu - before[pid]
	}
	t.postgres = after[0] - before[0]
	t.others += own() - mine - t.postgres
	return t, nil
}

// eventScript is the whole way of events in SQL. Each client publishes; every
// gathered turns it gives positions, when nobody else does, and acknowledges
// lanes of its own with one effect for each event that has come on them: some
// 500 at once, where the bus hands 200 to 400 to a module.
const eventScript = `\set turn :turn + 1
\set number :base + (:turn * :clients + :client_id) * %[1]d
BEGIN;
SELECT bus.publish(array_fill('entrepot.payment.v1.PaymentAuthorized'::text, ARRAY[%[1]d]),
  ARRAY(SELECT 'pay_01m8355jgxe5ft5zd' || g FROM generate_series(:number::int, :number::int + %[1]d - 1) g),
  array_fill('\x%[2]s'::bytea, ARRAY[%[1]d]), NULL);
COMMIT;
\if :turn %% %[3]d = 0
SELECT moved, low, coalesce(s, 0) AS s, coalesce(x::text, '0') AS x FROM bus.sequence_batch(10000, :low::bigint, nullif(:s::bigint, 0), nullif(:x::text, '0')::xid8) \gset
SELECT coalesce(max(pos), 0) AS next FROM bus.log \gset
BEGIN;
SELECT bus.ack(:sub::int2, lanes, array_fill(:last::bigint, ARRAY[cardinality(lanes)]), array_fill(:next::bigint, ARRAY[cardinality(lanes)]))
  FROM (SELECT array_agg(g::int2) AS lanes FROM generate_series(0, 63) g WHERE g %% :clients = :client_id) l;
INSERT INTO timeline (order_id, at, what, who, note)
  SELECT 'ord_01m8355jgxe5bsn8e' || right(key, 9), at, 'payment.authorized', 'system', '145 GBP (minor units) at sandbox-gb'
    FROM bus.log WHERE lane = ANY (ARRAY(SELECT g FROM generate_series(0, 63) g WHERE g %% :clients = :client_id)) AND pos > :last AND pos <= :next;
COMMIT;
\set last :next
\endif
`

// eventLimit gives the copy of the database a subscription for the script.
func eventLimit(ctx context.Context, c *cluster, b *bench) (*limit, error) {
	l := &limit{cluster: c}
	var err error
	if l.db, err = c.connect(ctx, limitDatabase); err != nil {
		return nil, err
	}
	_, err = l.db.Exec(ctx, `WITH s AS (INSERT INTO bus.subscription (name, plugin, role, topics) VALUES ('bench/limit', 'bench', session_user, '{}') RETURNING id)
		INSERT INTO bus.cursor (sub, lane) SELECT s.id, g FROM s, generate_series(0, 63) g`)
	if err != nil {
		return nil, err
	}
	// The script of checkouts left its events.
	if err := l.sequence(ctx); err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(authorized())
	if err != nil {
		return nil, err
	}
	return l, l.write(b.shop.Dir, "events.sql", fmt.Sprintf(eventScript, perTransaction, hex.EncodeToString(payload), gathered))
}

// sequence gives positions to all that waits.
func (l *limit) sequence(ctx context.Context) error {
	for moved := 1; moved > 0; {
		if err := l.db.QueryRow(ctx, `SELECT moved FROM bus.sequence_batch(10000, 0, NULL, NULL)`).Scan(&moved); err != nil {
			return err
		}
	}
	return nil
}

// eventRest takes what came on a client's lanes after its last look.
const eventRest = `INSERT INTO p_order.timeline (order_id, at, what, who, note)
  SELECT 'ord_01m8355jgxe5bsn8e' || right(l.key, 9), l.at, 'payment.authorized', 'system', '145 GBP (minor units) at sandbox-gb'
    FROM bus.log l JOIN bus.cursor c ON c.sub = $1 AND c.lane = l.lane WHERE l.pos > c.pos`

// eventTurn publishes n events and answers when each has its effect.
func (l *limit) eventTurn(ctx context.Context, b *bench, n int) (t turn, err error) {
	const effects = `SELECT count(*) FROM p_order.timeline`
	var sub, last, before, after int
	err = l.db.QueryRow(ctx, `WITH p AS (SELECT coalesce(max(pos), 0) AS last FROM bus.log), s AS (SELECT id FROM bus.subscription WHERE name = 'bench/limit'),
		c AS (UPDATE bus.cursor SET pos = p.last FROM p, s WHERE sub = s.id)
		SELECT s.id, p.last FROM s, p`).Scan(&sub, &last)
	if err != nil {
		return t, err
	}
	if err := l.db.QueryRow(ctx, effects).Scan(&before); err != nil {
		return t, err
	}
	t, err = l.run(ctx, b, n/perTransaction, fmt.Sprintf("sub=%d", sub), fmt.Sprintf("last=%d", last), fmt.Sprintf("clients=%d", b.width), "low=0", "s=0", "x=0")
	if err != nil {
		return t, err
	}
	began := time.Now()
	if err := l.sequence(ctx); err != nil {
		return t, err
	}
	if _, err := l.db.Exec(ctx, eventRest, sub); err != nil {
		return t, err
	}
	t.took += time.Since(began)
	t.done *= perTransaction
	if err := l.db.QueryRow(ctx, effects).Scan(&after); err != nil {
		return t, err
	}
	if after-before != t.done {
		err = fmt.Errorf("the limit script wrote %d effects of %d events", after-before, t.done)
	}
	return t, err
}

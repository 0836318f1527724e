package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
	logisticsv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// stages are the facts of a parcel that arrives; three of them move its
// shipment.
var stages = []providerv1.Status{
	providerv1.Status_STATUS_HANDED_OVER, providerv1.Status_STATUS_IN_TRANSIT, providerv1.Status_STATUS_IN_TRANSIT,
	providerv1.Status_STATUS_OUT_FOR_DELIVERY, providerv1.Status_STATUS_DELIVERED,
}

// carried makes shipments that a carrier has, in the shop's database and in
// the limit's: parcels of nobody, between two warehouses.
const carried = `WITH s AS (INSERT INTO p_logistics.shipment (id, leg, booking, status, instance, service, carrier_ref, merchant, market, request, booked_at)
    SELECT $1 || g, 6, 2, 2, 'bench', 'parcel', $1 || 'r' || g, $1, 'GB', $2, now() - interval '1 hour' FROM generate_series(0, $3::int - 1) g RETURNING id, carrier_ref)
  INSERT INTO p_logistics.shipment_parcel SELECT id, 'p', carrier_ref FROM s`

// arrived counts a turn's shipments that were delivered, and their facts.
const arrived = `SELECT count(*) FROM p_logistics.shipment WHERE merchant = $1 AND status = 6`

// tracking measures how fast facts of carriers become the status of shipments:
// from the commits of who tells them to the last shipment delivered, each told
// on to whoever follows it. In turns with pgbench, whose clients publish, give
// positions, and keep and derive in SQL alone.
func (b *bench) tracking(ctx context.Context, n int) (_ []figure, err error) {
	blocks := b.width * max(1, n/50/b.width)
	c, err := openCluster(b.shop.Dir)
	if err != nil {
		return nil, err
	}
	watch, err := c.connect(ctx, superuser)
	if err != nil {
		return nil, err
	}
	defer func() { _ = watch.Close(ctx) }()
	topic := string((&providerv1.TrackingUpdated{}).ProtoReflect().Descriptor().FullName())
	if _, err := watch.Exec(ctx, `INSERT INTO bus.pubgrant (role, topic, plugin) VALUES (session_user, $1, 'carrier-sandbox') ON CONFLICT DO NOTHING`, topic); err != nil {
		return nil, err
	}
	db, err := store.Open(store.Config{URL: c.dsn(superuser), Plugin: "carrier-sandbox", MaxConnections: b.width})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	l, err := trackingLimit(ctx, c, b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.db.Close(ctx) }()
	var ours, limits turn
	for round := range rounds {
		name := "mrc_bench" + strconv.Itoa(round) + "_"
		if _, err := b.trackingTurn(ctx, watch, db, name+"warm_", b.width); err != nil {
			return nil, err
		}
		o, err := b.trackingTurn(ctx, watch, db, name, blocks)
		if err != nil {
			return nil, err
		}
		if _, err := b.shop.Quiet(ctx); err != nil {
			return nil, err
		}
		t, err := l.trackingTurn(ctx, b, name, blocks)
		if err != nil {
			return nil, err
		}
		ours.add(o)
		limits.add(t)
	}
	return beside("tracking events", ours, limits, ""), nil
}

// place makes a turn's shipments.
func place(ctx context.Context, db *pgx.Conn, name string, shipments int) error {
	request, err := proto.Marshal(&logisticsv1.BookShipmentRequest{
		Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE, Reference: name, Parcels: []*logisticsv1.Parcel{{ParcelId: "p", WeightGrams: 700}},
	})
	if err == nil {
		_, err = db.Exec(ctx, carried, name, request, shipments)
	}
	if err == nil {
		_, err = db.Exec(ctx, "ANALYZE p_logistics.shipment, p_logistics.shipment_parcel, p_logistics.fact")
	}
	return err
}

// told is what a carrier tells of one parcel at a stage.
func told(reference string, stage int, now time.Time) *providerv1.TrackingUpdated {
	return &providerv1.TrackingUpdated{Instance: "bench", Reference: reference, Facts: []*providerv1.Fact{{
		FactId: strconv.Itoa(stage), TrackingNumber: reference, Status: stages[stage], Code: "scan", Text: "seen at a sorting office", Place: "Exampleton",
		CountryCode: "GB", At: timestamppb.New(now.Add(time.Duration(stage) * time.Second)),
	}}}
}

func (b *bench) trackingTurn(ctx context.Context, watch *pgx.Conn, db *store.DB, name string, blocks int) (t turn, err error) {
	shipments := blocks * perTransaction
	if err := place(ctx, watch, name, shipments); err != nil {
		return t, err
	}
	before, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	mine, began := own(), time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.width)
	for stage := range stages {
		for block := range blocks {
			g.Go(func() error {
				return db.Run(gctx, func(_ context.Context, tx *store.Tx) error {
					for i := range perTransaction {
						if err := tx.Publish(told(name+"r"+strconv.Itoa(block*perTransaction+i), stage, began)); err != nil {
							return err
						}
					}
					return nil
				})
			})
		}
	}
	if err := g.Wait(); err != nil {
		return t, fmt.Errorf("publish: %w", err)
	}
	for done := 0; done < shipments; {
		if err := watch.QueryRow(ctx, `SELECT (`+arrived+`) FROM pg_sleep(0.02)`, name).Scan(&done); err != nil {
			return t, fmt.Errorf("%d of %d shipments are delivered: %w", done, shipments, err)
		}
	}
	t.done, t.took = shipments*len(stages), time.Since(began)
	after, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	for pid, cpu := range after {
		t.others += cpu - before[pid]
	}
	t.postgres = after[0] - before[0]
	t.others += own() - mine - t.postgres
	return t, facts(ctx, watch, name, t.done)
}

// facts checks that each was kept.
func facts(ctx context.Context, db *pgx.Conn, name string, want int) error {
	var have int
	if err := db.QueryRow(ctx, `SELECT count(*) FROM p_logistics.fact f JOIN p_logistics.shipment s ON s.id = f.shipment_id WHERE s.merchant = $1`, name).Scan(&have); err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%d facts of %d events are kept", have, want)
	}
	return nil
}

// trackingEffect keeps the facts of a part of the log, moves their shipments
// and tells of it. %s says which part.
const trackingEffect = `INSERT INTO p_logistics.fact (shipment_id, id, tracking, status, code, words, reason, place, country, at)
  SELECT s.id, get_byte(l.payload, 0)::text, s.carrier_ref, CASE get_byte(l.payload, 0) WHEN 4 THEN 6 WHEN 3 THEN 4 ELSE 3 END, 'scan', 'seen at a sorting office', '', 'Exampleton', 'GB',
         now() + get_byte(l.payload, 0) * interval '1 second'
    FROM bus.log l JOIN p_logistics.shipment s ON s.instance = 'bench' AND s.carrier_ref = l.key WHERE l.topic = 'entrepot.logistics.provider.v1.TrackingUpdated' AND %[1]s
  ON CONFLICT DO NOTHING;
WITH e AS (SELECT l.key, max(CASE get_byte(l.payload, 0) WHEN 4 THEN 6 WHEN 3 THEN 4 ELSE 3 END) AS status
    FROM bus.log l WHERE l.topic = 'entrepot.logistics.provider.v1.TrackingUpdated' AND %[1]s GROUP BY l.key),
  s AS (SELECT s.id, e.status FROM p_logistics.shipment s JOIN e ON s.instance = 'bench' AND s.carrier_ref = e.key WHERE s.status < e.status ORDER BY s.id FOR NO KEY UPDATE OF s),
  m AS (UPDATE p_logistics.shipment u SET status = s.status, delivered_at = CASE s.status WHEN 6 THEN now() END, updated_at = now() FROM s WHERE u.id = s.id RETURNING u.id),
  c AS (SELECT id, row_number() OVER () / 400 AS chunk FROM m)
SELECT bus.publish(array_agg('entrepot.logistics.v1.ShipmentMoved'::text), array_agg(id), array_agg('\x%[2]s'::bytea), NULL) FROM c GROUP BY chunk;
`

// trackingScript is the whole way of facts in SQL, as eventScript is that of
// events. The first byte of a payload is the stage.
const trackingScript = `\set turn :turn + 1
\set m (:turn - 1) * :clients + :client_id
\set stage :m / :blocks
\set first (:m %% :blocks) * %[1]d
BEGIN;
SELECT bus.publish(array_fill('entrepot.logistics.provider.v1.TrackingUpdated'::text, ARRAY[%[1]d]),
  ARRAY(SELECT :name::text || 'r' || g FROM generate_series(:first::int, :first::int + %[1]d - 1) g),
  array_fill(decode(lpad(to_hex(:stage::int), 2, '0'), 'hex') || '\x%[2]s'::bytea, ARRAY[%[1]d]), NULL);
COMMIT;
\if :turn %% %[3]d = 0
SELECT moved, low, coalesce(s, 0) AS s, coalesce(x::text, '0') AS x FROM bus.sequence_batch(10000, :low::bigint, nullif(:s::bigint, 0), nullif(:x::text, '0')::xid8) \gset
SELECT coalesce(max(pos), 0) AS next FROM bus.log \gset
BEGIN;
SELECT bus.ack(:sub::int2, lanes, array_fill(:last::bigint, ARRAY[cardinality(lanes)]), array_fill(:next::bigint, ARRAY[cardinality(lanes)]))
  FROM (SELECT array_agg(g::int2) AS lanes FROM generate_series(0, 63) g WHERE g %% :clients = :client_id) l;
%[4]sCOMMIT;
\set last :next
\endif
`

// mineOnly is the part of the log that a client of pgbench looks at.
const mineOnly = `l.lane = ANY (ARRAY(SELECT g FROM generate_series(0, 63) g WHERE g % :clients = :client_id)) AND l.pos > :last AND l.pos <= :next`

// movedPayload is what is told on, as bytes.
func movedPayload() (string, error) {
	b, err := proto.Marshal(&logisticsv1.ShipmentMoved{
		ShipmentId: "shp_01m8355jgxe5ft5zd000000000", Leg: logisticsv1.Leg_LEG_WAREHOUSE_TO_WAREHOUSE, Reference: "mrc_bench0_", Status: logisticsv1.Status_STATUS_IN_TRANSIT,
		At: timestamppb.New(time.Unix(1_800_000_000, 0)),
	})
	return hex.EncodeToString(b), err
}

func trackingLimit(ctx context.Context, c *cluster, b *bench) (*limit, error) {
	l := &limit{cluster: c}
	var err error
	if l.db, err = c.connect(ctx, limitDatabase); err != nil {
		return nil, err
	}
	if _, err := l.db.Exec(ctx, `INSERT INTO bus.pubgrant (role, topic, plugin) VALUES (session_user, 'entrepot.logistics.provider.v1.TrackingUpdated', 'carrier-sandbox')
		ON CONFLICT DO NOTHING`); err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(told("mrc_bench0_1000", 0, time.Unix(1_800_000_000, 0)))
	if err != nil {
		return nil, err
	}
	moved, err := movedPayload()
	if err != nil {
		return nil, err
	}
	return l, l.write(b.shop.Dir, "tracking.sql", fmt.Sprintf(trackingScript, perTransaction, hex.EncodeToString(payload), gathered, fmt.Sprintf(trackingEffect, mineOnly, moved)))
}

// trackingTurn publishes every stage of a turn's shipments and answers when all
// are delivered.
func (l *limit) trackingTurn(ctx context.Context, b *bench, name string, blocks int) (t turn, err error) {
	if err := place(ctx, l.db, name, blocks*perTransaction); err != nil {
		return t, err
	}
	if err := l.sequence(ctx); err != nil {
		return t, err
	}
	var sub, last int
	if err := l.db.QueryRow(ctx, `WITH p AS (SELECT coalesce(max(pos), 0) AS last FROM bus.log), s AS (SELECT id FROM bus.subscription WHERE name = 'bench/limit'),
		c AS (UPDATE bus.cursor SET pos = p.last FROM p, s WHERE sub = s.id)
		SELECT s.id, p.last FROM s, p`).Scan(&sub, &last); err != nil {
		return t, err
	}
	t, err = l.run(ctx, b, blocks*len(stages), fmt.Sprintf("sub=%d", sub), fmt.Sprintf("last=%d", last), fmt.Sprintf("clients=%d", b.width),
		fmt.Sprintf("blocks=%d", blocks), "name="+name, "low=0", "s=0", "x=0")
	if err != nil {
		return t, err
	}
	began := time.Now()
	if err := l.sequence(ctx); err != nil {
		return t, err
	}
	moved, err := movedPayload()
	if err != nil {
		return t, err
	}
	rest := fmt.Sprintf(`(l.lane, 0) IN (SELECT c.lane, 0 FROM bus.cursor c WHERE c.sub = %d AND l.pos > c.pos)`, sub)
	if _, err := l.db.Exec(ctx, fmt.Sprintf(trackingEffect, rest, moved), pgx.QueryExecModeSimpleProtocol); err != nil {
		return t, err
	}
	t.took += time.Since(began)
	t.done *= perTransaction
	var done int
	if err := l.db.QueryRow(ctx, arrived, name).Scan(&done); err != nil {
		return t, err
	}
	if done != blocks*perTransaction {
		return t, fmt.Errorf("the limit script delivered %d of %d shipments", done, blocks*perTransaction)
	}
	return t, facts(ctx, l.db, name, t.done)
}

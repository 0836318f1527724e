-- The bus: what modules publish, the log they read, how far each is, and the
-- sagas that cross them. Owned by the kernel. Modules reach it through the
-- functions at the end of each part and through nothing else.
--
-- A SECURITY DEFINER body must be immune to the caller's search_path: these
-- qualify every function and operator instead of setting one, which costs 10
-- to 25 us a call.

REVOKE ALL ON SCHEMA bus FROM PUBLIC;
-- Not IN SCHEMA: a per-schema revoke leaves the built-in EXECUTE of PUBLIC,
-- and a module could call the sequencer.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- ------------------------------------------------------------------ grants

-- Which role may publish which topic, and whose name is stamped on it.
CREATE TABLE bus.pubgrant (
  role   name NOT NULL,
  topic  text NOT NULL,
  plugin text NOT NULL,
  PRIMARY KEY (role, topic));

-- Which role serves which contract: it may do saga steps of that contract.
CREATE TABLE bus.serves (
  role     name NOT NULL,
  contract text NOT NULL,
  PRIMARY KEY (role, contract));

-- ------------------------------------------------------------- publishing

-- Committed events wait here for milliseconds until the sequencer moves them.
-- Bounded, so that every batch fits in a message and every key in an index.
CREATE TABLE bus.outbox (
  seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id    uuid NOT NULL DEFAULT gen_random_uuid(),
  source      text NOT NULL,
  topic       text NOT NULL,
  key         text NOT NULL CHECK (octet_length(key) <= 500),
  lane        smallint NOT NULL,
  at          timestamptz NOT NULL DEFAULT now(),
  traceparent text CHECK (octet_length(traceparent) <= 200),
  payload     bytea NOT NULL CHECK (octet_length(payload) <= 262144))
  WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

CREATE SEQUENCE bus.log_pos CACHE 1;

-- Append only; dropped by partition. No DEFAULT partition: it would forbid
-- DETACH CONCURRENTLY.
CREATE TABLE bus.log (
  pos         bigint NOT NULL,
  event_id    uuid NOT NULL,
  source      text NOT NULL,
  topic       text NOT NULL,
  key         text NOT NULL,
  lane        smallint NOT NULL,
  at          timestamptz NOT NULL,
  traceparent text,
  payload     bytea NOT NULL,
  PRIMARY KEY (pos)) PARTITION BY RANGE (pos);
CREATE TABLE bus.log_p0 PARTITION OF bus.log FOR VALUES FROM (0) TO (5000000);
-- For lanes that lag behind the kernel's memory.
CREATE INDEX log_lane ON bus.log (lane, pos);

-- publish puts events into the outbox, stamped with the caller's plugin.
-- The transaction id is drawn before the sequence, and each key's lock is
-- held to commit: so for one key the order of seq is the order of commit.
CREATE FUNCTION bus.publish(p_topic text[], p_key text[], p_payload bytea[], p_traceparent text DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE k text; n int;
BEGIN
  IF pg_catalog.cardinality(p_topic) OPERATOR(pg_catalog.>) 500 THEN
    RAISE EXCEPTION 'at most 500 events in one call' USING ERRCODE = '54000';
  END IF;
  PERFORM pg_catalog.pg_current_xact_id();
  -- Sorted, so that two transactions with the same keys cannot deadlock.
  FOR k IN SELECT DISTINCT u.x FROM pg_catalog.unnest(p_key) u(x) ORDER BY 1 LOOP
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(k, 0));
  END LOOP;
  INSERT INTO bus.outbox (source, topic, key, lane, traceparent, payload)
  SELECT g.plugin, e.t, e.k, (pg_catalog.hashtextextended(e.k, 0) OPERATOR(pg_catalog.&) 63)::pg_catalog.int2, p_traceparent, e.p
    FROM ROWS FROM (pg_catalog.unnest(p_topic), pg_catalog.unnest(p_key), pg_catalog.unnest(p_payload)) WITH ORDINALITY e(t, k, p, o)
    JOIN bus.pubgrant g ON g.role OPERATOR(pg_catalog.=) session_user AND g.topic OPERATOR(pg_catalog.=) e.t
   ORDER BY e.o;
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n OPERATOR(pg_catalog.<>) pg_catalog.cardinality(p_topic) THEN
    RAISE EXCEPTION 'role % may not publish one of %', session_user, p_topic USING ERRCODE = '42501';
  END IF;
  RETURN n;
END $$;

-- publish_for is the kernel's own: for providers, timers and schedules.
CREATE FUNCTION bus.publish_for(p_plugin text, p_topic text, p_key text, p_payload bytea) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_current_xact_id();
  PERFORM pg_advisory_xact_lock(hashtextextended(p_key, 0));
  INSERT INTO bus.outbox (source, topic, key, lane, payload)
  VALUES (p_plugin, p_topic, p_key, (hashtextextended(p_key, 0) & 63)::int2, p_payload);
END $$;

-- Facts that a provider told once already, by its own id of them.
CREATE TABLE bus.told (
  plugin    text NOT NULL,
  dedupe_id text NOT NULL,
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (plugin, dedupe_id));

-- sequence_batch gives positions to committed events and moves them to the
-- log. Any node may call it at any time: the lock, released after the commit
-- is visible, makes position order the order of visibility.
--
-- low: every row at or below it is gone, so the index scan need not walk dead
-- entries there while some snapshot is held. The caller starts with
-- (0, NULL, NULL) and feeds back low, s, x. Rule: a transaction that drew a
-- seq <= s held a transaction id < x (publish takes it first; x is drawn
-- after s is read); when xmin >= x all those are over, and a batch runs in
-- seq order, so rows up to its highest seq (or all up to s, if it was not
-- full) have been moved. Both halves are needed. x is not the snapshot's
-- xmax: that is the latest completed id + 1, running ones may lie above it.
CREATE FUNCTION bus.sequence_batch(n int, INOUT low bigint, INOUT s bigint, INOUT x xid8, OUT moved bigint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE v_low bigint := low; hi bigint; xmin xid8;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7201) THEN moved := -1; RETURN; END IF;
  -- An idle call burns no transaction id.
  IF NOT EXISTS (SELECT 1 FROM bus.outbox o WHERE o.seq > v_low) THEN moved := 0; RETURN; END IF;
  IF x IS NULL THEN
    SELECT q.last_value INTO s FROM bus.outbox_seq_seq q;
    x := pg_current_xact_id();
  END IF;
  xmin := pg_snapshot_xmin(pg_current_snapshot());
  WITH d AS (DELETE FROM bus.outbox
              WHERE ctid = ANY (ARRAY(SELECT o.ctid FROM bus.outbox o WHERE o.seq > v_low ORDER BY o.seq LIMIT n)) RETURNING *),
       q AS (SELECT * FROM d ORDER BY d.seq),
       i AS (INSERT INTO bus.log SELECT nextval('bus.log_pos'), event_id, source, topic, key, lane, at, traceparent, payload FROM q RETURNING 1)
  SELECT count(*), (SELECT max(d.seq) FROM d) INTO moved, hi FROM i;
  IF xmin >= x THEN
    IF moved < n OR hi >= s THEN low := greatest(v_low, s); x := NULL;
    ELSE low := greatest(v_low, hi); END IF;
  END IF;
END $$;

-- --------------------------------------------------------------- delivery

CREATE TABLE bus.subscription (
  id           smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name         text NOT NULL UNIQUE,               -- "<plugin>/<subscription>"
  plugin       text NOT NULL,
  role         name NOT NULL,
  topics       text[] NOT NULL,
  max_attempts smallint NOT NULL DEFAULT 12,
  on_dead      text NOT NULL DEFAULT 'block_key' CHECK (on_dead IN ('block_key', 'skip')),
  gather_ms    int NOT NULL DEFAULT 0 CHECK (gather_ms BETWEEN 0 AND 5000), -- between two deliveries
  -- paused by the operator; off: the plugin declares it no longer.
  state        text NOT NULL DEFAULT 'on' CHECK (state IN ('on', 'paused', 'off')),
  -- Rises when something but a delivery moves its cursors or changes it: the
  -- nodes read it again then.
  rev          int NOT NULL DEFAULT 0);

-- One row per subscription and lane: progress, inbox and fence in one. Which
-- node delivers a lane follows from the live nodes (rendezvous hashing) and
-- needs no row; two that disagree for a moment meet in the compare-and-set.
CREATE TABLE bus.cursor (
  sub  smallint NOT NULL REFERENCES bus.subscription ON DELETE CASCADE,
  lane smallint NOT NULL,
  pos  bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (sub, lane)) WITH (fillfactor = 50);

-- Events whose handler failed, and events of their keys behind them.
CREATE TABLE bus.parked (
  sub      smallint NOT NULL REFERENCES bus.subscription ON DELETE CASCADE,
  pos      bigint NOT NULL,
  lane     smallint NOT NULL,
  key      text NOT NULL,
  attempt  smallint NOT NULL DEFAULT 0,            -- 0: waits behind another of its key
  due      timestamptz NOT NULL DEFAULT now(),
  dead     boolean NOT NULL DEFAULT false,
  error    text,
  first_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sub, pos));
CREATE INDEX parked_key ON bus.parked (sub, key, pos);
CREATE INDEX parked_due ON bus.parked (due) WHERE NOT dead;

-- Parked events an operator gave up, with the reason.
CREATE TABLE bus.discarded (
  sub    smallint NOT NULL,
  pos    bigint NOT NULL,
  key    text NOT NULL,
  error  text,
  reason text NOT NULL,
  who    text NOT NULL,
  at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sub, pos));

-- ack moves the positions of lanes: the first statement of the consumer's own
-- transaction, so that a competing delivery blocks at once and dies instead
-- of doing the work. All of them or none; locked in the order of lanes, so
-- that two deliveries cannot deadlock.
CREATE FUNCTION bus.ack(p_sub smallint, p_lanes smallint[], p_expected bigint[], p_next bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE n int;
BEGIN
  IF pg_catalog.cardinality(p_lanes) OPERATOR(pg_catalog.>) 1 THEN
    PERFORM FROM bus.cursor c WHERE c.sub OPERATOR(pg_catalog.=) p_sub AND c.lane OPERATOR(pg_catalog.=) ANY (p_lanes) ORDER BY c.lane FOR UPDATE;
  END IF;
  UPDATE bus.cursor c SET pos = m.next
    FROM bus.subscription s, ROWS FROM (pg_catalog.unnest(p_lanes), pg_catalog.unnest(p_expected), pg_catalog.unnest(p_next)) m(lane, expected, next)
   WHERE c.sub OPERATOR(pg_catalog.=) p_sub AND c.lane OPERATOR(pg_catalog.=) m.lane AND c.pos OPERATOR(pg_catalog.=) m.expected
     AND s.id OPERATOR(pg_catalog.=) c.sub AND s.role OPERATOR(pg_catalog.=) session_user;
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n OPERATOR(pg_catalog.=) 0 OR n OPERATOR(pg_catalog.<>) pg_catalog.cardinality(p_lanes) THEN
    RAISE EXCEPTION 'stale delivery' USING ERRCODE = 'BU001';
  END IF;
END $$;

-- ack_parked removes a parked event, likewise.
CREATE FUNCTION bus.ack_parked(p_sub smallint, p_pos bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  DELETE FROM bus.parked p USING bus.subscription s
   WHERE p.sub OPERATOR(pg_catalog.=) p_sub AND p.pos OPERATOR(pg_catalog.=) p_pos
     AND s.id OPERATOR(pg_catalog.=) p.sub AND s.role OPERATOR(pg_catalog.=) session_user;
  IF NOT FOUND THEN RAISE EXCEPTION 'stale delivery' USING ERRCODE = 'BU001'; END IF;
END $$;

-- ---------------------------------------------------- timers and schedules

CREATE TABLE bus.timer (
  role    name NOT NULL,
  id      text NOT NULL,
  plugin  text NOT NULL,
  topic   text NOT NULL,
  key     text NOT NULL CHECK (octet_length(key) <= 500),
  payload bytea NOT NULL CHECK (octet_length(payload) <= 262144),
  due     timestamptz NOT NULL,
  PRIMARY KEY (role, id));
CREATE INDEX timer_due ON bus.timer (due);

CREATE TABLE bus.schedule (
  name          text PRIMARY KEY,                  -- "<plugin>/<schedule>"
  every_seconds int NOT NULL CHECK (every_seconds > 0),
  next_due      timestamptz NOT NULL DEFAULT now(),
  declared      boolean NOT NULL DEFAULT true);    -- false: rests
CREATE INDEX schedule_due ON bus.schedule (next_due) WHERE declared;

-- timer_set asks for an event at a time, in the caller's transaction. The
-- same id again moves it.
CREATE FUNCTION bus.timer_set(p_id text, p_topic text, p_key text, p_payload bytea, p_due timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO bus.timer AS t (role, id, plugin, topic, key, payload, due)
  SELECT session_user, p_id, g.plugin, p_topic, p_key, p_payload, p_due FROM bus.pubgrant g
   WHERE g.role OPERATOR(pg_catalog.=) session_user AND g.topic OPERATOR(pg_catalog.=) p_topic
  ON CONFLICT (role, id) DO UPDATE SET topic = excluded.topic, key = excluded.key, payload = excluded.payload, due = excluded.due;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'role % may not publish %', session_user, p_topic USING ERRCODE = '42501';
  END IF;
END $$;

CREATE FUNCTION bus.timer_cancel(p_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  DELETE FROM bus.timer t WHERE t.role OPERATOR(pg_catalog.=) session_user AND t.id OPERATOR(pg_catalog.=) p_id;
END $$;

-- timers_fire publishes what is due; each timer once. In the order of keys,
-- as publish takes them, so that the two cannot deadlock.
CREATE FUNCTION bus.timers_fire(n int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE r record; fired int := 0;
BEGIN
  FOR r IN WITH f AS (DELETE FROM bus.timer t WHERE (t.role, t.id) IN
             (SELECT d.role, d.id FROM bus.timer d WHERE d.due <= now() ORDER BY d.due LIMIT n FOR UPDATE SKIP LOCKED) RETURNING t.*)
           SELECT * FROM f ORDER BY f.key, f.due LOOP
    PERFORM bus.publish_for(r.plugin, r.topic, r.key, r.payload);
    fired := fired + 1;
  END LOOP;
  RETURN fired;
END $$;

-- ------------------------------------------------------------------ nodes

-- Kernel nodes, one row for each process that ever served. A live one holds
-- pg_advisory_lock(7202, key) on a connection of its own; PostgreSQL frees it
-- within milliseconds of its death.
CREATE TABLE bus.node (
  id      text PRIMARY KEY,
  key     int GENERATED ALWAYS AS IDENTITY UNIQUE,
  plugins text[] NOT NULL DEFAULT '{}',            -- that it delivers to
  seen    timestamptz NOT NULL DEFAULT now());

CREATE VIEW bus.live_node AS
  SELECT n.id FROM bus.node n JOIN pg_catalog.pg_locks l
      ON l.locktype = 'advisory' AND l.classid = 7202 AND l.objid = n.key::oid AND l.objsubid = 2 AND l.granted
     AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());

-- ------------------------------------------------------------------ sagas

-- Definitions as modules declare them; a running saga keeps its version.
CREATE TABLE bus.saga_def (
  def       text NOT NULL,                         -- "<plugin>/<name>"
  ver       int NOT NULL,
  owner     name NOT NULL,                         -- role that may start it
  body      bytea NOT NULL,                        -- entrepot.plugin.v1.SagaDefinition
  contracts text[] NOT NULL,                       -- of step n: contracts[n], '' for none
  undos     text[] NOT NULL,                       -- of its compensation
  PRIMARY KEY (def, ver));

CREATE TABLE bus.saga (
  id          uuid PRIMARY KEY,
  def         text NOT NULL,
  ver         int NOT NULL,
  key         text NOT NULL,                       -- what it is about; a start is idempotent by (def, key)
  -- 0 running, 1 waiting for a signal or a time, 2 compensating, 3 done,
  -- 4 compensated, 5 stuck
  status      smallint NOT NULL DEFAULT 0,
  step        smallint NOT NULL DEFAULT 0,         -- step that failed, with 2, 4 and 5
  -- The step at hand where something was to be kept of it: n, or -n for its
  -- compensation; how often it was tried in vain and the last trouble (a
  -- google.rpc.Status); until when it waits.
  tried       smallint NOT NULL DEFAULT 0,
  attempt     smallint NOT NULL DEFAULT 0,
  trouble     bytea,
  wait_until  timestamptz,
  epoch       bigint NOT NULL DEFAULT 1,
  node        text,
  lease_until timestamptz,
  due         timestamptz NOT NULL DEFAULT now(),
  input       bytea NOT NULL,                      -- entrepot.kernel.v1.SagaInput
  error       bytea,                               -- google.rpc.Status of the step that failed
  created_at  timestamptz NOT NULL DEFAULT now(),
  ended_at    timestamptz,
  UNIQUE (def, key)) WITH (fillfactor = 60);
CREATE INDEX saga_due ON bus.saga (due) WHERE status < 3;
CREATE INDEX saga_created ON bus.saga (created_at);

CREATE TABLE bus.saga_step (
  saga    uuid NOT NULL REFERENCES bus.saga ON DELETE CASCADE,
  n       smallint NOT NULL,                       -- from 1
  dir     smallint NOT NULL,                       -- 0 do, 1 undo
  status  smallint NOT NULL DEFAULT 0,             -- 0 begun, 1 done, 2 refused, 3 unknown
  role    name NOT NULL,
  attempt smallint NOT NULL DEFAULT 0,
  res     bytea,                                   -- the answer, or with 2 a google.rpc.Status
  at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (saga, n, dir)) WITH (fillfactor = 80);

-- What a saga waits for, and requests that its owner gives later.
CREATE TABLE bus.saga_signal (
  saga    uuid NOT NULL REFERENCES bus.saga ON DELETE CASCADE,
  name    text NOT NULL,
  payload bytea NOT NULL,
  at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (saga, name));

-- saga_start begins a saga in the caller's transaction. p_node is the kernel
-- node that will be asked to run it; after its lease any node takes over.
-- Empty: nobody will be, any node takes it up at its next look. Answers the id of the saga of (def, key): the given one, or the one that
-- was there.
CREATE FUNCTION bus.saga_start(p_id uuid, p_def text, p_ver int, p_key text, p_input bytea, p_node text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE r uuid;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM bus.saga_def d WHERE d.def OPERATOR(pg_catalog.=) p_def AND d.ver OPERATOR(pg_catalog.=) p_ver
                  AND d.owner OPERATOR(pg_catalog.=) session_user) THEN
    RAISE EXCEPTION 'role % may not start saga %@%', session_user, p_def, p_ver USING ERRCODE = '42501';
  END IF;
  INSERT INTO bus.saga (id, def, ver, key, input, node, lease_until)
  VALUES (p_id, p_def, p_ver, p_key, p_input, nullif(p_node, ''),
          CASE WHEN p_node OPERATOR(pg_catalog.<>) '' THEN pg_catalog.now() OPERATOR(pg_catalog.+) '15 s'::pg_catalog.interval END)
  ON CONFLICT (def, key) DO NOTHING RETURNING id INTO r;
  IF r IS NULL THEN
    SELECT s.id INTO r FROM bus.saga s WHERE s.def OPERATOR(pg_catalog.=) p_def AND s.key OPERATOR(pg_catalog.=) p_key;
  END IF;
  RETURN r;
END $$;

-- saga_signal gives a saga of the caller's own what it waits for, or the
-- request of a later step under that step's name. Taken once by name.
CREATE FUNCTION bus.saga_signal(p_saga uuid, p_name text, p_payload bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE n int;
BEGIN
  INSERT INTO bus.saga_signal (saga, name, payload)
  SELECT s.id, p_name, p_payload FROM bus.saga s
    JOIN bus.saga_def d ON d.def OPERATOR(pg_catalog.=) s.def AND d.ver OPERATOR(pg_catalog.=) s.ver
   WHERE s.id OPERATOR(pg_catalog.=) p_saga AND d.owner OPERATOR(pg_catalog.=) session_user
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS n = ROW_COUNT;
  -- Whatever its status: a driver that is about to let it wait looks for the
  -- signal again after it has, and this row's lock orders the two.
  UPDATE bus.saga s SET due = pg_catalog.now() FROM bus.saga_def d
   WHERE s.id OPERATOR(pg_catalog.=) p_saga AND s.status OPERATOR(pg_catalog.<) 3::pg_catalog.int2
     AND d.def OPERATOR(pg_catalog.=) s.def AND d.ver OPERATOR(pg_catalog.=) s.ver AND d.owner OPERATOR(pg_catalog.=) session_user;
  RETURN n OPERATOR(pg_catalog.>) 0;
END $$;

-- step_begin is the first statement of a step's transaction. The epoch fences
-- a driver that was taken over; a concurrent duplicate blocks until the first
-- commits. done: the step has its answer (status 1 or 2, in res); the caller
-- answers that and does nothing. With undo, did is the status of the step
-- itself; undo before do leaves a tombstone (2), so that a late do finds
-- itself refused.
CREATE FUNCTION bus.step_begin(p_saga uuid, p_n smallint, p_dir smallint, p_epoch bigint,
                               OUT done boolean, OUT status smallint, OUT res bytea, OUT first boolean, OUT did smallint)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE c text; own boolean;
BEGIN
  SELECT CASE WHEN p_dir OPERATOR(pg_catalog.=) 0::pg_catalog.int2 THEN d.contracts[p_n] ELSE d.undos[p_n] END,
         d.contracts[p_n] OPERATOR(pg_catalog.=) '' INTO c, own
    FROM bus.saga s JOIN bus.saga_def d ON d.def OPERATOR(pg_catalog.=) s.def AND d.ver OPERATOR(pg_catalog.=) s.ver
   WHERE s.id OPERATOR(pg_catalog.=) p_saga AND s.epoch OPERATOR(pg_catalog.=) p_epoch AND s.status OPERATOR(pg_catalog.<) 3::pg_catalog.int2
     FOR SHARE OF s;
  IF NOT FOUND THEN RAISE EXCEPTION 'stale saga epoch' USING ERRCODE = 'BU002'; END IF;
  IF NOT EXISTS (SELECT 1 FROM bus.serves v WHERE v.role OPERATOR(pg_catalog.=) session_user AND v.contract OPERATOR(pg_catalog.=) c) THEN
    RAISE EXCEPTION 'role % does not serve step % of saga %', session_user, p_n, p_saga USING ERRCODE = '42501';
  END IF;
  IF p_dir OPERATOR(pg_catalog.=) 1::pg_catalog.int2 AND own THEN
    did := 1;                                      -- done by the transaction that started the saga
  ELSIF p_dir OPERATOR(pg_catalog.=) 1::pg_catalog.int2 THEN
    INSERT INTO bus.saga_step (saga, n, dir, status, role) VALUES (p_saga, p_n, 0, 2, session_user) ON CONFLICT DO NOTHING;
    SELECT t.status INTO did FROM bus.saga_step t
     WHERE t.saga OPERATOR(pg_catalog.=) p_saga AND t.n OPERATOR(pg_catalog.=) p_n AND t.dir OPERATOR(pg_catalog.=) 0::pg_catalog.int2 FOR SHARE;
  END IF;
  INSERT INTO bus.saga_step (saga, n, dir, role) VALUES (p_saga, p_n, p_dir, session_user) ON CONFLICT DO NOTHING;
  first := FOUND;
  IF first THEN done := false; status := 0; RETURN; END IF;
  SELECT t.status, t.res INTO status, res FROM bus.saga_step t
   WHERE t.saga OPERATOR(pg_catalog.=) p_saga AND t.n OPERATOR(pg_catalog.=) p_n AND t.dir OPERATOR(pg_catalog.=) p_dir FOR UPDATE;
  done := status OPERATOR(pg_catalog.=) ANY (ARRAY[1, 2]::pg_catalog.int2[]);
  -- Begun by another: by the kernel, before it knew that a module serves this.
  IF NOT done THEN
    UPDATE bus.saga_step t SET role = session_user
     WHERE t.saga OPERATOR(pg_catalog.=) p_saga AND t.n OPERATOR(pg_catalog.=) p_n AND t.dir OPERATOR(pg_catalog.=) p_dir
       AND t.role OPERATOR(pg_catalog.<>) session_user;
  END IF;
END $$;

-- step_end is the last statement of the same transaction: the effect and its
-- record commit together. p_last ends the saga with it.
CREATE FUNCTION bus.step_end(p_saga uuid, p_n smallint, p_dir smallint, p_status smallint, p_res bytea, p_last boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF p_dir OPERATOR(pg_catalog.=) 0::pg_catalog.int2 AND EXISTS (SELECT 1 FROM bus.saga_step u
      WHERE u.saga OPERATOR(pg_catalog.=) p_saga AND u.n OPERATOR(pg_catalog.=) p_n AND u.dir OPERATOR(pg_catalog.=) 1::pg_catalog.int2) THEN
    RAISE EXCEPTION 'the step is being undone' USING ERRCODE = 'BU003';
  END IF;
  UPDATE bus.saga_step t SET status = p_status, res = p_res, at = pg_catalog.now()
   WHERE t.saga OPERATOR(pg_catalog.=) p_saga AND t.n OPERATOR(pg_catalog.=) p_n AND t.dir OPERATOR(pg_catalog.=) p_dir
     AND t.role OPERATOR(pg_catalog.=) session_user AND t.status OPERATOR(pg_catalog.=) ANY (ARRAY[0, 3]::pg_catalog.int2[]);
  IF NOT FOUND THEN RAISE EXCEPTION 'step already ended, or not yours' USING ERRCODE = 'BU003'; END IF;
  IF p_last AND p_status OPERATOR(pg_catalog.=) 1::pg_catalog.int2 THEN
    UPDATE bus.saga s SET status = CASE WHEN p_dir OPERATOR(pg_catalog.=) 0::pg_catalog.int2 THEN 3 ELSE 4 END,
           ended_at = pg_catalog.now(), lease_until = NULL
     WHERE s.id OPERATOR(pg_catalog.=) p_saga;
  END IF;
END $$;

-- The stock ledger. Goods move between dispositions by entries that are never
-- changed. The one way to write an entry is the function post, which keeps the
-- balances with it and refuses what must not happen: a balance below zero, a
-- way that no reason opens. It runs as the owner; the runtime role reads the
-- ledger and its balances and can write neither. It names its tables in full;
-- the runtime role can create nothing that could stand in for what it calls.

-- Whose goods a sku is, as the catalog said first. It never changes.
CREATE TABLE stock_item (
  sku      text PRIMARY KEY,
  merchant text NOT NULL CHECK (merchant <> ''));
REVOKE UPDATE, DELETE, TRUNCATE ON stock_item FROM p_warehouse;

-- Which ways a reason opens. There is none from quarantine, damaged or
-- destroyed to sellable: returned goods are sold again only after an
-- inspection that names them, and its way is opened by a migration of its own.
CREATE TABLE stock_transition (
  reason           text NOT NULL,
  from_disposition text NOT NULL,
  to_disposition   text NOT NULL,
  PRIMARY KEY (reason, from_disposition, to_disposition));
INSERT INTO stock_transition VALUES
  ('receipt',     'external', 'sellable'),
  ('reservation', 'sellable', 'reserved'),
  ('release',     'reserved', 'sellable'),
  ('expiry',      'reserved', 'sellable'),
  ('adjustment',  'external', 'sellable'),
  ('adjustment',  'sellable', 'external');
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_transition FROM p_warehouse;

-- What stands where: one row per sku and site, so that a move is one update,
-- its lock orders everything about the sku there, and double entry is a CHECK.
-- external is the outside: the negative of all that is inside.
CREATE TABLE stock_balance (
  sku        text NOT NULL REFERENCES stock_item,
  site       text NOT NULL,
  merchant   text NOT NULL,
  external   bigint NOT NULL DEFAULT 0,
  sellable   bigint NOT NULL DEFAULT 0,
  reserved   bigint NOT NULL DEFAULT 0,
  quarantine bigint NOT NULL DEFAULT 0,
  damaged    bigint NOT NULL DEFAULT 0,
  destroyed  bigint NOT NULL DEFAULT 0,
  version    bigint NOT NULL DEFAULT 0,            -- rises with each move
  PRIMARY KEY (sku, site),
  -- One constraint: PostgreSQL prepares each of them anew for every update.
  CHECK (least(sellable, reserved, quarantine, damaged, destroyed) >= 0
     AND external + sellable + reserved + quarantine + damaged + destroyed = 0)) WITH (fillfactor = 50);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_balance FROM p_warehouse;

-- The ledger. lot and unit are on every entry from the first day, so that
-- their balances can be replayed once something asks for them.
CREATE TABLE stock_move (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sku              text NOT NULL,
  site             text NOT NULL CHECK (site ~ '^[a-z][a-z0-9-]{0,31}$'),
  merchant         text NOT NULL,
  lot              text NOT NULL DEFAULT '',
  unit             text NOT NULL DEFAULT '',
  from_disposition text NOT NULL,
  to_disposition   text NOT NULL CHECK (to_disposition <> from_disposition),
  quantity         bigint NOT NULL CHECK (quantity > 0),
  reason           text NOT NULL,
  reference        text NOT NULL,                  -- the document: receipt, reservation
  cause            text NOT NULL,                  -- words of who adjusted
  actor            text NOT NULL,                  -- who acted, no personal data
  at               timestamptz NOT NULL DEFAULT now(),
  -- What stands there after it, and after what was posted with it.
  after_sellable   bigint NOT NULL,
  after_reserved   bigint NOT NULL,
  after_quarantine bigint NOT NULL,
  after_damaged    bigint NOT NULL,
  after_destroyed  bigint NOT NULL,
  version          bigint NOT NULL);
CREATE INDEX stock_move_reference ON stock_move (reference) WHERE reference <> '';
CREATE INDEX stock_move_sku ON stock_move (sku, id);
CREATE INDEX stock_move_merchant ON stock_move (merchant, id);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_move FROM p_warehouse;

-- What may be promised of some skus, with everything about them locked, in the
-- one order of locks: by sku, the site main first, then the others by name.
CREATE FUNCTION lock_stock(p_skus text[]) RETURNS TABLE (sku text, site text, sellable bigint)
LANGUAGE plpgsql STRICT ROWS 20 SECURITY DEFINER AS $$
BEGIN
  RETURN QUERY SELECT s.sku, s.site, s.sellable FROM p_warehouse.stock_balance s
    WHERE s.sku = ANY (p_skus) ORDER BY s.sku, s.site <> 'main', s.site FOR NO KEY UPDATE;
END $$;

-- post writes entries for one reason and one way, all or none, and answers
-- each with what stands there after it. Whole lists at once: a trigger for
-- each row would cost three times as much. Raises WH001: less is there than
-- asked for. WH002: the reason opens no such way. WH003: nobody's sku.
CREATE FUNCTION post(p_reason text, p_from text, p_to text, p_skus text[], p_sites text[], p_quantities bigint[], p_references text[],
                     p_cause text, p_actor text)
RETURNS TABLE (reference text, quantity bigint, sku text, site text, merchant text, sellable bigint, reserved bigint, quarantine bigint,
               damaged bigint, destroyed bigint, version bigint)
LANGUAGE plpgsql STRICT ROWS 20 SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE posted int; short record;
BEGIN
  PERFORM FROM p_warehouse.stock_transition t WHERE t.reason = p_reason AND t.from_disposition = p_from AND t.to_disposition = p_to;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no % leads from % to %', p_reason, p_from, p_to USING ERRCODE = 'WH002';
  END IF;
  PERFORM FROM p_warehouse.lock_stock(p_skus);
  IF p_from = 'external' THEN
    INSERT INTO p_warehouse.stock_balance (sku, site, merchant)
    SELECT DISTINCT i.sku, u.site, i.merchant FROM unnest(p_skus, p_sites) u(sku, site) JOIN p_warehouse.stock_item i ON i.sku = u.sku
     WHERE NOT EXISTS (SELECT FROM p_warehouse.stock_balance s WHERE s.sku = u.sku AND s.site = u.site)
     ORDER BY i.sku, u.site ON CONFLICT DO NOTHING;
  END IF;
  RETURN QUERY WITH line AS MATERIALIZED (
      SELECT u.* FROM unnest(p_skus, p_sites, p_quantities, p_references) WITH ORDINALITY u(sku, site, quantity, reference, n)),
    sum AS (SELECT l.sku, l.site, sum(l.quantity)::bigint AS n FROM line l GROUP BY l.sku, l.site),
    after AS (UPDATE p_warehouse.stock_balance s SET
        external   = s.external   + d.n * ((p_to = 'external')::int   - (p_from = 'external')::int),
        sellable   = s.sellable   + d.n * ((p_to = 'sellable')::int   - (p_from = 'sellable')::int),
        reserved   = s.reserved   + d.n * ((p_to = 'reserved')::int   - (p_from = 'reserved')::int),
        quarantine = s.quarantine + d.n * ((p_to = 'quarantine')::int - (p_from = 'quarantine')::int),
        damaged    = s.damaged    + d.n * ((p_to = 'damaged')::int    - (p_from = 'damaged')::int),
        destroyed  = s.destroyed  + d.n * ((p_to = 'destroyed')::int  - (p_from = 'destroyed')::int),
        version    = s.version + 1
      FROM sum d WHERE s.sku = ANY (p_skus) AND s.sku = d.sku AND s.site = d.site AND CASE p_from
        WHEN 'external' THEN true WHEN 'sellable' THEN s.sellable >= d.n WHEN 'reserved' THEN s.reserved >= d.n
        WHEN 'quarantine' THEN s.quarantine >= d.n WHEN 'damaged' THEN s.damaged >= d.n ELSE false END
      RETURNING s.*),
    entry AS (INSERT INTO p_warehouse.stock_move (sku, site, merchant, from_disposition, to_disposition, quantity, reason, reference, cause, actor,
        after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version)
      SELECT l.sku, l.site, a.merchant, p_from, p_to, l.quantity, p_reason, l.reference, p_cause, p_actor,
        a.sellable, a.reserved, a.quarantine, a.damaged, a.destroyed, a.version
        FROM line l JOIN after a ON a.sku = l.sku AND a.site = l.site ORDER BY l.n
      RETURNING *)
    SELECT e.reference, e.quantity, e.sku, e.site, e.merchant, e.after_sellable, e.after_reserved, e.after_quarantine, e.after_damaged,
      e.after_destroyed, e.version FROM entry e ORDER BY e.id;
  GET DIAGNOSTICS posted = ROW_COUNT;
  IF posted = cardinality(p_skus) THEN
    RETURN;
  END IF;
  SELECT u.sku, u.site, sum(u.quantity) AS asked, coalesce(max((to_jsonb(s) ->> p_from)::bigint), 0) AS available, count(i.sku) AS known INTO short
    FROM unnest(p_skus, p_sites, p_quantities) u(sku, site, quantity)
    LEFT JOIN p_warehouse.stock_balance s ON s.sku = u.sku AND s.site = u.site LEFT JOIN p_warehouse.stock_item i ON i.sku = u.sku
   GROUP BY u.sku, u.site HAVING count(i.sku) = 0 OR sum(u.quantity) > coalesce(max((to_jsonb(s) ->> p_from)::bigint), 0) LIMIT 1;
  IF short.known = 0 THEN
    RAISE EXCEPTION 'nobody has said whose goods % is', short.sku USING ERRCODE = 'WH003';
  END IF;
  RAISE EXCEPTION 'not enough of % at %', short.sku, short.site USING ERRCODE = 'WH001',
    DETAIL = jsonb_build_object('sku', short.sku, 'asked', short.asked, 'available', short.available);
END $$;
REVOKE ALL ON FUNCTION lock_stock(text[]), post(text, text, text, text[], text[], bigint[], text[], text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lock_stock(text[]), post(text, text, text, text[], text[], bigint[], text[], text, text) TO p_warehouse;

-- Goods that arrived; each receipt of a merchant once. Its lines are the
-- moves that refer to it.
CREATE TABLE receipt (
  merchant text NOT NULL,
  id       text NOT NULL,
  site     text NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (merchant, id));
REVOKE UPDATE, DELETE, TRUNCATE ON receipt FROM p_warehouse;

-- Promises of goods. Its lines are the moves that refer to it. One that was
-- released before it was made is a tombstone: released, without lines.
CREATE TABLE reservation (
  id         text PRIMARY KEY,
  reference  text NOT NULL,
  state      smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- held, released, expired
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  ended_at   timestamptz,
  reason     text NOT NULL DEFAULT '',
  CHECK ((state = 1) = (ended_at IS NULL))) WITH (fillfactor = 80);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE state = 1 AND expires_at IS NOT NULL;
REVOKE UPDATE, DELETE, TRUNCATE ON reservation FROM p_warehouse;
GRANT UPDATE (state, ended_at, reason) ON reservation TO p_warehouse;

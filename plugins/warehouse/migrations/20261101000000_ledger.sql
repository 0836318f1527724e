-- The stock ledger. Goods move between dispositions by entries that are never
-- changed. The one way to write an entry is the function post, which keeps the
-- balances and the places of serialised goods with it and refuses what must
-- not happen: a balance below zero, a way that no reason opens, a serial that
-- is not where it is taken from, returned goods on the shelf without the
-- inspection that let them through. It runs as the owner; the runtime role
-- reads the ledger and can write none of it. It names its tables in full; the
-- runtime role can create nothing that could stand in for what it calls.

-- Whose goods a sku is, as the catalog said first. It never changes.
CREATE TABLE stock_item (
  sku      text PRIMARY KEY,
  merchant text NOT NULL CHECK (merchant <> ''));
REVOKE UPDATE, DELETE, TRUNCATE ON stock_item FROM p_warehouse;

-- A maker's batch and when it expires, as it was said first.
CREATE TABLE stock_lot (
  sku        text NOT NULL,
  lot        text NOT NULL CHECK (lot <> ''),
  expires_on date,
  PRIMARY KEY (sku, lot));
REVOKE UPDATE, DELETE, TRUNCATE ON stock_lot FROM p_warehouse;

-- Which ways a reason opens. Goods that came back or are in doubt stand in
-- quarantine, inspecting, suspect, damaged, defective, repair, expired or
-- recalled: the table cannot hold a way from there to where goods are sold
-- from, but the one into receiving that spends the pass of an inspection.
-- Nothing leads out of destroyed and disposed.
CREATE TABLE stock_transition (
  reason           text NOT NULL,
  from_disposition text NOT NULL,
  to_disposition   text NOT NULL,
  pass             boolean NOT NULL DEFAULT false,
  PRIMARY KEY (reason, from_disposition, to_disposition),
  CHECK (from_disposition NOT IN ('destroyed', 'disposed')),
  CHECK (from_disposition NOT IN ('quarantine', 'inspecting', 'suspect', 'damaged', 'defective', 'repair', 'expired', 'recalled')
    OR to_disposition NOT IN ('incoming', 'sellable', 'reserved', 'picked', 'packed', 'outbound', 'in_transit')
       AND (to_disposition <> 'receiving' OR pass)));
INSERT INTO stock_transition
  SELECT w.reason, f.d, t.d, w.reason = 'admission' FROM (VALUES
    ('notice',       'external',                     'incoming'),
    ('short',        'incoming',                     'external'),
    ('receipt',      'external',                     'sellable,receiving,damaged'),
    ('receipt',      'incoming',                     'receiving,damaged'),
    ('admission',    'external,inspecting,suspect',  'receiving'),
    ('put-away',     'receiving',                    'sellable'),
    ('reservation',  'sellable',                     'reserved'),
    ('release',      'reserved',                     'sellable'),
    ('expiry',       'reserved',                     'sellable'),
    ('adjustment',   'external',                     'sellable'),
    ('adjustment',   'sellable',                     'external'),
    ('pick',         'reserved',                     'picked'),
    ('pack',         'picked',                       'packed'),
    ('staging',      'packed',                       'outbound'),
    ('hand-over',    'outbound',                     'in_transit'),
    ('cancellation', 'picked,packed,outbound',       'reserved'),
    ('delivery',     'in_transit',                   'external'),
    ('loss',         'in_transit',                   'external'),
    ('return',       'external,in_transit',          'quarantine'),
    ('grading',      'quarantine',                   'inspecting,suspect,damaged,defective'),
    ('decision',     'damaged,defective',            'repair,external,disposed'),
    ('decision',     'repair',                       'inspecting,external,disposed'),
    ('refusal',      'inspecting,suspect',           'damaged,repair,external,destroyed'),
    ('refusal',      'quarantine,damaged,defective,repair,expired,recalled', 'destroyed'),
    ('floor',        'sellable,receiving',           'quarantine,inspecting,suspect,damaged,defective,expired,recalled'),
    ('floor',        'quarantine,damaged,defective,expired,recalled', 'inspecting,suspect'),
    ('floor',        'quarantine,damaged,defective', 'expired,recalled'),
    ('floor',        'expired,recalled',             'external,disposed')) w(reason, froms, tos),
    unnest(string_to_array(w.froms, ',')) f(d), unnest(string_to_array(w.tos, ',')) t(d);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_transition FROM p_warehouse;

-- What stands where: one row per sku, site, lot and kind, so that a move is
-- one update, its lock orders everything about the row, and double entry is a
-- CHECK. external is the outside: the negative of all that is inside. Rows of
-- authenticated goods count serialised goods, each with its row in stock_unit.
CREATE TABLE stock_balance (
  sku           text NOT NULL REFERENCES stock_item,
  site          text NOT NULL CHECK (site ~ '^[a-z][a-z0-9-]{0,31}$'),
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  merchant      text NOT NULL,
  expires_on    date,                              -- of the lot
  external      bigint NOT NULL DEFAULT 0,
  incoming      bigint NOT NULL DEFAULT 0,
  receiving     bigint NOT NULL DEFAULT 0,
  sellable      bigint NOT NULL DEFAULT 0,
  reserved      bigint NOT NULL DEFAULT 0,
  picked        bigint NOT NULL DEFAULT 0,
  packed        bigint NOT NULL DEFAULT 0,
  outbound      bigint NOT NULL DEFAULT 0,
  in_transit    bigint NOT NULL DEFAULT 0,
  quarantine    bigint NOT NULL DEFAULT 0,
  inspecting    bigint NOT NULL DEFAULT 0,
  suspect       bigint NOT NULL DEFAULT 0,
  damaged       bigint NOT NULL DEFAULT 0,
  defective     bigint NOT NULL DEFAULT 0,
  repair        bigint NOT NULL DEFAULT 0,
  expired       bigint NOT NULL DEFAULT 0,
  recalled      bigint NOT NULL DEFAULT 0,
  destroyed     bigint NOT NULL DEFAULT 0,
  disposed      bigint NOT NULL DEFAULT 0,
  version       bigint NOT NULL DEFAULT 0,         -- rises with each move
  PRIMARY KEY (sku, site, lot, authenticated),
  -- One constraint: PostgreSQL prepares each of them anew for every update.
  CHECK (least(incoming, receiving, sellable, reserved, picked, packed, outbound, in_transit, quarantine, inspecting, suspect, damaged,
               defective, repair, expired, recalled, destroyed, disposed) >= 0
     AND external + incoming + receiving + sellable + reserved + picked + packed + outbound + in_transit + quarantine + inspecting + suspect
       + damaged + defective + repair + expired + recalled + destroyed + disposed = 0)) WITH (fillfactor = 50);
CREATE INDEX stock_balance_receiving ON stock_balance (site, sku, lot, authenticated) WHERE receiving > 0;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_balance FROM p_warehouse;

-- Where each serialised good stands. reserved is a promise of a number and of
-- no piece: what is reserved stands on the shelf, sellable, until it is
-- picked. case_id is the inspection that it passed last, while that stands: it
-- is lost with every doubt and with the good, and nothing is sold without. What
-- was sold comes back through quarantine only.
CREATE TABLE stock_unit (
  unit        text PRIMARY KEY CHECK (unit <> ''),
  sku         text NOT NULL,
  site        text NOT NULL,
  lot         text NOT NULL,
  disposition text NOT NULL CHECK (disposition <> 'reserved'),
  case_id     text NOT NULL,
  sold        boolean NOT NULL DEFAULT false,
  CHECK (NOT sold OR disposition = 'external'),
  CHECK (CASE WHEN disposition IN ('receiving', 'sellable', 'picked', 'packed', 'outbound', 'in_transit') THEN case_id <> ''
              WHEN disposition <> 'external' THEN case_id = '' ELSE true END)) WITH (fillfactor = 80);
CREATE INDEX stock_unit_sku ON stock_unit (sku, site, lot, disposition);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_unit FROM p_warehouse;

-- What an inspection let through, and how much of it was made use of. Written
-- by record_pass, on the word of the bus, and spent by post.
CREATE TABLE pass (
  case_id  text NOT NULL CHECK (case_id <> ''),
  sku      text NOT NULL,
  lot      text NOT NULL,
  unit     text NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  used     bigint NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND quantity),
  revoked  boolean NOT NULL DEFAULT false,
  position bigint NOT NULL,                        -- of the event in the log
  PRIMARY KEY (case_id, sku, lot, unit),
  CHECK (unit = '' OR quantity = 1));
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON pass FROM p_warehouse;

-- Inspections that came to another verdict, at which position of the log.
CREATE TABLE pass_revoked (
  case_id  text PRIMARY KEY,
  position bigint NOT NULL);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON pass_revoked FROM p_warehouse;

-- The ledger. An entry of a serialised good is of one piece.
CREATE TABLE stock_move (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sku              text NOT NULL,
  site             text NOT NULL,
  lot              text NOT NULL,
  authenticated    boolean NOT NULL,
  unit             text NOT NULL,
  merchant         text NOT NULL,
  from_disposition text NOT NULL,
  to_disposition   text NOT NULL CHECK (to_disposition <> from_disposition),
  quantity         bigint NOT NULL CHECK (quantity > 0 AND (unit = '' OR quantity = 1)),
  reason           text NOT NULL,
  reference        text NOT NULL,                  -- the document: receipt, reservation
  case_id          text NOT NULL,                  -- the inspection whose pass was spent
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
CREATE INDEX stock_move_unit ON stock_move (unit, id) WHERE unit <> '';
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_move FROM p_warehouse;

-- What merchants want on their shelves in a market. Who changes what is offered
-- holds the lock of the sku's own row, as who promises it does, and raises the
-- version.
CREATE TABLE stock_policy (
  sku           text NOT NULL REFERENCES stock_item,
  market        text NOT NULL,
  on_shelf      bigint CHECK (on_shelf >= 0),      -- NULL: no bound; each sale lowers it
  safety_stock  bigint NOT NULL CHECK (safety_stock >= 0),
  reorder_point bigint NOT NULL CHECK (reorder_point >= 0),
  low           boolean NOT NULL DEFAULT false,    -- StockLow was told since it was above
  set_at        timestamptz NOT NULL DEFAULT clock_timestamp(), -- under the lock: after every reservation that it sees
  version       bigint NOT NULL DEFAULT 1,         -- rises with each change of what is offered
  PRIMARY KEY (sku, market));
CREATE INDEX stock_policy_reorder ON stock_policy (sku) WHERE reorder_point > 0;

-- What may be promised of some skus in a market, with everything about them
-- locked, in the order in which goods go: by sku, the site main first, then the
-- others by name, what expires first first, not authenticated first. What is
-- expired is not promised. The lock is that of the sku's own row, by sku, here
-- as in post: locks of the balances would leave out one that is being made by
-- somebody else, and who then met it would come out of order. Balances are read
-- after the lock was waited for. One plan is kept: for a list of one sku
-- PostgreSQL would make another at every sale, which takes longer than the work.
CREATE FUNCTION promisable(p_skus text[], p_market text)
RETURNS TABLE (sku text, site text, lot text, authenticated boolean, sellable bigint, on_shelf bigint, safety_stock bigint)
LANGUAGE plpgsql STRICT ROWS 20 SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM FROM p_warehouse.stock_item i WHERE i.sku = ANY (p_skus) ORDER BY i.sku FOR NO KEY UPDATE;
  RETURN QUERY SELECT s.sku, s.site, s.lot, s.authenticated,
      CASE WHEN s.expires_on < (now() AT TIME ZONE 'UTC')::date THEN 0 ELSE s.sellable END, p.on_shelf, p.safety_stock
    FROM p_warehouse.stock_balance s LEFT JOIN p_warehouse.stock_policy p ON p.sku = s.sku AND p.market = p_market
   WHERE s.sku = ANY (p_skus) ORDER BY s.sku, s.site <> 'main', s.site, s.expires_on, s.lot, s.authenticated;
END $$;

-- refuse says why post does not write a line. Its states: WH001 less is there
-- than asked for; WH002 the reason opens no such way; WH003 nobody's sku; WH004
-- the serial is not there; WH005 no inspection let it through.
CREATE FUNCTION refuse(p_from text, p_sku text, p_site text, p_unit text, p_asked bigint, p_available bigint, p_case text) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM p_warehouse.stock_item i WHERE i.sku = p_sku;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nobody has said whose goods % is', p_sku USING ERRCODE = 'WH003';
  ELSIF p_from <> 'external' AND p_available < p_asked THEN
    RAISE EXCEPTION 'not enough of % at %', p_sku, p_site USING ERRCODE = 'WH001',
      DETAIL = jsonb_build_object('sku', p_sku, 'asked', p_asked, 'available', p_available);
  ELSIF p_case IS NULL THEN
    RAISE EXCEPTION 'the good "%" of % does not stand % at %', p_unit, p_sku, p_from, p_site USING ERRCODE = 'WH004',
      DETAIL = jsonb_build_object('sku', p_sku, 'unit', p_unit);
  END IF;
  RAISE EXCEPTION 'inspection % lets no % of % through', p_case, p_asked, p_sku USING ERRCODE = 'WH005',
    DETAIL = jsonb_build_object('sku', p_sku, 'unit', p_unit);
END $$;

-- post writes entries for one reason and one way, all or none, and answers
-- each with what stands there after it. Whole lists at once: a trigger for
-- each row would cost three times as much. p_units is empty, or has for each
-- entry the serial it is of, or ''. Entries of authenticated goods name their
-- serials, but for those into and out of reserved that leave goods where they
-- lie. p_case names the inspection whose pass an admission spends. It raises
-- what refuse says.
CREATE FUNCTION post(p_reason text, p_from text, p_to text, p_skus text[], p_sites text[], p_lots text[], p_authenticated boolean[],
                     p_units text[], p_quantities bigint[], p_references text[], p_case text, p_cause text, p_actor text)
RETURNS TABLE (reference text, quantity bigint, unit text, sku text, site text, merchant text, sellable bigint, reserved bigint,
               quarantine bigint, damaged bigint, destroyed bigint, version bigint, lot text, expires_on text, authenticated boolean)
LANGUAGE plpgsql STRICT ROWS 20 SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  way p_warehouse.stock_transition;
  -- Where serialised goods stand before and after it.
  stood text := CASE p_from WHEN 'reserved' THEN 'sellable' ELSE p_from END;
  goes  text := CASE p_to WHEN 'reserved' THEN 'sellable' ELSE p_to END;
  sold_from CONSTANT text[] := '{receiving,sellable,picked,packed,outbound,in_transit}';
BEGIN
  SELECT t.* INTO way FROM p_warehouse.stock_transition t WHERE t.reason = p_reason AND t.from_disposition = p_from AND t.to_disposition = p_to;
  -- Serialised goods come to where they are sold from by a pass only, whatever
  -- other goods do.
  IF NOT FOUND OR true = ANY (p_authenticated) AND goes = ANY (sold_from) AND stood <> ALL (sold_from) AND NOT way.pass THEN
    RAISE EXCEPTION 'no % leads from % to %', p_reason, p_from, p_to USING ERRCODE = 'WH002';
  ELSIF way.pass AND p_case = '' THEN
    RAISE EXCEPTION 'an admission names its inspection' USING ERRCODE = 'WH005', DETAIL = '{}';
  ELSIF p_units <> '{}' AND EXISTS (SELECT FROM unnest(p_units) u WHERE u <> '' GROUP BY u HAVING count(*) > 1) THEN
    RAISE EXCEPTION 'a serial stands twice' USING ERRCODE = 'WH004', DETAIL = '{}';
  END IF;
  PERFORM FROM p_warehouse.stock_item i WHERE i.sku = ANY (p_skus) ORDER BY i.sku FOR NO KEY UPDATE;
  IF p_from = 'external' THEN
    INSERT INTO p_warehouse.stock_balance (sku, site, lot, authenticated, merchant, expires_on)
    SELECT DISTINCT i.sku, u.site, u.lot, u.authenticated, i.merchant, l.expires_on
      FROM unnest(p_skus, p_sites, p_lots, p_authenticated) u(sku, site, lot, authenticated) JOIN p_warehouse.stock_item i ON i.sku = u.sku
      LEFT JOIN p_warehouse.stock_lot l ON l.sku = u.sku AND l.lot = u.lot
     WHERE NOT EXISTS (SELECT FROM p_warehouse.stock_balance s
                        WHERE s.sku = u.sku AND s.site = u.site AND s.lot = u.lot AND s.authenticated = u.authenticated)
     ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING;
  END IF;
  IF stood = goes THEN
    -- Goods stay where they lie: a promise is made or taken back. This is the
    -- way of every sale, so it has a statement of its own that touches no more.
    RETURN QUERY WITH line AS MATERIALIZED (
        SELECT u.* FROM unnest(p_skus, p_sites, p_lots, p_authenticated, p_quantities, p_references)
          WITH ORDINALITY u(sku, site, lot, authenticated, quantity, reference, n)),
      sum AS (SELECT l.sku, l.site, l.lot, l.authenticated, sum(CASE p_to WHEN 'reserved' THEN l.quantity ELSE -l.quantity END)::bigint AS n
        FROM line l GROUP BY l.sku, l.site, l.lot, l.authenticated),
      after AS (UPDATE p_warehouse.stock_balance s SET sellable = s.sellable - d.n, reserved = s.reserved + d.n, version = s.version + 1
        FROM sum d WHERE s.sku = ANY (p_skus) AND s.sku = d.sku AND s.site = d.site AND s.lot = d.lot AND s.authenticated = d.authenticated
          AND s.sellable >= d.n AND s.reserved >= -d.n
        RETURNING s.*),
      entry AS (INSERT INTO p_warehouse.stock_move (sku, site, lot, authenticated, unit, merchant, from_disposition, to_disposition, quantity, reason,
          reference, case_id, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version)
        SELECT l.sku, l.site, l.lot, l.authenticated, '', a.merchant, p_from, p_to,
          CASE WHEN a.sku IS NULL THEN p_warehouse.refuse(p_from, l.sku, l.site, '', (SELECT abs(d.n) FROM sum d WHERE (d.sku, d.site, d.lot, d.authenticated) = (l.sku, l.site, l.lot, l.authenticated)),
            (SELECT coalesce(max((to_jsonb(s) ->> p_from)::bigint), 0) FROM p_warehouse.stock_balance s
              WHERE s.sku = l.sku AND s.site = l.site AND s.lot = l.lot AND s.authenticated = l.authenticated), NULL)
          ELSE l.quantity END, p_reason, l.reference, '', p_cause, p_actor,
          a.sellable, a.reserved, a.quarantine, a.damaged, a.destroyed, a.version
          FROM line l LEFT JOIN after a ON a.sku = l.sku AND a.site = l.site AND a.lot = l.lot AND a.authenticated = l.authenticated ORDER BY l.n
        RETURNING *)
      SELECT e.reference, e.quantity, e.unit, e.sku, e.site, e.merchant, e.after_sellable, e.after_reserved, e.after_quarantine, e.after_damaged,
        e.after_destroyed, e.version, e.lot, coalesce(a.expires_on::text, ''), e.authenticated
        FROM entry e JOIN after a ON a.sku = e.sku AND a.site = e.site AND a.lot = e.lot AND a.authenticated = e.authenticated ORDER BY e.id;
    RETURN;
  END IF;
  RETURN QUERY WITH line AS MATERIALIZED (
      SELECT u.sku, u.site, u.lot, u.authenticated, coalesce(u.unit, '') AS unit, u.quantity, u.reference, u.n
        FROM unnest(p_skus, p_sites, p_lots, p_authenticated, p_units, p_quantities, p_references)
          WITH ORDINALITY u(sku, site, lot, authenticated, unit, quantity, reference, n)),
    sum AS (SELECT l.sku, l.site, l.lot, l.authenticated, sum(l.quantity)::bigint AS n FROM line l GROUP BY l.sku, l.site, l.lot, l.authenticated),
    after AS (UPDATE p_warehouse.stock_balance s SET
        external   = s.external   + CASE 'external'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        incoming   = s.incoming   + CASE 'incoming'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        receiving  = s.receiving  + CASE 'receiving'  WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        sellable   = s.sellable   + CASE 'sellable'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        reserved   = s.reserved   + CASE 'reserved'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        picked     = s.picked     + CASE 'picked'     WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        packed     = s.packed     + CASE 'packed'     WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        outbound   = s.outbound   + CASE 'outbound'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        in_transit = s.in_transit + CASE 'in_transit' WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        quarantine = s.quarantine + CASE 'quarantine' WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        inspecting = s.inspecting + CASE 'inspecting' WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        suspect    = s.suspect    + CASE 'suspect'    WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        damaged    = s.damaged    + CASE 'damaged'    WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        defective  = s.defective  + CASE 'defective'  WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        repair     = s.repair     + CASE 'repair'     WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        expired    = s.expired    + CASE 'expired'    WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        recalled   = s.recalled   + CASE 'recalled'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        destroyed  = s.destroyed  + CASE 'destroyed'  WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        disposed   = s.disposed   + CASE 'disposed'   WHEN p_to THEN d.n WHEN p_from THEN -d.n ELSE 0 END,
        version    = s.version + 1
      FROM sum d WHERE s.sku = ANY (p_skus) AND s.sku = d.sku AND s.site = d.site AND s.lot = d.lot AND s.authenticated = d.authenticated
        AND CASE p_from WHEN 'external' THEN true
          WHEN 'sellable'   THEN s.sellable   >= d.n WHEN 'reserved'   THEN s.reserved   >= d.n WHEN 'incoming'  THEN s.incoming  >= d.n
          WHEN 'receiving'  THEN s.receiving  >= d.n WHEN 'picked'     THEN s.picked     >= d.n WHEN 'packed'    THEN s.packed    >= d.n
          WHEN 'outbound'   THEN s.outbound   >= d.n WHEN 'in_transit' THEN s.in_transit >= d.n WHEN 'damaged'   THEN s.damaged   >= d.n
          WHEN 'quarantine' THEN s.quarantine >= d.n WHEN 'inspecting' THEN s.inspecting >= d.n WHEN 'suspect'   THEN s.suspect   >= d.n
          WHEN 'defective'  THEN s.defective  >= d.n WHEN 'repair'     THEN s.repair     >= d.n WHEN 'expired'   THEN s.expired   >= d.n
          WHEN 'recalled'   THEN s.recalled   >= d.n ELSE false END
      RETURNING s.*),
    moved AS (UPDATE p_warehouse.stock_unit x SET site = l.site, disposition = goes, sold = stood = 'in_transit' AND goes = 'external',
        case_id = CASE WHEN way.pass THEN p_case WHEN goes = ANY (sold_from) OR x.disposition = 'in_transit' AND goes = 'external' THEN x.case_id ELSE '' END
      FROM line l WHERE p_units <> '{}' AND l.unit <> '' AND l.authenticated AND x.unit = l.unit AND x.sku = l.sku AND x.lot = l.lot
        AND x.disposition = stood AND (stood = 'external' OR x.site = l.site) AND (NOT x.sold OR goes = 'quarantine')
      RETURNING x.unit),
    fresh AS (INSERT INTO p_warehouse.stock_unit (unit, sku, site, lot, disposition, case_id)
      SELECT l.unit, l.sku, l.site, l.lot, goes, CASE WHEN way.pass THEN p_case ELSE '' END FROM line l
       WHERE p_units <> '{}' AND p_from = 'external' AND l.unit <> '' AND l.authenticated
         AND NOT EXISTS (SELECT FROM p_warehouse.stock_unit x WHERE x.unit = l.unit)
       ORDER BY l.unit ON CONFLICT DO NOTHING RETURNING unit),
    spent AS (UPDATE p_warehouse.pass p SET used = p.used + d.n
      FROM (SELECT l.sku, l.lot, l.unit, sum(l.quantity)::bigint AS n FROM line l GROUP BY l.sku, l.lot, l.unit) d
     WHERE way.pass AND p.case_id = p_case AND p.sku = d.sku AND p.lot = d.lot AND p.unit = d.unit AND NOT p.revoked AND p.quantity - p.used >= d.n
     RETURNING p.sku, p.lot, p.unit),
    entry AS (INSERT INTO p_warehouse.stock_move (sku, site, lot, authenticated, unit, merchant, from_disposition, to_disposition, quantity, reason,
        reference, case_id, cause, actor, after_sellable, after_reserved, after_quarantine, after_damaged, after_destroyed, version)
      SELECT l.sku, l.site, l.lot, l.authenticated, l.unit, a.merchant, p_from, p_to,
        CASE WHEN a.sku IS NULL OR CASE WHEN l.unit = '' THEN l.authenticated AND stood <> goes
                                        ELSE NOT (l.unit IN (SELECT unit FROM moved) OR l.unit IN (SELECT unit FROM fresh)) END
          THEN p_warehouse.refuse(p_from, l.sku, l.site, l.unit, (SELECT d.n FROM sum d WHERE (d.sku, d.site, d.lot, d.authenticated) = (l.sku, l.site, l.lot, l.authenticated)),
            (SELECT coalesce(max((to_jsonb(s) ->> p_from)::bigint), 0) FROM p_warehouse.stock_balance s
              WHERE s.sku = l.sku AND s.site = l.site AND s.lot = l.lot AND s.authenticated = l.authenticated), NULL)
        WHEN way.pass AND NOT (l.sku, l.lot, l.unit) IN (SELECT p.sku, p.lot, p.unit FROM spent p)
          THEN p_warehouse.refuse('external', l.sku, l.site, l.unit, l.quantity, 0, p_case)
        ELSE l.quantity END,
        p_reason, l.reference, CASE WHEN way.pass THEN p_case ELSE '' END, p_cause, p_actor,
        a.sellable, a.reserved, a.quarantine, a.damaged, a.destroyed, a.version
        FROM line l LEFT JOIN after a ON a.sku = l.sku AND a.site = l.site AND a.lot = l.lot AND a.authenticated = l.authenticated ORDER BY l.n
      RETURNING *)
    SELECT e.reference, e.quantity, e.unit, e.sku, e.site, e.merchant, e.after_sellable, e.after_reserved, e.after_quarantine, e.after_damaged,
      e.after_destroyed, e.version, e.lot, coalesce(a.expires_on::text, ''), e.authenticated
      FROM entry e JOIN after a ON a.sku = e.sku AND a.site = e.site AND a.lot = e.lot AND a.authenticated = e.authenticated ORDER BY e.id;
END $$;

-- record_pass records what the inspection said at a position of the log, by
-- the key of its event alone: "<case>/<sku>/<lot>/<unit>/<quantity>". The bus
-- says what stands there and whether this module may hear it, so nobody else's
-- word makes a pass. A later word on the same goods counts, and what was made
-- use of stays so. It raises WH006 where no such word stands.
CREATE FUNCTION record_pass(p_position bigint) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER AS $$
DECLARE part text[];
BEGIN
  SELECT string_to_array(h.key, '/') INTO part FROM bus.heard(p_position) h
   WHERE h.source = 'inspection' AND h.topic = 'entrepot.inspection.v1.GoodsPassed';
  IF cardinality(part) IS DISTINCT FROM 5 OR part[5] !~ '^[1-9][0-9]{0,17}$' THEN
    RAISE EXCEPTION 'no inspection let goods through at %', p_position USING ERRCODE = 'WH006';
  END IF;
  INSERT INTO p_warehouse.pass AS p (case_id, sku, lot, unit, quantity, revoked, position)
  VALUES (part[1], part[2], replace(replace(part[3], '%2F', '/'), '%25', '%'), part[4], part[5]::bigint,
    EXISTS (SELECT FROM p_warehouse.pass_revoked r WHERE r.case_id = part[1] AND r.position > p_position), p_position)
  ON CONFLICT (case_id, sku, lot, unit) DO UPDATE
    SET quantity = greatest(EXCLUDED.quantity, p.used), revoked = EXCLUDED.revoked, position = EXCLUDED.position
  WHERE p.position < EXCLUDED.position;
END $$;

-- revoke_passes takes back what an inspection let through and nobody made use
-- of yet: at a position of the log it came to another verdict. What it let
-- through before does not count either when it is heard later.
CREATE FUNCTION revoke_passes(p_cases text[], p_positions bigint[]) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER AS $$
BEGIN
  INSERT INTO p_warehouse.pass_revoked AS r (case_id, position)
  SELECT u.case_id, max(u.position) FROM unnest(p_cases, p_positions) u(case_id, position) GROUP BY 1 ORDER BY 1
  ON CONFLICT (case_id) DO UPDATE SET position = greatest(r.position, EXCLUDED.position);
  UPDATE p_warehouse.pass p SET revoked = true FROM p_warehouse.pass_revoked r
   WHERE r.case_id = ANY (p_cases) AND p.case_id = r.case_id AND p.position < r.position;
END $$;
REVOKE ALL ON FUNCTION promisable(text[], text), refuse(text, text, text, text, bigint, bigint, text), record_pass(bigint), revoke_passes(text[], bigint[]),
  post(text, text, text, text[], text[], text[], boolean[], text[], bigint[], text[], text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION promisable(text[], text), record_pass(bigint), revoke_passes(text[], bigint[]),
  post(text, text, text, text[], text[], text[], boolean[], text[], bigint[], text[], text, text, text) TO p_warehouse;

-- Goods that arrived; each receipt of a merchant once. Its lines are the
-- moves that refer to it.
CREATE TABLE receipt (
  merchant text NOT NULL,
  id       text NOT NULL,
  site     text NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (merchant, id));
REVOKE UPDATE, DELETE, TRUNCATE ON receipt FROM p_warehouse;

-- Promises of goods. Its lines are the moves that refer to it: every entry
-- into and out of reserved has the reservation as its reference. One that was
-- released before it was made is a tombstone: released, without lines.
CREATE TABLE reservation (
  id         text PRIMARY KEY,
  reference  text NOT NULL,
  market     text NOT NULL DEFAULT '',
  state      smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 4), -- held, released, expired, fulfilled
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  ended_at   timestamptz,
  reason     text NOT NULL DEFAULT '',
  CHECK ((state = 1) = (ended_at IS NULL))) WITH (fillfactor = 80);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE state = 1 AND expires_at IS NOT NULL;
REVOKE UPDATE, DELETE, TRUNCATE ON reservation FROM p_warehouse;
GRANT UPDATE (state, ended_at, reason) ON reservation TO p_warehouse;

-- What left the house for a document, of what: the most that may come back.
CREATE TABLE shipped (
  reference text NOT NULL,                         -- the order
  sku       text NOT NULL,
  lot       text NOT NULL,
  unit      text NOT NULL,
  quantity  bigint NOT NULL CHECK (quantity > 0 AND (unit = '' OR quantity = 1)),
  allowed   bigint NOT NULL DEFAULT 0,             -- of it, what returns were authorised for
  PRIMARY KEY (reference, sku, lot, unit),
  CHECK (allowed BETWEEN 0 AND quantity));
REVOKE DELETE, TRUNCATE ON shipped FROM p_warehouse;

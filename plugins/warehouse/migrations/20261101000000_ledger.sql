-- The stock ledger. Goods move between dispositions by entries that are never
-- changed; the database keeps the balances, and itself refuses what must not
-- happen: a balance below zero, a way that no reason opens, an entry changed
-- afterwards. Functions run as the owner and name their tables in full; the
-- runtime role can create nothing that could stand in for what they call.

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
  sellable   bigint NOT NULL DEFAULT 0 CHECK (sellable >= 0),
  reserved   bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
  quarantine bigint NOT NULL DEFAULT 0 CHECK (quarantine >= 0),
  damaged    bigint NOT NULL DEFAULT 0 CHECK (damaged >= 0),
  destroyed  bigint NOT NULL DEFAULT 0 CHECK (destroyed >= 0),
  version    bigint NOT NULL DEFAULT 0,            -- rises with each move
  PRIMARY KEY (sku, site),
  CHECK (external + sellable + reserved + quarantine + damaged + destroyed = 0)) WITH (fillfactor = 50);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stock_balance FROM p_warehouse;

-- The ledger. lot and unit are on every entry from the first day, so that
-- their balances can be replayed once something asks for them. What the
-- trigger fills (merchant, at, the balances after it) the module cannot write.
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
  reference        text NOT NULL DEFAULT '',       -- the document: receipt, reservation
  cause            text NOT NULL DEFAULT '',       -- words of who adjusted
  actor            text NOT NULL DEFAULT '',       -- who acted, no personal data
  at               timestamptz NOT NULL,
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
GRANT INSERT (sku, site, lot, unit, from_disposition, to_disposition, quantity, reason, reference, cause, actor)
  ON stock_move TO p_warehouse;

-- Before an entry is written it takes effect. WH001: less is there than asked
-- for. WH002: the reason opens no such way. WH003: nobody's sku.
CREATE FUNCTION stock_move_apply() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE b p_warehouse.stock_balance;
BEGIN
  PERFORM FROM p_warehouse.stock_transition t
    WHERE t.reason = NEW.reason AND t.from_disposition = NEW.from_disposition AND t.to_disposition = NEW.to_disposition;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no % leads from % to %', NEW.reason, NEW.from_disposition, NEW.to_disposition USING ERRCODE = 'WH002';
  END IF;
  LOOP
    UPDATE p_warehouse.stock_balance s SET
      external   = external   + NEW.quantity * ((NEW.to_disposition = 'external')::int   - (NEW.from_disposition = 'external')::int),
      sellable   = sellable   + NEW.quantity * ((NEW.to_disposition = 'sellable')::int   - (NEW.from_disposition = 'sellable')::int),
      reserved   = reserved   + NEW.quantity * ((NEW.to_disposition = 'reserved')::int   - (NEW.from_disposition = 'reserved')::int),
      quarantine = quarantine + NEW.quantity * ((NEW.to_disposition = 'quarantine')::int - (NEW.from_disposition = 'quarantine')::int),
      damaged    = damaged    + NEW.quantity * ((NEW.to_disposition = 'damaged')::int    - (NEW.from_disposition = 'damaged')::int),
      destroyed  = destroyed  + NEW.quantity * ((NEW.to_disposition = 'destroyed')::int  - (NEW.from_disposition = 'destroyed')::int),
      version    = version + 1
    WHERE s.sku = NEW.sku AND s.site = NEW.site AND CASE NEW.from_disposition
      WHEN 'external' THEN true WHEN 'sellable' THEN s.sellable >= NEW.quantity WHEN 'reserved' THEN s.reserved >= NEW.quantity
      WHEN 'quarantine' THEN s.quarantine >= NEW.quantity WHEN 'damaged' THEN s.damaged >= NEW.quantity ELSE false END
    RETURNING * INTO b;
    EXIT WHEN FOUND;
    SELECT * INTO b FROM p_warehouse.stock_balance s WHERE s.sku = NEW.sku AND s.site = NEW.site;
    IF FOUND AND NEW.from_disposition <> 'external' THEN
      RAISE EXCEPTION 'not enough of % at %', NEW.sku, NEW.site USING ERRCODE = 'WH001',
        DETAIL = jsonb_build_object('sku', NEW.sku, 'asked', NEW.quantity, 'available', to_jsonb(b) -> NEW.from_disposition);
    END IF;
    INSERT INTO p_warehouse.stock_balance (sku, site, merchant)
      SELECT i.sku, NEW.site, i.merchant FROM p_warehouse.stock_item i WHERE i.sku = NEW.sku ON CONFLICT DO NOTHING;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM p_warehouse.stock_item i WHERE i.sku = NEW.sku) THEN
      RAISE EXCEPTION 'nobody has said whose goods % is', NEW.sku USING ERRCODE = 'WH003';
    END IF;
  END LOOP;
  NEW.merchant := b.merchant;
  NEW.at := now();
  NEW.after_sellable := b.sellable;
  NEW.after_reserved := b.reserved;
  NEW.after_quarantine := b.quarantine;
  NEW.after_damaged := b.damaged;
  NEW.after_destroyed := b.destroyed;
  NEW.version := b.version;
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION stock_move_apply() FROM PUBLIC;
CREATE TRIGGER stock_move_apply BEFORE INSERT ON stock_move FOR EACH ROW EXECUTE FUNCTION stock_move_apply();

-- What may be promised of some skus, locked in the order in which everything
-- locks balances: by sku, the site main first, then the others by name.
CREATE FUNCTION lock_sellable(p_skus text[]) RETURNS TABLE (sku text, site text, sellable bigint)
LANGUAGE plpgsql ROWS 20 SECURITY DEFINER AS $$
BEGIN
  RETURN QUERY SELECT s.sku, s.site, s.sellable FROM p_warehouse.stock_balance s
    WHERE s.sku = ANY (p_skus) AND s.sellable > 0 ORDER BY s.sku, s.site <> 'main', s.site FOR NO KEY UPDATE;
END $$;
REVOKE ALL ON FUNCTION lock_sellable(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lock_sellable(text[]) TO p_warehouse;

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

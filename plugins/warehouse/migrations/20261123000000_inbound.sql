-- Documents that moved goods: what was ordered, announced, put away, counted,
-- moved, sent back. The goods themselves move in the ledger only.

-- Documents that were booked, each once. What they moved are the entries of
-- the ledger that refer to them.
CREATE TABLE booked (
  kind   text NOT NULL,
  id     text NOT NULL,
  digest bytea NOT NULL,                           -- SHA-256 of the request
  at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (kind, id));
REVOKE UPDATE, DELETE, TRUNCATE ON booked FROM p_warehouse;

-- What a merchant ordered from a supplier.
CREATE TABLE purchase_order (
  merchant    text NOT NULL,
  id          text NOT NULL,
  supplier    text NOT NULL,
  site        text NOT NULL,
  state       smallint NOT NULL DEFAULT 1 CHECK (state IN (1, 2)), -- open, closed
  expected_on text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (merchant, id));
CREATE INDEX purchase_order_newest ON purchase_order (merchant, created_at, id);
CREATE TABLE purchase_line (
  merchant       text NOT NULL,
  purchase_order text NOT NULL,
  sku            text NOT NULL,
  quantity       bigint NOT NULL CHECK (quantity > 0),
  announced      bigint NOT NULL DEFAULT 0 CHECK (announced >= 0),
  received       bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
  damaged        bigint NOT NULL DEFAULT 0 CHECK (damaged >= 0),
  PRIMARY KEY (merchant, purchase_order, sku),
  FOREIGN KEY (merchant, purchase_order) REFERENCES purchase_order);

-- What a supplier announced, and what was counted of it.
CREATE TABLE notice (
  merchant       text NOT NULL,
  id             text NOT NULL,
  purchase_order text NOT NULL,                    -- or ''
  site           text NOT NULL,
  state          smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- announced, received, given up
  PRIMARY KEY (merchant, id));
CREATE INDEX notice_purchase_order ON notice (merchant, purchase_order) WHERE state = 1;
REVOKE DELETE, TRUNCATE ON notice FROM p_warehouse;
CREATE TABLE notice_line (
  merchant  text NOT NULL,
  notice    text NOT NULL,
  sku       text NOT NULL,
  lot       text NOT NULL,
  announced bigint NOT NULL CHECK (announced >= 0),
  received  bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
  damaged   bigint NOT NULL DEFAULT 0 CHECK (damaged >= 0),
  PRIMARY KEY (merchant, notice, sku, lot),
  FOREIGN KEY (merchant, notice) REFERENCES notice);
REVOKE DELETE, TRUNCATE ON notice_line FROM p_warehouse;

-- Where goods were put last.
CREATE TABLE shelf (
  site          text NOT NULL,
  sku           text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  location      text NOT NULL,
  PRIMARY KEY (site, sku, lot, authenticated));

-- Cycle counts. Who counts is not told what the books say.
CREATE TABLE stock_count (
  id          text PRIMARY KEY,
  site        text NOT NULL,
  skus        text[] NOT NULL,
  state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- open, submitted, approved
  counted_by  text NOT NULL DEFAULT '',
  approved_by text NOT NULL DEFAULT '',
  CHECK (approved_by = '' OR approved_by <> counted_by),
  CHECK ((state = 1) = (counted_by = '')));
REVOKE DELETE, TRUNCATE ON stock_count FROM p_warehouse;
CREATE TABLE stock_count_line (
  count_id      text NOT NULL REFERENCES stock_count,
  sku           text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  counted       bigint NOT NULL CHECK (counted >= 0),
  expected      bigint NOT NULL CHECK (expected >= 0),
  units         text[] NOT NULL,                   -- serials that were scanned
  missing       text[] NOT NULL,                   -- serials on that shelf that were not
  PRIMARY KEY (count_id, sku, lot, authenticated),
  CHECK (CASE WHEN authenticated THEN counted = cardinality(units) AND expected = counted + cardinality(missing)
              ELSE units = '{}' AND missing = '{}' END));
REVOKE UPDATE, DELETE, TRUNCATE ON stock_count_line FROM p_warehouse;

-- Goods that may come back (a return merchandise authorisation), and what
-- became of them (S6): what went to its end
-- came, what came was authorised, and what is authorised was shipped.
CREATE TABLE rma (
  id            text PRIMARY KEY,
  reference     text NOT NULL,                     -- the order
  merchant      text NOT NULL,
  site          text NOT NULL,
  market        text NOT NULL,
  reason        text NOT NULL,
  state         smallint NOT NULL CHECK (state BETWEEN 1 AND 5), -- authorised, received, graded, closed, cancelled
  digest        bytea NOT NULL,
  fulfilment_id text NOT NULL DEFAULT '',          -- of a parcel that came back undelivered
  authorised_at timestamptz NOT NULL DEFAULT now(),
  received_at   timestamptz);
CREATE INDEX rma_reference ON rma (reference);
CREATE INDEX rma_merchant ON rma (merchant, id);
CREATE INDEX rma_state ON rma (state, id);
REVOKE DELETE, TRUNCATE ON rma FROM p_warehouse;
CREATE TABLE return_line (
  return_id text NOT NULL REFERENCES rma,
  sku       text NOT NULL,
  lot       text NOT NULL,                         -- where all of it is of one
  quantity  bigint NOT NULL,
  received  bigint NOT NULL DEFAULT 0,
  graded    bigint NOT NULL DEFAULT 0,
  restocked bigint NOT NULL DEFAULT 0,
  destroyed bigint NOT NULL DEFAULT 0,
  sent_back bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (return_id, sku),
  CHECK (quantity > 0 AND least(restocked, destroyed, sent_back) >= 0
    AND restocked + destroyed + sent_back <= graded AND graded <= received AND received <= quantity));
REVOKE DELETE, TRUNCATE ON return_line FROM p_warehouse;
-- Of which shipped goods the authorised ones are.
CREATE TABLE return_allowed (
  return_id text NOT NULL REFERENCES rma,
  sku       text NOT NULL,
  lot       text NOT NULL,
  unit      text NOT NULL,
  quantity  bigint NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (return_id, sku, lot, unit));
REVOKE UPDATE, DELETE, TRUNCATE ON return_allowed FROM p_warehouse;
-- What arrived, as it was scanned. wrong: that serial was not sold with the
-- order.
CREATE TABLE return_piece (
  return_id     text NOT NULL REFERENCES rma,
  sku           text NOT NULL,
  lot           text NOT NULL,
  unit          text NOT NULL,
  authenticated boolean NOT NULL,                  -- false: the ledger has this serial elsewhere, or none was read
  wrong         boolean NOT NULL,
  received      bigint NOT NULL CHECK (received > 0),
  graded        bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (return_id, sku, lot, unit),
  CHECK (graded BETWEEN 0 AND received AND (unit = '' OR received = 1)));
REVOKE DELETE, TRUNCATE ON return_piece FROM p_warehouse;
CREATE TABLE return_grading (
  return_id   text NOT NULL REFERENCES rma,
  id          text NOT NULL,
  sku         text NOT NULL,
  lot         text NOT NULL,
  quantity    bigint NOT NULL CHECK (quantity > 0),
  units       text[] NOT NULL,
  grade       smallint NOT NULL CHECK (grade BETWEEN 1 AND 6),
  answers     jsonb NOT NULL,
  blobs       text[] NOT NULL,
  graded_by   text NOT NULL,
  case_id     text NOT NULL DEFAULT '',            -- the inspection it was sent to last
  -- Where its goods stand in the ledger, as goods with serials or without.
  disposition text NOT NULL,
  authenticated boolean NOT NULL,
  at          timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (id));
CREATE INDEX return_grading_of ON return_grading (return_id, at, id);
REVOKE DELETE, TRUNCATE ON return_grading FROM p_warehouse;

-- Goods of the warehouse that an inspection was asked for: where they stand.
CREATE TABLE inspected (
  case_id       text PRIMARY KEY,
  sku           text NOT NULL,
  site          text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  quantity      bigint NOT NULL CHECK (quantity > 0),
  disposition   text NOT NULL,
  ended         boolean NOT NULL DEFAULT false,    -- they are its no more: admitted, gone, or decided on otherwise
  reference     text NOT NULL,                     -- return, or move of the doubt
  grading_id    text NOT NULL);
CREATE INDEX inspected_grading ON inspected (grading_id) WHERE grading_id <> '' AND NOT ended;
REVOKE DELETE, TRUNCATE ON inspected FROM p_warehouse;

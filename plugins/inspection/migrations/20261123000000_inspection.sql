-- Units, consignments, cases, checks and destructions. What must not happen is
-- refused by the database itself: a destroyed unit that changes, a closed case
-- that opens again, a verdict or a destruction by one person alone, a check
-- that is changed after it was answered.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: %', TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'IN001';
END $$;

-- One physical good each. holder and disposition are where it is now; how it
-- came there is in unit_step.
CREATE TABLE unit (
  id              text PRIMARY KEY,
  sku             text NOT NULL,
  merchant        text NOT NULL CHECK (merchant <> ''),
  gtin            text NOT NULL DEFAULT '' CHECK (gtin ~ '^([0-9]{14})?$'),
  serial          text NOT NULL CHECK (length(serial) BETWEEN 1 AND 20),
  lot             text NOT NULL DEFAULT '',
  digital_link    text NOT NULL,
  reference       text NOT NULL,                   -- document by which it was commissioned
  holder          text NOT NULL CHECK (holder ~ '^((merchant|inspection|warehouse|carrier)/.+|consumer|nobody)$'),
  disposition     text NOT NULL,                   -- CBV
  document        text NOT NULL,                   -- of its last step
  verdict         smallint NOT NULL DEFAULT 0 CHECK (verdict BETWEEN 0 AND 5), -- the standing one; 0: none
  verdict_at      timestamptz,
  case_id         text NOT NULL DEFAULT '',        -- of the standing verdict
  certificate_id  text NOT NULL DEFAULT '',        -- in force; empty: none
  clone_suspected boolean NOT NULL DEFAULT false,
  commissioned_at timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  CHECK ((verdict = 0) = (verdict_at IS NULL)),
  CHECK (certificate_id = '' OR verdict = 1 AND disposition <> 'destroyed' AND NOT clone_suspected)) WITH (fillfactor = 70);
CREATE UNIQUE INDEX unit_sgtin ON unit (gtin, serial) WHERE gtin <> '';
CREATE UNIQUE INDEX unit_own_serial ON unit (sku, serial) WHERE gtin = '';
CREATE INDEX unit_newest ON unit (commissioned_at, id);
CREATE INDEX unit_merchant ON unit (merchant, commissioned_at, id);
REVOKE DELETE, TRUNCATE ON unit FROM p_inspection;
CREATE TRIGGER unit_destroyed_is_final BEFORE UPDATE ON unit FOR EACH ROW
  WHEN (OLD.disposition = 'destroyed' AND (OLD.holder, OLD.disposition, OLD.verdict, OLD.case_id) IS DISTINCT FROM
    (NEW.holder, NEW.disposition, NEW.verdict, NEW.case_id))
  EXECUTE FUNCTION refuse_change('a destroyed unit stays destroyed');
CREATE TRIGGER unit_stays_what_it_is BEFORE UPDATE ON unit FOR EACH ROW
  WHEN ((OLD.id, OLD.sku, OLD.merchant, OLD.gtin, OLD.serial, OLD.lot, OLD.reference) IS DISTINCT FROM
    (NEW.id, NEW.sku, NEW.merchant, NEW.gtin, NEW.serial, NEW.lot, NEW.reference))
  EXECUTE FUNCTION refuse_change('the identity of a unit does not change');

-- What happened to units, in order. Never changed.
CREATE TABLE unit_step (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  unit        text NOT NULL REFERENCES unit,
  at          timestamptz NOT NULL,
  biz_step    text NOT NULL,                       -- CBV
  disposition text NOT NULL,                       -- CBV, after it
  holder      text NOT NULL,
  reference   text NOT NULL,                       -- the document
  event_id    text NOT NULL DEFAULT '');           -- EPCIS event that says so
CREATE INDEX unit_step_unit ON unit_step (unit, id);
REVOKE UPDATE, DELETE, TRUNCATE ON unit_step FROM p_inspection;

CREATE TABLE consignment (
  id          text PRIMARY KEY,
  merchant    text NOT NULL CHECK (merchant <> ''),
  site        text NOT NULL,
  destination text NOT NULL,
  market      text NOT NULL,
  state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 4), -- announced, arrived, received, closed
  lines       jsonb NOT NULL,                      -- as announced
  received    jsonb,                               -- as counted
  shipment    text NOT NULL DEFAULT '',
  opened_at   timestamptz NOT NULL DEFAULT now(),
  received_at timestamptz,
  CHECK ((received IS NULL) = (received_at IS NULL) AND (state >= 3) = (received IS NOT NULL)));
CREATE INDEX consignment_merchant ON consignment (merchant, opened_at, id);
CREATE INDEX consignment_newest ON consignment (opened_at, id);
REVOKE DELETE, TRUNCATE ON consignment FROM p_inspection;

-- Authenticity cases. state, origin and verdict have the contract's numbers.
CREATE TABLE case_file (
  id           text PRIMARY KEY,
  origin       smallint NOT NULL CHECK (origin BETWEEN 1 AND 4),   -- consignment, return, stock, sighting
  state        smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 8),
  merchant     text NOT NULL,
  sku          text NOT NULL,
  gtin         text NOT NULL DEFAULT '',
  lot          text NOT NULL DEFAULT '',
  expires_on   text NOT NULL DEFAULT '',
  category     text NOT NULL DEFAULT '',
  quantity     bigint NOT NULL CHECK (quantity > 0),
  reference    text NOT NULL,                      -- consignment, return, ...
  site         text NOT NULL,                      -- inspection site
  destination  text NOT NULL,                      -- warehouse site
  market       text NOT NULL,
  opened_by    text NOT NULL DEFAULT '',           -- account, when by hand
  verdict      smallint NOT NULL DEFAULT 0 CHECK (verdict BETWEEN 0 AND 5),
  proposed_by  text NOT NULL DEFAULT '',
  confirmed_by text NOT NULL DEFAULT '',
  reason       text NOT NULL DEFAULT '',
  appealed     boolean NOT NULL DEFAULT false,
  ordered      smallint NOT NULL DEFAULT 0 CHECK (ordered BETWEEN 0 AND 5), -- return to merchant, damaged stock, repair, destroy, admit
  orders       int NOT NULL DEFAULT 0,             -- how often something was ordered: part of a saga's key
  opened_at    timestamptz NOT NULL DEFAULT now(),
  confirmed_at timestamptz,
  closed_at    timestamptz,
  CHECK ((state = 8) = (closed_at IS NOT NULL)),
  CHECK (state < 5 OR confirmed_at IS NOT NULL AND verdict <> 0),
  CHECK (state NOT IN (6, 7) OR ordered <> 0),
  -- Four eyes.
  CONSTRAINT case_confirmed_by_another CHECK (confirmed_by = '' OR confirmed_by <> proposed_by AND confirmed_by <> opened_by AND proposed_by <> ''))
  WITH (fillfactor = 70);
CREATE INDEX case_newest ON case_file (opened_at, id);
CREATE INDEX case_merchant ON case_file (merchant, opened_at, id);
CREATE INDEX case_reference ON case_file (reference, opened_at, id);
CREATE INDEX case_sku ON case_file (sku, opened_at);
REVOKE DELETE, TRUNCATE ON case_file FROM p_inspection;
CREATE TRIGGER case_closed_is_final BEFORE UPDATE ON case_file FOR EACH ROW WHEN (OLD.state = 8)
  EXECUTE FUNCTION refuse_change('a closed case stays closed; open another');

-- Units of a case. held says that the case has them at hand: a unit is in one
-- case at a time. A sighting is about a serial and holds nothing.
CREATE TABLE case_unit (
  case_id text NOT NULL REFERENCES case_file,
  unit    text NOT NULL REFERENCES unit,
  held    boolean NOT NULL,
  PRIMARY KEY (case_id, unit));
CREATE UNIQUE INDEX case_unit_held ON case_unit (unit) WHERE held;
CREATE INDEX case_unit_unit ON case_unit (unit);
REVOKE DELETE, TRUNCATE ON case_unit FROM p_inspection;

-- Who did what with a case. Never changed.
CREATE TABLE case_entry (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  case_id text NOT NULL REFERENCES case_file,
  at      timestamptz NOT NULL DEFAULT now(),
  what    text NOT NULL,
  who     text NOT NULL,
  note    text NOT NULL DEFAULT '');
CREATE INDEX case_entry_case ON case_entry (case_id, id);
REVOKE UPDATE, DELETE, TRUNCATE ON case_entry FROM p_inspection;

-- Looks at goods. One that an authenticator makes is written before it is
-- asked; key is what the authenticator knows it by, request what it is asked.
CREATE TABLE check_made (
  n             bigint GENERATED ALWAYS AS IDENTITY,
  id            text PRIMARY KEY,
  case_id       text NOT NULL REFERENCES case_file,
  unit          text NOT NULL DEFAULT '',          -- empty: of the whole case
  run           text NOT NULL DEFAULT '',
  key           text NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 200),
  plugin        text NOT NULL DEFAULT '',
  methods       text[] NOT NULL,                   -- what the answer's method may be
  method        text NOT NULL,
  instrument    text NOT NULL,
  instance      text NOT NULL DEFAULT '',
  operator      text NOT NULL,
  inputs        bytea NOT NULL,                    -- what was looked at, and its SHA-256
  inputs_sha256 text NOT NULL,
  result        smallint NOT NULL CHECK (result BETWEEN 1 AND 6), -- 4: pending
  reason        text NOT NULL DEFAULT '',
  note          text NOT NULL DEFAULT '',
  blobs         text[] NOT NULL DEFAULT '{}',
  asked_at      timestamptz NOT NULL DEFAULT now(),
  at            timestamptz NOT NULL DEFAULT now(),
  tries         int NOT NULL DEFAULT 0,
  next_try      timestamptz) WITH (fillfactor = 70);
CREATE INDEX check_case ON check_made (case_id, n);
CREATE INDEX check_due ON check_made (next_try) WHERE result = 4;
REVOKE DELETE, TRUNCATE ON check_made FROM p_inspection;
CREATE TRIGGER check_is_final BEFORE UPDATE ON check_made FOR EACH ROW WHEN (OLD.result <> 4)
  EXECUTE FUNCTION refuse_change('a check is not changed; make another');
CREATE TRIGGER check_stays_what_it_is BEFORE UPDATE ON check_made FOR EACH ROW
  WHEN ((OLD.id, OLD.case_id, OLD.unit, OLD.key, OLD.instance, OLD.inputs, OLD.inputs_sha256) IS DISTINCT FROM
    (NEW.id, NEW.case_id, NEW.unit, NEW.key, NEW.instance, NEW.inputs, NEW.inputs_sha256))
  EXECUTE FUNCTION refuse_change('what was looked at does not change');

-- Serials seen where they cannot be: each finding once.
CREATE TABLE sighting (
  unit      text NOT NULL REFERENCES unit,
  reference text NOT NULL,                         -- what it was found in
  reason    text NOT NULL,
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (unit, reference, reason));
REVOKE UPDATE, DELETE, TRUNCATE ON sighting FROM p_inspection;

CREATE TABLE destruction (
  id              text PRIMARY KEY,
  case_id         text NOT NULL UNIQUE REFERENCES case_file,
  state           smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- ordered, confirmed, closed
  ground          smallint NOT NULL CHECK (ground BETWEEN 1 AND 7),
  reason          text NOT NULL,
  merchant        text NOT NULL,
  sku             text NOT NULL,
  quantity        bigint NOT NULL,
  ordered_by      text NOT NULL CHECK (ordered_by <> ''),
  confirmed_by    text NOT NULL DEFAULT '',
  witness         text NOT NULL DEFAULT '',
  weight_grams    bigint NOT NULL DEFAULT 0,
  blobs           text[] NOT NULL DEFAULT '{}',
  evidence_sha256 text NOT NULL DEFAULT '',
  ordered_at      timestamptz NOT NULL DEFAULT now(),
  confirmed_at    timestamptz,
  unmatched       bigint NOT NULL DEFAULT 0 CHECK (unmatched >= 0), -- pieces that the warehouse's books did not have
  -- Two persons and a witness who is neither, weight and evidence.
  CHECK ((state = 1) = (confirmed_at IS NULL)),
  CONSTRAINT destruction_confirmed_by_another CHECK (state = 1 OR confirmed_by NOT IN ('', ordered_by) AND
    witness NOT IN ('', ordered_by, confirmed_by) AND weight_grams > 0 AND cardinality(blobs) > 0 AND evidence_sha256 <> ''));
CREATE INDEX destruction_newest ON destruction (ordered_at, id);
REVOKE TRUNCATE ON destruction FROM p_inspection;
CREATE TRIGGER destruction_stays BEFORE DELETE ON destruction FOR EACH ROW WHEN (OLD.state <> 1)
  EXECUTE FUNCTION refuse_change('what was destroyed stays recorded');
CREATE TRIGGER destruction_is_final BEFORE UPDATE ON destruction FOR EACH ROW
  WHEN (OLD.state > NEW.state OR OLD.state > 1 AND (OLD.confirmed_by, OLD.witness, OLD.weight_grams, OLD.evidence_sha256) IS DISTINCT FROM
    (NEW.confirmed_by, NEW.witness, NEW.weight_grams, NEW.evidence_sha256))
  EXECUTE FUNCTION refuse_change('what was destroyed stays recorded');

-- What authenticators are still to be told of units' fates, in order.
CREATE TABLE retain (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  unit     text NOT NULL REFERENCES unit,
  fate     smallint NOT NULL CHECK (fate BETWEEN 1 AND 3), -- sold, destroyed, returned
  document text NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  told     text[] NOT NULL DEFAULT '{}',           -- instances that know
  done_at  timestamptz,
  tries    int NOT NULL DEFAULT 0,
  next_try timestamptz NOT NULL DEFAULT now(),
  UNIQUE (unit, fate, document));
CREATE INDEX retain_due ON retain (next_try) WHERE done_at IS NULL;
CREATE INDEX retain_open ON retain (unit, id) WHERE done_at IS NULL;
REVOKE DELETE, TRUNCATE ON retain FROM p_inspection;

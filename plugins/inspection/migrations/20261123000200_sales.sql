-- In which order units were sold, which cases put that in doubt, and what the
-- public scanned.

-- The sale that a unit is in, or was in last. It has ended when the unit is
-- back on a shelf, or when somebody decided what becomes of its money.
CREATE TABLE sale (
  unit       text PRIMARY KEY REFERENCES unit,
  order_id   text NOT NULL CHECK (order_id <> ''),
  merchant   text NOT NULL CHECK (merchant <> ''),
  fulfilment text NOT NULL,
  ended      boolean NOT NULL DEFAULT false) WITH (fillfactor = 70);
REVOKE DELETE, TRUNCATE ON sale FROM p_inspection;

-- Sales that a case puts in doubt. While one stands, the merchant's share of
-- the order is not paid out.
CREATE TABLE doubt (
  case_id  text NOT NULL REFERENCES case_file,
  unit     text NOT NULL REFERENCES unit,
  order_id text NOT NULL,
  merchant text NOT NULL,
  reason   text NOT NULL,
  standing boolean NOT NULL DEFAULT true,
  PRIMARY KEY (case_id, unit, order_id)) WITH (fillfactor = 70);
CREATE INDEX doubt_standing ON doubt (unit) WHERE standing;
REVOKE DELETE, TRUNCATE ON doubt FROM p_inspection;

-- Scans of tags that were answered, kept for a day, and how many a unit has had
-- since a time: rows of the units that there are, however often anybody asks.
CREATE TABLE tag_scan (
  id     text PRIMARY KEY,
  unit   text NOT NULL REFERENCES unit,
  sha256 bytea NOT NULL,                           -- of what was asked
  result smallint NOT NULL CHECK (result BETWEEN 1 AND 6),
  reason text NOT NULL,
  at     timestamptz NOT NULL DEFAULT now());
CREATE INDEX tag_scan_unit ON tag_scan (unit, at);
CREATE TABLE scan_count (
  unit  text PRIMARY KEY REFERENCES unit,
  since timestamptz NOT NULL,
  n     int NOT NULL) WITH (fillfactor = 70);

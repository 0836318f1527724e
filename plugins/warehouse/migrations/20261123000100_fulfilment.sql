-- What of a reservation is picked, packed and handed over. The goods
-- themselves move in the ledger only; these tables say for whom.

-- One merchant's part of an order, as it was asked for.
CREATE TABLE fulfilment_request (
  id             text PRIMARY KEY,
  reference      text NOT NULL,                    -- the order
  reservation_id text NOT NULL,
  merchant       text NOT NULL);
-- Orders of which nothing more is to go out: a late request is refused.
CREATE TABLE fulfilment_halt (reference text PRIMARY KEY);

CREATE TABLE fulfilment (
  id             text PRIMARY KEY,
  request_id     text NOT NULL REFERENCES fulfilment_request,
  reservation_id text NOT NULL,
  reference      text NOT NULL,
  merchant       text NOT NULL,
  market         text NOT NULL,
  site           text NOT NULL,
  -- entrepot.warehouse.v1.Fulfilment.State: open, picking, picked, packed,
  -- ready, handed over, delivered, cancelled, waiting.
  state          smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 9),
  wave_id        text NOT NULL DEFAULT '',
  shipment_id    text NOT NULL DEFAULT '',
  carrier        text NOT NULL DEFAULT '',
  split_from     text NOT NULL DEFAULT '',
  -- How the way ended: 'delivered', 'lost', 'returned'.
  ended          text NOT NULL DEFAULT '',
  created_at     timestamptz NOT NULL DEFAULT now(),
  handed_over_at timestamptz) WITH (fillfactor = 80);
CREATE INDEX fulfilment_queue ON fulfilment (site, state, id) WHERE state < 6 OR state = 9;
CREATE INDEX fulfilment_reference ON fulfilment (reference);
CREATE INDEX fulfilment_merchant ON fulfilment (merchant, id);
CREATE INDEX fulfilment_reservation ON fulfilment (reservation_id) WHERE state <= 2;
CREATE INDEX fulfilment_wave ON fulfilment (wave_id) WHERE wave_id <> '';

CREATE TABLE fulfilment_line (
  fulfilment_id text NOT NULL REFERENCES fulfilment,
  sku           text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  quantity      bigint NOT NULL CHECK (quantity > 0),
  picked        bigint NOT NULL DEFAULT 0,
  packed        bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (fulfilment_id, sku, lot, authenticated),
  CHECK (0 <= packed AND packed <= picked AND picked <= quantity)) WITH (fillfactor = 80);

-- Serialised goods that are off the shelf. A serial is in one place at a time.
CREATE TABLE fulfilment_unit (
  unit          text PRIMARY KEY,
  fulfilment_id text NOT NULL REFERENCES fulfilment,
  sku           text NOT NULL,
  lot           text NOT NULL,
  parcel_id     text NOT NULL DEFAULT '');
CREATE INDEX fulfilment_unit_of ON fulfilment_unit (fulfilment_id);

CREATE TABLE wave (id text PRIMARY KEY, site text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE pick (id text PRIMARY KEY, wave_id text NOT NULL, at timestamptz NOT NULL DEFAULT now());

CREATE SEQUENCE sscc_serial;
CREATE TABLE parcel (
  id            text PRIMARY KEY,
  fulfilment_id text NOT NULL REFERENCES fulfilment,
  sscc          text NOT NULL UNIQUE,
  box           text NOT NULL,
  grams         int NOT NULL CHECK (grams > 0),
  length_mm     int NOT NULL,
  width_mm      int NOT NULL,
  height_mm     int NOT NULL,
  tracking      text NOT NULL DEFAULT '',
  manifest_id   text NOT NULL DEFAULT '');
CREATE INDEX parcel_of ON parcel (fulfilment_id);
CREATE TABLE parcel_line (
  parcel_id     text NOT NULL REFERENCES parcel,
  sku           text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  quantity      bigint NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (parcel_id, sku, lot, authenticated));

CREATE TABLE box (
  site      text NOT NULL,
  name      text NOT NULL,
  length_mm int NOT NULL,
  width_mm  int NOT NULL,
  height_mm int NOT NULL,
  tare      int NOT NULL,
  max_grams int NOT NULL,
  PRIMARY KEY (site, name));

-- What the catalog says of goods, for handling them. 0: nobody said.
CREATE TABLE goods_fact (sku text PRIMARY KEY, grams int NOT NULL);

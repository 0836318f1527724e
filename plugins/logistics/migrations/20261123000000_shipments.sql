-- Places that goods move between, besides consumers. Their addresses stand in
-- the vault.
CREATE TABLE place (
  id          text PRIMARY KEY,
  merchant    text NOT NULL,                       -- empty: the marketplace's
  country     text NOT NULL,
  address_ref text NOT NULL);

-- A shipment, from the moment somebody wants it. The row is written before a
-- carrier is asked: instance, service and key never change, so whoever comes
-- after a crash asks the one that may have acted.
CREATE TABLE shipment (
  id           text PRIMARY KEY,
  leg          smallint NOT NULL,
  -- booking: 1 asked, 2 booked, 3 refused, 4 unknown, 5 cancelled (also one
  -- that never was: a tombstone)
  booking      smallint NOT NULL DEFAULT 1 CHECK (booking BETWEEN 1 AND 5),
  status       smallint NOT NULL,                  -- entrepot.logistics.v1.Status
  instance     text NOT NULL DEFAULT '',
  service      text NOT NULL DEFAULT '',
  carrier_ref  text NOT NULL DEFAULT '',
  reference    text NOT NULL DEFAULT '',
  order_id     text NOT NULL DEFAULT '',
  merchant     text NOT NULL DEFAULT '',
  market       text NOT NULL DEFAULT '',
  place        text NOT NULL DEFAULT '',           -- that it leaves
  request      bytea NOT NULL,                     -- entrepot.logistics.v1.BookShipmentRequest: references, no address
  cost         bigint,
  currency     text NOT NULL DEFAULT '',
  code         text NOT NULL DEFAULT '',           -- why the carrier refused
  manifest_id  text NOT NULL DEFAULT '',
  sent_at      timestamptz,                        -- when the carrier was last asked
  tries        int NOT NULL DEFAULT 0,
  created_at   timestamptz NOT NULL DEFAULT now(),
  booked_at    timestamptz,
  delivered_at timestamptz,
  -- The carrier is asked when it has been silent for so many seconds; 0: it
  -- cannot be asked. next_poll is when that is looked at; NULL: no more.
  poll_every   int NOT NULL DEFAULT 0,
  next_poll    timestamptz,
  updated_at   timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 70);
CREATE UNIQUE INDEX shipment_carrier ON shipment (instance, carrier_ref) WHERE carrier_ref <> '';
CREATE INDEX shipment_open ON shipment (sent_at) WHERE booking IN (1, 4);
CREATE INDEX shipment_poll ON shipment (next_poll) WHERE next_poll IS NOT NULL;
CREATE INDEX shipment_reference ON shipment (reference);
CREATE INDEX shipment_order ON shipment (order_id) WHERE order_id <> '';
CREATE INDEX shipment_merchant ON shipment (merchant, id);
CREATE INDEX shipment_door ON shipment (instance, place) WHERE booking = 2 AND manifest_id = '';

CREATE TABLE shipment_parcel (
  shipment_id text NOT NULL REFERENCES shipment,
  parcel_id   text NOT NULL,
  tracking    text NOT NULL,
  PRIMARY KEY (shipment_id, parcel_id));
CREATE INDEX shipment_parcel_tracking ON shipment_parcel (tracking);

CREATE TABLE shipment_document (
  shipment_id text NOT NULL REFERENCES shipment,
  name        text NOT NULL,
  blob_id     text NOT NULL,
  PRIMARY KEY (shipment_id, name));

-- What carriers told, each fact once, in any order. Append only.
CREATE TABLE fact (
  shipment_id text NOT NULL REFERENCES shipment,
  id          text NOT NULL,
  tracking    text NOT NULL,
  status      smallint NOT NULL,                   -- entrepot.logistics.v1.Status; 0: not known
  code        text NOT NULL,
  words       text NOT NULL,
  reason      text NOT NULL,
  place       text NOT NULL,
  country     text NOT NULL,
  at          timestamptz NOT NULL,
  heard_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shipment_id, id));
REVOKE UPDATE, DELETE, TRUNCATE ON fact FROM p_logistics;

-- What a carrier told of a booking before its answer to that booking was
-- written down: it belongs to the shipment that comes to have the reference.
CREATE TABLE stray_fact (
  instance    text NOT NULL,
  carrier_ref text NOT NULL,
  id          text NOT NULL,
  tracking    text NOT NULL,
  status      smallint NOT NULL,
  code        text NOT NULL,
  words       text NOT NULL,
  reason      text NOT NULL,
  place       text NOT NULL,
  country     text NOT NULL,
  at          timestamptz NOT NULL,
  heard_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (instance, carrier_ref, id));
CREATE INDEX stray_fact_heard ON stray_fact (heard_at);

-- Changes of status of late, for those who watch.
CREATE TABLE movement (
  seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shipment_id text NOT NULL,
  at          timestamptz NOT NULL DEFAULT now());

CREATE TABLE task (
  id          text PRIMARY KEY,
  shipment_id text NOT NULL REFERENCES shipment,
  merchant    text NOT NULL,
  kind        text NOT NULL,
  reason      text NOT NULL,
  opened_at   timestamptz NOT NULL DEFAULT now(),
  resolved_at timestamptz,
  resolved_by text NOT NULL DEFAULT '',
  note        text NOT NULL DEFAULT '',
  -- Of what a consumer asked for.
  request     text NOT NULL DEFAULT '',
  address_ref text NOT NULL DEFAULT '',
  starts_at   timestamptz,
  ends_at     timestamptz);
CREATE UNIQUE INDEX task_once ON task (shipment_id, kind, request);
CREATE INDEX task_merchant ON task (merchant, id);

CREATE TABLE manifest (
  id          text PRIMARY KEY,
  instance    text NOT NULL,
  place       text NOT NULL,
  merchant    text NOT NULL,
  carrier_ref text NOT NULL DEFAULT '',
  told        boolean NOT NULL DEFAULT false,      -- the carrier has answered, or takes no manifests
  blob_id     text NOT NULL DEFAULT '',
  created_at  timestamptz NOT NULL DEFAULT now());
CREATE INDEX manifest_untold ON manifest (created_at) WHERE NOT told;
CREATE INDEX shipment_manifest ON shipment (manifest_id) WHERE manifest_id <> '';

CREATE TABLE pickup (
  id          text PRIMARY KEY,
  manifest_id text NOT NULL REFERENCES manifest,
  carrier_ref text NOT NULL DEFAULT '');

-- Nothing is told that happened before: what is older than the module, or than
-- what it remembers, was told, or is nobody's news. So a module that comes late
-- reads the log from its beginning and mails nobody about last year.
CREATE TABLE horizon (
  one bool PRIMARY KEY DEFAULT true CHECK (one),
  at  timestamptz NOT NULL DEFAULT now());
INSERT INTO horizon DEFAULT VALUES;

-- Whom an order's news go to: the module's own copy, fed by events.
CREATE TABLE buyer (
  order_id    text PRIMARY KEY,
  market      text NOT NULL,
  account     text NOT NULL,                       -- empty: a guest
  email_ref   text NOT NULL,                       -- vault references; empty where none was given
  address_ref text NOT NULL,
  merchants   text[] NOT NULL,
  at          timestamptz NOT NULL DEFAULT now());
CREATE INDEX buyer_age ON buyer (at);

-- News of orders that the copy does not have yet.
CREATE TABLE waiting (
  source   text PRIMARY KEY,
  order_id text NOT NULL,
  news     jsonb NOT NULL,
  at       timestamptz NOT NULL DEFAULT now());
CREATE INDEX waiting_order ON waiting (order_id);
CREATE INDEX waiting_age ON waiting (at);

CREATE TABLE shipment (
  id       text PRIMARY KEY,
  tracking text[] NOT NULL,
  at       timestamptz NOT NULL DEFAULT now());
CREATE INDEX shipment_age ON shipment (at);

-- What an account chose, and where it is written to.
CREATE TABLE account (
  id           text PRIMARY KEY,
  merchant     text NOT NULL,                      -- of a member; empty: a consumer
  language     text NOT NULL DEFAULT '',
  email_ref    text NOT NULL DEFAULT '',
  -- 0 no contact, 1 unconfirmed, 2 confirmed, 3 gone
  contact      smallint NOT NULL DEFAULT 0 CHECK (contact BETWEEN 0 AND 3),
  code_hash    bytea NOT NULL DEFAULT '',
  code_until   timestamptz NOT NULL DEFAULT '-infinity',
  code_tries   int NOT NULL DEFAULT 0,
  asked_at     timestamptz NOT NULL DEFAULT 'epoch',
  asked_today  int NOT NULL DEFAULT 0,
  confirmed_at timestamptz,
  CHECK ((email_ref <> '') = (contact > 0)));
CREATE INDEX account_merchant ON account (merchant) WHERE merchant <> '';

CREATE TABLE preference (
  account text NOT NULL REFERENCES account,
  topic   text NOT NULL,
  channel smallint NOT NULL,
  enabled bool NOT NULL,
  PRIMARY KEY (account, topic, channel));

-- Topics that others brought along with their words.
CREATE TABLE topic (
  name     text PRIMARY KEY,
  category smallint NOT NULL,
  merchant bool NOT NULL);

-- The marketplace's own words.
CREATE TABLE template (
  topic      text NOT NULL,
  language   text NOT NULL,
  subject    text NOT NULL,
  body       text NOT NULL,
  html       text NOT NULL,
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, language));

-- Merchants' servers. name is the merchant's, id ours.
CREATE TABLE endpoint (
  id            text PRIMARY KEY,
  merchant      text NOT NULL,
  name          text NOT NULL,
  url           text NOT NULL,
  topics        text[] NOT NULL,                   -- none: all
  description   text NOT NULL,
  state         smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 2),
  reason        text NOT NULL DEFAULT '',
  failing_since timestamptz,
  failures      int NOT NULL DEFAULT 0,            -- in a row
  blocked_until timestamptz NOT NULL DEFAULT '-infinity',
  created_at    timestamptz NOT NULL DEFAULT now(),
  UNIQUE (merchant, name));

-- References to the secrets that sign; the newest first among those that hold.
CREATE TABLE endpoint_secret (
  endpoint   text NOT NULL REFERENCES endpoint ON DELETE CASCADE,
  ref        text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  until      timestamptz NOT NULL DEFAULT 'infinity',
  PRIMARY KEY (endpoint, ref));

-- One thing that one recipient is told. source names what it follows from: it
-- is told once, however often it is heard.
CREATE TABLE notification (
  id         text PRIMARY KEY,
  source     text NOT NULL UNIQUE,
  topic      text NOT NULL,
  category   smallint NOT NULL,
  order_id   text NOT NULL,
  account    text NOT NULL,
  merchant   text NOT NULL,
  market     text NOT NULL,
  language   text NOT NULL,                        -- the recipient's own; empty: the market's
  reference  text NOT NULL,
  data       jsonb NOT NULL,
  sealed     jsonb NOT NULL,                       -- vault references by name
  words      jsonb NOT NULL,                       -- of topics that are not the module's
  at         timestamptz NOT NULL,                 -- of what it tells of
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK (num_nonnulls(nullif(order_id, ''), nullif(account, ''), nullif(merchant, '')) > 0));
CREATE INDEX notification_age ON notification (created_at);

-- One way of it to one recipient: queue and record in one.
CREATE TABLE delivery (
  id              text PRIMARY KEY,
  notification_id text NOT NULL REFERENCES notification ON DELETE CASCADE,
  channel         smallint NOT NULL CHECK (channel BETWEEN 1 AND 4),
  recipient       text NOT NULL,                   -- account, merchant, guest's order, endpoint; never an address
  merchant        text NOT NULL,                   -- whose endpoint it is
  address_ref     text NOT NULL,                   -- vault reference of a mail address, or of an address that may hold one
  -- 1 queued, 2 sending, 3 sent, 4 delivered, 5 failed, 6 unknown
  state           smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 6),
  code            text NOT NULL DEFAULT '',
  tries           int NOT NULL DEFAULT 0,
  round           int NOT NULL DEFAULT 1,          -- counts deliveries on purpose
  instance        text NOT NULL DEFAULT '',        -- that may have acted
  due_at          timestamptz NOT NULL DEFAULT now(),
  since           timestamptz NOT NULL DEFAULT now(), -- of this round
  ended_at        timestamptz,
  created_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (notification_id, channel, recipient),
  CHECK ((ended_at IS NOT NULL) = (state IN (3, 4, 5)))) WITH (fillfactor = 70);
CREATE INDEX delivery_due ON delivery (channel, due_at) WHERE state IN (1, 2, 6);
CREATE INDEX delivery_endpoint ON delivery (recipient, due_at) WHERE channel = 3 AND state IN (1, 2, 6);
CREATE INDEX delivery_merchant ON delivery (merchant, id) WHERE merchant <> '';
CREATE INDEX delivery_open ON delivery (state, id) WHERE state IN (1, 2, 5, 6);

-- The inbox. Numbers are given out by one transaction at a time, so that they
-- become visible in their order: who has read up to one has missed none before.
CREATE SEQUENCE inbox_seq;
CREATE TABLE inbox (
  seq             bigint PRIMARY KEY,
  recipient       text NOT NULL,
  notification_id text NOT NULL REFERENCES notification ON DELETE CASCADE,
  title           text NOT NULL,
  body            text NOT NULL,
  language        text NOT NULL,
  read_at         timestamptz,
  UNIQUE (recipient, seq),
  UNIQUE (notification_id, recipient));
CREATE INDEX inbox_unread ON inbox (recipient, seq) WHERE read_at IS NULL;

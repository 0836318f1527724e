-- Secret from which the secrets of guests' carts are derived.
CREATE TABLE cart_key (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  key bytea NOT NULL CHECK (octet_length(key) = 32));

CREATE TABLE cart (
  id          text PRIMARY KEY,
  market      text NOT NULL,
  account     text NOT NULL DEFAULT '',            -- empty: a guest's
  state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),
  currency    text NOT NULL DEFAULT '',            -- empty while the cart is
  lines       jsonb NOT NULL,
  quoted_at   timestamptz NOT NULL DEFAULT now(),
  order_id    text,
  -- A cart is made once by its caller's idempotency key.
  scope       text NOT NULL,
  idempotency text NOT NULL,
  fingerprint bytea NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (scope, idempotency)) WITH (fillfactor = 80);

CREATE TABLE orders (
  id             text PRIMARY KEY,
  market         text NOT NULL,
  state          smallint NOT NULL CHECK (state BETWEEN 1 AND 9),
  currency       text NOT NULL,
  total          bigint NOT NULL CHECK (total >= 0),
  cart_id        text NOT NULL REFERENCES cart,
  part           smallint NOT NULL DEFAULT 0,      -- 0: what was there; others wait, or waited, for stock
  account        text NOT NULL DEFAULT '',
  subject        text NOT NULL,                    -- the vault's, no personal data
  ship_to_ref    text NOT NULL,
  email_ref      text NOT NULL DEFAULT '',
  payment_id     text NOT NULL UNIQUE,
  reservation_id text NOT NULL UNIQUE,
  saga           uuid NOT NULL,                    -- the checkout, or what came after it
  cancel_reason  text NOT NULL DEFAULT '',
  edits          int NOT NULL DEFAULT 0,           -- how often it was edited
  edit_id        text NOT NULL DEFAULT '',         -- the edit that is being made
  carrier        text NOT NULL DEFAULT '',         -- instance that was asked for
  placed_at      timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 80);
CREATE INDEX orders_account ON orders (account, id) WHERE account <> '';
-- One cart, one order of each part: rejected ones do not count.
CREATE UNIQUE INDEX orders_cart ON orders (cart_id, part) WHERE state <> 6;

CREATE TABLE order_line (
  order_id text NOT NULL REFERENCES orders,
  n        smallint NOT NULL,
  sku      text NOT NULL,
  merchant text NOT NULL,
  title    text NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  unit     bigint NOT NULL CHECK (unit >= 0),
  total    bigint NOT NULL CHECK (total = quantity * unit),
  authenticated boolean NOT NULL,                  -- only units that passed inspection will do
  weight   int NOT NULL,                           -- grams of a piece; 0: nobody said
  hs_code  text NOT NULL,
  origin   text NOT NULL,
  PRIMARY KEY (order_id, n));

CREATE TABLE consignment (
  order_id   text NOT NULL REFERENCES orders,
  merchant   text NOT NULL,
  state      smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 5),
  total      bigint NOT NULL CHECK (total >= 0),
  capture_id text NOT NULL DEFAULT '',
  due_at     timestamptz NOT NULL,                 -- by then it is to be with a carrier
  overdue_at timestamptz,                          -- when that was told
  held       smallint NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 6), -- entrepot.order.v1.Hold.Reason
  held_at    timestamptz,
  held_by    text NOT NULL DEFAULT '',
  held_note  text NOT NULL DEFAULT '',
  CHECK ((held = 0) = (held_at IS NULL)),
  PRIMARY KEY (order_id, merchant)) WITH (fillfactor = 80);
CREATE INDEX consignment_queue ON consignment (merchant, state, order_id);
CREATE INDEX consignment_due ON consignment (merchant, due_at, order_id) WHERE state < 4;
CREATE INDEX consignment_clock ON consignment (due_at) WHERE state < 4 AND overdue_at IS NULL AND held = 0;

-- How long a merchant takes from order to hand-over.
CREATE TABLE handling (
  merchant text PRIMARY KEY,
  hours    int NOT NULL CHECK (hours BETWEEN 1 AND 1440));

-- What the warehouse does about a merchant's part: its own picture, kept from
-- its events.
CREATE TABLE fulfilment (
  id          text PRIMARY KEY,
  order_id    text NOT NULL REFERENCES orders,
  merchant    text NOT NULL,
  state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 6), -- opened, packed, held (without a booking: by the merchant), handed over, delivered, cancelled
  parcels     bytea,                               -- entrepot.warehouse.v1.FulfilmentPacked
  -- Bookings are numbered: one that was refused is followed by another.
  booking     int NOT NULL DEFAULT 0,
  shipment_id text NOT NULL DEFAULT '',
  tracking    text[] NOT NULL DEFAULT '{}',        -- its parcels' numbers, once it is booked
  rest        boolean NOT NULL DEFAULT false,      -- was not on the shelf, and waits for stock
  saga        uuid) WITH (fillfactor = 80);
CREATE INDEX fulfilment_order ON fulfilment (order_id);

-- Where money and goods of an order are held that was edited or split; others
-- have the payment and the reservation of their checkout.
CREATE TABLE settlement (
  order_id text PRIMARY KEY REFERENCES orders,
  doc      jsonb NOT NULL) WITH (fillfactor = 80);

CREATE TABLE order_edit (
  id           text PRIMARY KEY,
  order_id     text NOT NULL REFERENCES orders,
  state        smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 6),
  proposed_by  text NOT NULL,                      -- consumer, or a merchant
  awaits       text[] NOT NULL,                    -- who has not agreed
  asked        text[] NOT NULL,                    -- who must
  version      int NOT NULL,                       -- orders.edits when it was proposed
  lines        jsonb NOT NULL,                     -- that change
  ship_to_ref  text NOT NULL DEFAULT '',
  carrier      text NOT NULL DEFAULT '',
  reason       text NOT NULL DEFAULT '',
  method_token text NOT NULL DEFAULT '',           -- only while others are waited for
  fingerprint  text NOT NULL,
  plan         jsonb,
  saga         uuid,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL) WITH (fillfactor = 80);
CREATE INDEX order_edit_order ON order_edit (order_id, created_at);

-- Attempts to buy what is not there, summed.
CREATE TABLE shortage (
  merchant text NOT NULL,
  market   text NOT NULL,
  sku      text NOT NULL,
  day      date NOT NULL,
  attempts bigint NOT NULL,
  asked    bigint NOT NULL,
  missing  bigint NOT NULL,
  PRIMARY KEY (merchant, market, sku, day)) WITH (fillfactor = 80);

-- What a merchant is short of, until stock arrives.
CREATE TABLE gap (
  merchant  text NOT NULL,
  market    text NOT NULL,
  sku       text NOT NULL,
  since     timestamptz NOT NULL DEFAULT now(),
  remind_at timestamptz NOT NULL,
  reminders int NOT NULL DEFAULT 1,
  PRIMARY KEY (merchant, market, sku)) WITH (fillfactor = 80);
CREATE INDEX gap_sku ON gap (sku);
CREATE INDEX gap_due ON gap (remind_at);

-- How many wait for a sku in a market, and for which day it is expected there:
-- a row for each listing of which any may wait, or might. The queue of a sku
-- changes under the locks of its rows here, taken in the order of the markets.
CREATE TABLE backlog (
  sku      text NOT NULL,
  market   text NOT NULL,
  merchant text NOT NULL,
  waiting  bigint NOT NULL CHECK (waiting >= 0),
  allowed  bigint NOT NULL,                        -- by the listing, when the last one came
  since    timestamptz NOT NULL DEFAULT now(),
  listing  bigint NOT NULL DEFAULT 0,              -- position of the event that told the day: an older one tells nothing
  expected_on date,                                -- as the listing has it; NULL: not heard of
  PRIMARY KEY (sku, market)) WITH (fillfactor = 80);
CREATE INDEX backlog_merchant ON backlog (merchant) WHERE waiting > 0;

-- Orders that wait, or waited, for stock.
CREATE TABLE backorder (
  order_id     text PRIMARY KEY REFERENCES orders,
  n            bigint GENERATED ALWAYS AS IDENTITY, -- place in the queue
  of_order     text NOT NULL,                      -- of the same checkout, with what was there; empty: nothing was
  market       text NOT NULL,
  merchant     text NOT NULL,
  sku          text NOT NULL,
  quantity     bigint NOT NULL CHECK (quantity > 0),
  expected_on  date NOT NULL,
  state        smallint NOT NULL CHECK (state BETWEEN 1 AND 6), -- entrepot.order.v1.Backorder.State
  method_token text NOT NULL,                      -- only while it waits
  due          boolean NOT NULL DEFAULT false,     -- goods came since it was tried
  reserved     boolean NOT NULL DEFAULT false,     -- by the allotment under way
  asked_at     timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 80);
CREATE INDEX backorder_queue ON backorder (sku, n) WHERE state = 2;
-- Of a sku one is allotted at a time.
CREATE UNIQUE INDEX backorder_turn ON backorder (sku) WHERE state = 3;
CREATE INDEX backorder_open ON backorder (sku, market, n) WHERE state < 5;
CREATE INDEX backorder_placing ON backorder (of_order) WHERE state = 1;
CREATE INDEX backorder_asked ON backorder (asked_at) WHERE state = 2;

-- Who asked to be told when it is there. The row goes with the telling.
CREATE TABLE waiter (
  account  text NOT NULL,
  market   text NOT NULL,
  sku      text NOT NULL,
  quantity bigint NOT NULL,
  title    text NOT NULL DEFAULT '',               -- as the catalog had it in the market
  since    timestamptz NOT NULL DEFAULT now(),
  arrived  boolean NOT NULL DEFAULT false,
  PRIMARY KEY (account, market, sku)) WITH (fillfactor = 80);
CREATE INDEX waiter_sku ON waiter (sku, market);
CREATE INDEX waiter_arrived ON waiter (account, market, sku) WHERE arrived;

-- What happened, in order. Append only.
CREATE TABLE timeline (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id text NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  what     text NOT NULL,
  who      text NOT NULL,
  note     text NOT NULL DEFAULT '');
CREATE INDEX timeline_order ON timeline (order_id, id);
REVOKE UPDATE, DELETE, TRUNCATE ON timeline FROM p_order;

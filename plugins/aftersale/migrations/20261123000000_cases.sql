-- What was bought: the module's own copy, fed by events, so that an
-- application is checked in one transaction. Whoever changes anything about an
-- order's cases or money locks this row first.
CREATE TABLE purchase (
  order_id    text PRIMARY KEY,
  market      text NOT NULL,
  currency    text NOT NULL,
  account     text NOT NULL,                       -- empty: a guest's
  subject     text NOT NULL DEFAULT '',            -- the vault's, once somebody wrote
  payment_id  text NOT NULL,
  ship_to_ref text NOT NULL,
  email_ref   text NOT NULL,
  total       bigint NOT NULL CHECK (total >= 0),
  refunded    bigint NOT NULL DEFAULT 0,           -- planned or paid; triggers keep it
  placed_at   timestamptz NOT NULL,
  CONSTRAINT refunds_within_total CHECK (refunded BETWEEN 0 AND total));
REVOKE UPDATE, DELETE, TRUNCATE ON purchase FROM p_aftersale;
GRANT UPDATE (subject, total, ship_to_ref) ON purchase TO p_aftersale;

-- What paid for it: more than one payment, where an order was added to.
CREATE TABLE purchase_payment (
  payment_id text PRIMARY KEY,
  order_id   text NOT NULL,
  captured   bigint NOT NULL DEFAULT 0,
  refunded   bigint NOT NULL DEFAULT 0);           -- by whomever, as the payment module tells
CREATE INDEX purchase_payment_order ON purchase_payment (order_id);

CREATE TABLE purchase_line (
  order_id    text NOT NULL REFERENCES purchase,
  n           smallint NOT NULL,
  sku         text NOT NULL,
  merchant    text NOT NULL,
  title       text NOT NULL,
  quantity    bigint NOT NULL CHECK (quantity > 0),
  price       bigint NOT NULL CHECK (price >= 0),  -- of all pieces
  charge      bigint NOT NULL,                     -- the line's share of tax, duty, shipping and discounts
  handed_over bigint NOT NULL DEFAULT 0,           -- pieces, replacements too
  delivered   bigint NOT NULL DEFAULT 0,
  replaced    bigint NOT NULL DEFAULT 0,
  -- Pieces that stand in cases or came back, and of them those that were
  -- delivered before. Triggers keep them.
  claimed     bigint NOT NULL DEFAULT 0,
  coming_back bigint NOT NULL DEFAULT 0,
  -- Pieces that were refunded, and the money of them.
  pieces_refunded bigint NOT NULL DEFAULT 0,
  refunded    bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, n),
  UNIQUE (order_id, sku),
  CONSTRAINT delivered_within_handed_over CHECK (delivered BETWEEN 0 AND handed_over),
  CONSTRAINT claimed_within_handed_over CHECK (claimed BETWEEN 0 AND handed_over),
  CONSTRAINT returned_within_delivered CHECK (coming_back BETWEEN 0 AND delivered),
  CONSTRAINT refunds_within_price CHECK (refunded BETWEEN 0 AND price + charge)) WITH (fillfactor = 80);
REVOKE UPDATE, DELETE, TRUNCATE ON purchase_line FROM p_aftersale;
GRANT UPDATE (title, quantity, price, charge, handed_over, delivered, replaced) ON purchase_line TO p_aftersale;

-- How it travelled.
CREATE TABLE fulfilment (
  id             text PRIMARY KEY,
  order_id       text NOT NULL REFERENCES purchase,
  merchant       text NOT NULL,
  request_id     text NOT NULL,
  site           text NOT NULL,
  shipment_id    text NOT NULL DEFAULT '',
  handed_over_at timestamptz,
  delivered_at   timestamptz);
CREATE INDEX fulfilment_order ON fulfilment (order_id, merchant);
CREATE INDEX fulfilment_request ON fulfilment (request_id);
CREATE INDEX fulfilment_shipment ON fulfilment (shipment_id) WHERE shipment_id <> '';

CREATE TABLE fulfilment_piece (
  fulfilment_id text NOT NULL REFERENCES fulfilment,
  sku           text NOT NULL,
  quantity      bigint NOT NULL CHECK (quantity > 0),
  grams         bigint NOT NULL,                   -- of all pieces, with their part of the box
  PRIMARY KEY (fulfilment_id, sku));

CREATE TABLE purchase_unit (
  order_id      text NOT NULL,
  unit          text NOT NULL,
  sku           text NOT NULL,
  fulfilment_id text NOT NULL REFERENCES fulfilment,
  PRIMARY KEY (order_id, unit),
  FOREIGN KEY (order_id, sku) REFERENCES purchase_line (order_id, sku));

-- Shipments of orders and of returns, as logistics tells of them.
CREATE TABLE shipment (
  id        text PRIMARY KEY,
  order_id  text NOT NULL,
  leg       smallint NOT NULL,
  status    smallint NOT NULL DEFAULT 0,
  instance  text NOT NULL DEFAULT '',
  tracking  text[] NOT NULL DEFAULT '{}',
  at        timestamptz);
CREATE INDEX shipment_order ON shipment (order_id);

CREATE TABLE shipment_step (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shipment_id text NOT NULL,
  status      smallint NOT NULL,
  at          timestamptz NOT NULL,
  reason      text NOT NULL,
  UNIQUE (shipment_id, status, at));
REVOKE UPDATE, DELETE, TRUNCATE ON shipment_step FROM p_aftersale;

-- What a customs form wants to know of goods.
CREATE TABLE goods_facts (
  sku     text PRIMARY KEY,
  grams   int NOT NULL,
  hs_code text NOT NULL,
  origin  text NOT NULL);

CREATE TABLE case_file (
  id          text PRIMARY KEY,
  order_id    text NOT NULL REFERENCES purchase,
  merchant    text NOT NULL,
  application text NOT NULL,
  digest      bytea NOT NULL,                      -- of the application
  kind        smallint NOT NULL CHECK (kind BETWEEN 1 AND 6),
  reason      smallint NOT NULL,
  remedy      smallint NOT NULL CHECK (remedy BETWEEN 1 AND 4),
  state       smallint NOT NULL CHECK (state BETWEEN 1 AND 10),
  market      text NOT NULL,
  currency    text NOT NULL,
  account     text NOT NULL,
  text_ref    text NOT NULL DEFAULT '',
  blobs       text[] NOT NULL,
  note        text NOT NULL DEFAULT '',
  escalated   boolean NOT NULL DEFAULT false,
  policy      bytea NOT NULL,                      -- entrepot.aftersale.v1.Policy that binds it
  decide_by   timestamptz,
  answer_by   timestamptz,
  outcome     smallint NOT NULL DEFAULT 0,
  reason_code text NOT NULL DEFAULT '',
  decision_ref text NOT NULL DEFAULT '',
  decided_by  text NOT NULL DEFAULT '',
  decided_at  timestamptz,
  keep_goods  boolean NOT NULL DEFAULT false,
  offer       bigint NOT NULL DEFAULT 0,
  offer_ref   text NOT NULL DEFAULT '',
  offered_by  text NOT NULL DEFAULT '',
  offered_at  timestamptz,
  -- Sagas are numbered: one that was undone is followed by another, with ids
  -- of its own.
  attempt     int NOT NULL DEFAULT 0,
  saga        uuid,
  return_id   text NOT NULL DEFAULT '',
  shipment_id text NOT NULL DEFAULT '',
  back_id     text NOT NULL DEFAULT '',
  reservation_id text NOT NULL DEFAULT '',
  request_id  text NOT NULL DEFAULT '',
  refund_id   text NOT NULL DEFAULT '',
  concluded   boolean NOT NULL DEFAULT false,      -- nothing more is awaited
  repaired    boolean,
  refund      bigint NOT NULL DEFAULT 0 CHECK (refund >= 0),
  deduction   bigint NOT NULL DEFAULT 0 CHECK (deduction >= 0),
  refund_state smallint NOT NULL DEFAULT 0 CHECK (refund_state BETWEEN 0 AND 3), -- none, planned, paid, refused
  opened_at   timestamptz NOT NULL DEFAULT now(),
  received_at timestamptz,
  settled_at  timestamptz,
  UNIQUE (order_id, application)) WITH (fillfactor = 80);
CREATE INDEX case_merchant ON case_file (merchant, id);
CREATE INDEX case_account ON case_file (account, id) WHERE account <> '';
CREATE INDEX case_escalated ON case_file (id) WHERE escalated;
CREATE INDEX case_return ON case_file (return_id) WHERE return_id <> '';
CREATE INDEX case_shipment ON case_file (shipment_id) WHERE shipment_id <> '';
CREATE INDEX case_request ON case_file (request_id) WHERE request_id <> '';

CREATE TABLE case_line (
  case_id  text NOT NULL REFERENCES case_file,
  order_id text NOT NULL,
  n        smallint NOT NULL,
  sku      text NOT NULL,
  asked    bigint NOT NULL CHECK (asked > 0),
  accepted bigint NOT NULL DEFAULT 0,
  -- Pieces that nobody else may apply for: asked, then accepted, then what came.
  claimed  bigint NOT NULL CHECK (claimed >= 0),
  was_delivered boolean NOT NULL,
  received bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
  assessed bigint NOT NULL DEFAULT 0,
  passed   bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (case_id, n),
  FOREIGN KEY (order_id, n) REFERENCES purchase_line,
  CHECK (claimed <= asked AND accepted BETWEEN 0 AND asked AND passed BETWEEN 0 AND assessed));
REVOKE DELETE, TRUNCATE ON case_line FROM p_aftersale;

-- A unit stands in one case at a time, and in none after it came back.
CREATE TABLE claimed_unit (
  order_id text NOT NULL,
  unit     text NOT NULL,
  case_id  text NOT NULL REFERENCES case_file,
  n        smallint NOT NULL,
  came_back boolean NOT NULL DEFAULT false,
  PRIMARY KEY (order_id, unit),
  FOREIGN KEY (order_id, unit) REFERENCES purchase_unit);
CREATE INDEX claimed_unit_case ON claimed_unit (case_id);

-- claim keeps what lines say about how much of them stands in cases: an
-- application beyond what was delivered is refused here, whatever the
-- module's code believes.
CREATE FUNCTION claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE more bigint := NEW.claimed - CASE TG_OP WHEN 'UPDATE' THEN OLD.claimed ELSE 0 END;
BEGIN
  IF TG_OP = 'UPDATE' AND (OLD.order_id, OLD.n, OLD.was_delivered) IS DISTINCT FROM (NEW.order_id, NEW.n, NEW.was_delivered) THEN
    RAISE EXCEPTION 'a case keeps its lines' USING ERRCODE = 'AF001';
  END IF;
  UPDATE p_aftersale.purchase_line l
     SET claimed = l.claimed + more, coming_back = l.coming_back + CASE WHEN NEW.was_delivered THEN more ELSE 0 END
   WHERE l.order_id = NEW.order_id AND l.n = NEW.n AND more <> 0;
  RETURN NULL;
END $$;
CREATE TRIGGER claim AFTER INSERT OR UPDATE OF order_id, n, was_delivered, claimed ON case_line FOR EACH ROW EXECUTE FUNCTION claim();

-- What is refunded of each line, planned or paid. What a payment refused is
-- set to nothing.
CREATE TABLE refund_line (
  refund_id text NOT NULL,
  case_id   text NOT NULL REFERENCES case_file,
  order_id  text NOT NULL,
  n         smallint NOT NULL,
  pieces    bigint NOT NULL CHECK (pieces >= 0),
  amount    bigint NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (refund_id, n),
  FOREIGN KEY (order_id, n) REFERENCES purchase_line);
CREATE INDEX refund_line_case ON refund_line (case_id);
REVOKE UPDATE, DELETE, TRUNCATE ON refund_line FROM p_aftersale;
GRANT UPDATE (pieces, amount) ON refund_line TO p_aftersale;

CREATE FUNCTION refund() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  more   bigint := NEW.amount - CASE TG_OP WHEN 'UPDATE' THEN OLD.amount ELSE 0 END;
  pieces bigint := NEW.pieces - CASE TG_OP WHEN 'UPDATE' THEN OLD.pieces ELSE 0 END;
BEGIN
  UPDATE p_aftersale.purchase SET refunded = purchase.refunded + more WHERE purchase.order_id = NEW.order_id;
  UPDATE p_aftersale.purchase_line l SET refunded = l.refunded + more, pieces_refunded = l.pieces_refunded + pieces
   WHERE l.order_id = NEW.order_id AND l.n = NEW.n;
  RETURN NULL;
END $$;
CREATE TRIGGER refund AFTER INSERT OR UPDATE ON refund_line FOR EACH ROW EXECUTE FUNCTION refund();

-- A refund by the payments that it is of: each pays once.
CREATE TABLE refund_part (
  case_id    text NOT NULL REFERENCES case_file,
  payment_id text NOT NULL,
  operation  text NOT NULL,
  amount     bigint NOT NULL CHECK (amount > 0),
  paid       boolean NOT NULL DEFAULT false,
  PRIMARY KEY (case_id, payment_id));

-- How the warehouse graded what came, and what inspection said of it. A
-- verdict may be heard before the grading that asked for it.
CREATE TABLE grading (
  id         text PRIMARY KEY,
  case_id    text NOT NULL REFERENCES case_file,
  n          smallint NOT NULL,
  grade      smallint NOT NULL,
  quantity   bigint NOT NULL CHECK (quantity > 0),
  units      text[] NOT NULL,
  inspection text NOT NULL,                        -- empty: none was asked for
  at         timestamptz NOT NULL);
CREATE INDEX grading_case ON grading (case_id);
CREATE INDEX grading_inspection ON grading (inspection) WHERE inspection <> '';

CREATE TABLE verdict (
  inspection text NOT NULL,
  return_id  text NOT NULL,
  verdict    smallint NOT NULL,
  quantity   bigint NOT NULL CHECK (quantity > 0),
  units      text[] NOT NULL,
  position   bigint NOT NULL,                      -- of the event: heard again, it is the same word
  at         timestamptz NOT NULL,
  PRIMARY KEY (inspection, position));

-- Arrivals that were counted, by their events' positions.
CREATE TABLE reception (
  position bigint PRIMARY KEY,
  case_id  text NOT NULL REFERENCES case_file);

-- What happened, in order. Append only.
CREATE TABLE timeline (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  case_id text NOT NULL,
  at      timestamptz NOT NULL DEFAULT now(),
  what    text NOT NULL,
  who     text NOT NULL,
  note    text NOT NULL DEFAULT '');
CREATE INDEX timeline_case ON timeline (case_id, id);
REVOKE UPDATE, DELETE, TRUNCATE ON timeline FROM p_aftersale;

-- Terms of merchants; '' is the marketplace's.
CREATE TABLE policy (
  merchant text PRIMARY KEY,
  terms    bytea NOT NULL,                         -- entrepot.aftersale.v1.Policy
  set_by   text NOT NULL,
  set_at   timestamptz NOT NULL DEFAULT now());

-- What the law of a market gives, by the day an order is placed.
CREATE TABLE consumer_right (
  market     text NOT NULL CHECK (market ~ '^[A-Z]{2}$'),
  what       smallint NOT NULL CHECK (what IN (1, 2)), -- withdrawal, conformity
  valid_from timestamptz NOT NULL,
  days       int NOT NULL CHECK (days >= 0),
  source     text NOT NULL,
  PRIMARY KEY (market, what, valid_from));

INSERT INTO consumer_right (market, what, valid_from, days, source)
SELECT m, 1, timestamptz '2014-06-13 00:00+00', 14, 'Directive 2011/83/EU, article 9'
  FROM unnest(string_to_array('AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK', ' ')) m
UNION ALL
SELECT m, 2, timestamptz '2022-01-01 00:00+00', 730, 'Directive (EU) 2019/771, article 10'
  FROM unnest(string_to_array('AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK', ' ')) m
UNION ALL VALUES
  ('GB', 1::smallint, timestamptz '2014-06-13 00:00+00', 14, 'Consumer Contracts Regulations 2013 (SI 2013/3134), regulation 30'),
  ('GB', 2::smallint, timestamptz '2015-10-01 00:00+00', 2190, 'Consumer Rights Act 2015, section 9; Limitation Act 1980, section 5');

-- One row that every writer takes and raises: writers follow each other, and
-- the number is the order of their commits. Whoever reads rows by it misses
-- none that was written later with a lower one.
CREATE TABLE change (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  n   bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO change VALUES (true, 0);
REVOKE INSERT, DELETE, TRUNCATE ON change FROM p_analytics;

-- Who a pseudonym stands for. Whoever is forgotten has no row here any more.
CREATE TABLE pseudonym (
  name    text PRIMARY KEY,                        -- "acc_..." or "vis_..."
  person  text NOT NULL,                           -- "psn_...", drawn at random
  seen_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX pseudonym_person ON pseudonym (person);
CREATE INDEX pseudonym_seen ON pseudonym (seen_at);

-- What accounts and visitors did up to then is nobody's, whatever is replayed;
-- of people, and of accounts that are erased, for good.
CREATE TABLE forgotten (
  name  text PRIMARY KEY,
  until timestamptz NOT NULL);

-- People whom processes that hold them in memory are to forget.
CREATE TABLE departed (
  person  text PRIMARY KEY,
  changed bigint NOT NULL,                         -- change.n
  at      timestamptz NOT NULL DEFAULT now());
CREATE INDEX departed_changed ON departed (changed);

CREATE TABLE preference (
  account      text PRIMARY KEY,
  not_personal boolean NOT NULL DEFAULT false,
  notify       boolean NOT NULL DEFAULT false,
  told_at      timestamptz);                       -- of RecommendationsReady
CREATE INDEX preference_notify ON preference (told_at NULLS FIRST, account) WHERE notify;

-- Batches of the beacon and what they were answered.
CREATE TABLE batch (
  id     text PRIMARY KEY,
  answer bytea NOT NULL,
  at     timestamptz NOT NULL DEFAULT now());
CREATE INDEX batch_at ON batch (at);

-- What can be sold where: the catalog's and the warehouse's word. An older
-- word changes nothing.
CREATE TABLE goods (
  sku        text PRIMARY KEY,
  product_id text NOT NULL,
  merchant   text NOT NULL,
  position   bigint NOT NULL,                      -- in the log
  changed    bigint NOT NULL);                     -- change.n
CREATE INDEX goods_changed ON goods (changed);
CREATE TABLE listing (
  market                  text NOT NULL,
  sku                     text NOT NULL,
  listed                  boolean NOT NULL,
  requires_authentication boolean NOT NULL,
  price                   bigint NOT NULL,
  currency                text NOT NULL,
  position                bigint NOT NULL,
  changed                 bigint NOT NULL,
  PRIMARY KEY (market, sku));
CREATE INDEX listing_sku ON listing (sku);
CREATE INDEX listing_changed ON listing (changed);
CREATE TABLE stock_level (
  sku           text NOT NULL,
  site          text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  merchant      text NOT NULL,
  expires_on    date,
  sellable      bigint NOT NULL,
  version       bigint NOT NULL,
  changed       bigint NOT NULL,
  PRIMARY KEY (sku, site, lot, authenticated)) WITH (fillfactor = 50);
CREATE INDEX stock_level_changed ON stock_level (changed);
CREATE TABLE stock_policy (
  sku          text NOT NULL,
  market       text NOT NULL,
  on_shelf     bigint,                             -- most that is still to be sold there; NULL: no bound
  safety_stock bigint NOT NULL,
  version      bigint NOT NULL,
  changed      bigint NOT NULL,
  PRIMARY KEY (sku, market)) WITH (fillfactor = 50);
CREATE INDEX stock_policy_changed ON stock_policy (changed);
-- What can be sold: listed, and promised more than nothing of by the rule of
-- entrepot.warehouse.v1.StockPolicy.
CREATE VIEW offer AS
SELECT l.market, l.sku, coalesce((SELECT g.merchant FROM goods g WHERE g.sku = l.sku),
         (SELECT max(s.merchant) FROM stock_level s WHERE s.sku = l.sku), '') AS merchant,
       l.price, l.currency, l.position
  FROM listing l
  LEFT JOIN stock_policy p ON p.sku = l.sku AND p.market = l.market
 WHERE l.listed AND (p.on_shelf IS NULL OR p.on_shelf > 0)
   AND (SELECT sum(s.sellable) FROM stock_level s WHERE s.sku = l.sku AND (s.authenticated OR NOT l.requires_authentication)
         AND (s.expires_on IS NULL OR s.expires_on >= (now() AT TIME ZONE 'UTC')::date)) > coalesce(p.safety_stock, 0);

-- What stood there at the end of each day on which it changed, for stock turn.
CREATE TABLE stock_day (
  sku           text NOT NULL,
  site          text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  day           date NOT NULL,
  merchant      text NOT NULL,
  units         bigint NOT NULL,                   -- sellable and reserved
  version       bigint NOT NULL,
  PRIMARY KEY (sku, site, lot, authenticated, day));
CREATE INDEX stock_day_merchant ON stock_day (merchant, sku);

-- Who bought and looked at what: what recommendations are made of.
CREATE TABLE purchase (
  order_id  text NOT NULL,
  sku       text NOT NULL,
  person    text NOT NULL,                         -- empty: a guest's, or forgotten
  market    text NOT NULL,
  at        timestamptz NOT NULL,
  cancelled boolean NOT NULL DEFAULT false,
  changed   bigint NOT NULL,
  PRIMARY KEY (order_id, sku));
CREATE INDEX purchase_person ON purchase (person) WHERE person <> '';
CREATE INDEX purchase_changed ON purchase (changed);
CREATE INDEX purchase_at ON purchase (at) WHERE person <> '';
CREATE TABLE view (
  batch    text NOT NULL,
  n        smallint NOT NULL,
  person   text NOT NULL,
  market   text NOT NULL,
  sku      text NOT NULL,
  kind     smallint NOT NULL,                      -- entrepot.analytics.v1.View.Kind
  at       timestamptz NOT NULL,
  changed  bigint NOT NULL,
  PRIMARY KEY (batch, n));
CREATE INDEX view_person ON view (person) WHERE person <> '';
CREATE INDEX view_changed ON view (changed);
CREATE INDEX view_at ON view (at);

-- Visits, and how far each came. The goods and the merchant are empty for the
-- shop as a whole.
CREATE TABLE session (
  id         text NOT NULL,
  n          smallint NOT NULL,                    -- rises after half an hour of silence
  market     text NOT NULL,
  started_at timestamptz NOT NULL,
  last_at    timestamptz NOT NULL,
  PRIMARY KEY (id, n));
CREATE INDEX session_last ON session (last_at);
CREATE TABLE reached (
  session  text NOT NULL,
  n        smallint NOT NULL,
  step     text NOT NULL,
  merchant text NOT NULL,
  sku      text NOT NULL,
  PRIMARY KEY (session, n, step, merchant, sku));
CREATE TABLE session_order (
  order_id text PRIMARY KEY,
  session  text NOT NULL,
  n        smallint NOT NULL);
CREATE TABLE funnel_day (
  day      date NOT NULL,
  market   text NOT NULL,
  merchant text NOT NULL,
  sku      text NOT NULL,
  step     text NOT NULL,
  sessions bigint NOT NULL,
  PRIMARY KEY (day, market, merchant, sku, step));

-- Facts that figures are summed of, each under what makes it the same when it
-- is told again.
CREATE TABLE sale_line (
  order_id     text NOT NULL,
  sku          text NOT NULL,
  merchant     text NOT NULL,
  market       text NOT NULL,
  currency     text NOT NULL,
  units        bigint NOT NULL,
  minor        bigint NOT NULL,
  placed_on    date NOT NULL,
  cancelled_on date,
  PRIMARY KEY (order_id, sku));
CREATE TABLE order_edit (
  id text PRIMARY KEY);
CREATE TABLE payment (
  id       text PRIMARY KEY,
  order_id text NOT NULL,
  market   text NOT NULL);
CREATE TABLE money (
  payment  text NOT NULL,
  kind     text NOT NULL CHECK (kind IN ('captured', 'refunded')),
  total    bigint NOT NULL,                        -- of the payment after it
  merchant text NOT NULL,                          -- empty: nobody said whose
  minor    bigint NOT NULL,
  PRIMARY KEY (payment, kind, total, merchant));
CREATE TABLE verdict (
  case_id text NOT NULL,
  verdict smallint NOT NULL,                       -- entrepot.inspection.v1.Verdict
  PRIMARY KEY (case_id, verdict));
CREATE TABLE return_case (
  id       text PRIMARY KEY,
  order_id text NOT NULL,
  market   text NOT NULL,
  reason   text NOT NULL,
  skus     text[] NOT NULL,
  at       timestamptz NOT NULL);
CREATE INDEX return_case_order ON return_case (order_id);
CREATE TABLE returned (
  event     text NOT NULL,
  sku       text NOT NULL,
  return_id text NOT NULL,
  reference text NOT NULL,                         -- an order, or a case
  merchant  text NOT NULL,
  units     bigint NOT NULL,
  day       date NOT NULL,
  at        timestamptz NOT NULL,
  PRIMARY KEY (event, sku));
CREATE INDEX returned_day ON returned (day);
-- Why it came back: as its case says, that of the order and the good that was
-- opened last before. A case may be told of later than the goods come.
CREATE VIEW returned_why AS
SELECT r.*, coalesce(c.market, (SELECT max(l.market) FROM sale_line l WHERE l.order_id = r.reference), '') AS market,
       coalesce(nullif(c.reason, ''), 'NOT_TOLD') AS reason
  FROM returned r LEFT JOIN LATERAL (SELECT c.market, c.reason FROM return_case c
        WHERE c.id = r.reference OR c.order_id = r.reference AND r.sku = ANY (c.skus)
        ORDER BY c.at <= r.at DESC, abs(extract(epoch FROM c.at - r.at)), c.id LIMIT 1) c ON true;
CREATE TABLE shipment (
  id           text PRIMARY KEY,
  leg          smallint NOT NULL,                  -- entrepot.logistics.v1.Leg
  order_id     text NOT NULL,
  merchant     text NOT NULL,
  instance     text NOT NULL,
  service      text NOT NULL,
  booked_at    timestamptz NOT NULL,
  delivered_at timestamptz,
  failed       boolean NOT NULL DEFAULT false,
  troubled     boolean NOT NULL DEFAULT false,
  cancelled    boolean NOT NULL DEFAULT false);
CREATE INDEX shipment_booked ON shipment (booked_at);

-- The sums, by day. Orders are counted three times: for the shop (neither
-- merchant nor good), for each merchant (no good), for each good; everything
-- else once.
CREATE TABLE figure_day (
  day             date NOT NULL,
  market          text NOT NULL,
  merchant        text NOT NULL,
  sku             text NOT NULL,
  currency        text NOT NULL,
  orders          bigint NOT NULL DEFAULT 0,
  sold            bigint NOT NULL DEFAULT 0,
  cancelled       bigint NOT NULL DEFAULT 0,
  genuine         bigint NOT NULL DEFAULT 0,
  counterfeit     bigint NOT NULL DEFAULT 0,
  inconclusive    bigint NOT NULL DEFAULT 0,
  wrong_item      bigint NOT NULL DEFAULT 0,
  damaged         bigint NOT NULL DEFAULT 0,
  views           bigint NOT NULL DEFAULT 0,
  sold_minor      bigint NOT NULL DEFAULT 0,
  cancelled_minor bigint NOT NULL DEFAULT 0,
  captured_minor  bigint NOT NULL DEFAULT 0,
  refunded_minor  bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (day, market, merchant, sku, currency)) WITH (fillfactor = 70);
CREATE INDEX figure_day_merchant ON figure_day (merchant, day);
CREATE INDEX figure_day_sku ON figure_day (sku, day) WHERE sku <> '';

-- With what came back.
CREATE VIEW figure AS
SELECT day, market, merchant, sku, currency, orders, sold, cancelled, 0::bigint AS returned, genuine, counterfeit, inconclusive, wrong_item,
       damaged, views, sold_minor, cancelled_minor, captured_minor, refunded_minor FROM figure_day
UNION ALL
SELECT day, market, merchant, sku, '', 0, 0, 0, units, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM returned_why;

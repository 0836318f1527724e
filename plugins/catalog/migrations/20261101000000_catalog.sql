-- What merchants say of their goods.
CREATE TABLE product (
  id             text PRIMARY KEY,
  merchant       text NOT NULL,
  titles         jsonb NOT NULL CHECK (jsonb_array_length(titles) > 0), -- [{"language", "text"}]
  descriptions   jsonb NOT NULL,
  brand          text NOT NULL,
  category       text NOT NULL,
  origin_country text NOT NULL,
  hs_code        text NOT NULL,
  updated_at     timestamptz NOT NULL);
CREATE INDEX product_merchant ON product (merchant, id);

-- A variant keeps its sku for ever. One that its product no longer has is
-- retired: it can neither be priced nor listed, and comes back as itself.
CREATE TABLE variant (
  sku          text PRIMARY KEY,
  product_id   text NOT NULL REFERENCES product,
  n            smallint NOT NULL,                  -- place in the product
  merchant     text NOT NULL,
  merchant_sku text NOT NULL,
  gtin         text NOT NULL,
  attributes   jsonb NOT NULL,
  weight_grams int NOT NULL CHECK (weight_grams >= 0),
  retired      boolean NOT NULL DEFAULT false,
  UNIQUE (merchant, merchant_sku));
CREATE INDEX variant_product ON variant (product_id, n);
REVOKE DELETE, TRUNCATE ON variant FROM p_catalog;

CREATE TABLE price (
  sku      text NOT NULL REFERENCES variant,
  market   text NOT NULL,
  amount   bigint NOT NULL CHECK (amount BETWEEN 0 AND 9000000000000),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  PRIMARY KEY (sku, market));

-- What consumers see, made ready when it is written so that reading it is one
-- statement: a row for each variant shown in a market. A price stands behind
-- every one of them. The stock is not here: it changes with every order and
-- would rewrite every index.
CREATE TABLE listing (
  market                  text NOT NULL,
  sku                     text NOT NULL,
  position                bigint GENERATED ALWAYS AS IDENTITY, -- rises with the time it was listed
  product_id              text NOT NULL,
  merchant                text NOT NULL,
  brand                   text NOT NULL,
  category                text NOT NULL,
  price                   bigint NOT NULL,
  title                   text NOT NULL,           -- in the market's first language, else any
  titles                  jsonb NOT NULL,          -- {"<language>": "<title>"}
  sort_title              text COLLATE "C" NOT NULL,
  requires_authentication boolean NOT NULL,
  backorder_limit         bigint NOT NULL DEFAULT 0 CHECK (backorder_limit BETWEEN 0 AND 100000), -- units that may wait; 0: none
  backorder_expected      date,
  CHECK ((backorder_limit = 0) = (backorder_expected IS NULL)),
  words                   tsvector NOT NULL,
  body                    bytea NOT NULL,          -- entrepot.catalog.v1.Listing without title and available
  quote                   bytea NOT NULL,          -- entrepot.catalog.v1.Quote
  PRIMARY KEY (market, sku),
  FOREIGN KEY (sku, market) REFERENCES price (sku, market));
CREATE INDEX listing_sku ON listing (sku);
CREATE UNIQUE INDEX listing_newest ON listing (market, position);
CREATE INDEX listing_price ON listing (market, price, position);
CREATE INDEX listing_title ON listing (market, sort_title, position);
CREATE INDEX listing_words ON listing USING gin (words);

-- The warehouse's word on what may be promised, by sku, site, lot and kind. An
-- older version changes nothing.
CREATE TABLE stock_level (
  sku           text NOT NULL,
  site          text NOT NULL,
  lot           text NOT NULL,
  authenticated boolean NOT NULL,
  expires_on    date,                              -- of the lot; nothing of it is promised after
  sellable      bigint NOT NULL,
  version       bigint NOT NULL,
  PRIMARY KEY (sku, site, lot, authenticated)) WITH (fillfactor = 50);

-- And on what a market may sell of it. Without a row, all that is there.
CREATE TABLE stock_policy (
  sku          text NOT NULL,
  market       text NOT NULL,
  on_shelf     bigint,                             -- most that is still to be sold there; NULL: no bound
  safety_stock bigint NOT NULL,
  version      bigint NOT NULL,
  PRIMARY KEY (sku, market)) WITH (fillfactor = 50);

-- Placed orders, as far as wrapping needs to know them: this module's own copy,
-- fed by events. No person: an account's id says nothing by itself.
CREATE TABLE orders (
  order_id       text PRIMARY KEY,
  account        text NOT NULL,               -- empty: a guest's
  market         text NOT NULL,
  state          smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 4),
  reservation_id text NOT NULL DEFAULT '',
  saga           uuid,
  CHECK ((reservation_id <> '') = (state IN (2, 3))));

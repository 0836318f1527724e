-- Parts of reservations that were given back, each once.
CREATE TABLE reservation_reduction (
  id             text PRIMARY KEY,
  reservation_id text NOT NULL REFERENCES reservation,
  at             timestamptz NOT NULL DEFAULT now());
REVOKE UPDATE, DELETE, TRUNCATE ON reservation_reduction FROM p_warehouse;

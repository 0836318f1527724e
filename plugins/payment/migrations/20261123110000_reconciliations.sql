-- Reconciliations: what a payment company tells otherwise than the ledger.

CREATE TABLE reconciliation (
  id         text PRIMARY KEY,
  instance   text NOT NULL,
  -- Of the day's own; there is one of each instance.
  day        date,
  state      smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- running, ended, failed
  started_at timestamptz NOT NULL DEFAULT now(),
  ended_at   timestamptz,
  tries      integer NOT NULL DEFAULT 1,
  compared   bigint NOT NULL DEFAULT 0,
  total      bigint NOT NULL DEFAULT 0,
  counts     jsonb NOT NULL DEFAULT '{}',          -- by kind
  code       text NOT NULL DEFAULT '',             -- why it failed
  UNIQUE (instance, day),
  CHECK ((state <> 1) = (ended_at IS NOT NULL)));
CREATE INDEX reconciliation_list ON reconciliation (started_at, id);
REVOKE DELETE, TRUNCATE ON reconciliation FROM p_payment;
CREATE TRIGGER reconciliation_ends_once BEFORE UPDATE ON reconciliation FOR EACH ROW WHEN (OLD.state = 2)
  EXECUTE FUNCTION refuse_change('a reconciliation ends once');

CREATE TABLE reconciliation_difference (
  reconciliation text NOT NULL REFERENCES reconciliation,
  n       integer NOT NULL,
  kind    smallint NOT NULL,
  key     text NOT NULL,
  subject text NOT NULL,
  ours    text NOT NULL,
  theirs  text NOT NULL,
  PRIMARY KEY (reconciliation, n));
REVOKE UPDATE, DELETE, TRUNCATE ON reconciliation_difference FROM p_payment;

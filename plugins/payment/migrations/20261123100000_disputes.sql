-- Disputes: what consumers' banks took back of what was captured, who bears
-- it, and that evidence was handed over.

-- As the company told of it. One of a payment that is not known here, or not
-- yet, has none: what is told comes in any order.
CREATE TABLE dispute (
  id                text PRIMARY KEY,
  instance          text NOT NULL,
  reference         text NOT NULL,                 -- the company's number of it
  payment_reference text NOT NULL,                 -- and of its payment
  payment           text REFERENCES payment,
  currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount            bigint NOT NULL CHECK (amount > 0),
  -- The numbers of entrepot.payment.v1.Dispute.State.
  state             smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
  reason            smallint NOT NULL,
  code              text NOT NULL,
  due               timestamptz,
  -- How much of it is in the books, in how many postings. Where it is less
  -- than the amount, no more of the payment was left.
  posted            bigint NOT NULL DEFAULT 0 CHECK (posted BETWEEN 0 AND amount),
  postings          integer NOT NULL DEFAULT 0,
  -- What the company keeps for it; how much of that is in the books, in how
  -- many postings; and of how much it was settled who bears it.
  fee               bigint NOT NULL DEFAULT 0 CHECK (fee >= 0),
  fee_currency      text NOT NULL DEFAULT '',
  fee_posted        bigint NOT NULL DEFAULT 0,
  fee_postings      integer NOT NULL DEFAULT 0,
  charged           bigint NOT NULL DEFAULT 0,
  accepting         boolean NOT NULL DEFAULT false, -- it is being given up here
  opened_at         timestamptz NOT NULL,
  told_at           timestamptz NOT NULL,          -- the company's time of what is known
  closed_at         timestamptz,
  at                timestamptz NOT NULL DEFAULT now(),
  -- When it is next looked at, and how often it was since it was last told.
  next_try          timestamptz DEFAULT now() + interval '15 s',
  tries             integer NOT NULL DEFAULT 0,
  UNIQUE (instance, reference),
  CHECK ((state >= 3) = (closed_at IS NOT NULL))) WITH (fillfactor = 70);
CREATE INDEX dispute_list ON dispute (at, id);
CREATE INDEX dispute_payment ON dispute (payment);
CREATE INDEX dispute_due ON dispute (next_try) WHERE next_try IS NOT NULL;
REVOKE DELETE, TRUNCATE ON dispute FROM p_payment;
CREATE TRIGGER dispute_closes_once BEFORE UPDATE ON dispute FOR EACH ROW
  WHEN (OLD.state >= 3 AND NEW.state <> OLD.state OR NEW.state < OLD.state OR OLD.payment IS NOT NULL AND NEW.payment IS DISTINCT FROM OLD.payment
    OR (OLD.id, OLD.instance, OLD.reference, OLD.payment_reference, OLD.currency, OLD.amount)
       IS DISTINCT FROM (NEW.id, NEW.instance, NEW.reference, NEW.payment_reference, NEW.currency, NEW.amount) OR NEW.posted < OLD.posted)
  EXECUTE FUNCTION refuse_change('a dispute closes once');

-- What each merchant bears of it: amount = pending + available, where it was
-- taken from. tax is what the tax account gave back first, to what is pending;
-- commission what came back to the merchant with it.
CREATE TABLE dispute_share (
  dispute    text NOT NULL REFERENCES dispute,
  merchant   text NOT NULL,
  pending    bigint NOT NULL CHECK (pending >= 0),
  available  bigint NOT NULL CHECK (available >= 0),
  tax        bigint NOT NULL CHECK (tax BETWEEN 0 AND pending),
  commission bigint NOT NULL CHECK (commission >= 0),
  charged    bigint NOT NULL DEFAULT 0,            -- of the fee, in its currency
  PRIMARY KEY (dispute, merchant));
CREATE INDEX dispute_share_merchant ON dispute_share (merchant, dispute);
REVOKE DELETE, TRUNCATE ON dispute_share FROM p_payment;

-- Evidence, written before it is handed over. What it says is not kept: the
-- digest, over the id too, tells a repetition from another.
CREATE TABLE dispute_evidence (
  id       text PRIMARY KEY,
  dispute  text NOT NULL REFERENCES dispute,
  merchant text NOT NULL,                          -- empty: the marketplace's
  kinds    smallint[] NOT NULL,
  digest   text NOT NULL,
  submit   boolean NOT NULL,
  state    smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3), -- unknown, taken, refused
  code     text NOT NULL DEFAULT '',
  at       timestamptz NOT NULL DEFAULT now());
CREATE INDEX dispute_evidence_of ON dispute_evidence (dispute);
REVOKE DELETE, TRUNCATE ON dispute_evidence FROM p_payment;

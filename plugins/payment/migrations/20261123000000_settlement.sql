-- What merchants are owed: what was delivered, whose cases are open, what the
-- marketplace keeps, and what may be paid out.

-- What each merchant has available and in reserve, kept by the ledger's own
-- trigger: it is the sum of the postings of its account, and nobody writes it.
-- A payout that would bring it below zero is refused here, whoever posts it,
-- and so is whatever takes more from a reserve than there is.
CREATE TABLE balance (
  account  text NOT NULL,
  currency text NOT NULL,
  instance text NOT NULL,
  amount   bigint NOT NULL,
  PRIMARY KEY (account, currency, instance)) WITH (fillfactor = 70);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON balance FROM p_payment;

CREATE FUNCTION is_kept(account text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT account LIKE 'merchant:%:available' OR account LIKE 'merchant:%:reserve'
$$;

CREATE FUNCTION keep_balance() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  kept record;
BEGIN
  FOR kept IN INSERT INTO balance AS b (account, currency, instance, amount)
    SELECT v.account, NEW.currency, NEW.instance, v.n FROM (VALUES (NEW.credit, NEW.amount), (NEW.debit, -NEW.amount)) v(account, n)
     WHERE is_kept(v.account) ORDER BY 1
    ON CONFLICT (account, currency, instance) DO UPDATE SET amount = b.amount + excluded.amount RETURNING b.account, b.amount
  LOOP
    IF NEW.kind = 'payout' AND kept.amount < 0 THEN
      RAISE EXCEPTION 'payout of more than is available' USING ERRCODE = 'PM002';
    END IF;
    IF kept.amount < 0 AND kept.account LIKE 'merchant:%:reserve' THEN
      RAISE EXCEPTION 'more than was kept back' USING ERRCODE = 'PM003';
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER transfer_keeps_balance AFTER INSERT ON transfer FOR EACH ROW
  WHEN (is_kept(NEW.credit) OR is_kept(NEW.debit)) EXECUTE FUNCTION keep_balance();

-- The parts in which a merchant's goods of an order travel.
CREATE TABLE part (
  fulfilment text PRIMARY KEY,
  reference  text NOT NULL,
  merchant   text NOT NULL,
  state      smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3)); -- on its way, delivered, cancelled
CREATE INDEX part_reference ON part (reference, merchant);

-- A merchant's goods of an order of which everything has arrived. The share is
-- released at due, unless a case is open then.
CREATE TABLE delivery (
  reference text NOT NULL,
  merchant  text NOT NULL,
  due       timestamptz NOT NULL,
  PRIMARY KEY (reference, merchant));

-- What holds money: after-sale cases, and sales that an inspection doubts
-- ("<case>/<unit>/<order>"). One that has ended stays: what opens an after-sale
-- case may be heard late.
CREATE TABLE claim (
  case_id   text PRIMARY KEY,
  reference text NOT NULL,
  merchant  text NOT NULL,
  ended     boolean NOT NULL);
CREATE INDEX claim_open ON claim (reference, merchant) WHERE NOT ended;

-- What the marketplace keeps. '' is any.
CREATE TABLE commission_rule (
  merchant     text NOT NULL,
  market       text NOT NULL,
  currency     text NOT NULL,
  valid_from   timestamptz NOT NULL,
  basis_points integer NOT NULL CHECK (basis_points BETWEEN 0 AND 10000),
  fixed        bigint NOT NULL CHECK (fixed >= 0),
  set_by       text NOT NULL,
  PRIMARY KEY (merchant, market, currency, valid_from),
  CHECK ((fixed > 0) = (currency <> '')));
REVOKE DELETE, TRUNCATE ON commission_rule FROM p_payment;

-- Payouts, written with their posting before the company is asked. The id is
-- the key it knows them by.
CREATE TABLE payout (
  id        text PRIMARY KEY,
  merchant  text NOT NULL,
  instance  text NOT NULL,
  currency  text NOT NULL,
  amount    bigint NOT NULL CHECK (amount > 0),
  state     smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 5), -- open, paid, declined, conflicted, settled
  code      text NOT NULL DEFAULT '',
  provider_reference text NOT NULL DEFAULT '',
  processed bigint NOT NULL DEFAULT 0,             -- what the company says it paid
  processed_currency text NOT NULL DEFAULT '',
  at        timestamptz NOT NULL DEFAULT now(),
  -- When the company was last asked to pay: only long after that does "never
  -- seen" mean that it never will be.
  sent_at   timestamptz NOT NULL DEFAULT now(),
  ended_at  timestamptz,
  -- When the company is next asked what became of it, and how often it was.
  next_try  timestamptz NOT NULL DEFAULT now() + interval '20 s',
  tries     integer NOT NULL DEFAULT 0,
  -- By a schedule: of which day.
  scheduled_on date,
  -- What a person found to have been paid, when the company told otherwise
  -- than was asked; who, and why so.
  paid      bigint CHECK (paid >= 0),
  settled_by text NOT NULL DEFAULT '',
  note      text NOT NULL DEFAULT '',
  CHECK ((state <> 1) = (ended_at IS NOT NULL)),
  CHECK ((state = 5) = (paid IS NOT NULL) AND (state = 5) = (settled_by <> '') AND (state = 5) = (note <> '')));
CREATE INDEX payout_open ON payout (next_try) WHERE state = 1;
CREATE INDEX payout_list ON payout (at, id);
CREATE INDEX payout_merchant ON payout (merchant, at, id);
REVOKE DELETE, TRUNCATE ON payout FROM p_payment;
-- A payout ends once, and one in conflict is settled once: nothing else of it
-- changes then.
CREATE TRIGGER payout_ends_once BEFORE UPDATE ON payout FOR EACH ROW
  WHEN ((OLD.id, OLD.merchant, OLD.instance, OLD.currency, OLD.amount, OLD.at, OLD.scheduled_on)
      IS DISTINCT FROM (NEW.id, NEW.merchant, NEW.instance, NEW.currency, NEW.amount, NEW.at, NEW.scheduled_on)
    OR OLD.state NOT IN (1, 4) OR OLD.state = 1 AND NEW.state = 5
    OR OLD.state = 4 AND (NEW.state <> 5 OR to_jsonb(OLD) - '{state,paid,settled_by,note}'::text[] IS DISTINCT FROM to_jsonb(NEW) - '{state,paid,settled_by,note}'::text[]))
  EXECUTE FUNCTION refuse_change('a payout ends once');

-- One payout a day by a schedule. One that the company never saw did not
-- happen: the day may have another.
CREATE UNIQUE INDEX payout_of_a_day ON payout (merchant, currency, instance, scheduled_on)
  WHERE scheduled_on IS NOT NULL AND NOT (state = 3 AND code = 'NEVER_SEEN');
CREATE INDEX payout_scheduled ON payout (merchant, currency, instance, scheduled_on) WHERE scheduled_on IS NOT NULL;

-- When merchants are paid out by themselves; '' is every merchant without a
-- schedule of its own.
CREATE TABLE payout_schedule (
  merchant  text NOT NULL,
  currency  text NOT NULL,
  every     smallint NOT NULL CHECK (every BETWEEN 1 AND 4), -- manual, daily, weekly, monthly
  day       smallint NOT NULL CHECK (CASE every WHEN 3 THEN day BETWEEN 1 AND 7 WHEN 4 THEN day BETWEEN 1 AND 28 ELSE day = 0 END),
  minimum   bigint NOT NULL CHECK (minimum >= 0),
  first_day date NOT NULL,                         -- holds from the day after it was set
  set_by    text NOT NULL,
  PRIMARY KEY (merchant, currency));
REVOKE DELETE, TRUNCATE ON payout_schedule FROM p_payment;

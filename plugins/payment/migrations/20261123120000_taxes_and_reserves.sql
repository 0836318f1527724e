-- Taxes that the marketplace owes for its merchants, and what it keeps back of
-- their money for some days.

-- What is collected of a share when it is captured. '' is any merchant.
CREATE TABLE tax_rule (
  merchant     text NOT NULL,
  market       text NOT NULL CHECK (market ~ '^[A-Z]{2}$'),
  valid_from   timestamptz NOT NULL,
  basis_points integer NOT NULL CHECK (basis_points BETWEEN 0 AND 10000), -- of the price without the tax
  source       text NOT NULL CHECK (source <> ''),
  set_by       text NOT NULL,
  PRIMARY KEY (market, merchant, valid_from));
REVOKE DELETE, TRUNCATE ON tax_rule FROM p_payment;

-- That the marketplace paid an authority; its posting has its id.
CREATE TABLE tax_remittance (
  id        text PRIMARY KEY,
  market    text NOT NULL,
  instance  text NOT NULL,
  currency  text NOT NULL,
  amount    bigint NOT NULL CHECK (amount > 0),
  reference text NOT NULL,                         -- the authority's or the bank's
  left_over bigint NOT NULL CHECK (left_over >= 0), -- on the account then
  made_by   text NOT NULL,
  at        timestamptz NOT NULL DEFAULT now());
REVOKE UPDATE, DELETE, TRUNCATE ON tax_remittance FROM p_payment;

-- What is kept back of what is released. '' is any.
CREATE TABLE reserve_rule (
  merchant     text NOT NULL,
  market       text NOT NULL,
  valid_from   timestamptz NOT NULL,
  basis_points integer NOT NULL CHECK (basis_points BETWEEN 0 AND 10000),
  days         integer NOT NULL CHECK (days BETWEEN 1 AND 730),
  set_by       text NOT NULL,
  PRIMARY KEY (merchant, market, valid_from));
REVOKE DELETE, TRUNCATE ON reserve_rule FROM p_payment;

-- What was kept back of one release, and what of it is still there: together
-- they are the balance of the reserve.
CREATE TABLE reserve_hold (
  payment  text NOT NULL REFERENCES payment,
  n        bigint NOT NULL,                        -- of the payment's releases to the merchant
  merchant text NOT NULL,
  currency text NOT NULL,
  instance text NOT NULL,
  amount   bigint NOT NULL CHECK (amount > 0),
  kept     bigint NOT NULL CHECK (kept BETWEEN 0 AND amount),
  due      timestamptz NOT NULL,
  PRIMARY KEY (payment, merchant, n)) WITH (fillfactor = 70);
CREATE INDEX reserve_hold_due ON reserve_hold (due) WHERE kept > 0;
CREATE INDEX reserve_hold_of ON reserve_hold (merchant, currency, instance, due) WHERE kept > 0;
REVOKE DELETE, TRUNCATE ON reserve_hold FROM p_payment;
CREATE TRIGGER reserve_hold_shrinks BEFORE UPDATE ON reserve_hold FOR EACH ROW
  WHEN (NEW.kept > OLD.kept OR to_jsonb(OLD) - 'kept' IS DISTINCT FROM to_jsonb(NEW) - 'kept')
  EXECUTE FUNCTION refuse_change('what is kept back only becomes less');

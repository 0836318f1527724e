-- Payments. The amounts of a payment, the attempts at its provider and the
-- ledger are written together; the database itself refuses what must not
-- happen: more captured than authorised, more refunded than captured, an
-- attempt that ends twice, an entry changed afterwards.

-- One row per payment, written before its provider is asked for the first
-- time. A payment that was reversed before it was made is a tombstone: it has
-- no currency.
CREATE TABLE payment (
  id                 text PRIMARY KEY,
  reference          text NOT NULL DEFAULT '',
  market             text NOT NULL DEFAULT '',
  currency           text NOT NULL DEFAULT '' CHECK (currency ~ '^([A-Z]{3})?$'),
  asked              bigint NOT NULL DEFAULT 0 CHECK (asked >= 0),
  instance           text NOT NULL DEFAULT '',     -- that serves every call of this payment
  provider_reference text NOT NULL DEFAULT '',     -- the company's number of it
  authorized         bigint NOT NULL DEFAULT 0,
  captured           bigint NOT NULL DEFAULT 0,
  voided             bigint NOT NULL DEFAULT 0,
  refunded           bigint NOT NULL DEFAULT 0,
  -- Of captures and refunds that are under way: they count as if they had
  -- happened until it is known that they did not.
  capturing          bigint NOT NULL DEFAULT 0,
  refunding          bigint NOT NULL DEFAULT 0,
  disputed           bigint NOT NULL DEFAULT 0,    -- taken back by banks, and not won
  ended              boolean NOT NULL DEFAULT false, -- it is known what became of its authorisation
  declined           boolean NOT NULL DEFAULT false,
  conflicted         boolean NOT NULL DEFAULT false, -- a provider processed another amount than was asked
  reversed           boolean NOT NULL DEFAULT false, -- nothing more is sent but what gives back
  created_at         timestamptz NOT NULL DEFAULT now(),
  updated_at         timestamptz NOT NULL DEFAULT now(),
  -- The numbers of entrepot.payment.v1.Payment.State. It follows from the
  -- rest, so that it never disagrees with the amounts.
  state              smallint NOT NULL GENERATED ALWAYS AS (CASE
    WHEN conflicted THEN 9
    WHEN NOT ended THEN 1
    WHEN authorized = 0 THEN CASE WHEN declined THEN 5 ELSE 6 END
    WHEN refunded > 0 THEN CASE WHEN refunded = captured THEN 8 ELSE 7 END
    WHEN captured = 0 THEN CASE WHEN voided = authorized THEN 6 ELSE 2 END
    WHEN captured + voided = authorized THEN 4 ELSE 3 END) STORED,
  CHECK (authorized >= 0 AND captured >= 0 AND voided >= 0 AND refunded >= 0 AND capturing >= 0 AND refunding >= 0 AND disputed >= 0),
  CONSTRAINT payment_captured_within_authorized CHECK (captured + capturing + voided <= authorized),
  CONSTRAINT payment_refunded_within_captured CHECK (refunded + refunding + disputed <= captured)) WITH (fillfactor = 70);
REVOKE DELETE, TRUNCATE ON payment FROM p_payment;

-- Calls to providers, written before they are made. id is the operation's own
-- (pay_, cap_, rfd_), key what the provider knows it by.
CREATE TABLE attempt (
  key                text PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 200),
  id                 text NOT NULL,
  payment            text NOT NULL REFERENCES payment,
  instance           text NOT NULL CHECK (instance <> ''),
  operation          smallint NOT NULL CHECK (operation BETWEEN 1 AND 4), -- authorize, capture, void, refund
  state              smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 5), -- sent, succeeded, declined, unknown, pending
  amount             bigint NOT NULL CHECK (amount >= 0),
  currency           text NOT NULL,
  -- With captures: [{"merchant", "amount"}].
  shares             jsonb NOT NULL DEFAULT '[]',
  -- What the provider says it processed, how much of that is in the books,
  -- and whether it is other than what was asked.
  processed          bigint NOT NULL DEFAULT 0,
  processed_currency text NOT NULL DEFAULT '',
  posted             bigint NOT NULL DEFAULT 0 CHECK (posted >= 0),
  conflict           boolean NOT NULL DEFAULT false,
  provider_reference text NOT NULL DEFAULT '',     -- the company's number of the operation
  code               text NOT NULL DEFAULT '',     -- why it was declined
  sent_at            timestamptz NOT NULL DEFAULT now(),
  ended_at           timestamptz,
  CHECK ((state IN (2, 3)) = (ended_at IS NOT NULL)),
  CHECK (posted = 0 OR state = 2)) WITH (fillfactor = 70);
CREATE INDEX attempt_payment ON attempt (payment);
CREATE INDEX attempt_open ON attempt (sent_at) WHERE state IN (1, 4, 5);
-- An operation is made once; after it was declined it may be made anew.
CREATE UNIQUE INDEX attempt_once ON attempt (id, operation) WHERE state <> 3;
REVOKE DELETE, TRUNCATE ON attempt FROM p_payment;

-- The ledger. Each row debits one account and credits another, so every entry
-- balances by its form. Accounts:
--   provider:<instance>:authorized   what is held there
--   provider:<instance>:clearing     what was taken there and not returned
--   consumer:<payment>               the counterpart of what is held
--   platform:unallocated             taken, and nobody's share yet
--   platform:fees                    commissions
--   platform:disputes                what companies keep for disputes, less
--                                    what merchants bear of it
--   platform:bank                    taxes that left the marketplace's own bank
--   tax:<market>                     collected of merchants' shares and owed to
--                                    the market's authority; below zero when
--                                    more was refunded since it was remitted
--   merchant:<merchant>:pending      shares of merchants less their tax, not
--                                    released
--   merchant:<merchant>:available    released, may be paid out; refunds may
--                                    bring it below zero
--   merchant:<merchant>:reserve      released, and kept back for some days
--   merchant:<merchant>:payout       on its way to the merchant
CREATE TABLE transfer (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind     text NOT NULL CHECK (kind IN ('authorize', 'settle', 'capture', 'share', 'void', 'refund', 'unshare',
    'release', 'commission', 'recover', 'fee_return', 'payout', 'payout_paid', 'payout_back', 'payout_owed',
    'tax', 'tax_return', 'tax_remitted', 'reserve', 'reserve_release', 'reserve_cover', 'dispute_tax', 'dispute_tax_return',
    'dispute', 'dispute_unshare', 'dispute_recover', 'dispute_fee_return', 'dispute_won', 'dispute_reshare', 'dispute_restore', 'dispute_commission',
    'dispute_cost', 'dispute_cost_back', 'dispute_charge')),
  key      text NOT NULL,                          -- of the attempt, with shares also the merchant
  debit    text NOT NULL,
  credit   text NOT NULL CHECK (credit <> debit),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount   bigint NOT NULL CHECK (amount > 0),
  instance text NOT NULL,
  payment  text NOT NULL,                          -- of a payout, a dispute's fee, a remittance, and where a reserve ends: its id
  at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (kind, key));
CREATE INDEX transfer_payment ON transfer (payment);
CREATE INDEX transfer_to_merchant ON transfer (credit) WHERE credit LIKE 'merchant:%';
CREATE INDEX transfer_from_merchant ON transfer (debit) WHERE debit LIKE 'merchant:%';
CREATE INDEX transfer_to_tax ON transfer (credit, at) WHERE credit LIKE 'tax:%';
CREATE INDEX transfer_from_tax ON transfer (debit, at) WHERE debit LIKE 'tax:%';
CREATE INDEX payment_reference ON payment (reference);
CREATE INDEX payment_of_provider ON payment (instance, provider_reference) WHERE provider_reference <> '';
REVOKE UPDATE, DELETE, TRUNCATE ON transfer FROM p_payment;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: %', TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'PM001';
END $$;
CREATE TRIGGER transfer_is_final BEFORE UPDATE OR DELETE OR TRUNCATE ON transfer FOR EACH STATEMENT
  EXECUTE FUNCTION refuse_change('an entry is never changed; correct it with another');
CREATE TRIGGER attempt_ends_once BEFORE UPDATE ON attempt FOR EACH ROW WHEN (OLD.state IN (2, 3))
  EXECUTE FUNCTION refuse_change('an attempt ends once');
CREATE TRIGGER attempt_stays_what_it_is BEFORE UPDATE ON attempt FOR EACH ROW
  WHEN ((OLD.key, OLD.id, OLD.payment, OLD.instance, OLD.operation, OLD.amount, OLD.currency, OLD.shares)
    IS DISTINCT FROM (NEW.key, NEW.id, NEW.payment, NEW.instance, NEW.operation, NEW.amount, NEW.currency, NEW.shares))
  EXECUTE FUNCTION refuse_change('what is asked of a provider does not change');
CREATE TRIGGER payment_amounts_rise BEFORE UPDATE ON payment FOR EACH ROW
  WHEN (NEW.authorized < OLD.authorized OR NEW.captured < OLD.captured OR NEW.voided < OLD.voided OR NEW.refunded < OLD.refunded
    OR (OLD.id, OLD.currency, OLD.instance, OLD.asked) IS DISTINCT FROM (NEW.id, NEW.currency, NEW.instance, NEW.asked)
    OR OLD.reversed AND NOT NEW.reversed OR OLD.conflicted AND NOT NEW.conflicted)
  EXECUTE FUNCTION refuse_change('what happened stays; give back with another operation');

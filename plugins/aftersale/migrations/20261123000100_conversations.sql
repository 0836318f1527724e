-- Conversations of a case, or of a merchant's part of an order. Texts are in
-- the vault; rows hold references.
CREATE TABLE conversation (
  id       text PRIMARY KEY,
  order_id text NOT NULL REFERENCES purchase,
  merchant text NOT NULL,
  case_id  text NOT NULL,                          -- empty: about the order
  account  text NOT NULL,                          -- of the consumer; empty: a guest's
  last     bigint NOT NULL DEFAULT 0,
  last_at  timestamptz NOT NULL DEFAULT now(),
  read_by_consumer bigint NOT NULL DEFAULT 0,
  read_by_merchant bigint NOT NULL DEFAULT 0,
  read_by_staff    bigint NOT NULL DEFAULT 0,
  waiting_since timestamptz,
  respond_by    timestamptz,
  overdue  boolean NOT NULL DEFAULT false,
  answers  bigint NOT NULL DEFAULT 0,
  waited_seconds bigint NOT NULL DEFAULT 0,
  UNIQUE (order_id, merchant, case_id)) WITH (fillfactor = 80);
CREATE INDEX conversation_merchant ON conversation (merchant, last_at, id);
CREATE INDEX conversation_account ON conversation (account, last_at, id) WHERE account <> '';
CREATE INDEX conversation_waiting ON conversation (last_at, id) WHERE waiting_since IS NOT NULL;

-- Positions of what a consumer or a merchant hears, over all conversations. A
-- row lock held to the commit makes positions visible in their order.
CREATE TABLE feed (
  party text PRIMARY KEY,                          -- "acc_...", "mrc_..."
  last  bigint NOT NULL);

CREATE TABLE message (
  id              text PRIMARY KEY,
  conversation_id text NOT NULL REFERENCES conversation,
  position        bigint NOT NULL,
  side            smallint NOT NULL CHECK (side BETWEEN 1 AND 3),
  author          text NOT NULL,                   -- an account or a merchant's, no personal data
  language        text NOT NULL,
  text_ref        text NOT NULL,
  blobs           text[] NOT NULL,
  internal        boolean NOT NULL,
  account_at      bigint,                          -- position in the consumer's feed; null: not for it
  merchant_at     bigint NOT NULL,
  account         text NOT NULL,
  merchant        text NOT NULL,
  at              timestamptz NOT NULL DEFAULT now(),
  UNIQUE (conversation_id, position),
  CHECK (NOT internal OR side <> 1),
  CHECK (NOT internal OR account_at IS NULL));
CREATE INDEX message_account ON message (account, account_at) WHERE account_at IS NOT NULL;
CREATE INDEX message_merchant ON message (merchant, merchant_at);
REVOKE UPDATE, DELETE, TRUNCATE ON message FROM p_aftersale;

CREATE TABLE translation (
  message_id text NOT NULL REFERENCES message,
  language   text NOT NULL,
  text_ref   text NOT NULL,
  made_by    text NOT NULL,
  at         timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (message_id, language));

-- What was asked of carriers.
CREATE TABLE carriage_request (
  id          text PRIMARY KEY,
  order_id    text NOT NULL REFERENCES purchase,
  merchant    text NOT NULL,
  case_id     text NOT NULL,
  shipment_id text NOT NULL,
  what        text NOT NULL CHECK (what IN ('redirect', 'pickup')),
  state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),
  address_ref text NOT NULL,
  starts_at   timestamptz,
  ends_at     timestamptz,
  asked_by    text NOT NULL,
  at          timestamptz NOT NULL DEFAULT now(),
  resolved_by text NOT NULL DEFAULT '');
CREATE INDEX carriage_request_order ON carriage_request (order_id);

-- Accounts, merchants and their members, sessions. Names and mail addresses
-- stand in the vault; here are their references, and a keyed hash of the
-- address to find an account by. Tokens stand as SHA-256.

-- One known value under the keys file: tells at start that the file is the
-- one this database was written with.
CREATE TABLE kernel.identity_key (
  one   boolean PRIMARY KEY DEFAULT true CHECK (one),
  proof bytea NOT NULL);

CREATE TABLE kernel.merchant (
  id           text PRIMARY KEY,
  name         text NOT NULL,
  country_code text NOT NULL,
  created_at   timestamptz NOT NULL);

-- One account per mail address. A closed one gives its address free.
CREATE TABLE kernel.account (
  id            text PRIMARY KEY,
  kind          text NOT NULL CHECK (kind IN ('consumer', 'merchant', 'staff', 'operator')),
  state         text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'closed')),
  mail_hash     bytea UNIQUE,
  password_hash text NOT NULL,
  subject_id    text NOT NULL,
  name_ref      text NOT NULL,
  mail_ref      text NOT NULL,
  market        text NOT NULL,
  merchant_id   text REFERENCES kernel.merchant,
  permissions   text[] NOT NULL,
  created_at    timestamptz NOT NULL,
  CHECK ((kind = 'merchant') = (merchant_id IS NOT NULL)),
  CHECK ((state = 'active') = (mail_hash IS NOT NULL)));
CREATE INDEX account_merchant ON kernel.account (merchant_id, id) WHERE state = 'active';

-- A registration or an invitation on its way to an account; and the outbox of
-- its mail: send_at is when to send next, NULL when sent. The token is a
-- keyed hash of the id, so the mail can be written again after a crash and
-- the database alone does not give it. Deleted when the token is used.
CREATE TABLE kernel.enrolment (
  id            uuid PRIMARY KEY,
  kind          text NOT NULL CHECK (kind IN ('consumer', 'merchant', 'member', 'staff', 'operator')),
  token_hash    bytea NOT NULL UNIQUE,
  mail_hash     bytea NOT NULL,
  subject_id    text NOT NULL,
  mail_ref      text NOT NULL,
  name_ref      text,                    -- registrations
  password_hash text,                    -- registrations
  market        text NOT NULL DEFAULT '',
  merchant_id   text REFERENCES kernel.merchant,   -- members
  merchant_name text,                    -- merchants
  country_code  text,                    -- merchants
  permissions   text[] NOT NULL DEFAULT '{}',
  invited_by    text,                    -- members, staff, operators
  created_at    timestamptz NOT NULL,
  expires_at    timestamptz NOT NULL,
  send_at       timestamptz,
  attempts      int NOT NULL DEFAULT 0);
CREATE INDEX enrolment_send ON kernel.enrolment (send_at) WHERE send_at IS NOT NULL;
CREATE INDEX enrolment_expiry ON kernel.enrolment (expires_at);

-- A login and all that was refreshed from it.
CREATE TABLE kernel.session (
  id         uuid PRIMARY KEY,
  account_id text NOT NULL REFERENCES kernel.account,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  ended_at   timestamptz);
CREATE INDEX session_account ON kernel.session (account_id) WHERE ended_at IS NULL;
CREATE INDEX session_expiry ON kernel.session (expires_at);

-- Refresh tokens of a session. Spent ones stay with it: a second use is the
-- sign of a theft.
CREATE TABLE kernel.refresh (
  hash       bytea PRIMARY KEY,
  session_id uuid NOT NULL REFERENCES kernel.session ON DELETE CASCADE,
  issued_at  timestamptz NOT NULL,
  spent_at   timestamptz);
CREATE INDEX refresh_session ON kernel.refresh (session_id);

-- Wrong passwords in a row by address, known or not: what is counted must not
-- tell which addresses have an account.
CREATE TABLE kernel.login_failure (
  mail_hash bytea PRIMARY KEY,
  failures  int NOT NULL,
  last_at   timestamptz NOT NULL);
CREATE INDEX login_failure_age ON kernel.login_failure (last_at);

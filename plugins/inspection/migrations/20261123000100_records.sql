-- Certificates, and the events of EPCIS. Both are added to and never changed:
-- a certificate can be revoked, once and for good.

-- Each certificate has a number, which says its place in the status lists:
-- the list in turn, the entry within by a secret order, so that neighbours in
-- a list are no neighbours in time (W3C Bitstring Status List 1.0, section 6.1).
CREATE SEQUENCE certificate_number MINVALUE 0 START 0;
CREATE TABLE status_order (secret text NOT NULL);
INSERT INTO status_order VALUES (gen_random_uuid()::text || gen_random_uuid()::text);
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON status_order FROM p_inspection;

CREATE TABLE certificate (
  id         text PRIMARY KEY,
  unit       text NOT NULL REFERENCES unit,
  case_id    text NOT NULL,
  list       int NOT NULL CHECK (list > 0),
  entry      int NOT NULL CHECK (entry BETWEEN 0 AND 131071),
  credential text NOT NULL,                        -- as it was signed
  issued_at  timestamptz NOT NULL,
  revoked_at timestamptz,
  reason     text NOT NULL DEFAULT '',
  CHECK ((revoked_at IS NULL) = (reason = '')),
  CONSTRAINT certificate_own_entry UNIQUE (list, entry));
-- One in force of each unit.
CREATE UNIQUE INDEX certificate_in_force ON certificate (unit) WHERE revoked_at IS NULL;
CREATE INDEX certificate_unit ON certificate (unit, issued_at);
CREATE INDEX certificate_revoked ON certificate (list, entry) WHERE revoked_at IS NOT NULL;
REVOKE DELETE, TRUNCATE ON certificate FROM p_inspection;
CREATE TRIGGER certificate_revoked_is_final BEFORE UPDATE ON certificate FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL)
  EXECUTE FUNCTION refuse_change('what was revoked stays revoked');
CREATE TRIGGER certificate_stays BEFORE UPDATE ON certificate FOR EACH ROW
  WHEN ((OLD.id, OLD.unit, OLD.case_id, OLD.list, OLD.entry, OLD.credential, OLD.issued_at) IS DISTINCT FROM
    (NEW.id, NEW.unit, NEW.case_id, NEW.list, NEW.entry, NEW.credential, NEW.issued_at))
  EXECUTE FUNCTION refuse_change('a certificate does not change');

-- Events of EPCIS 2.0: the module's own steps, and what was captured. That an
-- event was recorded in error is said by another row of it.
CREATE TABLE epcis_event (
  n            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id           text NOT NULL,                      -- eventID
  hash         text NOT NULL,                      -- hash id of the CBV
  declaration  text NOT NULL DEFAULT '',           -- of an error, as a hash; empty: the event itself
  own          boolean NOT NULL,                   -- a step of the module
  merchant     text NOT NULL DEFAULT '',           -- whose goods it is about; empty: nobody's that is known, or several merchants'
  type         text NOT NULL,
  event_time   timestamptz NOT NULL,
  biz_step     text NOT NULL,                      -- words of the CBV, or URIs
  disposition  text NOT NULL,
  read_point   text NOT NULL,                      -- normal form
  biz_location text NOT NULL,
  recorded_at  timestamptz NOT NULL,
  octets       int NOT NULL,                       -- of the body
  body         text NOT NULL);                     -- JSON, with eventID and recordTime
CREATE UNIQUE INDEX epcis_event_hash ON epcis_event (hash, declaration);
CREATE UNIQUE INDEX epcis_event_id ON epcis_event (id, declaration);
CREATE INDEX epcis_event_time ON epcis_event (event_time, n);
CREATE INDEX epcis_event_merchant ON epcis_event (merchant, event_time, n);
REVOKE UPDATE, DELETE, TRUNCATE ON epcis_event FROM p_inspection;

-- What an event names, in normal form: objects, parents, children, inputs,
-- outputs and classes.
CREATE TABLE epcis_epc (
  epc   text COLLATE "C" NOT NULL,
  event bigint NOT NULL REFERENCES epcis_event,
  PRIMARY KEY (epc, event));
REVOKE UPDATE, DELETE, TRUNCATE ON epcis_epc FROM p_inspection;

-- Which steps an event caused.
CREATE INDEX unit_step_event ON unit_step (event_id) WHERE event_id <> '';

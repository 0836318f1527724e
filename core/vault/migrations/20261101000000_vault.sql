-- The vault: personal data of natural persons, encrypted under a key per
-- subject. Owned by the kernel. A module holds USAGE on the schema and
-- EXECUTE on vault.store, and nothing else.

REVOKE ALL ON SCHEMA vault FROM PUBLIC;
-- Not IN SCHEMA: a per-schema revoke leaves the built-in EXECUTE of PUBLIC.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- One known value under the master key: tells at start that the key file is
-- the one this database was written with.
CREATE TABLE vault.master (
  one   boolean PRIMARY KEY DEFAULT true CHECK (one),
  proof bytea NOT NULL);

-- A natural person. Erasure destroys the key and keeps the row as its proof.
CREATE TABLE vault.subject (
  id          text PRIMARY KEY CHECK (id ~ '^sub_[0-9a-hjkmnp-tv-z]{26}$'),
  wrapped_key bytea CHECK (octet_length(wrapped_key) BETWEEN 1 AND 256),
  created_at  timestamptz NOT NULL DEFAULT now(),
  erased_at   timestamptz,
  CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL)));

-- What is known of a person. The ciphertext opens only with its own ref,
-- subject and kind.
CREATE TABLE vault.record (
  ref        text PRIMARY KEY CHECK (ref ~ '^vlt_[0-9a-hjkmnp-tv-z]{26}$'),
  subject_id text NOT NULL REFERENCES vault.subject,
  kind       text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_]{0,31}$'),
  ciphertext bytea NOT NULL CHECK (octet_length(ciphertext) <= 16640),
  owner      name NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX record_subject ON vault.record (subject_id);

-- Who read what, for whom and why. Append only.
CREATE TABLE vault.reveal (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz NOT NULL DEFAULT now(),
  plugin     text NOT NULL,
  purpose    text NOT NULL,
  principal  text NOT NULL,
  ref        text NOT NULL,
  request_id text NOT NULL);
CREATE INDEX reveal_ref ON vault.reveal (ref, at);

-- store puts what Seal gave into the vault, in the caller's transaction, so
-- that the reference and what refers to it are one commit. A repeat with the
-- same bytes changes nothing. p_wrapped is NULL or empty for a known subject.
--
-- The body is immune to the caller's search_path: it qualifies every function
-- and operator instead of setting one, which costs 10 to 25 us a call.
CREATE FUNCTION vault.store(p_subject text, p_wrapped bytea, p_refs text[], p_kinds text[], p_ciphertexts bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE n int;
BEGIN
  n := pg_catalog.cardinality(p_refs);
  IF n OPERATOR(pg_catalog.>) 32 OR pg_catalog.cardinality(p_kinds) OPERATOR(pg_catalog.<>) n
     OR pg_catalog.cardinality(p_ciphertexts) OPERATOR(pg_catalog.<>) n THEN
    RAISE EXCEPTION 'refs, kinds and ciphertexts must be of one length, at most 32' USING ERRCODE = '22023';
  END IF;
  IF pg_catalog.octet_length(p_wrapped) OPERATOR(pg_catalog.>) 0 THEN
    INSERT INTO vault.subject (id, wrapped_key) VALUES (p_subject, p_wrapped) ON CONFLICT DO NOTHING;
  END IF;
  -- A key that was destroyed takes nothing more; the check of the foreign key
  -- does not tell.
  PERFORM FROM vault.subject s WHERE s.id OPERATOR(pg_catalog.=) p_subject AND s.erased_at IS NOT NULL;
  IF FOUND THEN
    RAISE EXCEPTION 'subject % is erased', p_subject USING ERRCODE = 'VA001';
  END IF;
  INSERT INTO vault.record (ref, subject_id, kind, ciphertext, owner)
  SELECT u.r, p_subject, u.k, u.c, session_user
    FROM ROWS FROM (pg_catalog.unnest(p_refs), pg_catalog.unnest(p_kinds), pg_catalog.unnest(p_ciphertexts)) u(r, k, c)
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n OPERATOR(pg_catalog.=) pg_catalog.cardinality(p_refs) THEN RETURN; END IF;
  PERFORM FROM ROWS FROM (pg_catalog.unnest(p_refs), pg_catalog.unnest(p_kinds), pg_catalog.unnest(p_ciphertexts)) u(r, k, c)
     LEFT JOIN vault.record x ON x.ref OPERATOR(pg_catalog.=) u.r
    WHERE (x.subject_id OPERATOR(pg_catalog.=) p_subject AND x.kind OPERATOR(pg_catalog.=) u.k
           AND x.ciphertext OPERATOR(pg_catalog.=) u.c) IS NOT TRUE;
  IF FOUND THEN
    RAISE EXCEPTION 'a ref stands for other bytes already' USING ERRCODE = '23505';
  END IF;
END $$;

-- The small state of providers, which have no schema of their own.
CREATE TABLE kernel.provider_state (
  plugin     text NOT NULL,
  instance   text NOT NULL,
  key        text NOT NULL,
  version    bigint NOT NULL CHECK (version > 0),
  value      bytea NOT NULL CHECK (octet_length(value) <= 65536),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (plugin, instance, key));

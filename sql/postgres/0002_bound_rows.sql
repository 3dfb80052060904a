-- Rows are bound to ENCRYPTION_KEY: what decides is sealed together with what is secret of it, and a row that does not open
-- is not gone by. Rows of before do not open; `keyadm doctor` names them, and says what to do.

-- It is bound, too, and a key is deleted without ENCRYPTION_KEY.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_successor_fkey;

ALTER TABLE mcp_servers DROP CONSTRAINT mcp_servers_check;
UPDATE mcp_servers SET sealed_secrets = '', key_version = 0 WHERE sealed_secrets IS NULL;
ALTER TABLE mcp_servers
    ALTER COLUMN sealed_secrets SET NOT NULL,
    ALTER COLUMN key_version SET NOT NULL;

ALTER TABLE endpoints
    ADD COLUMN seal BYTEA NOT NULL DEFAULT '',
    ADD COLUMN key_version BIGINT NOT NULL DEFAULT 0 CHECK (key_version BETWEEN 0 AND 255);
ALTER TABLE endpoints
    ALTER COLUMN seal DROP DEFAULT,
    ALTER COLUMN key_version DROP DEFAULT;

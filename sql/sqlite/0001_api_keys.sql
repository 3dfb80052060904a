-- API keys, and the counter that tells every process that something about them changed.
--
-- The triggers move the counter in the transaction of the change itself, so that no writer can forget it:
-- neither a new piece of code nor a person with the sqlite3 shell.

CREATE TABLE epoch (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    value     INTEGER NOT NULL
) STRICT;

INSERT INTO epoch (singleton, value) VALUES (1, 0);

CREATE TABLE api_keys (
    key_id      TEXT    PRIMARY KEY NOT NULL CHECK (length(key_id) = 12),
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (status IN ('active', 'inactive')),
    sealed_hash BLOB    NOT NULL,           -- what the secret is recognised by, sealed with the key id as associated data
    key_version INTEGER NOT NULL,           -- the version of ENCRYPTION_KEY that sealed it
    created_at  INTEGER NOT NULL,           -- seconds since 1970
    expires_at  INTEGER,                    -- seconds since 1970; NULL: never
    epoch       INTEGER NOT NULL DEFAULT 0  -- value of the counter at the row's last change
) STRICT;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE epoch SET value = value + 1;
    UPDATE api_keys SET epoch = (SELECT value FROM epoch) WHERE key_id = NEW.key_id;
END;

-- Names every column but `epoch`, so that it does not wake itself.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF key_id, name, description, status, sealed_hash, key_version, created_at, expires_at ON api_keys
BEGIN
    UPDATE epoch SET value = value + 1;
    UPDATE api_keys SET epoch = (SELECT value FROM epoch) WHERE key_id = NEW.key_id;
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    UPDATE epoch SET value = value + 1;
END;

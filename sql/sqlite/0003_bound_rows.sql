-- Rows are bound to ENCRYPTION_KEY: what decides is sealed together with what is secret of it, and a row that does not open
-- is not gone by. Rows of before do not open; `keyadm doctor` names them, and says what to do.
--
-- The tables are made anew, since columns of theirs change. What hangs on another table goes first.

--- keys
ALTER TABLE api_keys RENAME TO api_keys_before;

CREATE TABLE api_keys (
    id              TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    key_id          TEXT    NOT NULL UNIQUE CHECK (length(key_id) = 12),
    name            TEXT    NOT NULL CHECK (name <> ''),
    description     TEXT    NOT NULL,
    role            TEXT    NOT NULL CHECK (role IN ('client', 'admin')),
    endpoints       TEXT    CHECK (endpoints IS NULL OR json_valid(endpoints)),       -- array of names; NULL: all
    tools           TEXT    CHECK (tools IS NULL OR json_valid(tools)),           -- array of globs; NULL: all
    rate_per_second INTEGER CHECK (rate_per_second > 0),
    rate_burst      INTEGER CHECK (rate_burst > 0),
    concurrency     INTEGER CHECK (concurrency > 0),
    status          TEXT    NOT NULL CHECK (status IN ('active', 'inactive')),
    sealed_hash     BLOB    NOT NULL,           -- what the secret is recognised by, bound to all of this but times and epoch
    key_version     INTEGER NOT NULL CHECK (key_version BETWEEN 0 AND 255), -- of the ENCRYPTION_KEY that sealed it
    expires_at      INTEGER CHECK (expires_at >= 0),             -- NULL: never
    successor       TEXT    CHECK (length(successor) = 36),      -- stays when that one is deleted: it is bound, too
    grace_until     INTEGER CHECK (grace_until >= 0),            -- a rotated key ends then; NULL: it was not rotated
    created_at      INTEGER NOT NULL CHECK (created_at >= 0),
    changed_at      INTEGER NOT NULL CHECK (changed_at >= 0),
    epoch           INTEGER NOT NULL DEFAULT 0, -- of the last change that takes back what was proven about the key
    CHECK ((rate_per_second IS NULL) = (rate_burst IS NULL))
) STRICT;

INSERT INTO api_keys (id, key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency,
    status, sealed_hash, key_version, expires_at, successor, grace_until, created_at, changed_at, epoch)
SELECT id, key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency,
    status, sealed_hash, key_version, expires_at, successor, grace_until, created_at, changed_at, epoch
FROM api_keys_before;

DROP TABLE api_keys_before;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
    UPDATE api_keys SET epoch = (SELECT value FROM epochs WHERE kind = 'keys') WHERE id = NEW.id;
END;

-- Takes back what was proven about the key: its tokens, its open streams.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency, status,
    expires_at ON api_keys
BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
    UPDATE api_keys SET epoch = (SELECT value FROM epochs WHERE kind = 'keys') WHERE id = NEW.id;
END;

-- To be read again by every process, while the key itself stays what it was.
CREATE TRIGGER api_keys_rewrapped
AFTER UPDATE OF sealed_hash, key_version, successor, grace_until ON api_keys
BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
END;

--- servers and endpoints
CREATE TABLE servers_before AS SELECT * FROM mcp_servers;
CREATE TABLE endpoints_before AS SELECT * FROM endpoints;
CREATE TABLE endpoint_servers_before AS SELECT * FROM endpoint_servers;
CREATE TABLE endpoint_tools_before AS SELECT * FROM endpoint_tools;
DROP TABLE endpoint_tools;
DROP TABLE endpoint_servers;
DROP TABLE endpoints;
DROP TABLE mcp_servers;

CREATE TABLE mcp_servers (
    id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    name           TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    kind           TEXT    NOT NULL CHECK (kind IN ('http', 'sse', 'stdio')),
    definition     TEXT    NOT NULL CHECK (json_valid(definition)),   -- no secret is in it
    sealed_secrets BLOB    NOT NULL,                                  -- headers and environment, bound to all of the above
    key_version    INTEGER NOT NULL CHECK (key_version BETWEEN 0 AND 255), -- of the ENCRYPTION_KEY that sealed them
    version        INTEGER NOT NULL CHECK (version > 0),              -- of the row: the ETag
    created_at     INTEGER NOT NULL CHECK (created_at >= 0),
    changed_at     INTEGER NOT NULL CHECK (changed_at >= 0)
) STRICT;

CREATE TABLE endpoints (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    name        TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    prefix_mode TEXT    NOT NULL CHECK (prefix_mode IN ('always', 'never')),
    version     INTEGER NOT NULL CHECK (version > 0),                 -- of the row and all that hangs on it: the ETag
    created_at  INTEGER NOT NULL CHECK (created_at >= 0),
    changed_at  INTEGER NOT NULL CHECK (changed_at >= 0),
    seal        BLOB    NOT NULL,              -- bound to the row and all that hangs on it, but version and times
    key_version INTEGER NOT NULL CHECK (key_version BETWEEN 0 AND 255) -- of the ENCRYPTION_KEY that sealed it
) STRICT;

CREATE TABLE endpoint_servers (
    endpoint_id TEXT    NOT NULL REFERENCES endpoints (id) ON DELETE CASCADE,
    server_id   TEXT    NOT NULL REFERENCES mcp_servers (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL CHECK (position >= 0),
    PRIMARY KEY (endpoint_id, server_id),
    UNIQUE (endpoint_id, position)
) STRICT;

CREATE INDEX endpoint_servers_by_server ON endpoint_servers (server_id);

-- A filter (`allow`, `deny`) has a glob for its pattern, an override the server's own name of the tool.
CREATE TABLE endpoint_tools (
    endpoint_id TEXT    NOT NULL,
    server_id   TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('allow', 'deny', 'override')),
    pattern     TEXT    NOT NULL CHECK (pattern <> ''),
    position    INTEGER NOT NULL CHECK (position >= 0),
    name        TEXT    CHECK (name <> ''),
    title       TEXT,
    description TEXT,
    annotations TEXT    CHECK (annotations IS NULL OR json_valid(annotations)),
    PRIMARY KEY (endpoint_id, server_id, kind, pattern),
    FOREIGN KEY (endpoint_id, server_id) REFERENCES endpoint_servers (endpoint_id, server_id) ON DELETE CASCADE,
    CHECK (kind = 'override'
           OR (name IS NULL AND title IS NULL AND description IS NULL AND annotations IS NULL))
) STRICT;

INSERT INTO mcp_servers (id, name, kind, definition, sealed_secrets, key_version, version, created_at, changed_at)
SELECT id, name, kind, definition, coalesce(sealed_secrets, x''), coalesce(key_version, 0), version, created_at, changed_at
FROM servers_before;

INSERT INTO endpoints (id, name, prefix_mode, version, created_at, changed_at, seal, key_version)
SELECT id, name, prefix_mode, version, created_at, changed_at, x'', 0 FROM endpoints_before;

INSERT INTO endpoint_servers (endpoint_id, server_id, position)
SELECT endpoint_id, server_id, position FROM endpoint_servers_before;

INSERT INTO endpoint_tools (endpoint_id, server_id, kind, pattern, position, name, title, description, annotations)
SELECT endpoint_id, server_id, kind, pattern, position, name, title, description, annotations FROM endpoint_tools_before;

DROP TABLE servers_before;
DROP TABLE endpoints_before;
DROP TABLE endpoint_servers_before;
DROP TABLE endpoint_tools_before;

CREATE TRIGGER mcp_servers_inserted AFTER INSERT ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER mcp_servers_updated AFTER UPDATE ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER mcp_servers_deleted AFTER DELETE ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER endpoints_inserted AFTER INSERT ON endpoints BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoints_updated AFTER UPDATE ON endpoints BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoints_deleted AFTER DELETE ON endpoints BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_servers_inserted AFTER INSERT ON endpoint_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_servers_updated AFTER UPDATE ON endpoint_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_servers_deleted AFTER DELETE ON endpoint_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_tools_inserted AFTER INSERT ON endpoint_tools BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_tools_updated AFTER UPDATE ON endpoint_tools BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

CREATE TRIGGER endpoint_tools_deleted AFTER DELETE ON endpoint_tools BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'endpoints';
END;

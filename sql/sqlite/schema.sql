-- The whole schema: what all migrations in this folder make, in order. Compared with them by a test.
-- Times are seconds since 1970. Ids are UUIDs in their usual text form, in lower case.

CREATE TABLE epochs (
    kind  TEXT    NOT NULL PRIMARY KEY CHECK (kind IN ('keys', 'servers', 'endpoints', 'jwt_keys')),
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT;

INSERT INTO epochs (kind, value) VALUES ('keys', 0), ('servers', 0), ('endpoints', 0), ('jwt_keys', 0);

--- keys
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
    epoch           INTEGER NOT NULL DEFAULT 0, quotas TEXT CHECK (quotas IS NULL OR json_valid(quotas)), -- of the last change that takes back what was proven about the key
    CHECK ((rate_per_second IS NULL) = (rate_burst IS NULL))
) STRICT;

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
    UPDATE api_keys SET epoch = (SELECT value FROM epochs WHERE kind = 'keys') WHERE id = NEW.id;
END;

-- Takes back what was proven about the key: its tokens, its open streams.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency, status,
    expires_at, quotas ON api_keys
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

--- servers
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

CREATE TRIGGER mcp_servers_inserted AFTER INSERT ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER mcp_servers_updated AFTER UPDATE ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER mcp_servers_deleted AFTER DELETE ON mcp_servers BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

--- endpoints
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

--- keys that sign tokens
CREATE TABLE jwt_keys (
    kid           TEXT    NOT NULL PRIMARY KEY CHECK (kid <> ''),
    algorithm     TEXT    NOT NULL CHECK (algorithm IN ('HS256', 'EdDSA')),
    sealed_secret BLOB    NOT NULL,             -- sealed with the kid as associated data
    key_version   INTEGER NOT NULL CHECK (key_version BETWEEN 0 AND 255),
    phase         TEXT    NOT NULL CHECK (phase IN ('next', 'active', 'retiring')),
    created_at    INTEGER NOT NULL CHECK (created_at >= 0),
    changed_at    INTEGER NOT NULL CHECK (changed_at >= 0)            -- when the phase began
) STRICT;

-- One signs, at most one waits to; any number may still verify.
CREATE UNIQUE INDEX jwt_keys_one_of_a_phase ON jwt_keys (phase) WHERE phase <> 'retiring';

CREATE TRIGGER jwt_keys_inserted AFTER INSERT ON jwt_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'jwt_keys';
END;

CREATE TRIGGER jwt_keys_updated AFTER UPDATE ON jwt_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'jwt_keys';
END;

CREATE TRIGGER jwt_keys_deleted AFTER DELETE ON jwt_keys BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'jwt_keys';
END;

--- usage
-- Without references: what was used stays to be read when the key or the server is gone.
CREATE TABLE usage (
    hour         INTEGER NOT NULL CHECK (hour >= 0 AND hour % 3600 = 0),
    key_id       TEXT    NOT NULL,
    server       TEXT    NOT NULL,
    tool         TEXT    NOT NULL,
    calls        INTEGER NOT NULL CHECK (calls >= 0),
    errors       INTEGER NOT NULL CHECK (errors >= 0),
    bytes_in     INTEGER NOT NULL CHECK (bytes_in >= 0),
    bytes_out    INTEGER NOT NULL CHECK (bytes_out >= 0),
    milliseconds INTEGER NOT NULL CHECK (milliseconds >= 0),
    PRIMARY KEY (hour, key_id, server, tool)
) STRICT;

CREATE INDEX usage_by_key ON usage (key_id, hour);

-- Which batches are in `usage` already.
CREATE TABLE usage_batches (
    source     TEXT    NOT NULL,
    sequence   INTEGER NOT NULL CHECK (sequence >= 0),
    applied_at INTEGER NOT NULL CHECK (applied_at >= 0),
    PRIMARY KEY (source, sequence)
) STRICT;

--- audit
CREATE TABLE audit_log (
    id          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL CHECK (at >= 0),
    actor       TEXT    NOT NULL CHECK (actor <> ''),  -- a key id, or keyadm:USER
    action      TEXT    NOT NULL CHECK (action <> ''),
    object_kind TEXT    NOT NULL CHECK (object_kind IN ('key', 'server', 'endpoint', 'jwt_key')),
    object_id   TEXT    NOT NULL,
    before      TEXT    CHECK (before IS NULL OR json_valid(before)),    -- no secret is in it
    after       TEXT    CHECK (after IS NULL OR json_valid(after))
) STRICT;

CREATE INDEX audit_log_by_object ON audit_log (object_kind, object_id);
CREATE INDEX audit_log_by_time ON audit_log (at);

--- tools
-- What was approved of the tools of each server, and what waits for that.
CREATE TABLE tool_pins (
    server      TEXT    NOT NULL PRIMARY KEY CHECK (server <> ''), -- by name: most are defined in files
    pins        TEXT    NOT NULL CHECK (json_valid(pins)),         -- digests, never texts, but the names of tools
    seal        BLOB    NOT NULL,                                  -- bound to the two above
    key_version INTEGER NOT NULL CHECK (key_version BETWEEN 0 AND 255), -- of the ENCRYPTION_KEY that sealed it
    version     INTEGER NOT NULL CHECK (version > 0),
    changed_at  INTEGER NOT NULL CHECK (changed_at >= 0)
) STRICT;

-- They are read with the servers.
CREATE TRIGGER tool_pins_inserted AFTER INSERT ON tool_pins BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER tool_pins_updated AFTER UPDATE ON tool_pins BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

CREATE TRIGGER tool_pins_deleted AFTER DELETE ON tool_pins BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'servers';
END;

--- uses of keys
-- When each key was last used. Apart from the keys, whose epoch would otherwise move with each use.
CREATE TABLE key_uses (
    key_id       TEXT    NOT NULL PRIMARY KEY CHECK (key_id <> ''), -- also of keys that are gone
    last_used_at INTEGER NOT NULL CHECK (last_used_at >= 0)
) STRICT;

--- totals of keys
-- The usage of each key in each day and month (UTC). It is in `usage` too, by hour, server and tool; summing that up each
-- second would read thousands of rows.
CREATE TABLE key_totals (
    period    TEXT    NOT NULL CHECK (period IN ('day', 'month')),
    begins_at INTEGER NOT NULL CHECK (begins_at >= 0 AND begins_at % 86400 = 0),
    key_id    TEXT    NOT NULL CHECK (key_id <> ''), -- also of keys that are gone
    calls     INTEGER NOT NULL CHECK (calls >= 0),
    bytes     INTEGER NOT NULL CHECK (bytes >= 0),   -- of requests and responses
    PRIMARY KEY (period, begins_at, key_id)
) STRICT;

-- The whole schema: what all migrations in this folder make, in order. Compared with them by a test.
--
-- The whole control plane: keys, servers, endpoints, the ring of token keys, usage, and the audit log.
--
-- A counter for each kind of object tells every process that something about that kind changed. Triggers move it
-- in the transaction of the change itself, so that no writer can forget it: neither a new piece of code nor a person
-- with psql. The counter's row stays locked until the commit, so changes become visible in the order of their epochs.
-- Each move is told on the channel metamcp_epochs as `kind epoch`. Times are seconds since 1970.

CREATE TABLE epochs (
    kind            TEXT COLLATE "C" NOT NULL PRIMARY KEY
                    CHECK (kind IN ('keys', 'servers', 'endpoints', 'jwt_keys')),
    value           BIGINT           NOT NULL CHECK (value >= 0)
);

INSERT INTO epochs (kind, value) VALUES ('keys', 0), ('servers', 0), ('endpoints', 0), ('jwt_keys', 0);

CREATE FUNCTION move_epoch(which TEXT) RETURNS BIGINT LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    moved BIGINT;
BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = which RETURNING value INTO moved;
    PERFORM pg_notify('metamcp_epochs', which || ' ' || moved);
    RETURN moved;
END $$;

-- With the kind as its argument.
CREATE FUNCTION epoch_moved() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM move_epoch(TG_ARGV[0]);
    RETURN NULL;
END $$;

CREATE FUNCTION key_moved() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.epoch := move_epoch('keys');
    RETURN NEW;
END $$;

--- keys
CREATE TABLE api_keys (
    id              UUID             NOT NULL PRIMARY KEY,
    key_id          TEXT COLLATE "C" NOT NULL UNIQUE CHECK (length(key_id) = 12),
    name            TEXT COLLATE "C" NOT NULL CHECK (name <> ''),
    description     TEXT COLLATE "C" NOT NULL,
    role            TEXT COLLATE "C" NOT NULL CHECK (role IN ('client', 'admin')),
    endpoints       JSON,  -- array of names; NULL: all
    tools           JSON,  -- array of globs; NULL: all
    rate_per_second BIGINT           CHECK (rate_per_second > 0),
    rate_burst      BIGINT           CHECK (rate_burst > 0),
    concurrency     BIGINT           CHECK (concurrency > 0),
    status          TEXT COLLATE "C" NOT NULL CHECK (status IN ('active', 'inactive')),
    sealed_hash     BYTEA            NOT NULL,  -- what the secret is recognised by, bound to all of this but times and epoch
    key_version     BIGINT           NOT NULL CHECK (key_version BETWEEN 0 AND 255),  -- of the ENCRYPTION_KEY
    expires_at      BIGINT           CHECK (expires_at >= 0),  -- NULL: never
    successor       UUID,  -- stays when that one is deleted: it is bound, too
    grace_until     BIGINT           CHECK (grace_until >= 0),  -- a rotated key ends then; NULL: it was not rotated
    created_at      BIGINT           NOT NULL CHECK (created_at >= 0),
    changed_at      BIGINT           NOT NULL CHECK (changed_at >= 0),
    epoch           BIGINT           NOT NULL DEFAULT 0,  -- of the last change that takes back what was proven
    quotas          JSON,  -- calls and bytes in a day and in a month; NULL: none
    CHECK ((rate_per_second IS NULL) = (rate_burst IS NULL))
);

-- Takes back what was proven about the key: its tokens, its open streams.
CREATE TRIGGER api_keys_moved
BEFORE INSERT OR UPDATE OF key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst,
    concurrency, status, expires_at, quotas ON api_keys
FOR EACH ROW EXECUTE FUNCTION key_moved();

-- To be read again by every process, while the key itself stays what it was.
CREATE TRIGGER api_keys_rewrapped
AFTER UPDATE OF sealed_hash, key_version, successor, grace_until ON api_keys
FOR EACH ROW EXECUTE FUNCTION epoch_moved('keys');

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
FOR EACH ROW EXECUTE FUNCTION epoch_moved('keys');

CREATE TRIGGER api_keys_truncated AFTER TRUNCATE ON api_keys
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('keys');

--- servers
CREATE TABLE mcp_servers (
    id              UUID             NOT NULL PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE CHECK (name <> ''),
    kind            TEXT COLLATE "C" NOT NULL CHECK (kind IN ('http', 'sse', 'stdio')),
    definition      JSON             NOT NULL,  -- no secret is in it
    sealed_secrets  BYTEA            NOT NULL,  -- headers and environment, bound to all of the above
    key_version     BIGINT           NOT NULL CHECK (key_version BETWEEN 0 AND 255),  -- of the ENCRYPTION_KEY that sealed them
    version         BIGINT           NOT NULL CHECK (version > 0),  -- of the row: the ETag
    created_at      BIGINT           NOT NULL CHECK (created_at >= 0),
    changed_at      BIGINT           NOT NULL CHECK (changed_at >= 0)
);

CREATE TRIGGER mcp_servers_moved AFTER INSERT OR UPDATE OR DELETE ON mcp_servers
FOR EACH ROW EXECUTE FUNCTION epoch_moved('servers');

CREATE TRIGGER mcp_servers_truncated AFTER TRUNCATE ON mcp_servers
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('servers');

--- endpoints
CREATE TABLE endpoints (
    id              UUID             NOT NULL PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE CHECK (name <> ''),
    prefix_mode     TEXT COLLATE "C" NOT NULL CHECK (prefix_mode IN ('always', 'never')),
    version         BIGINT           NOT NULL CHECK (version > 0),  -- of the row and all that hangs on it: the ETag
    created_at      BIGINT           NOT NULL CHECK (created_at >= 0),
    changed_at      BIGINT           NOT NULL CHECK (changed_at >= 0),
    seal            BYTEA            NOT NULL,  -- bound to the row and all that hangs on it, but version and times
    key_version     BIGINT           NOT NULL CHECK (key_version BETWEEN 0 AND 255)  -- of the ENCRYPTION_KEY that sealed it
);

CREATE TABLE endpoint_servers (
    endpoint_id     UUID             NOT NULL REFERENCES endpoints (id) ON DELETE CASCADE,
    server_id       UUID             NOT NULL REFERENCES mcp_servers (id) ON DELETE CASCADE,
    position        BIGINT           NOT NULL CHECK (position >= 0),
    PRIMARY KEY (endpoint_id, server_id),
    UNIQUE (endpoint_id, position)
);

CREATE INDEX endpoint_servers_by_server ON endpoint_servers (server_id);

-- A filter (`allow`, `deny`) has a glob for its pattern, an override the server's own name of the tool.
CREATE TABLE endpoint_tools (
    endpoint_id     UUID             NOT NULL,
    server_id       UUID             NOT NULL,
    kind            TEXT COLLATE "C" NOT NULL CHECK (kind IN ('allow', 'deny', 'override')),
    pattern         TEXT COLLATE "C" NOT NULL CHECK (pattern <> ''),
    position        BIGINT           NOT NULL CHECK (position >= 0),
    name            TEXT COLLATE "C" CHECK (name <> ''),
    title           TEXT COLLATE "C",
    description     TEXT COLLATE "C",
    annotations     JSON,
    PRIMARY KEY (endpoint_id, server_id, kind, pattern),
    FOREIGN KEY (endpoint_id, server_id) REFERENCES endpoint_servers (endpoint_id, server_id) ON DELETE CASCADE,
    CHECK (kind = 'override'
           OR (name IS NULL AND title IS NULL AND description IS NULL AND annotations IS NULL))
);

CREATE TRIGGER endpoints_moved AFTER INSERT OR UPDATE OR DELETE ON endpoints
FOR EACH ROW EXECUTE FUNCTION epoch_moved('endpoints');

CREATE TRIGGER endpoints_truncated AFTER TRUNCATE ON endpoints
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('endpoints');

CREATE TRIGGER endpoint_servers_moved AFTER INSERT OR UPDATE OR DELETE ON endpoint_servers
FOR EACH ROW EXECUTE FUNCTION epoch_moved('endpoints');

CREATE TRIGGER endpoint_servers_truncated AFTER TRUNCATE ON endpoint_servers
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('endpoints');

CREATE TRIGGER endpoint_tools_moved AFTER INSERT OR UPDATE OR DELETE ON endpoint_tools
FOR EACH ROW EXECUTE FUNCTION epoch_moved('endpoints');

CREATE TRIGGER endpoint_tools_truncated AFTER TRUNCATE ON endpoint_tools
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('endpoints');

--- keys that sign tokens
CREATE TABLE jwt_keys (
    kid             TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (kid <> ''),
    algorithm       TEXT COLLATE "C" NOT NULL CHECK (algorithm IN ('HS256', 'EdDSA')),
    sealed_secret   BYTEA            NOT NULL,  -- bound to all the rest
    key_version     BIGINT           NOT NULL CHECK (key_version BETWEEN 0 AND 255),
    phase           TEXT COLLATE "C" NOT NULL CHECK (phase IN ('next', 'active', 'retiring')),
    created_at      BIGINT           NOT NULL CHECK (created_at >= 0),
    changed_at      BIGINT           NOT NULL CHECK (changed_at >= 0)  -- when the phase began
);

-- One signs, at most one waits to; any number may still verify.
CREATE UNIQUE INDEX jwt_keys_one_of_a_phase ON jwt_keys (phase) WHERE phase <> 'retiring';

CREATE TRIGGER jwt_keys_moved AFTER INSERT OR UPDATE OR DELETE ON jwt_keys
FOR EACH ROW EXECUTE FUNCTION epoch_moved('jwt_keys');

CREATE TRIGGER jwt_keys_truncated AFTER TRUNCATE ON jwt_keys
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('jwt_keys');

--- usage
-- Without references: what was used stays to be read when the key or the server is gone.
CREATE TABLE usage (
    hour            BIGINT           NOT NULL CHECK (hour >= 0 AND hour % 3600 = 0),
    key_id          TEXT COLLATE "C" NOT NULL,
    server          TEXT COLLATE "C" NOT NULL,
    tool            TEXT COLLATE "C" NOT NULL,
    calls           BIGINT           NOT NULL CHECK (calls >= 0),
    errors          BIGINT           NOT NULL CHECK (errors >= 0),
    bytes_in        BIGINT           NOT NULL CHECK (bytes_in >= 0),
    bytes_out       BIGINT           NOT NULL CHECK (bytes_out >= 0),
    milliseconds    BIGINT           NOT NULL CHECK (milliseconds >= 0),
    PRIMARY KEY (hour, key_id, server, tool)
);

CREATE INDEX usage_by_key ON usage (key_id, hour);

-- Which batches are in `usage` already.
CREATE TABLE usage_batches (
    source          TEXT COLLATE "C" NOT NULL,
    sequence        BIGINT           NOT NULL CHECK (sequence >= 0),
    applied_at      BIGINT           NOT NULL CHECK (applied_at >= 0),
    PRIMARY KEY (source, sequence)
);

--- audit
CREATE TABLE audit_log (
    id              BIGINT           NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              BIGINT           NOT NULL CHECK (at >= 0),
    actor           TEXT COLLATE "C" NOT NULL CHECK (actor <> ''),  -- a key id, or keyadm:USER
    action          TEXT COLLATE "C" NOT NULL CHECK (action <> ''),
    object_kind     TEXT COLLATE "C" NOT NULL CHECK (object_kind IN ('key', 'server', 'endpoint', 'jwt_key')),
    object_id       TEXT COLLATE "C" NOT NULL,
    before          JSON,  -- no secret is in it
    after           JSON
);

CREATE INDEX audit_log_by_object ON audit_log (object_kind, object_id);
CREATE INDEX audit_log_by_time ON audit_log (at);

--- tools
-- What was approved of the tools of each server, and what waits for that.
CREATE TABLE tool_pins (
    server          TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (server <> ''),  -- by name: most are defined in files
    pins            JSON             NOT NULL,  -- digests, never texts, but the names of tools
    seal            BYTEA            NOT NULL,  -- bound to the two above
    key_version     BIGINT           NOT NULL CHECK (key_version BETWEEN 0 AND 255),  -- of the ENCRYPTION_KEY that sealed it
    version         BIGINT           NOT NULL CHECK (version > 0),
    changed_at      BIGINT           NOT NULL CHECK (changed_at >= 0)
);

-- They are read with the servers.
CREATE TRIGGER tool_pins_moved AFTER INSERT OR UPDATE OR DELETE ON tool_pins
FOR EACH ROW EXECUTE FUNCTION epoch_moved('servers');

CREATE TRIGGER tool_pins_truncated AFTER TRUNCATE ON tool_pins
FOR EACH STATEMENT EXECUTE FUNCTION epoch_moved('servers');

--- uses of keys
-- When each key was last used. Apart from the keys, whose epoch would otherwise move with each use.
CREATE TABLE key_uses (
    key_id          TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (key_id <> ''),  -- also of keys that are gone
    last_used_at    BIGINT           NOT NULL CHECK (last_used_at >= 0)
);

--- totals of keys
-- The usage of each key in each day and month (UTC). It is in `usage` too, by hour, server and tool; summing that up each
-- second would read thousands of rows.
CREATE TABLE key_totals (
    period          TEXT COLLATE "C" NOT NULL CHECK (period IN ('day', 'month')),
    begins_at       BIGINT           NOT NULL CHECK (begins_at >= 0 AND begins_at % 86400 = 0),
    key_id          TEXT COLLATE "C" NOT NULL CHECK (key_id <> ''),  -- also of keys that are gone
    calls           BIGINT           NOT NULL CHECK (calls >= 0),
    bytes           BIGINT           NOT NULL CHECK (bytes >= 0),  -- of requests and responses
    PRIMARY KEY (period, begins_at, key_id)
);

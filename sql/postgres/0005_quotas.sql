-- Quotas of keys, and the totals that they are compared with.

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

-- What was used in this month and the one before. Nobody asks for older totals, and old usage may be millions of rows.
INSERT INTO key_totals (period, begins_at, key_id, calls, bytes)
SELECT 'day', hour - hour % 86400, key_id, sum(calls), sum(bytes_in + bytes_out) FROM usage
WHERE key_id <> '' AND hour >= CAST(extract(epoch FROM
    date_trunc('month', now() AT TIME ZONE 'UTC' - INTERVAL '1 month') AT TIME ZONE 'UTC') AS BIGINT)
GROUP BY 2, 3;

INSERT INTO key_totals (period, begins_at, key_id, calls, bytes)
SELECT 'month', CAST(extract(epoch FROM date_trunc('month', to_timestamp(begins_at) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC') AS BIGINT),
    key_id, sum(calls), sum(bytes) FROM key_totals
WHERE period = 'day' GROUP BY 2, 3;

--- keys
-- Last, because it locks the keys for all gateways until the migration ends.
ALTER TABLE api_keys ADD COLUMN quotas JSON;

DROP TRIGGER api_keys_moved ON api_keys;

-- Takes back what was proven about the key: its tokens, its open streams.
CREATE TRIGGER api_keys_moved
BEFORE INSERT OR UPDATE OF key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst,
    concurrency, status, expires_at, quotas ON api_keys
FOR EACH ROW EXECUTE FUNCTION key_moved();

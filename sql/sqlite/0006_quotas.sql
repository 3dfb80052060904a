-- Quotas of keys, and the totals that they are compared with.

--- keys
ALTER TABLE api_keys ADD COLUMN quotas TEXT CHECK (quotas IS NULL OR json_valid(quotas));

DROP TRIGGER api_keys_updated;

-- Takes back what was proven about the key: its tokens, its open streams.
CREATE TRIGGER api_keys_updated
AFTER UPDATE OF key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency, status,
    expires_at, quotas ON api_keys
BEGIN
    UPDATE epochs SET value = value + 1 WHERE kind = 'keys';
    UPDATE api_keys SET epoch = (SELECT value FROM epochs WHERE kind = 'keys') WHERE id = NEW.id;
END;

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

INSERT INTO key_totals (period, begins_at, key_id, calls, bytes)
SELECT 'day', hour - hour % 86400, key_id, sum(calls), sum(bytes_in + bytes_out) FROM usage
WHERE key_id <> '' GROUP BY 2, 3;

INSERT INTO key_totals (period, begins_at, key_id, calls, bytes)
SELECT 'month', CAST(strftime('%s', hour, 'unixepoch', 'start of month') AS INTEGER), key_id, sum(calls),
    sum(bytes_in + bytes_out) FROM usage
WHERE key_id <> '' GROUP BY 2, 3;

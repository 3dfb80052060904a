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

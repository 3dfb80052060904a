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

-- When each key was last used. Apart from the keys, whose epoch would otherwise move with each use.
CREATE TABLE key_uses (
    key_id          TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (key_id <> ''),  -- also of keys that are gone
    last_used_at    BIGINT           NOT NULL CHECK (last_used_at >= 0)
);

-- Where the controller says what happened. `cursor`: the last audit record that it has got. The key of
-- its signatures is not here: it follows from the id and a key in a file.
CREATE TABLE webhook (
    id TEXT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    events_json TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    why TEXT NOT NULL,
    cursor BIGINT NOT NULL,
    trouble TEXT NOT NULL,
    since_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

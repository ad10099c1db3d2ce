-- Signed ends of the audit's chain. Each says: until here, this is all.
CREATE TABLE audit_head (
    seq BIGINT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,
    time_ms BIGINT NOT NULL,
    key TEXT NOT NULL,
    signature TEXT NOT NULL
);

-- How far each receiver of the audit has got.
CREATE TABLE audit_cursor (
    name TEXT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    at_ms BIGINT NOT NULL
);

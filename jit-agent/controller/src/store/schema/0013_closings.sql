-- Revocations that the signer signs ("closings", to keep them apart from the revocation of one request). A row
-- is on its way to hosts from `signed_ms` on. `trouble`: why the signer has refused it for ever. `settled`: 1
-- when the requests that it ends are ended here. `complete_ms`: when the last host had carried it out; 0: not yet.
CREATE TABLE closing (
    id TEXT NOT NULL PRIMARY KEY,
    author TEXT NOT NULL,
    account TEXT NOT NULL,
    payload BLOB NOT NULL,
    envelope BLOB NOT NULL,
    every_host BIGINT NOT NULL,
    made_ms BIGINT NOT NULL,
    keep_until_ms BIGINT NOT NULL,
    signed_ms BIGINT NOT NULL,
    trouble TEXT NOT NULL,
    settled BIGINT NOT NULL,
    complete_ms BIGINT NOT NULL
);
CREATE INDEX closing_keep ON closing (keep_until_ms);

-- The hosts of one that names hosts.
CREATE TABLE closing_target (
    closing TEXT NOT NULL REFERENCES closing (id),
    host TEXT NOT NULL,
    PRIMARY KEY (closing, host)
);

-- What hosts have answered. A host that has no row has not.
CREATE TABLE closing_host (
    closing TEXT NOT NULL REFERENCES closing (id),
    host TEXT NOT NULL,
    answer TEXT NOT NULL,
    word TEXT NOT NULL,
    detail TEXT NOT NULL,
    answered_ms BIGINT NOT NULL,
    PRIMARY KEY (closing, host)
);

-- The grants that it ends: what a host that carries it out need not hear of one by one.
CREATE TABLE closing_grant (
    closing TEXT NOT NULL REFERENCES closing (id),
    grant_id TEXT NOT NULL,
    request TEXT NOT NULL,
    PRIMARY KEY (closing, grant_id)
);

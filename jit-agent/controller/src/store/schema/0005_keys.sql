-- Public keys of people, for signatures beside the controller's own. A key is of one account for ever:
-- what it has signed stays readable. `revoked_ms`: 0, or since when nothing counts that it signs.
CREATE TABLE account_key (
    key_id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (name),
    algorithm TEXT NOT NULL,
    public_key TEXT NOT NULL,
    added_by TEXT NOT NULL,
    added_ms BIGINT NOT NULL,
    revoked_ms BIGINT NOT NULL
);
CREATE INDEX account_key_account ON account_key (account, added_ms);

-- Requests that follow each other: each extension and each request that replaces one, with the first of
-- them. `extends`: the request that it extends; empty: it replaces one.
CREATE TABLE chain (
    request TEXT NOT NULL PRIMARY KEY REFERENCES request (id),
    first TEXT NOT NULL REFERENCES request (id),
    extends TEXT NOT NULL
);
CREATE INDEX chain_first ON chain (first);

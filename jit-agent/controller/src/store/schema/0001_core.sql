-- Who may come in. Nothing is deleted: what ended stays readable.
CREATE TABLE account (
    name TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL,
    groups_json TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

-- The token itself is known to its holder alone: only its SHA-256 is kept.
CREATE TABLE token (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES account (name),
    scopes_json TEXT NOT NULL,
    label TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL,
    used_ms BIGINT NOT NULL,
    revoked_ms BIGINT NOT NULL
);

CREATE TABLE host (
    id TEXT NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    server_name TEXT NOT NULL,
    labels_json TEXT NOT NULL,
    groups_json TEXT NOT NULL,
    condition TEXT NOT NULL,
    observed_json TEXT NOT NULL
);

CREATE TABLE rules (
    version BIGINT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    note TEXT NOT NULL,
    saved_ms BIGINT NOT NULL
);

CREATE TABLE request (
    id TEXT NOT NULL PRIMARY KEY,
    requester TEXT NOT NULL,
    account TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    proposal TEXT NOT NULL,
    hash TEXT NOT NULL,
    state TEXT NOT NULL,
    verdict_json TEXT NOT NULL,
    why TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    approve_until_ms BIGINT NOT NULL,
    escalate_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL,
    replaced_by TEXT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE UNIQUE INDEX request_idempotency ON request (requester, idempotency_key);
CREATE INDEX request_state ON request (state, id);
CREATE INDEX request_requester ON request (requester, id);

-- Which hosts a request is about: for lists of one host's requests.
CREATE TABLE request_host (
    host TEXT NOT NULL,
    request TEXT NOT NULL REFERENCES request (id),
    PRIMARY KEY (host, request)
);

CREATE TABLE decision (
    request TEXT NOT NULL REFERENCES request (id),
    subject TEXT NOT NULL,
    account TEXT NOT NULL,
    ruling TEXT NOT NULL,
    groups_json TEXT NOT NULL,
    reason TEXT NOT NULL,
    hash TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (request, subject)
);

-- What is signed. The payload is fixed before anybody signs it.
CREATE TABLE grant_part (
    id TEXT NOT NULL PRIMARY KEY,
    request TEXT NOT NULL REFERENCES request (id),
    number BIGINT NOT NULL,
    hosts_json TEXT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    not_after_ms BIGINT NOT NULL,
    payload BLOB NOT NULL,
    payload_hash TEXT NOT NULL,
    envelope BLOB NOT NULL,
    signatures_needed BIGINT NOT NULL,
    signed_ms BIGINT NOT NULL
);
CREATE INDEX grant_part_request ON grant_part (request, number);
CREATE INDEX grant_part_unsigned ON grant_part (signed_ms, id);
CREATE INDEX grant_part_end ON grant_part (not_after_ms);

-- The outbox: one row a host and grant. `pending` is 1 until the host has answered.
CREATE TABLE delivery (
    grant_id TEXT NOT NULL REFERENCES grant_part (id),
    host TEXT NOT NULL,
    request TEXT NOT NULL,
    wanted TEXT NOT NULL,
    pending BIGINT NOT NULL,
    answer TEXT NOT NULL,
    word TEXT NOT NULL,
    detail TEXT NOT NULL,
    trouble TEXT NOT NULL,
    trouble_since_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    answered_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (grant_id, host)
);
CREATE INDEX delivery_pending ON delivery (pending, next_ms);
CREATE INDEX delivery_request ON delivery (request);
CREATE INDEX delivery_host ON delivery (host, pending);

CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    code TEXT NOT NULL,
    request TEXT NOT NULL,
    hash TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX audit_request ON audit (request, seq);
CREATE INDEX audit_time ON audit (time_ms);

-- One row: the end of the audit's chain. Who appends changes it first, and so waits for others.
CREATE TABLE audit_tip (
    one BIGINT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO audit_tip (one, seq, hash) VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- Heads of hosts' audits, as they were reported: what is missing later was cut.
CREATE TABLE host_audit_head (
    host TEXT NOT NULL,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    signed TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (host, seq)
);

CREATE TABLE setting (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

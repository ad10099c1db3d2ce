-- Tokens with which hosts enrol. The token itself is known to its holder alone: only its SHA-256 is kept.
-- `labels_json`: what every host gets that comes with it. `uses_left`: how many more may come. `revoked_ms`:
-- 0, or since when none may.
CREATE TABLE enrolment_token (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    labels_json TEXT NOT NULL,
    uses_left BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL,
    revoked_ms BIGINT NOT NULL
);

-- Nonces that were given to hosts, for a cloud to sign, and not used yet.
CREATE TABLE enrolment_nonce (
    nonce TEXT NOT NULL PRIMARY KEY,
    ends_ms BIGINT NOT NULL
);
CREATE INDEX enrolment_nonce_ends ON enrolment_nonce (ends_ms);

-- Every request of a machine for its first certificate that has proven something. Nothing is deleted.
-- `folded`: `host` in small letters. `machine`: what its cloud calls it, in one spelling. `token`: the id of
-- the token that it came with, or empty. `state`: `waiting`, `issued`, `refused`. `decided_by`: a person;
-- empty: nobody was asked, or nobody has decided yet.
CREATE TABLE enrolment (
    id TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    folded TEXT NOT NULL,
    method TEXT NOT NULL,
    machine TEXT NOT NULL,
    facts_json TEXT NOT NULL,
    token TEXT NOT NULL,
    csr TEXT NOT NULL,
    csr_hash TEXT NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_ms BIGINT NOT NULL
);
CREATE INDEX enrolment_folded ON enrolment (folded, created_ms);
CREATE INDEX enrolment_machine ON enrolment (machine, created_ms);
CREATE INDEX enrolment_state ON enrolment (state, created_ms);

-- Hosts and machines that have enrolled: each once, whoever is first. `enrolment`: the one that counts.
CREATE TABLE enrolled (
    folded TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL UNIQUE,
    enrolment TEXT NOT NULL,
    since_ms BIGINT NOT NULL
);

-- Certificates of hosts. `serial`: hex. `csr_hash`: the request that it answers.
CREATE TABLE certificate (
    serial TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    enrolment TEXT NOT NULL REFERENCES enrolment (id),
    csr_hash TEXT NOT NULL,
    issued_ms BIGINT NOT NULL,
    not_after_ms BIGINT NOT NULL
);
CREATE INDEX certificate_host ON certificate (host, not_after_ms);

-- Two hosts are not one of the other in capital letters.
CREATE INDEX host_folded ON host (LOWER(id));

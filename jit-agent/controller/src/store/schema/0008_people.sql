-- Sign-ins of browsers. The secret in the cookie is known to the browser alone: only its SHA-256 is kept.
CREATE TABLE session (
    hash TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (name),
    created_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL,
    used_ms BIGINT NOT NULL
);
CREATE INDEX session_account ON session (account);
CREATE INDEX session_ends ON session (ends_ms);

-- With what a person proves who he is. `kind`: password; `secret`: its Argon2id hash as a PHC string.
CREATE TABLE credential (
    account TEXT NOT NULL REFERENCES account (name),
    kind TEXT NOT NULL,
    secret TEXT NOT NULL,
    set_by TEXT NOT NULL,
    set_ms BIGINT NOT NULL,
    PRIMARY KEY (account, kind)
);

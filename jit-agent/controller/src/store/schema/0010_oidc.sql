-- What counts once: sign-ins that came back from the provider, and its calls to end sessions. `hash`: SHA-256
-- of what identifies it, 64 hex digits. After `ends_ms` it would be refused for its age.
CREATE TABLE oidc_used (
    hash TEXT NOT NULL PRIMARY KEY,
    ends_ms BIGINT NOT NULL
);
CREATE INDEX oidc_used_ends ON oidc_used (ends_ms);

-- Who an account is at the provider, since its first sign-in there. `issuer` and `sub`: the person; empty: the
-- next sign-in says it anew. `groups_json`: the groups that follow the provider; they count until
-- `groups_until_ms`.
CREATE TABLE oidc_account (
    account TEXT NOT NULL PRIMARY KEY REFERENCES account (name),
    issuer TEXT NOT NULL,
    sub TEXT NOT NULL,
    groups_json TEXT NOT NULL,
    groups_until_ms BIGINT NOT NULL
);
CREATE INDEX oidc_account_sub ON oidc_account (sub);

-- Sessions that began with a sign-in at the provider. `subject`: its claim `sub`; `sid`: its name for its own
-- session, empty: it gave none; `hint`: the ID token, encrypted with a key that only the browser has.
CREATE TABLE oidc_session (
    session TEXT NOT NULL PRIMARY KEY REFERENCES session (hash) ON DELETE CASCADE,
    subject TEXT NOT NULL,
    sid TEXT NOT NULL,
    hint TEXT NOT NULL
);
CREATE INDEX oidc_session_subject ON oidc_session (subject);

-- Passkeys of people (WebAuthn), for the sign-in and for approvals that hosts check. `id`: that of the
-- credential, base64url. `key_id`: the hint in signatures; it follows from the key. `sign_count`: how often
-- the authenticator says that it has signed. `removed_ms`: 0, or since when nothing counts that it signs.
CREATE TABLE passkey (
    id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account (name),
    key_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    public_key TEXT NOT NULL,
    rp_id TEXT NOT NULL,
    sign_count BIGINT NOT NULL,
    transports TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    used_ms BIGINT NOT NULL,
    removed_ms BIGINT NOT NULL
);
CREATE INDEX passkey_account ON passkey (account, created_ms);

-- Challenges that were given and not used yet. `owner`: the hash of the session that asked; empty: nobody
-- had signed in.
CREATE TABLE passkey_challenge (
    challenge TEXT NOT NULL PRIMARY KEY,
    purpose TEXT NOT NULL,
    owner TEXT NOT NULL,
    ends_ms BIGINT NOT NULL
);
CREATE INDEX passkey_challenge_ends ON passkey_challenge (ends_ms);

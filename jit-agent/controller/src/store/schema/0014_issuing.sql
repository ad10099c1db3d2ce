-- Certificates of hosts that the signer's process has still to issue. `csr_hash`: SHA-256 of the request.
CREATE TABLE certificate_wanted (
    csr_hash TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    enrolment TEXT NOT NULL,
    csr TEXT NOT NULL,
    since_ms BIGINT NOT NULL
);
CREATE INDEX certificate_wanted_since ON certificate_wanted (since_ms);

-- The certificate itself, PEM: the answer to its request may be lost, and is given again.
ALTER TABLE certificate ADD COLUMN pem TEXT NOT NULL DEFAULT '';
CREATE INDEX certificate_csr ON certificate (csr_hash);
CREATE INDEX enrolment_csr ON enrolment (csr_hash);

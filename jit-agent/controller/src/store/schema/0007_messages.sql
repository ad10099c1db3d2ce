-- In which form a webhook gets what happens: as records, or as messages of a chat.
ALTER TABLE webhook ADD COLUMN form TEXT NOT NULL DEFAULT 'generic';

-- What was said last of a request, and to whom. `outbox`: a webhook, a chat, or mail. `place` and `stamp`:
-- where the message is, if the service lets it be changed.
CREATE TABLE message (
    outbox TEXT NOT NULL,
    request TEXT NOT NULL REFERENCES request (id),
    said TEXT NOT NULL,
    place TEXT NOT NULL,
    stamp TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (outbox, request)
);

-- Where people get mail.
CREATE TABLE account_mail (
    account TEXT NOT NULL PRIMARY KEY REFERENCES account (name),
    mail TEXT NOT NULL
);

-- How many connections a grant has let in on a host, as the host said last.
CREATE TABLE grant_use (
    grant_id TEXT NOT NULL REFERENCES grant_part (id),
    host TEXT NOT NULL,
    hits BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (grant_id, host)
);
